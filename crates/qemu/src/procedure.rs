//! The shape that every conversation with QEMU has here: ask one thing, get its answer, decide what to ask next.
//!
//! A procedure is a chain of [`Step`]s. A step is one question together with the function that takes its answer, so an
//! answer can reach only the code that asked for it, and what is known at a point of the procedure is what that function
//! owns. [`Run`] is the part the host drives: it hands out [`Action`]s and takes [`Input`]s, one outstanding action at a
//! time.
//!
//! ```text
//!                 ┌──────────────────────── Input ───────────────────────┐
//!                 ▼                                                      │
//!   Begin ──▶ Run ── Action::Execute ──▶ Reply | Lost                    │
//!                  ── Action::Ask ──────▶ HostReply                      │
//!                  ── Action::Wait ─────▶ Event | Deadline | Cancel | Lost
//!                  ── Action::Finish ───▶ the end
//! ```
//!
//! Events may come at any time and are kept until the procedure waits. A cancel is kept likewise and is delivered once,
//! so that undoing is not itself cancelled. After `Lost` nothing more is sent: commands fail at once, host requests go on.

use std::collections::VecDeque;
use std::path::PathBuf;

use serde_json::Value;

use crate::graph::Layer;
use crate::mapped_ram::Layout;
pub use crate::qmp::Micros;
use crate::qmp::{Command, Event, Refusal};

/// Most events kept for a procedure that does not wait. A capture sees some dozens; beyond this the oldest go, and
/// procedures do not depend on any single event because they poll as well.
pub const EVENTS_KEPT_MAX: usize = 1024;

/// A file the host opens for a procedure and knows by this name until it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKey {
    /// The memory file, write-only.
    Memory,
}

/// What only the host can do. Answered by [`HostReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRequest {
    /// Open a file write-only and keep it. It is created if absent, never truncated. Answer [`HostReply::Done`].
    Open {
        /// How it is called from now on.
        file: FileKey,
        /// Absolute path.
        path: PathBuf,
    },
    /// Close a kept file. Unknown keys are fine.
    Close {
        /// Which.
        file: FileKey,
    },
    /// `fdatasync` the files at these paths, and `fsync` their directories.
    Sync {
        /// Absolute paths.
        paths: Vec<PathBuf>,
    },
    /// Make a saved memory file complete with [`crate::mapped_ram::seal`]: fill the page bitmaps if told, write the sidecar,
    /// sync both. Answer [`HostReply::Sealed`].
    Seal {
        /// The memory file.
        memory: PathBuf,
        /// The sidecar to create or overwrite.
        sidecar: PathBuf,
        /// Whether the page bitmaps are empty and must be made from the file's data extents.
        fill_bitmaps: bool,
    },
    /// How much room does it take to copy all that one layer holds into another one, and how much is there? Answer
    /// [`HostReply::Room`].
    MeasureRoom {
        /// The layer that is copied.
        from: Layer,
        /// The one that grows.
        into: Layer,
    },
    /// Run `qemu-img` with these arguments and wait for it.
    QemuImg {
        /// Its arguments.
        arguments: Vec<String>,
    },
}

/// The host's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostReply {
    /// Done, nothing to tell.
    Done,
    /// Bytes of a file system.
    Room {
        /// So many are taken at most, and some to spare.
        needed: u64,
        /// So many are free.
        free: u64,
    },
    /// A memory file is complete and on stable storage.
    Sealed {
        /// Where things are in it.
        layout: Layout,
        /// Bytes that memory file and sidecar take on disk.
        bytes: u64,
    },
}

/// Why the host could not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostFailure(pub String);

/// Why a QMP command had no good answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// QEMU refused.
    #[error("QEMU refused {command}: {refusal}")]
    Refused {
        /// Which command.
        command: &'static str,
        /// QEMU's words.
        refusal: Refusal,
    },
    /// The connection or the process is gone.
    #[error("the connection to QEMU was lost before {command} was answered")]
    Lost {
        /// Which command.
        command: &'static str,
    },
}

/// Class of the refusal that stands for an answer that did not come in time.
pub const NO_ANSWER: &str = "NoAnswer";

impl CommandError {
    /// Whether QEMU may have done it all the same, or may do it yet: there was no answer. It carries out commands in their order, so
    /// a later one that is answered tells.
    pub fn leaves_open(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => refusal.class == NO_ANSWER,
            Self::Lost { .. } => true,
        }
    }
}

/// What a procedure wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Action<O> {
    /// Send a command, with the named files' descriptors as ancillary data. Answer [`Input::Reply`].
    Execute {
        /// What to send.
        command: Command,
        /// Kept files whose descriptors go along, in this order.
        files: Vec<FileKey>,
    },
    /// Do this. Answer [`Input::HostReply`].
    Ask(HostRequest),
    /// Deliver the next event; if none comes until then, [`Input::Deadline`].
    Wait {
        /// Microseconds since the Unix epoch by the host's clock.
        until: Micros,
    },
    /// The end.
    Finish(O),
}

/// What the host tells a procedure.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Start. First and once.
    Begin,
    /// Answer to [`Action::Execute`].
    Reply(Result<Value, Refusal>),
    /// Answer to [`Action::Ask`].
    HostReply(Result<HostReply, HostFailure>),
    /// QEMU reports something. At any time.
    Event(Event),
    /// The time of the outstanding [`Action::Wait`] has come.
    Deadline,
    /// Somebody no longer wants this. At any time.
    Cancel,
    /// The connection is gone. At any time.
    Lost,
}

/// What a procedure knows of the moment it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The host's clock.
    pub micros: Micros,
    /// QEMU's stamp of the last `STOP` event since the beginning; 0 if there was none.
    pub stopped: Micros,
    /// QEMU's stamp of the last `RESUME` event since the beginning; 0 if there was none.
    pub resumed: Micros,
}

/// What ended a wait.
#[derive(Clone, Debug, PartialEq)]
pub enum Wake {
    /// This event.
    Event(Event),
    /// Time.
    Deadline,
    /// Somebody no longer wants this. Told once.
    Cancel,
    /// The connection is gone.
    Lost,
}

/// Result of a command.
pub type Reply = Result<Value, CommandError>;
/// Result of a host request.
pub type HostResult = Result<HostReply, HostFailure>;

type Then<A, O> = Box<dyn FnOnce(A, Now) -> Step<O> + Send>;

/// One question and what to do with its answer.
pub enum Step<O> {
    #[doc(hidden)]
    Execute(Command, Vec<FileKey>, Then<Reply, O>),
    #[doc(hidden)]
    Ask(HostRequest, Then<HostResult, O>),
    #[doc(hidden)]
    Wait(Micros, Then<Wake, O>),
    #[doc(hidden)]
    Tell(Progress, Box<dyn FnOnce() -> Step<O> + Send>),
    #[doc(hidden)]
    Finish(O),
}

/// How far a procedure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Out of `total`.
    pub done: u64,
    /// Bytes, mostly; may grow. Zero if not known yet.
    pub total: u64,
}

/// Notes how far we are, and goes on.
pub fn tell<O>(progress: Progress, then: impl FnOnce() -> Step<O> + Send + 'static) -> Step<O> {
    Step::Tell(progress, Box::new(then))
}

/// Sends a command, then goes on with its answer.
pub fn execute<O>(command: Command, then: impl FnOnce(Reply, Now) -> Step<O> + Send + 'static) -> Step<O> {
    Step::Execute(command, Vec::new(), Box::new(then))
}

/// Sends a command together with descriptors of kept files.
pub fn execute_with<O>(
    command: Command,
    files: Vec<FileKey>,
    then: impl FnOnce(Reply, Now) -> Step<O> + Send + 'static,
) -> Step<O> {
    Step::Execute(command, files, Box::new(then))
}

/// Asks the host, then goes on with its answer.
pub fn ask<O>(request: HostRequest, then: impl FnOnce(HostResult, Now) -> Step<O> + Send + 'static) -> Step<O> {
    Step::Ask(request, Box::new(then))
}

/// Waits for whatever comes next, but not longer than until the given time.
pub fn wait<O>(until: Micros, then: impl FnOnce(Wake, Now) -> Step<O> + Send + 'static) -> Step<O> {
    Step::Wait(until, Box::new(then))
}

/// Ends the procedure.
pub fn finish<O>(outcome: O) -> Step<O> {
    Step::Finish(outcome)
}

/// A procedure: where it begins.
pub trait Procedure {
    /// How it ends, well or badly.
    type Outcome;

    /// The first step.
    fn begin(self, now: Now) -> Step<Self::Outcome>;
}

enum Pending<P: Procedure> {
    NotBegun(P),
    Reply(&'static str, Then<Reply, P::Outcome>),
    Host(Then<HostResult, P::Outcome>),
    Wake(Then<Wake, P::Outcome>),
    Over,
}

/// A procedure being driven.
pub struct Run<P: Procedure> {
    pending: Pending<P>,
    events: VecDeque<Event>,
    cancelled: bool,
    lost: bool,
    now: Now,
    progress: Option<Progress>,
}

impl<P: Procedure> Run<P> {
    /// Ready for [`Input::Begin`].
    pub fn new(procedure: P) -> Self {
        Self {
            pending: Pending::NotBegun(procedure),
            events: VecDeque::new(),
            cancelled: false,
            lost: false,
            now: Now::default(),
            progress: None,
        }
    }

    /// How far it is, if it can tell.
    pub fn progress(&self) -> Option<Progress> {
        self.progress
    }

    /// Takes what happened; returns what is wanted next, or `None` if the last action is still to be answered.
    /// `now` is the host's clock. An input that answers nothing that was asked is ignored.
    pub fn handle(&mut self, input: Input, now: Micros) -> Option<Action<P::Outcome>> {
        self.now.micros = now;
        let step = match (std::mem::replace(&mut self.pending, Pending::Over), input) {
            (Pending::NotBegun(procedure), Input::Begin) => Some(procedure.begin(self.now)),
            (Pending::Reply(command, then), Input::Reply(result)) => {
                let reply = result.map_err(|refusal| CommandError::Refused { command, refusal });
                Some(then(reply, self.now))
            }
            (Pending::Host(then), Input::HostReply(result)) => Some(then(result, self.now)),
            (Pending::Wake(then), Input::Deadline) => Some(then(Wake::Deadline, self.now)),
            (pending, input) => {
                self.pending = pending;
                self.note(input);
                self.interrupt()
            }
        };
        self.advance(step?)
    }

    fn note(&mut self, input: Input) {
        match input {
            Input::Cancel => self.cancelled = true,
            Input::Lost => self.lost = true,
            Input::Event(event) => {
                match event.name.as_str() {
                    "STOP" => self.now.stopped = event.micros,
                    "RESUME" => self.now.resumed = event.micros,
                    _ => {}
                }
                if self.events.len() == EVENTS_KEPT_MAX {
                    self.events.pop_front();
                }
                self.events.push_back(event);
            }
            Input::Begin | Input::Reply(_) | Input::HostReply(_) | Input::Deadline => {}
        }
    }

    /// Ends the outstanding action if something already known ends it.
    fn interrupt(&mut self) -> Option<Step<P::Outcome>> {
        match std::mem::replace(&mut self.pending, Pending::Over) {
            Pending::Reply(command, then) if self.lost => Some(then(Err(CommandError::Lost { command }), self.now)),
            Pending::Wake(then) => match self.next_wake() {
                Some(wake) => Some(then(wake, self.now)),
                None => {
                    self.pending = Pending::Wake(then);
                    None
                }
            },
            pending => {
                self.pending = pending;
                None
            }
        }
    }

    fn next_wake(&mut self) -> Option<Wake> {
        if self.lost {
            return Some(Wake::Lost);
        }
        if std::mem::take(&mut self.cancelled) {
            return Some(Wake::Cancel);
        }
        self.events.pop_front().map(Wake::Event)
    }

    /// Turns a step into an action, answering by itself what needs no host.
    fn advance(&mut self, mut step: Step<P::Outcome>) -> Option<Action<P::Outcome>> {
        loop {
            let action = match step {
                Step::Execute(command, files, then) => {
                    self.pending = Pending::Reply(command.name(), then);
                    Action::Execute { command, files }
                }
                Step::Ask(request, then) => {
                    self.pending = Pending::Host(then);
                    Action::Ask(request)
                }
                Step::Wait(until, then) => {
                    self.pending = Pending::Wake(then);
                    Action::Wait { until }
                }
                Step::Tell(progress, then) => {
                    self.progress = Some(progress);
                    step = then();
                    continue;
                }
                Step::Finish(outcome) => {
                    self.pending = Pending::Over;
                    return Some(Action::Finish(outcome));
                }
            };
            match self.interrupt() {
                Some(next) => step = next,
                None => return Some(action),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a command, waits for three things, asks the host, ends with a record of it all.
    struct Sample;

    impl Procedure for Sample {
        type Outcome = Vec<String>;

        fn begin(self, _: Now) -> Step<Vec<String>> {
            execute(Command::new("stop"), |reply, now| collect(vec![format!("{reply:?} {}", now.stopped)], 3))
        }
    }

    fn collect(mut seen: Vec<String>, left: u32) -> Step<Vec<String>> {
        if left == 0 {
            let request = HostRequest::Close { file: FileKey::Memory };
            return ask(request, |reply, _| {
                seen.push(format!("{reply:?}"));
                tell(Progress { done: 1, total: 1 }, || finish(seen))
            });
        }
        wait(50, move |wake, _| {
            seen.push(match wake {
                Wake::Event(event) => event.name,
                other => format!("{other:?}"),
            });
            collect(seen, left - 1)
        })
    }

    fn event(name: &str) -> Input {
        Input::Event(Event { name: name.into(), data: Value::Null, micros: 7 })
    }

    fn check(inputs: Vec<Input>, expected: &[&str]) {
        let mut run = Run::new(Sample);
        let mut action = run.handle(Input::Begin, 1);
        assert!(matches!(action, Some(Action::Execute { .. })));
        for input in inputs {
            action = run.handle(input, 2).or(action);
        }
        let Some(Action::Finish(seen)) = action else { panic!("not finished: {action:?}") };
        assert_eq!(seen, expected);
        assert_eq!(run.progress(), Some(Progress { done: 1, total: 1 }));
        assert_eq!(run.handle(Input::Deadline, 3), None, "nothing comes after the end");
    }

    #[test]
    fn events_and_a_cancel_are_kept_until_the_procedure_waits() {
        let reply = Input::Reply(Ok(Value::Null));
        let done = Input::HostReply(Ok(HostReply::Done));
        check(
            vec![event("STOP"), Input::Cancel, reply, event("B"), done],
            &["Ok(Null) 7", "Cancel", "STOP", "B", "Ok(Done)"],
        );
    }

    #[test]
    fn inputs_that_answer_nothing_are_ignored() {
        let reply = || Input::Reply(Ok(Value::Null));
        let done = || Input::HostReply(Ok(HostReply::Done));
        check(
            vec![
                done(),
                Input::Deadline,
                reply(),
                reply(),
                Input::Begin,
                Input::Deadline,
                event("A"),
                event("B"),
                done(),
            ],
            &["Ok(Null) 0", "Deadline", "A", "B", "Ok(Done)"],
        );
    }

    #[test]
    fn after_a_loss_only_the_host_is_asked() {
        let done = Input::HostReply(Err(HostFailure("no".into())));
        check(
            vec![Input::Lost, done],
            &[r#"Err(Lost { command: "stop" }) 0"#, "Lost", "Lost", "Lost", r#"Err(HostFailure("no"))"#],
        );
    }

    #[test]
    fn kept_events_are_bounded() {
        let mut run = Run::new(Sample);
        run.handle(Input::Begin, 1);
        for _ in 0..EVENTS_KEPT_MAX + 10 {
            assert_eq!(run.handle(event("A"), 1), None);
        }
        assert_eq!(run.events.len(), EVENTS_KEPT_MAX);
    }
}
