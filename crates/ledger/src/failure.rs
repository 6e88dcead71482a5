//! Why something was refused or did not work, in words for the user and a kind for programs.
//!
//! A [`Failure`] says what happened to what, and what to do next. The numbers that the wire wants for a [`Kind`] are in
//! one table of the namespace layer; nothing here knows them.

use serde::{Deserialize, Serialize};

/// The nature of a failure: decides the code a client sees, and whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// An argument is missing, malformed or out of range.
    InvalidParameter,
    /// The machine, snapshot, job or device named does not exist.
    NotFound,
    /// The object is not in a state that allows this.
    InvalidState,
    /// A file is used by another process, machine or job.
    InUse,
    /// A documented limit would be exceeded.
    LimitReached,
    /// The feature does not exist here.
    NotSupported,
    /// The caller may not ask for this.
    AccessDenied,
    /// The disk is full, or would be.
    NoSpace,
    /// The host could not give memory.
    OutOfMemory,
    /// It took longer than it may.
    Timeout,
    /// The machine's process ended in the middle.
    MachineGone,
    /// Somebody cancelled the job.
    Cancelled,
    /// The daemon was restarted while the job ran, and the job was rolled back.
    Interrupted,
    /// A file or the machine emulator failed in a way nobody asked for.
    Failed,
}

/// What went wrong: shown to people as `message`, then `hint`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub kind: Kind,
    /// What happened, to what. Lower case, no full stop.
    pub message: String,
    /// What the user can do next, if anything.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same failure with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Message and hint as one text.
    pub fn full_text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}: {hint}", self.message),
            None => self.message.clone(),
        }
    }
}
