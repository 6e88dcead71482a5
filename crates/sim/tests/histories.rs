//! Histories from seeds: a fixed number of them, and every seed that ever found something.

use std::sync::LazyLock;

use sim::every;
use sim::run::{Findings, Plan, Run, Strike};
use sim::service::Surroundings;

static SURROUNDINGS: LazyLock<Surroundings> = LazyLock::new(Surroundings::default);

/// Plays one history; nothing may be lost in it.
fn check(seed: u64, trouble: usize) -> Findings {
    let findings = Run::play(seed, Plan { trouble, ..Plan::default() }, &SURROUNDINGS);
    let told = findings.trace.join("\n");
    assert_eq!(findings.broken, Vec::<String>::new(), "seed {seed}; the last moves were:\n{told}");
    findings
}

fn trouble() -> usize {
    Plan::default().trouble
}

#[test]
fn without_faults_everything_works() {
    let all: Vec<Findings> = (0..30).map(|seed| check(seed, 0)).collect();
    let applied: u64 = all.iter().map(|findings| findings.applied).sum();
    let children: u64 = all.iter().map(|findings| findings.children).sum();
    assert!(applied > 20, "{applied} snapshots were applied and compared");
    assert!(children > 20, "clients were told of {children} snapshots with a parent");
}

#[test]
fn with_faults_nothing_is_lost() {
    let points: std::collections::BTreeSet<String> = (0..200).flat_map(|seed| check(seed, trouble()).points).collect();
    assert!(points.len() > 300, "faults struck at {} points", points.len());
}

/// One fault at one move after the other, of a share of them; `cargo xtask sim --every` leaves none out.
#[test]
fn one_fault_anywhere_loses_nothing() {
    const SHARE: usize = 12;
    let mut points = std::collections::BTreeSet::new();
    for seed in 0..4 {
        let (calm, strikes) = every::strikes(seed, &SURROUNDINGS);
        assert_eq!(calm.broken, Vec::<String>::new(), "seed {seed} without a fault");
        for strike in strikes.into_iter().step_by(SHARE) {
            points.append(&mut check_strike(seed, strike).points);
        }
    }
    assert!(points.len() > 100, "faults struck at {} points", points.len());
}

/// Plays one history with one fault.
fn check_strike(seed: u64, strike: Strike) -> Findings {
    let findings = every::play(seed, strike, &SURROUNDINGS);
    let Strike { at, fault } = strike;
    let told = findings.trace.join("\n");
    let command = format!("cargo xtask sim --seed {seed} --fault {} --move {at}", fault.name());
    assert_eq!(findings.broken, Vec::<String>::new(), "again with {command}; the last moves were:\n{told}");
    assert_eq!(findings.faults.values().sum::<u64>(), 1, "{command}: one fault strikes");
    findings
}

/// What these found is in the history of the ledger and of the host under `sim`.
#[test]
fn seeds_that_found_something() {
    for seed in [
        280, 502, 974, 1003, 1036, 1204, 1533, 1635, 1704, 3779, 105721, 200110, 300389, 311973, 312375, 321914,
        322989, 361768, 382139, 408155, 440298, 464893, 501074, 548673, 2068605, 5021265, 7238434,
    ] {
        check(seed, trouble());
    }
}

/// A seed tells the same story each time: else none could be looked into.
#[test]
fn a_seed_replays_to_the_same_end() {
    let [first, second] = [check(42, trouble()), check(42, trouble())];
    assert_eq!((first.trace, first.points), (second.trace, second.points));
    assert!(first.answers > 0 && !first.faults.is_empty(), "clients were heard and things went wrong");
}
