//! A machine as QEMU's command line.
//!
//! The machine is q35 with as little as a modern guest needs: virtio disks and adapters at fixed PCI addresses, a display,
//! two serial ports, the chipset's own keyboard, a generation id. Everything the guest can see follows from [`Machine`] alone, so that a process built from the
//! settings of a saved moment accepts the saved memory. In particular:
//!
//! * the machine type and the CPU model are versioned names, resolved once and stored ([`Platform`]);
//! * the display is in PCI slot 1; the address of a disk or an adapter is its position: adapters in PCI slots 2-3, disks in slots 4-26, eight functions
//!   to a slot. The stream of a migration names devices by address, so inserting a disk in front changes the machine;
//! * guest memory is always the object `pc.ram`, whatever is behind it, because the stream names RAM blocks, too;
//! * network adapters carry no option ROM, and that of the display has a fixed size: ROMs are RAM blocks, and the size of
//!   their files changes between QEMU packages.
//!
//! Options take JSON where QEMU does (`-blockdev`, `-device`, `-object`, `-netdev`); in the others a comma is doubled.
//! Sources: QEMU `qemu-options.hx`, `docs/devel/migration/compatibility.rst`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::graph::{DiskIo, Layer, chain_blockdev};

/// What a machine is built on. Stored with saved memory, because memory loads only into the same platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Versioned machine type, such as `pc-q35-10.0`.
    pub machine_type: String,
    /// How instructions are executed.
    pub accelerator: Accelerator,
    /// CPU model with a stable name, such as `Nehalem-v1`.
    pub cpu: String,
    /// What the guest shows its screen on. Memory that was saved before there was a choice had no display.
    #[serde(default)]
    pub display: Display,
}

/// A display adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Display {
    /// None: the guest has serial ports only.
    #[default]
    None,
    /// QEMU's standard VGA, which firmware and every guest system know.
    Vga,
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

/// The object behind guest memory, and thereby the name of its RAM block in a saved file.
pub const RAM: &str = "pc.ram";
/// `VIRTIO_BLK_ID_BYTES`: a longer serial number is refused.
const DISK_SERIAL_CHARS_MAX: usize = 20;
/// Node of the UEFI code.
const FIRMWARE_CODE_NODE: &str = "firmware-code";
/// Bytes of the display's ROM: `vgabios-stdvga.bin` has 39 KiB, and has had for ten years.
const DISPLAY_ROM_BYTES: u32 = 64 << 10;
/// PCI slot of the display.
const DISPLAY_SLOT: usize = 1;
/// First PCI slot of the adapters; 0 is the host bridge.
const NIC_SLOT_FIRST: usize = 2;
/// First PCI slot of the disks. The last is 0x1a; the chipset has its own devices from 0x1b on.
const DISK_SLOT_FIRST: usize = 4;

impl Machine {
    /// The arguments after the program's name.
    pub fn arguments(&self) -> Result<Vec<String>, LaunchError> {
        self.check()?;
        let mut arguments = Arguments::default();
        self.describe_process(&mut arguments);
        self.describe_board(&mut arguments);
        self.describe_firmware(&mut arguments)?;
        for (index, disk) in self.disks.iter().enumerate() {
            self.describe_disk(&mut arguments, index, disk)?;
        }
        for (index, nic) in self.nics.iter().enumerate() {
            describe_nic(&mut arguments, index, nic);
        }
        match self.start {
            Start::Run => {}
            Start::Stopped => arguments.flag("-S"),
            Start::Incoming => {
                arguments.flag("-S");
                arguments.option("-incoming", "defer");
            }
        }
        Ok(arguments.0)
    }

    fn check(&self) -> Result<(), LaunchError> {
        if self.disks.len() > DISKS_MAX {
            return Err(LaunchError::TooManyDisks { count: self.disks.len() });
        }
        if self.nics.len() > NICS_MAX {
            return Err(LaunchError::TooManyNics { count: self.nics.len() });
        }
        Ok(())
    }

    fn describe_process(&self, arguments: &mut Arguments) {
        arguments.flag("-nodefaults");
        arguments.flag("-no-user-config");
        arguments.option("-display", "none");
        arguments.option("-name", format!("guest={},debug-threads=on", doubled(&self.name)));
        arguments.option("-msg", "timestamp=on");
        arguments.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        arguments.socket("qmp", &self.sockets.qmp);
        arguments.option("-mon", "chardev=qmp,mode=control");
    }

    fn describe_board(&self, arguments: &mut Arguments) {
        let platform = &self.platform;
        let flash = match &self.firmware {
            Firmware::Bios => String::new(),
            Firmware::Uefi { variables, .. } => {
                let top = variables.first().map(Layer::node).unwrap_or_default();
                format!(",pflash0={FIRMWARE_CODE_NODE},pflash1={top}")
            }
        };
        let machine = format!(
            "{},usb=off,vmport=off,dump-guest-core=off,mem-merge=off,memory-backend={RAM}{flash}",
            platform.machine_type
        );
        arguments.option("-object", self.memory_object());
        arguments.option("-machine", machine);
        arguments.option("-accel", platform.accelerator.argument());
        arguments.option("-cpu", &platform.cpu);
        arguments.option("-smp", format!("{n},maxcpus={n},sockets=1,cores={n},threads=1", n = self.processors));
        arguments.option("-m", format!("size={}M", self.memory_mib));
        arguments.option("-uuid", self.uuid.to_string());
        arguments.option("-boot", "menu=off,strict=on");
        arguments.option("-rtc", "base=utc,clock=host,driftfix=slew");
        for (index, (id, path)) in [("com1", &self.sockets.com1), ("com2", &self.sockets.com2)].into_iter().enumerate()
        {
            arguments.socket(id, path);
            arguments
                .device(json!({ "driver": "isa-serial", "id": format!("serial-{id}"), "chardev": id, "index": index }));
        }
        if platform.display == Display::Vga {
            arguments.device(json!({
                "driver": "VGA", "id": "display", "bus": "pcie.0", "addr": address(DISPLAY_SLOT, 0),
                "romsize": DISPLAY_ROM_BYTES,
            }));
        }
        arguments.device(json!({ "driver": "vmgenid", "id": "generation", "guid": self.generation_id.to_string() }));
    }

    fn memory_object(&self) -> Value {
        let size = self.memory_mib << 20;
        match &self.memory {
            Memory::Anonymous => json!({ "qom-type": "memory-backend-ram", "id": RAM, "size": size }),
            // QEMU opens the file for reading only and maps it privately: the guest writes to copies.
            Memory::Mapped { path, offset } => json!({
                "qom-type": "memory-backend-file", "id": RAM, "size": size, "mem-path": text(path), "offset": offset,
                "share": false, "readonly": true, "rom": "off",
            }),
        }
    }

    fn describe_firmware(&self, arguments: &mut Arguments) -> Result<(), LaunchError> {
        let Firmware::Uefi { code, variables } = &self.firmware else { return Ok(()) };
        arguments.option(
            "-blockdev",
            json!({
                "driver": "raw", "node-name": FIRMWARE_CODE_NODE, "read-only": true, "auto-read-only": false,
                "file": { "driver": "file", "filename": text(code), "read-only": true, "auto-read-only": false },
            }),
        );
        arguments.option("-blockdev", chain_blockdev(variables, false, self.disk_io).ok_or(LaunchError::EmptyChain)?);
        Ok(())
    }

    fn describe_disk(&self, arguments: &mut Arguments, index: usize, disk: &Disk) -> Result<(), LaunchError> {
        let top = disk.chain.first().ok_or(LaunchError::EmptyChain)?;
        let blockdev = chain_blockdev(&disk.chain, false, self.disk_io).ok_or(LaunchError::EmptyChain)?;
        arguments.option("-blockdev", blockdev);
        let mut serial = disk.drive.simple().to_string();
        serial.truncate(DISK_SERIAL_CHARS_MAX);
        arguments.device(json!({
            "driver": "virtio-blk-pci", "id": disk_id(disk.drive), "drive": top.node(), "serial": serial,
            "bus": "pcie.0", "addr": address(DISK_SLOT_FIRST, index), "multifunction": true, "bootindex": index + 1,
        }));
        Ok(())
    }
}

impl Accelerator {
    fn argument(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        }
    }
}

/// Id of a drive's device.
pub fn disk_id(drive: Uuid) -> String {
    format!("disk-{}", drive.simple())
}

/// Chooses how guest instructions are executed. That `/dev/kvm` opens proves little: under some hypervisors it opens, runs
/// firmware, and dies with an emulation failure. So the processor must show the instructions, or the user must insist.
pub fn choose_accelerator(cpuinfo: &str, kvm_openable: bool, user_choice: Option<Accelerator>) -> Accelerator {
    if let Some(choice) = user_choice {
        return choice;
    }
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    let capable = flags.flat_map(str::split_whitespace).any(|flag| flag == "vmx" || flag == "svm");
    if capable && kvm_openable { Accelerator::Kvm } else { Accelerator::Tcg }
}

/// Resolves an unversioned q35 to the newest versioned machine type that this QEMU has, from its answer to `query-machines`.
pub fn newest_q35(machines: &Value) -> Option<String> {
    let entries = machines.as_array().into_iter().flatten();
    let versions = entries.filter_map(|entry| {
        let name = entry.get("name")?.as_str()?;
        let (major, minor) = name.strip_prefix("pc-q35-")?.split_once('.')?;
        Some(((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?), name.to_owned()))
    });
    versions.max().map(|(_, name)| name)
}

fn describe_nic(arguments: &mut Arguments, index: usize, nic: &Nic) {
    let id = nic.id.simple();
    let mut mac = String::new();
    for (position, byte) in nic.mac.iter().enumerate() {
        let colon = if position == 0 { "" } else { ":" };
        // Writing to a string cannot fail.
        let _ = write!(mac, "{colon}{byte:02x}");
    }
    let netdev = match &nic.network {
        Network::Unconnected => json!({ "type": "hubport", "id": format!("net-{id}"), "hubid": index }),
        Network::User => json!({ "type": "user", "id": format!("net-{id}") }),
        Network::Tap(name) => json!({
            "type": "tap", "id": format!("net-{id}"), "ifname": name, "script": "no", "downscript": "no",
        }),
    };
    arguments.option("-netdev", netdev);
    arguments.device(json!({
        "driver": "virtio-net-pci", "id": format!("nic-{id}"), "netdev": format!("net-{id}"), "mac": mac, "romfile": "",
        "bus": "pcie.0", "addr": address(NIC_SLOT_FIRST, index), "multifunction": true,
    }));
}

/// Arguments in the making.
#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn option(&mut self, name: &str, value: impl ToString) {
        self.0.push(name.to_owned());
        self.0.push(value.to_string());
    }

    fn device(&mut self, properties: Value) {
        self.option("-device", properties);
    }

    fn socket(&mut self, id: &str, path: &Path) {
        self.option("-chardev", format!("socket,id={id},path={},server=on,wait=off", doubled(&text(path))));
    }
}

/// PCI address of the device at a position: eight functions to a slot.
fn address(slot_first: usize, index: usize) -> String {
    format!("{:x}.{:x}", slot_first + index / 8, index % 8)
}

/// In options that are not JSON a comma ends a value unless it is doubled.
fn doubled(value: &str) -> String {
    value.replace(',', ",,")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::graph::Format;

    fn machine() -> Machine {
        let layer = |number: u128| Layer {
            id: Uuid::from_u128(number),
            path: format!("/d/{number}.qcow2").into(),
            format: Format::Qcow2,
        };
        Machine {
            name: "web, first".into(),
            uuid: Uuid::from_u128(7),
            platform: Platform {
                machine_type: "pc-q35-10.0".into(),
                accelerator: Accelerator::Tcg,
                cpu: "Nehalem-v1".into(),
                display: Display::Vga,
            },
            processors: 2,
            memory_mib: 512,
            memory: Memory::Anonymous,
            firmware: Firmware::Bios,
            disks: (1..=9).map(|number| Disk { drive: Uuid::from_u128(number), chain: vec![layer(number)] }).collect(),
            nics: vec![Nic {
                id: Uuid::from_u128(20),
                mac: [0x52, 0x54, 0, 0xab, 0, 9],
                network: Network::Unconnected,
            }],
            generation_id: Uuid::from_u128(8),
            disk_io: DiskIo::Buffered,
            sockets: Sockets { qmp: "/run/a,b/qmp".into(), com1: "/run/1".into(), com2: "/run/2".into() },
            start: Start::Run,
        }
    }

    /// Shows the arguments of these options.
    fn check(machine: &Machine, options: &[&str], expected: Expect) {
        let arguments = machine.arguments().unwrap();
        let pairs = arguments.windows(2).filter(|pair| options.contains(&pair[0].as_str()));
        let shown: String = pairs.map(|pair| format!("{} {}\n", pair[0], pair[1])).collect();
        expected.assert_eq(&shown);
    }

    #[test]
    fn the_board() {
        check(
            &machine(),
            &["-object", "-machine", "-accel", "-cpu", "-smp", "-m", "-name", "-chardev", "-mon", "-rtc", "-boot"],
            expect![[r#"
                -name guest=web,, first,debug-threads=on
                -chardev socket,id=qmp,path=/run/a,,b/qmp,server=on,wait=off
                -mon chardev=qmp,mode=control
                -object {"id":"pc.ram","qom-type":"memory-backend-ram","size":536870912}
                -machine pc-q35-10.0,usb=off,vmport=off,dump-guest-core=off,mem-merge=off,memory-backend=pc.ram
                -accel tcg,thread=multi
                -cpu Nehalem-v1
                -smp 2,maxcpus=2,sockets=1,cores=2,threads=1
                -m size=512M
                -boot menu=off,strict=on
                -rtc base=utc,clock=host,driftfix=slew
                -chardev socket,id=com1,path=/run/1,server=on,wait=off
                -chardev socket,id=com2,path=/run/2,server=on,wait=off
            "#]],
        );
    }

    #[test]
    fn devices_have_addresses_by_position() {
        let machine = Machine { disks: machine().disks.split_off(7), ..machine() };
        check(
            &machine,
            &["-device", "-netdev"],
            expect![[r#"
                -device {"chardev":"com1","driver":"isa-serial","id":"serial-com1","index":0}
                -device {"chardev":"com2","driver":"isa-serial","id":"serial-com2","index":1}
                -device {"addr":"1.0","bus":"pcie.0","driver":"VGA","id":"display","romsize":65536}
                -device {"driver":"vmgenid","guid":"00000000-0000-0000-0000-000000000008","id":"generation"}
                -device {"addr":"4.0","bootindex":1,"bus":"pcie.0","drive":"L000000000000000000000000000008","driver":"virtio-blk-pci","id":"disk-00000000000000000000000000000008","multifunction":true,"serial":"00000000000000000000"}
                -device {"addr":"4.1","bootindex":2,"bus":"pcie.0","drive":"L000000000000000000000000000009","driver":"virtio-blk-pci","id":"disk-00000000000000000000000000000009","multifunction":true,"serial":"00000000000000000000"}
                -netdev {"hubid":0,"id":"net-00000000000000000000000000000014","type":"hubport"}
                -device {"addr":"2.0","bus":"pcie.0","driver":"virtio-net-pci","id":"nic-00000000000000000000000000000014","mac":"52:54:00:ab:00:09","multifunction":true,"netdev":"net-00000000000000000000000000000014","romfile":""}
            "#]],
        );
    }

    #[test]
    fn memory_of_a_machine_without_a_display_is_given_none() {
        let stored = r#"{"machine_type":"pc-q35-10.0","accelerator":"tcg","cpu":"Nehalem-v1"}"#;
        let platform: Platform = serde_json::from_str(stored).unwrap();
        let machine = Machine { platform, ..machine() };
        assert!(!machine.arguments().unwrap().iter().any(|argument| argument.contains("VGA")));
    }

    #[test]
    fn saved_memory_is_mapped_privately() {
        let memory = Memory::Mapped { path: "/s/memory".into(), offset: 1 << 20 };
        let machine = Machine { memory, start: Start::Incoming, ..machine() };
        check(
            &machine,
            &["-object", "-incoming"],
            expect![[r#"
                -object {"id":"pc.ram","mem-path":"/s/memory","offset":1048576,"qom-type":"memory-backend-file","readonly":true,"rom":"off","share":false,"size":536870912}
                -incoming defer
            "#]],
        );
        assert!(machine.arguments().unwrap().contains(&"-S".to_owned()));
    }

    #[test]
    fn uefi_variables_are_a_layer() {
        let firmware = Firmware::Uefi { code: "/fw/code.fd".into(), variables: machine().disks.remove(0).chain };
        let machine = Machine { firmware, disks: Vec::new(), ..machine() };
        check(
            &machine,
            &["-machine", "-blockdev"],
            expect![[r#"
                -machine pc-q35-10.0,usb=off,vmport=off,dump-guest-core=off,mem-merge=off,memory-backend=pc.ram,pflash0=firmware-code,pflash1=L000000000000000000000000000001
                -blockdev {"auto-read-only":false,"driver":"raw","file":{"auto-read-only":false,"driver":"file","filename":"/fw/code.fd","read-only":true},"node-name":"firmware-code","read-only":true}
                -blockdev {"auto-read-only":false,"backing":null,"cache":{"direct":false,"no-flush":false},"detect-zeroes":"off","discard":"unmap","driver":"qcow2","file":{"aio":"threads","auto-read-only":false,"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/1.qcow2","node-name":"F000000000000000000000000000001","read-only":false},"node-name":"L000000000000000000000000000001","read-only":false}
            "#]],
        );
    }

    #[test]
    fn what_has_no_address_is_refused() {
        let disk = machine().disks.remove(0);
        let nic = machine().nics.remove(0);
        let many = |count| Machine { disks: vec![disk.clone(); count], ..machine() };
        assert!(many(DISKS_MAX).arguments().unwrap().iter().any(|argument| argument.contains(r#""addr":"1a.7""#)));
        assert_eq!(many(DISKS_MAX + 1).arguments(), Err(LaunchError::TooManyDisks { count: DISKS_MAX + 1 }));
        let machine = Machine { nics: vec![nic; NICS_MAX + 1], ..machine() };
        assert_eq!(machine.arguments(), Err(LaunchError::TooManyNics { count: NICS_MAX + 1 }));
    }

    #[test]
    fn accelerators() {
        let intel = "processor : 0\nflags\t\t: fpu vmx sse\n";
        let guest = "flags : fpu hypervisor\nmodel name : vmx svm\n";
        for (cpuinfo, openable, choice, expected) in [
            (intel, true, None, Accelerator::Kvm),
            (intel, false, None, Accelerator::Tcg),
            (guest, true, None, Accelerator::Tcg),
            (guest, false, Some(Accelerator::Kvm), Accelerator::Kvm),
            (intel, true, Some(Accelerator::Tcg), Accelerator::Tcg),
            ("flags : svm", true, None, Accelerator::Kvm),
        ] {
            assert_eq!(choose_accelerator(cpuinfo, openable, choice), expected, "{cpuinfo}");
        }
    }

    #[test]
    fn the_newest_machine_type_is_found_by_number() {
        let machines =
            json!([{ "name": "pc-q35-9.2" }, { "name": "pc-q35-10.0", "alias": "q35" }, { "name": "none" }, 1]);
        assert_eq!(newest_q35(&machines).as_deref(), Some("pc-q35-10.0"));
        assert_eq!(newest_q35(&json!({})), None);
    }
}
