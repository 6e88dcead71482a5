//! The test guest: two disks that boot by themselves with SeaBIOS and with UEFI, built without root.
//!
//! ```text
//! system.qcow2  sector 0        MBR: GRUB's boot sector and the partition table
//!               sector 1 ...    GRUB's core image for BIOS, in the gap before the first partition
//!               1 MiB, 63 MiB   FAT, marked as EFI system partition: EFI/BOOT/BOOTX64.EFI, vmlinuz, initrd
//!               64 MiB, rest    ext4, label guest-system, mounted on /disk0
//! data.qcow2    whole disk      ext4, label guest-data, mounted on /disk1
//! ```
//!
//! Both boot loaders carry the same configuration inside and load the same kernel and initramfs. The initramfs holds
//! busybox, a few modules and the agent. Everything comes from Debian packages that `setup` has fetched and unpacked
//! below the target directory; nothing of the guest is installed on this machine.
//!
//! A build is skipped when a fingerprint of everything that goes in equals that of the last build.

mod cpio;
mod disk;

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use crate::setup::packages;
use crate::shell::{Context, Failure, Result, Tool, Workspace, step};

/// Modules the guest loads, in this order. The kernel has everything else built in that the guest needs.
const MODULES: [&str; 12] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/firmware/qemu_fw_cfg.ko",
    "drivers/acpi/button.ko",
    "drivers/input/evdev.ko",
];

/// What both boot loaders do, before any menu: find our partition, load, go. (The parser that reads this so early
/// knows no comments.) The console is for people; the agent has a port of its own. Randomised addresses, mitigations
/// and self-tests only cost time here, and the time stamp counter of an emulated machine does not need watching.
/// `iomem=relaxed` lets the agent read the generation id where UEFI keeps it.
const GRUB_CONFIG: &str = "\
search.fs_label GUESTBOOT root
linux /vmlinuz console=ttyS0 quiet nokaslr mitigations=off tsc=reliable no_timer_check cryptomgr.notests iomem=relaxed panic=-1
initrd /initrd
boot
";
/// Busybox init's table.
const INITTAB: &str = include_str!("guest/inittab");
/// Brings the guest up, once.
const STARTUP: &str = include_str!("guest/startup.sh");

/// The guest, built.
#[derive(Debug)]
pub struct Images {
    /// Where `system.qcow2` and `data.qcow2` are.
    pub directory: PathBuf,
}

/// Builds the guest's disks unless they are there already.
pub fn build(workspace: &Workspace) -> Result<Images> {
    let images = Images { directory: workspace.target.join("guest") };
    let agent = build_agent(workspace)?;
    let initramfs = initramfs(workspace, &agent)?;
    let fingerprint = fingerprint(workspace, &initramfs)?;
    let stamp = images.directory.join("fingerprint");
    let complete = ["system.qcow2", "data.qcow2"].iter().all(|name| images.directory.join(name).exists());
    if complete && fs::read_to_string(&stamp).is_ok_and(|last| last == fingerprint) {
        return Ok(images);
    }
    step("building the guest's disks");
    let scratch = images.directory.join("scratch");
    fs::create_dir_all(&scratch).context("cannot make the scratch directory")?;
    fs::write(scratch.join("initrd"), initramfs).context("cannot write the initramfs")?;
    disk::build(workspace, &scratch, &images.directory)?;
    fs::write(stamp, fingerprint).context("cannot write the fingerprint")?;
    Ok(images)
}

/// The agent as a static program, built in a target directory of its own because its flags differ.
fn build_agent(workspace: &Workspace) -> Result<Vec<u8>> {
    const TRIPLE: &str = "x86_64-unknown-linux-gnu";
    let target = workspace.target.join("guest/agent");
    Tool::cargo(workspace)
        .args(["build", "--quiet", "--release", "--package", "guest-agent", "--target", TRIPLE, "--target-dir"])
        .arg(&target)
        // Cargo passes these on to us when it runs us; they would undo the settings here.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Cstrip=symbols")
        .run()?;
    let path = target.join(TRIPLE).join("release/guest-agent");
    fs::read(&path).context(format!("cannot read {}", path.display()))
}

fn initramfs(workspace: &Workspace, agent: &[u8]) -> Result<Vec<u8>> {
    let tree = packages::tree(workspace);
    let modules = only_entry(&tree.join("lib/modules"))?.join("kernel");
    let mut archive = cpio::Archive::default();
    for directory in ["bin", "dev", "disk0", "disk1", "etc", "modules", "proc", "sys", "tmp"] {
        archive.directory(directory);
    }
    archive.console();
    archive.file("bin/busybox", &read(&tree.join("bin/busybox"))?);
    archive.symlink("init", "bin/busybox");
    archive.file("bin/agent", agent);
    archive.file("etc/inittab", INITTAB.as_bytes());
    archive.file("etc/startup", STARTUP.as_bytes());
    for (number, module) in MODULES.iter().enumerate() {
        let name = module.rsplit('/').next().unwrap_or(module);
        archive.file(&format!("modules/{number:02}-{name}"), &read(&modules.join(module))?);
    }
    Ok(archive.finish())
}

/// Covers the initramfs, the packages and the code that lays out the disks.
fn fingerprint(workspace: &Workspace, initramfs: &[u8]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    hasher.write(initramfs);
    hasher.write(GRUB_CONFIG.as_bytes());
    hasher.write(include_str!("guest/disk.rs").as_bytes());
    hasher.write(packages::fetched(workspace)?.as_bytes());
    Ok(format!("{:016x}", hasher.finish()))
}

/// The one thing in a directory of the unpacked packages.
fn only_entry(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).context(format!("cannot list {}", directory.display()))?;
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    match paths.as_slice() {
        [path] => Ok(path.clone()),
        _ => Err(Failure::new(format!(
            "{} should hold exactly one entry; remove the directory guest/packages in the target directory and try again",
            directory.display()
        ))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).context(format!("cannot read {}", path.display()))
}
