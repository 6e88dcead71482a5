//! Who remembers what every snapshot is, and looks whether it still is.
//!
//! When a snapshot is first seen complete, its fingerprints are taken: what its disks read like, and the files of its memory.
//! From then on they must stay the same, whatever else happens, until the snapshot is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ledger::state::State;

use super::rig::{CHAIN, PAGES, violation};
use super::world::{Power, Snapshot, World};
use crate::agent::{Agent, ChainStatus};
use crate::fingerprint::{self, Digest};
use crate::records;
use crate::service::Result;
use crate::throwaway::Throwaway;

/// What is known of all snapshots.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// By the snapshot's name: one for each disk.
    disks: BTreeMap<String, Vec<Digest>>,
    /// By directory: one may belong to several snapshots.
    memories: BTreeMap<PathBuf, Digest>,
}

impl Guard {
    /// Takes the fingerprints of snapshots that are new. Those of snapshots that are gone stay: no other has their name.
    ///
    /// # Errors
    /// When a file of a snapshot cannot be read.
    pub fn learn(&mut self, state: &State) -> Result<()> {
        for snapshot in state.snapshots.values() {
            if !self.disks.contains_key(&snapshot.name) {
                self.disks.insert(snapshot.name.clone(), disks(state, snapshot)?);
            }
            if let Some(path) = records::memory(state, snapshot).filter(|path| !self.memories.contains_key(*path)) {
                self.memories.insert(path.to_owned(), fingerprint::memory(path)?);
            }
        }
        Ok(())
    }

    /// Compares every snapshot that is known with what it was. Gives how many these are.
    ///
    /// # Errors
    /// When one has changed, or cannot be read.
    pub fn compare(&self, state: &State) -> Result<u64> {
        let mut compared = 0;
        for snapshot in state.snapshots.values() {
            let name = &snapshot.name;
            if let Some(known) = self.disks.get(name) {
                if disks(state, snapshot)? != *known {
                    return Err(violation(&format!("the disks of snapshot {name} are not what they were")));
                }
                compared += 1;
            }
            // A snapshot that is new may have the memory of one that is not.
            let memory = records::memory(state, snapshot);
            let known = memory.and_then(|path| Some((path, self.memories.get(path)?)));
            if let Some((path, known)) = known
                && fingerprint::memory(path)? != *known
            {
                let text = format!("the memory of snapshot {name} in {} is not what it was", path.display());
                return Err(violation(&text));
            }
        }
        Ok(compared)
    }
}

/// Starts one snapshot that has memory in a throw-away copy, another one each `turn`, and asks the guest who it is. Whether there
/// was one.
///
/// # Errors
/// When the guest is none that any of `worlds` knows.
pub fn try_one(state: &State, worlds: &[World], turn: usize) -> Result<bool> {
    let with_memory: Vec<_> = state.snapshots.values().filter(|snapshot| snapshot.memory.is_some()).collect();
    let Some(snapshot) = with_memory.get(turn % with_memory.len().max(1)) else { return Ok(false) };
    let Some(directory) = records::memory(state, snapshot) else { return Ok(false) };
    let (copy, mut agent) = Throwaway::start(directory)?;
    let seen = Seen::ask(&mut agent)?;
    let known: Vec<_> = worlds.iter().filter_map(|world| world.snapshots.get(&snapshot.name)).collect();
    if !known.iter().any(|known| seen.is(known)) {
        let text = format!("started in a copy, snapshot {} is {seen:?}, not one of {known:?}", snapshot.name);
        return Err(violation(&text));
    }
    drop(copy);
    Ok(true)
}

fn disks(state: &State, snapshot: &ledger::snapshot::Snapshot) -> Result<Vec<Digest>> {
    records::disks(state, snapshot)?.into_iter().map(fingerprint::disk).collect()
}

/// What a guest says of itself.
#[derive(Debug)]
struct Seen {
    memory: Option<String>,
    disks: [Option<String>; 2],
    wrong_pages: u64,
    /// `None` if it did not move.
    chain: Option<ChainStatus>,
}

impl Seen {
    fn ask(agent: &mut Agent) -> Result<Self> {
        let mut mark = |request: &str| agent.request_or_none(request);
        let (memory, disks) = (mark("get mark")?, [mark("read 0 mark")?, mark("read 1 mark")?]);
        let wrong_pages = agent.wrong_pages(PAGES)?;
        // The comparison is made with the first round after the start, and the one that is under way may have begun before it.
        let chain = agent.await_chain(2, CHAIN)?;
        Ok(Self { memory, disks, wrong_pages, chain })
    }

    fn is(&self, snapshot: &Snapshot) -> bool {
        let memory = snapshot.memory.as_ref().is_some_and(|saved| saved.mark == self.memory);
        let disks = self.disks.iter().all(|mark| mark.as_ref() == Some(&snapshot.disks));
        // It is started before the first mark is set, and a guest without one has only just booted.
        let chain = self.chain.map_or(self.memory.is_none(), |chain| chain.mismatches == 0);
        memory && disks && self.wrong_pages == 0 && chain
    }
}

/// Whether the machine's guest, which runs, keeps its QEMU through an operation unless that is killed.
pub fn keeps_guest(worlds: &[World], operation: &super::world::Operation) -> bool {
    worlds.iter().all(|world| {
        matches!(world.power, Power::Running(_))
            && world.steps(operation).iter().all(|step| matches!(step.power, Power::Running(_) | Power::Paused(_)))
    })
}
