//! What the emulator may do: nothing that it does not need, whoever runs the daemon.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use expect_test::expect;
use vmtest::service::Service;

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
    if rustix::process::geteuid().is_root() {
        assert_eq!(status(pid, "Groups"), "");
    }
}

#[test]
fn an_image_out_of_its_reach_is_refused_with_advice() {
    // Only root runs the emulator as somebody else.
    if !rustix::process::geteuid().is_root() {
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
