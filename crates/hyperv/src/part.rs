//! The devices of a machine, as opposed to their settings.
//!
//! Settings say what a machine is made of and exist for snapshots, too; a device is what the guest meets, and tells how it
//! does. Only what QEMU's machine has is here: there is no floppy drive, for instance, because q35 has none.

use std::fmt;

use ledger::id::DeviceId;
use ledger::vm::{Bus, Settings};

use crate::object::{Device, SERIAL_PORTS};

/// Which device of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `Msvm_ShutdownComponent`: the power button.
    Shutdown,
    /// `Msvm_HeartbeatComponent`: nobody in the guest answers it.
    Heartbeat,
    /// `Msvm_Keyboard`: the PS/2 keyboard.
    Keyboard,
    /// `Msvm_Ps2Mouse`.
    Mouse,
    /// `Msvm_SyntheticDisplayController`.
    Display,
    /// `Msvm_VideoHead`: the picture of the display.
    VideoHead,
    /// `Msvm_SerialController`.
    SerialController,
    /// `Msvm_SerialPort`, numbered from zero.
    SerialPort(u8),
    /// `Msvm_Memory`.
    Memory,
    /// `Msvm_Processor`, numbered from zero.
    Processor(u32),
    /// `Msvm_IDEController`.
    Ide(DeviceId),
    /// `Msvm_SCSIProtocolController`.
    Scsi(DeviceId),
    /// `Msvm_DiskDrive`.
    Drive(DeviceId),
    /// `Msvm_LogicalDisk`: the disk in the drive of this identity.
    Disk(DeviceId),
    /// `Msvm_SyntheticEthernetPort`.
    Port(DeviceId),
}

/// Every class of [`Part::class`].
pub const CLASSES: [&str; 15] = [
    "Msvm_ShutdownComponent",
    "Msvm_HeartbeatComponent",
    "Msvm_Keyboard",
    "Msvm_Ps2Mouse",
    "Msvm_SyntheticDisplayController",
    "Msvm_VideoHead",
    "Msvm_SerialController",
    "Msvm_SerialPort",
    "Msvm_Memory",
    "Msvm_Processor",
    "Msvm_IDEController",
    "Msvm_SCSIProtocolController",
    "Msvm_DiskDrive",
    "Msvm_LogicalDisk",
    "Msvm_SyntheticEthernetPort",
];

/// Ids of devices that every machine has once and that have no settings.
const SHUTDOWN: &str = "9f8233ac-be49-4c79-8ee3-e7e1985b2077";
const HEARTBEAT: &str = "57164f39-9115-4e78-ab55-382f3bd5422d";
const KEYBOARD: &str = "f912ad6d-2b17-48ea-bd65-f927a61c7684";
const MOUSE: &str = "cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a";
const DISPLAY: &str = "da0a7802-e377-4aac-8e77-0558eb1073f8";
const SERIAL_CONTROLLER: &str = "8e3a359f-559a-4b6a-98a9-1690a6100ed7";

impl Part {
    /// All devices of a machine.
    pub fn all(hardware: &Settings) -> Vec<Self> {
        let mut parts = vec![
            Part::Shutdown,
            Part::Heartbeat,
            Part::Keyboard,
            Part::Mouse,
            Part::Display,
            Part::VideoHead,
            Part::SerialController,
        ];
        parts.extend((0..SERIAL_PORTS).map(Part::SerialPort));
        parts.push(Part::Memory);
        parts.extend((0..hardware.processors).map(Part::Processor));
        parts.extend(hardware.controllers.iter().map(|controller| match controller.bus {
            Bus::Ide => Part::Ide(controller.id),
            Bus::Scsi => Part::Scsi(controller.id),
        }));
        parts.extend(hardware.drives.iter().map(|drive| Part::Drive(drive.id)));
        parts.extend(hardware.drives.iter().filter(|drive| drive.disk.is_some()).map(|drive| Part::Disk(drive.id)));
        parts.extend(hardware.nics.iter().map(|nic| Part::Port(nic.id)));
        parts
    }

    /// The devices that these settings describe: none, one, or for processors as many as there are.
    pub fn described_by(device: Device, hardware: &Settings) -> Vec<Self> {
        Self::all(hardware).into_iter().filter(|part| part.settings() == Some(device)).collect()
    }

    /// The settings of the device, if it has any.
    pub fn settings(self) -> Option<Device> {
        Some(match self {
            Part::SerialPort(number) => Device::Serial(number),
            Part::Memory => Device::Memory,
            Part::Processor(_) => Device::Processor,
            Part::Ide(id) | Part::Scsi(id) => Device::Controller(id),
            Part::Drive(id) => Device::Drive(id),
            Part::Disk(id) => Device::Disk(id),
            Part::Port(id) => Device::Nic(id),
            Part::Shutdown
            | Part::Heartbeat
            | Part::Keyboard
            | Part::Mouse
            | Part::Display
            | Part::VideoHead
            | Part::SerialController => return None,
        })
    }

    /// The class it is an instance of; one of [`CLASSES`].
    pub fn class(self) -> &'static str {
        match self {
            Part::Shutdown => "Msvm_ShutdownComponent",
            Part::Heartbeat => "Msvm_HeartbeatComponent",
            Part::Keyboard => "Msvm_Keyboard",
            Part::Mouse => "Msvm_Ps2Mouse",
            Part::Display => "Msvm_SyntheticDisplayController",
            Part::VideoHead => "Msvm_VideoHead",
            Part::SerialController => "Msvm_SerialController",
            Part::SerialPort(_) => "Msvm_SerialPort",
            Part::Memory => "Msvm_Memory",
            Part::Processor(_) => "Msvm_Processor",
            Part::Ide(_) => "Msvm_IDEController",
            Part::Scsi(_) => "Msvm_SCSIProtocolController",
            Part::Drive(_) => "Msvm_DiskDrive",
            Part::Disk(_) => "Msvm_LogicalDisk",
            Part::Port(_) => "Msvm_SyntheticEthernetPort",
        }
    }
}

/// What follows the machine in the device's id.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.settings()) {
            (Part::Processor(number), _) => {
                let settings = Device::Processor.to_string();
                write!(f, r"{}\{number}", settings.trim_end_matches(r"\0"))
            }
            (_, Some(device)) => device.fmt(f),
            (Part::Shutdown, None) => f.write_str(SHUTDOWN),
            (Part::Heartbeat, None) => f.write_str(HEARTBEAT),
            (Part::Keyboard, None) => f.write_str(KEYBOARD),
            (Part::Mouse, None) => f.write_str(MOUSE),
            (Part::VideoHead, None) => write!(f, r"{DISPLAY}\0"),
            (Part::SerialController, None) => f.write_str(SERIAL_CONTROLLER),
            (_, None) => f.write_str(DISPLAY),
        }
    }
}
