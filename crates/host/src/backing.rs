//! Which files an image may be, and may lie on.
//!
//! An image comes from anywhere, and its header can name any file of this host: another user's disk, a frozen layer or the memory
//! of another machine, `/etc/shadow`. A root daemon could open them all, and would give what is in them to a guest. So
//!
//! - what is below the daemon's own directories is no image, by whatever name;
//! - a backing file is beside its image, or in a directory that the administrator named (`image_directories`) or below one.
//!
//! Both are asked of the real path, with all links resolved, before the file is opened. Of a file that is elsewhere nothing is said, not
//! even whether it is there.

use std::fs;
use std::path::{Path, PathBuf};

use ledger::failure::{Failure, Kind};

use crate::fault;
use crate::layout::Layout;

/// The rules, with the directories as they are now.
#[derive(Clone, Debug)]
pub struct Rules {
    ours: Vec<PathBuf>,
    named: Vec<PathBuf>,
}

impl Rules {
    /// `named` are the administrator's directories. One that is not there allows nothing.
    pub fn new(layout: &Layout, named: &[PathBuf]) -> Self {
        let real = |path: &Path| fs::canonicalize(path).ok();
        Self {
            ours: [layout.data(), layout.run()].into_iter().filter_map(real).collect(),
            named: named.iter().filter_map(|path| real(path)).collect(),
        }
    }

    /// Refuses a file of the daemon's own. `path` is a real path.
    ///
    /// # Errors
    /// When it is below the data or the run directory.
    pub fn require_foreign(&self, path: &Path) -> Result<(), Failure> {
        match self.ours.iter().find(|ours| path.starts_with(ours)) {
            None => Ok(()),
            Some(ours) => {
                let text =
                    format!("{} is below {}, where the service keeps its own files", path.display(), ours.display());
                Err(Failure::new(Kind::InvalidParameter, text).hint("keep images in another directory"))
            }
        }
    }

    /// The real path of the backing file `name` of an image. `image` is a real path.
    ///
    /// # Errors
    /// When it may not lie there, or is not there.
    pub fn backing_file(&self, image: &Path, name: &str) -> Result<PathBuf, Failure> {
        let beside = image.parent().unwrap_or(Path::new("/"));
        let target = beside.join(name);
        match fs::canonicalize(&target) {
            Ok(real) if self.allows(beside, &real) => Ok(real),
            Err(error) if self.would_allow(beside, &target) => Err(fault::file("find the image", &target, &error)),
            Ok(_) | Err(_) => Err(elsewhere(image, name)),
        }
    }

    fn allows(&self, beside: &Path, real: &Path) -> bool {
        let is_ours = self.ours.iter().any(|ours| real.starts_with(ours));
        let is_beside = real.parent() == Some(beside);
        !is_ours && (is_beside || self.named.iter().any(|named| real.starts_with(named)))
    }

    /// Whether a file of that name would be allowed if it were there.
    fn would_allow(&self, beside: &Path, target: &Path) -> bool {
        let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else { return false };
        fs::canonicalize(directory).is_ok_and(|directory| self.allows(beside, &directory.join(name)))
    }
}

fn elsewhere(image: &Path, name: &str) -> Failure {
    let text = format!("{} lies on {name}, which is not in the same directory", image.display());
    Failure::new(Kind::InvalidParameter, text).hint(
        "bring the files together and use `qemu-img rebase -u`, make one file of them with `qemu-img convert`, or let the \
         administrator add that directory to image_directories",
    )
}
