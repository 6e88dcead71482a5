//! What this host can do: which programs there are, how old they are, and what executes guest instructions.
//!
//! Looked up once at start. What is missing or too old is an error that names what to install, because a daemon that
//! fails at its first snapshot is worse than one that does not start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use qemu::graph::DiskIo;
use qemu::launch::{Accelerator, Platform};
use qemu::version::{Version, VersionError};

/// Where programs are looked for, as in most systems' own PATH for root.
const PROGRAM_DIRECTORIES: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/usr/libexec", "/usr/sbin", "/bin"];

/// Firmware code and the template of its variables, as distributions name them: Debian and Ubuntu, Fedora, Arch.
const UEFI_FILES: [(&str, &str); 5] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// What the configuration may fix; everything absent is looked for.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The machine emulator.
    pub emulator: Option<PathBuf>,
    /// The image tool.
    pub qemu_img: Option<PathBuf>,
    /// The storage daemon.
    pub storage_daemon: Option<PathBuf>,
    /// UEFI code and template of the variables.
    pub uefi: Option<UefiFiles>,
    /// What executes guest instructions.
    pub accelerator: Option<Accelerator>,
    /// How disks are reached; through the page cache if absent.
    pub disk_io: Option<DiskIo>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The machine emulator.
    pub emulator: PathBuf,
    /// The image tool.
    pub qemu_img: PathBuf,
    /// The storage daemon, which merges layers of machines that are off.
    pub storage_daemon: PathBuf,
    /// Version of the emulator.
    pub version: Version,
    /// What new machines are built on.
    pub platform: Platform,
    /// Why hardware virtualisation is not used, if it is not.
    pub no_kvm: Option<String>,
    /// UEFI firmware; without it only machines with BIOS can be made.
    pub uefi: Option<UefiFiles>,
    /// How disks are reached.
    pub disk_io: DiskIo,
}

/// UEFI firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UefiFiles {
    /// The code, raw.
    pub code: PathBuf,
    /// Template of the variables, raw.
    pub variables: PathBuf,
}

/// Why this host cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// A program is not there.
    #[error("{program} was not found in {directories}: install {package}, or name its path in the configuration")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Where it was looked for.
        directories: String,
        /// Debian's package.
        package: &'static str,
    },
    /// A program does not run.
    #[error("could not run {program}: {reason}")]
    Broken {
        /// Its path.
        program: PathBuf,
        /// Why.
        reason: String,
    },
    /// A program is of no use.
    #[error("{program} cannot be used: {source}")]
    Version {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: VersionError,
    },
    /// A path from the configuration leads nowhere.
    #[error("{path} from the configuration is not a file")]
    NotThere {
        /// The path.
        path: PathBuf,
    },
}
