//! Snapshots, disk layers and memory images: what a moment of a machine consists of.
//!
//! A snapshot *object* is apart from the *layers* it refers to, because a layer may be needed after its snapshot is
//! gone: as the shared base of several branches, or until a merge has moved its content. Who needs a layer is never
//! stored; it follows from the references (see [`crate::layers`]).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::effect::MergeDirection;
use crate::id::{LayerId, MemoryId, SnapshotId, VmId};
use crate::state::Timestamp;
use crate::vm::{Settings, SnapshotKind};

/// A moment of a machine to which it can be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Identity.
    pub id: SnapshotId,
    /// The machine it belongs to.
    pub vm: VmId,
    /// Display name, 1 to [`crate::request::NAME_CHARS_MAX`] characters.
    pub name: String,
    /// Free text.
    pub notes: String,
    /// When the moment was.
    pub created: Timestamp,
    /// The snapshot it is based on; `None` for a root.
    pub parent: Option<SnapshotId>,
    /// For users or for backup.
    pub purpose: Purpose,
    /// Hardware at that moment; the disks name frozen layers.
    pub settings: Settings,
    /// The machine's snapshot kind at that moment.
    pub snapshot_kind: SnapshotKind,
    /// Memory and device state, if the snapshot has it.
    pub memory: Option<MemoryId>,
}

/// Whom a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// `Snapshot:Realized`.
    User,
    /// `Snapshot:Recovery`, made and removed by backup programs.
    Recovery,
}

/// One disk image file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Identity.
    pub id: LayerId,
    /// The machine it belongs to.
    pub vm: VmId,
    /// Absolute path of the file.
    pub path: PathBuf,
    /// Never probed: fixed when the image is attached or created.
    pub format: Format,
    /// The layer whose content shines through where this one has none.
    pub parent: Option<LayerId>,
    /// Where the file came from, which decides what may be done to it.
    pub origin: Origin,
    /// Virtual size in bytes.
    pub size: u64,
    /// A merge with the layer below has begun this way, or must go this way. It is finished this way, and before any other: headers of
    /// layers on top may name the lower file already, or a process may write to it, and it must therefore not go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merging: Option<MergeDirection>,
}

/// Format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// Bytes of the disk, one to one.
    Raw,
    /// QEMU's copy-on-write format, version 3.
    Qcow2,
}

/// Where a layer's file came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Made by the service: deleted when no longer needed.
    Created,
    /// The user's own disk image: written by the machine, merged into, but never deleted.
    Attached,
    /// A backing file of the user's image: never written, never deleted.
    Backing,
}

/// Memory and device state of one moment, in files that stock QEMU loads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Identity.
    pub id: MemoryId,
    /// The machine it belongs to.
    pub vm: VmId,
    /// Absolute path of the directory that holds the files.
    pub path: PathBuf,
    /// Bytes the files take on disk.
    pub bytes: u64,
    /// What the host needs to know to build the same machine again. Opaque here.
    pub machine: String,
}
