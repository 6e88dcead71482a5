//! Disk images that belong to no machine.

use cim::Value;
use cim::op::{Argument, Target};
use expect_test::{Expect, expect};
use ledger::image_file::FileFormat;
use ledger::question::{Answer, ImageFacts};

use crate::Reaction;
use crate::schema::VIRTUALIZATION;
use crate::world::*;

fn image_call(method: &str, arguments: Vec<(&str, Argument)>) -> Result<Reaction, cim::Error> {
    call(&view(one_vm()), Target::new(VIRTUALIZATION, "Msvm_ImageManagementService"), method, arguments)
}

fn settings(properties: &str) -> (&'static str, Argument) {
    let mof = format!("instance of Msvm_VirtualHardDiskSettingData {{ {properties} }};");
    ("VirtualDiskSettingData", text(mof))
}

#[test]
fn disks_are_created_by_name_and_type() {
    let check = |properties: &str, expected: Expect| {
        expected.assert_eq(&show(image_call("CreateVirtualHardDisk", vec![settings(properties)])));
    };
    check(
        r#"Path = "/d/a.qcow2"; MaxInternalSize = 1048576; Type = 3;"#,
        expect![[r#"WorkOnImage(Create { path: "/d/a.qcow2", size: Some(1048576), fixed: false, parent: None })"#]],
    );
    check(
        r#"Path = "/d/a.vhd"; MaxInternalSize = 1048576; Type = 2; Format = 2;"#,
        expect![[r#"WorkOnImage(Create { path: "/d/a.vhd", size: Some(1048576), fixed: true, parent: None })"#]],
    );
    check(
        r#"Path = "/d/b.qcow2"; Type = 4; ParentPath = "/d/a.qcow2"; Format = 32768;"#,
        expect![[
            r#"WorkOnImage(Create { path: "/d/b.qcow2", size: None, fixed: false, parent: Some("/d/a.qcow2") })"#
        ]],
    );
    check(
        r#"Path = "/d/b.qcow2"; Format = 3;"#,
        expect![
            "32773: Format 3 does not fit the name /d/b.qcow2: 2 is .vhd, 3 is .vhdx, 32768 is .qcow2, 32769 is .raw or .img; leave Format out to go by the name"
        ],
    );
    check(r#"Type = 3;"#, expect!["32773: Path is missing in VirtualDiskSettingData"]);
    check(r#"Path = "/d/b.qcow2"; Type = 4;"#, expect!["32773: a differencing disk needs a ParentPath"]);
    check(
        r#"Path = "/d/b.qcow2"; Type = 9;"#,
        expect!["32773: Type 9 does not exist: use 2 (fixed), 3 (dynamic) or 4 (differencing)"],
    );
}

#[test]
fn other_work_names_its_files() {
    let check = |method: &str, arguments: Vec<(&str, Argument)>, expected: Expect| {
        expected.assert_eq(&show(image_call(method, arguments)));
    };
    check(
        "ConvertVirtualHardDisk",
        vec![("SourcePath", text("/d/a.vhdx")), settings(r#"Path = "/d/a.qcow2";"#)],
        expect![[r#"WorkOnImage(Convert { source: "/d/a.vhdx", path: "/d/a.qcow2", fixed: false })"#]],
    );
    check(
        "ResizeVirtualHardDisk",
        vec![("Path", text("/d/a.raw")), ("MaxInternalSize", text("512"))],
        expect![[r#"WorkOnImage(Resize { path: "/d/a.raw", size: 512 })"#]],
    );
    check(
        "MergeVirtualHardDisk",
        vec![("SourcePath", text("/d/b.qcow2")), ("DestinationPath", text("/d/a.qcow2"))],
        expect![[r#"WorkOnImage(Merge { child: "/d/b.qcow2", parent: "/d/a.qcow2" })"#]],
    );
    check(
        "ValidateVirtualHardDisk",
        vec![("Path", text("/d/a.qcow2"))],
        expect![[r#"WorkOnImage(Validate { path: "/d/a.qcow2" })"#]],
    );
    check("ValidateVirtualHardDisk", vec![("Path", text("a.qcow2"))], expect!["32773: Path is not an absolute path"]);
    check(
        "AttachVirtualHardDisk",
        vec![("Path", text("/d/a.qcow2"))],
        expect!["32770: AttachVirtualHardDisk is not supported by Msvm_ImageManagementService"],
    );
}

#[test]
fn a_disk_is_described_from_what_the_host_finds() {
    let facts = ImageFacts {
        path: "/d/b.qcow2".into(),
        format: FileFormat::Qcow2,
        size: 1 << 20,
        fixed: false,
        parent: Some("/d/a.raw".into()),
        file_bytes: 4096,
        in_use: true,
        modified: NOW,
    };
    let check = |method: &str, output: &str, expected: Expect| {
        let Ok(Reaction::Ask(inquiry)) = image_call(method, vec![("Path", text("/d/b.qcow2"))]) else {
            panic!("nothing to ask")
        };
        let outcome = inquiry.finish(vec![Ok(Answer::Image(facts.clone()))]);
        let (name, value) = &outcome.result.outputs[0];
        assert_eq!(name, output);
        let instance = value.as_ref().and_then(Value::as_object).unwrap();
        let filled = instance.properties().filter_map(|(property, value)| Some((&property.name, value?)));
        let shown: Vec<String> = filled.map(|(name, value)| format!("{name}={value}")).collect();
        expected.assert_eq(&shown.join(" "));
    };
    check(
        "GetVirtualHardDiskSettingData",
        "SettingData",
        expect![
            "InstanceID=/d/b.qcow2 Caption=Virtual Hard Disk Setting Data Description=Setting Data for a Virtual Hard Disk ElementName=/d/b.qcow2 Type=4 Format=32768 Path=/d/b.qcow2 ParentPath=/d/a.raw MaxInternalSize=1048576 LogicalSectorSize=512 PhysicalSectorSize=512 PmemAddressAbstractionType=0 IsPmemCompatible=false"
        ],
    );
    check(
        "GetVirtualHardDiskState",
        "State",
        expect![
            "FileSize=4096 InUse=true MinInternalSize=1048576 PhysicalSectorSize=512 Alignment=1 Timestamp=20260102030405.000000+000"
        ],
    );
}
