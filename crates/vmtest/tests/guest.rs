//! The test guest itself: it boots with either firmware from its own disks and its agent keeps its promises.
//!
//! QEMU is started here by hand, because these cases are about the guest and not about the service.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports, in its helpers too")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use vmtest::agent::{Agent, Error};
use vmtest::guest;

/// An emulated guest on a machine that also compiles needs its time.
const BOOT: Duration = Duration::from_secs(180);
const GENERATION_ID: &str = "12345678-9abc-def0-0123-456789abcdef";

#[test]
fn boots_with_seabios() {
    check(&[]);
}

#[test]
fn boots_with_uefi() {
    let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
    let variables = "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd";
    check(&["-drive", code, "-drive", variables]);
}

/// One life of a guest: boot, remember, store, prove, wreck, power button.
#[track_caller]
fn check(firmware: &[&str]) {
    let machine = Machine::start(firmware);
    let mut agent = machine.agent();
    agent.wait_ready(BOOT).unwrap();

    agent.request("set colour dark blue").unwrap();
    assert_eq!(agent.request("get colour").unwrap(), "dark blue");
    for disk in [0, 1] {
        agent.request(&format!("write {disk} note text of disk {disk}")).unwrap();
        assert_eq!(agent.request(&format!("read {disk} note")).unwrap(), format!("text of disk {disk}"));
    }
    assert_eq!(agent.request("genid").unwrap(), GENERATION_ID);
    assert_eq!(agent.request("sh echo a; echo b; false").unwrap(), "1 a\nb");

    agent.request("fill 16 7").unwrap();
    agent.request("dirty 50").unwrap();
    agent.request("chain start").unwrap();
    while agent.chain_status().unwrap().iterations < 10 {}
    assert_eq!(agent.wrong_pages(7).unwrap(), 0);
    let status = agent.chain_status().unwrap();
    assert_eq!((status.mismatches, status.running), (0, true));

    agent.request("wreck").unwrap();
    assert!(matches!(agent.request("get colour"), Err(Error::Refused { .. })));
    assert!(matches!(agent.request("read 1 note"), Err(Error::Refused { .. })));
    assert!(agent.wrong_pages(7).unwrap() > 0);
    machine.press_power_button();
}

/// A QEMU with the guest's disks, which it does not change.
struct Machine {
    directory: tempfile::TempDir,
    qemu: Child,
}

impl Machine {
    fn start(firmware: &[&str]) -> Self {
        let images = guest::images().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let socket = |name: &str| format!("unix:{},server=on,wait=off", directory.path().join(name).display());
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-m",
            "256",
        ]);
        for disk in [&images.system, &images.data] {
            command.arg("-drive").arg(format!("if=virtio,snapshot=on,file={}", disk.display()));
        }
        command.args(["-serial", "null", "-serial", &socket("agent"), "-qmp", &socket("qmp")]);
        command.args(["-device", &format!("vmgenid,guid={GENERATION_ID}")]).args(firmware);
        let qemu = command.spawn().unwrap();
        Self { directory, qemu }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
    }

    fn agent(&self) -> Agent {
        Agent::new(self.path("agent"))
    }

    /// Presses it and waits until QEMU says that the guest itself has shut down.
    fn press_power_button(mut self) {
        let mut monitor = UnixStream::connect(self.path("qmp")).unwrap();
        monitor.set_read_timeout(Some(BOOT)).unwrap();
        monitor.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"system_powerdown\"}\n").unwrap();
        let mut lines = BufReader::new(monitor).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("\"SHUTDOWN\"") && line.contains("\"guest-shutdown\"")));
        self.qemu.wait().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Already gone after a good run.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
