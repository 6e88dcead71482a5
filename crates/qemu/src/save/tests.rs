//! The capture, save and abort procedures against the model of QEMU: each way through, and trouble at every point.

use expect_test::{Expect, expect};
use uuid::Uuid;

use super::*;
use crate::fake::{Fake, Trouble};
use crate::graph::{Format, Layer};

fn layer(number: u128) -> Layer {
    Layer { id: Uuid::from_u128(number), path: format!("/disks/{number}").into(), format: Format::Qcow2 }
}

fn overlay() -> Overlay {
    Overlay { layer: layer(2), parent: layer(1) }
}

fn qemu() -> Fake {
    Fake::running(&[layer(1).node()])
}

fn capture() -> Capture {
    Capture {
        overlays: vec![overlay()],
        memory: Some("/memory".into()),
        resume: true,
        disk_io: DiskIo::Buffered,
        policy: Policy { background: true, only: None },
    }
}

/// What was said to QEMU and the host, without the questions about its state.
fn said(qemu: &Fake) -> String {
    let told = qemu.log.iter().filter(|line| !line.starts_with("query-"));
    told.map(String::as_str).collect::<Vec<_>>().join("\n")
}

fn check(mut qemu: Fake, capture: Capture, expected: Expect) {
    let outcome = qemu.drive(capture, Trouble::None);
    let method = outcome.map(|captured| captured.method.name()).map_err(|failed| failed.to_string());
    expected.assert_eq(&format!("{method:?} {}\n{}", qemu.state, said(&qemu)));
}

#[test]
fn a_live_capture_switches_disks_before_it_continues() {
    check(
        qemu(),
        capture(),
        expect![[r#"
            Ok("live") running
            x-debug-query-block-graph
            blockdev-add
            open Memory
            migrate-set-capabilities
            migrate-set-parameters
            remove-fd
            add-fd
            migrate
            transaction
            migrate-continue
            cont
            remove-fd
            seal fill=false
            sync 2"#]],
    );
}

#[test]
fn a_guest_that_does_not_converge_is_captured_in_the_background() {
    let qemu = Fake { converges: false, ..qemu() };
    check(
        qemu,
        capture(),
        expect![[r#"
            Ok("background") running
            x-debug-query-block-graph
            blockdev-add
            open Memory
            migrate-set-capabilities
            migrate-set-parameters
            remove-fd
            add-fd
            migrate
            migrate_cancel
            migrate-set-capabilities
            migrate-set-parameters
            remove-fd
            add-fd
            stop
            migrate
            transaction
            cont
            remove-fd
            seal fill=true
            sync 2"#]],
    );
}

#[test]
fn without_page_protection_the_guest_is_stopped() {
    let policy = Policy { background: false, ..capture().policy };
    check(
        Fake { converges: false, ..qemu() },
        Capture { policy, ..capture() },
        expect![[r#"
            Ok("stopped") running
            x-debug-query-block-graph
            blockdev-add
            open Memory
            migrate-set-capabilities
            migrate-set-parameters
            remove-fd
            add-fd
            migrate
            stop
            transaction
            migrate-continue
            cont
            remove-fd
            seal fill=false
            sync 2"#]],
    );
}

#[test]
fn a_host_that_forbids_page_protection_is_found_out_in_time() {
    let mut qemu = Fake { converges: false, can_protect: false, ..qemu() };
    let captured = qemu.drive(capture(), Trouble::None).unwrap();
    assert_eq!(captured.method, Method::Stopped);
    assert_eq!(captured.reason.as_deref(), Some("not supported by host kernel"));
    assert!(captured.pause_us > 0);
}

#[test]
fn disks_alone_need_no_pause() {
    check(
        qemu(),
        Capture { memory: None, ..capture() },
        expect![[r#"
            Ok("disks only") running
            x-debug-query-block-graph
            blockdev-add
            transaction
            sync 2"#]],
    );
}

#[test]
fn a_paused_guest_stays_paused() {
    for background in [true, false] {
        let policy = Policy { background, ..capture().policy };
        let mut qemu = Fake { state: "paused", ..qemu() };
        let captured = qemu.drive(Capture { resume: false, policy, ..capture() }, Trouble::None).unwrap();
        assert_eq!((captured.pause_us, qemu.state), (0, "paused"), "background {background}");
    }
}

/// QEMU aborts when it is to leave one of these states for `paused`, so nothing may be begun in them.
#[test]
fn a_guest_that_something_else_has_stopped_is_left_alone() {
    for state in ["io-error", "guest-panicked", "watchdog", "prelaunch", "suspended", "postmigrate"] {
        let mut qemu = Fake { state, ..qemu() };
        let failed = qemu.drive(capture(), Trouble::None).unwrap_err();
        assert_eq!(failed.reason, SaveError::RunState { state: state.to_owned() });
        assert_eq!((failed.switched, qemu.state), (false, state));
    }
}

#[test]
fn the_pause_is_what_the_events_say() {
    let captured = qemu().drive(capture(), Trouble::None).unwrap();
    assert!(captured.pause_us > 0 && captured.pause_us < captured.total_us);
    assert!(captured.moment_us > 0);
}

#[test]
fn saving_leaves_the_guest_stopped() {
    let mut qemu = qemu();
    let saved = qemu.drive(Save { memory: "/memory".into() }, Trouble::None).unwrap();
    assert_eq!((saved.method, qemu.state), (Method::Stopped, "postmigrate"));
}

/// Whatever goes wrong, and wherever: the guest runs, what is said of the disks is true, and nothing is left behind.
#[test]
fn trouble_at_every_action_leaves_the_guest_running() {
    for converges in [true, false] {
        for memory in [Some(PathBuf::from("/memory")), None] {
            let make = || Fake { converges, ..qemu() };
            let order = || Capture { memory: memory.clone(), ..capture() };
            let mut whole = make();
            whole.drive(order(), Trouble::None).unwrap();
            // The undoing may itself be cancelled or refused, hence a few actions more.
            for at in 1..whole.actions + 10 {
                for trouble in [Trouble::Fail(at), Trouble::Cancel(at), Trouble::Delay(at)] {
                    let mut qemu = make();
                    let outcome = qemu.drive(order(), trouble);
                    let switched = qemu.chain.len() > 1;
                    let told = outcome.as_ref().map_or_else(|failed| failed.switched, |_| true);
                    assert_eq!(told, switched, "{trouble:?} {outcome:?}");
                    assert_eq!(qemu.state, "running", "{trouble:?} {outcome:?}");
                    assert!(qemu.files.is_empty(), "{trouble:?} {outcome:?}");
                    assert!(qemu.fdset == 0 || qemu.refused == "remove-fd", "{trouble:?} {outcome:?}");
                    let tidy = qemu.nodes.len() == qemu.chain.len();
                    assert!(tidy || qemu.refused == "blockdev-del", "{trouble:?} {outcome:?}");
                }
            }
        }
    }
}

/// QEMU would put the overlay on it, and the guest go on writing to what is frozen then.
#[test]
fn a_layer_that_no_device_reads_through_is_not_captured() {
    let mut qemu = qemu();
    let parent = Layer { id: Uuid::from_u128(77), path: "/disks/77".into(), format: Format::Qcow2 };
    qemu.nodes.insert(parent.node());
    let overlays = vec![Overlay { parent, ..overlay() }];
    let failed = qemu.drive(Capture { overlays, ..capture() }, Trouble::None).unwrap_err();
    assert_eq!(failed.to_string(), "the machine's process does not write to /disks/77, which is on record as its disk");
    assert_eq!((failed.switched, qemu.chain.len(), qemu.state), (false, 1, "running"));
}

#[test]
fn a_lost_connection_ends_the_capture_and_never_denies_a_switch() {
    let mut whole = qemu();
    whole.drive(capture(), Trouble::None).unwrap();
    for at in 1..whole.actions {
        let mut qemu = qemu();
        if let Err(failed) = qemu.drive(capture(), Trouble::Lose(at)) {
            assert!(failed.switched || qemu.chain.len() == 1, "lost at {at}: {failed:?}");
        }
    }
}

#[test]
fn an_abort_after_a_crash_anywhere_finds_the_truth() {
    // The background way stops the guest before the switch, the live way does not.
    for converges in [true, false] {
        let make = || Fake { converges, ..qemu() };
        let mut whole = make();
        whole.drive(capture(), Trouble::None).unwrap();
        for at in 1..whole.actions {
            let mut qemu = make();
            // A lost connection leaves QEMU as it was at that action.
            drop(qemu.drive(capture(), Trouble::Lose(at)));
            let aborted = qemu.drive(AbortCapture { overlays: vec![overlay()], resume: true }, Trouble::None).unwrap();
            assert_eq!(aborted, Aborted { switched: qemu.chain.len() > 1, alive: true }, "lost at {at}");
            assert_eq!((qemu.state, qemu.nodes.len()), ("running", qemu.chain.len()), "lost at {at}");
        }
    }
}

/// The answer that is lost may be that of the switch itself.
#[test]
fn a_switch_whose_answer_is_lost_counts_as_done() {
    let lost = |at| {
        let mut qemu = qemu();
        let outcome = qemu.drive(capture(), Trouble::Lose(at));
        (outcome, qemu.chain.len() > 1)
    };
    let switch = (1..100).find(|at| lost(at + 1).1).unwrap();
    assert!(lost(switch).0.unwrap_err().switched);
}

#[test]
fn an_abort_without_a_process_assumes_the_switch() {
    let mut qemu = qemu();
    let aborted = qemu.drive(AbortCapture { overlays: vec![overlay()], resume: true }, Trouble::Lose(1)).unwrap();
    assert_eq!(aborted, Aborted { switched: true, alive: false });
}
