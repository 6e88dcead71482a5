//! Calls that define and change machines.

use std::sync::Arc;

use cim::op::Target;
use cim::{Value, embedded};
use expect_test::{Expect, expect};
use ledger::failure::{Failure, Kind};
use ledger::id::DeviceId;
use ledger::job::{JobKind, JobState};
use ledger::request::Reply;
use ledger::vm::Power;
use uuid::Uuid;

use crate::object::{Device, Object, Owner};
use crate::schema::VIRTUALIZATION;
use crate::world::*;
use crate::{Outcome, Reaction, View};

fn path(view: &View, device: Device) -> String {
    Object::Resource(Owner::Vm(V), device).path(view).to_string().replace('\\', "\\\\").replace('"', "\\\"")
}

/// Holds: WIRE-I5-4
#[test]
fn machines_are_defined_from_settings() {
    let view = view(one_vm());
    let check = |settings: &str, resources: &[&str], expected: Expect| {
        let mut arguments = vec![("SystemSettings", text(settings))];
        arguments.extend(resources.iter().map(|resource| ("ResourceSettings", text(*resource))));
        expected.assert_eq(&show(call(&view, management_service(), "DefineSystem", arguments)));
    };
    check(
        "",
        &[],
        expect![[
            r#"wait for DefineVm(Definition { name: "New Virtual Machine", notes: "", processors: 1, memory_mib: 1024, firmware: Bios, bios_guid: None, snapshot_kind: Standard })"#
        ]],
    );
    check(
        "instance of Msvm_VirtualSystemSettingData { ElementName = \"db\"; VirtualSystemSubType = \"Microsoft:Hyper-V:SubType:2\"; Notes = {\"a\", \"b\"}; UserSnapshotType = 5; BIOSGUID = \"{00000000-0000-0000-0000-00000000B105}\"; };",
        &[
            "instance of Msvm_ProcessorSettingData { VirtualQuantity = 4; };",
            "instance of Msvm_MemorySettingData { VirtualQuantity = 2048; };",
        ],
        expect![[
            r#"wait for DefineVm(Definition { name: "db", notes: "a\nb", processors: 4, memory_mib: 2048, firmware: Uefi, bios_guid: Some(b105), snapshot_kind: Standard })"#
        ]],
    );
    check(
        "instance of Msvm_VirtualSystemSettingData { VirtualSystemSubType = \"x\"; };",
        &[],
        expect![
            "32773: VirtualSystemSubType x does not exist: use Microsoft:Hyper-V:SubType:1 (BIOS) or Microsoft:Hyper-V:SubType:2 (UEFI)"
        ],
    );
    check(
        "instance of Msvm_VirtualSystemSettingData { UserSnapshotType = 9; };",
        &[],
        expect![
            "32773: UserSnapshotType 9 does not exist: use 2 (none), 3 (production, else standard), 4 (production) or 5 (standard)"
        ],
    );
    check(
        "",
        &["instance of Msvm_MemorySettingData { DynamicMemoryEnabled = true; };"],
        expect!["32770: dynamic memory is not supported: set DynamicMemoryEnabled to false"],
    );
    check(
        "",
        &["instance of Msvm_SyntheticEthernetPortSettingData { };"],
        expect![
            "32770: DefineSystem takes processor and memory, not a Msvm_SyntheticEthernetPortSettingData: add it to the new machine with AddResourceSettings"
        ],
    );
}

/// Holds: SNAP-6-12, SNAP-6-13, WIRE-I5-4
#[test]
fn few_things_change_by_settings() {
    let view = view(with_snapshot());
    let check = |owner: Uuid, properties: &str, expected: Expect| {
        let id = format!("Microsoft:{:X}", owner.as_hyphenated()).to_lowercase();
        let mof = format!("instance of Msvm_VirtualSystemSettingData {{ InstanceID = \"{id}\"; {properties} }};");
        let reaction = call(&view, management_service(), "ModifySystemSettings", vec![("SystemSettings", text(mof))]);
        expected.assert_eq(&show(reaction));
    };
    check(
        V.0,
        "ElementName = \"Web\"; UserSnapshotType = 3;",
        expect![[
            r#"wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: Some("Web"), notes: None, snapshot_kind: Some(ProductionOrStandard), startup: None, processors: None, memory_mib: None } }"#
        ]],
    );
    check(V.0, "ElementName = \"web\"; UserSnapshotType = 5; Notes = {};", expect!["wait for "]);
    check(
        V.0,
        "Notes = {\"one\", \"two\"};",
        expect![[
            r#"wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: None, notes: Some("one\ntwo"), snapshot_kind: None, startup: None, processors: None, memory_mib: None } }"#
        ]],
    );
    check(
        V.0,
        "UserSnapshotType = 1;",
        expect![
            "32773: UserSnapshotType 1 does not exist: use 2 (none), 3 (production, else standard), 4 (production) or 5 (standard)"
        ],
    );
    check(
        V.0,
        "AutomaticStartupAction = 4;",
        expect![
            "wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: None, notes: None, snapshot_kind: None, startup: Some(Start), processors: None, memory_mib: None } }"
        ],
    );
    check(V.0, "AutomaticStartupAction = 2;", expect!["wait for "]);
    check(
        V.0,
        "AutomaticStartupAction = 3;",
        expect!["32770: AutomaticStartupAction 3 is not supported: use 2 (nothing) or 4 (start with the host)"],
    );
    check(
        V.0,
        "SecureBootEnabled = true; AutomaticShutdownAction = 4;",
        expect![
            "32773: AutomaticShutdownAction, SecureBootEnabled of a virtual machine cannot be changed: here ElementName, Notes, UserSnapshotType, AutomaticStartupAction can"
        ],
    );
    check(
        snapshot_id('A').0,
        "ElementName = \"before\"; Notes = {\"x\"};",
        expect![[r#"wait for ModifySnapshot { snapshot: SnapshotId(5041), name: Some("before"), notes: Some("x") }"#]],
    );
    check(
        snapshot_id('A').0,
        "UserSnapshotType = 2;",
        expect!["32773: UserSnapshotType of a snapshot cannot be changed: here ElementName, Notes can"],
    );
    check(
        Uuid::from_u128(9),
        "ElementName = \"x\";",
        expect!["32773: there are no settings with InstanceID microsoft:00000000-0000-0000-0000-000000000009"],
    );
}

/// Holds: SNAP-6-13
#[test]
fn a_setting_that_comes_back_unchanged_changes_nothing() {
    let view = view(with_snapshot());
    let rows = ask(&view, "SELECT * FROM Msvm_VirtualSystemSettingData").unwrap();
    for row in rows {
        let xml = embedded::to_cim_xml(&row.instance);
        let reaction = call(&view, management_service(), "ModifySystemSettings", vec![("SystemSettings", text(xml))]);
        let Ok(Reaction::Submit(submission)) = reaction else { panic!("{reaction:?}") };
        assert_eq!(submission.requests, vec![]);
        assert_eq!(show_outcome(&submission.completion.finish(&view.state, &[])), "0 Job=-");
    }
}

fn rasd(properties: String) -> String {
    format!("instance of Msvm_ResourceAllocationSettingData {{ {properties} }};")
}

fn check_add(view: &View, resource: String, expected: Expect) {
    let arguments = vec![("AffectedConfiguration", reference(vssd(V.0))), ("ResourceSettings", text(resource))];
    expected.assert_eq(&show(call(view, management_service(), "AddResourceSettings", arguments)));
}

/// Holds: WIRE-I6-1, WIRE-I7-1
#[test]
fn controllers_drives_and_disks_are_added_by_their_type() {
    let view = view(one_vm());
    let check = |resource: String, expected: Expect| check_add(&view, resource, expected);
    let (ide, drive) = (path(&view, Device::Controller(IDE)), path(&view, Device::Drive(EMPTY_DRIVE)));
    check(
        rasd("ResourceType = 6; ResourceSubType = \"Microsoft:Hyper-V:Synthetic SCSI Controller\";".into()),
        expect!["wait for AddController { vm: VmId(00A0), bus: Scsi }"],
    );
    check(
        rasd(format!("ResourceType = 17; Parent = \"{ide}\"; AddressOnParent = \"1\";")),
        expect!["wait for AddDrive { vm: VmId(00A0), controller: DeviceId(00D1), address: Some(1) }"],
    );
    check(
        rasd(format!("ResourceType = 17; Parent = \"{ide}\";")),
        expect!["wait for AddDrive { vm: VmId(00A0), controller: DeviceId(00D1), address: None }"],
    );
    check(
        rasd(format!("ResourceType = 17; Parent = \"{drive}\";")),
        expect!["32773: Parent must be the path of a controller of this machine"],
    );
    check(
        rasd("ResourceType = 17; Parent = \"nothing\";".into()),
        expect!["32773: Parent names nothing: there is no class nothing in this namespace"],
    );
    check(
        rasd(format!("ResourceType = 31; Parent = \"{drive}\"; HostResource = {{\"/images/a.qcow2\"}};")),
        expect![[
            r#"wait for AttachDisk { vm: VmId(00A0), drive: DeviceId(00D3), path: "/images/a.qcow2", format: None }"#
        ]],
    );
    let disk = format!(
        "instance of Msvm_StorageAllocationSettingData {{ Parent = \"{drive}\"; HostResource = {{\"/images/a.qcow2\"}}; }};"
    );
    check(
        disk,
        expect![[
            r#"wait for AttachDisk { vm: VmId(00A0), drive: DeviceId(00D3), path: "/images/a.qcow2", format: None }"#
        ]],
    );
    check(
        rasd(format!("ResourceType = 31; Parent = \"{drive}\";")),
        expect!["32773: HostResource must hold one path of a disk image"],
    );
}

#[test]
fn adapters_and_connections_are_added_and_the_rest_is_not() {
    let view = view(one_vm());
    let check = |resource: String, expected: Expect| check_add(&view, resource, expected);
    let nic = path(&view, Device::Nic(NIC));
    check("instance of Msvm_SyntheticEthernetPortSettingData { ElementName = \"lan\"; Address = \"02-00-00-00-00-0a\"; };".into(), expect![[r#"wait for AddNic { vm: VmId(00A0), name: "lan", mac: Some([2, 0, 0, 0, 0, 10]), network: Unconnected }"#]]);
    check(
        "instance of Msvm_SyntheticEthernetPortSettingData { Address = \"12\"; };".into(),
        expect!["32773: Address 12 is not a MAC address: write it as twelve hexadecimal digits"],
    );
    let connection = |network: &str| {
        format!(
            "instance of Msvm_EthernetPortAllocationSettingData {{ Parent = \"{nic}\"; HostResource = {{\"{network}\"}}; }};"
        )
    };
    check(
        connection("tap0"),
        expect![[r#"wait for ConnectNic { vm: VmId(00A0), nic: DeviceId(00D4), network: Tap("tap0") }"#]],
    );
    check(connection("USER"), expect!["wait for ConnectNic { vm: VmId(00A0), nic: DeviceId(00D4), network: User }"]);
    check(
        connection("Msvm_VirtualEthernetSwitch.CreationClassName=\\\"Msvm_VirtualEthernetSwitch\\\",Name=\\\"user\\\""),
        expect!["wait for ConnectNic { vm: VmId(00A0), nic: DeviceId(00D4), network: User }"],
    );
    check(
        connection("../etc"),
        expect!["32773: ../etc names no network: use user or the name of a tap interface of the host"],
    );
    check(
        rasd("ResourceType = 16;".into()),
        expect![
            "32770: resources of type 16 are not supported: there are controllers (5, 6), drives (17), disk images (31), network adapters (10) and connections (33)"
        ],
    );
    check(
        "instance of Msvm_ProcessorSettingData { VirtualQuantity = 4; };".into(),
        expect![
            "32770: another Msvm_ProcessorSettingData cannot be added: every machine has its own; change it with ModifyResourceSettings"
        ],
    );
}

fn id(owner: Owner, device: Device) -> String {
    Object::Resource(owner, device).id("HOST").replace('\\', "\\\\")
}

fn check_modify(class: &str, id: String, properties: &str, expected: Expect) {
    let mof = format!("instance of {class} {{ InstanceID = \"{id}\"; {properties} }};");
    let arguments = vec![("ResourceSettings", text(mof))];
    let view = view(with_snapshot());
    expected.assert_eq(&show(call(&view, management_service(), "ModifyResourceSettings", arguments)));
}

#[test]
fn processors_and_memory_are_changed_by_their_id() {
    let check = check_modify;
    let live = |device| id(Owner::Vm(V), device);
    check(
        "Msvm_ProcessorSettingData",
        live(Device::Processor),
        "VirtualQuantity = 4;",
        expect![
            "wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: None, notes: None, snapshot_kind: None, startup: None, processors: Some(4), memory_mib: None } }"
        ],
    );
    check(
        "Msvm_ProcessorSettingData",
        live(Device::Processor),
        "Weight = 7;",
        expect!["32773: Weight of processors cannot be changed: here VirtualQuantity can"],
    );
    check(
        "Msvm_MemorySettingData",
        live(Device::Memory),
        "VirtualQuantity = 512; Limit = 512; Reservation = 512;",
        expect![
            "wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: None, notes: None, snapshot_kind: None, startup: None, processors: None, memory_mib: Some(512) } }"
        ],
    );
    check(
        "Msvm_MemorySettingData",
        live(Device::Memory),
        "Limit = 2048;",
        expect![
            "wait for ModifyVm { vm: VmId(00A0), changes: VmChanges { name: None, notes: None, snapshot_kind: None, startup: None, processors: None, memory_mib: Some(2048) } }"
        ],
    );
    check(
        "Msvm_MemorySettingData",
        live(Device::Memory),
        "VirtualQuantity = 512; Limit = 2048;",
        expect!["32773: Limit of memory cannot be changed: here VirtualQuantity can"],
    );
}

/// Holds: SNAP-6-14
#[test]
fn connections_are_changed_by_their_id_and_the_rest_is_not() {
    let check = check_modify;
    let live = |device| id(Owner::Vm(V), device);
    check(
        "Msvm_EthernetPortAllocationSettingData",
        live(Device::Connection(NIC)),
        "HostResource = {\"tap1\"};",
        expect![[r#"wait for ConnectNic { vm: VmId(00A0), nic: DeviceId(00D4), network: Tap("tap1") }"#]],
    );
    check(
        "Msvm_EthernetPortAllocationSettingData",
        live(Device::Connection(NIC)),
        "EnabledState = 3;",
        expect!["wait for ConnectNic { vm: VmId(00A0), nic: DeviceId(00D4), network: Unconnected }"],
    );
    check(
        "Msvm_EthernetPortAllocationSettingData",
        live(Device::Connection(NIC)),
        "HostResource = {\"\"};",
        expect!["wait for ConnectNic { vm: VmId(00A0), nic: DeviceId(00D4), network: Unconnected }"],
    );
    check(
        "Msvm_EthernetPortAllocationSettingData",
        live(Device::Connection(NIC)),
        "LastKnownSwitchName = \"x\";",
        expect!["wait for "],
    );
    check(
        "Msvm_ResourceAllocationSettingData",
        live(Device::Disk(DRIVE)),
        "HostResource = {\"/other\"};",
        expect!["32773: HostResource of a Msvm_StorageAllocationSettingData cannot be changed: here nothing can"],
    );
    check(
        "Msvm_MemorySettingData",
        id(Owner::Snapshot(snapshot_id('A')), Device::Memory),
        "VirtualQuantity = 1;",
        expect![
            "32773: the settings of a snapshot cannot be changed: only its name and notes can, with ModifySystemSettings"
        ],
    );
    check(
        "Msvm_MemorySettingData",
        "Microsoft:none".into(),
        "VirtualQuantity = 1;",
        expect!["32773: there is no resource with InstanceID Microsoft:none"],
    );
}

/// Holds: SNAP-6-14
#[test]
fn resources_are_removed_by_their_path() {
    let view = view(with_snapshot());
    let remove = |object: Object, expected: Expect| {
        let arguments = vec![("ResourceSettings", text(object.path(&view).to_string()))];
        expected.assert_eq(&show(call(&view, management_service(), "RemoveResourceSettings", arguments)));
    };
    remove(
        Object::Resource(Owner::Vm(V), Device::Disk(DRIVE)),
        expect!["wait for RemoveDevice { vm: VmId(00A0), device: DeviceId(00D2), disk_only: true }"],
    );
    remove(
        Object::Resource(Owner::Vm(V), Device::Drive(DRIVE)),
        expect!["wait for RemoveDevice { vm: VmId(00A0), device: DeviceId(00D2), disk_only: false }"],
    );
    remove(
        Object::Resource(Owner::Vm(V), Device::Memory),
        expect!["32770: a Msvm_MemorySettingData cannot be removed"],
    );
    remove(
        Object::Resource(Owner::Snapshot(snapshot_id('A')), Device::Disk(DRIVE)),
        expect![
            "32773: the settings of a snapshot cannot be changed: only its name and notes can, with ModifySystemSettings"
        ],
    );
}

#[test]
fn awaited_calls_answer_with_what_came_into_being() {
    let mut after = one_vm();
    after.put_job(job(1, JobKind::Define, None, JobState::Completed));
    after.put_job(job(2, JobKind::Define, None, JobState::Running));
    after.put_job(job(3, JobKind::Define, None, JobState::Failed(Failure::new(Kind::NoSpace, "full"))));
    let view = view(after);
    let finish = |target, method, arguments, replies: &[Reply]| -> Outcome {
        match call(&view, target, method, arguments) {
            Ok(Reaction::Submit(submission)) => submission.completion.finish(&Arc::clone(&view.state), replies),
            other => panic!("{other:?}"),
        }
    };
    let define = |reply| finish(management_service(), "DefineSystem", vec![("SystemSettings", text(""))], &[reply]);
    expect![[r#"0 ResultingSystem=\\HOST\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="00000000-0000-0000-0000-0000000000A0" Job=-"#]].assert_eq(&show_outcome(&define(Reply::Job(job_id(1)))));
    expect![[r#"4096 ResultingSystem=- Job=\\HOST\root\virtualization\v2:Msvm_ConcreteJob.InstanceID="00000000-0000-0000-0000-000000007002""#]].assert_eq(&show_outcome(&define(Reply::Job(job_id(2)))));
    expect!["32768: full"].assert_eq(&show_outcome(&define(Reply::Job(job_id(3)))));
    let scsi = "instance of Msvm_ResourceAllocationSettingData { ResourceType = 6; };";
    let arguments = vec![
        ("AffectedConfiguration", reference(vssd(V.0))),
        ("ResourceSettings", text(scsi)),
        ("ResourceSettings", text(scsi)),
    ];
    let created = |number| Reply::Done { created: Some(DeviceId(Uuid::from_u128(number))) };
    let outcome = finish(management_service(), "AddResourceSettings", arguments, &[created(1), created(2)]);
    expect![[r#"0 ResultingResourceSettings=\\HOST\root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:00000000-0000-0000-0000-0000000000A0\\00000000-0000-0000-0000-000000000001\\0", \\HOST\root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:00000000-0000-0000-0000-0000000000A0\\00000000-0000-0000-0000-000000000002\\0" Job=-"#]].assert_eq(&show_outcome(&outcome));
    let shutdown = Target::new(VIRTUALIZATION, "Msvm_ShutdownComponent");
    let outcome = finish(shutdown, "InitiateShutdown", vec![], &[Reply::Job(job_id(1))]);
    expect!["0"].assert_eq(&show_outcome(&outcome));
}

#[test]
fn the_size_of_system_files_is_that_of_saved_memory() {
    let mut state = with_snapshot();
    state.update_vm(V, |vm| vm.power = Power::Running);
    take(&mut state, 'B');
    let view = view(state);
    let check = |target: Target, expected: Expect| {
        let reaction = call(&view, management_service(), "GetSizeOfSystemFiles", vec![("Vssd", reference(target))]);
        let Ok(Reaction::Done(outcome)) = reaction else { panic!("not done") };
        expected.assert_eq(&show_outcome(&outcome));
    };
    check(snapshot_target('A'), expect!["0 Size=0"]);
    check(snapshot_target('B'), expect!["0 Size=1"]);
    check(vssd(V.0), expect!["0 Size=0"]);
}

/// Holds: SNAP-8.3-4, SNAP-10-1, SNAP-10-2, SNAP-10-3, SNAP-10-4, SNAP-10-5, WIRE-I12-2
#[test]
fn summaries_say_what_is_asked_for() {
    let mut state = with_snapshot();
    state.put_job(job(1, JobKind::ApplySnapshot, Some('A'), JobState::Running));
    let view = view(state);
    let check = |targets: Vec<Target>, asked: &[u32], expected: Expect| {
        let mut arguments: Vec<_> = targets.into_iter().map(|target| ("SettingData", reference(target))).collect();
        arguments.extend(asked.iter().map(|number| ("RequestedInformation", text(number.to_string()))));
        let Ok(Reaction::Done(outcome)) = call(&view, management_service(), "GetSummaryInformation", arguments) else {
            panic!("not done");
        };
        let summaries = outcome.result.outputs[0].1.as_ref().and_then(Value::as_array).unwrap();
        let show = |summary: &Value| {
            let summary = summary.as_object().unwrap();
            let filled = summary.properties().filter_map(|(property, value)| Some((&property.name, value?)));
            let texts = filled.filter(|(name, _)| *name != "InstanceID").map(|(name, value)| format!("{name}={value}"));
            texts.collect::<Vec<_>>().join(" ").replace("00000000-0000-0000-0000-00000000", "")
        };
        expected.assert_eq(&summaries.iter().map(show).collect::<Vec<_>>().join("\n"));
    };
    check(vec![], &[], expect!["Name=00A0"]);
    check(
        vec![],
        &[1, 4, 9, 100, 103, 105, 107, 108, 109, 110, 106, 999],
        expect![[
            r#"ElementName=web EnabledState=3 HealthState=5 Name=00A0 NumberOfProcessors=2 OperationalStatus=11, 32769 UpTime=0 VirtualSwitchNames=user AsynchronousTasks=\\HOST\root\virtualization\v2:Msvm_ConcreteJob.InstanceID="7001" MemoryUsage=0 Snapshots=\\HOST\root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:5041""#
        ]],
    );
    check(
        vec![snapshot_target('A'), snapshot_target('Z'), vssd(V.0)],
        &[1, 100, 105, 107, 109],
        expect![[r#"
        ElementName=A EnabledState=3 Name=5041

        ElementName=web EnabledState=3 HealthState=5 Name=00A0 UpTime=0 Snapshots=\\HOST\root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:5041""#]],
    );
}
