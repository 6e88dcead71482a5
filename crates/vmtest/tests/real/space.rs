//! A full disk: the data directory holds less than the snapshot needs.

use vmtest::service::Service;

use super::{Rig, words};

/// Takes a snapshot that must fail for want of space, and checks that the guest has not noticed.
#[track_caller]
fn expect_no_space(rig: &mut Rig) {
    let finished = rig.service.run(&words("snapshot create g x")).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("space"), "{}", finished.stderr);
    assert_eq!(rig.state(), "running");
    rig.chain_moves();
    rig.expect_mark("live");
    assert!(!rig.ok("snapshot list g").contains(" x"), "what failed is not there");
}

#[test]
fn the_disk_is_too_small_or_fills_up_in_the_middle() {
    let mut rig = Rig::boot_on(Service::start_on_small_disk(130).unwrap(), &["--memory", "192M"]);
    rig.start_chain();
    rig.mark_and_snap("a");
    // More incompressible pages than the disk can take beside the first snapshot.
    rig.agent.request("fill 110 9").unwrap();
    rig.mark("live");
    expect_no_space(&mut rig);
    expect_no_space(&mut rig);
    assert_eq!(rig.agent.wrong_pages(9).unwrap(), 0);
    // What was written for the failed ones is gone again: without memory there is space.
    rig.ok("snapshot create g disks --disk-only");
    rig.chain_moves();
    rig.apply("a");
    rig.expect_mark("a");
    rig.chain_moves();
}
