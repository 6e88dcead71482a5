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
use crate::qmp::Command;
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
            Ok(status) => match status.get("status").and_then(|state| state.as_str()) {
                Some("inmigrate") => self.configure(began),
                state => fail(RestoreError::NotWaiting { state: state.unwrap_or("unknown").to_owned() }),
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
