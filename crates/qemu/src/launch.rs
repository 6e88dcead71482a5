//! A machine as QEMU's command line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::graph::{DiskIo, Layer};

/// What a machine is built on. Stored with saved memory, because memory loads only into the same platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Versioned machine type, such as `pc-q35-10.0`.
    pub machine_type: String,
    /// How instructions are executed.
    pub accelerator: Accelerator,
    /// CPU model with a stable name, such as `Nehalem-v1`.
    pub cpu: String,
}

/// How guest instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// Translation.
    Tcg,
}

/// Where the guest's memory comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Fresh anonymous memory.
    Anonymous,
    /// A private mapping of a saved memory file, see [`crate::restore`].
    Mapped {
        /// The memory file.
        path: PathBuf,
        /// Offset of the pages in it, from [`crate::mapped_ram::Layout`].
        offset: u64,
    },
}

/// What runs before the operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, built into QEMU's distribution.
    Bios,
    /// OVMF.
    Uefi {
        /// Raw file with the code, read-only.
        code: PathBuf,
        /// The layers of the variables, top first.
        variables: Vec<Layer>,
    },
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Identity of the drive; the same in the machine and all saved states.
    pub drive: Uuid,
    /// Layers, top first.
    pub chain: Vec<Layer>,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Identity.
    pub id: Uuid,
    /// MAC address.
    pub mac: [u8; 6],
    /// What it is connected to.
    pub network: Network,
}

/// What a network adapter is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Plugged in nowhere.
    Unconnected,
    /// User-mode networking inside QEMU.
    User,
    /// An existing tap interface.
    Tap(String),
}

/// Unix sockets of the process. QEMU listens on all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// QMP.
    pub qmp: PathBuf,
    /// First serial port.
    pub com1: PathBuf,
    /// Second serial port.
    pub com2: PathBuf,
}

/// What the process does once it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Run the guest.
    Run,
    /// Wait for `cont`.
    Stopped,
    /// Wait for [`crate::restore::Restore`].
    Incoming,
}

/// A machine to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Display name.
    pub name: String,
    /// SMBIOS UUID.
    pub uuid: Uuid,
    /// What it is built on.
    pub platform: Platform,
    /// Virtual processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Where the memory comes from.
    pub memory: Memory,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// Disks in boot order, which also gives the PCI addresses.
    pub disks: Vec<Disk>,
    /// Network adapters in order, which also gives the PCI addresses.
    pub nics: Vec<Nic>,
    /// VM generation id.
    pub generation_id: Uuid,
    /// How disks are reached.
    pub disk_io: DiskIo,
    /// Where it listens.
    pub sockets: Sockets,
    /// What it does once it is up.
    pub start: Start,
}

/// Why a machine cannot be put into arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// More disks than PCI addresses.
    #[error("the machine has {count} disks; at most {DISKS_MAX} have an address")]
    TooManyDisks {
        /// How many.
        count: usize,
    },
    /// More adapters than PCI addresses.
    #[error("the machine has {count} network adapters; at most {NICS_MAX} have an address")]
    TooManyNics {
        /// How many.
        count: usize,
    },
    /// No layer.
    #[error("a disk has no layer")]
    EmptyChain,
}

/// PCI functions 0x04.0 to 0x1a.7.
pub const DISKS_MAX: usize = 184;
/// PCI functions 0x02.0 to 0x03.7.
pub const NICS_MAX: usize = 16;
