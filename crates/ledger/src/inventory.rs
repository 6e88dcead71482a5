//! What a machine's own directory must tell, so that it can be put on record again if the store is lost.
//!
//! ```text
//!   State ──records──▶ inventory beside the machine's files
//!   store, as far as it can be read ─┐
//!   inventories ─────────────────────┴─recover──▶ State, and a note on everything that was decided
//! ```
//! An inventory is the machine, its snapshots, layers and memory images, as of the revision that changed one of them last. The
//! unfinished job of that revision is in it only for the files that it was about to delete; no job is taken up again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::id::{LayerId, SnapshotId, VmId};
use crate::job::{Job, JobKind, Stage};
use crate::record::{Key, RecordError, Stored, rebuild, stored};
use crate::snapshot::{Format, Layer, Origin};
use crate::state::State;
use crate::vm::{Power, Vm};

/// What one machine consists of, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The machine.
    pub vm: VmId,
    /// Revision of the store at which this was written.
    pub revision: u64,
    /// The machine, its snapshots, layers and memory images, as the store keeps them.
    pub records: Vec<Stored>,
}

/// A layer file that is in a machine's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLayer {
    /// The layer that the file is named after.
    pub layer: LayerId,
    /// Its path.
    pub path: PathBuf,
    /// The file it lies on, by its header.
    pub backing: Option<PathBuf>,
    /// Virtual size in bytes.
    pub size: u64,
}

/// What is there to recover from, all of it looked up by the caller.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// The store's revision and records, if it can be read.
    pub store: Option<(u64, Vec<Stored>)>,
    /// What machines' directories tell.
    pub inventories: Vec<Inventory>,
    /// Machines whose process is alive, and the files that it may write to.
    pub alive: BTreeMap<VmId, BTreeSet<PathBuf>>,
    /// Layer files found, by machine.
    pub layers: BTreeMap<VmId, Vec<FoundLayer>>,
    /// Machines to be taken from their inventory although a later store does not have them any more.
    pub wanted: BTreeSet<VmId>,
}

/// What recovery leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// What exists.
    pub state: State,
    /// What was decided, for people, in order.
    pub notes: Vec<Note>,
    /// Files that are live disks from now on because they were found, not because a record says so, and what they lie on. Whoever made
    /// the former may not have come to bring them to stable storage; the latter, on which snapshots may rest from now on, were live until
    /// a machine lost its process. All that is to be done, with the files' names, before `state` counts.
    pub unsettled: Vec<PathBuf>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// About which machine.
    pub vm: VmId,
    /// What it is about.
    pub text: String,
    /// Whether something could not be recovered, or is left to the reader.
    pub warning: bool,
}

/// The records of one machine; `None` if it does not exist.
pub fn of(state: &State, vm: VmId) -> Option<Inventory> {
    let machine = state.vms.get(&vm)?;
    let mut records = vec![stored(Key::Vm(vm), &**machine)];
    records.extend(state.snapshots_of(vm).map(|snapshot| stored(Key::Snapshot(snapshot.id), &**snapshot)));
    records.extend(state.layers_of(vm).map(|layer| stored(Key::Layer(layer.id), &**layer)));
    records.extend(state.memories_of(vm).map(|memory| stored(Key::Memory(memory.id), &**memory)));
    records.extend(state.active_job(vm).map(|job| stored(Key::Job(job.id), &**job)));
    Some(Inventory { vm, revision: state.revision, records })
}

/// Machines whose removal is unfinished: they must not describe themselves any more, or a lost store would bring them back without
/// their files.
pub fn going(state: &State) -> BTreeSet<VmId> {
    let goes = |job: &&std::sync::Arc<Job>| job.kind == JobKind::DestroyVm && !job.state.is_final();
    state.jobs.values().filter(goes).map(|job| job.vm).collect()
}

/// Machines whose inventory differs between two states, those that are gone included.
pub fn changed(before: &State, after: &State) -> BTreeSet<VmId> {
    let mut vms: BTreeSet<VmId> = after.changed_vms(before).into_iter().map(|change| change.id).collect();
    vms.extend(after.changed_snapshots(before).iter().flat_map(|change| change.versions()).map(|it| it.vm));
    vms.extend(after.changed_layers(before).iter().flat_map(|change| change.versions()).map(|it| it.vm));
    vms.extend(after.changed_memories(before).iter().flat_map(|change| change.versions()).map(|it| it.vm));
    vms
}

/// Puts together what there is. A machine is taken from where it is newest; one that a later store does not have was removed, and is
/// left out unless it is wanted.
///
/// # Errors
/// When the store's records can be read and make no sense. Then recover from the inventories alone.
pub fn recover(remains: &Remains) -> Result<Recovered, RecordError> {
    let mut recovered = Recovered::default();
    let known = match &remains.store {
        Some((revision, records)) => Some((*revision, rebuild(*revision, records)?)),
        None => None,
    };
    if let Some((_, state)) = &known {
        recovered.state = state.clone();
    }
    for inventory in &remains.inventories {
        let recorded = known.as_ref().map(|(revision, state)| (*revision, state.vms.contains_key(&inventory.vm)));
        match recorded {
            Some((revision, true)) if inventory.revision <= revision => {}
            Some((revision, false)) if inventory.revision <= revision && !remains.wanted.contains(&inventory.vm) => {
                let text = format!(
                    "left out: it was removed after revision {}, and its files are still there; name it with --adopt to have it back",
                    inventory.revision
                );
                recovered.note(inventory.vm, true, text);
            }
            _ => recovered.take(inventory, remains),
        }
    }
    recovered.state.revision = newest(remains) + 1;
    Ok(recovered)
}

fn newest(remains: &Remains) -> u64 {
    let store = remains.store.as_ref().map(|(revision, _)| *revision);
    remains.inventories.iter().map(|inventory| inventory.revision).chain(store).max().unwrap_or(0)
}

impl Recovered {
    fn note(&mut self, vm: VmId, warning: bool, text: impl Into<String>) {
        self.notes.push(Note { vm, text: text.into(), warning });
    }

    /// Puts a machine on record as its inventory says, in the place of what is there of it.
    fn take(&mut self, inventory: &Inventory, remains: &Remains) {
        let vm = inventory.vm;
        let found = match rebuild(inventory.revision, &inventory.records) {
            Ok(found) if found.vms.contains_key(&vm) => found,
            Ok(_) => return self.note(vm, true, "left out: the record of the machine itself is missing or damaged"),
            Err(error) => return self.note(vm, true, format!("left out: {error}")),
        };
        self.forget(vm);
        let Some(machine) = found.vms.get(&vm) else { return };
        let mut machine = Vm::clone(machine);
        for snapshot in found.snapshots_of(vm) {
            self.state.put_snapshot((**snapshot).clone());
        }
        for layer in found.layers_of(vm) {
            self.state.put_layer(Layer::clone(layer));
        }
        for memory in found.memories_of(vm) {
            self.state.put_memory((**memory).clone());
        }
        machine.garbage.extend(found.active_job(vm).and_then(|job| doomed(&job.stage)).into_iter().flatten().cloned());
        let process = remains.alive.get(&vm);
        self.settle(&mut machine, process.is_some());
        self.mend_references(&mut machine);
        self.adopt_tops(&mut machine, remains.layers.get(&vm).map_or(&[][..], Vec::as_slice), process);
        if let Some(path) = process.and_then(|process| self.elsewhere(&machine, process)) {
            self.forget(vm);
            // The guest of such a process stands still: a merge leaves it so until the record says what it writes to.
            let text = format!(
                "left out: its process does not write to {}, which is its disk: a merge was under way. End that process, which loses \
                 what is in the guest's memory only, and recover again with --adopt {vm}",
                path.display()
            );
            return self.note(vm, true, text);
        }
        let snapshots = self.state.snapshots_of(vm).count();
        let plural = if snapshots == 1 { "" } else { "s" };
        self.note(vm, false, format!("'{}' is back with {snapshots} snapshot{plural}", machine.name));
        self.state.put_vm(machine);
    }

    /// A live disk that the machine's process does not write to.
    fn elsewhere(&self, machine: &Vm, process: &BTreeSet<PathBuf>) -> Option<PathBuf> {
        let live = machine.settings.layers().into_iter().filter_map(|(_, top)| self.state.layers.get(&top));
        live.map(|layer| layer.path.clone()).find(|path| !process.contains(path))
    }

    fn forget(&mut self, vm: VmId) {
        let snapshots: Vec<SnapshotId> = self.state.snapshots_of(vm).map(|it| it.id).collect();
        snapshots.into_iter().for_each(|id| self.state.remove_snapshot(id));
        let layers: Vec<LayerId> = self.state.layers_of(vm).map(|it| it.id).collect();
        layers.into_iter().for_each(|id| self.state.remove_layer(id));
        let memories: Vec<_> = self.state.memories_of(vm).map(|it| it.id).collect();
        memories.into_iter().for_each(|id| self.state.remove_memory(id));
        let jobs: Vec<_> = self.state.jobs_of(vm).map(|it| it.id).collect();
        jobs.into_iter().for_each(|id| self.state.remove_job(id));
        self.state.remove_vm(vm);
    }

    /// No job leads on from where the machine was. What its process does is looked at when the daemon starts; memory that its guest
    /// may have run from is of the past.
    fn settle(&mut self, machine: &mut Vm, alive: bool) {
        let may_have_run = alive || machine.power == Power::Starting;
        if machine.saved.is_some() && may_have_run {
            machine.saved = None;
            let text = "its saved memory is not used any more: the guest may have run on from it since";
            self.note(machine.id, true, text);
        }
        machine.power = match (alive, machine.saved) {
            // Of one that runs the daemon hears so; one that never came to run is as good as paused, and can be turned off.
            (true, _) => Power::Paused,
            (false, Some(_)) => Power::Saved,
            (false, None) => Power::Off,
        };
    }

    /// A damaged line takes one record away; what referred to it must do without.
    fn mend_references(&mut self, machine: &mut Vm) {
        let vm = machine.id;
        let layer_is_there = |state: &State, id: LayerId| !state.chain(id).is_empty() && is_grounded(state, id);
        let broken: Vec<_> = self
            .state
            .snapshots_of(vm)
            .filter(|it| it.settings.layers().iter().any(|(_, layer)| !layer_is_there(&self.state, *layer)))
            .map(|it| (it.id, it.name.clone(), it.parent))
            .collect();
        for (id, name, parent) in broken {
            self.state.remove_snapshot(id);
            let children: Vec<_> =
                self.state.snapshots_of(vm).filter(|it| it.parent == Some(id)).map(|it| it.id).collect();
            children.into_iter().for_each(|child| self.state.update_snapshot(child, |it| it.parent = parent));
            if machine.parent == Some(id) {
                machine.parent = parent;
            }
            self.note(
                vm,
                true,
                format!("snapshot '{name}' is left out: the record of one of its disk layers is damaged"),
            );
        }
        let lost: Vec<_> =
            self.state.snapshots_of(vm).map(|it| (it.id, it.parent, it.memory, it.name.clone())).collect();
        for (id, parent, memory, name) in lost {
            if parent.is_some_and(|parent| !self.state.snapshots.contains_key(&parent)) {
                self.state.update_snapshot(id, |it| it.parent = None);
            }
            if memory.is_some_and(|memory| !self.state.memories.contains_key(&memory)) {
                self.state.update_snapshot(id, |it| it.memory = None);
                let text = format!("snapshot '{name}' is back without its memory, whose record is damaged");
                self.note(vm, true, text);
            }
        }
        let there = |id: &SnapshotId| self.state.snapshots.contains_key(id);
        machine.parent = machine.parent.filter(there);
        machine.last_applied = machine.last_applied.filter(there);
        let lost: Vec<_> =
            machine.settings.layers().into_iter().filter(|(_, layer)| !layer_is_there(&self.state, *layer)).collect();
        for (slot, layer) in lost {
            for drive in &mut machine.settings.drives {
                drive.disk = drive.disk.filter(|disk| *disk != layer);
            }
            machine.settings.nvram = machine.settings.nvram.filter(|known| *known != layer);
            self.note(vm, true, format!("the disk in {slot:?} is not back: the record of layer {layer} is damaged"));
        }
    }

    /// A layer file that nobody knows and that lies on a live top is one that a job was about to make the new top, or had: a guest may
    /// have written to it. One that was never written reads like what is below it, so it is right to take it as live. Not so one that
    /// was merged into the layer below and waits to be deleted: what it holds is of the past. A process that lives knows better: its tops are
    /// what it writes to.
    fn adopt_tops(&mut self, machine: &mut Vm, found: &[FoundLayer], process: Option<&BTreeSet<PathBuf>>) {
        // Twice as often as a machine has layers nobody can have gone round.
        for _ in 0..found.len() {
            let live = machine.settings.layers();
            let unknown = |it: &&FoundLayer| {
                let used = process.is_none_or(|process| process.contains(&it.path));
                used && !self.state.layers.contains_key(&it.layer) && !machine.garbage.contains(&it.path)
            };
            let on_live = |it: &FoundLayer| {
                let path = it.backing.as_ref()?;
                live.iter().find(|(_, top)| self.state.layers.get(top).is_some_and(|top| top.path == *path)).copied()
            };
            let Some((file, (slot, parent))) = found.iter().filter(unknown).find_map(|it| Some((it, on_live(it)?)))
            else {
                return;
            };
            self.state.put_layer(Layer {
                id: file.layer,
                vm: machine.id,
                path: file.path.clone(),
                format: Format::Qcow2,
                parent: Some(parent),
                origin: Origin::Created,
                size: file.size,
                merging: None,
            });
            machine.settings.set_layer(slot, file.layer);
            self.unsettled.push(file.path.clone());
            self.unsettled.extend(self.state.layers.get(&parent).map(|below| below.path.clone()));
            let text =
                format!("{} was made by an unfinished job; it is the machine's live disk now", file.path.display());
            self.note(machine.id, false, text);
        }
    }
}

/// Files that a job in this stage deletes next.
fn doomed(stage: &Stage) -> Option<&Vec<PathBuf>> {
    match stage {
        Stage::ResumingAfterMerge { paths, .. } | Stage::Describing { paths, .. } | Stage::Deleting { paths, .. } => {
            Some(paths)
        }
        _ => None,
    }
}

/// Whether the chain under a layer ends at one that lies on nothing, and does not break off before.
fn is_grounded(state: &State, top: LayerId) -> bool {
    state.chain(top).last().is_some_and(|base| base.parent.is_none())
}
