//! Lays out the guest's disks as plain files and converts them to qcow2.
//!
//! Root and loop devices are not needed: the partition table and the boot code are written here, mtools and mke2fs
//! work on files at an offset.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{GRUB_CONFIG, only_entry, read};
use crate::setup::packages;
use crate::shell::{Context, Failure, Result, Tool, Workspace};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Both disks' size. Large enough for tests that write, small enough to be copied without thought.
const DISK: u64 = 512 * MIB;
/// Where the boot partition begins; the gap before it holds GRUB's core image.
const BOOT_START: u64 = MIB;
/// Where the file system of the system disk begins.
const SYSTEM_START: u64 = 64 * MIB;

/// Partition types of an MBR: EFI system partition (UEFI specification 5.2.2) and Linux.
const TYPE_EFI: u8 = 0xef;
const TYPE_LINUX: u8 = 0x83;

/// What GRUB must be able to do before it can read anything.
const GRUB_MODULES: [&str; 5] = ["part_msdos", "fat", "search_label", "linux", "boot"];

/// Writes `system.qcow2` and `data.qcow2` into `output`, taking the initramfs from `scratch`.
pub fn build(workspace: &Workspace, scratch: &Path, output: &Path) -> Result<()> {
    let system = scratch.join("system.raw");
    blank(&system)?;
    write_boot_code(workspace, scratch, &system)?;
    write_boot_partition(workspace, scratch, &system)?;
    write_ext4(&system, SYSTEM_START, "guest-system", "6f1d3c0e-0001-4000-8000-000000000000")?;
    let data = scratch.join("data.raw");
    blank(&data)?;
    write_ext4(&data, 0, "guest-data", "6f1d3c0e-0002-4000-8000-000000000000")?;
    convert(&system, &output.join("system.qcow2"))?;
    convert(&data, &output.join("data.qcow2"))
}

fn blank(path: &Path) -> Result<()> {
    File::create(path).and_then(|file| file.set_len(DISK)).context(format!("cannot make {}", path.display()))
}

/// Sector 0 and the gap behind it. GRUB's boot sector loads the core image from sector 1 on, which is what both are
/// built for when nobody patches them.
fn write_boot_code(workspace: &Workspace, scratch: &Path, disk: &Path) -> Result<()> {
    let core_path = scratch.join("core.img");
    make_grub(workspace, scratch, "i386-pc", &["biosdisk"], &core_path)?;
    let core = read(&core_path)?;
    if u64::try_from(core.len()).unwrap_or(u64::MAX) > BOOT_START - SECTOR {
        return Err(Failure::new("GRUB's core image does not fit before the first partition; move BOOT_START"));
    }
    let boot = read(&packages::tree(workspace).join("usr/lib/grub/i386-pc/boot.img"))?;
    let sector = master_boot_record(&boot)?;
    let file = OpenOptions::new().write(true).open(disk).context("cannot open the system disk")?;
    file.write_all_at(&sector, 0).and_then(|()| file.write_all_at(&core, SECTOR)).context("cannot write the boot code")
}

/// GRUB's boot sector with our partition table in it.
fn master_boot_record(boot: &[u8]) -> Result<[u8; 512]> {
    /// Code ends here; a disk signature and the table follow.
    const CODE: usize = 440;
    const SIGNATURE: [u8; 4] = *b"SNAP";
    const TABLE: usize = 446;
    let mut sector = [0; 512];
    let code = boot.get(..CODE).ok_or_else(|| Failure::new("GRUB's boot sector is too short"))?;
    sector[..CODE].copy_from_slice(code);
    sector[CODE..CODE + 4].copy_from_slice(&SIGNATURE);
    sector[TABLE..TABLE + 16].copy_from_slice(&partition(true, TYPE_EFI, BOOT_START, SYSTEM_START)?);
    sector[TABLE + 16..TABLE + 32].copy_from_slice(&partition(false, TYPE_LINUX, SYSTEM_START, DISK)?);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

/// One entry of the table; cylinders and heads are set to "look at the sector numbers".
fn partition(active: bool, kind: u8, start: u64, end: u64) -> Result<[u8; 16]> {
    let sectors = |bytes: u64| u32::try_from(bytes / SECTOR).context("a partition beyond 2 TiB");
    let mut entry = [0; 16];
    entry[0] = if active { 0x80 } else { 0 };
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = kind;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&sectors(start)?.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors(end - start)?.to_le_bytes());
    Ok(entry)
}

fn write_boot_partition(workspace: &Workspace, scratch: &Path, disk: &Path) -> Result<()> {
    let efi = scratch.join("bootx64.efi");
    make_grub(workspace, scratch, "x86_64-efi", &[], &efi)?;
    let tree = packages::tree(workspace);
    let kernel = scratch.join("vmlinuz");
    let version = only_entry(&tree.join("lib/modules"))?;
    let version = version.file_name().unwrap_or_default().to_string_lossy();
    fs::copy(tree.join(format!("boot/vmlinuz-{version}")), &kernel).context("cannot copy the kernel")?;

    let partition = format!("{}@@{BOOT_START}", disk.display());
    let sectors = ((SYSTEM_START - BOOT_START) / SECTOR).to_string();
    let hidden = (BOOT_START / SECTOR).to_string();
    let mtool = |name: &str| {
        let tool = Tool::new(tree.join("usr/bin").join(name));
        // mtools judges geometry by the rules of floppies, which do not matter here.
        tool.env("MTOOLS_SKIP_CHECK", "1").env("SOURCE_DATE_EPOCH", "1700000000").args(["-i", &partition])
    };
    let geometry =
        ["-c", "16", "-h", "16", "-s", "63", "-N", "534e4150", "-v", "GUESTBOOT", "-T", &sectors, "-H", &hidden, "::"];
    mtool("mformat").args(geometry).read()?;
    mtool("mmd").args(["::/EFI", "::/EFI/BOOT"]).read()?;
    mtool("mcopy").arg(&efi).arg("::/EFI/BOOT/BOOTX64.EFI").read()?;
    mtool("mcopy").arg(&kernel).arg("::/vmlinuz").read()?;
    mtool("mcopy").arg(scratch.join("initrd")).arg("::/initrd").read()?;
    Ok(())
}

/// A GRUB for one kind of firmware, with the configuration inside.
fn make_grub(workspace: &Workspace, scratch: &Path, format: &str, modules: &[&str], output: &Path) -> Result<()> {
    let tree = packages::tree(workspace);
    let config = scratch.join("grub.cfg");
    fs::write(&config, GRUB_CONFIG).context("cannot write GRUB's configuration")?;
    Tool::new(tree.join("usr/bin/grub-mkimage"))
        .env("LD_LIBRARY_PATH", tree.join("lib/x86_64-linux-gnu"))
        .arg("--directory")
        .arg(tree.join("usr/lib/grub").join(format))
        .args(["--format", format, "--prefix", "/", "--config"])
        .arg(&config)
        .arg("--output")
        .arg(output)
        .args(modules)
        .args(GRUB_MODULES)
        .read()
        .map(drop)
}

/// An ext4 from `start` to the end of the disk, with nothing left for the guest to initialise in the background.
fn write_ext4(disk: &Path, start: u64, label: &str, uuid: &str) -> Result<()> {
    let options = format!("offset={start},hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0,nodiscard");
    let kibibytes = format!("{}k", (DISK - start) / 1024);
    Tool::new("mke2fs")
        .env("E2FSPROGS_FAKE_TIME", "1700000000")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label, "-U", uuid, "-E", &options])
        .arg(disk)
        .arg(kibibytes)
        .read()
        .map(drop)
}

fn convert(raw: &Path, qcow2: &Path) -> Result<()> {
    // Written beside its final name, so that an interrupted build leaves no half image behind.
    let unfinished = qcow2.with_extension("qcow2.part");
    Tool::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(&unfinished).read()?;
    fs::rename(&unfinished, qcow2).context(format!("cannot move {} into place", qcow2.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_keeps_grubs_code_and_has_our_table() {
        let sector = master_boot_record(&[0x90; 512]).unwrap();
        assert!(sector[..440].iter().all(|byte| *byte == 0x90));
        // First partition: active, EFI, from sector 2048, 129024 sectors.
        assert_eq!(sector[446..462], [0x80, 0xfe, 0xff, 0xff, 0xef, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 0xf8, 1, 0]);
        assert_eq!(sector[510..], [0x55, 0xaa]);
    }
}
