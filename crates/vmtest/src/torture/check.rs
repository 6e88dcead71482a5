//! What must hold whenever all is at rest: every file has somebody who needs it, every image is sound, and no process is
//! left that nobody waits for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::rig::{Rig, VM, violation};
use super::world::World;
use crate::fingerprint::chain;
use crate::service::{self, Error, Result, wait_for};

/// How long a process that has been told to end may take.
const ENDING: Duration = Duration::from_secs(20);
/// `qemu-img check`: clusters are allocated that nobody uses. Space lost, not data; what a killed writer leaves.
const LEAKED_CLUSTERS: i32 = 3;

/// Compares what lies in the data directory with what the service and the model know.
///
/// # Errors
/// If something is there that should not be, or the other way round.
pub fn files(rig: &Rig) -> Result<()> {
    let machine = rig.service.data().join("vms").join(&rig.guid);
    let images = entries(&machine.join("memory"))?;
    // Worlds that look the same from outside may differ in whether the machine has an image of its own.
    let expected: BTreeSet<usize> = rig.worlds().iter().map(World::images).collect();
    if !expected.contains(&images.len()) {
        return Err(violation(&format!("{} memory images on disk, not {expected:?}: {images:?}", images.len())));
    }
    let there: BTreeSet<PathBuf> = entries(&machine.join("disks"))?.into_iter().collect();
    let needed: BTreeSet<PathBuf> = needed_layers(rig)?.into_iter().filter(|path| path.starts_with(&machine)).collect();
    let leaked: Vec<_> = there.difference(&needed).collect();
    if !leaked.is_empty() {
        return Err(violation(&format!("layers that nobody needs: {leaked:?}; needed are {needed:?}")));
    }
    Ok(())
}

/// Runs `qemu-img check` over every layer that no guest is writing to.
///
/// # Errors
/// If one is damaged.
pub fn images(rig: &Rig) -> Result<()> {
    let live: Vec<PathBuf> = match rig.world()?.power.has_process() {
        true => tops(&rig.service.json(&["vm", "show", VM])?["devices"]["disks"]),
        false => Vec::new(),
    };
    for layer in needed_layers(rig)?.iter().filter(|layer| !live.contains(layer)) {
        let output = Command::new("qemu-img").args(["check", "-q", "-U"]).arg(layer).output();
        let output = output.map_err(|source| Error::Io { what: "running qemu-img check".into(), source })?;
        if !output.status.success() && output.status.code() != Some(LEAKED_CLUSTERS) {
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            return Err(violation(&format!("{} is damaged: {text}", layer.display())));
        }
    }
    Ok(())
}

/// Waits until exactly the processes are there that should be.
///
/// # Errors
/// If one too many stays, or the machine has none.
pub fn processes(rig: &Rig) -> Result<()> {
    let expected = usize::from(rig.world()?.power.has_process());
    wait_for("the processes that should be there, and no others", ENDING, || {
        let (emulators, storage) =
            (service::processes("qemu-system", &rig.guid)?, service::processes("qemu-storage-daemon", &rig.guid)?);
        Ok((emulators.len() == expected && storage.is_empty()).then_some(()))
    })
}

/// After the last snapshot has gone: the machine is in the files that its owner gave, and nothing else is left.
///
/// # Errors
/// If that is not so.
pub fn bare(rig: &Rig) -> Result<()> {
    let disks = tops(&rig.service.json(&["vm", "show", VM])?["devices"]["disks"]);
    let own = [0, 1].map(|disk| rig.service.directory().join(format!("{VM}-{disk}.qcow2")));
    if disks != own {
        return Err(violation(&format!("without snapshots the disks are {disks:?}, not {own:?}")));
    }
    files(rig)
}

/// Every layer that the machine or a snapshot reads, in any depth.
fn needed_layers(rig: &Rig) -> Result<BTreeSet<PathBuf>> {
    let mut heads = tops(&rig.service.json(&["vm", "show", VM])?["devices"]["disks"]);
    let World { snapshots, .. } = rig.world()?;
    for name in snapshots.keys() {
        heads.extend(tops(&rig.service.json(&["snapshot", "show", name, "--vm", VM])?["disks"]));
    }
    let mut layers = BTreeSet::new();
    for head in heads {
        if !layers.contains(&head) {
            layers.extend(chain(&head)?);
        }
    }
    Ok(layers)
}

fn tops(value: &Value) -> Vec<PathBuf> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(PathBuf::from).collect()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listing = std::fs::read_dir(directory)
        .map_err(|source| Error::Io { what: format!("listing {}", directory.display()), source })?;
    Ok(listing.flatten().map(|entry| entry.path()).collect())
}
