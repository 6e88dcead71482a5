//! `Msvm_ResourceAllocationSettingData` of controllers and drives, `Msvm_StorageAllocationSettingData` of disks.
//!
//! A drive names its controller in `Parent`, a disk its drive. `HostResource` of a disk is the file that holds it: the
//! active layer for the machine, the frozen one for a snapshot. Drives have no host resource at all, which matters: there
//! is a client that reads a NULL one as a physical disk.

use cim::Instance;
use ledger::vm::{Bus, Controller, Drive};

use crate::object::{Device, Object, Owner};
use crate::view::View;

/// `ResourceType` of an IDE controller.
pub const TYPE_IDE: u16 = 5;
/// The same of a SCSI controller.
pub const TYPE_SCSI: u16 = 6;
/// The same of a drive.
pub const TYPE_DRIVE: u16 = 17;
/// The same of a disk image.
pub const TYPE_IMAGE: u16 = 31;

/// A controller.
pub fn controller(fresh: Instance, controller: &Controller) -> Instance {
    let fresh = kind_of_controller(fresh, controller.bus);
    let name = fresh.text("Caption").unwrap_or_default().to_owned();
    fresh
        .with("ElementName", format!("{name} {}", controller.number))
        .with("Address", controller.number.to_string())
        .with("VirtualSystemIdentifiers", [format!("{{{}}}", controller.id)])
}

/// A controller, whatever of.
pub fn kind_of_controller(fresh: Instance, bus: Bus) -> Instance {
    let (resource_type, subtype, name) = match bus {
        Bus::Ide => (TYPE_IDE, "Microsoft:Hyper-V:Emulated IDE Controller", "IDE Controller"),
        Bus::Scsi => (TYPE_SCSI, "Microsoft:Hyper-V:Synthetic SCSI Controller", "SCSI Controller"),
    };
    counted(fresh, 1)
        .with("ElementName", name)
        .with("Caption", name)
        .with("Description", format!("Settings for the Microsoft {name}"))
        .with("ResourceType", resource_type)
        .with("ResourceSubType", subtype)
}

/// A drive.
pub fn drive(view: &View, fresh: Instance, owner: Owner, drive: &Drive) -> Instance {
    let parent = Object::Resource(owner, Device::Controller(drive.controller)).path(view);
    kind_of_drive(fresh).with("Parent", parent.to_string()).with("AddressOnParent", drive.address.to_string())
}

/// A drive, whatever of.
pub fn kind_of_drive(fresh: Instance) -> Instance {
    counted(fresh, 1)
        .with("ElementName", "Hard Drive")
        .with("Caption", "Hard Drive")
        .with("Description", "Settings for the Microsoft Synthetic Disk Drive")
        .with("ResourceType", TYPE_DRIVE)
        .with("ResourceSubType", "Microsoft:Hyper-V:Synthetic Disk Drive")
}

/// The disk in a drive; `None` if the drive is empty or the layer unknown.
pub fn disk(view: &View, fresh: Instance, owner: Owner, drive: &Drive) -> Option<Instance> {
    let layer = view.state.layers.get(&drive.disk?)?;
    let parent = Object::Resource(owner, Device::Drive(drive.id)).path(view);
    let disk =
        kind_of_disk(fresh).with("Parent", parent.to_string()).with("HostResource", [layer.path.display().to_string()]);
    Some(disk)
}

/// A disk, whatever of.
pub fn kind_of_disk(fresh: Instance) -> Instance {
    counted(fresh, 1)
        .with("ElementName", "Hard Disk Image")
        .with("ResourceType", TYPE_IMAGE)
        .with("ResourceSubType", "Microsoft:Hyper-V:Virtual Hard Disk")
        .with("Access", 3u16)
        .with("VirtualResourceBlockSize", 512u64)
        .with("HostResourceBlockSize", 512u64)
        .with("IOPSLimit", 0u64)
        .with("IOPSReservation", 0u64)
        .with("CachingMode", 2u16)
        .with("WriteHardeningMethod", 0u16)
}

fn counted(fresh: Instance, count: u64) -> Instance {
    fresh
        .with("VirtualQuantity", count)
        .with("Reservation", count)
        .with("Limit", count)
        .with("Weight", 0u32)
        .with("AutomaticAllocation", true)
        .with("AutomaticDeallocation", true)
}
