//! What can change the ledger: a closed set.

use std::time::Duration;

use crate::effect::EffectId;
use crate::failure::Failure;
use crate::id::VmId;
use crate::image_file::ImageWork;
use crate::request::Request;
use crate::snapshot::Format;
use crate::state::Timestamp;

/// Identity of a request while its caller waits for the reply. Given out by whoever feeds the driver.
pub type RequestId = u64;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks for something. Answered by exactly one reply.
    Request {
        /// For the reply.
        id: RequestId,
        /// What is asked.
        request: Request,
        /// 128 random bits, from which all new identities derive.
        seed: u128,
    },
    /// An effect ended, well or badly.
    Outcome {
        /// Which one.
        effect: EffectId,
        /// How.
        outcome: Result<Outcome, EffectFailure>,
    },
    /// An effect reports how far it is.
    Progress {
        /// Which one.
        effect: EffectId,
        /// Out of `total`.
        done: u64,
        /// Same unit as `done`; zero if not known yet.
        total: u64,
        /// What is being done, for people. Short.
        activity: String,
    },
    /// The guest or the emulator changed the machine's state on its own.
    Machine {
        /// Which machine.
        vm: VmId,
        /// What happened.
        change: MachineChange,
    },
    /// What the host found at start, one for each of [`Driver::to_observe`](crate::driver::Driver::to_observe). Sent once, before any request.
    Observed {
        /// Which machine.
        vm: VmId,
        /// What was found.
        found: Observation,
    },
    /// Time has passed; finished jobs may be forgotten.
    Tick,
}

/// Spontaneous changes of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineChange {
    /// The process ended: guest shutdown, crash, or killed by someone.
    Gone,
    /// The guest was stopped by the emulator, for instance because the disk is full.
    Stopped,
    /// The guest runs.
    Running,
}

/// What the host found of a machine after a restart of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// No process.
    NoProcess,
    /// A process whose guest runs.
    Running,
    /// A process whose guest is stopped.
    Stopped,
    /// A process that has not yet begun to run a guest, or cannot be talked to. It may be killed.
    Unusable,
}

/// How an effect ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, nothing to tell: `CreateOverlays`, `Launch`, `Control`, `Describe`, `Delete`, `PrepareVm`,
    /// `WorkOnImage`, `RemoveImage`.
    Done,
    /// `InspectImage`: the image and its backing files, top first.
    Inspected {
        /// Path, format and virtual size in bytes of each.
        chain: Vec<InspectedImage>,
    },
    /// `Capture`: the moment is on stable storage and the disks are switched.
    Captured {
        /// When the moment was, by the host's clock.
        moment: Timestamp,
        /// How, and what it cost, for people and for `--json`.
        report: CaptureReport,
        /// What is needed to build the machine again; empty without memory.
        machine: String,
    },
    /// `AbortCapture`: whether the disks have been switched to the overlays. If the process is gone and it cannot be
    /// known, `true`: an overlay that was never written reads like the layer below it.
    Aborted {
        /// Disks switched.
        switched: bool,
        /// Whether the process still runs.
        alive: bool,
    },
    /// `Save`: memory is on stable storage, the guest is stopped.
    Saved {
        /// How, and what it cost.
        report: CaptureReport,
        /// What is needed to build the machine again.
        machine: String,
    },
    /// `LocateImages`: the same work with real paths.
    Located {
        /// What can be done now.
        work: ImageWork,
    },
    /// `Measure`: bytes held by each file, in the order asked.
    Measured {
        /// Bytes allocated.
        bytes: Vec<u64>,
    },
    /// `Merge`: one layer now holds the content of both.
    Merged {
        /// The guest was stopped and waits for [`crate::effect::Control::Resume`].
        stopped: bool,
    },
}

/// One file of an inspected image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedImage {
    /// Absolute path, symbolic links resolved.
    pub path: std::path::PathBuf,
    /// Format.
    pub format: Format,
    /// Virtual size in bytes.
    pub size: u64,
}

/// What a capture or a save did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CaptureReport {
    /// The way taken, in words: "live", "background", "throttled", "stopped", "disks only".
    pub method: String,
    /// Why not a better way, if so.
    pub reason: Option<String>,
    /// Time the guest stood still, microseconds, as the emulator's own events tell; 0 if it was not running.
    pub pause_us: u64,
    /// Whole time, microseconds.
    pub total_us: u64,
    /// Bytes on disk of the memory files.
    pub bytes: u64,
}

impl std::fmt::Display for CaptureReport {
    /// One line for people: `live, guest paused 10.2ms, 1.31s in all, 402 MiB`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pause, total) = (Duration::from_micros(self.pause_us), Duration::from_micros(self.total_us));
        write!(
            f,
            "{}, guest paused {:.1?}, {:.2?} in all, {} MiB",
            self.method,
            pause,
            total,
            self.bytes.div_ceil(1 << 20)
        )?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

/// How an effect ended badly. What it could undo itself it has undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectFailure {
    /// What went wrong.
    pub failure: Failure,
    /// `Capture` only: the disks have been, or may have been, switched to the overlays.
    pub switched: bool,
}

impl From<Failure> for EffectFailure {
    fn from(failure: Failure) -> Self {
        Self { failure, switched: false }
    }
}
