//! A full disk, before a snapshot and in the middle of one: the guest goes on, what is there stays good.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use vmtest::service::{Service, wait_for};

use super::Rig;

/// What the data directory holds. The guest's memory and two snapshots fit, not more.
const DISK_MIB: u32 = 2600;

/// What a snapshot of that guest wants to see free before it begins, and a little more; it writes 860.
const ENOUGH_MIB: u64 = 1200;

/// A file in the daemon's data directory that takes up space until it is dropped.
struct Ballast(PathBuf);

impl Ballast {
    /// Fills the disk until `leave` MiB are left.
    fn fill(rig: &Rig, name: &str, leave_mib: u64) -> Self {
        let path = rig.service.data_seen_by_daemon().unwrap().join(name);
        let ballast = Self(path.clone());
        let mut file = std::fs::File::create(&path).unwrap();
        let block = vec![1; 1 << 20];
        // With nothing to be left, until the disk is full.
        while free_mib(&path) > leave_mib || leave_mib == 0 {
            if file.write_all(&block).is_err() {
                break;
            }
        }
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // The file system goes with the daemon if this fails.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn free_mib(path: &Path) -> u64 {
    let space = rustix::fs::statvfs(path).unwrap();
    (space.f_bavail * space.f_frsize) >> 20
}

/// How many memory images there are in a directory, finished or not.
fn memory_files(directory: &Path) -> usize {
    let images = std::fs::read_dir(directory).into_iter().flatten().flatten();
    images.filter(|image| image.path().join("memory").exists()).count()
}

/// Holds: SNAP-4.2-16
#[test]
fn the_guest_goes_on_whenever_the_disk_fills_up() {
    let mut rig = Rig::boot_on(Service::start_on_small_disk(DISK_MIB).unwrap(), &["--memory", "1G"]);
    rig.agent.request("fill 800 9").unwrap();
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.mark("live");

    let memory = rig.service.data_seen_by_daemon().unwrap().join("vms").join(rig.guid()).join("memory");
    let ballast = Ballast::fill(&rig, "most", 40);
    let refused = rig.service.run(&["snapshot", "create", "g", "x"]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("needs up to") && refused.stderr.contains("hint: free some space"),
        "{}",
        refused.stderr
    );
    rig.chain_moves();
    drop(ballast);

    // Just enough is free when the snapshot begins, and what is free is taken away while it is written.
    let ballast = Ballast::fill(&rig, "most", ENOUGH_MIB);
    let snapshot = rig.service.client(&["snapshot", "create", "g", "x"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("memory to be written", Duration::from_secs(60), || Ok((memory_files(&memory) == 2).then_some(())))
        .unwrap();
    let rest = Ballast::fill(&rig, "rest", 0);
    let failed = snapshot.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{text}");
    assert!(text.to_lowercase().contains("no space left"), "{text}");
    assert_eq!(memory_files(&memory), 1, "what was written of it is gone");
    drop((ballast, rest));

    assert_eq!(rig.state(), "running");
    rig.expect_mark("live");
    rig.chain_moves();
    assert_eq!(rig.agent.wrong_pages(9).unwrap(), 0);
    // Nothing of the failed ones is left to take up space.
    rig.mark_and_snap("b");
    rig.chain_moves();
    rig.expect_snapshots(&["a", "b"]);
    assert_eq!(rig.agent.wrong_pages(9).unwrap(), 0);
}
