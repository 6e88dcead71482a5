//! A full disk, before a snapshot, in the middle of one and after it, and while layers merge: the guest goes on or waits, what is
//! there stays good.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vmtest::service::{BOOT, Service, processes, wait_for};
use vmtest::{fingerprint, records};

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

/// An ext4 of its own. Memory that is mapped from files, and files with holes, fare otherwise on a tmpfs.
struct SmallDisk {
    place: PathBuf,
    _image: tempfile::TempDir,
}

impl SmallDisk {
    /// With so many MiB. `None`, and why on the console, where that is not possible.
    fn mount(mib: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("skipped: only root can mount a small disk, with a loop device");
            return None;
        }
        let image = tempfile::tempdir().unwrap();
        // The emulator has an account of its own, which must come through.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(image.path(), open).unwrap();
        let (file, place) = (image.path().join("disk.img"), image.path().join("disk"));
        std::fs::File::create(&file).unwrap().set_len(mib << 20).unwrap();
        std::fs::create_dir(&place).unwrap();
        let run = |program: &str, words: &[&std::ffi::OsStr]| {
            let done = Command::new(program).args(words).output().unwrap();
            assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        };
        run("mkfs.ext4", &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), file.as_ref()]);
        run("mount", &["-o".as_ref(), "loop".as_ref(), file.as_ref(), place.as_ref()]);
        Some(Self { place, _image: image })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Processes that were just killed may not quite have let go; the loop device goes with the last of them.
        let _ = Command::new("umount").arg("--lazy").arg(&self.place).status();
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

/// Content of the disks of snapshot `name`.
fn disks_of(rig: &Rig, name: &str) -> Vec<fingerprint::Digest> {
    let state = records::read(&rig.service.data()).unwrap();
    let snapshot = state.snapshots.values().find(|snapshot| snapshot.name == name).expect("it is there");
    records::disks(&state, snapshot).unwrap().into_iter().map(|disk| fingerprint::disk(disk).unwrap()).collect()
}

/// How many layers of ours there are.
fn layers(rig: &Rig) -> usize {
    std::fs::read_dir(rig.service.data().join("vms").join(rig.guid()).join("disks")).unwrap().count()
}

/// Waits until a merge that was left over is done, and so many layers are left.
#[track_caller]
fn expect_merged(rig: &mut Rig, left: usize) {
    // A start of the service is one of the occasions on which it tries again.
    rig.service.restart().unwrap();
    wait_for("the layers to be merged", Duration::from_secs(60), || {
        // While the daemon writes, what is read may be torn.
        let state = records::read(&rig.service.data()).ok();
        let at_rest = state.is_some_and(|state| records::activity(&state) == records::AT_REST);
        Ok((at_rest && layers(rig) == left).then_some(()))
    })
    .unwrap();
}

fn write_bulk(rig: &mut Rig, mib: u32) {
    rig.agent.request(&format!("sh dd if=/dev/urandom of=/disk1/bulk bs=1M count={mib} conv=fsync")).unwrap();
}

/// Deletes a snapshot and gives what the client was told when the layers could not be merged.
#[track_caller]
fn delete_without_merge(rig: &Rig, name: &str) -> String {
    let told = rig.service.run(&["snapshot", "delete", name, "--vm", "g"]).unwrap();
    assert_eq!(told.status.code(), Some(1), "{} {}", told.stdout, told.stderr);
    for words in ["the snapshot is removed, but", " MiB in ", "hint: free some space"] {
        assert!(told.stderr.contains(words), "{}", told.stderr);
    }
    told.stderr
}

#[test]
fn layers_merge_when_there_is_space_again() {
    let Some(disk) = SmallDisk::mount(1100) else { return };
    let mut rig = Rig::boot_on(Service::start_at(&disk.place).unwrap(), &["--memory", "160M"]);
    rig.start_chain();
    rig.mark_and_snap("a");
    write_bulk(&mut rig, 120);
    rig.mark_and_snap("b");
    rig.mark("live");
    let known = disks_of(&rig, "b");

    // Into the owner's image, through the machine's own process. The snapshot's memory goes first and gives some back.
    let ballast = Ballast::fill(&rig, "ballast", 8);
    let told = delete_without_merge(&rig, "a");
    assert!(told.contains("it may need ") && told.contains("MiB are free"), "{told}");
    // The small system disk may have found its room.
    assert_eq!((rig.state().as_str(), layers(&rig) > 2, disks_of(&rig, "b") == known), ("running", true, true));
    rig.chain_moves();
    drop(ballast);
    expect_merged(&mut rig, 2);
    assert!(disks_of(&rig, "b") == known);
    rig.expect_mark("live");
    rig.chain_moves();

    // The same of a machine that is off: through a storage daemon.
    write_bulk(&mut rig, 180);
    rig.mark("later");
    rig.ok("vm stop g");
    let ballast = Ballast::fill(&rig, "ballast", 8);
    delete_without_merge(&rig, "b");
    assert!(layers(&rig) > 0);
    drop(ballast);
    expect_merged(&mut rig, 0);
    rig.ok("vm start g");
    rig.agent.disconnect();
    rig.agent.wait_ready(BOOT).unwrap();
    assert_eq!(rig.marks(), [None, Some("later".into()), Some("later".into())]);
}

#[test]
fn a_merge_that_runs_out_of_space_is_finished_later() {
    let Some(disk) = SmallDisk::mount(1200) else { return };
    let mut rig = Rig::boot_on(Service::start_at(&disk.place).unwrap(), &["--memory", "160M"]);
    rig.mark_and_snap("a");
    write_bulk(&mut rig, 250);
    rig.mark_and_snap("b");
    rig.ok("vm stop g");
    let known = disks_of(&rig, "b");
    let image = disk.place.join("g-1.qcow2");
    let before = std::fs::metadata(&image).unwrap().blocks();
    let client = rig.service.client(&["snapshot", "delete", "a", "--vm", "g"]).stderr(Stdio::piped()).spawn().unwrap();
    // The machine is off, so whatever makes its image grow is the merge; caught in the act, and held while the disk fills up.
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::metadata(&image).unwrap().blocks() < before + 2048 {
        assert!(Instant::now() < end, "the merge does not begin");
    }
    let merging = processes("qemu-storage-daemon", &rig.guid()).unwrap()[0].to_string();
    let signal = |name: &str| Command::new("kill").args([name, &merging]).status().unwrap();
    signal("-STOP");
    let ballast = Ballast::fill(&rig, "ballast", 0);
    signal("-CONT");
    let told = client.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("No space left on device") && told.contains("MiB are needed in"), "{told}");
    assert!(disks_of(&rig, "b") == known, "half merged, it reads as before");
    drop(ballast);
    expect_merged(&mut rig, 2);
    assert!(disks_of(&rig, "b") == known);
    rig.apply("b");
    rig.expect_mark("b");
}

#[test]
fn a_guest_that_finds_no_space_waits_and_goes_on_without_loss() {
    let Some(disk) = SmallDisk::mount(600) else { return };
    let mut rig = Rig::boot_on(Service::start_at(&disk.place).unwrap(), &["--memory", "160M"]);
    rig.agent.request("fill 32 9").unwrap();
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.mark_and_snap("b");
    rig.mark("live");
    let known = disks_of(&rig, "a");
    // An emulated guest takes seconds for it, and the host much less to fill the disk.
    let write = "(dd if=/dev/urandom of=/disk1/bulk bs=1M count=150 conv=fsync; echo whole > /disk1/done; sync)";
    rig.agent.request(&format!("sh {write} > /dev/null 2>&1 &")).unwrap();
    let ballast = Ballast::fill(&rig, "ballast", 0);
    wait_for("the guest to stand still", Duration::from_secs(60), || {
        Ok(rig.agent.request_within("ping", Duration::from_secs(3)).is_err().then_some(()))
    })
    .unwrap();
    assert!(disks_of(&rig, "a") == known);

    // To record that takes space, and so does making some: it was kept in reserve.
    wait_for("the machine to be paused", Duration::from_secs(60), || {
        Ok((rig.service.json(&["vm", "show", "g"])?["state"] == "paused").then_some(()))
    })
    .unwrap();
    let deleted = rig.service.run(&["snapshot", "delete", "b", "--vm", "g"]).unwrap();
    let left = rig.ok("snapshot list g");
    assert!(!left.contains(" b "), "{left}{}", deleted.stderr);
    assert!(disks_of(&rig, "a") == known);
    drop(ballast);
    rig.ok("vm start g");
    assert_eq!(rig.state(), "running");
    rig.agent.disconnect();
    wait_for("the guest to have written all", Duration::from_secs(60), || {
        let done = rig.agent.request_or_none("read 1 done")?;
        Ok(done.is_some_and(|text| text.trim() == "whole").then_some(()))
    })
    .unwrap();
    rig.expect_mark("live");
    rig.chain_moves();
    assert_eq!(rig.agent.wrong_pages(9).unwrap(), 0);
    rig.expect_snapshots(&["a"]);
}
