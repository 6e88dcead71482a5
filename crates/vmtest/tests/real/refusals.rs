//! Bad input: a clear error, an exit status, and nothing changed. No guest has to boot for these.

use expect_test::{Expect, expect};
use vmtest::service::Service;

/// Runs a command that must be refused, and compares its status and what it prints. Paths are shortened to their last part.
#[track_caller]
fn check(service: &Service, line: &str, expected: &Expect) {
    let line = line.replace("{dir}", &service.directory().display().to_string());
    let before = service.ok(&["vm", "list", "--json"]).unwrap();
    let finished = service.run(&line.split(' ').collect::<Vec<_>>()).unwrap();
    let text = finished.stderr.replace(&service.directory().display().to_string(), "{dir}");
    expected.assert_eq(&format!("{}\n{text}", finished.status.code().unwrap()));
    assert_eq!(service.ok(&["vm", "list", "--json"]).unwrap(), before, "nothing has changed");
}

#[test]
fn names_that_do_not_exist_and_wrong_states() {
    let service = Service::start().unwrap();
    service.define("g", &["--memory", "64M"]).unwrap();
    check(
        &service,
        "vm start gg",
        &expect![[r#"
        3
        error: there is no machine gg
        hint: did you mean g?
    "#]],
    );
    check(
        &service,
        "snapshot create nobody",
        &expect![[r#"
        3
        error: there is no machine nobody
    "#]],
    );
    check(
        &service,
        "snapshot apply nothing --vm g",
        &expect![[r#"
        3
        error: there is no snapshot nothing
        hint: there are no snapshots to choose from
    "#]],
    );
    check(
        &service,
        "vm pause g",
        &expect![[r#"
        4
        error: 'g' is off, which does not allow pausing it
    "#]],
    );
    check(
        &service,
        "vm save g",
        &expect![[r#"
        4
        error: 'g' is off, which does not allow saving it
    "#]],
    );
}

#[test]
fn values_that_make_no_sense() {
    let service = Service::start().unwrap();
    service.define("g", &["--memory", "64M"]).unwrap();
    check(
        &service,
        &format!("snapshot create g {}", "x".repeat(101)),
        &expect![[r#"
        4
        error: snapshot name has 101 characters, and may have 100
    "#]],
    );
    check(
        &service,
        "vm create h --memory 1M",
        &expect![[r#"
        4
        error: 1 MiB of memory asked for, between 32 and 4194304 are possible
    "#]],
    );
    check(
        &service,
        "job cancel 00000000-0000-0000-0000-000000000000",
        &expect![[r#"
        3
        error: there is no job 00000000-0000-0000-0000-000000000000
        hint: finished jobs are forgotten after some minutes; see `snapvisor job list`
    "#]],
    );
}

#[test]
fn disk_images_that_cannot_be() {
    let service = Service::start().unwrap();
    service.define("g", &["--memory", "64M"]).unwrap();
    let file = |name: &str, content: &[u8]| std::fs::write(service.directory().join(name), content).unwrap();
    file("text.qcow2", &[b'x'; 4096]);
    std::fs::copy(service.directory().join("g-1.qcow2"), service.directory().join("disguised.img")).unwrap();
    check(
        &service,
        "vm create h --disk {dir}/missing.qcow2",
        &expect![[r#"
        3
        error: could not find the image {dir}/missing.qcow2: No such file or directory (os error 2)
        hint: check the path
    "#]],
    );
    check(
        &service,
        "vm create h --disk {dir}/text.qcow2",
        &expect![[r#"
        4
        error: {dir}/text.qcow2 cannot be attached as qcow2: not a qcow2 image
        hint: if it is raw, give it a name that ends in .raw or .img
    "#]],
    );
    check(
        &service,
        "vm create h --disk {dir}/disguised.img",
        &expect![[r#"
        4
        error: {dir}/disguised.img was to be attached as raw, but begins like a qcow2 image
        hint: give it a name that ends in .qcow2; if its guest really wrote that header, convert it to qcow2 first
    "#]],
    );
    check(
        &service,
        "vm create h --disk {dir}/g-1.qcow2",
        &expect![[r#"
        4
        error: '{dir}/g-1.qcow2' belongs to machine 'g' and its snapshots
        hint: use another file, or take the disk out of the machine first
    "#]],
    );
}

#[test]
fn an_image_in_use_by_another_process() {
    let service = Service::start().unwrap();
    let disk = service.directory().join("d.qcow2");
    assert!(
        std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&disk)
            .arg("64M")
            .status()
            .unwrap()
            .success()
    );
    let socket = service.directory().join("nbd");
    let mut user =
        std::process::Command::new("qemu-nbd").args(["-f", "qcow2", "-k"]).arg(&socket).arg(&disk).spawn().unwrap();
    vmtest::service::wait_for("qemu-nbd", std::time::Duration::from_secs(20), || Ok(socket.exists().then_some(())))
        .unwrap();
    check(
        &service,
        "vm create h --disk {dir}/d.qcow2",
        &expect![[r#"
        4
        error: {dir}/d.qcow2 is being written by another process
        hint: shut down the virtual machine that uses it, or attach another image
    "#]],
    );
    user.kill().unwrap();
    user.wait().unwrap();
}

#[test]
fn a_second_daemon_on_the_same_data() {
    let service = Service::start().unwrap();
    let second = service.serve_command().output().unwrap();
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(text.contains("is in use by the daemon with process id"), "{text}");
}

#[test]
fn qemu_that_is_missing_or_too_old() {
    let service = Service::start().unwrap();
    let old = service.directory().join("old-qemu");
    std::fs::write(&old, "#!/bin/sh\necho QEMU emulator version 7.2.0\n").unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (qemu, expected) in [("/nonexistent/qemu", "/nonexistent/qemu"), (old.to_str().unwrap(), "7.2")] {
        let output = service.serve_command_in(&service.directory().join("other")).arg("--qemu").arg(qemu).output();
        let text = String::from_utf8_lossy(&output.unwrap().stderr).into_owned();
        assert!(text.contains(expected), "{text}");
    }
}
