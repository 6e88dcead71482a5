//! Histories from seeds: a fixed number of them, and every seed that ever found something.

use std::sync::LazyLock;

use sim::run::{Findings, Plan, Run};
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
    let applied: u64 = (0..30).map(|seed| check(seed, 0).applied).sum();
    assert!(applied > 20, "{applied} snapshots were applied and compared");
}

#[test]
fn with_faults_nothing_is_lost() {
    let points: std::collections::BTreeSet<String> = (0..200).flat_map(|seed| check(seed, trouble()).points).collect();
    assert!(points.len() > 300, "faults struck at {} points", points.len());
}

/// What these found is in the history of the ledger and of the host under `sim`.
#[test]
fn seeds_that_found_something() {
    for seed in [1003, 1036, 1533, 1635] {
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
