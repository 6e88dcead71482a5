//! What is left when the store is lost, and a new store made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ledger::id::VmId;
use ledger::inventory::{FoundLayer, Inventory, Recovered, Remains, recover};
use ledger::record::StoreError;

use super::survey::{alive, header_of, machine_entries};
use super::users::Users;
use crate::hands::sync_file;
use crate::image_lock::{self, Use};
use crate::inventory;
use crate::layout::Layout;
use crate::store_sqlite::{DataLock, SqliteStore, read_mark};

/// What a recovery would do.
#[derive(Debug)]
pub struct Plan {
    /// Why the store as it is cannot be used, if it cannot.
    pub store: Result<Option<u64>, String>,
    /// The store is an older copy than what there was.
    pub stale: bool,
    /// Inventories that are of no use, in words.
    pub unusable: Vec<String>,
    /// What would be on record.
    pub recovered: Recovered,
}

/// Looks at what there is and decides. Changes nothing. `wanted` are machines that a later store does not have any more.
///
/// # Errors
/// When what would come of it contradicts itself.
pub fn plan(layout: &Layout, wanted: BTreeSet<VmId>) -> Result<Plan, String> {
    let found = SqliteStore::look(layout);
    let (inventories, errors) = inventory::read_all(layout);
    let mut unusable: Vec<String> = errors.iter().map(ToString::to_string).collect();
    unusable.extend(
        inventories
            .iter()
            .filter(|it| it.lost > 0)
            .map(|it| format!("{}: {} records are damaged", layout.inventory(it.inventory.vm).display(), it.lost)),
    );
    let inventories: Vec<Inventory> = inventories.into_iter().map(|it| it.inventory).collect();
    let vms: BTreeSet<VmId> = inventories.iter().map(|it| it.vm).collect();
    let mut remains = Remains {
        store: None,
        alive: processes(layout, &vms),
        layers: vms.iter().map(|vm| (*vm, layers(layout, *vm))).collect::<BTreeMap<_, _>>(),
        inventories,
        wanted,
    };
    let store = match found {
        Ok(found) => {
            let revision = found.as_ref().map(|(revision, _)| *revision);
            remains.store = found;
            Ok(revision)
        }
        Err(StoreError::Failed(reason)) => Err(reason),
        Err(error) => Err(error.to_string()),
    };
    let (store, recovered) = match recover(&remains) {
        Ok(recovered) if recovered.state.check().is_empty() => (store, recovered),
        outcome => {
            // Its records can be read and make no sense: the machines' own words must do.
            let reason = match outcome {
                Ok(recovered) => recovered.state.check().join("; "),
                Err(error) => error.to_string(),
            };
            remains.store = None;
            (Err(reason), recover(&remains).map_err(|error| error.to_string())?)
        }
    };
    match recovered.state.check().into_iter().next() {
        Some(broken) => Err(format!("what is left contradicts itself: {broken}")),
        None => {
            let stale = matches!((&store, read_mark(layout)), (Ok(Some(found)), Some(mark)) if mark > *found);
            Ok(Plan { store, stale, unusable, recovered })
        }
    }
}

/// Makes the new store; the old one is moved into `aside`. Before that, files that it takes for live disks are brought to stable storage,
/// and those that they lie on. One that is missing cannot be lost: it is for the machine's owner to find, and no obstacle to all others.
///
/// # Errors
/// When a file cannot be synchronised, written or moved.
pub fn put_in_place(layout: &Layout, lock: &DataLock, aside: &Path, plan: &Plan) -> Result<(), StoreError> {
    for path in &plan.recovered.unsettled {
        match sync_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Failed(format!("'{}' cannot be synchronised: {error}", path.display())));
            }
            _ => {}
        }
    }
    SqliteStore::replace(layout, lock, aside, &plan.recovered.state)
}

/// The machines that have a process, and what it writes to.
fn processes(layout: &Layout, vms: &BTreeSet<VmId>) -> BTreeMap<VmId, BTreeSet<PathBuf>> {
    let users = Users::look();
    let alive = vms.iter().filter_map(|vm| Some((*vm, alive(&layout.identity(*vm))?)));
    // Of a former top QEMU keeps the descriptor and gives up the lock.
    let written = |path: &PathBuf| {
        let meta = fs::metadata(path);
        meta.is_ok_and(|meta| {
            image_lock::used_by_others(meta.dev(), meta.ino()).is_ok_and(|found| found == Use::Written)
        })
    };
    alive.map(|(vm, pid)| (vm, users.written_by(pid).into_iter().filter(written).collect())).collect()
}

/// The layer files in a machine's directory, by their names and headers.
fn layers(layout: &Layout, vm: VmId) -> Vec<FoundLayer> {
    let entries = machine_entries(layout, vm).into_iter();
    let images = entries.filter(|path| path.extension().is_some_and(|extension| extension == "qcow2"));
    let found = images.filter_map(|path| {
        let layer = path.file_stem()?.to_str()?.parse().ok()?;
        let header = header_of(&path).ok()?;
        Some(FoundLayer { layer, backing: header.backing, size: header.size, path })
    });
    found.collect()
}
