//! What differs between two states, by identity.
//!
//! States share what has not changed, so the cost follows from the changes and not from what exists.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::id::{JobId, LayerId, MemoryId, SnapshotId, VmId};
use crate::job::Job;
use crate::snapshot::{Layer, Memory, Snapshot};
use crate::state::State;
use crate::vm::Vm;

/// An entity that was added, replaced or removed: before, and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<I, E> {
    /// Its identity.
    pub id: I,
    /// What it was; `None` if it did not exist.
    pub before: Option<Arc<E>>,
    /// What it is; `None` if it is gone.
    pub after: Option<Arc<E>>,
}

impl<I, E> Change<I, E> {
    /// Both, as far as they exist, the earlier first.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<E>> {
        self.before.iter().chain(&self.after)
    }
}

impl State {
    /// Machines that differ from `before`.
    pub fn changed_vms(&self, before: &State) -> Vec<Change<VmId, Vm>> {
        changes(&before.vms, &self.vms)
    }

    /// Snapshots that differ from `before`.
    pub fn changed_snapshots(&self, before: &State) -> Vec<Change<SnapshotId, Snapshot>> {
        changes(&before.snapshots, &self.snapshots)
    }

    /// Layers that differ from `before`.
    pub fn changed_layers(&self, before: &State) -> Vec<Change<LayerId, Layer>> {
        changes(&before.layers, &self.layers)
    }

    /// Memory images that differ from `before`.
    pub fn changed_memories(&self, before: &State) -> Vec<Change<MemoryId, Memory>> {
        changes(&before.memories, &self.memories)
    }

    /// Jobs that differ from `before`.
    pub fn changed_jobs(&self, before: &State) -> Vec<Change<JobId, Job>> {
        changes(&before.jobs, &self.jobs)
    }
}

fn changes<I: Ord + Copy, E: PartialEq>(before: &OrdMap<I, Arc<E>>, after: &OrdMap<I, Arc<E>>) -> Vec<Change<I, E>> {
    let change = |item: DiffItem<'_, '_, I, Arc<E>>| {
        let (id, before, after) = match item {
            DiffItem::Add(id, after) => (*id, None, Some(after)),
            DiffItem::Update { old: (_, before), new: (id, after) } => (*id, Some(before), Some(after)),
            DiffItem::Remove(id, before) => (*id, Some(before), None),
        };
        Change { id, before: before.cloned(), after: after.cloned() }
    };
    before.diff(after).map(change).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use uuid::Uuid;

    use super::*;

    thread_local! {
        static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    /// An entity that counts how often it is compared.
    #[derive(Debug)]
    struct Counted(u32);

    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.0 == other.0
        }
    }

    fn id(number: u128) -> SnapshotId {
        SnapshotId(Uuid::from_u128(number))
    }

    #[test]
    fn the_cost_follows_from_what_changed() {
        const EXISTING: u128 = 20_000;
        let before: OrdMap<SnapshotId, Arc<Counted>> =
            (0..EXISTING).map(|number| (id(number * 2), Arc::new(Counted(0)))).collect();
        type Entities = OrdMap<SnapshotId, Arc<Counted>>;
        let check = |change: &dyn Fn(&mut Entities), expected: &[(u128, &str)]| {
            let mut after = before.clone();
            change(&mut after);
            COMPARED.set(0);
            let found = changes(&before, &after);
            let shown: Vec<(u128, &str)> = found
                .iter()
                .map(|change| match (&change.before, &change.after) {
                    (None, _) => (change.id.0.as_u128(), "added"),
                    (_, None) => (change.id.0.as_u128(), "removed"),
                    _ => (change.id.0.as_u128(), "changed"),
                })
                .collect();
            assert_eq!(shown, expected);
            assert!(COMPARED.get() < 500, "{} entities were compared", COMPARED.get());
        };
        check(&|_| {}, &[]);
        check(&|map| drop(map.insert(id(10_000), Arc::new(Counted(1)))), &[(10_000, "changed")]);
        check(&|map| drop(map.insert(id(10_001), Arc::new(Counted(1)))), &[(10_001, "added")]);
        check(&|map| drop(map.remove(&id(10_000))), &[(10_000, "removed")]);
        check(&|map| drop(map.insert(id(10_000), Arc::new(Counted(0)))), &[]);
        check(
            &|map| {
                map.insert(id(3), Arc::new(Counted(1)));
                map.remove(&id(39_998));
            },
            &[(3, "added"), (39_998, "removed")],
        );
    }
}
