//! Devices of a machine: processors, memory, controllers, drives, adapters, ports, keyboard, mouse, display, and the
//! two components through which a host talks with a guest.
//!
//! What every device says is here as well; where the class declares a default of its own, that stays.

use cim::{Instance, Value};
use ledger::id::{DeviceId, LayerId};
use ledger::vm::{Bus, Power, Vm};

use super::blank;
use super::computer_system::{DISABLED, ENABLED};
use crate::object::{Object, Part};
use crate::view::View;

/// Size of the picture that the display is said to show. What it really shows, guests decide from moment to
/// moment. Clients ask for a picture of just this size, so it must be one that fits, in base64, into an answer of 512 000 bytes.
const PICTURE: (u32, u32) = (480, 360);
/// Colours of a picture of 16 bits per pixel.
const COLOURS: u64 = 1 << 16;
/// Memory of QEMU's standard display, in bytes.
const VIDEO_MEMORY: u32 = 16 << 20;
/// `OperationalStatus`: the other side does not answer.
const NO_CONTACT: u16 = 12;
/// `HealthState` and `OperationalStatus`: fine.
const HEALTHY: u16 = 5;
const OK: u16 = 2;
const SECTOR: u64 = 512;

/// A device of a machine; `None` if the machine does not have it.
pub fn part(view: &View, vm: &Vm, part: Part) -> Option<Instance> {
    let fresh = common(blank(view, part.class()), &Object::Part(vm.id, part).id(&view.host.name), vm);
    Some(match part {
        Part::Shutdown => shutdown(fresh, vm.power),
        Part::Heartbeat => {
            named(fresh, "Heartbeat").with("OperationalStatus", [NO_CONTACT]).with("StatusDescriptions", ["No Contact"])
        }
        Part::Keyboard => fresh.with("EnabledState", ENABLED).with("UnicodeSupported", false),
        Part::Mouse => fresh,
        Part::Display => display(fresh, vm.power),
        Part::VideoHead => video_head(fresh, vm.power),
        Part::SerialController => fresh,
        Part::SerialPort(number) => {
            let name = format!("COM {}", u16::from(number) + 1);
            named(fresh, &name).with("Caption", name)
        }
        Part::Memory => memory(fresh, vm.settings.memory_mib),
        Part::Processor(_) => named(fresh, "Processor").with("CPUStatus", 1u16).with("HealthState", HEALTHY),
        Part::Ide(id) | Part::Scsi(id) => controller(fresh, vm, id)?,
        Part::Drive(id) => drive(view, fresh, vm, id)?,
        Part::Disk(id) => disk(fresh, size_of(view, vm, id)?),
        Part::Port(id) => port(fresh, vm, id)?,
    })
}

fn common(blank: Instance, id: &str, vm: &Vm) -> Instance {
    let class = blank.class().name.clone();
    let mut instance = blank
        .with("SystemCreationClassName", "Msvm_ComputerSystem")
        .with("SystemName", vm.id.to_string())
        .with("CreationClassName", class)
        .with("DeviceID", id);
    let usual: [(&str, Value); 6] = [
        ("OperationalStatus", [OK].into()),
        ("StatusDescriptions", ["OK"].into()),
        ("HealthState", HEALTHY.into()),
        ("RequestedState", 12u16.into()),
        ("EnabledDefault", ENABLED.into()),
        ("TransitioningToState", 12u16.into()),
    ];
    for (property, value) in usual {
        if instance.get(property).is_none() {
            instance = instance.with(property, value);
        }
    }
    instance
}

fn named(instance: Instance, name: &str) -> Instance {
    instance.with("ElementName", name).with("Name", name)
}

/// Enabled while the guest runs: it is the power button, and somebody must be there to notice it.
fn shutdown(fresh: Instance, power: Power) -> Instance {
    let (enabled, status, description) = match power {
        Power::Running => (ENABLED, OK, "OK"),
        _ => (DISABLED, NO_CONTACT, "The guest is not running"),
    };
    fresh.with("EnabledState", enabled).with("OperationalStatus", [status]).with("StatusDescriptions", [description])
}

/// A text in these two classes, as the reference has it.
fn picture_state(power: Power) -> &'static str {
    if matches!(power, Power::Running | Power::Paused) { "2" } else { "3" }
}

fn display(fresh: Instance, power: Power) -> Instance {
    fresh
        .with("EnabledState", picture_state(power))
        .with("VideoProcessor", "QEMU standard display")
        .with("MaxMemorySupported", VIDEO_MEMORY)
}

fn video_head(fresh: Instance, power: Power) -> Instance {
    let (width, height) = PICTURE;
    fresh
        .with("EnabledState", picture_state(power))
        .with("CurrentBitsPerPixel", 16u32)
        .with("CurrentHorizontalResolution", width)
        .with("CurrentVerticalResolution", height)
        .with("CurrentNumberOfColors", COLOURS)
        .with("CurrentNumberOfRows", 0u32)
        .with("CurrentNumberOfColumns", 0u32)
        .with("CurrentScanMode", 3u16)
}

fn memory(fresh: Instance, mib: u64) -> Instance {
    named(fresh, "Memory")
        .with("NumberOfBlocks", mib)
        .with("ConsumableBlocks", mib)
        // In KiB, and the last one that there is.
        .with("EndingAddress", (mib << 10).saturating_sub(1))
}

fn controller(fresh: Instance, vm: &Vm, id: DeviceId) -> Option<Instance> {
    let controller = vm.settings.controllers.iter().find(|controller| controller.id == id)?;
    Some(match controller.bus {
        Bus::Ide => {
            let name = format!("IDE Controller {}", controller.number);
            named(fresh, &name).with("Caption", name).with("MaxNumberControlled", controller.bus.capacity())
        }
        Bus::Scsi => fresh.with("MaxUnitsControlled", controller.bus.capacity()),
    })
}

fn drive(view: &View, fresh: Instance, vm: &Vm, id: DeviceId) -> Option<Instance> {
    let drive = vm.settings.drives.iter().find(|drive| drive.id == id)?;
    let size = drive.disk.and_then(|layer| bytes(view, layer)).unwrap_or(0);
    let drive = named(fresh, "Hard Drive")
        .with("Caption", "Hard Drive")
        .with("Description", "Microsoft Synthetic Disk Drive")
        // In thousands of bytes.
        .with("MaxMediaSize", size / 1000)
        .with("MaxBlockSize", SECTOR);
    Some(drive)
}

fn disk(fresh: Instance, size: u64) -> Instance {
    named(fresh, "Hard Disk Image")
        .with("Caption", "Hard Disk Image")
        .with("Access", 3u16)
        .with("BlockSize", SECTOR)
        .with("NumberOfBlocks", size / SECTOR)
        .with("ConsumableBlocks", size / SECTOR)
}

fn port(fresh: Instance, vm: &Vm, id: DeviceId) -> Option<Instance> {
    let nic = vm.settings.nics.iter().find(|nic| nic.id == id)?;
    let address = super::ethernet::address(nic);
    let port = named(fresh, &nic.name)
        .with("EnabledState", ENABLED)
        .with("LinkTechnology", 2u16)
        .with("FullDuplex", true)
        .with("PermanentAddress", address.as_str())
        .with("NetworkAddresses", [address]);
    Some(port)
}

/// Bytes of the disk in a drive.
fn size_of(view: &View, vm: &Vm, drive: DeviceId) -> Option<u64> {
    let drive = vm.settings.drives.iter().find(|candidate| candidate.id == drive)?;
    bytes(view, drive.disk?)
}

fn bytes(view: &View, layer: LayerId) -> Option<u64> {
    view.state.layers.get(&layer).map(|layer| layer.size)
}
