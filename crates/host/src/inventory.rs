//! Inventories: one file in each machine's directory that says what the machine consists of.
//!
//! ```text
//!   commit durable ──keep──▶ <data>/vms/<VM>/inventory.jsonl, durable before anybody hears of the commit
//!   start of the daemon ──reconcile──▶ those that are missing or say something else are written anew
//! ```
//! The first line names the machine and the revision, each further one is a record of the store; each line has its own sum, so that
//! damage costs one record and not the machine. What is made of it when the store is lost is decided in [`ledger::inventory`].

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ledger::id::VmId;
use ledger::inventory::{self, Inventory};
use ledger::record::Stored;
use ledger::state::State;
use serde::{Deserialize, Serialize};

use crate::checked;
use crate::hands::{replace_file, sync_directory_of};
use crate::layout::Layout;

/// Version of the file.
const VERSION: u32 = 1;

/// Most bytes read of an inventory. Fifty snapshots of a machine with many disks take some hundred KiB.
const BYTES_MAX: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    vm: VmId,
    revision: u64,
    records: usize,
}

#[derive(Serialize, Deserialize)]
struct Record {
    kind: String,
    id: String,
    body: String,
}

/// What was read of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is whole of it.
    pub inventory: Inventory,
    /// How many records are damaged or missing.
    pub lost: usize,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// It cannot be read.
    #[error("could not read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its first line is of no use.
    #[error("{path} is of no use: {what}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// Keeps the inventories in step with the store. Clones are the same keeper.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Machines whose file could not be written.
    behind: BTreeSet<VmId>,
    /// Machines whose file was written by this daemon.
    written: BTreeSet<VmId>,
}

impl Keeper {
    /// For the machines of a data directory.
    pub fn new(layout: Layout) -> Self {
        Self(Arc::new(Inner { layout, kept: Mutex::default() }))
    }

    /// A commit is durable: writes down what it changed. What cannot be written is tried again with the next commit; the store is
    /// right all the same. Blocks.
    pub fn keep(&self, before: &State, after: &State) {
        let mut kept = self.kept();
        let mut machines = std::mem::take(&mut kept.behind);
        machines.extend(inventory::changed(before, after));
        for vm in machines {
            if let Err(error) = self.write(vm, after, &mut kept) {
                let path = self.0.layout.inventory(vm);
                tracing::warn!(path = %path.display(), %error, "is behind the store and will be tried again");
            }
        }
    }

    /// Brings the files of all machines in step with the state that a daemon starts with. One that is of a later revision is left
    /// alone: an older copy of the store may have been put back. Blocks; may run beside [`Self::keep`].
    pub fn reconcile(&self, state: &State) {
        let mut failed = Vec::new();
        for vm in inventory::going(state) {
            failed.extend(self.write(vm, state, &mut self.kept()).err());
        }
        for vm in state.vms.keys() {
            let Some(wanted) = inventory::of(state, *vm) else { continue };
            let path = self.0.layout.inventory(*vm);
            let mut kept = self.kept();
            if kept.written.contains(vm) {
                continue;
            }
            match read(&path) {
                Ok(found) if found.lost == 0 && found.inventory.records == wanted.records => {}
                Ok(found) if found.inventory.revision > wanted.revision => {
                    tracing::error!(path = %path.display(), "is of a later revision than the store and was left as it is");
                }
                _ => failed.extend(self.write(*vm, state, &mut kept).err()),
            }
        }
        if let Some(error) = failed.first() {
            let count = failed.len();
            tracing::warn!(count, %error, "inventories could not be written; see `snapvisor check`");
        }
    }

    fn write(&self, vm: VmId, state: &State, kept: &mut Kept) -> io::Result<()> {
        kept.written.insert(vm);
        let written = write_of(&self.0.layout, state, vm);
        // Where the machine's directory is gone there is nothing to describe.
        if written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            kept.behind.insert(vm);
        }
        written
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // What is in it is right after each line.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the inventory of a machine as it is on record.
///
/// # Errors
/// When it cannot be written.
pub fn write_of(layout: &Layout, state: &State, vm: VmId) -> io::Result<()> {
    let path = layout.inventory(vm);
    match inventory::of(state, vm) {
        Some(inventory) => write(&path, &inventory),
        None => forget(&path),
    }
}

/// Every inventory of a data directory that can be read, and why the others cannot.
pub fn read_all(layout: &Layout) -> (Vec<Found>, Vec<InventoryError>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for vm in machine_directories(layout) {
        match read(&layout.inventory(vm)) {
            Ok(read) if read.inventory.vm == vm => found.push(read),
            Ok(_) => {
                errors.push(InventoryError::Damaged { path: layout.inventory(vm), what: "it is of another machine" })
            }
            Err(InventoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => errors.push(error),
        }
    }
    (found, errors)
}

/// Machines that have a directory, by its name.
pub fn machine_directories(layout: &Layout) -> Vec<VmId> {
    let entries = fs::read_dir(layout.vms()).into_iter().flatten().flatten();
    let mut vms: Vec<VmId> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    vms.sort();
    vms
}

/// Reads one.
///
/// # Errors
/// When there is none, or its first line cannot be understood.
pub fn read(path: &Path) -> Result<Found, InventoryError> {
    let mut bytes = Vec::new();
    let opened = File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    opened.map_err(|source| InventoryError::Io { path: path.to_owned(), source })?;
    parse(&String::from_utf8_lossy(&bytes)).map_err(|what| InventoryError::Damaged { path: path.to_owned(), what })
}

fn parse(text: &str) -> Result<Found, &'static str> {
    let mut lines = text.lines();
    let first = lines.next().and_then(checked::read).ok_or("its first line is damaged")?;
    let head: Head = serde_json::from_str(first).map_err(|_| "its first line is of another form")?;
    if head.version > VERSION {
        return Err("it was written by a newer program");
    }
    let record = |line: &str| serde_json::from_str::<Record>(checked::read(line)?).ok();
    let whole = lines.filter_map(record).map(|Record { kind, id, body }| Stored { kind, id, body });
    let records: Vec<Stored> = whole.collect();
    let lost = head.records.saturating_sub(records.len());
    Ok(Found { inventory: Inventory { vm: head.vm, revision: head.revision, records }, lost })
}

fn write(path: &Path, inventory: &Inventory) -> io::Result<()> {
    replace_file(path, print(inventory)?.as_bytes())?;
    sync_directory_of(path)
}

fn print(inventory: &Inventory) -> io::Result<String> {
    let Inventory { vm, revision, records } = inventory;
    let head = Head { version: VERSION, vm: *vm, revision: *revision, records: records.len() };
    let mut text = checked::line(&serde_json::to_string(&head)?) + "\n";
    for Stored { kind, id, body } in records {
        let record = Record { kind: kind.clone(), id: id.clone(), body: body.clone() };
        text += &checked::line(&serde_json::to_string(&record)?);
        text.push('\n');
    }
    Ok(text)
}

/// The machine is not on record any more: nobody may find it again.
fn forget(path: &Path) -> io::Result<()> {
    let removed = fs::remove_file(path).and_then(|()| sync_directory_of(path));
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn inventory() -> Inventory {
        let record =
            |kind: &str| Stored { kind: kind.into(), id: "7".into(), body: r#"{"version":1,"x":"\n"}"#.into() };
        Inventory { vm: VmId(Uuid::from_u128(7)), revision: 12, records: vec![record("vm"), record("snapshot")] }
    }

    #[test]
    fn what_is_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("inventory.jsonl");
        write(&path, &inventory()).unwrap();
        assert_eq!(read(&path).unwrap(), Found { inventory: inventory(), lost: 0 });
        forget(&path).unwrap();
        forget(&path).unwrap();
        assert!(matches!(read(&path), Err(InventoryError::Io { .. })));
    }

    #[test]
    fn damage_costs_a_record_and_never_changes_one() {
        let text = print(&inventory()).unwrap();
        let first = text.lines().next().unwrap().len();
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= 4;
            match parse(&String::from_utf8_lossy(&bytes)) {
                Err(_) => assert!(position <= first, "position {position}"),
                Ok(found) => {
                    assert!(position >= first, "position {position}");
                    let whole = inventory().records;
                    assert!(found.lost > 0 || found.inventory.records == whole);
                    assert!(found.inventory.records.iter().all(|record| whole.contains(record)));
                }
            }
            let cut = parse(&text[..position]);
            assert!(cut.is_ok_and(|found| found.lost > 0 || position + 1 == text.len()) || position < first);
        }
    }
}
