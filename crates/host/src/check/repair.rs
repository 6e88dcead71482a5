//! Puts right what a check has found and what can be put right without losing anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ledger::failure::Failure;
use ledger::snapshot::Format;
use ledger::state::State;

use super::findings::Repair;
use crate::fault;
use crate::hands::sync_directory_of;
use crate::inventory;
use crate::layout::Layout;
use crate::spec;
use crate::store_sqlite::DataLock;

/// Does one repair. The lock shows that no daemon is at work. What was done, in words.
///
/// # Errors
/// When it did not work. Then nothing is changed.
pub fn repair(
    layout: &Layout,
    _lock: &DataLock,
    qemu_img: &Path,
    state: &State,
    aside: &Path,
    repair: &Repair,
) -> Result<String, Failure> {
    match repair {
        Repair::WriteInventory(vm) => {
            let path = layout.inventory(*vm);
            inventory::write_of(layout, state, *vm).map_err(|error| fault::file("write", &path, &error))?;
            Ok(format!("wrote {}", path.display()))
        }
        Repair::SetAside(path) => {
            let to = set_aside(layout, aside, path).map_err(|error| fault::file("move aside", path, &error))?;
            Ok(format!("moved {} to {}", path.display(), to.display()))
        }
        Repair::Rebase { path, backing } => {
            rebase(qemu_img, path, backing.as_ref()).map_err(|error| fault::file("rebase", path, &error))?;
            Ok(match backing {
                Some((file, _)) => format!("{} names {} again", path.display(), file.display()),
                None => format!("{} names no file below it again", path.display()),
            })
        }
    }
}

/// Moves something below the directory `aside`, to where it was below the data directory.
fn set_aside(layout: &Layout, aside: &Path, path: &Path) -> io::Result<PathBuf> {
    let place = path.strip_prefix(layout.data()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let to = aside.join(place);
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::rename(path, &to)?;
    sync_directory_of(&to)?;
    sync_directory_of(path)?;
    Ok(to)
}

/// Writes the name of the file below into a header, and nothing else.
fn rebase(qemu_img: &Path, path: &Path, backing: Option<&(PathBuf, Format)>) -> io::Result<()> {
    let mut command = Command::new(qemu_img);
    command.args(["rebase", "-u", "-f", "qcow2"]);
    match backing {
        Some((file, format)) => command.args(["-F", spec::format(*format).driver(), "-b"]).arg(file),
        None => command.args(["-b", ""]),
    };
    let output = command.arg(path).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " / ")))
}
