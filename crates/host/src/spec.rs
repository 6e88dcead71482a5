//! From the ledger's words to QEMU's: machines, layers, chains.

use std::path::Path;

use ledger::effect::{Chain, Image, MachineSpec, MemorySource};
use ledger::failure::{Failure, Kind};
use ledger::snapshot::Format;
use ledger::vm;
use qemu::graph;
use qemu::launch::{Disk, Firmware, Machine, Memory, Network, Nic, Platform, Sockets, Start};
use qemu::mapped_ram;
use qemu::save::MEMORY_FILE;
use serde::{Deserialize, Serialize};

use crate::capability::Tools;
use crate::layout::Layout;

/// What a capture must tell a later launch: the text in [`MemorySource::machine`], as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMachine {
    /// What the machine was built on.
    pub platform: Platform,
    /// Where guest memory lies in the file.
    pub layout: mapped_ram::Layout,
}

impl SavedMachine {
    /// As text for the ledger.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("plain data with string keys")
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn decode(source: &MemorySource) -> Result<Self, Failure> {
        serde_json::from_str(&source.machine).map_err(|error| {
            let path = source.path.display();
            Failure::new(Kind::Failed, format!("the record of the saved memory in {path} cannot be read: {error}"))
        })
    }
}

/// A layer.
pub fn layer(image: &Image) -> graph::Layer {
    graph::Layer { id: image.layer.0, path: image.path.clone(), format: format(image.format) }
}

/// Layers in the same order.
pub fn layers(images: &[Image]) -> Vec<graph::Layer> {
    images.iter().map(layer).collect()
}

/// A format.
pub fn format(format: Format) -> graph::Format {
    match format {
        Format::Raw => graph::Format::Raw,
        Format::Qcow2 => graph::Format::Qcow2,
    }
}

/// New tops.
pub fn overlays(overlays: &[ledger::effect::Overlay]) -> Vec<graph::Overlay> {
    let convert = |overlay: &ledger::effect::Overlay| graph::Overlay {
        layer: layer(&overlay.image),
        parent: layer(&overlay.parent),
    };
    overlays.iter().map(convert).collect()
}

/// What a machine is built from besides its settings.
pub struct Surroundings<'a> {
    /// What it is built on.
    pub platform: Platform,
    /// Where its memory comes from.
    pub memory: Memory,
    /// What it does once it is up.
    pub start: Start,
    /// Where it listens.
    pub sockets: Sockets,
    /// Programs and firmware.
    pub tools: &'a Tools,
}

/// The machine's sockets.
pub fn sockets(layout: &Layout, vm: ledger::id::VmId) -> Sockets {
    Sockets { qmp: layout.qmp(vm), com1: layout.com1(vm), com2: layout.com2(vm) }
}

/// Memory mapped from a saved file.
pub fn mapped(directory: &Path, saved: &SavedMachine) -> Memory {
    Memory::Mapped { path: directory.join(MEMORY_FILE), offset: saved.layout.offset }
}

/// A machine in QEMU's terms.
///
/// # Errors
/// When this host has no firmware for it.
pub fn machine(spec: &MachineSpec, around: Surroundings<'_>) -> Result<Machine, Failure> {
    let firmware = firmware(spec, around.tools)?;
    let disk = |chain: &Chain| match chain.slot {
        vm::Slot::Drive(drive) => Some(Disk { drive: drive.0, chain: layers(&chain.images) }),
        vm::Slot::Nvram => None,
    };
    Ok(Machine {
        name: spec.name.clone(),
        uuid: spec.bios_guid,
        platform: around.platform,
        processors: spec.processors,
        memory_mib: spec.memory_mib,
        memory: around.memory,
        firmware,
        disks: spec.chains.iter().filter_map(disk).collect(),
        nics: spec.nics.iter().map(nic).collect(),
        generation_id: spec.generation_id,
        disk_io: around.tools.disk_io,
        sockets: around.sockets,
        start: around.start,
    })
}

fn firmware(spec: &MachineSpec, tools: &Tools) -> Result<Firmware, Failure> {
    match spec.firmware {
        vm::Firmware::Bios => Ok(Firmware::Bios),
        vm::Firmware::Uefi => {
            let files = tools.uefi.as_ref().ok_or_else(no_uefi)?;
            let nvram = spec.chains.iter().find(|chain| chain.slot == vm::Slot::Nvram);
            let variables = nvram.map(|chain| layers(&chain.images)).unwrap_or_default();
            Ok(Firmware::Uefi { code: files.code.clone(), variables })
        }
    }
}

/// A machine wants UEFI and the host has none.
pub fn no_uefi() -> Failure {
    Failure::new(Kind::NotSupported, "this host has no UEFI firmware for virtual machines")
        .hint("install the package ovmf and restart the service, or make a generation 1 machine")
}

fn nic(nic: &vm::Nic) -> Nic {
    let network = match &nic.network {
        vm::Network::Unconnected => Network::Unconnected,
        vm::Network::User => Network::User,
        vm::Network::Tap(name) => Network::Tap(name.clone()),
    };
    Nic { id: nic.id.0, mac: nic.mac, network }
}
