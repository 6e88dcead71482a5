//! What a service has on record, read behind its back.
//!
//! The state store is copied and the copy opened, so that nothing of what is looked at changes: neither the lock nor the
//! log of a daemon that was killed a moment ago. While a daemon writes, a copy may be torn; at rest it is whole.

use std::path::Path;

use host::account::Accounts;
use host::layout::Layout;
use host::store_sqlite::SqliteStore;
use ledger::id::LayerId;
use ledger::job::Job;
use ledger::record::rebuild;
use ledger::snapshot::Snapshot;
use ledger::state::State;

use crate::service::{Error, Result};

/// SQLite's file and its write-ahead log.
const FILES: [&str; 2] = ["snapvisor.sqlite", "snapvisor.sqlite-wal"];

/// A copy of the store, not yet looked at.
#[derive(Debug)]
pub struct Copy(tempfile::TempDir);

impl Copy {
    /// Copies the store of the data directory `data`.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn of(data: &Path) -> Result<Self> {
        let io = |source| Error::Io { what: format!("copying the state store of {}", data.display()), source };
        let place = tempfile::tempdir().map_err(io)?;
        std::fs::create_dir(place.path().join("data")).map_err(io)?;
        for name in FILES {
            match std::fs::copy(data.join(name), place.path().join("data").join(name)) {
                // A store that was closed in order has no log.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.map_err(io)?),
            }
        }
        Ok(Self(place))
    }

    /// What is in it.
    ///
    /// # Errors
    /// When it is not a whole store.
    pub fn read(self) -> Result<State> {
        let place = self.0.path();
        let layout = Layout::new(&place.join("data"), &place.join("run"), Accounts::Own).map_err(other)?;
        let found = SqliteStore::look(&layout).map_err(other)?;
        let (revision, records) = found.ok_or_else(|| other("there is none"))?;
        rebuild(revision, &records).map_err(other)
    }
}

/// What is on record in the data directory `data`.
///
/// # Errors
/// When the store cannot be copied or read.
pub fn read(data: &Path) -> Result<State> {
    Copy::of(data)?.read()
}

/// What [`activity`] says when no job is unfinished.
pub const AT_REST: &str = "at rest";

/// What the only unfinished job is at, as `kind: stage`; [`AT_REST`] if there is none.
pub fn activity(state: &State) -> String {
    let tell = |job: &Job| {
        let stage = format!("{:?}", job.stage);
        let name = stage.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        format!("{:?}: {name}", job.kind)
    };
    let unfinished = state.jobs.values().find(|job| !job.state.is_final());
    unfinished.map_or_else(|| AT_REST.to_owned(), |job| tell(job))
}

/// Files that the disks of a snapshot begin with, in the order of its slots.
///
/// # Errors
/// When a layer is not on record.
pub fn disks<'a>(state: &'a State, snapshot: &Snapshot) -> Result<Vec<&'a Path>> {
    snapshot.settings.layers().into_iter().map(|(_, layer)| path(state, layer)).collect()
}

/// Directory of a snapshot's memory, if it has one.
pub fn memory<'a>(state: &'a State, snapshot: &Snapshot) -> Option<&'a Path> {
    state.memories.get(&snapshot.memory?).map(|memory| memory.path.as_path())
}

fn path(state: &State, layer: LayerId) -> Result<&Path> {
    let found = state.layers.get(&layer).map(|layer| layer.path.as_path());
    found.ok_or_else(|| Error::Other(format!("layer {layer:?} is not on record")))
}

fn other(error: impl std::fmt::Display) -> Error {
    Error::Other(format!("reading a copied state store: {error}"))
}
