//! [`AbortCapture`]: after a restart of the daemon, find out how far a capture or a save came, and undo what is half done.
//!
//! ```text
//!  look ─▶ [cancel migration] ─▶ graph: switched? ─▶ [drop overlay nodes] ─▶ take files back ─▶ [let the guest run] ─▶ Ok
//!  connection lost anywhere ─▶ not alive; switched if there were overlays, because nobody knows
//! ```

use super::migration::{self, Look, Phase};
use super::{AbortCapture, Aborted};
use crate::graph::{self, Graph};
use crate::procedure::{CommandError, Now, Procedure, Step, execute, finish};

type Outcome = Result<Aborted, CommandError>;
type Next = Step<Outcome>;

impl Procedure for AbortCapture {
    /// Either the truth, or why QEMU would not let the guest run or tell its graph.
    type Outcome = Outcome;

    fn begin(self, _: Now) -> Next {
        migration::query(|look, now| match look {
            Look::Trouble(error) => self.fail(error),
            Look::Status(status) if matches!(status.phase, Phase::Idle | Phase::Completed) => self.look_at_graph(),
            Look::Status(_) | Look::Cancel => migration::cancel(now, |result, _| match result {
                Ok(()) => self.look_at_graph(),
                Err(error) => self.fail(error),
            }),
        })
    }
}

impl AbortCapture {
    fn look_at_graph(self) -> Next {
        execute(graph::query(), |reply, now| match reply {
            Err(error) => self.fail(error),
            Ok(answer) => {
                let switched = Graph::read(&answer).is_switched(&self.overlays);
                self.tidy(switched, now)
            }
        })
    }

    fn tidy(self, switched: bool, now: Now) -> Next {
        let mut commands = vec![migration::remove_file()];
        if !switched {
            commands.extend(self.overlays.iter().map(|overlay| graph::remove(&overlay.layer.node())));
        }
        migration::try_all(commands, now, move |now| match self.resume {
            false => finish(Ok(Aborted { switched, alive: true })),
            true => migration::resume(now, move |reply, _| match reply {
                Ok(_) => finish(Ok(Aborted { switched, alive: true })),
                Err(CommandError::Lost { .. }) => finish(Ok(Aborted { switched, alive: false })),
                Err(error) => finish(Err(error)),
            }),
        })
    }

    fn fail(self, error: CommandError) -> Next {
        finish(match error {
            CommandError::Lost { .. } => Ok(Aborted { switched: !self.overlays.is_empty(), alive: false }),
            refused @ CommandError::Refused { .. } => Err(refused),
        })
    }
}
