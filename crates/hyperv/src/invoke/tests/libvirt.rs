//! How libvirt's Hyper-V driver defines a machine: by name alone, then one call for each thing, all of them
//! `Msvm_ResourceAllocationSettingData` where Hyper-V has no better class, in indented CIM-XML with a declaration.

use expect_test::{Expect, expect};

use crate::object::{Device, Object, Owner};
use crate::switch::SwitchName;
use crate::world::*;

/// An instance as the driver writes it: `Name=value`, or `Name[]=value` for an array of one.
fn instance(class: &str, properties: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let lines: String = properties
        .iter()
        .map(|(name, value)| match name.strip_suffix("[]") {
            Some(name) => format!(
                "  <PROPERTY.ARRAY NAME=\"{name}\" TYPE=\"string\">\n    <VALUE.ARRAY>\n      <VALUE>{}</VALUE>\n    </VALUE.ARRAY>\n  </PROPERTY.ARRAY>\n",
                escaped(value)
            ),
            None => format!(
                "  <PROPERTY NAME=\"{name}\" TYPE=\"string\">\n    <VALUE>{}</VALUE>\n  </PROPERTY>\n",
                escaped(value)
            ),
        })
        .collect();
    format!("<?xml version=\"1.0\"?>\n<INSTANCE CLASSNAME=\"{class}\">\n{lines}</INSTANCE>\n")
}

/// The driver writes paths with a namespace of its own spelling.
fn parent(device: Device) -> String {
    let id = Object::Resource(Owner::Vm(V), device).id("HOST").replace('\\', "\\\\");
    format!("\\\\HOST\\Root\\Virtualization\\V2:Msvm_ResourceAllocationSettingData.InstanceID=\"{id}\"")
}

fn add(class: &str, properties: &[(&str, &str)], expected: Expect) {
    let arguments =
        vec![("AffectedConfiguration", reference(vssd(V.0))), ("ResourceSettings", text(instance(class, properties)))];
    expected.assert_eq(&show(call(&view(one_vm()), management_service(), "AddResourceSettings", arguments)));
}

fn modify(class: &str, device: Device, properties: &[(&str, &str)], expected: Expect) {
    let id = Object::Resource(Owner::Vm(V), device).id("HOST");
    let properties = [properties, &[("InstanceID", id.as_str())]].concat();
    let arguments = vec![("ResourceSettings", text(instance(class, &properties)))];
    expected.assert_eq(&show(call(&view(one_vm()), management_service(), "ModifyResourceSettings", arguments)));
}

const RESOURCE: &str = "Msvm_ResourceAllocationSettingData";

#[test]
fn a_machine_is_defined_by_its_name_and_sized_afterwards() {
    let settings = instance("Msvm_VirtualSystemSettingData", &[("ElementName", "wire")]);
    let arguments = vec![("SystemSettings", text(settings))];
    expect![[r#"wait for DefineVm(Definition { name: "wire", notes: "", processors: 1, memory_mib: 1024, firmware: Bios, bios_guid: None, snapshot_kind: Standard })"#]].assert_eq(&show(call(&view(one_vm()), management_service(), "DefineSystem", arguments)));
    modify(
        "Msvm_ProcessorSettingData",
        Device::Processor,
        &[("VirtualQuantity", "3")],
        expect![
            "wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: None, notes: None, snapshot_kind: None, startup: None, processors: Some(3), memory_mib: None } }"
        ],
    );
    modify(
        "Msvm_MemorySettingData",
        Device::Memory,
        &[("Limit", "512")],
        expect![
            "wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: None, notes: None, snapshot_kind: None, startup: None, processors: None, memory_mib: Some(512) } }"
        ],
    );
    modify(
        "Msvm_MemorySettingData",
        Device::Memory,
        &[("VirtualQuantity", "256")],
        expect![
            "wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: None, notes: None, snapshot_kind: None, startup: None, processors: None, memory_mib: Some(256) } }"
        ],
    );
}

/// Holds: WIRE-I6-1, WIRE-I7-1
#[test]
fn a_disk_is_a_drive_and_an_image_in_it() {
    add(
        RESOURCE,
        &[("ResourceType", "6"), ("ResourceSubType", "Microsoft:Hyper-V:Synthetic SCSI Controller")],
        expect!["wait for AddController { vm: VmId(00A0), bus: Scsi }"],
    );
    let drive = [
        ("ResourceSubType", "Microsoft:Hyper-V:Synthetic Disk Drive"),
        ("ResourceType", "17"),
        ("Parent", &parent(Device::Controller(IDE))),
        ("AddressOnParent", "1"),
    ];
    add(
        RESOURCE,
        &drive,
        expect!["wait for AddDrive { vm: VmId(00A0), controller: DeviceId(00D1), address: Some(1) }"],
    );
    let disk = [
        ("HostResource[]", "/images/a & b.qcow2"),
        ("ResourceType", "31"),
        ("Parent", &parent(Device::Drive(EMPTY_DRIVE))),
        ("ResourceSubType", "Microsoft:Hyper-V:Virtual Hard Disk"),
    ];
    add(
        RESOURCE,
        &disk,
        expect![[
            r#"wait for AttachDisk { vm: VmId(00A0), drive: DeviceId(00D3), path: "/images/a & b.qcow2", format: None }"#
        ]],
    );
}

#[test]
fn an_adapter_is_added_and_then_connected() {
    let class = "Msvm_SyntheticEthernetPortSettingData";
    let adapter = [
        ("ResourceType", "10"),
        ("ResourceSubType", "Microsoft:Hyper-V:Synthetic Ethernet Port"),
        ("VirtualSystemIdentifiers[]", "{3f2504e0-4f89-11d3-9a0c-0305e82c3301}"),
        ("Address", "525400947ab5"),
        ("StaticMacAddress", "true"),
    ];
    add(
        class,
        &adapter,
        expect![[
            r#"wait for AddNic { vm: VmId(00A0), name: "Network Adapter", mac: Some([82, 84, 0, 148, 122, 181]), network: Unconnected }"#
        ]],
    );
    let id = Object::Resource(Owner::Vm(V), Device::Nic(NIC)).id("HOST").replace('\\', "\\\\");
    let tap = SwitchName::new("tap0").unwrap().guid();
    let connection = [
        ("EnabledState", "2"),
        (
            "HostResource[]",
            &format!(
                "\\\\HOST\\Root\\Virtualization\\V2:Msvm_VirtualEthernetSwitch.CreationClassName=\"Msvm_VirtualEthernetSwitch\",Name=\"{tap}\""
            ),
        ),
        ("Parent", &format!("\\\\HOST\\root\\virtualization\\v2:{class}.InstanceID=\"{id}\"")),
        ("ResourceType", "33"),
        ("ResourceSubType", "Microsoft:Hyper-V:Ethernet Connection"),
    ];
    add(
        "Msvm_EthernetPortAllocationSettingData",
        &connection,
        expect![[r#"wait for ConnectNic { vm: VmId(00A0), nic: DeviceId(00D4), network: Tap("tap0") }"#]],
    );
}

/// A port has its place. A description without one leaves it there, and so does one that was copied from another machine.
#[test]
fn a_serial_port_stays_where_it_is() {
    let port = |place: &str, expected| {
        let properties =
            [("ResourceType", "21"), ("Connection[]", place), ("ResourceSubType", "Microsoft:Hyper-V:Serial Port")];
        modify("Msvm_SerialPortSettingData", Device::Serial(1), &properties, expected);
    };
    port("", expect!["wait for "]);
    port(&format!("/run/{V}.com2"), expect!["wait for "]);
    port(
        &format!("/run/{V}.com1"),
        expect![
            "32773: Connection of a serial port cannot be changed: a port is a socket at a place of the service's own choice"
        ],
    );
    port(
        r"\\.\pipe\web",
        expect![
            "32773: Connection of a serial port cannot be changed: a port is a socket at a place of the service's own choice"
        ],
    );
}

/// What q35 does not have, or what is not done here, is refused in words.
#[test]
fn other_devices_are_refused() {
    let parent = parent(Device::Controller(IDE));
    for (number, subtype, expected) in [
        (
            "16",
            "Microsoft:Hyper-V:Synthetic DVD Drive",
            expect![
                "32770: resources of type 16 are not supported: there are controllers (5, 6), drives (17), disk images (31), network adapters (10) and connections (33)"
            ],
        ),
        (
            "14",
            "Microsoft:Hyper-V:Synthetic Diskette Drive",
            expect![
                "32770: resources of type 14 are not supported: there are controllers (5, 6), drives (17), disk images (31), network adapters (10) and connections (33)"
            ],
        ),
    ] {
        let drive = [
            ("Parent", parent.as_str()),
            ("AddressOnParent", "0"),
            ("ResourceType", number),
            ("ResourceSubType", subtype),
        ];
        add(RESOURCE, &drive, expected);
    }
    let physical = [
        ("Parent", parent.as_str()),
        ("AddressOnParent", "1"),
        ("ResourceType", "17"),
        ("ResourceSubType", "Microsoft:Hyper-V:Physical Disk Drive"),
        ("HostResource[]", "\\\\HOST\\Root\\Virtualization\\V2:Msvm_DiskDrive.DeviceID=\"Microsoft:1\\\\0\""),
    ];
    add(
        RESOURCE,
        &physical,
        expect![
            "32770: drives of ResourceSubType Microsoft:Hyper-V:Physical Disk Drive are not supported: use Microsoft:Hyper-V:Synthetic Disk Drive, and add a disk image to it"
        ],
    );
}

/// Holds: WIRE-I3-2
#[test]
fn a_machine_is_shut_down_and_destroyed() {
    let mut state = one_vm();
    state.update_vm(V, |vm| vm.power = ledger::vm::Power::Running);
    let running = view(state);
    let button = Object::Part(V, crate::object::Part::Shutdown);
    let target = cim::op::Target::from_path(button.path(&running), crate::schema::VIRTUALIZATION);
    let arguments = vec![("Force", text("False")), ("Reason", text("Planned shutdown via libvirt"))];
    expect!["SetPower { vm: VmId(00A0), target: Shutdown }"].assert_eq(&show(call(
        &running,
        target,
        "InitiateShutdown",
        arguments,
    )));
    let arguments = vec![("AffectedSystem", reference(system(V)))];
    expect!["DestroyVm { vm: VmId(00A0) }"].assert_eq(&show(call(
        &view(one_vm()),
        management_service(),
        "DestroySystem",
        arguments,
    )));
}

/// The driver asks for a picture of the size that the video head tells, and gives up on any refusal.
#[test]
fn a_screenshot_has_the_size_of_the_video_head() {
    let mut state = one_vm();
    state.update_vm(V, |vm| vm.power = ledger::vm::Power::Running);
    let running = view(state);
    let size = |property| column(&running, "SELECT * FROM Msvm_VideoHead", property);
    let arguments = vec![
        ("WidthPixels", text(size("CurrentHorizontalResolution"))),
        ("HeightPixels", text(size("CurrentVerticalResolution"))),
        ("TargetSystem", reference(vssd(V.0))),
    ];
    let reaction = call(&running, management_service(), "GetVirtualSystemThumbnailImage", arguments);
    assert!(matches!(reaction, Ok(crate::Reaction::Ask(_))), "{}", show(reaction));
}
