//! Runs a procedure of crate `qemu` against a monitor and the host's files.
//!
//! ```text
//!            ┌── Action ──▶ command on the monitor, file work in a blocking thread, or a timer ──┐
//!   Run ─────┤                                                                                  │
//!            └◀── Input ─── its answer, or an event, a cancel, the loss of the connection ◀──────┘
//! ```
//! Before the first command that may stop the guest the floor is taken, and kept to the end: what others ask of the emulator
//! must not make the pause longer. Events are looked at before answers: the monitor queues an event before the reply that followed it, so a procedure
//! learns of things in the order in which they happened.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use qemu::procedure::{Action, HostFailure, Input, NO_ANSWER, Procedure, Run};
use qemu::qmp::Refusal;

use crate::cancel::Cancel;
use crate::hands::Hands;
use crate::now;
use crate::qmp_socket::{Monitor, MonitorError};

/// How long a single command may take. `stop` and `cont` flush and reopen every disk, which on a slow and busy disk
/// takes tens of seconds; nothing that works takes minutes.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(120);

/// What a procedure is driven with.
pub struct Drive<'a> {
    /// Where commands go and events come from.
    pub monitor: &'a Monitor,
    /// Who does what only the host can do.
    pub hands: Arc<Hands>,
    /// Whether anybody still wants it.
    pub cancel: Cancel,
    /// Told how far it is when that has changed: done and total, in bytes.
    pub progress: &'a (dyn Fn(u64, u64) + Send + Sync),
}

/// What is under way: ends with the input that answers the last action.
type Pending = Pin<Box<dyn Future<Output = Input> + Send>>;

impl Drive<'_> {
    /// Drives `procedure` to its end. Events are marked as ours meanwhile.
    pub async fn run<P: Procedure>(mut self, procedure: P) -> P::Outcome {
        let _quiet = self.monitor.quiet();
        let mut events = self.monitor.subscribe();
        let mut run = Run::new(procedure);
        let mut connected = true;
        let mut cancelled = false;
        let mut pending: Pending = Box::pin(std::future::ready(Input::Begin));
        let mut outstanding = true;
        let mut told = None;
        let mut floor = None;
        loop {
            let input = tokio::select! {
                biased;
                event = events.recv(), if connected => match event {
                    Some(notice) => Input::Event(notice.event),
                    None => {
                        connected = false;
                        Input::Lost
                    }
                },
                () = self.cancel.requested(), if !cancelled => {
                    cancelled = true;
                    Input::Cancel
                }
                input = &mut pending, if outstanding => {
                    outstanding = false;
                    input
                }
            };
            let action = run.handle(input, now().0);
            if let Some(progress) = run.progress().filter(|progress| told != Some(*progress)) {
                (self.progress)(progress.done, progress.total);
                told = Some(progress);
            }
            match action {
                Some(Action::Finish(outcome)) => return outcome,
                Some(action) => {
                    if floor.is_none() && may_stop(&action) {
                        floor = Some(self.monitor.floor().await);
                    }
                    pending = self.begin(action);
                    outstanding = true;
                }
                None => {}
            }
        }
    }

    /// Starts what an action asks for.
    fn begin<O>(&self, action: Action<O>) -> Pending {
        match action {
            Action::Execute { command, files } => {
                let (monitor, hands) = (self.monitor.clone(), Arc::clone(&self.hands));
                Box::pin(async move {
                    let descriptors = match hands.descriptors(&files) {
                        Ok(descriptors) => descriptors,
                        Err(HostFailure(desc)) => return refused("HostError", desc),
                    };
                    tracing::trace!(command = command.name(), arguments = ?command.arguments(), "to QEMU");
                    match monitor.execute(command, descriptors, COMMAND_PATIENCE).await {
                        Ok(value) => Input::Reply(Ok(value)),
                        Err(MonitorError::Refused { refusal, .. }) => Input::Reply(Err(refusal)),
                        Err(error @ MonitorError::Timeout { .. }) => refused(NO_ANSWER, error.to_string()),
                        Err(_) => Input::Lost,
                    }
                })
            }
            Action::Ask(request) => {
                let hands = Arc::clone(&self.hands);
                Box::pin(async move { Input::HostReply(hands.carry_out(request).await) })
            }
            Action::Wait { until } => {
                let left = Duration::from_micros(until.saturating_sub(now().0));
                Box::pin(async move {
                    tokio::time::sleep(left).await;
                    Input::Deadline
                })
            }
            // The caller has ended the loop with it.
            Action::Finish(_) => Box::pin(std::future::pending()),
        }
    }
}

/// Whether an action may end in a pause of the guest: at once, or at the end of a migration.
fn may_stop<O>(action: &Action<O>) -> bool {
    matches!(action, Action::Execute { command, .. } if matches!(command.name(), "stop" | "migrate"))
}

fn refused(class: &str, desc: String) -> Input {
    Input::Reply(Err(Refusal { class: class.to_owned(), desc }))
}
