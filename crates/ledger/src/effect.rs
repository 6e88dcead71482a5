//! What the ledger wants done in the world.
//!
//! An effect is released only after the commit that announced it is durable, and may be run again after a crash: each
//! says what repeating it means. Effects are complete orders; whoever carries one out needs no other knowledge of the
//! ledger. What comes back is an [`Outcome`](crate::event::Outcome).

use std::path::PathBuf;

use uuid::Uuid;

use crate::id::{JobId, LayerId, VmId};
use crate::image_file::ImageWork;
use crate::snapshot::Format;
use crate::state::Timestamp;
use crate::vm::{Firmware, Nic, Slot};

/// Identity of one attempt: the job, and a number that grows with each effect of that job in this run of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId {
    /// On whose behalf.
    pub job: JobId,
    /// Which effect of the job.
    pub number: u32,
}

/// A layer file as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Which layer; block nodes are named after it.
    pub layer: LayerId,
    /// Absolute path.
    pub path: PathBuf,
    /// Format.
    pub format: Format,
    /// Virtual size in bytes.
    pub size: u64,
    /// Whether the machine's own user may own the file. False for backing files of the user's image.
    pub private: bool,
}

/// The layers behind one slot, top first; the last one has no backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where it is plugged in.
    pub slot: Slot,
    /// Top to bottom, never empty.
    pub images: Vec<Image>,
}

/// A new top for one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Where it goes.
    pub slot: Slot,
    /// The file to create: qcow2, empty, backed by `parent`.
    pub image: Image,
    /// The layer it lies on.
    pub parent: Image,
}

/// A machine as the host must build it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// Identity; the process and its sockets are named after it.
    pub vm: VmId,
    /// Display name.
    pub name: String,
    /// Virtual processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// SMBIOS UUID.
    pub bios_guid: Uuid,
    /// Generation id shown to the guest.
    pub generation_id: Uuid,
    /// Disks and UEFI variables.
    pub chains: Vec<Chain>,
    /// Network adapters.
    pub nics: Vec<Nic>,
}

/// Where memory is to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryTarget {
    /// Directory to create; absent before.
    pub path: PathBuf,
}

/// Where memory is to be restored from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySource {
    /// Directory made by an earlier capture or save. Never written.
    pub path: PathBuf,
    /// What the capture said about the machine.
    pub machine: String,
}

/// A snapshot with memory, as the texts beside its memory tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MomentSpec {
    /// The machine as it was.
    pub spec: MachineSpec,
    /// Its memory.
    pub memory: MemorySource,
    /// When it was.
    pub moment: Timestamp,
}

/// What a snapshot consists of that is about to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foundation {
    /// Its disks.
    pub chains: Vec<Chain>,
    /// Its memory, if it has any.
    pub memory: Option<MemorySource>,
}

/// How two neighbouring layers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum MergeDirection {
    /// The upper layer's content is written into the lower file; the upper file is then not needed.
    Down,
    /// The lower layer's content is copied into the upper file; the lower file is then not needed.
    Up,
}

/// An order to make one layer of two.
///
/// At every moment of a merge, and wherever it is interrupted, everything that reads through either layer reads the
/// same content as before: the lower layer has no other dependant than the upper one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeOrder {
    /// The slot whose chain holds both, if the live chain does.
    pub slot: Option<Slot>,
    /// Layers above `upper` in the live chain, top first; empty if `upper` is the live top or not in the live chain.
    pub above: Vec<Image>,
    /// The layer that lies on `lower`.
    pub upper: Image,
    /// The layer below.
    pub lower: Image,
    /// The rest of the chain under `lower`, top first.
    pub below: Vec<Image>,
    /// Every layer whose backing file is `upper`: with [`MergeDirection::Down`] their headers must name `lower` afterwards.
    pub children: Vec<Image>,
    /// Which way.
    pub direction: MergeDirection,
}

/// What to do to a running machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Stop the guest. Nothing to do if it is stopped.
    Pause,
    /// Let the guest run. Nothing to do if it runs.
    Resume,
    /// Hard reset.
    Reset,
    /// Press the power button. Succeeds when pressed, not when the guest obeys.
    PowerButton,
    /// End the process, at once. Succeeds when it is gone; nothing to do if it is not there.
    Quit,
}

/// Something to be done in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the directories of a new machine, and its UEFI variables from the template. Repeating it keeps what is there.
    PrepareVm {
        /// The machine.
        vm: VmId,
        /// File for the UEFI variables.
        nvram: Option<Image>,
    },
    /// Look at an image that a user wants to attach: does it exist, is it what it says, does anyone use it, what lies behind it?
    InspectImage {
        /// Absolute path of the image.
        path: PathBuf,
        /// The format the user says it has; by its file name if absent.
        format: Option<Format>,
    },
    /// Create overlay files, on layers that are on stable storage. Repeating it makes them anew.
    CreateOverlays {
        /// The machine.
        vm: VmId,
        /// What to create.
        overlays: Vec<Overlay>,
        /// Layers to be brought to stable storage before that.
        ground: Vec<PathBuf>,
        /// Of a snapshot that is applied: to be found undamaged before anything is made, because what the machine
        /// holds now is given up for it.
        foundation: Option<Foundation>,
    },
    /// Take one moment of a running or paused machine: memory (if wanted), devices and all disks.
    /// Never repeated: after a crash, [`Effect::AbortCapture`] finds out how far it came.
    Capture {
        /// The machine.
        spec: MachineSpec,
        /// New tops, created before.
        overlays: Vec<Overlay>,
        /// Where memory goes; `None` for disks only.
        memory: Option<MemoryTarget>,
        /// Whether the guest is to run afterwards; false if it was paused.
        resume: bool,
    },
    /// Undo what an interrupted capture left in the process: end the saving of memory, let the guest run.
    /// Answers whether the disks had been switched. Repeating it is harmless.
    AbortCapture {
        /// The machine.
        vm: VmId,
        /// The new tops of the capture.
        overlays: Vec<Overlay>,
        /// Whether the guest is to run.
        resume: bool,
    },
    /// Stop the guest and save its memory; the process stays, stopped, until the record is safe and it is told to quit.
    /// Never repeated: after a crash, [`Effect::AbortCapture`] without overlays lets the guest run again.
    Save {
        /// The machine.
        spec: MachineSpec,
        /// Where memory goes.
        memory: MemoryTarget,
    },
    /// Start the machine's process, its memory loaded and the guest not yet running; [`Control::Resume`] lets it. Repeating
    /// it adopts a process that is ready to run the guest, or runs it.
    Launch {
        /// What to build.
        spec: MachineSpec,
        /// Memory to continue from.
        memory: Option<MemorySource>,
    },
    /// Act on the process.
    Control {
        /// The machine.
        vm: VmId,
        /// What to do.
        action: Control,
    },
    /// How many bytes do these files hold? Wanted to choose the direction of a merge.
    Measure {
        /// The files.
        images: Vec<Image>,
    },
    /// Make one layer of two. `live` says that the machine's process has the chain open. If the upper layer is the live top and
    /// content goes down, the guest is left stopped on success: it may run only when the record says which file it writes to.
    /// Repeating it finishes what is left, or finds it done.
    Merge {
        /// The machine.
        vm: VmId,
        /// What to merge.
        order: MergeOrder,
        /// Through the machine's own process, or through one started for the purpose.
        live: bool,
    },
    /// Write down beside each memory image how to start its moment without the service: its layers have moved.
    /// Repeating it writes the same again.
    Describe {
        /// What to describe.
        moments: Vec<MomentSpec>,
    },
    /// Find the real paths of files: symbolic links resolved, of a new file those of its directory. Files to be read must be
    /// images of the format that their name tells and lie on nothing but images in their own directory or one that the
    /// administrator allows; new ones must not be there.
    LocateImages {
        /// What is going to be done with them.
        work: ImageWork,
    },
    /// Do it. A new file is made as `draft` and then gets its name as a second one; repeating it
    /// begins the draft anew, unless the file has its name already. All else may be repeated as it is.
    WorkOnImage {
        /// What to do, with real paths.
        work: ImageWork,
        /// First name of a new file.
        draft: Option<PathBuf>,
    },
    /// Remove one name of a file. Missing is fine.
    RemoveImage {
        /// The name.
        path: PathBuf,
    },
    /// Remove files and directories that nobody refers to any more. Missing ones are fine.
    Delete {
        /// Files, or directories with all they hold.
        paths: Vec<PathBuf>,
    },
}
