//! Operations at random on a real guest, with the daemon and QEMU killed at random moments, compared with a model.
//!
//! ```text
//! boot ─▶ round: change the guest ─▶ operation, perhaps disturbed ─▶ at rest ─▶ compare ─┬─▶ round …
//!                                                                                       └─▶ every snapshot applied ─▶ round …
//!      ─▶ end: everything deleted, the machine is in its owner's files again
//! ```
//! `cargo xtask torture [--seed N] [--minutes N] [--kills N]` ends after so many minutes or kills, whichever is first, or
//! with the first thing that is not as it must be. The seed repeats what is asked for and when it is disturbed. How far
//! the service has come by then is up to the machine, and the rounds after a disturbance depend on how that ended: a
//! seed makes a failure likely to come back, not certain.

mod check;
mod options;
mod random;
mod rig;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use options::Options;
use random::Random;
use rig::{Disturbance, Rig};
use vmtest::service::Result;
use world::{Operation, Power, World};

/// From so many snapshots on, only deletions are chosen: a check of all of them takes its time.
const SNAPSHOTS: usize = 6;
/// Rounds between two checks of every snapshot.
const ROUNDS_PER_CHECK: u64 = 25;
/// Rounds between two checks of the images.
const ROUNDS_PER_IMAGES: u64 = 5;
/// Disturbed rounds in a hundred.
const DISTURBED: u64 = 60;

/// Between the start of an operation and its disturbance.
const DELAY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(1500));

/// What has been done.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    operations: u64,
    kills: u32,
    cancels: u32,
    checks: u32,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments, seed_of_now()) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{}", options::USAGE);
            return ExitCode::FAILURE;
        }
    };
    println!("seed {}", options.seed);
    let mut tally = Tally::default();
    let ended = run(&options, &mut tally);
    let Tally { rounds, operations, kills, cancels, checks } = tally;
    println!(
        "{rounds} rounds: {operations} operations, {kills} kills, {cancels} cancels, {checks} snapshots applied to check"
    );
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture failed, seed {}: {error}", options.seed);
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, tally: &mut Tally) -> Result<()> {
    let mut rig = Rig::boot()?;
    let ended = rounds(&mut rig, options, tally).and_then(|()| dismantle(&mut rig, tally));
    if ended.is_err() {
        let log = std::env::temp_dir().join(format!("torture-{}.log", options.seed));
        match std::fs::write(&log, rig.service.log()) {
            Ok(()) => eprintln!("the daemon's log is in {}", log.display()),
            Err(error) => eprintln!("the daemon's log could not be kept: {error}"),
        }
    }
    ended
}

fn rounds(rig: &mut Rig, options: &Options, tally: &mut Tally) -> Result<()> {
    let end = Instant::now() + options.duration;
    while Instant::now() < end && tally.kills < options.kills {
        tally.rounds += 1;
        let mut random = Random::of_round(options.seed, tally.rounds);
        rig.change(&mut random)?;
        let operation = choose(rig.world()?, tally.rounds, &mut random);
        let disturbance = disturbance(&mut random);
        let delay = random.duration(DELAY.0, DELAY.1);
        println!("{:>5} {operation:?}, {disturbance:?} after {delay:?}", tally.rounds);
        rig.perform(&operation, disturbance, delay, &mut random)?;
        tally.operations += 1;
        tally.kills += disturbance.kills();
        tally.cancels += u32::from(disturbance == Disturbance::Cancel);
        check::files(rig)?;
        check::processes(rig)?;
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
        tally.checks += 1;
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
    tally.operations += 1;
    rig.perform(operation, Disturbance::None, Duration::ZERO, random)
}

/// A snapshot that is based on nothing.
fn root(world: &World) -> Option<String> {
    world.snapshots.iter().find(|(_, snapshot)| snapshot.parent.is_none()).map(|(name, _)| name.clone())
}

fn disturbance(random: &mut Random) -> Disturbance {
    if !random.chance(DISTURBED) {
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
fn choose(world: &World, round: u64, random: &mut Random) -> Operation {
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

/// A seed for who names none.
fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs()
}
