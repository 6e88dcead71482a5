//! Removing snapshots under a running guest and without one: nothing that remains may change.

use super::Rig;

/// Takes snapshots `a` to `d` in a row, all with different content.
fn four_in_a_row() -> Rig {
    let mut rig = Rig::small();
    rig.start_chain();
    for name in ["a", "b", "c", "d"] {
        rig.mark_and_snap(name);
    }
    rig
}

/// Holds: SNAP-4.4-1, SNAP-4.4-3, SNAP-4.4-4, SNAP-4.4-5, SNAP-17-10
#[test]
fn in_the_middle_at_the_root_and_under_the_live_state() {
    let mut rig = four_in_a_row();
    rig.ok("snapshot delete b --vm g");
    rig.chain_moves();
    rig.ok("snapshot delete a --vm g");
    rig.chain_moves();
    rig.ok("snapshot delete d --vm g");
    rig.chain_moves();
    assert_eq!(rig.marks()[1].as_deref(), Some("later"));
    rig.expect_snapshots(&["c"]);
    rig.mark("last");
    rig.ok("snapshot delete c --vm g");
    rig.chain_moves();
    rig.expect_mark("last");
    assert_eq!(files(&rig), 0, "the guest lives in the images its owner gave");
}

/// Holds: SNAP-4.4-1, SNAP-4.4-3, SNAP-4.5-1, SNAP-4.5-2, SNAP-15-3, SNAP-17-9, SNAP-17-10
#[test]
fn a_branching_point_and_a_subtree() {
    let mut rig = four_in_a_row();
    rig.apply("b");
    rig.mark_and_snap("e");
    rig.ok("snapshot delete b --vm g");
    rig.chain_moves();
    rig.expect_snapshots(&["a", "c", "d", "e"]);
    rig.ok("snapshot delete c --vm g --tree");
    rig.expect_snapshots(&["a", "e"]);
    rig.chain_moves();
    rig.ok("snapshot delete a --vm g --tree");
    rig.chain_moves();
    rig.expect_mark("e");
    assert_eq!(files(&rig), 0);
}

/// Holds: SNAP-4.4-5
#[test]
fn while_the_machine_is_off() {
    let mut rig = four_in_a_row();
    rig.ok("vm stop g");
    rig.ok("snapshot delete b --vm g");
    rig.ok("snapshot delete d --vm g");
    rig.expect_snapshots(&["a", "c"]);
    rig.ok("vm stop g");
    rig.ok("snapshot delete a --vm g --tree");
    assert_eq!(files(&rig), 0);
    rig.ok("vm start g");
    rig.agent.disconnect();
    rig.agent.wait_ready(vmtest::service::BOOT).unwrap();
    assert_eq!(rig.marks(), [None, Some("c".into()), Some("c".into())]);
}

/// Holds: SNAP-12-3
#[test]
fn a_removed_machine_leaves_only_its_owners_images() {
    let rig = four_in_a_row();
    rig.ok("vm delete g --force");
    let left: Vec<_> = std::fs::read_dir(rig.service.data().join("vms")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(rig.service.directory().join("g-0.qcow2").exists());
}

/// How many layers and memory images the service keeps for the machine.
fn files(rig: &Rig) -> usize {
    let machine = rig.service.data().join("vms").join(rig.guid());
    ["disks", "memory"].iter().filter_map(|dir| std::fs::read_dir(machine.join(dir)).ok()).map(Iterator::count).sum()
}
