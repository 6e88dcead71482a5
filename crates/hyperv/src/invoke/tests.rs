//! Method calls: what they ask of the ledger, what they refuse, and what they answer.

mod images;
mod keyboard;
mod libvirt;
mod management;
mod outside;
mod screen;
mod snapshots;

use cim::op::{Argument, Target};
use cim::{Value, embedded};
use expect_test::{Expect, expect};
use ledger::failure::{Failure, Kind};
use ledger::job::{JobKind, JobState};
use ledger::request::Reply;
use uuid::Uuid;

use crate::Reaction;
use crate::schema::VIRTUALIZATION;
use crate::world::*;

/// Holds: SNAP-4.1-2, SNAP-4.7-2, SNAP-17-11
#[test]
fn t11_each_method_has_its_own_name_for_the_snapshot() {
    let view = view(with_snapshot());
    let check = |method: &str, parameter: &str, expected: Expect| {
        let arguments = vec![(parameter, reference(snapshot_target('A')))];
        expected.assert_eq(&show(call(&view, snapshot_service(), method, arguments)));
    };
    check("ApplySnapshot", "Snapshot", expect!["ApplySnapshot { snapshot: SnapshotId(5041) }"]);
    check("applysnapshot", "SNAPSHOT", expect!["ApplySnapshot { snapshot: SnapshotId(5041) }"]);
    check("DestroySnapshot", "AffectedSnapshot", expect!["DestroySnapshot { snapshot: SnapshotId(5041) }"]);
    check("DestroySnapshotTree", "SnapshotSettingData", expect!["DestroySnapshotTree { snapshot: SnapshotId(5041) }"]);
    check("ClearSnapshotState", "SnapshotSettingData", expect!["ClearSnapshotState { snapshot: SnapshotId(5041) }"]);
    check(
        "ApplySnapshot",
        "AffectedSnapshot",
        expect!["fault WBEM_E_INVALID_METHOD_PARAMETERS: method ApplySnapshot has no input parameter AffectedSnapshot"],
    );
    check(
        "DestroySnapshotTree",
        "AffectedSnapshot",
        expect![
            "fault WBEM_E_INVALID_METHOD_PARAMETERS: method DestroySnapshotTree has no input parameter AffectedSnapshot"
        ],
    );
    check(
        "ConvertToReferencePoint",
        "AffectedSnapshot",
        expect!["1: ConvertToReferencePoint is not supported by Msvm_VirtualSystemSnapshotService"],
    );
}

/// Holds: SNAP-4.2-1, SNAP-5-3, SNAP-5-11
#[test]
fn t12_the_type_chooses_between_all_and_disks_and_nothing_more() {
    let view = view(one_vm());
    let check = |kind: &str, expected: Expect| {
        let arguments = vec![("AffectedSystem", reference(system(V))), ("SnapshotType", text(kind))];
        expected.assert_eq(&show(call(&view, snapshot_service(), "CreateSnapshot", arguments)));
    };
    check(
        "2",
        expect![[
            r#"CreateSnapshot { vm: VmId(00A0), name: "web - (2026-01-02 - 04:04:05)", contents: Full, purpose: User }"#
        ]],
    );
    check(
        "3",
        expect![[
            r#"CreateSnapshot { vm: VmId(00A0), name: "web - (2026-01-02 - 04:04:05)", contents: Disks, purpose: User }"#
        ]],
    );
    check(
        "32768",
        expect![[
            r#"CreateSnapshot { vm: VmId(00A0), name: "web - (2026-01-02 - 04:04:05)", contents: Disks, purpose: Recovery }"#
        ]],
    );
    check("7", expect!["32773: SnapshotType 7 does not exist: use 2 (full) or 3 (disk)"]);
    check(
        "70000",
        expect![[
            r#"fault WBEM_E_INVALID_METHOD_PARAMETERS: parameter SnapshotType of method CreateSnapshot: "70000" is not a value of type uint16"#
        ]],
    );
    check("", expect!["32773: SnapshotType is missing: use 2 (full) or 3 (disk)"]);
}

/// Holds: SNAP-1-10, SNAP-4.2-1, SNAP-4.2-2, SNAP-4.2-3, SNAP-5-11
#[test]
fn the_name_of_a_snapshot_is_taken_from_the_settings() {
    let view = view(one_vm());
    let check = |settings: &str, expected: Expect| {
        let arguments = vec![
            ("AffectedSystem", reference(system(V))),
            ("SnapshotSettings", text(settings)),
            ("SnapshotType", text("2")),
            ("ResultingSnapshot", Argument::Null),
        ];
        let shown = show(call(&view, snapshot_service(), "CreateSnapshot", arguments));
        expected.assert_eq(shown.split("name: ").nth(1).unwrap_or(&shown));
    };
    check("", expect![[r#""web - (2026-01-02 - 04:04:05)", contents: Full, purpose: User }"#]]);
    check(
        "instance of Msvm_VirtualSystemSettingData { ElementName = \"mine\"; };",
        expect![[r#""mine", contents: Full, purpose: User }"#]],
    );
    check(
        "instance of Msvm_VirtualSystemSnapshotSettingData { ElementName = \"mine\"; ConsistencyLevel = 2; };",
        expect![[r#""mine", contents: Full, purpose: User }"#]],
    );
    check(
        "instance of Msvm_VirtualSystemSnapshotSettingData { ConsistencyLevel = 2; };",
        expect![[r#""web - (2026-01-02 - 04:04:05)", contents: Full, purpose: User }"#]],
    );
    check(
        "<INSTANCE CLASSNAME='Msvm_VirtualSystemSettingData'><PROPERTY NAME='ElementName' TYPE='string'><VALUE>x</VALUE></PROPERTY></INSTANCE>",
        expect![[r#""x", contents: Full, purpose: User }"#]],
    );
    check(
        "instance of Msvm_MemorySettingData { ElementName = \"mine\"; };",
        expect![
            "32773: SnapshotSettings is a Msvm_MemorySettingData: pass a Msvm_VirtualSystemSnapshotSettingData, a Msvm_VirtualSystemSettingData or nothing"
        ],
    );
    check(
        "instance of Msvm_Nothing { };",
        expect![
            "fault WBEM_E_INVALID_METHOD_PARAMETERS: parameter SnapshotSettings of method CreateSnapshot: there is no class Msvm_Nothing in this namespace"
        ],
    );
    check(
        "nonsense",
        expect![[
            r#"fault WBEM_E_INVALID_METHOD_PARAMETERS: parameter SnapshotSettings of method CreateSnapshot: MOF line 1, column 1: expected instance, found "nonsense""#
        ]],
    );
}

/// Holds: SNAP-1-1, SNAP-1-5, SNAP-1-9, SNAP-4.1-5, SNAP-9-1, WIRE-D5-1, WIRE-I9-1, WIRE-I14-1
#[test]
fn references_are_checked_before_anything_else() {
    let view = view(with_snapshot());
    let check = |method: &str, parameter: &str, target: Target, expected: Expect| {
        expected.assert_eq(&show(call(&view, snapshot_service(), method, vec![(parameter, reference(target))])));
    };
    check(
        "CreateSnapshot",
        "AffectedSystem",
        system(ledger::id::VmId(Uuid::from_u128(1))),
        expect![[
            r#"32773: AffectedSystem names nothing: Msvm_ComputerSystem.Name="00000000-0000-0000-0000-000000000001" does not exist"#
        ]],
    );
    check(
        "CreateSnapshot",
        "AffectedSystem",
        Target::new(VIRTUALIZATION, "Msvm_ComputerSystem").with_key("Name", "HOST"),
        expect!["32773: AffectedSystem is the host: name a virtual machine"],
    );
    check(
        "CreateSnapshot",
        "AffectedSystem",
        snapshot_target('A'),
        expect![
            "fault WBEM_E_INVALID_METHOD_PARAMETERS: parameter AffectedSystem of method CreateSnapshot: Msvm_VirtualSystemSettingData is not a CIM_ComputerSystem"
        ],
    );
    check(
        "ApplySnapshot",
        "Snapshot",
        vssd(V.0),
        expect![
            "32773: Snapshot is the current settings of a virtual machine, not a snapshot: a snapshot's VirtualSystemType begins with Microsoft:Hyper-V:Snapshot"
        ],
    );
    check(
        "ApplySnapshot",
        "Snapshot",
        snapshot_target('Z'),
        expect![[
            r#"32773: Snapshot names nothing: Msvm_VirtualSystemSettingData.InstanceID="Microsoft:00000000-0000-0000-0000-00000000505A" does not exist"#
        ]],
    );
    let lower = Target::new("root/virtualization/v2", "msvm_virtualsystemsettingdata")
        .with_key("instanceid", format!("microsoft:{}", snapshot_id('A')).to_lowercase());
    check("ApplySnapshot", "Snapshot", lower, expect!["ApplySnapshot { snapshot: SnapshotId(5041) }"]);
    expect!["32773: Snapshot is missing"].assert_eq(&show(call(&view, snapshot_service(), "ApplySnapshot", vec![])));
}

/// Holds: SNAP-4.1-1, SNAP-4.1-5, SNAP-4.2-12, SNAP-17-3, WIRE-I8-2, WIRE-I9-1, WIRE-L4-1
#[test]
fn t3_success_is_a_job_and_refusals_have_numbers_and_words() {
    let view = view(with_snapshot());
    let arguments = vec![("AffectedSystem", reference(system(V))), ("SnapshotType", text("2"))];
    let Ok(Reaction::Submit(submission)) = call(&view, snapshot_service(), "CreateSnapshot", arguments) else {
        panic!("not submitted");
    };
    let check = |reply: Reply, expected: Expect| {
        expected.assert_eq(&show_outcome(&submission.completion.finish(&view.state, &[reply])));
    };
    check(
        Reply::Job(job_id(1)),
        expect![[
            r#"4096 ResultingSnapshot=- Job=\\HOST\root\virtualization\v2:Msvm_ConcreteJob.InstanceID="00000000-0000-0000-0000-000000007001""#
        ]],
    );
    let refused = |kind| Reply::Refused(Failure::new(kind, "no").hint("do this"));
    check(refused(Kind::InvalidState), expect!["32775: no: do this"]);
    check(refused(Kind::InUse), expect!["32775: no: do this"]);
    check(refused(Kind::LimitReached), expect!["32768: no: do this"]);
    check(refused(Kind::NotFound), expect!["32773: no: do this"]);
}

/// Holds: SNAP-3-2, SNAP-4.1-3, SNAP-11-2, SNAP-17-11, SNAP-17-15
#[test]
fn methods_that_are_declared_only_say_so_in_their_own_family() {
    let view = view(one_vm());
    let check =
        |target: Target, method: &str, expected: Expect| expected.assert_eq(&show(call(&view, target, method, vec![])));
    check(
        snapshot_service(),
        "StartService",
        expect!["1: StartService is not supported by Msvm_VirtualSystemSnapshotService"],
    );
    check(
        snapshot_service(),
        "RequestStateChange",
        expect!["1: RequestStateChange is not supported by Msvm_VirtualSystemSnapshotService"],
    );
    check(
        management_service(),
        "ImportSystemDefinition",
        expect!["32770: ImportSystemDefinition is not supported by Msvm_VirtualSystemManagementService"],
    );
    check(
        management_service(),
        "ModifyFeatureSettings",
        expect!["1: ModifyFeatureSettings is not supported by Msvm_VirtualSystemManagementService"],
    );
    check(
        system(V),
        "InjectNonMaskableInterrupt",
        expect!["32770: InjectNonMaskableInterrupt is not supported by Msvm_ComputerSystem"],
    );
    check(system(V), "SetPowerState", expect!["1: SetPowerState is not supported by Msvm_ComputerSystem"]);
    check(
        system(V),
        "NoSuchMethod",
        expect!["fault WBEM_E_INVALID_METHOD: class Msvm_ComputerSystem has no method NoSuchMethod"],
    );
    check(
        Target::new(VIRTUALIZATION, "Msvm_Nothing"),
        "Run",
        expect!["fault WBEM_E_INVALID_CLASS: there is no class Msvm_Nothing in this namespace"],
    );
    check(
        Target::new(VIRTUALIZATION, "Msvm_ImageManagementService"),
        "GetVirtualDiskChanges",
        expect!["32770: GetVirtualDiskChanges is not supported by Msvm_ImageManagementService"],
    );
}

/// Holds: SNAP-1-1, SNAP-2-7, WIRE-I13-1
#[test]
fn power_states_are_asked_for_by_number() {
    let view = view(one_vm());
    let check = |number: &str, expected: Expect| {
        let arguments = vec![("RequestedState", text(number)), ("TimeoutPeriod", Argument::Null)];
        expected.assert_eq(&show(call(&view, system(V), "RequestStateChange", arguments)));
    };
    for (number, target) in [
        ("2", "Running"),
        ("3", "Off"),
        ("4", "Shutdown"),
        ("6", "Saved"),
        ("9", "Paused"),
        ("10", "Reset"),
        ("11", "Reset"),
        ("32773", "Saved"),
    ] {
        let arguments = vec![("RequestedState", text(number))];
        let shown = show(call(&view, system(V), "RequestStateChange", arguments));
        assert!(shown.ends_with(&format!("target: {target} }}")), "{number}: {shown}");
    }
    check(
        "5",
        expect![
            "32773: RequestedState 5 does not exist: use 2 (start), 3 (turn off), 4 (shut down), 6 (save), 9 (pause), 10 or 11 (reset)"
        ],
    );
    let host = Target::new(VIRTUALIZATION, "Msvm_ComputerSystem").with_key("Name", "HOST");
    expect!["32770: the state of the host cannot be changed: name a virtual machine"].assert_eq(&show(call(
        &view,
        host,
        "RequestStateChange",
        vec![("RequestedState", text("3"))],
    )));
    let shutdown = Target::new(VIRTUALIZATION, "Msvm_ShutdownComponent").with_key("SystemName", V.to_string());
    let arguments = vec![("Force", text("True")), ("Reason", text("because"))];
    expect!["SetPower { vm: VmId(00A0), target: Shutdown }"].assert_eq(&show(call(
        &view,
        shutdown,
        "InitiateShutdown",
        arguments,
    )));
}

/// Holds: SNAP-8.4-4, SNAP-8.4-6
#[test]
fn jobs_end_when_asked_and_explain_themselves() {
    let check = |state: JobState, method: &str, arguments: Vec<(&str, Argument)>, expected: Expect| {
        let mut world = one_vm();
        world.put_job(job(1, JobKind::CreateSnapshot, None, state));
        let target = Target::new(VIRTUALIZATION, "CIM_ConcreteJob").with_key("InstanceID", job_id(1).to_string());
        expected.assert_eq(&show(call(&view(world), target, method, arguments)));
    };
    let request = |number: &str| vec![("RequestedState", text(number))];
    check(
        JobState::Running,
        "RequestStateChange",
        request("4"),
        expect!["CancelJob { job: JobId(7001), kill: false }"],
    );
    check(JobState::Running, "RequestStateChange", request("5"), expect!["CancelJob { job: JobId(7001), kill: true }"]);
    check(
        JobState::Running,
        "RequestStateChange",
        request("3"),
        expect!["1: a job cannot be started, suspended or serviced"],
    );
    check(
        JobState::Running,
        "RequestStateChange",
        request("12"),
        expect!["5: RequestedState must be 4 (terminate) or 5 (kill)"],
    );
    check(JobState::Completed, "RequestStateChange", request("4"), expect!["4097: the job has ended already"]);
    let limited = vec![("RequestedState", text("4")), ("TimeoutPeriod", text("PT5S"))];
    check(
        JobState::Running,
        "RequestStateChange",
        limited,
        expect!["4098: a time limit for the end of a job is not supported"],
    );
    check(JobState::Running, "KillJob", vec![], expect!["1: KillJob is not supported by Msvm_ConcreteJob"]);
    check(JobState::Running, "GetError", vec![], expect!["0 Error=-"]);
    check(JobState::Completed, "GetErrorEx", vec![], expect!["0 Errors=-"]);
}

/// Holds: SNAP-8.4-1, SNAP-8.4-3
#[test]
fn the_error_of_a_job_is_an_instance_in_a_string() {
    let mut world = one_vm();
    let failure = Failure::new(Kind::NoSpace, "the disk is full").hint("make room");
    world.put_job(job(1, JobKind::CreateSnapshot, None, JobState::Failed(failure)));
    let view = view(world);
    let target = Target::new(VIRTUALIZATION, "Msvm_ConcreteJob").with_key("InstanceID", job_id(1).to_string());
    let Ok(Reaction::Done(outcome)) = call(&view, target, "GetError", vec![]) else { panic!("not done") };
    let text = outcome.result.outputs[0].1.as_ref().and_then(Value::as_str).unwrap();
    let error = embedded::parse(text).unwrap().typed(view.namespaces.virtualization()).unwrap();
    let shown = ["Message", "MessageID", "CIMStatusCode", "ErrorType", "ProbableCause", "RecommendedActions"]
        .map(|name| error.get(name).unwrap().to_string());
    expect!["the disk is full: make room | 32768 | 1 | 9 | 50 | make room"].assert_eq(&shown.join(" | "));
}

/// A method without arguments is refused, not supported, or needs none; whatever it is, it is answered.
#[test]
fn every_declared_method_answers() {
    let mut state = with_snapshot();
    state.put_job(job(1, JobKind::ApplySnapshot, Some('A'), JobState::Running));
    let view = view(state);
    let mut answered = 0;
    for row in ask(&view, "SELECT * FROM CIM_ManagedElement").unwrap() {
        for method in row.instance.class().methods() {
            let target = Target::from_path(row.path.clone(), VIRTUALIZATION);
            match call(&view, target, &method.name, vec![]) {
                Ok(Reaction::Done(outcome)) => {
                    let value = outcome.result.return_value;
                    assert_eq!(value == 0, outcome.refusal.is_none(), "{} of {}", method.name, row.path);
                    assert!(value == 0 || value == 1 || value == 5 || value > 32767, "{} {value}", method.name);
                }
                Ok(Reaction::Submit(_)) => {
                    assert!(["InitiateShutdown", "DefineSystem"].contains(&method.name.as_str()), "{}", method.name);
                }
                other => panic!("{} of {}: {other:?}", method.name, row.path),
            }
            answered += 1;
        }
    }
    assert!(answered > 50, "{answered}");
}
