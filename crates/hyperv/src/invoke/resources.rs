//! Adding, changing and removing hardware.
//!
//! What a resource is, its `ResourceType` says, not its class: clients send drives, disks and controllers alike as
//! `Msvm_ResourceAllocationSettingData`. Only if there is no number does the class decide.

use std::path::PathBuf;

use cim::{Instance, ObjectPath};
use ledger::failure::Failure;
use ledger::id::{DeviceId, VmId};
use ledger::request::{Request, VmChanges};
use ledger::vm::{Bus, Network};

use super::arguments::{of_snapshot, texts};
use super::changes::{allow_only, changed};
use super::completion::Resulting;
use super::{Call, Completion, Reaction, invalid, unsupported};
use crate::class;
use crate::object::{Device, Object, Owner, SwitchName};

/// `ResourceType`: processor.
pub const PROCESSOR: u64 = 3;
/// The same: memory.
pub const MEMORY: u64 = 4;
const IDE: u64 = 5;
const SCSI: u64 = 6;
const ADAPTER: u64 = 10;
const DRIVE: u64 = 17;
const SERIAL: u64 = 21;
const IMAGE: u64 = 31;
const CONNECTION: u64 = 33;

/// A request, and what it leaves behind.
type Step = (Request, Resulting);

pub fn add(call: &Call) -> Result<Reaction, Failure> {
    let vm = call.current_settings("AffectedConfiguration")?;
    let resources = call.instances("ResourceSettings");
    if resources.is_empty() {
        return Err(invalid("ResourceSettings is empty"));
    }
    let steps: Vec<Step> =
        resources.into_iter().map(|resource| add_one(call, vm, resource)).collect::<Result<_, _>>()?;
    submit(call, steps)
}

pub fn modify(call: &Call) -> Result<Reaction, Failure> {
    let resources = call.instances("ResourceSettings");
    if resources.is_empty() {
        return Err(invalid("ResourceSettings is empty"));
    }
    let steps: Vec<Option<Step>> =
        resources.into_iter().map(|resource| modify_one(call, resource)).collect::<Result<_, _>>()?;
    submit(call, steps.into_iter().flatten().collect())
}

pub fn remove(call: &Call) -> Result<Reaction, Failure> {
    let remove_one = |object| {
        let (vm, device) = live(object)?;
        let removal = |device, disk_only| Ok(Request::RemoveDevice { vm, device, disk_only });
        match device {
            Device::Controller(id) | Device::Drive(id) | Device::Nic(id) => removal(id, false),
            Device::Disk(id) => removal(id, true),
            Device::Connection(nic) => Ok(Request::ConnectNic { vm, nic, network: Network::Unconnected }),
            Device::Processor | Device::Memory | Device::Serial(_) => {
                Err(unsupported(format!("a {} cannot be removed", object.class())))
            }
        }
    };
    let requests = call.objects("ResourceSettings")?.into_iter().map(remove_one).collect::<Result<_, _>>()?;
    call.submit(requests, Completion::job(call.view).awaited())
}

/// What kind of resource an instance describes.
pub fn resource_type(resource: &Instance) -> Option<u64> {
    let by_class = || {
        let classes = [
            ("Msvm_ProcessorSettingData", PROCESSOR),
            ("Msvm_MemorySettingData", MEMORY),
            ("CIM_StorageAllocationSettingData", IMAGE),
            ("Msvm_SyntheticEthernetPortSettingData", ADAPTER),
            ("Msvm_EthernetPortAllocationSettingData", CONNECTION),
            ("Msvm_SerialPortSettingData", SERIAL),
        ];
        classes.into_iter().find(|(class, _)| resource.class().is_a(class)).map(|(_, number)| number)
    };
    resource.number("ResourceType").or_else(by_class)
}

/// The number of processors a resource asks for.
pub fn processors(resource: &Instance) -> Result<Option<u32>, Failure> {
    let number = resource.number("VirtualQuantity");
    number
        .map(u32::try_from)
        .transpose()
        .map_err(|_| invalid("there cannot be as many processors as VirtualQuantity says"))
}

/// The memory a resource asks for, in MiB.
pub fn memory_mib(resource: &Instance) -> Result<Option<u64>, Failure> {
    if resource.flag("DynamicMemoryEnabled") == Some(true) {
        return Err(unsupported("dynamic memory is not supported").hint("set DynamicMemoryEnabled to false"));
    }
    match resource.text("AllocationUnits") {
        None | Some("byte * 2^20") => Ok(resource.number("VirtualQuantity")),
        Some(other) => {
            Err(invalid(format!("AllocationUnits {other} of memory is not understood")).hint("use byte * 2^20"))
        }
    }
}

fn submit(call: &Call, steps: Vec<Step>) -> Result<Reaction, Failure> {
    let (requests, resources) = steps.into_iter().unzip();
    call.submit(requests, Completion::job(call.view).awaited().with_resources(resources))
}

fn add_one(call: &Call, vm: VmId, resource: &Instance) -> Result<Step, Failure> {
    match resource_type(resource) {
        Some(IDE) => Ok((Request::AddController { vm, bus: Bus::Ide }, Resulting::Created(vm, Device::Controller))),
        Some(SCSI) => Ok((Request::AddController { vm, bus: Bus::Scsi }, Resulting::Created(vm, Device::Controller))),
        Some(DRIVE) => {
            check_kind_of_drive(resource)?;
            let controller = parent(call, vm, resource, "a controller", |device| match device {
                Device::Controller(id) => Some(id),
                _ => None,
            })?;
            let request = Request::AddDrive { vm, controller, address: address(resource)? };
            Ok((request, Resulting::Created(vm, Device::Drive)))
        }
        Some(IMAGE) => {
            let drive = parent(call, vm, resource, "a drive", |device| match device {
                Device::Drive(id) => Some(id),
                _ => None,
            })?;
            let request = Request::AttachDisk { vm, drive, path: image_path(resource)?, format: None };
            Ok((request, Resulting::Known(vm, Device::Disk(drive))))
        }
        Some(ADAPTER) => {
            let name = resource.text("ElementName").filter(|name| !name.is_empty()).unwrap_or("Network Adapter");
            let mac = resource.text("Address").filter(|mac| !mac.is_empty()).map(mac_address).transpose()?;
            let network = wanted_network(resource)?.unwrap_or(Network::Unconnected);
            let request = Request::AddNic { vm, name: name.to_owned(), mac, network };
            Ok((request, Resulting::Created(vm, Device::Nic)))
        }
        Some(CONNECTION) => {
            let nic = parent(call, vm, resource, "a network adapter", |device| match device {
                Device::Nic(id) => Some(id),
                _ => None,
            })?;
            let network = wanted_network(resource)?.unwrap_or(Network::Unconnected);
            Ok((Request::ConnectNic { vm, nic, network }, Resulting::Known(vm, Device::Connection(nic))))
        }
        Some(PROCESSOR | MEMORY | SERIAL) => {
            Err(unsupported(format!("another {} cannot be added", resource.class().name))
                .hint("every machine has its own; change it with ModifyResourceSettings"))
        }
        Some(other) => Err(unsupported(format!("resources of type {other} are not supported")).hint(
            "there are controllers (5, 6), drives (17), disk images (31), network adapters (10) and connections (33)",
        )),
        None => Err(invalid(format!("ResourceType is missing in {}", resource.class().name))),
    }
}

fn modify_one(call: &Call, resource: &Instance) -> Result<Option<Step>, Failure> {
    let id = resource.text("InstanceID").ok_or_else(|| invalid("InstanceID is missing in ResourceSettings"))?;
    let object = Object::by_instance_id(&call.view.state, id)
        .ok_or_else(|| invalid(format!("there is no resource with InstanceID {id}")))?;
    let current = class::instance(call.view, object).ok_or_else(|| invalid(format!("{id} does not exist any more")))?;
    let (vm, device) = live(object)?;
    let changed = changed(&current, resource);
    if changed.is_empty() {
        return Ok(None);
    }
    let modify = |changes| Some((Request::ModifyVm { vm, changes }, Resulting::Known(vm, device)));
    match device {
        Device::Processor => {
            allow_only(&changed, &["VirtualQuantity"], "processors")?;
            Ok(modify(VmChanges { processors: processors(resource)?, ..VmChanges::default() }))
        }
        Device::Memory => {
            // Fixed memory has one size, which some clients write three times, and some only as its limit.
            let memory_mib = memory_mib(resource)?.or(resource.number("Limit"));
            let bounds = [resource.number("Reservation"), resource.number("Limit")];
            let follows = bounds.into_iter().flatten().all(|bound| Some(bound) == memory_mib);
            let allowed: &[&str] =
                if follows { &["VirtualQuantity", "Reservation", "Limit"] } else { &["VirtualQuantity"] };
            allow_only(&changed, allowed, "memory")?;
            Ok(modify(VmChanges { memory_mib, ..VmChanges::default() }))
        }
        Device::Connection(nic) => {
            allow_only(
                &changed,
                &["HostResource", "Connection", "EnabledState", "LastKnownSwitchName"],
                "a connection",
            )?;
            let network = wanted_network(resource)?;
            Ok(network.map(|network| (Request::ConnectNic { vm, nic, network }, Resulting::Known(vm, device))))
        }
        Device::Serial(number) => {
            let stays = texts(resource, "Connection").into_iter().all(|place| is_usual_place(call, number, place));
            allow_only(&changed, if stays { &["Connection"] } else { &[] }, "a serial port")
                .map_err(|failure| failure.hint("a port is a socket at a place of the service's own choice"))?;
            Ok(None)
        }
        Device::Controller(_) | Device::Drive(_) | Device::Disk(_) | Device::Nic(_) => {
            allow_only(&changed, &[], &format!("a {}", object.class()))?;
            Ok(None)
        }
    }
}

/// Whether this asks for nothing but the place that the service itself gives a serial port: nowhere, or the place of any
/// machine's port, which stands in descriptions that are copied from one machine to the next.
fn is_usual_place(call: &Call, number: u8, place: &str) -> bool {
    let mut machines = call.view.state.vms.keys();
    let is_of = |vm: &VmId| (call.view.host.serial)(*vm, number).is_some_and(|path| path.as_os_str() == place);
    place.is_empty() || machines.any(is_of)
}

/// A resource of a machine as it is now.
fn live(object: Object) -> Result<(VmId, Device), Failure> {
    match object {
        Object::Resource(Owner::Vm(vm), device) => Ok((vm, device)),
        Object::Resource(Owner::Snapshot(_), _) => Err(of_snapshot()),
        other => Err(invalid(format!("a {} is no resource of a machine", other.class()))),
    }
}

/// The device that `Parent` names, which must belong to the machine.
fn parent(
    call: &Call,
    vm: VmId,
    resource: &Instance,
    what: &str,
    wanted: fn(Device) -> Option<DeviceId>,
) -> Result<DeviceId, Failure> {
    let object = call.resolve_text(resource, "Parent")?;
    let found = match object {
        Object::Resource(Owner::Vm(owner), device) if owner == vm => wanted(device),
        _ => None,
    };
    found.ok_or_else(|| invalid(format!("Parent must be the path of {what} of this machine")))
}

/// The place on the controller; `None` for the first free one.
fn address(resource: &Instance) -> Result<Option<u32>, Failure> {
    let text =
        ["AddressOnParent", "Address"].iter().find_map(|name| resource.text(name).filter(|text| !text.is_empty()));
    text.map(|text| text.trim().parse().map_err(|_| invalid(format!("AddressOnParent {text} is not a number"))))
        .transpose()
}

/// Drives are for disk images: there is no way to hand a disk of the host to a guest.
fn check_kind_of_drive(resource: &Instance) -> Result<(), Failure> {
    let images = "Microsoft:Hyper-V:Synthetic Disk Drive";
    match resource.text("ResourceSubType") {
        Some(other) if !other.is_empty() && !cim::case::eq(other, images) => {
            Err(unsupported(format!("drives of ResourceSubType {other} are not supported"))
                .hint(format!("use {images}, and add a disk image to it")))
        }
        _ => Ok(()),
    }
}

fn image_path(resource: &Instance) -> Result<PathBuf, Failure> {
    match texts(resource, "HostResource").as_slice() {
        [path] if !path.is_empty() => Ok(PathBuf::from(*path)),
        _ => Err(invalid("HostResource must hold one path of a disk image")),
    }
}

/// Twelve hexadecimal digits, with or without separators.
fn mac_address(text: &str) -> Result<[u8; 6], Failure> {
    let wrong =
        || invalid(format!("Address {text} is not a MAC address")).hint("write it as twelve hexadecimal digits");
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect();
    let number = u64::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 12).ok_or_else(wrong)?;
    let [_, _, mac @ ..] = number.to_be_bytes();
    Ok(mac)
}

/// The network that a resource asks for: what `HostResource` or `Connection` names, none if it is disabled or names an
/// empty text, and `None` if it says nothing about it.
fn wanted_network(resource: &Instance) -> Result<Option<Network>, Failure> {
    if resource.number("EnabledState") == Some(3) {
        return Ok(Some(Network::Unconnected));
    }
    let given = [texts(resource, "HostResource"), texts(resource, "Connection")].concat();
    match given.iter().map(|text| text.trim()).find(|text| !text.is_empty()) {
        Some(text) => network(text).map(Some),
        None => Ok((!given.is_empty()).then_some(Network::Unconnected)),
    }
}

/// A network by name: `user`, the name of a tap interface, the GUID of either as a switch, or the path of a
/// `Msvm_VirtualEthernetSwitch` with one of these as its `Name`.
fn network(text: &str) -> Result<Network, Failure> {
    let name = match ObjectPath::parse(text) {
        Ok(path) if cim::case::eq(&path.class, "Msvm_VirtualEthernetSwitch") && !path.is_class() => {
            path.key("Name").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
        }
        _ => text.to_owned(),
    };
    let by_guid = uuid::Uuid::try_parse(&name).ok().and_then(SwitchName::of_guid);
    by_guid.or_else(|| SwitchName::new(&name)).map(SwitchName::network).ok_or_else(|| {
        invalid(format!("{text} names no network"))
            .hint(format!("use {} or the name of a tap interface of the host", SwitchName::USER))
    })
}
