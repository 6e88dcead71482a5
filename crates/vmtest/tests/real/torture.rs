//! A short campaign of `cargo xtask torture`.

use std::time::Duration;

use vmtest::torture::{self, Plan, tally::Tally};

#[test]
fn a_short_campaign_of_kills_finds_every_snapshot_as_it_was() {
    let plan = Plan { seed: 7, duration: Duration::from_secs(60), kills: 8, disturbed: 100 };
    let mut tally = Tally::default();
    torture::run(&plan, &mut tally).unwrap();
    println!("{tally}");
    assert!(tally.all_kills() > 0 && tally.compared > 0 && tally.thrown_away > 0, "{tally}");
}
