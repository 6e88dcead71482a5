//! Calls of the snapshot service and of its jobs: what is ignored, in which order is checked, what an error says.

use cim::op::{Argument, Target};
use cim::{Value, embedded};
use expect_test::{Expect, expect};
use ledger::failure::{Failure, Kind};
use ledger::job::{JobKind, JobState};

use crate::Reaction;
use crate::schema::VIRTUALIZATION;
use crate::world::*;

fn settings(class: &str, properties: &str) -> Argument {
    text(format!("<INSTANCE CLASSNAME='{class}'>{properties}</INSTANCE>"))
}

/// Holds: SNAP-4.2-4
#[test]
fn properties_that_no_class_has_are_ignored() {
    let view = view(one_vm());
    let check = |settings: Argument, expected: Expect| {
        let arguments =
            vec![("AffectedSystem", reference(system(V))), ("SnapshotSettings", settings), ("SnapshotType", text("2"))];
        expected.assert_eq(&show(call(&view, snapshot_service(), "CreateSnapshot", arguments)));
    };
    let name = "<PROPERTY NAME='ElementName' TYPE='string'><VALUE>x</VALUE></PROPERTY>";
    let unknown = "<PROPERTY NAME='Flavour' TYPE='string'><VALUE>sweet</VALUE></PROPERTY>";
    check(
        settings("Msvm_VirtualSystemSnapshotSettingData", &format!("{unknown}{name}")),
        expect![[r#"CreateSnapshot { vm: VmId(00A0), name: "x", contents: Full, purpose: User }"#]],
    );
    check(
        settings("Msvm_VirtualSystemSettingData", &format!("{name}{unknown}")),
        expect![[r#"CreateSnapshot { vm: VmId(00A0), name: "x", contents: Full, purpose: User }"#]],
    );
}

/// A call with everything wrong, and what is said as one thing after another is put right.
///
/// Holds: SNAP-9-1
#[test]
fn checks_come_in_a_fixed_order() {
    let view = view(with_snapshot());
    let check = |machine: Target, settings: &str, kind: &str, expected: Expect| {
        let arguments = vec![
            ("AffectedSystem", reference(machine)),
            ("SnapshotSettings", text(settings)),
            ("SnapshotType", text(kind)),
        ];
        expected.assert_eq(&show(call(&view, snapshot_service(), "CreateSnapshot", arguments)));
    };
    let nobody = system(ledger::id::VmId(uuid::Uuid::from_u128(1)));
    let host = Target::new(VIRTUALIZATION, "Msvm_ComputerSystem").with_key("Name", "HOST");
    let wrong = "instance of Msvm_MemorySettingData { };";
    check(
        nobody,
        wrong,
        "7",
        expect![[
            r#"32773: AffectedSystem names nothing: Msvm_ComputerSystem.Name="00000000-0000-0000-0000-000000000001" does not exist"#
        ]],
    );
    check(host, wrong, "7", expect!["32773: AffectedSystem is the host: name a virtual machine"]);
    check(system(V), wrong, "7", expect!["32773: SnapshotType 7 does not exist: use 2 (full) or 3 (disk)"]);
    check(
        system(V),
        wrong,
        "2",
        expect![
            "32773: SnapshotSettings is a Msvm_MemorySettingData: pass a Msvm_VirtualSystemSnapshotSettingData, a Msvm_VirtualSystemSettingData or nothing"
        ],
    );
    // What is left, the state of the machine and its limits, is the ledger's to say.
    check(
        system(V),
        "",
        "2",
        expect![[
            r#"CreateSnapshot { vm: VmId(00A0), name: "web - (2026-01-02 - 04:04:05)", contents: Full, purpose: User }"#
        ]],
    );
}

/// Holds: SNAP-8.4-2
#[test]
fn all_errors_of_a_job_are_listed() {
    let mut world = one_vm();
    let failure = Failure::new(Kind::Timeout, "the guest does not answer");
    world.put_job(job(1, JobKind::Shutdown, None, JobState::Failed(failure)));
    let view = view(world);
    let target = Target::new(VIRTUALIZATION, "Msvm_ConcreteJob").with_key("InstanceID", job_id(1).to_string());
    let Ok(Reaction::Done(outcome)) = call(&view, target, "GetErrorEx", vec![]) else { panic!("not done") };
    let texts = outcome.result.outputs[0].1.as_ref().and_then(Value::as_array).unwrap();
    let shown = texts.iter().map(|text| {
        let error = embedded::parse(text.as_str().unwrap()).unwrap().typed(view.namespaces.virtualization()).unwrap();
        ["Message", "MessageID", "PerceivedSeverity", "ErrorSource"]
            .map(|name| error.get(name).unwrap().to_string())
            .join(" | ")
    });
    expect![[r#"the guest does not answer | 32772 | 4 | \\HOST\root\virtualization\v2:Msvm_ConcreteJob.InstanceID="00000000-0000-0000-0000-000000007001""#]].assert_eq(&shown.collect::<Vec<_>>().join("\n"));
}
