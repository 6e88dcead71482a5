//! QEMU, or the storage daemon that works in its stead, killed in every phase of every operation.
//!
//! ```text
//! each operation: once in peace ─▶ its stages and how long it takes
//!                 ─▶ for each stage, and for moments spread evenly: prepare ─▶ begin ─▶ kill ─▶ at rest ─▶ compare
//! ```
//! After each kill no job may hang, what the client was told must say what happened, the disks must be those of a possible world, and
//! every snapshot must be as it was.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check;
use super::rig::{Disturbance, Interrupted, Rig, When, violation};
use super::tally::Tally;
use super::world::Operation;
use crate::random::Random;
use crate::service::Result;

/// What every round begins from.
const BASE: &str = "base";
/// What an operation that deletes deletes.
const VICTIM: &str = "victim";

/// An operation to be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Create,
    ApplyAndStart,
    Delete,
    Save,
    /// The machine is off, and a storage daemon merges.
    DeleteWhileOff,
}

const CASES: [Case; 5] = [Case::DeleteWhileOff, Case::Save, Case::Delete, Case::ApplyAndStart, Case::Create];

impl Case {
    fn operation(self, round: u64) -> Operation {
        match self {
            Case::Create => Operation::Create { name: format!("new{round}"), disk_only: false, image: round },
            Case::ApplyAndStart => Operation::Apply { name: BASE.to_owned(), start: true },
            Case::Delete | Case::DeleteWhileOff => Operation::Delete { name: format!("{VICTIM}{round}") },
            Case::Save => Operation::Save { image: round },
        }
    }
}

/// Kills in every stage of every operation, and at so many moments spread over the time that it takes.
///
/// # Errors
/// With the first thing that is not as it must be.
pub fn run(moments: u32, tally: &mut Tally) -> Result<()> {
    let mut rig = Rig::boot()?;
    let mut rounds = Rounds { rig: &mut rig, tally, random: Random::of_round(0, 0), words: BTreeMap::new() };
    let ended = rounds.all(moments);
    if ended.is_err() {
        rounds.rig.keep_log("torture-phases.log");
        return ended;
    }
    println!("what clients were told:");
    for (words, count) in &rounds.words {
        println!("{count:>4} {words}");
    }
    Ok(())
}

struct Rounds<'a> {
    rig: &'a mut Rig,
    tally: &'a mut Tally,
    random: Random,
    words: BTreeMap<String, u64>,
}

impl Rounds<'_> {
    fn all(&mut self, moments: u32) -> Result<()> {
        self.peacefully(&Operation::Create { name: BASE.to_owned(), disk_only: false, image: u64::MAX })?;
        CASES.into_iter().try_for_each(|case| self.case(case, moments))
    }

    fn case(&mut self, case: Case, moments: u32) -> Result<()> {
        let operation = self.prepare(case)?;
        let (stages, duration) = self.rig.watch(&operation, self.tally)?;
        println!("{case:?} takes {duration:.0?}: {}", stages.join(", "));
        let spread = (0..moments).map(|moment| When::After(duration * moment / moments.max(1)));
        for when in stages.into_iter().map(When::In).chain(spread) {
            let operation = self.prepare(case)?;
            let Interrupted { killed, told } = self.rig.kill_during(&operation, &when, self.tally)?;
            println!("      {case:?}, {when:?}: {killed} killed; {}", told.as_deref().unwrap_or("done"));
            if let Some(told) = told {
                explained(&told)?;
                *self.words.entry(told).or_default() += 1;
            }
            check::files(self.rig)?;
            check::processes(self.rig)?;
            check::images(self.rig)?;
            self.tally.compared += self.rig.compare()?;
        }
        Ok(())
    }

    /// A guest that runs in the base snapshot, and what the operation needs.
    fn prepare(&mut self, case: Case) -> Result<Operation> {
        self.tally.rounds += 1;
        let round = self.tally.rounds;
        self.peacefully(&Operation::Apply { name: BASE.to_owned(), start: true })?;
        let others: Vec<String> = self.rig.snapshots()?.keys().filter(|name| *name != BASE).cloned().collect();
        for name in others {
            self.peacefully(&Operation::Delete { name })?;
        }
        self.rig.write(40)?;
        if matches!(case, Case::Delete | Case::DeleteWhileOff) {
            let name = format!("{VICTIM}{round}");
            self.peacefully(&Operation::Create { name, disk_only: true, image: round })?;
            self.rig.write(20)?;
        }
        if case == Case::DeleteWhileOff {
            self.peacefully(&Operation::Stop)?;
        }
        Ok(case.operation(round))
    }

    fn peacefully(&mut self, operation: &Operation) -> Result<()> {
        self.rig.perform(operation, Disturbance::None, Duration::ZERO, &mut self.random, self.tally)?;
        self.rig.guard(false, self.tally)
    }
}

/// A client that is told of a failure must be told of the process that is gone.
fn explained(told: &str) -> Result<()> {
    let reasons = ["process", "ended", "did not start", "turned off", "is off"];
    if reasons.iter().any(|reason| told.contains(reason)) {
        return Ok(());
    }
    Err(violation(&format!("what happened cannot be told from: {told}")))
}
