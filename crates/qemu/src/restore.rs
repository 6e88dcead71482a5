//! Bringing a machine back from saved memory, at once.
//!
//! The new QEMU maps the pages of the memory file privately ([`crate::launch::Memory::Mapped`]) and loads the sidecar, which
//! holds everything else. So the time does not depend on the size of memory, and the snapshot's files are never written.
//!
//! ```text
//!  inmigrate? ─▶ configure ─▶ migrate-incoming ─▶ completed ─▶ [cont] ─▶ Ok
//!       │            │               │               │            │
//!       └────────────┴───────────────┴───────────────┴────────────┴─▶ Err: end the process
//! ```
//!
//! Measured with QEMU 10.0.2 and 2 GiB: 12 ms from `migrate-incoming` to running, 86 ms from the start of the process.

use std::path::PathBuf;

use crate::procedure::{CommandError, Micros, Now, Procedure, Step, execute, finish};
use crate::qmp::{Command, run_state};
use crate::save::migration::{self, Look, Phase, Status};

/// How long QEMU may take to load a sidecar of a few megabytes.
const LOAD_US: u64 = 60_000_000;
/// Between two looks, should the event be lost.
const LOOK_US: u64 = 20_000;

/// Brings a QEMU that was launched with [`crate::launch::Start::Incoming`] and [`crate::launch::Memory::Mapped`] to run.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The sidecar of the memory file.
    pub sidecar: PathBuf,
    /// Whether the guest is to run.
    pub resume: bool,
}

/// It runs, or stands ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// From the first command to the last answer, microseconds.
    pub total_us: u64,
}

/// Why not. The process is of no use afterwards and may be killed; the saved files are as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The process was not launched for this.
    #[error("QEMU does not wait for saved memory: its run state is {state}")]
    NotWaiting {
        /// QEMU's word.
        state: String,
    },
    /// QEMU read the state and did not like it.
    #[error("the saved state does not fit the machine: {reason}")]
    DoesNotFit {
        /// QEMU's words.
        reason: String,
    },
    /// QEMU ended while it loaded, which is how it reacts to states that do not fit; its log says why.
    #[error("QEMU ended while it loaded the saved state; the state may not fit the machine, see QEMU's log")]
    Ended,
    /// It takes too long.
    #[error("QEMU did not load the saved state within {seconds} seconds")]
    TooSlow {
        /// How long we waited.
        seconds: u64,
    },
    /// Somebody no longer wants it.
    #[error("the restore was cancelled")]
    Cancelled,
}

type Outcome = Result<Restored, RestoreError>;
type Next = Step<Outcome>;

impl Procedure for Restore {
    type Outcome = Outcome;

    fn begin(self, now: Now) -> Next {
        let began = now.micros;
        execute(Command::new("query-status"), move |reply, _| match reply {
            Err(error) => fail(error),
            Ok(status) => match run_state(&status) {
                "inmigrate" => self.configure(began),
                state => fail(RestoreError::NotWaiting { state: state.to_owned() }),
            },
        })
    }
}

impl Restore {
    fn configure(self, began: Micros) -> Next {
        migration::abilities(move |abilities, _| match abilities {
            Err(error) => fail(error),
            Ok(abilities) => {
                let command = migration::set_capabilities(&abilities, &["events", "mapped-ram"]);
                execute(command, move |reply, now| match reply {
                    Ok(_) => self.load(began, abilities.has_parameter("direct-io"), now),
                    Err(error) => fail(error),
                })
            }
        })
    }

    /// Without `exit-on-error` QEMU stays and tells why the state does not fit. That came with 9.1, as `direct-io` did.
    fn load(self, began: Micros, can_stay: bool, now: Now) -> Next {
        let deadline = now.micros + LOAD_US;
        let uri = format!("file:{}", self.sidecar.to_string_lossy());
        let mut command = Command::new("migrate-incoming").arg("uri", uri);
        if can_stay {
            command = command.arg("exit-on-error", false);
        }
        execute(command, move |reply, now| match reply {
            Ok(_) => self.watch(began, deadline, now),
            Err(error) => fail(error),
        })
    }

    fn watch(self, began: Micros, deadline: Micros, now: Now) -> Next {
        migration::look(now.micros + LOOK_US, move |look, now| match look {
            Look::Cancel => fail(RestoreError::Cancelled),
            Look::Trouble(CommandError::Lost { .. }) => fail(RestoreError::Ended),
            Look::Trouble(error) => fail(error),
            Look::Status(Status { phase: Phase::Completed, .. }) => self.run(began, now),
            Look::Status(Status { error: Some(reason), .. }) => fail(RestoreError::DoesNotFit { reason }),
            Look::Status(_) if now.micros >= deadline => fail(RestoreError::TooSlow { seconds: LOAD_US / 1_000_000 }),
            Look::Status(_) => self.watch(began, deadline, now),
        })
    }

    fn run(self, began: Micros, now: Now) -> Next {
        let done = move |now: Now| finish(Ok(Restored { total_us: now.micros.saturating_sub(began) }));
        if !self.resume {
            return done(now);
        }
        migration::resume(now, move |reply, now| match reply {
            Ok(_) => done(now),
            Err(error) => fail(error),
        })
    }
}

fn fail(error: impl Into<RestoreError>) -> Next {
    finish(Err(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Trouble};

    fn qemu() -> Fake {
        Fake { state: "inmigrate", ..Fake::running(&[]) }
    }

    fn restore() -> Restore {
        Restore { sidecar: "/s/devices".into(), resume: true }
    }

    #[test]
    fn a_restored_guest_runs_if_it_is_to() {
        for resume in [true, false] {
            let mut qemu = qemu();
            qemu.drive(Restore { resume, ..restore() }, Trouble::None).unwrap();
            assert_eq!(qemu.state == "running", resume);
        }
    }

    #[test]
    fn what_went_wrong_is_told() {
        let check = |mut qemu: Fake, trouble, expected: &str| {
            let error = qemu.drive(restore(), trouble).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(Fake::running(&[]), Trouble::None, "QEMU does not wait for saved memory: its run state is running");
        let reason = "load of migration failed: Invalid argument";
        let unfit = Fake { incoming_error: Some(reason), ..qemu() };
        check(unfit, Trouble::None, &format!("the saved state does not fit the machine: {reason}"));
        check(
            Fake { incoming_hangs: true, ..qemu() },
            Trouble::None,
            "QEMU did not load the saved state within 60 seconds",
        );
        check(qemu(), Trouble::Fail(4), "QEMU refused migrate-set-capabilities: scripted");
        check(qemu(), Trouble::Cancel(6), "the restore was cancelled");
        check(qemu(), Trouble::Lose(6), &RestoreError::Ended.to_string());
    }

    #[test]
    fn trouble_anywhere_is_an_error() {
        let mut whole = qemu();
        whole.drive(restore(), Trouble::None).unwrap();
        for at in 1..whole.actions {
            for trouble in [Trouble::Fail(at), Trouble::Lose(at)] {
                let result = qemu().drive(restore(), trouble);
                // Action 6 is the wait, which cannot fail.
                assert!(result.is_err() || trouble == Trouble::Fail(6), "{trouble:?}");
            }
        }
    }
}
