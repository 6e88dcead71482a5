//! A store in memory that survives everything, fails when told to, and can be lost as a whole: then machines' inventories are what is left.

use std::collections::BTreeMap;

use ledger::id::VmId;
use ledger::inventory::{self, Inventory};
use ledger::record::{Commit, Store, StoreError, Stored, difference};
use ledger::state::State;

/// What the next commit meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It works.
    #[default]
    Well,
    /// It fails, and nothing is written.
    Fails,
}

/// The store. Clones are separate.
#[derive(Clone, Debug, Default)]
pub struct FakeStore {
    records: BTreeMap<(String, String), String>,
    revision: u64,
    /// What each machine's own directory says, in step with the records.
    inventories: BTreeMap<VmId, Inventory>,
    /// What the next commit meets; well again afterwards.
    pub mood: Mood,
}

impl FakeStore {
    /// A commit is durable: writes down beside the machines what it changed.
    pub fn describe(&mut self, before: &State, after: &State) {
        for vm in inventory::changed(before, after) {
            match inventory::of(after, vm) {
                Some(inventory) => self.inventories.insert(vm, inventory),
                None => self.inventories.remove(&vm),
            };
        }
    }

    /// A daemon starts: brings in step what the last one may not have come to.
    pub fn reconcile(&mut self, state: &State) {
        self.describe(&State::default(), state);
        inventory::going(state).iter().for_each(|vm| drop(self.inventories.remove(vm)));
    }

    /// The records are gone; what machines say of themselves is left.
    pub fn lose(&mut self) -> Vec<Inventory> {
        self.records.clear();
        self.inventories.values().cloned().collect()
    }

    /// A new store, of what was recovered.
    pub fn replace(&mut self, state: &State) {
        self.revision = state.revision;
        let changes = difference(&State::default(), state).map(|commit| commit.changes).unwrap_or_default();
        let stored = changes.into_iter().filter_map(|change| {
            let key = (change.key.kind().to_owned(), change.key.id());
            change.body.map(|body| (key, body))
        });
        self.records = stored.collect();
        self.inventories.clear();
        self.describe(&State::default(), state);
    }
}

impl Store for FakeStore {
    fn load(&mut self) -> Result<(u64, Vec<Stored>), StoreError> {
        let stored = |((kind, id), body): (&(String, String), &String)| Stored {
            kind: kind.clone(),
            id: id.clone(),
            body: body.clone(),
        };
        Ok((self.revision, self.records.iter().map(stored).collect()))
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        if std::mem::take(&mut self.mood) == Mood::Fails {
            return Err(StoreError::Failed("the disk of the store is full".to_owned()));
        }
        if commit.expected_revision != self.revision {
            return Err(StoreError::Conflict { expected: commit.expected_revision, found: self.revision });
        }
        for change in &commit.changes {
            let key = (change.key.kind().to_owned(), change.key.id());
            match &change.body {
                Some(body) => self.records.insert(key, body.clone()),
                None => self.records.remove(&key),
            };
        }
        self.revision += 1;
        Ok(())
    }
}
