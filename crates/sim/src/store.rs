//! A store in memory that survives everything, and fails when told to.

use std::collections::BTreeMap;

use ledger::record::{Commit, Store, StoreError, Stored};

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
    /// What the next commit meets; well again afterwards.
    pub mood: Mood,
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
