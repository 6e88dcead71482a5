//! The parts of a conversation about saving memory that all procedures share.
//!
//! QEMU calls it migration. What `query-migrate` answers counts; events only say when to look, because an event may belong
//! to an earlier attempt.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::Method;
use super::convergence::Sample;
use crate::procedure::{CommandError, FileKey, Micros, Now, Reply, Step, Wake, execute, execute_with, wait};
use crate::qmp::Command;
use crate::version::Abilities;

/// Our set of file descriptors within QEMU.
const FDSET: u64 = 1;
/// How long we go on asking for what QEMU should soon be ready for: that the guest runs on, that a cancel is through.
const PATIENCE_US: u64 = 10_000_000;
/// Between two attempts of that kind.
const RETRY_US: u64 = 1_000;
/// Between two looks while something ends by itself.
const LOOK_US: u64 = 20_000;

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// None was ever started, or the last one is over without success.
    Idle,
    /// It goes on.
    Going,
    /// Device state is captured (background), or pages are being written (live).
    Active,
    /// The guest is stopped and QEMU waits for `migrate-continue`.
    PreSwitchover,
    /// All is written.
    Completed,
}

/// An answer to `query-migrate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub phase: Phase,
    pub sample: Sample,
    pub error: Option<String>,
}

impl Status {
    pub fn read(answer: &Value) -> Self {
        let phase = match answer.get("status").and_then(Value::as_str).unwrap_or("none") {
            "none" | "cancelled" | "failed" => Phase::Idle,
            "active" => Phase::Active,
            "pre-switchover" => Phase::PreSwitchover,
            "completed" => Phase::Completed,
            _ => Phase::Going,
        };
        let error = answer.get("error-desc").and_then(Value::as_str).map(str::to_owned);
        Self { phase, sample: Sample::read(answer), error }
    }
}

/// What a look showed, or what kept us from looking.
pub(crate) enum Look {
    Status(Status),
    Cancel,
    Trouble(CommandError),
}

/// Looks when an event says so, at the latest at `until`.
pub(crate) fn look<O: 'static>(until: Micros, then: impl FnOnce(Look, Now) -> Step<O> + Send + 'static) -> Step<O> {
    wait(until, move |wake, now| match wake {
        Wake::Event(event) if event.name != "MIGRATION" => look(until, then),
        Wake::Cancel => then(Look::Cancel, now),
        Wake::Event(_) | Wake::Deadline | Wake::Lost => query(then),
    })
}

/// Looks now.
pub(crate) fn query<O: 'static>(then: impl FnOnce(Look, Now) -> Step<O> + Send + 'static) -> Step<O> {
    execute(Command::new("query-migrate"), move |reply, now| match reply {
        Ok(answer) => then(Look::Status(Status::read(&answer)), now),
        Err(error) => then(Look::Trouble(error), now),
    })
}

/// Asks what this QEMU can do.
pub(crate) fn abilities<O: 'static>(
    then: impl FnOnce(Result<Abilities, CommandError>, Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    execute(Command::new("query-migrate-capabilities"), |capabilities, now| match capabilities {
        Err(error) => then(Err(error), now),
        Ok(capabilities) => execute(Command::new("query-migrate-parameters"), move |parameters, now| {
            then(parameters.map(|parameters| Abilities::read(&capabilities, &parameters)), now)
        }),
    })
}

/// The commands that make QEMU save memory in a certain way, each capability and parameter set, wherever it stood before.
///
/// Never with `multifd`, which would write with several threads and past the page cache: when such a migration is cancelled or fails,
/// QEMU 10.0 frees the page bitmaps that those threads still write to. Of 700 cancelled saves of 512 MiB 18 ended the process, and with
/// it the guest; without, none of 400. The price is time, not pause: a guest of 2 GiB that rewrites 100 MiB/s took 2.5 s instead of 1.1,
/// and stood still for 13 ms instead of 12.
pub(crate) fn configure(abilities: &Abilities, method: Method) -> Vec<Command> {
    let wanted: &[&str] = match method {
        Method::Background => &["events", "mapped-ram", "background-snapshot"],
        // Throttling sets in only when passes do not get shorter, so it may be allowed from the start.
        _ => &["events", "mapped-ram", "pause-before-switchover", "auto-converge"],
    };
    let parameters = [
        ("max-bandwidth", json!(0)),
        ("downtime-limit", json!(DOWNTIME_LIMIT_MS)),
        // Measured on a guest that rewrites half of 2 GiB as fast as it can: 80 and 10 were done after 4.1 s with a pause of
        // 31 ms; 50 and 25 took 5.1 s, 99 at once 7.9 s.
        ("cpu-throttle-initial", json!(80)),
        ("cpu-throttle-increment", json!(10)),
        ("max-cpu-throttle", json!(99)),
    ];
    let known = parameters.into_iter().filter(|(name, _)| abilities.has_parameter(name));
    let parameters = known.map(|(name, value)| (name.to_owned(), value)).collect();
    vec![set_capabilities(abilities, wanted), Command::with("migrate-set-parameters", Value::Object(parameters))]
}

/// Measured: 300 ms (QEMU's default) gives pauses of 90 to 1500 ms, 50 gives 20 to 46, 20 gives 10 to 16. Below that, guests
/// that write a lot no longer converge.
const DOWNTIME_LIMIT_MS: u32 = 20;

/// Sets every capability QEMU knows, to on if it is wanted.
pub(crate) fn set_capabilities(abilities: &Abilities, wanted: &[&str]) -> Command {
    let all = abilities.capabilities().map(|name| json!({ "capability": name, "state": wanted.contains(&name) }));
    Command::new("migrate-set-capabilities").arg("capabilities", all.collect::<Vec<_>>())
}

/// Hands our open file to QEMU, in place of what the set held before.
pub(crate) fn add_file<O: 'static>(
    file: FileKey,
    then: impl FnOnce(Result<(), CommandError>, Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    // An earlier daemon may have left a set behind; nearly always there is none, which is no error of ours.
    execute(remove_file(), move |_, _| {
        let command = Command::new("add-fd").arg("fdset-id", FDSET);
        execute_with(command, vec![file], move |reply, now| then(reply.map(drop), now))
    })
}

/// Takes our file from QEMU.
pub(crate) fn remove_file() -> Command {
    Command::new("remove-fd").arg("fdset-id", FDSET)
}

/// Starts writing to our file. After a background snapshot has completed, QEMU still cleans up for some hundred
/// milliseconds; a `migrate` within them is refused ("duplicate yank instance") and leaves QEMU in a state that only a cancel
/// ends. `query-yank` tells when it is over.
pub(crate) fn start<O: 'static>(
    now: Now,
    then: impl FnOnce(Result<(), CommandError>, Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    start_when_clean(now.micros + PATIENCE_US, then)
}

fn start_when_clean<O: 'static>(
    deadline: Micros,
    then: impl FnOnce(Result<(), CommandError>, Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    execute(Command::new("query-yank"), move |reply, now| match reply {
        Err(error) => then(Err(error), now),
        Ok(instances) if mentions_migration(&instances) && now.micros < deadline => {
            pause(now.micros + LOOK_US, move |_| start_when_clean(deadline, then))
        }
        Ok(_) => {
            let command = Command::new("migrate").arg("uri", format!("file:/dev/fdset/{FDSET}"));
            execute(command, |reply, now| then(reply.map(drop), now))
        }
    })
}

fn mentions_migration(instances: &Value) -> bool {
    let mut types = instances.as_array().into_iter().flatten().filter_map(|instance| instance.get("type"));
    types.any(|kind| kind == "migration")
}

/// Ends a migration that may be going on, and waits until QEMU says it is over. Disks and guest are then as QEMU leaves them.
pub(crate) fn cancel<O: 'static>(
    now: Now,
    then: impl FnOnce(Result<(), CommandError>, Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    let deadline = now.micros + PATIENCE_US;
    execute(Command::new("migrate_cancel"), move |reply, now| match reply {
        Ok(_) => await_end(deadline, then),
        Err(error) => then(Err(error), now),
    })
}

fn await_end<O: 'static>(
    deadline: Micros,
    then: impl FnOnce(Result<(), CommandError>, Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    query(move |look, now| match look {
        Look::Trouble(error) => then(Err(error), now),
        Look::Status(status) if matches!(status.phase, Phase::Idle | Phase::Completed) => then(Ok(()), now),
        // Better to go on and hear from the next command why it cannot be done than to hang.
        _ if now.micros >= deadline => then(Ok(()), now),
        _ => pause(now.micros + RETRY_US, move |_| await_end(deadline, then)),
    })
}

/// Lets the guest run. Right after a migration QEMU refuses ("not finalized yet") for a moment; it is then asked again.
pub(crate) fn resume<O: 'static>(now: Now, then: impl FnOnce(Reply, Now) -> Step<O> + Send + 'static) -> Step<O> {
    resume_until(now.micros + PATIENCE_US, then)
}

fn resume_until<O: 'static>(deadline: Micros, then: impl FnOnce(Reply, Now) -> Step<O> + Send + 'static) -> Step<O> {
    execute(Command::new("cont"), move |reply, now| match reply {
        Err(error) if says(&error, "finalized") && now.micros < deadline => {
            pause(now.micros + RETRY_US, move |_| resume_until(deadline, then))
        }
        reply => then(reply, now),
    })
}

/// Lets a moment pass. An event ends it early, which costs a needless look and nothing else.
fn pause<O: 'static>(until: Micros, then: impl FnOnce(Now) -> Step<O> + Send + 'static) -> Step<O> {
    wait(until, |_, now| then(now))
}

/// Sends commands one after the other; stops at the first that fails.
pub(crate) fn execute_all<O: 'static>(
    commands: impl Into<VecDeque<Command>>,
    now: Now,
    then: impl FnOnce(Result<(), CommandError>, Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    let mut commands = commands.into();
    let Some(command) = commands.pop_front() else { return then(Ok(()), now) };
    execute(command, move |reply, now| match reply {
        Ok(_) => execute_all(commands, now, then),
        Err(error) => then(Err(error), now),
    })
}

/// Sends all commands, whether or not some fail: for undoing.
pub(crate) fn try_all<O: 'static>(
    commands: impl Into<VecDeque<Command>>,
    now: Now,
    then: impl FnOnce(Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    let mut commands = commands.into();
    let Some(command) = commands.pop_front() else { return then(now) };
    execute(command, move |_, now| try_all(commands, now, then))
}

fn says(error: &CommandError, word: &str) -> bool {
    matches!(error, CommandError::Refused { refusal, .. } if refusal.desc.contains(word))
}
