//! A few cuts of `cargo xtask powercut`.

use vmtest::powercut::{self, Findings, Plan, export};

#[test]
fn what_was_told_before_a_power_cut_is_there_after_it() {
    if let Err(why) = export::possible() {
        println!("skipped: {why}");
        return;
    }
    let plan = Plan { seed: 1, operations: 6, cuts: 10, start_every: 5 };
    let mut findings = Findings::default();
    powercut::run(&plan, &mut findings).unwrap();
    println!("{findings}");
    assert!(findings.compared > 0 && findings.told > 0, "{findings}");
}
