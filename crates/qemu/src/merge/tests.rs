//! Merges against the model of QEMU: each kind, trouble at every point, and again after it.

use expect_test::{Expect, expect};
use uuid::Uuid;

use super::*;
use crate::fake::{Fake, Trouble};

fn layer(number: u128) -> Layer {
    Layer { id: Uuid::from_u128(number), path: format!("/disks/{number}").into(), format: Format::Qcow2 }
}

/// A machine with layers 4, 3, 2, 1 from the top.
fn qemu() -> Fake {
    Fake::running(&[4, 3, 2, 1].map(|number| layer(number).node()))
}

/// Merges the layer at this depth with the one below; layer 9 also lies on it.
fn order(depth: usize, direction: Direction, place: Where) -> Merge {
    let chain = [4, 3, 2, 1].map(layer);
    let mut children = vec![layer(9)];
    children.extend(depth.checked_sub(1).map(|above| chain[above].clone()));
    Merge {
        above: chain[..depth].to_vec(),
        upper: chain[depth].clone(),
        lower: chain[depth + 1].clone(),
        below: chain[depth + 2..].to_vec(),
        children: if depth == 0 { Vec::new() } else { children },
        direction,
        place,
        disk_io: DiskIo::Buffered,
    }
}

fn check(mut qemu: Fake, order: Merge, expected: Expect) {
    let outcome = qemu.drive(order, Trouble::None);
    let told = qemu.log.iter().filter(|line| !line.starts_with("query-"));
    let told = told.map(String::as_str).collect::<Vec<_>>().join("\n");
    expected.assert_eq(&format!("{outcome:?} {} {}\n{told}", qemu.state, qemu.chain.len()));
}

#[test]
fn down_from_the_live_top_leaves_the_guest_stopped() {
    check(
        qemu(),
        order(0, Direction::Down, Where::Machine),
        expect![[r#"
            Ok(Merged { stopped: true }) paused 3
            x-debug-query-block-graph
            block-commit
            stop
            job-complete
            job-dismiss
            blockdev-del
            sync 1"#]],
    );
}

#[test]
fn a_paused_guest_is_not_reported_as_stopped_by_us() {
    let mut qemu = Fake { state: "paused", ..qemu() };
    assert_eq!(qemu.drive(order(0, Direction::Down, Where::Machine), Trouble::None), Ok(Merged { stopped: false }));
}

#[test]
fn down_in_the_middle_rewrites_the_other_children() {
    check(
        qemu(),
        order(1, Direction::Down, Where::Machine),
        expect![[r#"
            Ok(Merged { stopped: false }) running 3
            x-debug-query-block-graph
            block-commit
            job-dismiss
            blockdev-del
            rebase -u -f qcow2 -F qcow2 -b /disks/2 /disks/9
            sync 3"#]],
    );
}

#[test]
fn up_touches_no_child() {
    check(
        qemu(),
        order(2, Direction::Up, Where::Machine),
        expect![[r#"
            Ok(Merged { stopped: false }) running 3
            x-debug-query-block-graph
            block-stream
            job-dismiss
            blockdev-del
            sync 1"#]],
    );
}

#[test]
fn up_into_the_live_top_ends_with_a_flush() {
    check(
        qemu(),
        order(0, Direction::Up, Where::Machine),
        expect![[r#"
        Ok(Merged { stopped: false }) running 3
        x-debug-query-block-graph
        block-stream
        job-dismiss
        blockdev-del
        sync 1
        blockdev-reopen
        sync 1"#]],
    );
}

#[test]
fn a_storage_daemon_gets_the_chain_first() {
    check(
        Fake::running(&[]),
        Merge { above: Vec::new(), ..order(1, Direction::Down, Where::StorageDaemon) },
        expect![[r#"
            Ok(Merged { stopped: false }) running 0
            blockdev-add
            block-commit
            job-complete
            job-dismiss
            blockdev-del
            rebase -u -f qcow2 -F qcow2 -b /disks/2 /disks/4
            rebase -u -f qcow2 -F qcow2 -b /disks/2 /disks/9
            sync 3"#]],
    );
}

#[test]
fn commands_name_both_ends_and_the_header() {
    let line = |depth, direction| String::from_utf8(order(depth, direction, Where::Machine).start().line(1)).unwrap();
    expect![[r#"
        {"arguments":{"auto-dismiss":false,"backing-file":"/disks/2","base-node":"L000000000000000000000000000002","device":"L000000000000000000000000000004","job-id":"merge-L000000000000000000000000000003","top-node":"L000000000000000000000000000003"},"execute":"block-commit","id":1}
    "#]]
    .assert_eq(&line(1, Direction::Down).replace('\r', ""));
    expect![[r#"
        {"arguments":{"auto-dismiss":false,"device":"L000000000000000000000000000002","job-id":"merge-L000000000000000000000000000002"},"execute":"block-stream","id":1}
    "#]]
    .assert_eq(&line(2, Direction::Up).replace('\r', ""));
}

#[test]
fn a_failed_job_lets_the_guest_run() {
    let mut qemu = Fake { job_error: Some("No space left on device"), ..qemu() };
    let error = qemu.drive(order(0, Direction::Down, Where::Machine), Trouble::None).unwrap_err();
    assert_eq!(error.to_string(), "QEMU could not merge the layers: No space left on device");
    assert_eq!((qemu.state, qemu.chain.len()), ("running", 4));
}

#[test]
fn without_room_nothing_is_begun() {
    for (place, chain) in [(Where::Machine, vec![4, 3, 2, 1]), (Where::StorageDaemon, Vec::new())] {
        let mut qemu =
            Fake { free: 70 << 20, ..Fake::running(&chain.into_iter().map(|n| layer(n).node()).collect::<Vec<_>>()) };
        let error = qemu.drive(order(0, Direction::Down, place), Trouble::None).unwrap_err();
        assert_eq!(error.to_string(), "it may need 100 MiB in /disks, and only 70 MiB are free");
        assert_eq!((qemu.state, qemu.job), ("running", None));
    }
}

#[test]
fn a_merge_that_was_begun_needs_no_more_room() {
    let order = || order(0, Direction::Down, Where::Machine);
    let mut qemu = qemu();
    let begun = qemu.drive(order(), Trouble::Lose(5));
    assert!(begun.is_err() && qemu.job.is_some(), "{begun:?}");
    qemu.free = 0;
    assert_eq!(qemu.drive(order(), Trouble::None), Ok(Merged { stopped: true }));
}

#[test]
fn a_graph_without_the_layers_is_told() {
    let error = Fake::running(&[]).drive(order(0, Direction::Down, Where::Machine), Trouble::None).unwrap_err();
    assert!(matches!(error, MergeError::Unexpected { .. }), "{error:?}");
}

/// Trouble at each action, then the same order again: it succeeds, the layers are merged once, and the guest never runs on a
/// switched layer before the caller has been told.
#[test]
fn after_trouble_anywhere_the_order_can_be_repeated() {
    for state in ["running", "paused"] {
        for (depth, direction) in [0, 1].into_iter().flat_map(|at| [(at, Direction::Down), (at, Direction::Up)]) {
            let make = || Fake { state, ..qemu() };
            let order = || order(depth, direction, Where::Machine);
            let mut whole = make();
            whole.drive(order(), Trouble::None).unwrap();
            for at in 1..whole.actions {
                for trouble in [Trouble::Fail(at), Trouble::Cancel(at), Trouble::Lose(at), Trouble::Delay(at)] {
                    repeat(make(), &order, trouble);
                }
            }
        }
    }
}

fn repeat(mut qemu: Fake, order: &dyn Fn() -> Merge, trouble: Trouble) {
    let before = qemu.state;
    let first = qemu.drive(order(), trouble);
    assert!(!qemu.ran_after_pivot, "{trouble:?} {first:?}");
    let waits = matches!(first, Ok(_) | Err(MergeError::AfterSwitch(_)));
    assert!(waits || !qemu.pivoted || matches!(trouble, Trouble::Lose(_)), "{trouble:?} {first:?}");
    if !waits && !matches!(trouble, Trouble::Lose(_)) {
        assert_eq!(qemu.state, before, "{trouble:?} {first:?}");
    }
    qemu.job_error = None;
    let second = qemu.drive(order(), Trouble::None).unwrap_or_else(|error| panic!("{trouble:?} {first:?} {error:?}"));
    // Who finds a guest standing still after an earlier attempt cannot know why.
    assert!(second.stopped == (qemu.state == "paused") || before == "paused", "{trouble:?} {first:?}");
    assert_eq!(qemu.chain.len(), 3, "{trouble:?} {first:?}");
    assert!(!qemu.ran_after_pivot, "{trouble:?} {first:?}");
}
