//! Jobs: long work, as a record that survives a restart.
//!
//! ```text
//!            ┌──────────── Running ────────────┐
//!            │ stage 0 ─▶ stage 1 ─▶ … ─▶ end   ├─▶ Completed
//!   request ─┤                                  │
//!            │ failure or cancel: undo stages   ├─▶ Failed, Terminated, Killed
//!            └──────────────────────────────────┘
//! ```
//! A job is shown as running from the moment its caller hears of it until its end, because clients in the field wait
//! only while the state is 4. What it is doing in detail is its [`Stage`], the persistent program counter: each stage
//! has one effect, and the stage is durable before the effect is released.

use serde::{Deserialize, Serialize};

use crate::effect::MergeDirection;
use crate::event::CaptureReport;
use crate::failure::Failure;
use crate::id::{DeviceId, JobId, LayerId, MemoryId, SnapshotId, VmId};
use crate::image_file::ImageWork;
use crate::request::PowerTarget;
use crate::snapshot::{Format, Layer, Purpose};
use crate::state::Timestamp;
use crate::vm::{Power, Slot, Vm};

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Identity.
    pub id: JobId,
    /// The machine it works on. For `Define`, the one being defined; for work on image files, one that does not exist.
    pub vm: VmId,
    /// What it does.
    pub kind: JobKind,
    /// Running or how it ended.
    pub state: JobState,
    /// What it is at.
    pub stage: Stage,
    /// 0 to 100; 100 only when completed. Never falls.
    pub percent: u8,
    /// What is being done, for people. Never empty.
    pub activity: String,
    /// The snapshot it creates, applies or removes.
    pub snapshot: Option<SnapshotId>,
    /// What a capture reported.
    pub report: Option<CaptureReport>,
    /// Somebody asked for the end.
    pub cancel: Option<Cancel>,
    /// Number of the effect last released.
    pub effects: u32,
    /// When it was accepted.
    pub submitted: Timestamp,
    /// When `state` changed last.
    pub changed: Timestamp,
}

impl Job {
    /// Whether asking for the end has a chance: what is in flight can be stopped and undone.
    pub fn cancellable(&self) -> bool {
        let stoppable = matches!(
            self.stage,
            Stage::PreparingSnapshot(_)
                | Stage::Capturing(_)
                | Stage::PreparingApply { .. }
                | Stage::InspectingImage { .. }
                | Stage::Measuring(_)
                | Stage::Merging(_)
                | Stage::Launching
                | Stage::Saving { .. }
                | Stage::AwaitingShutdown
                | Stage::LocatingImages(_)
                | Stage::WorkingOnImage(
                    ImageWork::Create { .. }
                        | ImageWork::Convert { .. }
                        | ImageWork::Merge { .. }
                        | ImageWork::Validate { .. }
                )
        );
        stoppable && !self.state.is_final()
    }
}

/// Kinds of job, in the namespace's grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    /// Define a machine.
    Define,
    /// Change a machine.
    Modify,
    /// Remove a machine.
    DestroyVm,
    /// Start from nothing.
    Start,
    /// Start from saved memory.
    Restore,
    /// Turn off.
    TurnOff,
    /// Save memory and turn off.
    Save,
    /// Ask the guest to shut down.
    Shutdown,
    /// Stop the guest.
    Pause,
    /// Let it run again.
    Resume,
    /// Hard reset.
    Reset,
    /// Take a snapshot.
    CreateSnapshot,
    /// Go back to one.
    ApplySnapshot,
    /// Remove one, or a subtree.
    DestroySnapshot,
    /// Forget a snapshot's memory.
    ClearSnapshotState,
    /// Merge layers that an earlier job left over.
    Merge,
    /// Make an image file.
    CreateImage,
    /// Copy an image file into another format.
    ConvertImage,
    /// Make the disk in an image file larger.
    ResizeImage,
    /// Merge an image file into the one below.
    MergeImages,
    /// Look for damage in an image file.
    ValidateImage,
}

/// Where a job stands, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// Not finished.
    Running,
    /// Finished well.
    Completed,
    /// Ended with an error; what it had done is undone, unless the error says otherwise.
    Failed(Failure),
    /// Cancelled in order.
    Terminated,
    /// Cancelled at once.
    Killed,
}

impl JobState {
    /// Whether the job has ended.
    pub fn is_final(&self) -> bool {
        *self != JobState::Running
    }
}

/// How the end was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cancel {
    /// Ends in [`JobState::Terminated`].
    Terminate,
    /// Ends in [`JobState::Killed`].
    Kill,
}

/// A new top planned for one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedOverlay {
    /// Where it goes.
    pub slot: Slot,
    /// The layer to create.
    pub layer: LayerId,
    /// The layer below it.
    pub parent: LayerId,
}

/// A snapshot in the making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSnapshot {
    /// Its identity.
    pub id: SnapshotId,
    /// Its name.
    pub name: String,
    /// For whom.
    pub purpose: Purpose,
    /// New tops of the machine.
    pub overlays: Vec<PlannedOverlay>,
    /// Memory to be written, if any.
    pub memory: Option<MemoryId>,
    /// The snapshot shares the memory that the machine is saved with.
    pub keep_saved: bool,
    /// State of the machine when it was asked for, then when its moment is due; the guest goes back to it.
    pub power: Power,
}

/// A merge decided upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMerge {
    /// The layer above.
    pub upper: LayerId,
    /// The layer below.
    pub lower: LayerId,
    /// Which way; `None` until the files are measured.
    pub direction: Option<MergeDirection>,
}

/// What a running job is at: the one effect in flight, and all that is needed to go on from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Making the directories and UEFI variables of a new machine, which exists once that is done.
    PreparingVm {
        /// The machine.
        vm: Box<Vm>,
        /// Layer of its UEFI variables.
        nvram: Option<Box<Layer>>,
    },
    /// Looking at an image.
    InspectingImage {
        /// Where it goes.
        drive: DeviceId,
        /// The image.
        path: std::path::PathBuf,
        /// Format the user named.
        format: Option<Format>,
    },
    /// Creating overlays for a snapshot.
    PreparingSnapshot(PlannedSnapshot),
    /// Taking the moment.
    Capturing(PlannedSnapshot),
    /// Finding out how far a capture came, and ending it.
    AbortingCapture {
        /// What was planned.
        plan: PlannedSnapshot,
        /// How the job will end.
        end: JobState,
    },
    /// Creating overlays on an applied snapshot's layers.
    PreparingApply {
        /// New tops.
        overlays: Vec<PlannedOverlay>,
        /// New generation id of the machine.
        generation_id: uuid::Uuid,
    },
    /// Measuring two layers.
    Measuring(PlannedMerge),
    /// Merging two layers.
    Merging(PlannedMerge),
    /// Letting the guest run on after a merge.
    ResumingAfterMerge {
        /// The layer that is left.
        survivor: LayerId,
        /// Files to delete then.
        paths: Vec<std::path::PathBuf>,
        /// Paused, or what was heard of the machine since; it becomes this if the order fails. Older records do not say.
        #[serde(default = "stands_still")]
        power: Power,
    },
    /// Writing down anew how to start the snapshots above a merge without the service.
    Describing {
        /// The layer that is left.
        survivor: LayerId,
        /// Files to delete then.
        paths: Vec<std::path::PathBuf>,
    },
    /// Deleting files; what comes after is decided when they are gone.
    Deleting {
        /// Files and directories.
        paths: Vec<std::path::PathBuf>,
        /// How the job will end, once nothing is left to tidy.
        end: JobState,
    },
    /// Starting the process, with the guest in it not yet running.
    Launching,
    /// Letting the guest run. On record before it does: what it writes from then on is not what its saved memory knows of
    /// the disks, so that memory must never be loaded a second time.
    LettingRun,
    /// Ending a process that did not start properly.
    AbortingLaunch {
        /// How the job will end.
        end: JobState,
    },
    /// Writing memory to disk.
    Saving {
        /// Memory to be written.
        memory: MemoryId,
        /// State of the machine before.
        power: Power,
    },
    /// Letting the guest run again after a save that did not work.
    AbortingSave {
        /// Memory to be forgotten.
        memory: MemoryId,
        /// State of the machine before.
        power: Power,
        /// How the job will end.
        end: JobState,
    },
    /// Ending the process after a save.
    QuittingAfterSave {
        /// Memory that was written.
        memory: MemoryId,
        /// State of the machine before.
        power: Power,
    },
    /// One order to the process.
    Controlling {
        /// The order.
        target: PowerTarget,
        /// State of the machine as it was before or was heard of since; it goes back to this if the order fails.
        power: Power,
    },
    /// The power button is pressed; the guest takes its time.
    AwaitingShutdown,
    /// Finding out which files are meant: real paths, and whether they are what they should be.
    LocatingImages(ImageWork),
    /// Working on image files. On record are the real paths, so that nobody else takes them up.
    WorkingOnImage(ImageWork),
    /// Removing what the work has left: a second name, or a file that was merged.
    RemovingImage {
        /// The file.
        path: std::path::PathBuf,
        /// How the job will end.
        end: JobState,
    },
    /// Nothing more to do.
    Finished,
}

fn stands_still() -> Power {
    Power::Paused
}
