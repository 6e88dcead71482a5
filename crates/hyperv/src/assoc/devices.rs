//! How devices are connected with one another, with their settings, and with the pools they come from.

use ledger::id::VmId;
use ledger::state::State;
use ledger::vm::{Bus, Settings};

use super::resources;
use crate::object::{self, Device, Object, Owner, Part, Pool};

/// The serial ports of every machine.
pub(super) const SERIAL_PORTS: [Part; object::SERIAL_PORTS as usize] = [Part::SerialPort(0), Part::SerialPort(1)];

/// All devices of a machine.
pub(super) fn all(state: &State, vm: VmId) -> Vec<Object> {
    let parts = hardware(state, vm).map(Part::all).unwrap_or_default();
    parts.into_iter().map(|part| Object::Part(vm, part)).collect()
}

/// The settings of a device.
pub(super) fn settings(object: Object) -> Vec<Object> {
    let Object::Part(vm, part) = object else { return Vec::new() };
    part.settings().map(|device| Object::Resource(Owner::Vm(vm), device)).into_iter().collect()
}

/// The devices with these settings.
pub(super) fn of_settings(state: &State, object: Object) -> Vec<Object> {
    let Object::Resource(Owner::Vm(vm), device) = object else { return Vec::new() };
    let parts = hardware(state, vm).map(|hardware| Part::described_by(device, hardware)).unwrap_or_default();
    parts.into_iter().map(|part| Object::Part(vm, part)).collect()
}

/// The devices that stand beside a certain one in every machine.
pub(super) fn beside(object: Object, this: Part, others: &[Part]) -> Vec<Object> {
    match object {
        Object::Part(vm, part) if part == this => others.iter().map(|other| Object::Part(vm, *other)).collect(),
        _ => Vec::new(),
    }
}

/// The drives on a controller.
pub(super) fn drives(state: &State, object: Object) -> Vec<Object> {
    let Object::Part(vm, Part::Ide(id) | Part::Scsi(id)) = object else { return Vec::new() };
    let drives = hardware(state, vm).into_iter().flat_map(|hardware| &hardware.drives);
    drives.filter(|drive| drive.controller == id).map(|drive| Object::Part(vm, Part::Drive(drive.id))).collect()
}

/// The controller of a drive.
pub(super) fn controller(state: &State, object: Object) -> Vec<Object> {
    let Object::Part(vm, Part::Drive(id)) = object else { return Vec::new() };
    let controller = hardware(state, vm).and_then(|hardware| {
        let drive = hardware.drives.iter().find(|drive| drive.id == id)?;
        let controller = hardware.controllers.iter().find(|controller| controller.id == drive.controller)?;
        Some(match controller.bus {
            Bus::Ide => Part::Ide(controller.id),
            Bus::Scsi => Part::Scsi(controller.id),
        })
    });
    controller.map(|part| Object::Part(vm, part)).into_iter().collect()
}

/// The disk in a drive.
pub(super) fn medium(state: &State, object: Object) -> Vec<Object> {
    let Object::Part(vm, Part::Drive(id)) = object else { return Vec::new() };
    let disk = Object::Part(vm, Part::Disk(id));
    if disk.exists(state) { vec![disk] } else { Vec::new() }
}

/// The drive that a disk is in.
pub(super) fn drive_of_medium(_: &State, object: Object) -> Vec<Object> {
    let Object::Part(vm, Part::Disk(id)) = object else { return Vec::new() };
    vec![Object::Part(vm, Part::Drive(id))]
}

/// The devices of all machines that come from a pool.
pub(super) fn from_pool(state: &State, object: Object) -> Vec<Object> {
    let Object::Pool(wanted) = object else { return Vec::new() };
    let devices = state.vms.keys().flat_map(|vm| all(state, *vm));
    devices.filter(|device| pool(state, *device) == [Object::Pool(wanted)]).collect()
}

/// The pool that a device comes from.
pub(super) fn pool(state: &State, object: Object) -> Vec<Object> {
    let Object::Part(vm, part) = object else { return Vec::new() };
    let pool = hardware(state, vm).and_then(|hardware| pool_of(hardware, part.settings()?));
    pool.map(Object::Pool).into_iter().collect()
}

/// The current settings in all machines of what comes from a pool.
pub(super) fn settings_from_pool(state: &State, object: Object) -> Vec<Object> {
    let Object::Pool(wanted) = object else { return Vec::new() };
    let settings = state.vms.keys().flat_map(|vm| resources(state, Owner::Vm(*vm)));
    settings.filter(|settings| pool_of_settings(state, *settings) == [Object::Pool(wanted)]).collect()
}

/// The pool that what these settings describe comes from.
pub(super) fn pool_of_settings(state: &State, object: Object) -> Vec<Object> {
    let Object::Resource(Owner::Vm(vm), device) = object else { return Vec::new() };
    hardware(state, vm).and_then(|hardware| pool_of(hardware, device)).map(Object::Pool).into_iter().collect()
}

fn pool_of(hardware: &Settings, device: Device) -> Option<Pool> {
    Some(match device {
        Device::Processor => Pool::Processor,
        Device::Memory => Pool::Memory,
        Device::Controller(id) => match hardware.controllers.iter().find(|controller| controller.id == id)?.bus {
            Bus::Ide => Pool::Ide,
            Bus::Scsi => Pool::Scsi,
        },
        Device::Drive(_) => Pool::Drive,
        Device::Disk(_) => Pool::Disk,
        Device::Nic(_) => Pool::Adapter,
        Device::Connection(_) => Pool::Connection,
        Device::Serial(_) => Pool::Serial,
    })
}

fn hardware(state: &State, vm: VmId) -> Option<&Settings> {
    state.vms.get(&vm).map(|vm| &vm.settings)
}
