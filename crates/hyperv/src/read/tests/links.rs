//! Which objects are connected: every association with its roles, and what each kind of job is linked to.

use expect_test::{Expect, expect};
use ledger::job::{JobKind, JobState};

use super::names;
use crate::View;
use crate::world::*;

/// Each row of a class: its references as `role=class`, with the snapshot's name or `cur` for settings.
fn links(view: &View, class: &str) -> String {
    let rows = ask(view, &format!("SELECT * FROM {class}")).unwrap();
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let ends = row.instance.properties().filter_map(|(property, value)| {
                let path = value?.as_reference()?;
                let name = match path.class.as_str() {
                    "Msvm_VirtualSystemSettingData" => names(&path.to_string()),
                    class => class.trim_start_matches("Msvm_").to_owned(),
                };
                Some(format!("{}={name}", property.name))
            });
            ends.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.dedup();
    lines.join("\n")
}

/// The rows of a class that are about something. Devices and other services have rows too, and tests of their own.
#[track_caller]
fn check_roles(class: &str, about: &str, expected: Expect) {
    let mut state = one_vm();
    take(&mut state, 'A');
    take(&mut state, 'B');
    state.update_vm(V, |vm| vm.last_applied = Some(snapshot_id('A')));
    state.put_job(job(1, JobKind::DestroySnapshot, Some('A'), JobState::Running));
    let links = links(&view(state), class);
    let links: Vec<&str> = links.lines().filter(|link| link.contains(about)).collect();
    expected.assert_eq(&links.join("\n"));
}

#[test]
fn associations_of_snapshots_have_their_roles() {
    let check = check_roles;
    // Holds: SNAP-7.1-1
    check(
        "Msvm_SnapshotOfVirtualSystem",
        "",
        expect![[r#"
        Antecedent=ComputerSystem Dependent=A
        Antecedent=ComputerSystem Dependent=B"#]],
    );
    // Holds: SNAP-7.1-2
    check("Msvm_MostCurrentSnapshotInBranch", "", expect!["Antecedent=ComputerSystem Dependent=B"]);
    // Holds: SNAP-7.1-3, SNAP-17-6
    check("Msvm_LastAppliedSnapshot", "", expect!["Antecedent=A Dependent=ComputerSystem"]);
    // Holds: SNAP-7.1-5
    check(
        "Msvm_ElementSettingData",
        "=ComputerSystem",
        expect![[r#"
        ManagedElement=ComputerSystem SettingData=A
        ManagedElement=ComputerSystem SettingData=B"#]],
    );
    // Holds: SNAP-7.1-11
    check(
        "Msvm_SystemExportSettingData",
        "",
        expect!["ManagedElement=ComputerSystem SettingData=VirtualSystemExportSettingData"],
    );
    // Holds: SNAP-10-7
    check(
        "Msvm_ComputerSystemSummaryInformation",
        "",
        expect!["Antecedent=ComputerSystem Dependent=SummaryInformation"],
    );
    // Holds: SNAP-7.1-7
    check(
        "Msvm_ParentChildSettingData",
        "",
        expect![[r#"
        Antecedent=A Dependent=B
        Antecedent=B Dependent=cur"#]],
    );
}

#[test]
fn associations_of_jobs_and_services_have_their_roles() {
    let check = check_roles;
    // Holds: SNAP-7.1-8
    check(
        "Msvm_AffectedJobElement",
        "",
        expect![[r#"
        AffectedElement=ComputerSystem AffectingElement=ConcreteJob
        AffectedElement=A AffectingElement=ConcreteJob"#]],
    );
    // Holds: SNAP-7.1-9
    check("Msvm_OwningJobElement", "", expect!["OwningElement=VirtualSystemSnapshotService OwnedElement=ConcreteJob"]);
    // Holds: SNAP-7.1-10
    check(
        "Msvm_ServiceAffectsElement",
        "=ComputerSystem",
        expect![[r#"
        AffectedElement=ComputerSystem AffectingElement=VirtualSystemManagementService
        AffectedElement=ComputerSystem AffectingElement=VirtualSystemSnapshotService"#]],
    );
    // Holds: SNAP-7.1-13
    check(
        "Msvm_HostedService",
        "VirtualSystemSnapshotService",
        expect!["Antecedent=ComputerSystem Dependent=VirtualSystemSnapshotService"],
    );
    check("Msvm_HostedDependency", "", expect!["Antecedent=ComputerSystem Dependent=ComputerSystem"]);
}

#[test]
fn associations_say_of_what_kind_the_connection_is() {
    let view = view(with_snapshot());
    let check = |class: &str, property: &str, expected: &str| {
        let values = column(&view, &format!("SELECT * FROM {class}"), property);
        assert!(!values.is_empty() && values.lines().all(|value| value == expected), "{class}.{property}: {values}");
    };
    // Holds: SNAP-7.1-5
    for property in ["IsDefault", "IsCurrent", "IsNext"] {
        check("Msvm_ElementSettingData", property, "0");
    }
    // Holds: SNAP-7.1-11
    for (property, expected) in [("IsDefault", "1"), ("IsCurrent", "1"), ("IsNext", "0")] {
        check("Msvm_SystemExportSettingData", property, expected);
    }
    // Holds: SNAP-7.1-10
    check("Msvm_ServiceAffectsElement", "ElementEffects", "5");
}

/// Holds: SNAP-7.2-3
#[test]
fn a_side_of_an_association_is_found_however_its_path_is_written() {
    let view = view(with_snapshot());
    let check = |path: &str, expected: Expect| {
        let path = path.replace("GUID", &V.to_string().to_lowercase()).replace('\\', "\\\\");
        let query = format!("SELECT * FROM Msvm_SnapshotOfVirtualSystem WHERE Antecedent = '{path}'");
        expected.assert_eq(&names(&column(&view, &query, "Dependent")));
    };
    check(
        r#"\\HOST\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="GUID""#,
        expect!["A"],
    );
    check(
        r#"\\.\ROOT\Virtualization\V2:msvm_computersystem.name="GUID",creationclassname="MSVM_computersystem""#,
        expect!["A"],
    );
    check(r#"Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="GUID""#, expect!["A"]);
    check(r#"Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="nobody""#, expect![""]);
}

/// The number of each kind of job, what it is linked to with which effect, and which service owns it. The one that defines a
/// machine has made it, the one that takes a snapshot has made that.
///
/// Holds: SNAP-4.1-7, SNAP-7.1-9, SNAP-8.2-2, SNAP-8.3-1, SNAP-8.3-2, SNAP-8.3-3, SNAP-17-1
#[test]
fn each_kind_of_job_is_linked_to_what_it_works_on() {
    use JobKind::*;
    let kinds = [
        Define,
        Modify,
        DestroyVm,
        Start,
        TurnOff,
        Save,
        Restore,
        Shutdown,
        Pause,
        Resume,
        Reset,
        Merge,
        CreateSnapshot,
        ApplySnapshot,
        DestroySnapshot,
        ClearSnapshotState,
    ];
    let show = |kind: JobKind| {
        let about =
            matches!(kind, CreateSnapshot | ApplySnapshot | DestroySnapshot | ClearSnapshotState).then_some('B');
        let mut state = one_vm();
        take(&mut state, 'A');
        take(&mut state, 'B');
        state.put_job(job(1, kind, about, JobState::Completed));
        let view = view(state);
        let number = column(&view, "SELECT * FROM Msvm_ConcreteJob", "JobType");
        let effects = column(&view, "SELECT * FROM Msvm_AffectedJobElement", "ElementEffects").replace('\n', ",");
        let owner = links(&view, "Msvm_OwningJobElement");
        let owner =
            owner.trim_start_matches("OwningElement=VirtualSystem").trim_end_matches(" OwnedElement=ConcreteJob");
        let affected = links(&view, "Msvm_AffectedJobElement").replace("AffectedElement=", "");
        let affected = affected.replace(" AffectingElement=ConcreteJob", "").replace('\n', ",");
        format!("{number} {kind:?}: {affected} {effects} {owner}\n")
    };
    expect![[r#"
        1 Define: ComputerSystem 5 ManagementService
        2 Modify: ComputerSystem 2 ManagementService
        3 DestroyVm: ComputerSystem 2 ManagementService
        12 Start: ComputerSystem 2 ManagementService
        13 TurnOff: ComputerSystem 2 ManagementService
        14 Save: ComputerSystem 2 ManagementService
        15 Restore: ComputerSystem 2 ManagementService
        16 Shutdown: ComputerSystem 2 ManagementService
        26 Pause: ComputerSystem 2 ManagementService
        27 Resume: ComputerSystem 2 ManagementService
        28 Reset: ComputerSystem 2 ManagementService
        50 Merge: ComputerSystem 2 ManagementService
        70 CreateSnapshot: ComputerSystem,B 2,5 SnapshotService
        71 ApplySnapshot: ComputerSystem,B 2,2 SnapshotService
        72 DestroySnapshot: ComputerSystem,B 2,2 SnapshotService
        73 ClearSnapshotState: ComputerSystem,B 2,2 SnapshotService
    "#]]
    .assert_eq(&kinds.into_iter().map(show).collect::<String>());
}

/// Holds: SNAP-8.3-3
#[test]
fn a_job_whose_snapshot_is_gone_is_linked_to_the_machine_alone() {
    let mut state = one_vm();
    state.put_job(job(1, JobKind::DestroySnapshot, Some('A'), JobState::Completed));
    expect!["AffectedElement=ComputerSystem AffectingElement=ConcreteJob"]
        .assert_eq(&links(&view(state), "Msvm_AffectedJobElement"));
}

/// One walk of each kind that a client in the field makes.
///
/// Holds: WIRE-G8-1, WIRE-G7-1, WIRE-G7-3
#[test]
fn clients_walk_from_object_to_object() {
    let mut state = one_vm();
    take(&mut state, 'A');
    take(&mut state, 'B');
    state.update_vm(V, |vm| vm.last_applied = Some(snapshot_id('A')));
    state.put_job(job(1, JobKind::CreateSnapshot, Some('B'), JobState::Completed));
    let view = view(state);
    let system = format!("Msvm_ComputerSystem.CreationClassName=\"Msvm_ComputerSystem\",Name=\"{V}\"");
    let settings = format!("Msvm_VirtualSystemSettingData.InstanceID='Microsoft:{V}'");
    let job = of("Msvm_ConcreteJob", "InstanceID", job_id(1));
    let check = |source: &str, filter: &str, expected: Expect| {
        let rows = ask(&view, &format!("ASSOCIATORS OF {{{source}}} WHERE {filter}")).unwrap();
        let name = |path: &cim::ObjectPath| match path.class.as_str() {
            "Msvm_VirtualSystemSettingData" => names(&path.to_string()),
            class => class.to_owned(),
        };
        expected.assert_eq(&rows.iter().map(|row| name(&row.path)).collect::<Vec<_>>().join(" "));
    };
    let vssd = "ResultClass = Msvm_VirtualSystemSettingData";
    check(&system, &format!("AssocClass = Msvm_SettingsDefineState {vssd}"), expect!["cur"]);
    check(
        &settings,
        "AssocClass = Msvm_VirtualSystemSettingDataComponent ResultClass=Msvm_MemorySettingData",
        expect!["Msvm_MemorySettingData"],
    );
    check(&system, "ResultClass = Msvm_Keyboard", expect!["Msvm_Keyboard"]);
    check(
        &system,
        "AssocClass=Msvm_SystemDevice ResultClass=CIM_DisplayController",
        expect!["Msvm_SyntheticDisplayController"],
    );
    check("Msvm_VideoHead", "AssocClass=Msvm_VideoHeadOnController", expect!["Msvm_SyntheticDisplayController"]);
    check(&system, "AssocClass=Msvm_SnapshotOfVirtualSystem ResultRole=Dependent Role=Antecedent", expect!["A B"]);
    check(&system, &format!("AssocClass=Msvm_MostCurrentSnapshotInBranch {vssd}"), expect!["B"]);
    check(&system, &format!("AssocClass=Msvm_LastAppliedSnapshot {vssd}"), expect!["A"]);
    check(&job, &format!("AssocClass=Msvm_AffectedJobElement {vssd}"), expect!["B"]);
    check(&system, "AssocClass=Msvm_AffectedJobElement ResultClass=CIM_ConcreteJob", expect!["Msvm_ConcreteJob"]);
    check(
        &system,
        "AssocClass=Msvm_ServiceAffectsElement ResultClass=CIM_VirtualSystemSnapshotService",
        expect!["Msvm_VirtualSystemSnapshotService"],
    );
}
