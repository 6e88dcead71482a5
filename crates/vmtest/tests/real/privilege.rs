//! What the emulator may do: nothing that it does not need, whoever runs the daemon.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use expect_test::expect;
use host::cgroup::{self, Limits};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use vmtest::service::Service;

/// Only root runs emulators as somebody else.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A line of `/proc/<pid>/status`, such as `CapEff`.
fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_emulator_has_no_rights_to_spare() {
    let service = Service::start().unwrap();
    service.define("g", &["--memory", "64M"]).unwrap();
    service.ok(&["vm", "start", "g"]).unwrap();
    let vm = service.json(&["vm", "show", "g"]).unwrap();
    let pid = service.qemu_pid(vm["id"].as_str().unwrap()).unwrap().unwrap();
    for field in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(status(pid, field), "0000000000000000", "{field}");
    }
    assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".to_owned(), "2".to_owned()));
    let users = status(pid, "Uid");
    assert!(users.split(' ').all(|user| user != "0"), "{users}");
    let image = std::fs::metadata(service.directory().join("g-0.qcow2")).unwrap();
    assert_eq!(users.split(' ').next(), Some(image.uid().to_string().as_str()));
    if is_root() {
        assert_eq!(status(pid, "Groups"), "");
    }
}

#[test]
fn the_daemon_keeps_few_of_roots_rights() {
    let service = Service::start().unwrap();
    let daemon = service.daemon_pid().unwrap();
    // CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID: bits 0, 1, 3, 5, 6 and 7.
    let few = "00000000000000eb";
    if is_root() {
        for field in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status(daemon, field), few, "{field}");
        }
    }
    for field in ["CapInh", "CapAmb"] {
        assert_eq!(status(daemon, field), "0000000000000000", "{field}");
    }
    assert_eq!(status(daemon, "NoNewPrivs"), "1");
}

#[test]
fn an_image_out_of_its_reach_is_refused_with_advice() {
    if !is_root() {
        return;
    }
    let service = Service::start_with(&["--user", "nobody"]).unwrap();
    service.define("g", &["--memory", "64M"]).unwrap();
    let closed = service.directory().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::copy(service.directory().join("g-1.qcow2"), closed.join("disk.qcow2")).unwrap();
    let disk = closed.join("disk.qcow2").display().to_string();
    let finished = service.run(&["vm", "create", "h", "--disk", &disk]).unwrap();
    expect![[r#"
        error: DIR/closed does not let user 65534 pass, whom the emulator runs as, so DIR/closed is out of its reach: run `chmod o+x DIR/closed`, or choose a place that others may reach
    "#]]
    .assert_eq(&finished.stderr.replace(&service.directory().display().to_string(), "DIR"));
    assert_eq!(std::fs::metadata(&disk).unwrap().uid(), 0);
}

/// A machine of a service, and whom its process runs as.
struct Machine {
    guid: String,
    uid: u32,
    gid: u32,
}

impl Machine {
    fn start(service: &Service, name: &str) -> Self {
        service.define(name, &["--memory", "64M"]).unwrap();
        service.ok(&["vm", "start", name]).unwrap();
        let guid = service.json(&["vm", "show", name]).unwrap()["id"].as_str().unwrap().to_owned();
        let pid = service.qemu_pid(&guid).unwrap().unwrap();
        let id = |field| status(pid, field).split(' ').next().unwrap().parse().unwrap();
        Self { uid: id("Uid"), gid: id("Gid"), guid }
    }
}

/// All files and directories below `directory`, and itself.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let below = std::fs::read_dir(directory).unwrap().flat_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path) } else { vec![path] }
    });
    std::iter::once(directory.to_owned()).chain(below).collect()
}

/// Which of `paths` the account can read, write, list or connect to.
fn reachable(account: &Machine, paths: &[PathBuf]) -> Vec<String> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(account.uid), rustix::fs::Gid::from_raw(account.gid));
    // A thread has ids of its own for the kernel, and takes its capabilities with it when it ends.
    let look = move || {
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        let open = |path: &&PathBuf| {
            std::fs::read_dir(path).is_ok()
                || OpenOptions::new().read(true).open(path).is_ok()
                || OpenOptions::new().write(true).open(path).is_ok()
                || UnixStream::connect(path).is_ok()
        };
        paths.iter().filter(open).map(|path| path.display().to_string()).collect()
    };
    std::thread::scope(|scope| scope.spawn(look).join().unwrap())
}

/// The machine reaches its own files, so that the others' are not out of its reach for some other reason.
#[track_caller]
fn expect_only_its_own(machine: &Machine, paths: &[PathBuf]) {
    let found = reachable(machine, paths);
    let tells = |what: &str| found.iter().any(|path| path.contains(&machine.guid) && path.contains(what));
    for what in ["disks/", "/memory", "serial/com1"] {
        assert!(tells(what), "{what} in {found:#?}");
    }
    let foreign = |path: &&String| !path.contains(&machine.guid) && !path.contains("/a-");
    assert_eq!(found.iter().filter(foreign).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// Drafts, and seals, which are written when the service has time for it.
fn comes_and_goes(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "draft") || path.iter().any(|part| part == "seals")
}

/// Mode, owner and name of a file, without what differs from run to run.
fn describe(path: &Path, root: &Path, machines: &[(&str, &Machine)]) -> String {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let machine = machines.iter().find(|(_, machine)| machine.uid == meta.uid()).map(|(name, _)| *name);
    let owner = machine.unwrap_or(if meta.uid() == 0 { "daemon" } else { "?" });
    let kind = match meta.file_type() {
        kind if kind.is_dir() => "/",
        kind if kind.is_socket() => "=",
        _ => "",
    };
    let place = path.strip_prefix(root).unwrap().display().to_string();
    let parts = place.split('/').map(|part| match part.get(..36).filter(|part| part.matches('-').count() == 4) {
        Some(guid) => part.replace(guid, "*"),
        None => part.to_owned(),
    });
    format!("{:o} {owner:6} {}{kind}\n", meta.mode() & 0o7777, parts.collect::<Vec<_>>().join("/"))
}

// tidy: allow-long-fn half of it is the table of what belongs to whom
#[test]
fn one_machine_has_nothing_of_another() {
    if !is_root() {
        return;
    }
    let service = Service::start().unwrap();
    let (first, second) = (Machine::start(&service, "a"), Machine::start(&service, "b"));
    assert_ne!(first.uid, second.uid);
    assert_eq!(first.uid, std::fs::metadata(service.data().join("vms").join(&first.guid)).unwrap().gid());
    for line in ["snapshot create a whole", "snapshot create a disks --disk-only", "snapshot create b s", "vm save b"] {
        service.ok(&crate::words(line)).unwrap();
    }
    let run = service.directory().join("run");
    let mut paths = [walk(&service.data()), walk(&run)].concat();
    paths.extend(["a-0", "a-1", "b-0", "b-1"].map(|name| service.directory().join(format!("{name}.qcow2"))));

    expect_only_its_own(&first, &paths);
    let machines = [("a", &first), ("b", &second)];
    let line = |path: &PathBuf| describe(path, service.directory(), &machines);
    let table: BTreeSet<String> = paths.iter().filter(|path| !comes_and_goes(path)).map(line).collect();
    expect![[r#"
        400 a      data/vms/*/memory/*/devices
        400 a      data/vms/*/memory/*/memory
        400 b      data/vms/*/memory/*/devices
        400 b      data/vms/*/memory/*/memory
        600 a      a-0.qcow2
        600 a      a-1.qcow2
        600 a      data/vms/*/disks/*.qcow2
        600 b      b-0.qcow2
        600 b      b-1.qcow2
        600 b      data/vms/*/disks/*.qcow2
        600 daemon data/audit.jsonl
        600 daemon data/lock
        600 daemon data/reserve
        600 daemon data/revision
        600 daemon data/snapvisor.sqlite
        600 daemon data/snapvisor.sqlite-shm
        600 daemon data/snapvisor.sqlite-wal
        600 daemon data/vms/*/inventory.jsonl
        600 daemon data/vms/*/lent.json
        600 daemon data/vms/*/memory/*/manifest.json
        600 daemon data/vms/*/memory/*/screen.png
        600 daemon data/vms/*/memory/*/start.sh
        600 daemon run/*/build.json
        600 daemon run/*/log
        600 daemon run/*/process.json
        600 daemon run/probe.log
        600 daemon run/snapvisor.sock=
        600 daemon run/started
        700 a      run/*/serial/
        700 a      run/*/serial/com1=
        700 a      run/*/serial/com2=
        700 b      run/*/serial/
        700 daemon run/*/qmp=
        700 daemon run/probe.qmp=
        711 daemon data/
        711 daemon data/vms/
        711 daemon data/vms/*/
        711 daemon data/vms/*/disks/
        711 daemon data/vms/*/memory/
        711 daemon data/vms/*/memory/*/
        711 daemon run/
        711 daemon run/*/
    "#]]
    .assert_eq(&table.into_iter().collect::<String>());

    for name in ["a", "b"] {
        service.ok(&["vm", "delete", name, "--force"]).unwrap();
    }
    let image = std::fs::metadata(service.directory().join("a-0.qcow2")).unwrap();
    assert_eq!((image.uid(), image.mode() & 0o7777), (0, 0o644), "given back");
}

/// As when an older daemon, which had one account for all machines, is replaced by this one.
#[test]
fn a_machine_that_runs_keeps_its_account_until_it_is_started_again() {
    if !is_root() {
        return;
    }
    let mut service = Service::start_with(&["--user", "nobody"]).unwrap();
    let before = Machine::start(&service, "g");
    assert_eq!(before.uid, 65_534);
    service.ok(&crate::words("snapshot create g first")).unwrap();
    service.restart_with(&[]).unwrap();
    // New layers and memory images are for the process that is there, and so is a merge in it.
    for line in [
        "snapshot create g second",
        "snapshot delete second --vm g",
        "snapshot create g third",
        "vm save g",
        "vm start g",
    ] {
        service.ok(&crate::words(line)).unwrap();
    }
    let pid = service.qemu_pid(&before.guid).unwrap().unwrap();
    let uid: u32 = status(pid, "Uid").split(' ').next().unwrap().parse().unwrap();
    assert_eq!(uid, std::fs::metadata(service.data().join("vms").join(&before.guid)).unwrap().gid());
    assert!(uid > 65_534, "{uid}");
    service.ok(&crate::words("snapshot apply first --vm g --start --force")).unwrap();
    for directory in ["disks", "memory"] {
        let kept = walk(&service.data().join("vms").join(&before.guid).join(directory));
        let owners = kept.iter().filter(|path| path.is_file()).map(|path| std::fs::metadata(path).unwrap().uid());
        assert!(owners.clone().count() > 0 && owners.clone().any(|owner| owner == uid), "{directory}: {kept:?}");
    }
}

#[test]
fn an_emulator_is_limited_and_stays_so_without_a_daemon() {
    let mut service = Service::start().unwrap();
    if service.log().contains("emulators run without limits") {
        println!("no control groups can be made here");
        return;
    }
    service.define("g", &["--memory", "64M", "--cpus", "2"]).unwrap();
    service.ok(&["vm", "start", "g"]).unwrap();
    let guid = service.json(&["vm", "show", "g"]).unwrap()["id"].as_str().unwrap().to_owned();
    let pid = service.qemu_pid(&guid).unwrap().unwrap();
    let groups = cgroup::directories_of(pid.try_into().unwrap());
    let read = |file: &str| groups.iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok());
    let limits = Limits::of(2, 64, 2);
    let memory = read("memory.max").or_else(|| read("memory.limit_in_bytes"));
    assert_eq!(read("pids.max").unwrap().trim(), limits.tasks.to_string());
    assert_eq!(memory.unwrap().trim(), limits.memory.to_string());

    service.restart().unwrap();
    assert_eq!(service.qemu_pid(&guid).unwrap(), Some(pid), "it outlives the daemon");
    assert_eq!(cgroup::directories_of(pid.try_into().unwrap()), groups);
    service.ok(&["vm", "stop", "g"]).unwrap();
    let gone = || Ok(groups.iter().all(|group| !group.exists()).then_some(()));
    vmtest::service::wait_for("its groups to go", std::time::Duration::from_secs(20), gone).unwrap();

    let service = Service::start_with(&["--cgroups", "false"]).unwrap();
    let machine = Machine::start(&service, "g");
    let pid = service.qemu_pid(&machine.guid).unwrap().unwrap();
    assert_eq!(cgroup::directories_of(pid.try_into().unwrap()), Vec::<PathBuf>::new());
}
