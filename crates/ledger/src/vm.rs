//! Virtual machines: what they are made of and what state they are in.
//!
//! [`Settings`] is the part that a snapshot stores and brings back; the rest of [`Vm`] belongs to the machine itself
//! and survives every apply.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{DeviceId, LayerId, MemoryId, SnapshotId, VmId};
use crate::state::Timestamp;

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Identity.
    pub id: VmId,
    /// Display name; need not be unique.
    pub name: String,
    /// Free text.
    pub notes: String,
    /// When it was defined.
    pub created: Timestamp,
    /// Hardware. Disks name the active layers, which belong to this machine alone.
    pub settings: Settings,
    /// What a request for a full snapshot produces.
    pub snapshot_kind: SnapshotKind,
    /// What becomes of it when the host has started.
    #[serde(default, skip_serializing_if = "Startup::is_nothing")]
    pub startup: Startup,
    /// Off, running and so on.
    pub power: Power,
    /// The memory image that the next start continues from, if any. Machine is [`Power::Saved`], [`Power::Starting`]
    /// or [`Power::Saving`].
    pub saved: Option<MemoryId>,
    /// The snapshot that the present state descends from.
    pub parent: Option<SnapshotId>,
    /// The snapshot applied last, while it exists.
    pub last_applied: Option<SnapshotId>,
    /// VM generation id shown to the guest; a new one for each apply.
    pub generation_id: Uuid,
    /// When `power` changed last.
    pub power_changed: Timestamp,
    /// When hardware or the snapshot tree changed last.
    pub configuration_changed: Timestamp,
    /// Files that nobody needs and that could not be deleted yet; tried again whenever the machine is tidied.
    pub garbage: Vec<PathBuf>,
}

/// Hardware of a machine, as stored in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Virtual processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// SMBIOS UUID.
    pub bios_guid: Uuid,
    /// Layer holding the UEFI variables; `None` with BIOS.
    pub nvram: Option<LayerId>,
    /// Disk controllers.
    pub controllers: Vec<Controller>,
    /// Drives on the controllers, with or without a disk in them.
    pub drives: Vec<Drive>,
    /// Network adapters.
    pub nics: Vec<Nic>,
}

/// Firmware, which Hyper-V calls generation 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// Generation 1.
    Bios,
    /// Generation 2.
    Uefi,
}

/// A disk controller, as the namespace shows it. All disks reach the guest as virtio block devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Identity.
    pub id: DeviceId,
    /// IDE or SCSI.
    pub bus: Bus,
    /// Position among the controllers of the same bus.
    pub number: u32,
}

/// The bus a controller stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Bus {
    /// Two of them in a generation 1 machine, two drives each.
    Ide,
    /// Up to [`Bus::capacity`] drives.
    Scsi,
}

impl Bus {
    /// How many drives one controller takes.
    pub fn capacity(self) -> u32 {
        match self {
            Bus::Ide => 2,
            Bus::Scsi => 64,
        }
    }
}

/// A drive: a place on a controller that can hold a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Identity; the same in the machine and all of its snapshots.
    pub id: DeviceId,
    /// Where it is attached.
    pub controller: DeviceId,
    /// Position on the controller.
    pub address: u32,
    /// The disk in it.
    pub disk: Option<LayerId>,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Identity.
    pub id: DeviceId,
    /// Display name.
    pub name: String,
    /// MAC address, six bytes.
    pub mac: [u8; 6],
    /// What it is connected to.
    pub network: Network,
}

/// What a network adapter is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Plugged in nowhere.
    Unconnected,
    /// User-mode networking inside the emulator: outward connections only, no privilege.
    User,
    /// An existing tap interface of the host.
    Tap(String),
}

/// A place in the machine that holds a layer: what pivots together when a snapshot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Slot {
    /// The disk in a drive.
    Drive(DeviceId),
    /// The UEFI variables.
    Nvram,
}

impl Settings {
    /// Every layer in use, in boot order: drives by bus, controller and address, then the UEFI variables.
    pub fn layers(&self) -> Vec<(Slot, LayerId)> {
        let mut drives: Vec<_> = self.drives.iter().filter_map(|drive| Some((drive, drive.disk?))).collect();
        drives.sort_by_key(|(drive, _)| {
            let controller = self.controllers.iter().find(|controller| controller.id == drive.controller);
            (controller.map(|controller| (controller.bus, controller.number)), drive.address)
        });
        let drives = drives.into_iter().map(|(drive, layer)| (Slot::Drive(drive.id), layer));
        drives.chain(self.nvram.map(|layer| (Slot::Nvram, layer))).collect()
    }

    /// Puts `layer` in `slot`. A slot that does not exist is ignored.
    pub fn set_layer(&mut self, slot: Slot, layer: LayerId) {
        match slot {
            Slot::Nvram => self.nvram = Some(layer),
            Slot::Drive(id) => {
                if let Some(drive) = self.drives.iter_mut().find(|drive| drive.id == id) {
                    drive.disk = Some(layer);
                }
            }
        }
    }

    /// Replaces every occurrence of layer `old` by `new`.
    pub fn replace_layer(&mut self, old: LayerId, new: LayerId) {
        for (slot, layer) in self.layers() {
            if layer == old {
                self.set_layer(slot, new);
            }
        }
    }
}

/// What a full snapshot of a machine contains; numbers as in `UserSnapshotType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// 2: users may not take snapshots.
    Disabled,
    /// 3: disks brought to rest by the guest, else like [`SnapshotKind::Standard`].
    ProductionOrStandard,
    /// 4: disks brought to rest by the guest, else fail.
    ProductionOnly,
    /// 5: memory, devices and disks of one moment.
    Standard,
}

/// What becomes of a machine when the host has started; records of older programs do not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Startup {
    /// It stays as it is.
    #[default]
    Nothing,
    /// It is started, or restored if it is saved.
    Start,
}

impl Startup {
    fn is_nothing(&self) -> bool {
        *self == Startup::Nothing
    }
}

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// No process, no saved memory.
    Off,
    /// A process is being started, from nothing or from saved memory.
    Starting,
    /// The guest runs.
    Running,
    /// The guest is stopped, memory in RAM.
    Paused,
    /// Memory is being written to disk; ends in [`Power::Saved`].
    Saving,
    /// No process; memory is on disk, in [`Vm::saved`].
    Saved,
    /// The process is being ended.
    Stopping,
}

impl Power {
    /// Whether there is, or may be, a process.
    pub fn has_process(self) -> bool {
        !matches!(self, Power::Off | Power::Saved)
    }
}
