//! Operations at random on a real guest, with daemon, QEMU and storage daemon killed at random moments, compared with a model.
//!
//! ```text
//! boot ─▶ round: change the guest ─▶ operation, perhaps disturbed ─▶ at rest ─▶ compare ─┬─▶ round …
//!                                                                                       ├─▶ after a kill: fingerprints of every snapshot,
//!                                                                                       │   one of them started in a throw-away copy ─▶ round …
//!                                                                                       └─▶ now and then: every snapshot applied ─▶ round …
//!      ─▶ end: everything deleted, the machine is in its owner's files again
//! ```
//! The seed repeats what is asked for and when it is disturbed. How far the service has come by then is up to the machine, and
//! the rounds after a disturbance depend on how that ended: a seed makes a failure likely to come back, not certain.

pub mod check;
pub mod guard;
pub mod phases;
pub mod rig;
pub mod tally;
pub mod world;

use std::time::{Duration, Instant};

use self::rig::{Disturbance, Rig};
use self::tally::Tally;
use self::world::{Operation, Power, World};
use crate::random::Random;
use crate::service::Result;

/// From so many snapshots on, only deletions are chosen: a check of all of them takes its time.
const SNAPSHOTS: usize = 6;
/// Rounds between two checks of every snapshot by applying it.
const ROUNDS_PER_CHECK: u64 = 25;
/// Rounds between two checks of the images.
const ROUNDS_PER_IMAGES: u64 = 5;

/// Between the start of an operation and its disturbance: from about when the daemon hears of it.
const DELAY: (Duration, Duration) = (Duration::from_millis(12), Duration::from_millis(1200));

/// How to go about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What all choices follow from.
    pub seed: u64,
    /// When to end.
    pub duration: Duration,
    /// After how many kills to end, if that comes first.
    pub kills: u64,
    /// Disturbed rounds in a hundred.
    pub disturbed: u64,
}

/// Carries out a plan, and tells in `tally` what has been done.
///
/// # Errors
/// With the first thing that is not as it must be.
pub fn run(plan: &Plan, tally: &mut Tally) -> Result<()> {
    let mut rig = Rig::boot()?;
    let ended =
        begin(&mut rig, tally).and_then(|()| rounds(&mut rig, plan, tally)).and_then(|()| dismantle(&mut rig, tally));
    if ended.is_err() {
        rig.keep_log(&format!("torture-{}.log", plan.seed));
    }
    ended
}

/// Two snapshots in peace, so that there is something to lose from the first kill on.
fn begin(rig: &mut Rig, tally: &mut Tally) -> Result<()> {
    let mut random = Random::of_round(0, 0);
    for (name, image) in [("first", u64::MAX), ("second", u64::MAX - 1)] {
        rig.change(&mut random)?;
        let create = Operation::Create { name: name.to_owned(), disk_only: false, image };
        undisturbed(rig, tally, &create, &mut random)?;
        rig.guard(false, tally)?;
    }
    Ok(())
}

fn rounds(rig: &mut Rig, plan: &Plan, tally: &mut Tally) -> Result<()> {
    let end = Instant::now() + plan.duration;
    while Instant::now() < end && tally.all_kills() < plan.kills {
        tally.rounds += 1;
        let mut random = Random::of_round(plan.seed, tally.rounds);
        rig.change(&mut random)?;
        let operation = choose(rig.world()?, tally.rounds, &mut random);
        let disturbance = disturbance(plan.disturbed, &mut random);
        let delay = random.duration(DELAY.0, DELAY.1);
        println!("{:>5} {operation:?}, {disturbance:?} after {delay:?}", tally.rounds);
        let kills = tally.all_kills();
        rig.perform(&operation, disturbance, delay, &mut random, tally)?;
        tally.disturbance(disturbance);
        check::files(rig)?;
        check::processes(rig)?;
        rig.guard(tally.all_kills() > kills, tally)?;
        if tally.rounds.is_multiple_of(ROUNDS_PER_IMAGES) {
            check::images(rig)?;
        }
        if tally.rounds.is_multiple_of(ROUNDS_PER_CHECK) {
            apply_all(rig, tally, &mut random)?;
        }
    }
    Ok(())
}

/// Applies every snapshot and asks the guest in it who it is.
fn apply_all(rig: &mut Rig, tally: &mut Tally, random: &mut Random) -> Result<()> {
    let names: Vec<String> = rig.snapshots()?.keys().cloned().collect();
    for name in names {
        undisturbed(rig, tally, &Operation::Apply { name, start: true }, random)?;
        tally.applied += 1;
    }
    check::files(rig)
}

/// Takes everything apart in order, which must leave nothing behind.
fn dismantle(rig: &mut Rig, tally: &mut Tally) -> Result<()> {
    let mut random = Random::of_round(0, 0);
    apply_all(rig, tally, &mut random)?;
    while let Some(root) = root(rig.world()?) {
        undisturbed(rig, tally, &Operation::DeleteTree { name: root }, &mut random)?;
    }
    check::bare(rig)?;
    if rig.world()?.power != Power::Off {
        undisturbed(rig, tally, &Operation::Stop, &mut random)?;
    }
    check::bare(rig)?;
    check::processes(rig)?;
    check::images(rig)
}

fn undisturbed(rig: &mut Rig, tally: &mut Tally, operation: &Operation, random: &mut Random) -> Result<()> {
    println!("      {operation:?}");
    rig.perform(operation, Disturbance::None, Duration::ZERO, random, tally)
}

/// A snapshot that is based on nothing.
fn root(world: &World) -> Option<String> {
    world.snapshots.iter().find(|(_, snapshot)| snapshot.parent.is_none()).map(|(name, _)| name.clone())
}

fn disturbance(percent: u64, random: &mut Random) -> Disturbance {
    if !random.chance(percent) {
        return Disturbance::None;
    }
    let kinds = [
        (4, Disturbance::Daemon),
        (2, Disturbance::DaemonTwice),
        (2, Disturbance::Emulator),
        (1, Disturbance::Both),
        (2, Disturbance::Cancel),
    ];
    random.weighted(&kinds).copied().unwrap_or(Disturbance::None)
}

/// An operation that the present state allows.
pub fn choose(world: &World, round: u64, random: &mut Random) -> Operation {
    let names: Vec<&String> = world.snapshots.keys().collect();
    let name = random.choice(&names).map(|name| (*name).clone());
    let start = random.chance(70);
    let disk_only = random.chance(25);
    // Freshly numbered, so that an image is never mistaken for an earlier one.
    let create = Operation::Create { name: format!("s{round}"), disk_only, image: round };
    let room = u64::from(world.snapshots.len() < SNAPSHOTS);
    let mut kinds = match &world.power {
        Power::Running(_) => vec![(8 * room, create), (2, Operation::Save { image: round }), (1, Operation::Stop)],
        Power::Paused(_) => vec![(3 * room, create), (1, Operation::Save { image: round }), (1, Operation::Stop)],
        Power::Off => vec![(2 * room, create)],
        Power::Saved(_) => vec![(2 * room, create), (1, Operation::Stop)],
    };
    match world.power {
        Power::Running(_) => kinds.push((1, Operation::Pause)),
        _ => kinds.push((5, Operation::Start)),
    }
    if let Some(name) = name {
        let clear = world.snapshots.get(&name).is_some_and(|snapshot| snapshot.memory.is_some());
        kinds.extend([
            (4, Operation::Apply { name: name.clone(), start }),
            (3, Operation::Delete { name: name.clone() }),
            (1, Operation::DeleteTree { name: name.clone() }),
            (u64::from(clear), Operation::ClearState { name }),
        ]);
    }
    random.weighted(&kinds).cloned().unwrap_or(Operation::Start)
}
