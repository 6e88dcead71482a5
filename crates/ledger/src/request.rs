//! What may be asked of the ledger, and how it answers.

use std::path::PathBuf;

use uuid::Uuid;

use crate::failure::Failure;
use crate::id::{DeviceId, JobId, SnapshotId, VmId};
use crate::image_file::ImageWork;
use crate::snapshot::{Format, Purpose};
use crate::vm::{Bus, Firmware, Network, SnapshotKind, Startup};

/// Longest display name, in characters; the reference pages of the namespace state it for snapshots.
pub const NAME_CHARS_MAX: usize = 100;
/// Most user snapshots of one machine; Hyper-V's limit. The 51st is refused.
pub const SNAPSHOTS_MAX: usize = 50;
/// Longest notes, in bytes; keeps a record well below a page of the envelope that carries it.
pub const NOTES_BYTES_MAX: usize = 8192;
/// Most virtual processors; what the q35 machine accepts without an IOMMU.
pub const PROCESSORS_MAX: u32 = 240;
/// Least and most memory in MiB; the upper bound keeps byte counts far from overflow.
pub const MEMORY_MIB: std::ops::RangeInclusive<u64> = 32..=(4 << 20);

/// A request. Mutating ones become jobs, except those whose whole effect is one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Define a machine without disks. A job.
    DefineVm(Definition),
    /// Change properties of a machine that need no work in the world. One commit.
    ModifyVm {
        /// The machine.
        vm: VmId,
        /// What to change.
        changes: VmChanges,
    },
    /// Remove a machine, its snapshots and every file made for it; never the user's own images. A job.
    DestroyVm {
        /// The machine; off or saved.
        vm: VmId,
    },
    /// Add a disk controller. One commit; machine off.
    AddController {
        /// The machine.
        vm: VmId,
        /// Its bus.
        bus: Bus,
    },
    /// Add an empty drive. One commit; machine off.
    AddDrive {
        /// The machine.
        vm: VmId,
        /// On which controller.
        controller: DeviceId,
        /// Position; the first free one if absent.
        address: Option<u32>,
    },
    /// Put a disk image into an empty drive. A job; machine off.
    AttachDisk {
        /// The machine.
        vm: VmId,
        /// The drive.
        drive: DeviceId,
        /// Absolute path of the image.
        path: PathBuf,
        /// Format, if not told by the file name.
        format: Option<Format>,
    },
    /// Add a network adapter. One commit; machine off.
    AddNic {
        /// The machine.
        vm: VmId,
        /// Display name.
        name: String,
        /// MAC address; made from the adapter's identity if absent.
        mac: Option<[u8; 6]>,
        /// What it is connected to.
        network: Network,
    },
    /// Connect a network adapter elsewhere. One commit; machine off.
    ConnectNic {
        /// The machine.
        vm: VmId,
        /// The adapter.
        nic: DeviceId,
        /// What it is connected to.
        network: Network,
    },
    /// Take a device, or the disk in a drive, out of a machine that is off and has no snapshots. One commit.
    RemoveDevice {
        /// The machine.
        vm: VmId,
        /// Controller, drive or adapter.
        device: DeviceId,
        /// Only the disk in the drive.
        disk_only: bool,
    },
    /// Start, stop, save and so on. A job.
    SetPower {
        /// The machine.
        vm: VmId,
        /// What to do.
        target: PowerTarget,
    },
    /// Take a snapshot. A job.
    CreateSnapshot {
        /// The machine.
        vm: VmId,
        /// Name, 1 to [`NAME_CHARS_MAX`] characters.
        name: String,
        /// Memory too, or disks only.
        contents: Contents,
        /// For users or for backup.
        purpose: Purpose,
    },
    /// Bring the machine to a snapshot; ends saved or off. A job.
    ApplySnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Remove one snapshot; its children stay. A job.
    DestroySnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Remove a snapshot and all that descend from it. A job.
    DestroySnapshotTree {
        /// The top of the subtree.
        snapshot: SnapshotId,
    },
    /// Forget the memory of a snapshot; its disks stay. A job.
    ClearSnapshotState {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Rename a snapshot or change its notes. One commit.
    ModifySnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
        /// New name.
        name: Option<String>,
        /// New notes.
        notes: Option<String>,
    },
    /// Work on image files that belong to no machine. A job.
    WorkOnImage(ImageWork),
    /// Ask a job to end.
    CancelJob {
        /// The job.
        job: JobId,
        /// At once (state killed) rather than orderly (state terminated). Both leave nothing behind.
        kill: bool,
    },
}

/// A machine to define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Display name.
    pub name: String,
    /// Free text.
    pub notes: String,
    /// Virtual processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// SMBIOS UUID; made up if absent.
    pub bios_guid: Option<Uuid>,
    /// What full snapshots produce.
    pub snapshot_kind: SnapshotKind,
}

/// Changes to a machine; absent means unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmChanges {
    /// Display name. Any time.
    pub name: Option<String>,
    /// Free text. Any time.
    pub notes: Option<String>,
    /// What full snapshots produce. Any time; effective for the very next one.
    pub snapshot_kind: Option<SnapshotKind>,
    /// What becomes of it when the host has started. Any time.
    pub startup: Option<Startup>,
    /// Virtual processors. Machine off.
    pub processors: Option<u32>,
    /// Memory in MiB. Machine off.
    pub memory_mib: Option<u64>,
}

/// What a snapshot is asked to contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// As the machine's snapshot kind says.
    Full,
    /// Disks only.
    Disks,
}

/// Changes of the power state that may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PowerTarget {
    /// Start, restore or resume, whichever it takes.
    Running,
    /// End the process at once; saved memory is thrown away.
    Off,
    /// Save memory to disk and end the process.
    Saved,
    /// Stop the guest.
    Paused,
    /// Hard reset.
    Reset,
    /// Ask the guest to shut down.
    Shutdown,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A job does it. Durable and in state running when this is sent.
    Job(JobId),
    /// Done, durably. `created` names the device that came into being, if one did.
    Done {
        /// New device.
        created: Option<DeviceId>,
    },
    /// Not done, and nothing has changed.
    Refused(Failure),
}
