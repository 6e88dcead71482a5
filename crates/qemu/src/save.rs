//! Taking one moment of a machine: memory, devices and disks.
//!
//! Three ways, all with unmodified QEMU. In all of them the overlays are added to the graph beforehand, so that the switch of
//! all disks is one `transaction` in the pause, and the memory file is opened by us, so that its last `close`, which makes
//! the file system allocate everything, does not happen inside `cont`.
//!
//! | way | the moment is | pause (measured) | used for |
//! | --- | --- | --- | --- |
//! | live | the end of the copy | 9-28 ms up to 8 GiB | nearly everything |
//! | background | the beginning | 30-60 ms at 512 MiB, to 340 ms at 2 GiB | guests that do not converge; paused guests |
//! | stopped | the stop | what is left to write | paused guests, saving, and the last resort |
//!
//! ```text
//!  Capture ─▶ look ─▶ add overlays ─┬─ no memory ─▶ switch disks ─────────────────────────────────────────▶ sync ─▶ Ok
//!                                   ▼
//!                              open files ◀──────────── gave up: cancel, then the other way ──────┐
//!                                   ▼                                                             │
//!      live, stopped: configure ─▶ [stop] ─▶ migrate ─▶ watch ─▶ switch disks ─▶ continue ─▶ completed ─▶ cont ─▶ seal ─▶ Ok
//!      background:    configure ─▶  stop  ─▶ migrate ─▶ tracked ─▶ switch disks ─▶ cont ─▶ completed ────────────▶ seal ─▶ Ok
//!
//!  any failure, or a cancel ─▶ cancel migration ─▶ let the guest run ─▶ [drop overlay nodes] ─▶ close files ─▶ Err(switched?)
//! ```
//!
//! A cancel is heeded until the disks are switched; from then on the capture is quicker to finish than to undo. Numbers are
//! from QEMU 10.0.2 on two cores without hardware virtualisation.

mod abort;
mod capture;
pub mod convergence;
pub(crate) mod migration;

use std::path::PathBuf;

use crate::graph::{DiskIo, Overlay};
use crate::mapped_ram::Layout;
use crate::procedure::{CommandError, HostFailure};

/// Names of the files in a memory directory.
pub const MEMORY_FILE: &str = "memory";
/// The small file that loads with the memory file mapped.
pub const SIDECAR_FILE: &str = "devices";

/// Takes one moment of a running or paused machine.
#[derive(Clone, Debug)]
pub struct Capture {
    /// New tops; the files exist, the nodes do not.
    pub overlays: Vec<Overlay>,
    /// Directory for memory, which exists and is empty; `None` for disks only.
    pub memory: Option<PathBuf>,
    /// Whether the guest is to run afterwards.
    pub resume: bool,
    /// How disks are reached.
    pub disk_io: DiskIo,
    /// What this machine allows.
    pub policy: Policy,
}

/// What may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether guest memory is anonymous (or memfd), which background snapshots need; false if it is a private file mapping.
    pub background: bool,
    /// Only this way, for tests and benchmarks.
    pub only: Option<Method>,
}

/// A way to save memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Pages are written while the guest runs; the moment is the end.
    Live,
    /// Pages are write-protected; the moment is the beginning.
    Background,
    /// Like live; the processors had to be slowed down before it came to an end. An outcome, not a choice: as a choice it is
    /// the same as live.
    Throttled,
    /// The guest stands still meanwhile.
    Stopped,
    /// No memory.
    DisksOnly,
}

impl Method {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Method::Live => "live",
            Method::Background => "background",
            Method::Throttled => "throttled",
            Method::Stopped => "stopped",
            Method::DisksOnly => "disks only",
        }
    }
}

/// Stops the guest, saves its memory, leaves it stopped.
#[derive(Clone, Debug)]
pub struct Save {
    /// Directory for memory, which exists and is empty.
    pub memory: PathBuf,
}

/// Undoes what an interrupted capture or save left in the process.
#[derive(Clone, Debug)]
pub struct AbortCapture {
    /// The new tops of the capture.
    pub overlays: Vec<Overlay>,
    /// Whether the guest is to run.
    pub resume: bool,
}

/// A moment is on stable storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The way taken.
    pub method: Method,
    /// Why not a better way, if so.
    pub reason: Option<String>,
    /// When the moment was, by QEMU's clock.
    pub moment_us: u64,
    /// How long the guest stood still, by QEMU's own events; 0 if it was not running.
    pub pause_us: u64,
    /// The whole time.
    pub total_us: u64,
    /// Where guest memory lies, and bytes on disk of the memory files; `None` without memory.
    pub memory: Option<(Layout, u64)>,
}

/// A capture failed. The guest runs (if it was to run) and the memory files may be removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CaptureFailed {
    /// Why.
    #[source]
    pub reason: SaveError,
    /// Whether the disks have been, or may have been, switched to the overlays.
    pub switched: bool,
    /// Whether the guest could not be brought to run again although it was to.
    pub stuck: Option<String>,
}

/// Why a moment could not be saved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The host could not do its part.
    #[error(transparent)]
    Host(#[from] HostFailure),
    /// QEMU gave up.
    #[error("QEMU could not save the memory: {reason}")]
    Migration {
        /// QEMU's words.
        reason: String,
    },
    /// This QEMU lacks what is needed.
    #[error("this QEMU cannot save memory: it lacks the migration capability {capability}")]
    Unable {
        /// What is missing.
        capability: &'static str,
    },
    /// The process writes to another layer than the one that is to be frozen.
    #[error("the machine's process does not write to {}, which is on record as its disk", path.display())]
    OtherLayer {
        /// The one that is on record.
        path: PathBuf,
    },
    /// Another migration goes on in the process.
    #[error("the memory of this machine is being saved or moved already")]
    Busy,
    /// The guest's state does not allow it.
    #[error("QEMU is in run state {state}, in which no moment can be taken")]
    RunState {
        /// QEMU's word.
        state: String,
    },
    /// Somebody no longer wants it.
    #[error("cancelled")]
    Cancelled,
}

/// What an abort found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// The disks are switched.
    pub switched: bool,
    /// The process still answers.
    pub alive: bool,
}

#[cfg(test)]
mod tests;
