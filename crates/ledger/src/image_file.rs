//! Image files that belong to no machine: made, converted, enlarged, merged, checked.
//!
//! ```text
//!   request ─▶ located: real paths, from the hands ─▶ nobody else uses them ─▶ worked on ─▶ leftovers removed ─▶ end
//! ```
//! The rule that keeps machines safe: a file that a machine or a snapshot uses is touched by its own jobs only. Who uses a
//! file is known by its real path, which only the host can tell; so it is asked first, and what a job will write is on record
//! before it begins. A new file appears under its name when it is whole, never before.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Kind};
use crate::id::JobId;
use crate::job::Stage;
use crate::snapshot::Origin;
use crate::state::State;

/// Sizes are counted in sectors of this many bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Largest disk in bytes: Hyper-V's limit for VHDX.
pub const SIZE_MAX: u64 = 64 << 40;

/// Format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileFormat {
    /// Bytes of the disk, one to one.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// Hyper-V's first format. Not for machines here.
    Vhd,
    /// Hyper-V's second format. Not for machines here.
    Vhdx,
}

impl FileFormat {
    /// The format that a file name tells, as on Windows.
    pub fn of_name(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "raw" | "img" => Some(FileFormat::Raw),
            "qcow2" => Some(FileFormat::Qcow2),
            "vhd" => Some(FileFormat::Vhd),
            "vhdx" => Some(FileFormat::Vhdx),
            _ => None,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageWork {
    /// Make a new image.
    Create {
        /// The file, which is not there yet.
        path: PathBuf,
        /// Its size in bytes; `None` with a parent: the parent's.
        size: Option<u64>,
        /// Take up all space now.
        fixed: bool,
        /// The image that shines through.
        parent: Option<PathBuf>,
    },
    /// Copy an image, with all that it lies on, into a new one.
    Convert {
        /// The image to be read.
        source: PathBuf,
        /// The new file, which is not there yet.
        path: PathBuf,
        /// Take up all space now.
        fixed: bool,
    },
    /// Make a disk larger.
    Resize {
        /// The image.
        path: PathBuf,
        /// New size in bytes.
        size: u64,
    },
    /// Write what an image holds into the one that it lies on, and remove it.
    Merge {
        /// The image.
        child: PathBuf,
        /// The one below.
        parent: PathBuf,
    },
    /// Look for damage.
    Validate {
        /// The image.
        path: PathBuf,
    },
}

impl ImageWork {
    /// The files that change or come into being.
    pub fn written(&self) -> Vec<&Path> {
        match self {
            ImageWork::Create { path, .. } | ImageWork::Convert { path, .. } | ImageWork::Resize { path, .. } => {
                vec![path]
            }
            ImageWork::Merge { child, parent } => vec![child, parent],
            ImageWork::Validate { .. } => Vec::new(),
        }
    }

    /// The files that are read and must not change meanwhile.
    pub fn read(&self) -> Vec<&Path> {
        match self {
            ImageWork::Create { parent, .. } => parent.iter().map(PathBuf::as_path).collect(),
            ImageWork::Convert { source, .. } => vec![source],
            ImageWork::Validate { path } => vec![path],
            ImageWork::Resize { .. } | ImageWork::Merge { .. } => Vec::new(),
        }
    }

    /// Name of the new file until it is whole, if there is to be one.
    pub(crate) fn draft(&self, job: JobId) -> Option<PathBuf> {
        match self {
            ImageWork::Create { path, .. } | ImageWork::Convert { path, .. } => {
                Some(path.with_file_name(format!(".snapvisor-{job}.part")))
            }
            _ => None,
        }
    }

    /// What is left when the work is done and has to go: a second name of the new file, or the image that was merged.
    pub(crate) fn leftover(&self, job: JobId) -> Option<PathBuf> {
        match self {
            ImageWork::Merge { child, .. } => Some(child.clone()),
            other => other.draft(job),
        }
    }
}

/// Whether the work makes sense, before anybody has looked at a file.
pub(crate) fn admit(work: &ImageWork) -> Result<(), Failure> {
    for path in work.written().into_iter().chain(work.read()) {
        if !path.is_absolute() {
            return Err(invalid(format!("disk image path '{}' is not absolute", path.display())));
        }
        if FileFormat::of_name(path).is_none() {
            return Err(invalid(format!("'{}' does not tell its format by its name", path.display()))
                .hint("use a name that ends in .qcow2, .raw, .img, .vhd or .vhdx"));
        }
    }
    let size = match work {
        ImageWork::Create { size: None, parent: None, .. } => return Err(invalid("a new disk needs a size")),
        ImageWork::Create { size, .. } => *size,
        ImageWork::Resize { size, .. } => Some(*size),
        _ => None,
    };
    if let Some(size) = size.filter(|size| *size == 0 || size % SECTOR_BYTES != 0 || *size > SIZE_MAX) {
        return Err(invalid(format!("{size} bytes is no size of a disk"))
            .hint("use a multiple of 512 bytes, and at most 64 TiB"));
    }
    if let ImageWork::Create { path, fixed, parent: Some(parent), .. } = work {
        if *fixed || FileFormat::of_name(path) != Some(FileFormat::Qcow2) {
            return Err(unsupported("only a dynamic .qcow2 image can lie on another one"));
        }
        if !matches!(FileFormat::of_name(parent), Some(FileFormat::Qcow2 | FileFormat::Raw)) {
            return Err(unsupported("an image can only lie on a .qcow2 or raw one"));
        }
    }
    Ok(())
}

/// Whether the files of located work are free: used by no machine, no snapshot, no other job, and none of the service's own.
pub(crate) fn require_free(state: &State, root: &Path, job: JobId, work: &ImageWork) -> Result<(), Failure> {
    for path in work.written().into_iter().chain(work.read()) {
        if path.starts_with(root) {
            let text = format!("'{}' lies in the service's own directory", path.display());
            return Err(invalid(text).hint("keep disk images elsewhere"));
        }
    }
    for path in work.written() {
        require_unused(state, path, true)?;
        require_unclaimed(state, path, Some(job), true)?;
    }
    for path in work.read() {
        require_unused(state, path, false)?;
        require_unclaimed(state, path, Some(job), false)?;
    }
    Ok(())
}

/// A layer of a machine is not for others to write, nor to read while its machine may write it.
pub(crate) fn require_unused(state: &State, path: &Path, writes: bool) -> Result<(), Failure> {
    let used = state.layers.values().find(|layer| layer.path == path && (writes || layer.origin != Origin::Backing));
    let Some(layer) = used else { return Ok(()) };
    let owner = state.vms.get(&layer.vm).map_or_else(|| layer.vm.to_string(), |vm| vm.name.clone());
    Err(Failure::new(Kind::InUse, format!("'{}' belongs to machine '{owner}' and its snapshots", path.display()))
        .hint("use another file, or take the disk out of the machine first"))
}

/// Whether a job at work has this file in hand. `job` is the one that asks.
pub(crate) fn require_unclaimed(state: &State, path: &Path, job: Option<JobId>, writes: bool) -> Result<(), Failure> {
    let claims = |work: &ImageWork| work.written().contains(&path) || writes && work.read().contains(&path);
    let at_work = state.jobs.values().filter(|other| !other.state.is_final() && Some(other.id) != job);
    let claiming = at_work.into_iter().find(|other| match &other.stage {
        Stage::WorkingOnImage(work) => claims(work),
        Stage::RemovingImage { path: removed, .. } => removed == path,
        _ => false,
    });
    match claiming {
        None => Ok(()),
        Some(other) => {
            let text = format!("'{}' is in the hands of job {} ({})", path.display(), other.id, other.kind.text());
            Err(Failure::new(Kind::InUse, text).hint("wait for that job to end"))
        }
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Kind::InvalidParameter, message)
}

fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(Kind::NotSupported, message)
}
