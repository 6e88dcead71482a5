//! Short orders to a machine's process. All but reset and the power button may be repeated.

use std::time::Duration;

use ledger::effect::Control;
use ledger::event::Outcome;
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use qemu::qmp::Command;

use crate::drive::COMMAND_PATIENCE;
use crate::executor::{Attempt, Ending};
use crate::fault;
use crate::machines::{self, GuestState, Running};
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
        return Ok(quit(attempt, vm).await);
    }
    let found = attempt.machines().find(vm).await;
    // Who cannot be asked may have done anything meanwhile: the same as an answer that does not come.
    let unreachable = |error| Failure { kind: Kind::Timeout, ..fault::monitor("reach the machine", &error) };
    let running = found.map_err(unreachable)?;
    let running = running.ok_or_else(|| fault::no_process(vm))?;
    let _quiet = running.monitor.quiet();
    match action {
        Control::Pause => pause(&running).await?,
        Control::Resume => resume(&running.monitor).await?,
        Control::Reset => order(&running, "reset the guest", "system_reset").await?,
        Control::PowerButton => order(&running, "press the power button", "system_powerdown").await?,
        Control::Quit => {}
    }
    Ok(Outcome::Done)
}

async fn pause(running: &Running) -> Result<(), Failure> {
    match state(&running.monitor).await? {
        GuestState::Running => order(running, "stop the guest", "stop").await,
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
    machines::guest_state(monitor).await.map_err(|error| fault::monitor("ask for the guest's state", &error))
}

async fn order(running: &Running, what: &str, command: &'static str) -> Result<(), Failure> {
    let result = running.monitor.execute(Command::new(command), Vec::new(), COMMAND_PATIENCE).await;
    result.map(|_| ()).map_err(|error| fault::monitor(what, &error))
}

async fn quit(attempt: &Attempt, vm: VmId) -> Outcome {
    match attempt.machines().find(vm).await {
        Ok(Some(running)) => {
            let gone = running.end(QUIT_PATIENCE).await;
            tracing::info!(%vm, %gone, "the machine's process was ended");
        }
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(%vm, %error, "the machine's process cannot be talked to and is killed");
            if let Some(process) = attempt.machines().process(vm) {
                process.kill().await;
            }
        }
    }
    Outcome::Done
}

/// A cancelled attempt.
pub fn cancelled(what: &str) -> Failure {
    Failure::new(Kind::Cancelled, format!("{what} was cancelled"))
}
