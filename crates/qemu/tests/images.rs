//! Images made by `qcow2::empty` before the judge that counts: `qemu-img`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu::graph::Format;
use qemu::qcow2::{Backing, HEADER_BYTES, Header, empty};

fn qemu_img(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new("qemu-img").args(arguments).arg("--output=json").output().expect("qemu-img is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn write(path: &Path, size: u64, backing: Option<Backing<'_>>) {
    let image = empty(size, backing).unwrap();
    let file = File::create(path).unwrap();
    file.set_len(image.length).unwrap();
    for (offset, bytes) in image.pieces {
        file.write_all_at(&bytes, offset).unwrap();
    }
}

fn check(directory: &Path, size: u64, backing: Option<(&str, Format)>) {
    let path = directory.join("image.qcow2");
    write(&path, size, backing.map(|(file, format)| Backing { file, format }));
    let name = path.to_str().unwrap();
    let checked = qemu_img(&["check", "-f", "qcow2", name]);
    assert_eq!(checked["check-errors"], 0, "{checked}");
    assert!(checked.get("corruptions").is_none() && checked.get("leaks").is_none(), "{checked}");
    let info = qemu_img(&["info", "-f", "qcow2", name]);
    assert_eq!(info["virtual-size"], size);
    assert_eq!(info.get("full-backing-filename").and_then(|name| name.as_str()), backing.map(|backing| backing.0));
    let format = backing.map(|backing| backing.1.driver());
    assert_eq!(info.get("backing-filename-format").and_then(|name| name.as_str()), format);
}

#[test]
fn empty_images_are_whole() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base,1.raw");
    File::create(&base).unwrap().set_len(1 << 40).unwrap();
    for size in [512, 540_672, 1 << 30, (1 << 40) + 512, 1 << 50] {
        check(directory.path(), size, None);
        check(directory.path(), size, Some((base.to_str().unwrap(), Format::Raw)));
    }
}

#[test]
fn headers_of_others_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    let create = |arguments: &[&str]| {
        let status = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    };
    let [old, top] = ["old", "top"].map(|name| path(name).to_str().unwrap().to_owned());
    create(&["-o", "compat=0.10", &old, "1G"]);
    create(&["-b", &old, "-F", "qcow2", "-o", "cluster_size=2M,extended_l2=on", &top]);
    let read = |name: &str| {
        let mut bytes = std::fs::read(name).unwrap();
        bytes.truncate(HEADER_BYTES);
        Header::read(&bytes).unwrap()
    };
    assert_eq!((read(&old).version, read(&old).size, read(&old).backing_file), (2, 1 << 30, None));
    let header = read(&top);
    assert_eq!(
        (header.cluster_size, header.backing_file, header.backing_format),
        (2 << 20, Some(old), Some("qcow2".into()))
    );
    assert_eq!(read(&top).require_plain(), Ok(()));
}
