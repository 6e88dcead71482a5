//! The daemon and QEMU killed with signal 9 at bad moments.

use std::process::Command;
use std::time::Duration;

use vmtest::records;
use vmtest::service::{BOOT, wait_for};

use super::Rig;

const PATIENCE: Duration = Duration::from_secs(120);

/// Starts a command in the background and kills the daemon as soon as the job it starts says `activity`.
fn kill_daemon_during(rig: &mut Rig, line: &str, activity: &str) {
    rig.ok(&format!("{line} --no-wait"));
    wait_for("the job to get going", PATIENCE, || {
        let jobs = rig.service.json(&["job", "list"])?;
        let busy = |job: &serde_json::Value| job["activity"].as_str().is_some_and(|text| text.contains(activity));
        Ok(jobs.as_array().into_iter().flatten().any(busy).then_some(()))
    })
    .unwrap();
    rig.service.kill();
}

/// Waits until no job is unfinished.
fn settle(rig: &Rig) {
    wait_for("the jobs to end", PATIENCE, || {
        let jobs = rig.service.json(&["job", "list"])?;
        Ok(jobs.as_array().into_iter().flatten().all(|job| job["state"] != "running").then_some(()))
    })
    .unwrap();
}

#[test]
fn the_daemon_dies_while_the_guest_runs() {
    let mut rig = Rig::small();
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.mark("live");
    rig.service.kill();
    rig.chain_moves();
    rig.service.restart().unwrap();
    assert_eq!(rig.state(), "running");
    rig.expect_mark("live");
    rig.mark_and_snap("b");
    rig.chain_moves();
    rig.expect_snapshots(&["a", "b"]);
}

/// Holds: SNAP-15-5
#[test]
fn the_daemon_dies_while_a_snapshot_is_written() {
    let mut rig = Rig::boot(&["--memory", "768M"]);
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.agent.request("fill 500 5").unwrap();
    rig.mark("live");
    kill_daemon_during(&mut rig, "snapshot create g b", "memory");
    rig.service.restart().unwrap();
    settle(&rig);
    rig.agent.disconnect();
    rig.expect_mark("live");
    rig.chain_moves();
    assert_eq!(rig.agent.wrong_pages(5).unwrap(), 0);
    rig.mark_and_snap("c");
    rig.chain_moves();
    let names = rig.ok("snapshot list g");
    assert!(!names.contains(" b"), "a snapshot that was interrupted is not there: {names}");
    rig.expect_snapshots(&["a", "c"]);
}

/// Holds: SNAP-15-5
#[test]
fn the_daemon_dies_while_layers_merge() {
    let mut rig = Rig::small();
    rig.start_chain();
    rig.mark_and_snap("a");
    // Something to copy, so that the merge takes a moment.
    rig.agent.request("sh dd if=/dev/urandom of=/disk1/bulk bs=1M count=120 && sync").unwrap();
    rig.mark_and_snap("b");
    rig.mark("live");
    kill_daemon_during(&mut rig, "snapshot delete a --vm g", "erging");
    rig.chain_moves();
    rig.service.restart().unwrap();
    settle(&rig);
    rig.expect_mark("live");
    rig.chain_moves();
    rig.expect_snapshots(&["b"]);
    rig.chain_moves();
}

#[test]
fn qemu_dies_while_a_snapshot_is_written() {
    let mut rig = Rig::boot(&["--memory", "768M"]);
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.agent.request("fill 500 5").unwrap();
    rig.mark("live");
    let pid = rig.service.qemu_pid(&rig.guid()).unwrap().expect("the guest runs");
    let job = rig.service.client(&["snapshot", "create", "g", "b"]).spawn().unwrap();
    wait_for("memory to be written", PATIENCE, || {
        let jobs = rig.service.json(&["job", "list"])?;
        let busy = |job: &serde_json::Value| job["activity"].as_str().is_some_and(|text| text.contains("memory"));
        Ok(jobs.as_array().into_iter().flatten().any(busy).then_some(()))
    })
    .unwrap();
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    let ended = job.wait_with_output().unwrap();
    assert!(!ended.status.success());
    settle(&rig);
    assert_eq!(rig.state(), "off");
    rig.ok("vm start g");
    rig.agent.disconnect();
    rig.agent.wait_ready(BOOT).unwrap();
    assert_eq!(rig.marks(), [None, Some("live".into()), Some("live".into())]);
    rig.expect_snapshots(&["a"]);
}

/// Holds: SNAP-4.2-16, SNAP-8.4-5
#[test]
fn a_cancelled_snapshot_leaves_nothing_behind() {
    let mut rig = Rig::boot(&["--memory", "768M"]);
    rig.start_chain();
    rig.agent.request("fill 500 5").unwrap();
    rig.mark("live");
    // Standing still QEMU cannot be done before the cancel is told.
    let pid = rig.service.qemu_pid(&rig.guid()).unwrap().expect("the guest runs").to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    rig.ok("snapshot create g x --no-wait");
    let running = rig.service.json(&["job", "list"]).unwrap();
    let unfinished =
        running.as_array().unwrap().iter().find(|job| job["state"] == "running").expect("it takes a while").clone();
    let cancel = rig.service.client(&["job", "cancel", unfinished["id"].as_str().unwrap()]).spawn().unwrap();
    wait_for("the cancel to be heard", PATIENCE, || {
        // While the daemon writes, what is read may be torn.
        let state = records::read(&rig.service.data()).ok();
        Ok(state.filter(|state| state.jobs.values().any(|job| job.cancel.is_some())).map(drop))
    })
    .unwrap();
    signal("-CONT");
    assert!(cancel.wait_with_output().unwrap().status.success());
    settle(&rig);
    rig.chain_moves();
    rig.expect_mark("live");
    rig.expect_snapshots(&[]);
    let machine = rig.service.data().join("vms").join(rig.guid());
    for directory in ["disks", "memory"] {
        let left: Vec<_> = std::fs::read_dir(machine.join(directory)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
