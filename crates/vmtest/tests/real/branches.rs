//! Taking snapshots and going back: one branch, several, every kind of state, both firmwares.

use std::collections::BTreeSet;

use vmtest::service::BOOT;

use super::Rig;

/// Holds: SNAP-4.2-8, SNAP-4.2-11, SNAP-4.3-3, SNAP-4.3-8, SNAP-4.3-11, SNAP-15-4
#[test]
fn a_wrecked_guest_comes_back_to_the_moment() {
    let mut rig = Rig::small();
    rig.agent.request("fill 32 7").unwrap();
    rig.agent.request("dirty 20").unwrap();
    rig.start_chain();
    rig.mark("whole");
    rig.ok("snapshot create g before");
    let taken = rig.agent.chain_status().unwrap().number;
    let generation = rig.agent.request("genid").unwrap();
    rig.chain_moves();
    rig.agent.request("wreck").unwrap();
    assert_eq!(rig.marks(), [None, None, None]);

    rig.apply("before");
    rig.expect_mark("whole");
    assert_ne!(rig.agent.request("genid").unwrap(), generation, "the guest can tell that it was brought back");
    assert_eq!(rig.agent.wrong_pages(7).unwrap(), 0);
    let restored = rig.agent.chain_status().unwrap();
    assert_eq!(restored.mismatches, 0);
    assert!(
        restored.number <= taken + restored.iterations,
        "{restored:?} is not of the time of the snapshot ({taken})"
    );
    rig.chain_moves();
}

/// Holds: SNAP-4.3-5, SNAP-17-5, SNAP-17-9
#[test]
fn three_branches_keep_to_themselves() {
    let mut rig = Rig::small();
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.mark_and_snap("b");
    rig.apply("a");
    rig.mark_and_snap("c");
    rig.apply("a");
    rig.mark_and_snap("d");
    rig.chain_moves();
    let tree = rig.service.json(&["snapshot", "list", "g"]).unwrap();
    let snapshots = tree["snapshots"].as_array().unwrap();
    let parents = snapshots.iter().map(|snapshot| {
        let parent = snapshots.iter().find(|other| other["id"] == snapshot["parent"]);
        (snapshot["name"].as_str().unwrap(), parent.map_or("", |parent| parent["name"].as_str().unwrap()))
    });
    let expected = BTreeSet::from([("a", ""), ("b", "a"), ("c", "a"), ("d", "a")]);
    assert_eq!(parents.collect::<BTreeSet<_>>(), expected);
    rig.expect_snapshots(&["a", "b", "c", "d"]);
    rig.chain_moves();
}

/// Holds: SNAP-2-3, SNAP-2-5, SNAP-2-8, SNAP-4.3-7, SNAP-4.6-1, SNAP-5-9
#[test]
fn every_way_of_standing_still_can_be_snapshotted() {
    let mut rig = Rig::small();
    rig.start_chain();
    rig.mark("paused");
    rig.ok("vm pause g");
    rig.ok("snapshot create g paused");
    rig.ok("vm resume g");
    rig.chain_moves();

    rig.mark("saved");
    rig.ok("vm save g");
    assert_eq!(rig.state(), "saved");
    rig.ok("snapshot create g saved");
    rig.ok("vm start g");
    rig.agent.disconnect();
    rig.expect_mark("saved");
    rig.chain_moves();
    rig.mark("later");
    rig.expect_snapshots(&["paused", "saved"]);
    rig.chain_moves();

    rig.ok("snapshot clear-state saved --vm g");
    rig.ok("vm stop g");
    rig.ok("snapshot apply saved --vm g");
    assert_eq!(rig.state(), "off");
}

/// Holds: SNAP-5-9
#[test]
fn disks_alone_boot_again() {
    let mut rig = Rig::small();
    rig.mark("disks");
    rig.ok("snapshot create g running --disk-only");
    rig.mark("later");
    rig.ok("vm stop g");
    rig.ok("snapshot create g off");
    rig.apply("running");
    assert_eq!(rig.marks(), [None, Some("disks".into()), Some("disks".into())]);
    rig.apply("off");
    assert_eq!(rig.marks(), [None, Some("later".into()), Some("later".into())]);
}

/// Holds: SNAP-2-7, SNAP-2-9
#[test]
fn a_reset_boots_the_guest_again_and_a_shutdown_ends_it() {
    let mut rig = Rig::small();
    rig.mark("kept");
    rig.ok("vm reset g");
    rig.agent.disconnect();
    rig.agent.wait_ready(BOOT).unwrap();
    assert_eq!(rig.marks(), [None, Some("kept".into()), Some("kept".into())]);
    rig.ok("vm shutdown g");
    assert_eq!(rig.state(), "off");
}

#[test]
fn a_uefi_machine_comes_back_with_its_variables() {
    let mut rig = Rig::boot(&["--memory", "256M", "--firmware", "uefi"]);
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.mark_and_snap("b");
    rig.expect_snapshots(&["a", "b"]);
    rig.chain_moves();
    rig.ok("snapshot delete a --vm g");
    rig.expect_snapshots(&["b"]);
}

#[test]
fn a_guest_that_rewrites_its_memory_at_full_speed_is_captured() {
    let mut rig = Rig::boot(&["--memory", "512M"]);
    rig.agent.request("fill 256 3").unwrap();
    rig.start_chain();
    rig.mark("busy");
    rig.agent.request("dirty max").unwrap();
    rig.ok("snapshot create g busy");
    rig.agent.request("dirty stop").unwrap();
    rig.mark("later");
    rig.apply("busy");
    rig.agent.request("dirty stop").unwrap();
    rig.expect_mark("busy");
    assert_eq!(rig.agent.wrong_pages(3).unwrap(), 0);
    rig.chain_moves();
}
