//! What can be named in the namespace, and how its names are written and read.
//!
//! An [`Object`] is an identity: small, comparable, independent of any state. Clients see it as key values and paths:
//!
//! | object | key |
//! | --- | --- |
//! | machine | `Name` = its GUID |
//! | settings of a machine or snapshot | `InstanceID` = `Microsoft:<GUID>` |
//! | summary of a machine | the same, in its own class |
//! | export settings of a machine | `InstanceID` = `Microsoft:<GUID>\Export` |
//! | a resource of one of these | `InstanceID` = `Microsoft:<GUID>\<device>…` |
//! | a device of a machine | `DeviceID` = the id of its settings, where it has any |
//! | a pool of resources | `InstanceID` = `Microsoft:<GUID of the pool>` |
//! | defaults and limits of a pool | `InstanceID` = `Microsoft:Definition\<GUID of the pool>\Default` and so on |
//! | job | `InstanceID` = its GUID |
//!
//! A resource carries the GUID of the settings it belongs to, so those of a snapshot never begin like the machine's,
//! and a client that asks for `InstanceID LIKE 'Microsoft:<machine>%'` gets what is live and nothing else.

use std::fmt;

use cim::{ObjectPath, Value};
use ledger::id::{DeviceId, JobId, SnapshotId, VmId};
use ledger::state::State;
use uuid::Uuid;

pub use crate::part::Part;
pub use crate::pool::{Pool, Range};
pub use crate::switch::SwitchName;
use crate::view::View;

/// The identity of an instance that is not an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The host's own `Msvm_ComputerSystem`.
    Host,
    /// A machine's `Msvm_ComputerSystem`.
    Vm(VmId),
    /// `Msvm_VirtualSystemSettingData`.
    Settings(Owner),
    /// A machine's `Msvm_SummaryInformation`.
    Summary(VmId),
    /// A machine's `Msvm_VirtualSystemExportSettingData`.
    Export(VmId),
    /// A resource of settings.
    Resource(Owner, Device),
    /// `Msvm_VirtualSystemSnapshotService`.
    SnapshotService,
    /// `Msvm_VirtualSystemManagementService`.
    ManagementService,
    /// `Msvm_ConcreteJob`.
    Job(JobId),
    /// A device of a machine, as opposed to its settings.
    Part(VmId, Part),
    /// `Msvm_VirtualEthernetSwitch`: what a network adapter can be connected to.
    Switch(SwitchName),
    /// `Msvm_VirtualEthernetSwitchManagementService`.
    SwitchService,
    /// `Msvm_ImageManagementService`.
    ImageService,
    /// `Msvm_ResourcePool` or `Msvm_ProcessorPool`: what resources of one kind come from.
    Pool(Pool),
    /// `Msvm_AllocationCapabilities`: of a pool.
    Allocation(Pool),
    /// Settings that belong to nobody: what a resource of a pool is by default, at least, at most.
    Definition(Pool, Range),
}

/// Whose settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The live machine's: its current settings.
    Vm(VmId),
    /// A snapshot's.
    Snapshot(SnapshotId),
}

/// Which resource of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// `Msvm_ProcessorSettingData`.
    Processor,
    /// `Msvm_MemorySettingData`.
    Memory,
    /// `Msvm_ResourceAllocationSettingData` of an IDE or SCSI controller.
    Controller(DeviceId),
    /// `Msvm_ResourceAllocationSettingData` of a drive.
    Drive(DeviceId),
    /// `Msvm_StorageAllocationSettingData`: the disk in the drive of this identity.
    Disk(DeviceId),
    /// `Msvm_SyntheticEthernetPortSettingData`.
    Nic(DeviceId),
    /// `Msvm_EthernetPortAllocationSettingData`: what the adapter of this identity is connected to.
    Connection(DeviceId),
    /// `Msvm_SerialPortSettingData`, numbered from zero.
    Serial(u8),
}

/// Serial ports of every machine: COM 1, which is the console, and COM 2.
pub const SERIAL_PORTS: u8 = 2;

/// What begins every instance id of settings.
pub(crate) const PREFIX: &str = "Microsoft:";
/// Devices that a machine has once have fixed ids in Hyper-V; clients compare them.
const PROCESSOR: &str = r"b637f346-6a0e-4dec-af52-bd70cb80a21d\0";
const MEMORY: &str = "4764334d-e001-4176-82ee-5594ec9b530e";
const SERIAL: &str = r"8e3a359f-559a-4b6a-98a9-1690a6100ed7\";

impl Owner {
    /// The GUID in the instance ids of its settings and resources.
    pub fn guid(self) -> Uuid {
        match self {
            Owner::Vm(id) => id.0,
            Owner::Snapshot(id) => id.0,
        }
    }

    /// The machine: itself, or the snapshot's.
    pub fn vm(self, state: &State) -> Option<VmId> {
        match self {
            Owner::Vm(id) => state.vms.contains_key(&id).then_some(id),
            Owner::Snapshot(id) => Some(state.snapshots.get(&id)?.vm),
        }
    }

    /// Who has settings of this GUID.
    pub fn of_guid(state: &State, guid: Uuid) -> Option<Self> {
        if state.vms.contains_key(&VmId(guid)) {
            return Some(Owner::Vm(VmId(guid)));
        }
        state.snapshots.contains_key(&SnapshotId(guid)).then_some(Owner::Snapshot(SnapshotId(guid)))
    }

    /// The hardware, as of now or of the moment of the snapshot.
    pub fn hardware(self, state: &State) -> Option<&ledger::vm::Settings> {
        match self {
            Owner::Vm(id) => state.vms.get(&id).map(|vm| &vm.settings),
            Owner::Snapshot(id) => state.snapshots.get(&id).map(|snapshot| &snapshot.settings),
        }
    }
}

impl Device {
    /// All resources of one machine or snapshot: once-only devices first, then as they are attached to one another.
    pub fn all(hardware: &ledger::vm::Settings) -> Vec<Self> {
        let mut devices = vec![Device::Processor, Device::Memory];
        devices.extend(hardware.controllers.iter().map(|controller| Device::Controller(controller.id)));
        devices.extend(hardware.drives.iter().map(|drive| Device::Drive(drive.id)));
        let disks = hardware.drives.iter().filter(|drive| drive.disk.is_some());
        devices.extend(disks.map(|drive| Device::Disk(drive.id)));
        devices.extend(hardware.nics.iter().flat_map(|nic| [Device::Nic(nic.id), Device::Connection(nic.id)]));
        devices.extend((0..SERIAL_PORTS).map(Device::Serial));
        devices
    }

    /// Reads what follows the owner in an instance id, in any case. Says nothing about existence.
    fn parse(text: &str) -> Option<Self> {
        let folded = text.to_ascii_lowercase();
        if folded == PROCESSOR {
            return Some(Device::Processor);
        }
        if folded == MEMORY {
            return Some(Device::Memory);
        }
        if let Some(number) = folded.strip_prefix(SERIAL) {
            return number.parse().ok().map(Device::Serial);
        }
        let (id, kind) = folded.split_once('\\').unwrap_or((folded.as_str(), ""));
        let id: DeviceId = id.parse().ok()?;
        match kind {
            "0" => Some(Device::Controller(id)),
            "d" => Some(Device::Drive(id)),
            "l" => Some(Device::Disk(id)),
            "" => Some(Device::Nic(id)),
            "c" => Some(Device::Connection(id)),
            _ => None,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Processor => f.write_str(PROCESSOR),
            Device::Memory => f.write_str(MEMORY),
            Device::Controller(id) => write!(f, r"{id}\0"),
            Device::Drive(id) => write!(f, r"{id}\D"),
            Device::Disk(id) => write!(f, r"{id}\L"),
            Device::Nic(id) => write!(f, "{id}"),
            Device::Connection(id) => write!(f, r"{id}\C"),
            Device::Serial(number) => write!(f, "{SERIAL}{number}"),
        }
    }
}

impl Object {
    /// The class it is an instance of.
    pub fn class(self) -> &'static str {
        match self {
            Object::Host | Object::Vm(_) => "Msvm_ComputerSystem",
            Object::Settings(_) => "Msvm_VirtualSystemSettingData",
            Object::Summary(_) => "Msvm_SummaryInformation",
            Object::Export(_) => "Msvm_VirtualSystemExportSettingData",
            Object::Resource(_, device) => match device {
                Device::Processor => "Msvm_ProcessorSettingData",
                Device::Memory => "Msvm_MemorySettingData",
                Device::Controller(_) | Device::Drive(_) => "Msvm_ResourceAllocationSettingData",
                Device::Disk(_) => "Msvm_StorageAllocationSettingData",
                Device::Nic(_) => "Msvm_SyntheticEthernetPortSettingData",
                Device::Connection(_) => "Msvm_EthernetPortAllocationSettingData",
                Device::Serial(_) => "Msvm_SerialPortSettingData",
            },
            Object::SnapshotService => "Msvm_VirtualSystemSnapshotService",
            Object::ManagementService => "Msvm_VirtualSystemManagementService",
            Object::Job(_) => "Msvm_ConcreteJob",
            Object::Part(_, part) => part.class(),
            Object::Switch(_) => "Msvm_VirtualEthernetSwitch",
            Object::SwitchService => "Msvm_VirtualEthernetSwitchManagementService",
            Object::ImageService => "Msvm_ImageManagementService",
            Object::Pool(pool) => pool.class(),
            Object::Allocation(_) => "Msvm_AllocationCapabilities",
            Object::Definition(pool, _) => pool.settings_class(),
        }
    }

    /// The value of the key that tells it from others of its class: `Name`, `InstanceID` or `DeviceID`.
    pub fn id(self, host: &str) -> String {
        match self {
            Object::Host => host.to_owned(),
            Object::Vm(id) => id.to_string(),
            Object::Settings(owner) => format!("{PREFIX}{:X}", owner.guid().as_hyphenated()),
            Object::Summary(id) => format!("{PREFIX}{id}"),
            Object::Export(id) => format!(r"{PREFIX}{id}\Export"),
            Object::Resource(owner, device) => format!(r"{PREFIX}{:X}\{device}", owner.guid().as_hyphenated()),
            Object::SnapshotService => "vssnapsvc".to_owned(),
            Object::ManagementService => "vmms".to_owned(),
            Object::Job(id) => id.to_string(),
            Object::Part(id, part) => format!(r"{PREFIX}{id}\{part}"),
            Object::Switch(name) => format!("{:X}", name.guid().as_hyphenated()),
            Object::SwitchService => "nvspwmi".to_owned(),
            Object::ImageService => "vhdsvc".to_owned(),
            Object::Pool(pool) => format!("{PREFIX}{}", pool.guid()),
            Object::Allocation(pool) => format!(r"{PREFIX}AllocationCapabilities\{}", pool.guid()),
            Object::Definition(pool, range) => format!(r"{PREFIX}Definition\{}\{}", pool.guid(), range.name()),
        }
    }

    /// The object whose [`Object::id`] this is, if the state has it. Ids of devices are those of their settings: the class
    /// tells them apart.
    pub fn by_id(state: &State, host: &str, class: &str, id: &str) -> Option<Self> {
        let found = match class {
            "Msvm_ComputerSystem" if cim::case::eq(id, host) => Some(Object::Host),
            "Msvm_ComputerSystem" => id.parse().ok().map(Object::Vm),
            "Msvm_ConcreteJob" => id.parse().ok().map(Object::Job),
            "Msvm_VirtualSystemSnapshotService" => Some(Object::SnapshotService),
            "Msvm_VirtualSystemManagementService" => Some(Object::ManagementService),
            "Msvm_VirtualEthernetSwitchManagementService" => Some(Object::SwitchService),
            "Msvm_ImageManagementService" => Some(Object::ImageService),
            "Msvm_SummaryInformation" => split_settings_id(id).map(|(guid, _)| Object::Summary(VmId(guid))),
            "Msvm_VirtualSystemExportSettingData" => split_settings_id(id).map(|(guid, _)| Object::Export(VmId(guid))),
            "Msvm_VirtualEthernetSwitch" => SwitchName::of_guid(Uuid::try_parse(id).ok()?).map(Object::Switch),
            _ => Self::by_instance_id(state, id)
                .filter(|found| found.class() == class)
                .or_else(|| Self::part_by_id(state, class, id))
                .or_else(|| {
                    Self::of_pools().find(|found| found.class() == class && cim::case::eq(&found.id(host), id))
                }),
        }?;
        (found.class() == class && cim::case::eq(&found.id(host), id) && found.exists(state)).then_some(found)
    }

    /// Pools, their capabilities, and the settings that define them.
    pub fn of_pools() -> impl Iterator<Item = Self> + Send {
        Pool::ALL.into_iter().flat_map(|pool| {
            let definitions = Range::ALL.into_iter().map(move |range| Object::Definition(pool, range));
            [Object::Pool(pool), Object::Allocation(pool)].into_iter().chain(definitions)
        })
    }

    fn part_by_id(state: &State, class: &str, id: &str) -> Option<Self> {
        let (guid, suffix) = split_settings_id(id)?;
        let vm = state.vms.get(&VmId(guid))?;
        let is_it = |part: &Part| part.class() == class && cim::case::eq(&part.to_string(), suffix);
        Part::all(&vm.settings).into_iter().find(is_it).map(|part| Object::Part(vm.id, part))
    }

    /// The settings or the resource of this instance id, if the state has them.
    pub fn by_instance_id(state: &State, id: &str) -> Option<Self> {
        let (guid, device) = split_settings_id(id)?;
        let owner = Owner::of_guid(state, guid)?;
        let found = match device {
            "" => Object::Settings(owner),
            device => Object::Resource(owner, Device::parse(device)?),
        };
        found.exists(state).then_some(found)
    }

    /// Whether the state has it.
    pub fn exists(self, state: &State) -> bool {
        match self {
            Object::Host
            | Object::SnapshotService
            | Object::ManagementService
            | Object::SwitchService
            | Object::ImageService
            | Object::Pool(_)
            | Object::Allocation(_)
            | Object::Definition(..) => true,
            Object::Vm(id) | Object::Summary(id) | Object::Export(id) => state.vms.contains_key(&id),
            Object::Part(id, part) => state.vms.get(&id).is_some_and(|vm| Part::all(&vm.settings).contains(&part)),
            Object::Settings(owner) => owner.hardware(state).is_some(),
            Object::Resource(owner, device) => owner.hardware(state).is_some_and(|hardware| match device {
                Device::Processor | Device::Memory => true,
                Device::Serial(number) => number < SERIAL_PORTS,
                Device::Controller(id) => hardware.controllers.iter().any(|controller| controller.id == id),
                Device::Drive(id) => hardware.drives.iter().any(|drive| drive.id == id),
                Device::Disk(id) => hardware.drives.iter().any(|drive| drive.id == id && drive.disk.is_some()),
                Device::Nic(id) | Device::Connection(id) => hardware.nics.iter().any(|nic| nic.id == id),
            }),
            Object::Job(id) => state.jobs.contains_key(&id),
            Object::Switch(name) => SwitchName::all(state).contains(&name),
        }
    }

    /// The full path, keys in the order in which real hosts write them, the telling one last among text keys.
    pub fn path(self, view: &View) -> ObjectPath {
        let host = &view.host.name;
        let keys: Vec<(&str, String)> = match self {
            Object::Host | Object::Vm(_) | Object::Switch(_) => {
                vec![("CreationClassName", self.class().to_owned()), ("Name", self.id(host))]
            }
            Object::Settings(_)
            | Object::Summary(_)
            | Object::Export(_)
            | Object::Resource(..)
            | Object::Job(_)
            | Object::Pool(_)
            | Object::Allocation(_)
            | Object::Definition(..) => vec![("InstanceID", self.id(host))],
            Object::SnapshotService | Object::ManagementService | Object::SwitchService | Object::ImageService => vec![
                ("CreationClassName", self.class().to_owned()),
                ("Name", self.id(host)),
                ("SystemCreationClassName", "Msvm_ComputerSystem".to_owned()),
                ("SystemName", host.clone()),
            ],
            Object::Part(vm, _) => vec![
                ("CreationClassName", self.class().to_owned()),
                ("DeviceID", self.id(host)),
                ("SystemCreationClassName", "Msvm_ComputerSystem".to_owned()),
                ("SystemName", vm.to_string()),
            ],
        };
        ObjectPath {
            host: Some(host.clone()),
            namespace: Some(view.namespaces.virtualization().namespace().to_owned()),
            class: self.class().to_owned(),
            keys: keys.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect(),
            is_singleton: false,
        }
    }

    /// The path as a `REF` property holds it.
    pub fn reference(self, view: &View) -> Value {
        Value::Reference(self.path(view))
    }
}

/// `Microsoft:<GUID>` and what follows the backslash after it.
pub(crate) fn split_settings_id(id: &str) -> Option<(Uuid, &str)> {
    let rest =
        id.get(..PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX)).and(id.get(PREFIX.len()..))?;
    let (guid, device) = rest.split_once('\\').unwrap_or((rest, ""));
    Some((Uuid::try_parse(guid).ok()?, device))
}
