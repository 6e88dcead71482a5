//! Bringing a machine back from saved memory, at once.

use std::path::PathBuf;

use crate::procedure::CommandError;

/// Brings a QEMU that was launched with [`crate::launch::Start::Incoming`] and [`crate::launch::Memory::Mapped`] to run.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The sidecar of the memory file.
    pub sidecar: PathBuf,
    /// Whether the guest is to run.
    pub resume: bool,
}

/// It runs, or stands ready.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// QEMU read the state and did not like it.
    #[error("QEMU cannot load the saved state: {reason}")]
    DoesNotFit {
        /// QEMU's words.
        reason: String,
    },
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
