//! Puts right what a check has found and what can be put right without losing anything.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ledger::failure::Failure;
use ledger::snapshot::Format;
use ledger::state::State;

use super::findings::Repair;
use crate::account::{self, Account};
use crate::fault;
use crate::hands::{sync_directory_of, sync_file};
use crate::inventory;
use crate::layout::Layout;
use crate::seal::{Sealed, Seals};
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
        Repair::Rebase { vm, layer, path, backing } => {
            Seals::new(layout.clone()).forget(*vm, &Sealed::Layer(*layer, path.clone(), Format::Qcow2))?;
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

/// A program that is to work on an image, as the image's owner: a guest may have had a hand in what it reads.
///
/// # Errors
/// When the image is not there.
pub fn as_owner(program: &Path, image: &Path) -> io::Result<Command> {
    let meta = fs::metadata(image)?;
    let owner = Account { uid: meta.uid(), gid: meta.gid() };
    let mut command = Command::new(program);
    account::run_as(&mut command, rustix::process::geteuid().is_root().then_some(owner));
    command.stdin(Stdio::null()).current_dir("/");
    Ok(command)
}

/// Writes the name of the file below into a header, and nothing else.
fn rebase(qemu_img: &Path, path: &Path, backing: Option<&(PathBuf, Format)>) -> io::Result<()> {
    let mut command = as_owner(qemu_img, path)?;
    command.args(["rebase", "-u", "-f", "qcow2"]);
    match backing {
        Some((file, format)) => command.args(["-F", spec::format(*format).driver(), "-b"]).arg(file),
        None => command.args(["-b", ""]),
    };
    let output = command.arg(path).output()?;
    if output.status.success() {
        return sync_file(path);
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " / ")))
}
