//! Making one layer of two.

use crate::graph::{DiskIo, Layer};
use crate::procedure::{CommandError, HostFailure};

/// How two neighbouring layers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The upper layer's content is written into the lower file (`block-commit`).
    Down,
    /// The lower layer's content is copied into the upper file (`block-stream`).
    Up,
}

/// Where the merge happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// In the machine's process, which has the chain open.
    Machine,
    /// In a `qemu-storage-daemon` started for the purpose, with no block devices open.
    StorageDaemon,
}

/// One merge.
#[derive(Clone, Debug)]
pub struct Merge {
    /// Layers above `upper` in the live chain, top first.
    pub above: Vec<Layer>,
    /// The layer that lies on `lower`.
    pub upper: Layer,
    /// The layer below.
    pub lower: Layer,
    /// The rest of the chain, top first.
    pub below: Vec<Layer>,
    /// Layers whose backing file is `upper`.
    pub children: Vec<Layer>,
    /// Which way.
    pub direction: Direction,
    /// Where.
    pub place: Where,
    /// How disks are reached.
    pub disk_io: DiskIo,
    /// Names the job; any number that no other running merge of the process has.
    pub job: String,
}

/// One layer holds the content of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The guest was running and is stopped now.
    pub stopped: bool,
}

/// Why a merge failed. Both layers are still there and read as before; a guest runs if it ran.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The host could not do its part.
    #[error(transparent)]
    Host(#[from] HostFailure),
    /// QEMU's job failed.
    #[error("QEMU could not merge the layers: {reason}")]
    Job {
        /// QEMU's words.
        reason: String,
    },
    /// The graph is not what the order says.
    #[error("the layers of the process are not those of the order: {found}")]
    Unexpected {
        /// What was found.
        found: String,
    },
    /// Somebody no longer wants it.
    #[error("the merge was cancelled")]
    Cancelled,
}
