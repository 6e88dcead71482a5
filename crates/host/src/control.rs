//! Short orders to a machine's process. All but reset and the power button may be repeated.

use std::time::Duration;

use ledger::effect::Control;
use ledger::event::{MachineChange, Outcome};
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use qemu::qmp::Command;

use crate::drive::COMMAND_PATIENCE;
use crate::executor::{Attempt, Ending};
use crate::fault;
use crate::machines::{self, GuestState};
use crate::qmp_socket::{Monitor, MonitorError};

/// How long a process may take to end in order: it flushes its disks. Then it is killed, which loses nothing that the
/// guest was promised.
const QUIT_PATIENCE: Duration = Duration::from_secs(15);

/// How long `cont` is repeated while QEMU is still finishing a migration, which takes some milliseconds.
const RESUME_PATIENCE: Duration = Duration::from_secs(10);

/// Time between two tries of `cont`.
const RESUME_PAUSE: Duration = Duration::from_millis(1);

/// Carries out one order.
pub async fn control(attempt: &Attempt, vm: VmId, action: Control) -> Ending {
    if action == Control::Quit {
        return quit(attempt, vm).await;
    }
    let found = attempt.machines().find(vm).await;
    // Who cannot be asked may have done anything meanwhile: the same as an answer that does not come.
    let unreachable = |error| Failure { kind: Kind::Timeout, ..fault::monitor("reach the machine", &error) };
    let running = found.map_err(unreachable)?;
    let running = running.ok_or_else(|| fault::no_process(vm))?;
    carry_out(&running.monitor, action, |change| attempt.tell(vm, change)).await?;
    Ok(Outcome::Done)
}

/// Gives the order. If that does not go well, `tell` hears what QEMU has told of the guest meanwhile: it says that the guest stands still
/// before it flushes the disks, and answers after that, which may be too late. Nothing else would be known of the guest.
async fn carry_out(monitor: &Monitor, action: Control, tell: impl Fn(MachineChange)) -> Result<(), Failure> {
    let mut heard = monitor.subscribe();
    let quiet = monitor.quiet();
    let done = match action {
        Control::Pause => pause(monitor).await,
        Control::Resume => resume(monitor).await,
        Control::Reset => order(monitor, "reset the guest", "system_reset").await,
        Control::PowerButton => order(monitor, "press the power button", "system_powerdown").await,
        Control::Quit => Ok(()),
    };
    drop(quiet);
    if done.is_err() {
        while let Ok(notice) = heard.try_recv() {
            machines::change_told(&notice.event.name).into_iter().for_each(&tell);
        }
    }
    done
}

async fn pause(monitor: &Monitor) -> Result<(), Failure> {
    match state(monitor).await? {
        GuestState::Running => order(monitor, "stop the guest", "stop").await,
        GuestState::Stopped | GuestState::NotBegun => Ok(()),
    }
}

/// Lets the guest run, if it does not.
pub async fn resume(monitor: &Monitor) -> Result<(), Failure> {
    if state(monitor).await? == GuestState::Running {
        return Ok(());
    }
    let until = tokio::time::Instant::now() + RESUME_PATIENCE;
    loop {
        let result = monitor.execute(Command::new("cont"), Vec::new(), COMMAND_PATIENCE).await;
        match result {
            Ok(_) => return Ok(()),
            // QEMU reports a migration as completed shortly before it allows the guest to run.
            Err(MonitorError::Refused { refusal, .. })
                if refusal.desc.contains("not finalized") && tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(RESUME_PAUSE).await;
            }
            Err(error) => return Err(fault::monitor("let the guest run", &error)),
        }
    }
}

async fn state(monitor: &Monitor) -> Result<GuestState, Failure> {
    machines::guest_state(monitor, COMMAND_PATIENCE)
        .await
        .map_err(|error| fault::monitor("ask for the guest's state", &error))
}

async fn order(monitor: &Monitor, what: &str, command: &'static str) -> Result<(), Failure> {
    let result = monitor.execute(Command::new(command), Vec::new(), COMMAND_PATIENCE).await;
    result.map(|_| ()).map_err(|error| fault::monitor(what, &error))
}

async fn quit(attempt: &Attempt, vm: VmId) -> Ending {
    match attempt.machines().find(vm).await {
        Ok(Some(running)) => {
            let gone = running.end(QUIT_PATIENCE).await;
            tracing::info!(%vm, %gone, "the machine's process was ended");
        }
        Ok(None) => {}
        Err(error) => {
            let killed = attempt.machines().kill(vm, &error).await;
            killed.map_err(|error| fault::monitor("turn the machine off", &error))?;
        }
    }
    Ok(Outcome::Done)
}

/// A cancelled attempt.
pub fn cancelled(what: &str) -> Failure {
    Failure::new(Kind::Cancelled, format!("{what} was cancelled"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    /// Plays a QEMU whose guest runs and which answers an order with these lines.
    async fn order_answered_with(lines: &'static [&'static str]) -> (Result<(), Failure>, Vec<MachineChange>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("qmp");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let greeting =
                r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}}, "capabilities": []}}"#;
            writeln!(stream, "{greeting}").unwrap();
            let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
            let running = r#"{"return": {"status": "running"}, "id": 1}"#;
            for answer in [&[r#"{"return": {}, "id": 0}"#][..], &[running], lines] {
                commands.next().unwrap().unwrap();
                answer.iter().for_each(|line| writeln!(stream, "{line}").unwrap());
            }
        });
        let monitor = Monitor::connect(&path, Duration::from_secs(10)).await.unwrap();
        let told = RefCell::new(Vec::new());
        let done = carry_out(&monitor, Control::Pause, |change| told.borrow_mut().push(change)).await;
        thread.join().unwrap();
        (done, told.into_inner())
    }

    /// An answer that refuses stands for one that comes too late.
    #[tokio::test]
    async fn what_was_heard_of_an_order_that_failed_is_news() {
        const STOP: &str = r#"{"event": "STOP"}"#;
        const REFUSED: &str = r#"{"error": {"class": "GenericError", "desc": "too late"}, "id": 2}"#;
        let (done, told) = order_answered_with(&[STOP, REFUSED]).await;
        assert!(done.is_err() && told == [MachineChange::Stopped], "{told:?}");
        let (done, told) = order_answered_with(&[STOP, r#"{"return": {}, "id": 2}"#]).await;
        assert!(done.is_ok() && told.is_empty(), "{told:?}");
    }
}
