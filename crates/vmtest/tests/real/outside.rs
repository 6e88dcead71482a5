//! QEMU without us starts what we saved.

use std::path::{Path, PathBuf};
use std::process::Command;

use vmtest::agent::Agent;
use vmtest::service::{BOOT, wait_for};

use super::Rig;

/// Holds: SNAP-2-5, SNAP-2-11, SNAP-4.2-8, SNAP-4.2-13, SNAP-4.3-1, SNAP-4.3-7, SNAP-4.4-6, SNAP-6-7, SNAP-8.1-1,
/// SNAP-17-1, SNAP-17-2, SNAP-17-3, SNAP-17-4, WIRE-I10-1, WIRE-I10-2
#[test]
fn plain_qemu_starts_a_snapshot_from_its_files() {
    let mut rig = Rig::small();
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.ok("vm stop g");
    let commands = find(&rig.service.data().join("vms"), "start.sh");
    assert_eq!(commands.len(), 1, "one memory image, one command line");
    rig.service.kill();

    let sockets = tempfile::tempdir().unwrap();
    let mut qemu = Command::new("sh").arg(&commands[0]).env("TMPDIR", sockets.path()).spawn().unwrap();
    let port = wait_for("QEMU", BOOT, || Ok(find(sockets.path(), "com2").pop())).unwrap();
    let mut agent = Agent::new(port);
    agent.wait_ready(BOOT).unwrap();
    assert_eq!(agent.request("get mark").unwrap(), "a");
    assert_eq!(agent.request("read 0 mark").unwrap(), "a");
    assert_eq!(agent.request("read 1 mark").unwrap(), "a");
    assert_eq!(agent.chain_status().unwrap().mismatches, 0);
    // The shell has become QEMU.
    qemu.kill().unwrap();
    qemu.wait().unwrap();

    // What plain QEMU wrote went elsewhere: the snapshot is as it was.
    rig.service.restart().unwrap();
    rig.agent.disconnect();
    rig.expect_snapshots(&["a"]);
    rig.chain_moves();
}

/// Files of one name below a directory.
fn find(directory: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(find(&path, name));
        } else if path.file_name().is_some_and(|file| file == name) {
            found.push(path);
        }
    }
    found
}
