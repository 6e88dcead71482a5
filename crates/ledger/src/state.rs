//! Everything that exists, and the invariants between its parts.
//!
//! The maps are persistent: a clone shares all entries, so a reader can hold a [`State`] as long as it likes while the
//! driver goes on, and publishing one costs a few pointers. Entities are behind `Arc` and replaced whole.
//!
//! # Invariants, checked by [`State::check`]
//! 1. Every reference resolves: machine, snapshot, layer, memory, parent.
//! 2. A machine's active layer is used by nothing else: no snapshot, no other slot, no layer on top of it.
//! 3. Parents form forests: no cycles among snapshots, none among layers.
//! 4. A saved machine has memory; one with a process has none, unless it is being started from it or quits after saving it.
//! 5. At most one unfinished job per machine.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::id::{JobId, LayerId, MemoryId, SnapshotId, VmId};
use crate::job::Job;
use crate::snapshot::{Layer, Memory, Snapshot};
use crate::vm::{Power, Vm};

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Microseconds from `earlier` to `self`; zero if the clock was set back in between.
    pub fn micros_since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// All that exists at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Grows by one with each durable commit.
    pub revision: u64,
    /// Machines.
    pub vms: OrdMap<VmId, Arc<Vm>>,
    /// Snapshots of all machines.
    pub snapshots: OrdMap<SnapshotId, Arc<Snapshot>>,
    /// Disk image files.
    pub layers: OrdMap<LayerId, Arc<Layer>>,
    /// Memory images.
    pub memories: OrdMap<MemoryId, Arc<Memory>>,
    /// Running jobs, and finished ones until they are forgotten.
    pub jobs: OrdMap<JobId, Arc<Job>>,
    /// Index: what belongs to a machine. Derived from the maps above by the `put_` and `remove_` methods.
    owned: OrdMap<VmId, Owned>,
}

/// Index entry: the parts of one machine.
#[derive(Clone, Debug, Default, PartialEq)]
struct Owned {
    snapshots: OrdSet<SnapshotId>,
    layers: OrdSet<LayerId>,
    memories: OrdSet<MemoryId>,
    jobs: OrdSet<JobId>,
}

macro_rules! owned_entity {
    ($map:ident, $id:ty, $entity:ty, $put:ident, $remove:ident, $of:ident) => {
        /// Inserts or replaces, and keeps the index by machine.
        pub fn $put(&mut self, entity: $entity) {
            self.owned.entry(entity.vm).or_default().$map.insert(entity.id);
            self.$map.insert(entity.id, Arc::new(entity));
        }

        /// Removes, if it is there.
        pub fn $remove(&mut self, id: $id) {
            if let Some(entity) = self.$map.remove(&id) {
                if let Some(owned) = self.owned.get_mut(&entity.vm) {
                    owned.$map.remove(&id);
                }
            }
        }

        /// All that belong to one machine, by id.
        pub fn $of(&self, vm: VmId) -> impl Iterator<Item = &Arc<$entity>> {
            let ids = self.owned.get(&vm).map(|owned| owned.$map.iter());
            ids.into_iter().flatten().filter_map(|id| self.$map.get(id))
        }
    };
}

impl State {
    owned_entity!(snapshots, SnapshotId, Snapshot, put_snapshot, remove_snapshot, snapshots_of);
    owned_entity!(layers, LayerId, Layer, put_layer, remove_layer, layers_of);
    owned_entity!(memories, MemoryId, Memory, put_memory, remove_memory, memories_of);
    owned_entity!(jobs, JobId, Job, put_job, remove_job, jobs_of);

    /// Inserts or replaces a machine.
    pub fn put_vm(&mut self, vm: Vm) {
        self.vms.insert(vm.id, Arc::new(vm));
    }

    /// Removes a machine; its parts must be gone before, except jobs.
    pub fn remove_vm(&mut self, id: VmId) {
        self.vms.remove(&id);
    }

    /// Changes a machine in place, if it exists. One that stays as it was goes on sharing its entry with earlier states.
    pub fn update_vm(&mut self, id: VmId, change: impl FnOnce(&mut Vm)) {
        if let Some(before) = self.vms.get(&id) {
            let mut vm = Vm::clone(before);
            change(&mut vm);
            if vm != **before {
                self.put_vm(vm);
            }
        }
    }

    /// Changes a snapshot in place, if it exists.
    pub fn update_snapshot(&mut self, id: SnapshotId, change: impl FnOnce(&mut Snapshot)) {
        if let Some(snapshot) = self.snapshots.get(&id) {
            let mut snapshot = Snapshot::clone(snapshot);
            change(&mut snapshot);
            self.put_snapshot(snapshot);
        }
    }

    /// Changes a job in place, if it exists.
    pub fn update_job(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.get(&id) {
            let mut job = Job::clone(job);
            change(&mut job);
            self.put_job(job);
        }
    }

    /// The machine that follows `after` in the order of ids; the first one after `None`. With its siblings below it is for readers that
    /// walk through everything and keep nothing but their place.
    pub fn next_vm(&self, after: Option<VmId>) -> Option<VmId> {
        self.vms.range(behind(after)).next().map(|(id, _)| *id)
    }

    /// The job that follows.
    pub fn next_job(&self, after: Option<JobId>) -> Option<JobId> {
        self.jobs.range(behind(after)).next().map(|(id, _)| *id)
    }

    /// The unfinished job of a machine, if there is one.
    pub fn active_job(&self, vm: VmId) -> Option<&Arc<Job>> {
        self.jobs_of(vm).find(|job| !job.state.is_final())
    }

    /// Snapshots whose parent is `id`.
    pub fn children_of(&self, snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Snapshot>> {
        let id = snapshot.id;
        self.snapshots_of(snapshot.vm).filter(move |child| child.parent == Some(id))
    }

    /// Whether `id` is `ancestor` or descends from it.
    pub fn descends_from(&self, id: Option<SnapshotId>, ancestor: SnapshotId) -> bool {
        let mut current = id;
        // A forest has no path longer than its number of nodes; the bound keeps a damaged store from hanging us.
        for _ in 0..=self.snapshots.len() {
            match current {
                Some(id) if id == ancestor => return true,
                Some(id) => current = self.snapshots.get(&id).and_then(|snapshot| snapshot.parent),
                None => return false,
            }
        }
        false
    }

    /// The layers from `top` down to the base. Empty if `top` does not exist.
    pub fn chain(&self, top: LayerId) -> Vec<&Arc<Layer>> {
        let mut chain = Vec::new();
        let mut next = Some(top);
        while let Some(layer) = next.and_then(|id| self.layers.get(&id)) {
            if chain.len() > self.layers.len() {
                break;
            }
            chain.push(layer);
            next = layer.parent;
        }
        chain
    }

    /// Every broken invariant, in words; empty if all hold.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        self.check_references(&mut broken);
        self.check_layers(&mut broken);
        for vm in self.vms.values() {
            if vm.power == Power::Saved && vm.saved.is_none() {
                broken.push(format!("{} is saved but has no memory", vm.id));
            }
            if vm.saved.is_some() && !matches!(vm.power, Power::Saved | Power::Starting | Power::Saving) {
                broken.push(format!("{} is {:?} and has saved memory", vm.id, vm.power));
            }
            let unfinished = self.jobs_of(vm.id).filter(|job| !job.state.is_final()).count();
            if unfinished > 1 {
                broken.push(format!("{} has {unfinished} unfinished jobs", vm.id));
            }
        }
        broken
    }

    fn check_references(&self, broken: &mut Vec<String>) {
        let mut missing = |what: &str, id: &dyn fmt::Display, found: bool| {
            if !found {
                broken.push(format!("{what} {id} does not exist"));
            }
        };
        for vm in self.vms.values() {
            for snapshot in [vm.parent, vm.last_applied].into_iter().flatten() {
                missing("snapshot of machine", &snapshot, self.snapshots.contains_key(&snapshot));
            }
            if let Some(memory) = vm.saved {
                missing("memory of machine", &memory, self.memories.contains_key(&memory));
            }
            for (_, layer) in vm.settings.layers() {
                missing("layer of machine", &layer, self.layers.contains_key(&layer));
            }
        }
        for snapshot in self.snapshots.values() {
            missing("machine of snapshot", &snapshot.vm, self.vms.contains_key(&snapshot.vm));
            if let Some(parent) = snapshot.parent {
                missing("parent of snapshot", &parent, self.snapshots.contains_key(&parent));
            }
            if let Some(memory) = snapshot.memory {
                missing("memory of snapshot", &memory, self.memories.contains_key(&memory));
            }
            for (_, layer) in snapshot.settings.layers() {
                missing("layer of snapshot", &layer, self.layers.contains_key(&layer));
            }
        }
        for layer in self.layers.values() {
            if let Some(parent) = layer.parent {
                missing("parent of layer", &parent, self.layers.contains_key(&parent));
            }
        }
        if let Some(id) = in_a_circle(self.snapshots.keys(), |id| self.snapshots.get(id)?.parent) {
            missing("first ancestor of snapshot", &id, false);
        }
        if let Some(id) = in_a_circle(self.layers.keys(), |id| self.layers.get(id)?.parent) {
            missing("end of the chain of layer", &id, false);
        }
    }

    fn check_layers(&self, broken: &mut Vec<String>) {
        let frozen: HashSet<LayerId> = self
            .snapshots
            .values()
            .flat_map(|snapshot| snapshot.settings.layers())
            .map(|(_, layer)| layer)
            .chain(self.layers.values().filter_map(|layer| layer.parent))
            .collect();
        let mut active = HashSet::new();
        for vm in self.vms.values() {
            for (_, layer) in vm.settings.layers() {
                if frozen.contains(&layer) {
                    broken.push(format!("active layer {layer} of {} is needed by something else", vm.id));
                }
                if !active.insert(layer) {
                    broken.push(format!("layer {layer} is active twice"));
                }
            }
        }
    }
}

/// One that is its own ancestor, if there is any. Each is gone through once, however deep the forest: walks stop at what an earlier
/// one has gone through.
fn in_a_circle<'a, I: Copy + Eq + Hash + 'a>(
    ids: impl Iterator<Item = &'a I>,
    parent: impl Fn(&I) -> Option<I>,
) -> Option<I> {
    let mut walks: HashMap<I, usize> = HashMap::new();
    for (walk, start) in ids.enumerate() {
        let mut next = Some(*start);
        while let Some(id) = next {
            match walks.get(&id) {
                Some(earlier) if *earlier == walk => return Some(id),
                Some(_) => break,
                None => walks.insert(id, walk),
            };
            next = parent(&id);
        }
    }
    None
}

fn behind<I>(after: Option<I>) -> (Bound<I>, Bound<I>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

#[cfg(test)]
mod tests {
    use super::in_a_circle;

    #[test]
    fn circles_are_found_and_forests_are_not_taken_for_one() {
        fn check(parents: &[Option<usize>], expected: bool) {
            let ids: Vec<usize> = (0..parents.len()).collect();
            let found = in_a_circle(ids.iter(), |id| parents.get(*id).copied().flatten());
            assert_eq!(found.is_some(), expected, "{parents:?}");
        }
        check(&[], false);
        check(&[None, Some(0), Some(1), Some(1), None], false);
        check(&[Some(1), Some(2), None], false);
        check(&[Some(7)], false);
        check(&[Some(0)], true);
        check(&[None, Some(2), Some(3), Some(1)], true);
        check(&[Some(1), Some(2), Some(1)], true);
    }
}
