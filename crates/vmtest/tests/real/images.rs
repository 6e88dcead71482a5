//! Disk images that belong to no machine, by the command line and the real `qemu-img`. No guest is needed.

use std::path::Path;
use std::process::Command;

use vmtest::service::Service;

struct Disks(Service);

impl Disks {
    fn ok(&self, line: &str) -> String {
        self.0.ok(&super::words(&self.placed(line))).unwrap()
    }

    #[track_caller]
    fn refused(&self, line: &str, words: &str) {
        let finished = self.0.run(&super::words(&self.placed(line))).unwrap();
        assert!(!finished.status.success() && finished.stderr.contains(words), "{finished:?}");
    }

    fn info(&self, name: &str) -> serde_json::Value {
        let line = self.placed(&format!("disk info D/{name}"));
        self.0.json(&super::words(&line)).unwrap()
    }

    /// `D` stands for the directory of the images.
    fn placed(&self, line: &str) -> String {
        line.replace("D/", &format!("{}/", self.0.directory().display()))
    }

    fn tool(&self, program: &str, line: &str) {
        let line = self.placed(line);
        let output = Command::new(program).args(super::words(&line)).output().unwrap();
        assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.directory().join(name)
    }

    /// Nothing half-made is left.
    fn check_tidy(&self) {
        let names = std::fs::read_dir(self.0.directory()).unwrap().flatten().map(|entry| entry.file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains(".part")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn same_content(disks: &Disks, a: &str, b: &str) {
    let (a, b) = (disks.path(a), disks.path(b));
    let compared =
        Command::new("qemu-img").arg("compare").args(["-f", format(&a), "-F", format(&b)]).arg(a).arg(b).status();
    assert!(compared.unwrap().success());
}

fn format(path: &Path) -> &'static str {
    match path.extension().unwrap().to_str().unwrap() {
        "vhd" => "vpc",
        "vhdx" => "vhdx",
        "qcow2" => "qcow2",
        _ => "raw",
    }
}

#[test]
fn images_are_made_converted_enlarged_and_merged() {
    let disks = Disks(Service::start().unwrap());
    for (name, fixed) in [("a.qcow2", ""), ("a.raw", ""), ("a.vhd", ""), ("a.vhdx", ""), ("f.vhd", " --fixed")] {
        disks.ok(&format!("disk create D/{name} 64M{fixed}"));
        let info = disks.info(name);
        assert_eq!((&info["size"], &info["in_use"]), (&(64 << 20).into(), &false.into()), "{name}");
        disks.ok(&format!("disk check D/{name}"));
    }
    assert_eq!(disks.info("f.vhd")["type"], "fixed");
    disks.refused("disk create D/a.qcow2 64M", "exists already");

    let image = disks.path("a.qcow2");
    let written = Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -P 7 1M 1M"]).arg(image).status();
    assert!(written.unwrap().success());
    disks.ok("disk create D/top.qcow2 --parent D/a.qcow2");
    assert_eq!(disks.info("top.qcow2")["parent"], disks.placed("D/a.qcow2"));
    disks.ok("disk convert D/top.qcow2 D/flat.vhdx");
    same_content(&disks, "top.qcow2", "flat.vhdx");
    disks.ok("disk convert D/flat.vhdx D/back.raw");
    same_content(&disks, "top.qcow2", "back.raw");

    disks.refused("disk merge D/a.qcow2 D/top.qcow2", "does not lie on");
    disks.ok("disk merge D/top.qcow2 D/a.qcow2");
    assert!(!disks.path("top.qcow2").exists());
    same_content(&disks, "a.qcow2", "back.raw");

    disks.ok("disk resize D/a.qcow2 128M");
    assert_eq!(disks.info("a.qcow2")["size"], 128 << 20);
    disks.refused("disk resize D/a.qcow2 64M", "disks do not shrink");
    disks.refused("disk resize D/a.vhdx 128M", "cannot be enlarged");
    disks.check_tidy();
}

#[test]
fn what_a_machine_uses_or_names_elsewhere_is_refused() {
    let disks = Disks(Service::start().unwrap());
    disks.ok("disk create D/used.qcow2 64M");
    disks.ok("vm create u --memory 64M --disk D/used.qcow2");
    disks.refused("disk resize D/used.qcow2 128M", "belongs to machine 'u'");
    // By another name, too.
    std::os::unix::fs::symlink(disks.path("used.qcow2"), disks.path("link.qcow2")).unwrap();
    disks.refused("disk resize D/link.qcow2 128M", "belongs to machine 'u'");
    disks.refused("disk convert D/link.qcow2 D/copy.raw", "belongs to machine 'u'");
    std::fs::hard_link(disks.path("used.qcow2"), disks.path("hard.qcow2")).unwrap();
    disks.refused("disk resize D/hard.qcow2 128M", "has 2 names");

    disks.tool("qemu-img", "create -q -f qcow2 -F raw -u -b /etc/passwd D/thief.qcow2 1M");
    disks.refused("disk convert D/thief.qcow2 D/loot.raw", "");
    std::fs::write(disks.path("posing.raw"), std::fs::read(disks.path("thief.qcow2")).unwrap()).unwrap();
    disks.refused("disk convert D/posing.raw D/loot.raw", "begins like a qcow2 image");
    std::fs::write(disks.path("posing.vhd"), vec![0; 4096]).unwrap();
    disks.refused("disk info D/posing.vhd", "is no VHD file");
    assert!(!disks.path("loot.raw").exists());
    disks.check_tidy();
}
