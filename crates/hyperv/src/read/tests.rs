//! Reads, against states made by hand. Numbers in names of tests are those of the list of things that are easily got
//! wrong in the behaviour this crate reproduces.

mod libvirt;
mod links;
mod properties;

use expect_test::{Expect, expect};
use ledger::job::{JobKind, JobState};
use ledger::snapshot::Purpose;
use ledger::state::State;
use ledger::vm::Power;

use crate::assoc;
use crate::object::{Object, Owner};
use crate::world::*;

/// Names of the snapshots, or `cur`, in a column of paths.
fn names(paths: &str) -> String {
    let name = |path: &str| match path {
        "-" => "-".to_owned(),
        path if path.contains("000000A0") || path.contains("0000000000A0") => "cur".to_owned(),
        path => ('A'..='Z')
            .find(|name| path.contains(&snapshot_id(*name).to_string()))
            .map_or_else(|| path.to_owned(), String::from),
    };
    paths.lines().map(name).collect::<Vec<_>>().join(",")
}

/// Everything a client can see of the tree: Parent of each, MostCurrent, LastApplied, both from the associations too.
fn tree(state: &State) -> String {
    let view = view(state.clone());
    let settings = ask(&view, "SELECT * FROM Msvm_VirtualSystemSettingData").unwrap();
    let mut parents: Vec<String> = settings
        .iter()
        .map(|row| {
            let own = names(row.instance.text("InstanceID").unwrap());
            format!("{own}:{}", names(row.instance.text("Parent").unwrap_or("-")))
        })
        .collect();
    parents.sort();
    let by = |query: &str, property: &str| names(&column(&view, query, property));
    let current = by("SELECT * FROM Msvm_MostCurrentSnapshotInBranch", "Dependent");
    let applied = by("SELECT * FROM Msvm_LastAppliedSnapshot", "Antecedent");
    let system = of("Msvm_ComputerSystem", "Name", V);
    let through = format!("ASSOCIATORS OF {{{system}}} WHERE AssocClass = Msvm_LastAppliedSnapshot");
    assert_eq!(by(&through, "InstanceID"), applied, "both directions agree");
    let kind =
        names(&column(&view, "SELECT * FROM Msvm_ComputerSystem WHERE Caption='Virtual Machine'", "EnabledState"));
    format!("{} | current {current} | applied {applied} | state {kind}", parents.join(" "))
}

/// Holds: SNAP-4.2-10, SNAP-4.2-14, SNAP-4.3-6, SNAP-6-6, SNAP-7.1-2, SNAP-7.3-1, SNAP-7.3-2, SNAP-7.3-3,
/// SNAP-17-7, SNAP-17-8, SNAP-17-9
#[test]
fn t5_to_t10_the_tree_through_create_apply_and_destroy() {
    let mut state = one_vm();
    let check = |state: &State, expected: Expect| {
        assert_eq!(state.check(), Vec::<String>::new());
        expected.assert_eq(&tree(state));
    };
    check(&state, expect!["cur:- | current  | applied  | state 3"]);
    take(&mut state, 'A');
    check(&state, expect!["A:- cur:A | current A | applied  | state 3"]);
    take(&mut state, 'B');
    check(&state, expect!["A:- B:A cur:B | current B | applied  | state 3"]);
    state.update_vm(V, |vm| {
        vm.parent = Some(snapshot_id('A'));
        vm.last_applied = Some(snapshot_id('A'));
    });
    check(&state, expect!["A:- B:A cur:A | current A | applied A | state 3"]);
    take(&mut state, 'C');
    check(&state, expect!["A:- B:A C:A cur:C | current C | applied A | state 3"]);
    for child in ['B', 'C'] {
        state.update_snapshot(snapshot_id(child), |snapshot| snapshot.parent = None);
    }
    state.update_vm(V, |vm| vm.last_applied = None);
    state.remove_snapshot(snapshot_id('A'));
    check(&state, expect!["B:- C:- cur:C | current C | applied  | state 3"]);
    state.update_vm(V, |vm| vm.parent = None);
    state.remove_snapshot(snapshot_id('C'));
    check(&state, expect!["B:- cur:- | current  | applied  | state 3"]);
}

/// Holds: SNAP-4.2-13, SNAP-7.1-8, SNAP-8.3-1, SNAP-8.3-4, SNAP-17-1
#[test]
fn t1_a_create_job_leads_to_one_setting_data() {
    let mut state = one_vm();
    take(&mut state, 'A');
    take(&mut state, 'B');
    state.put_job(job(1, JobKind::CreateSnapshot, Some('B'), JobState::Completed));
    let view = view(state);
    let job = of("Msvm_ConcreteJob", "InstanceID", job_id(1));
    let check =
        |query: String, property: &str, expected: Expect| expected.assert_eq(&names(&column(&view, &query, property)));
    let associators = format!("ASSOCIATORS OF {{{job}}} WHERE ResultClass = Msvm_VirtualSystemSettingData");
    check(associators, "InstanceID", expect!["B"]);
    let links = format!("REFERENCES OF {{{job}}} WHERE ResultClass = Msvm_AffectedJobElement");
    expect![[r#"
        2
        5"#]]
    .assert_eq(&column(&view, &links, "ElementEffects"));
    let system = of("Msvm_ComputerSystem", "Name", V);
    let jobs = format!(
        "ASSOCIATORS OF {{{system}}} WHERE ResultClass = Msvm_ConcreteJob AssocClass = Msvm_AffectedJobElement"
    );
    assert_eq!(column(&view, &jobs, "InstanceID"), job_id(1).to_string());
}

/// Holds: SNAP-4.2-15, SNAP-17-1
#[test]
fn t1_before_the_snapshot_exists_the_job_leads_to_none() {
    let mut state = one_vm();
    state.put_job(job(1, JobKind::CreateSnapshot, Some('A'), JobState::Running));
    let job = of("Msvm_ConcreteJob", "InstanceID", job_id(1));
    let query = format!("ASSOCIATORS OF {{{job}}} WHERE ResultClass = Msvm_VirtualSystemSettingData");
    assert_eq!(column(&view(state), &query, "InstanceID"), "");
}

/// Holds: SNAP-4.1-5, SNAP-8.1-1, SNAP-8.2-3, SNAP-8.2-4, SNAP-8.2-5, SNAP-16-1, SNAP-17-2, WIRE-I10-2
#[test]
fn t2_jobs_are_running_until_they_end_and_always_say_what_they_do() {
    fn check(state: JobState, expected: Expect) {
        let mut world = one_vm();
        world.put_job(job(1, JobKind::CreateSnapshot, None, state));
        let rows =
            ask(&view(world), &format!("SELECT * FROM Msvm_ConcreteJob WHERE InstanceID = '{}'", job_id(1))).unwrap();
        let job = &rows[0].instance;
        let shown = ["JobState", "JobType", "PercentComplete", "Caption", "JobStatus", "ErrorCode", "ErrorDescription"]
            .map(|name| job.get(name).map_or("-".to_owned(), ToString::to_string));
        let times = ["ElapsedTime", "TimeBeforeRemoval"].map(|name| job.get(name).unwrap().to_string());
        expected.assert_eq(&format!(
            "{}\n{} {}",
            shown.join(" | "),
            times.join(" "),
            job.get("OperationalStatus").unwrap()
        ));
    }
    check(
        JobState::Running,
        expect![[r#"
        4 | 70 | 40 | Taking Snapshot | writing memory | 0 | -
        00000000000005.000000:000 00000000000500.000000:000 2"#]],
    );
    check(
        JobState::Completed,
        expect![[r#"
        7 | 70 | 100 | Taking Snapshot | Completed | 0 | -
        00000000000004.000000:000 00000000000500.000000:000 2"#]],
    );
    let failure = ledger::failure::Failure::new(ledger::failure::Kind::NoSpace, "the disk is full").hint("make room");
    check(
        JobState::Failed(failure),
        expect![[r#"
        10 | 70 | 40 | Taking Snapshot | Failed: the disk is full | 32768 | the disk is full: make room
        00000000000004.000000:000 00000000000500.000000:000 6"#]],
    );
    check(
        JobState::Terminated,
        expect![[r#"
        8 | 70 | 40 | Taking Snapshot | Terminated | 0 | -
        00000000000004.000000:000 00000000000500.000000:000 2"#]],
    );
    check(
        JobState::Killed,
        expect![[r#"
        9 | 70 | 40 | Taking Snapshot | Killed | 0 | -
        00000000000004.000000:000 00000000000500.000000:000 2"#]],
    );
}

/// Holds: SNAP-7.1-3, SNAP-17-6
#[test]
fn t6_the_roles_of_last_applied_are_the_other_way_round() {
    let mut state = one_vm();
    take(&mut state, 'A');
    state.update_vm(V, |vm| vm.last_applied = Some(snapshot_id('A')));
    let view = view(state);
    let class = |query: &str, property: &str| {
        let rows = ask(&view, query).unwrap();
        rows[0].instance.get(property).unwrap().as_reference().unwrap().class.clone()
    };
    let shown = ["Msvm_LastAppliedSnapshot", "Msvm_MostCurrentSnapshotInBranch", "Msvm_SnapshotOfVirtualSystem"]
        .map(|name| format!("SELECT * FROM {name}"))
        .map(|query| format!("{} {}", class(&query, "Antecedent"), class(&query, "Dependent")));
    expect![[r#"
        Msvm_VirtualSystemSettingData Msvm_ComputerSystem
        Msvm_ComputerSystem Msvm_VirtualSystemSettingData
        Msvm_ComputerSystem Msvm_VirtualSystemSettingData"#]]
    .assert_eq(&shown.join("\n"));
}

/// Holds: SNAP-5-4, SNAP-7.1-1, SNAP-17-13
#[test]
fn t13_recovery_snapshots_are_shown_as_what_they_are() {
    let mut state = one_vm();
    take(&mut state, 'A');
    state.update_snapshot(snapshot_id('A'), |snapshot| snapshot.purpose = Purpose::Recovery);
    let view = view(state);
    assert_eq!(names(&column(&view, "SELECT * FROM Msvm_SnapshotOfVirtualSystem", "Dependent")), "A");
    let query =
        "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType LIKE 'Microsoft:Hyper-V:Snapshot%'";
    assert_eq!(column(&view, query, "VirtualSystemType"), "Microsoft:Hyper-V:Snapshot:Recovery");
}

/// Holds: SNAP-1-4, SNAP-1-6, SNAP-4.2-9, SNAP-7.1-6, SNAP-17-14, WIRE-I11-2
#[test]
fn t14_snapshots_have_resources_of_their_own_with_their_own_prefix() {
    let mut state = one_vm();
    take(&mut state, 'A');
    let view = view(state);
    let check = |query: String, property: &str, expected: Expect| expected.assert_eq(&column(&view, &query, property));
    let live = format!("SELECT * FROM CIM_ResourceAllocationSettingData WHERE InstanceID LIKE 'Microsoft:{V}%'");
    let live_ids = column(&view, &live, "InstanceID");
    let parts = |guid| {
        format!(
            "ASSOCIATORS OF {{{}}} WHERE ResultClass = CIM_ResourceAllocationSettingData",
            of("Msvm_VirtualSystemSettingData", "InstanceID", format!("Microsoft:{guid}"))
        )
    };
    assert_eq!(column(&view, &parts(V.to_string()), "InstanceID").lines().count(), live_ids.lines().count());
    let frozen_ids = column(&view, &parts(snapshot_id('A').to_string()), "InstanceID");
    assert_eq!(frozen_ids.lines().count(), live_ids.lines().count());
    assert!(live_ids.lines().all(|id| !frozen_ids.contains(id)), "{live_ids}\n{frozen_ids}");
    check(
        live,
        "ElementName",
        expect![[r#"
        Processor
        Memory
        IDE Controller 0
        Hard Drive
        Hard Drive
        Hard Disk Image
        net
        Dynamic Ethernet Switch Port
        COM 1
        COM 2"#]],
    );
    let disks = "SELECT * FROM Msvm_StorageAllocationSettingData WHERE ResourceType = 31".to_owned();
    check(
        disks,
        "HostResource",
        expect![[r#"
            /disks/1.qcow2
            /disks/0.qcow2
            -
            -
            -
            -"#]],
    );
}

/// Holds: SNAP-7.2-2, WIRE-E3-2, WIRE-J1-1
#[test]
fn every_instance_is_complete_and_found_by_its_own_path() {
    let mut state = one_vm();
    take(&mut state, 'A');
    state.update_vm(V, |vm| vm.last_applied = Some(snapshot_id('A')));
    state.put_job(job(1, JobKind::ApplySnapshot, Some('A'), JobState::Running));
    let view = view(state);
    let roots =
        ["CIM_ManagedElement", "CIM_Dependency", "CIM_ElementSettingData", "CIM_Component", "CIM_AffectedJobElement"];
    let mut seen = 0;
    for root in roots {
        for row in ask(&view, &format!("SELECT * FROM {root}")).unwrap() {
            seen += 1;
            let target = cim::op::Target::from_path(row.path.clone(), "");
            assert_eq!(super::get(&view, &target).unwrap(), row, "{}", row.path);
            let text = cim::ObjectPath::parse(&row.path.to_string()).unwrap();
            assert!(text.same_object(&row.path), "{}", row.path);
            let nulls = row.instance.properties().filter(|(property, value)| {
                value.is_none() && property.data_type.cim_type == cim::CimType::Boolean && !property.data_type.is_array
            });
            assert_eq!(nulls.count(), 0, "a NULL boolean in {}", row.path);
        }
    }
    assert!(seen > 50, "{seen}");
}

/// Holds: SNAP-7.1-14, SNAP-7.2-2
#[test]
fn associations_agree_in_both_directions() {
    let mut state = one_vm();
    take(&mut state, 'A');
    take(&mut state, 'B');
    state.update_vm(V, |vm| vm.last_applied = Some(snapshot_id('A')));
    state.put_job(job(1, JobKind::DestroySnapshot, Some('A'), JobState::Running));
    state.put_job(job(2, JobKind::Start, None, JobState::Completed));
    let view = view(state.clone());
    for association in &assoc::ASSOCIATIONS {
        let class = association.class;
        let rows = ask(&view, &format!("SELECT * FROM {class}")).unwrap();
        assert!(!rows.is_empty(), "{class}");
        for row in rows {
            for (role, other) in [(association.left, association.right), (association.right, association.left)] {
                let end = row.instance.get(role).unwrap();
                let query = format!("REFERENCES OF {{{}}} WHERE ResultClass = {class} Role = {role}", end);
                let links = ask(&view, &query).unwrap();
                assert!(links.contains(&row), "{} is not seen from its {role}", row.path);
                let selected = ask(
                    &view,
                    &format!("SELECT * FROM {class} WHERE {role} = '{}'", end.to_string().replace('\\', "\\\\")),
                );
                assert_eq!(selected.unwrap(), links, "{class} by {role}");
                assert_ne!(row.instance.get(other), Some(end));
            }
        }
    }
}

/// Holds: SNAP-7.1-1, SNAP-7.1-4, SNAP-7.2-1, WIRE-G7-3, WIRE-G8-2
#[test]
fn the_current_settings_come_first_and_alone_where_it_matters() {
    let mut state = one_vm();
    take(&mut state, 'A');
    let view = view(state);
    let system = of("Msvm_ComputerSystem", "Name", V);
    let check = |filter: &str, expected: Expect| {
        let query = format!("ASSOCIATORS OF {{{system}}} WHERE {filter}");
        expected.assert_eq(&names(&column(&view, &query, "InstanceID")));
    };
    check("ResultClass = Msvm_VirtualSystemSettingData", expect!["cur,A"]);
    check("AssocClass = Msvm_SettingsDefineState ResultClass = Msvm_VirtualSystemSettingData", expect!["cur"]);
    check("AssocClass = Msvm_SnapshotOfVirtualSystem", expect!["A"]);
    check(
        "AssocClass = CIM_ElementSettingData ResultRole = SettingData ResultClass = CIM_VirtualSystemSettingData",
        expect!["A"],
    );
    check("ResultClass = Msvm_Keyboard", expect!["-"]);
}

/// Holds: SNAP-1-3, WIRE-D4-1, WIRE-D4-2
#[test]
fn incomplete_keys_do_if_they_name_one() {
    let view = view(one_vm());
    let check = |class: &str, keys: &[(&str, &str)], expected: Expect| {
        let mut target = cim::op::Target::new("ROOT/Virtualization/V2", class);
        for (name, value) in keys {
            target = target.with_key(*name, *value);
        }
        let shown = match super::get(&view, &target) {
            Ok(row) => row.path.to_string(),
            Err(error) => format!("{}: {error}", error.status),
        };
        expected.assert_eq(&shown);
    };
    check(
        "msvm_virtualsystemsnapshotservice",
        &[],
        expect![[
            r#"\\HOST\root\virtualization\v2:Msvm_VirtualSystemSnapshotService.CreationClassName="Msvm_VirtualSystemSnapshotService",Name="vssnapsvc",SystemCreationClassName="Msvm_ComputerSystem",SystemName="HOST""#
        ]],
    );
    check(
        "CIM_ComputerSystem",
        &[("name", "00000000-0000-0000-0000-0000000000a0")],
        expect![[
            r#"\\HOST\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="00000000-0000-0000-0000-0000000000A0""#
        ]],
    );
    check(
        "Msvm_ComputerSystem",
        &[("Name", "host")],
        expect![[
            r#"\\HOST\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="HOST""#
        ]],
    );
    check(
        "Msvm_ComputerSystem",
        &[],
        expect![[
            r#"WBEM_E_INVALID_PARAMETER: several instances match ROOT\Virtualization\V2:Msvm_ComputerSystem: give Name, CreationClassName"#
        ]],
    );
    check(
        "Msvm_ComputerSystem",
        &[("Name", "nobody")],
        expect![[r#"WBEM_E_NOT_FOUND: Msvm_ComputerSystem.Name="nobody" does not exist"#]],
    );
    check(
        "Msvm_ComputerSystem",
        &[("Nme", "x")],
        expect!["WBEM_E_INVALID_PARAMETER: class Msvm_ComputerSystem has no key Nme"],
    );
    check(
        "Msvm_Keyboard",
        &[],
        expect![[
            r#"\\HOST\root\virtualization\v2:Msvm_Keyboard.CreationClassName="Msvm_Keyboard",DeviceID="Microsoft:00000000-0000-0000-0000-0000000000A0\\f912ad6d-2b17-48ea-bd65-f927a61c7684",SystemCreationClassName="Msvm_ComputerSystem",SystemName="00000000-0000-0000-0000-0000000000A0""#
        ]],
    );
    check("Msvm_Nothing", &[], expect!["WBEM_E_INVALID_CLASS: there is no class Msvm_Nothing in this namespace"]);
}

/// Holds: SNAP-1-1, SNAP-1-7, SNAP-3-3, WIRE-G1-2, WIRE-G4-1, WIRE-G5-2, WIRE-G7-4
#[test]
fn queries_of_the_field_find_what_they_ask_for() {
    let mut state = one_vm();
    take(&mut state, 'A');
    state.update_vm(V, |vm| vm.power = Power::Running);
    let view = view(state);
    let check = |query: &str, property: &str, expected: Expect| expected.assert_eq(&column(&view, query, property));
    check("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER", "ElementName", expect!["web"]);
    check(
        "select * from Msvm_ComputerSystem where EnabledState=2 AND Caption LIKE 'Virtual%'",
        "ElementName",
        expect!["web"],
    );
    check(
        "SELECT * FROM CIM_VirtualSystemSnapshotService WHERE __CLASS = 'Msvm_VirtualSystemSnapshotService'",
        "Name",
        expect!["vssnapsvc"],
    );
    let by_system = format!(
        "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemIdentifier = '{V}' AND VirtualSystemType = 'Microsoft:Hyper-V:Snapshot:Realized'"
    );
    check(&by_system, "ElementName", expect!["A"]);
    let parent = ask(&view, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE Parent IS NOT NULL").unwrap()[0]
        .instance
        .text("Parent")
        .unwrap()
        .replace('\\', "\\\\")
        .replace('"', "\\\"");
    check(
        &format!("SELECT * FROM Msvm_VirtualSystemSettingData WHERE __PATH = \"{parent}\""),
        "ElementName",
        expect!["A"],
    );
    check("SELECT * FROM Msvm_Keyboard", "Name", expect!["Keyboard"]);
    check("SELECT * FROM Msvm_VirtualEthernetSwitch WHERE ElementName = 'User'", "ElementName", expect!["user"]);
    check("SELECT * FROM Msvm_VirtualEthernetSwitch WHERE Name = 'tap9'", "ElementName", expect![""]);
    check(
        "SELECT * FROM Msvm_Nothing",
        "Name",
        expect!["WBEM_E_INVALID_CLASS: there is no class Msvm_Nothing in this namespace"],
    );
    check("SELECT * FROM Msvm_ConcreteJob WHERE InstanceID = 'none'", "InstanceID", expect![""]);
    check(
        "ASSOCIATORS OF {Msvm_ComputerSystem.Name='nobody'}",
        "Name",
        expect![[r#"WBEM_E_NOT_FOUND: Msvm_ComputerSystem.Name="nobody" does not exist"#]],
    );
}

/// Holds: SNAP-2-2, SNAP-2-12, SNAP-2-13
#[test]
fn busy_machines_say_with_what() {
    fn check(kind: JobKind, expected: Expect) {
        let mut state = one_vm();
        state.put_job(job(1, kind, None, JobState::Running));
        let rows = ask(&view(state), &format!("SELECT * FROM Msvm_ComputerSystem WHERE Name = '{V}'")).unwrap();
        let shown = ["EnabledState", "RequestedState", "OperationalStatus", "StatusDescriptions"]
            .map(|name| rows[0].instance.get(name).unwrap().to_string());
        expected.assert_eq(&shown.join(" | "));
    }
    check(JobKind::CreateSnapshot, expect!["3 | 12 | 11, 32768 | In service, Creating snapshot"]);
    check(JobKind::ApplySnapshot, expect!["3 | 12 | 11, 32769 | In service, Applying snapshot"]);
    check(JobKind::DestroySnapshot, expect!["3 | 12 | 11, 32770 | In service, Deleting snapshot"]);
    check(JobKind::Merge, expect!["3 | 12 | 11, 32772 | In service, Merging disks"]);
    check(JobKind::Start, expect!["3 | 2 | 11 | In service"]);
    check(JobKind::Save, expect!["3 | 6 | 11 | In service"]);
}

#[test]
fn ids_lead_back_to_their_objects() {
    let mut state = one_vm();
    take(&mut state, 'A');
    for owner in [Owner::Vm(V), Owner::Snapshot(snapshot_id('A'))] {
        for object in assoc::resources(&state, owner).into_iter().chain([Object::Settings(owner)]) {
            let id = object.id("HOST");
            assert_eq!(Object::by_instance_id(&state, &id.to_lowercase()), Some(object), "{id}");
        }
    }
    assert_eq!(Object::by_instance_id(&state, "Microsoft:"), None);
    assert_eq!(Object::by_instance_id(&state, "Mïcrosoft:x"), None);
}
