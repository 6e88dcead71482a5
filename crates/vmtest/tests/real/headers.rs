//! Headers that lie: written by a guest, by an emulator that its guest has taken over, or brought by a user.

use std::fs;
use std::path::Path;
use std::process::Command;

use vmtest::service::Service;

use crate::words;

const SIZE: usize = 1 << 20;

fn tool(line: &str) {
    let mut words = line.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{line}");
}

/// The error of a command that must fail.
#[track_caller]
fn refused(service: &Service, line: &str) -> String {
    let finished = service.run(&words(line)).unwrap();
    assert!(!finished.status.success(), "{line} went well");
    finished.stderr.lines().next().unwrap().replace(&service.directory().display().to_string(), "DIR")
}

/// All layers that the service made for the only machine.
fn layers(service: &Service) -> Vec<String> {
    let machine = fs::read_dir(service.data().join("vms")).unwrap().next().unwrap().unwrap().path();
    fs::read_dir(machine.join("disks")).unwrap().map(|entry| entry.unwrap().path().display().to_string()).collect()
}

#[test]
fn a_raw_disk_stays_raw_whatever_its_guest_writes() {
    let service = Service::start().unwrap();
    let place = service.directory().display();
    let raw = service.directory().join("r.raw");
    fs::write(&raw, vec![0; SIZE]).unwrap();
    service.ok(&words(&format!("vm create r --memory 64M --disk {place}/r.raw"))).unwrap();
    // What a guest can do at any time: a header that names another file.
    tool(&format!("qemu-img create -q -f qcow2 -u -F raw -b /etc/shadow {place}/thief.qcow2 1M"));
    let mut own = fs::read(service.directory().join("thief.qcow2")).unwrap();
    own.resize(SIZE, 7);
    fs::write(&raw, &own).unwrap();

    let seen_through = |layer: &str| {
        tool(&format!("qemu-img convert -U -f qcow2 -O raw {layer} {place}/seen.raw"));
        fs::read(service.directory().join("seen.raw")).unwrap()
    };
    for line in ["vm start r", "snapshot create r one --disk-only", "vm stop r"] {
        service.ok(&words(line)).unwrap();
    }
    let [layer] = &layers(&service)[..] else { panic!("one layer") };
    assert!(seen_through(layer) == own, "the layer shows something else than what the guest wrote");
    for line in ["vm start r", "snapshot delete one --vm r", "vm stop r", "snapshot create r two"] {
        service.ok(&words(line)).unwrap();
    }
    let [layer] = &layers(&service)[..] else { panic!("one layer") };
    assert!(seen_through(layer) == own, "the layer shows something else than what the guest wrote");
    for line in ["snapshot delete two --vm r", "vm start r", "vm stop r"] {
        service.ok(&words(line)).unwrap();
    }
    assert_eq!(layers(&service), Vec::<String>::new());
    assert!(fs::read(&raw).unwrap() == own, "a merge changed what the guest wrote");
}

#[test]
fn a_header_that_was_changed_behind_our_back_is_not_followed() {
    let service = Service::start().unwrap();
    let place = service.directory().display();
    service.define("g", &["--memory", "64M"]).unwrap();
    tool(&format!("qemu-img rebase -u -f qcow2 -F raw -b /etc/shadow {place}/g-1.qcow2"));
    assert_eq!(
        refused(&service, "vm start g"),
        "error: the header of DIR/g-1.qcow2 says that it lies on /etc/shadow, and on record is nothing"
    );
    tool(&format!("qemu-img rebase -u -f qcow2 -b  {place}/g-1.qcow2"));
    for line in ["vm start g", "snapshot create g one --disk-only", "vm stop g"] {
        service.ok(&words(line)).unwrap();
    }
    // A merge opens the files, too.
    tool(&format!("qemu-img rebase -u -f qcow2 -F raw -b /etc/shadow {place}/g-1.qcow2"));
    let error = refused(&service, "snapshot delete one --vm g");
    assert!(error.contains("says that it lies on /etc/shadow"), "{error}");
    tool(&format!("qemu-img rebase -u -f qcow2 -b  {place}/g-1.qcow2"));
    service.ok(&words("vm start g")).unwrap();
}

#[test]
fn an_image_brings_nothing_of_others() {
    let service = Service::start().unwrap();
    let place = service.directory().display();
    service.define("g", &["--memory", "64M"]).unwrap();
    service.ok(&words("vm start g")).unwrap();
    service.ok(&words("snapshot create g one")).unwrap();
    let machine = fs::read_dir(service.data().join("vms")).unwrap().next().unwrap().unwrap().path();
    let first = |name: &str| fs::read_dir(machine.join(name)).unwrap().next().unwrap().unwrap().path();
    let (layer, memory) = (first("disks"), first("memory").join("memory"));

    let image = service.directory().join("thief.qcow2");
    let attach = |backing: &Path, format: &str| {
        let backing = backing.display();
        tool(&format!("qemu-img create -q -f qcow2 -u -F {format} -b {backing} {} 1M", image.display()));
        let before = fs::read(&image).unwrap();
        let error = refused(&service, &format!("vm create h --memory 64M --disk {}", image.display()));
        assert!(fs::read(&image).unwrap() == before, "it was changed");
        assert!(!service.ok(&["vm", "list"]).unwrap().lines().any(|line| line.starts_with("h ")), "it was made");
        error
    };
    let elsewhere = |backing: &Path| {
        let text =
            format!("error: {place}/thief.qcow2 lies on {}, which is not in the same directory", backing.display());
        text.replace(&place.to_string(), "DIR")
    };
    for (backing, format) in [
        (&layer, "qcow2"),
        (&memory, "raw"),
        (&service.data().join("snapvisor.sqlite"), "raw"),
        (&"/etc/shadow".into(), "raw"),
    ] {
        assert_eq!(attach(backing, format), elsewhere(backing));
    }
    // Beside it, but another machine's disk, whether that runs or not.
    let disk = service.directory().join("g-0.qcow2");
    let expected = match rustix::process::geteuid().is_root() {
        true => "error: the backing file DIR/g-0.qcow2 was given to another machine",
        false => "error: 'DIR/g-0.qcow2' belongs to machine 'g' and its snapshots",
    };
    assert_eq!(attach(&disk, "qcow2"), expected);
    service.ok(&words("vm stop g")).unwrap();
    assert_eq!(attach(&disk, "qcow2"), expected);

    let direct = refused(&service, &format!("vm create h --memory 64M --disk {}", layer.display()));
    assert!(direct.ends_with("is below DIR/data, where the service keeps its own files"), "{direct}");
    let made = refused(&service, &format!("disk create {}/new.qcow2 1M", machine.join("disks").display()));
    assert!(made.ends_with("is below DIR/data, where the service keeps its own files"), "{made}");
}
