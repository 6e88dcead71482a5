//! Files damaged, lost, put back and worked on behind the service's back: noticed before a guest is started on them, named, and
//! nothing else is lost.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vmtest::service::{BOOT, Finished, wait_for};

use super::Rig;

/// How long the sealer may take for a small guest on a busy machine.
const SEALING: Duration = Duration::from_secs(120);

impl Rig {
    fn machine(&self) -> PathBuf {
        self.service.data().join("vms").join(self.guid())
    }

    /// Waits until every frozen file has its seal.
    fn wait_sealed(&self) {
        let count = |name: &str| fs::read_dir(self.machine().join(name)).map_or(0, Iterator::count);
        // Of the layers two are live; and two are the owner's and not in this directory.
        wait_for("everything frozen to be sealed", SEALING, || {
            Ok((count("seals") == count("memory") + count("disks")).then_some(()))
        })
        .unwrap();
    }

    /// A command on the daemon's own files.
    fn care(&self, words: &[&str]) -> Finished {
        let (data, run) = (self.service.data(), self.service.directory().join("run"));
        let place = ["--data-dir", data.to_str().unwrap(), "--run-dir", run.to_str().unwrap()];
        self.service.run(&[words, &place].concat()).unwrap()
    }

    #[track_caller]
    fn expect_sound(&self) {
        let found = self.care(&["check"]);
        assert!(found.status.success() && found.stdout.contains("all is well"), "{}{}", found.stdout, found.stderr);
    }

    /// The memory whose manifest names the snapshot's disk.
    fn memory_of(&self, snapshot: &str) -> PathBuf {
        let disk = self.disk_of(snapshot, 0);
        let directories = fs::read_dir(self.machine().join("memory")).unwrap().flatten().map(|entry| entry.path());
        let is_it = |directory: &PathBuf| {
            let text = fs::read_to_string(directory.join("manifest.json")).unwrap();
            let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
            manifest["disks"][0]["layers"][0]["path"].as_str().map(Path::new) == Some(&disk)
        };
        directories.into_iter().find(is_it).expect("a snapshot with memory")
    }

    fn live_disk(&self, number: usize) -> PathBuf {
        let shown = self.service.json(&["vm", "show", "g"]).unwrap();
        PathBuf::from(shown["devices"]["disks"][number].as_str().expect("a machine with disks"))
    }

    fn disk_of(&self, snapshot: &str, number: usize) -> PathBuf {
        let shown = self.service.json(&["snapshot", "show", snapshot, "--vm", "g"]).unwrap();
        PathBuf::from(shown["disks"][number].as_str().expect("a snapshot with disks"))
    }
}

/// Changes one bit in the middle of the file's last data.
fn flip_a_bit(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, at - 100).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at - 100).unwrap();
}

#[test]
fn a_flipped_bit_is_named_before_a_guest_meets_it() {
    let mut rig = Rig::small();
    for name in ["a", "b", "c"] {
        rig.mark_and_snap(name);
    }
    rig.wait_sealed();
    rig.expect_sound();
    let (memory, disk) = (rig.memory_of("a").join("memory"), rig.disk_of("b", 1));
    fs::set_permissions(&memory, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // As a disk does it that fails, after which the file's times are as before.
    let modified = fs::metadata(&memory).unwrap().modified().unwrap();
    flip_a_bit(&memory);
    let set_time = |time| OpenOptions::new().write(true).open(&memory).unwrap().set_modified(time).unwrap();
    set_time(modified);
    flip_a_bit(&disk);

    rig.service.kill();
    // A stranger among the machines gives a repair something to do, after which the damage is as it was.
    fs::create_dir(rig.service.data().join("vms/stranger")).unwrap();
    for (words, repaired) in [(&["check"][..], false), (&["check", "--repair"], true)] {
        let found = rig.care(words);
        assert_eq!(found.status.code(), Some(1));
        assert_eq!(found.stdout.contains("repaired: moved "), repaired, "{}", found.stdout);
        for (path, concerns) in [(&memory, "snapshot 'a'"), (&disk, "snapshot 'b', snapshot 'c'")] {
            let line = format!("{} is damaged", path.display());
            let at = found.stdout.find(&line).unwrap_or_else(|| panic!("{line}: {}", found.stdout));
            let next = found.stdout[at..].lines().nth(1).unwrap();
            assert!(next.contains(concerns), "{next}");
        }
    }
    rig.service.restart().unwrap();
    rig.ok("vm stop g");
    // Else it is found before a start only in the headers.
    set_time(std::time::SystemTime::now());
    for name in ["a", "b"] {
        let failed = rig.service.run(&["snapshot", "apply", name, "--vm", "g"]).unwrap();
        assert!(!failed.status.success() && failed.stderr.contains("is damaged"), "{}", failed.stderr);
    }
    // What the machine holds now rests on the damaged disk as well.
    let failed = rig.service.run(&["vm", "start", "g"]).unwrap();
    assert!(failed.stderr.contains(&format!("{} is damaged", disk.display())), "{}", failed.stderr);
    // Put back as it was, it is as good as ever; how it came there does not matter.
    flip_a_bit(&disk);
    rig.ok("snapshot apply b --vm g --start");
    rig.agent.disconnect();
    rig.agent.wait_ready(BOOT).unwrap();
    rig.expect_mark("b");
}

#[test]
fn a_damaged_memory_costs_that_snapshot_and_no_other() {
    let mut rig = Rig::small();
    rig.mark_and_snap("a");
    rig.mark_and_snap("b");
    rig.wait_sealed();
    let devices = rig.memory_of("b").join("devices");
    fs::set_permissions(&devices, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    flip_a_bit(&devices);
    rig.mark("live");
    rig.ok("vm stop g");
    let failed = rig.service.run(&["snapshot", "apply", "b", "--vm", "g"]).unwrap();
    assert!(!failed.status.success(), "{}", failed.stdout);
    assert!(failed.stderr.contains(&format!("{} is damaged", devices.display())), "{}", failed.stderr);
    rig.ok("vm start g");
    rig.agent.disconnect();
    rig.agent.wait_ready(BOOT).unwrap();
    assert_eq!(rig.marks(), [None, Some("live".into()), Some("live".into())]);
    rig.apply("a");
    rig.expect_mark("a");
    // The damaged one can be deleted, and then all is well.
    rig.ok("snapshot delete b --vm g");
    rig.wait_sealed();
    rig.expect_sound();
}

#[test]
fn the_database_is_lost_and_found_while_the_guest_runs() {
    let mut rig = Rig::small();
    rig.start_chain();
    rig.mark_and_snap("a");
    rig.mark_and_snap("b");
    let pid = rig.service.qemu_pid(&rig.guid()).unwrap();
    let guid = rig.guid();
    rig.service.kill();
    for suffix in ["", "-wal", "-shm"] {
        // Which of the three there are depends on when it was killed.
        let _ = fs::remove_file(rig.service.data().join(format!("snapvisor.sqlite{suffix}")));
    }
    let refused = rig.service.serve_command().output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("snapvisor recover"), "{text}");
    let recovered = rig.care(&["recover"]);
    assert!(recovered.status.success(), "{}{}", recovered.stdout, recovered.stderr);
    assert!(recovered.stdout.contains("'g' is back with 2 snapshots"), "{}", recovered.stdout);
    rig.chain_moves();
    rig.service.restart().unwrap();
    assert_eq!((rig.state().as_str(), rig.service.qemu_pid(&guid).unwrap()), ("running", pid));
    rig.expect_mark("later");
    rig.expect_sound();
    rig.mark_and_snap("c");
    rig.expect_snapshots(&["a", "b", "c"]);
}

#[test]
fn an_older_database_is_not_started_from() {
    let mut rig = Rig::small();
    rig.mark_and_snap("a");
    rig.service.kill();
    let database = rig.service.data().join("snapvisor.sqlite");
    // The log goes into the database when it is closed in order.
    let closed = Command::new("python3")
        .args(["-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)')"])
        .arg(&database)
        .status()
        .unwrap();
    assert!(closed.success());
    let copy = rig.service.directory().join("yesterday");
    fs::copy(&database, &copy).unwrap();
    rig.service.restart().unwrap();
    rig.mark_and_snap("b");
    rig.service.kill();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(rig.service.data().join(format!("snapvisor.sqlite{suffix}")));
    }
    fs::copy(&copy, &database).unwrap();
    let refused = rig.service.serve_command().output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("it is an older copy"), "{text}");
    let recovered = rig.care(&["recover"]);
    assert!(recovered.status.success(), "{}{}", recovered.stdout, recovered.stderr);
    rig.service.restart().unwrap();
    rig.expect_snapshots(&["a", "b"]);
}

/// Somebody works on the files with QEMU's own tools.
#[test]
fn files_worked_on_behind_our_back_are_noticed() {
    let mut rig = Rig::small();
    rig.mark_and_snap("a");
    rig.mark("live");
    rig.wait_sealed();
    let (frozen, live) = (rig.disk_of("a", 1), rig.live_disk(1));
    let write = |path: &Path| Command::new("qemu-io").args(["-c", "write -P 7 300M 64k"]).arg(path).output().unwrap();
    // While it runs QEMU's own locks keep others away.
    for path in [&frozen, &live] {
        let refused = write(path);
        assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stdout));
    }
    rig.expect_mark("live");
    rig.ok("vm stop g");
    assert!(write(&frozen).status.success(), "nobody has it open now");
    let failed = rig.service.run(&["vm", "start", "g"]).unwrap();
    assert!(!failed.status.success(), "{}", failed.stdout);
    assert!(failed.stderr.contains(&format!("cannot be started: {} ", frozen.display())), "{}", failed.stderr);
    let found = rig.care(&["check"]);
    assert!(found.stdout.contains("concerns: snapshot 'a', the present state of 'g'"), "{}", found.stdout);
}

/// A header that names another file does not lead the service astray, and is put right.
#[test]
fn an_edited_backing_file_is_found_and_mended() {
    let mut rig = Rig::small();
    rig.mark_and_snap("a");
    rig.mark("live");
    rig.ok("vm stop g");
    let live = rig.live_disk(1);
    let rebased = Command::new("qemu-img")
        .args(["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow"])
        .arg(&live)
        .status()
        .unwrap();
    assert!(rebased.success());
    let found = rig.care(&["check"]);
    assert!(found.stdout.contains("lies on /etc/shadow by its header"), "{}", found.stdout);
    rig.service.kill();
    let mended = rig.care(&["check", "--repair"]);
    assert!(mended.status.success() && mended.stdout.contains("repaired: "), "{}{}", mended.stdout, mended.stderr);
    rig.service.restart().unwrap();
    rig.expect_sound();
    rig.ok("vm start g");
    rig.agent.disconnect();
    rig.agent.wait_ready(BOOT).unwrap();
    assert_eq!(rig.marks(), [None, Some("live".into()), Some("live".into())]);
    rig.expect_snapshots(&["a"]);
}
