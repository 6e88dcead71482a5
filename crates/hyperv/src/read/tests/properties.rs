//! What the properties of machines, settings, services and jobs say, one table each.

use expect_test::{Expect, expect};
use ledger::failure::{Failure, Kind};
use ledger::job::{JobKind, JobState, Stage};
use ledger::snapshot::Purpose;
use ledger::state::Timestamp;
use ledger::vm::{Firmware, Power, SnapshotKind};

use crate::world::*;

/// The first row of a query, as `name: value` lines of these properties.
fn table(view: &crate::View, query: &str, properties: &[&str]) -> String {
    let rows = ask(view, query).unwrap();
    let instance = &rows[0].instance;
    let line = |name: &&str| format!("{name}: {}\n", instance.get(name).map_or("-".to_owned(), ToString::to_string));
    properties.iter().map(line).collect()
}

/// Holds: SNAP-3-1
#[test]
fn the_snapshot_service_runs_all_the_time() {
    expect![[r#"
        Name: vssnapsvc
        SystemCreationClassName: Msvm_ComputerSystem
        SystemName: HOST
        EnabledState: 2
        RequestedState: 12
        EnabledDefault: 2
        Started: true
        OperationalStatus: 2
        HealthState: 5
        TransitioningToState: 12
    "#]]
    .assert_eq(&table(
        &view(one_vm()),
        "SELECT * FROM Msvm_VirtualSystemSnapshotService",
        &[
            "Name",
            "SystemCreationClassName",
            "SystemName",
            "EnabledState",
            "RequestedState",
            "EnabledDefault",
            "Started",
            "OperationalStatus",
            "HealthState",
            "TransitioningToState",
        ],
    ));
}

/// Holds: SNAP-2-1, SNAP-16-1, WIRE-I13-1
#[test]
fn each_power_state_has_its_number() {
    let states =
        [Power::Off, Power::Starting, Power::Running, Power::Paused, Power::Saving, Power::Saved, Power::Stopping];
    let shown = states.map(|power| {
        let mut state = one_vm();
        state.update_vm(V, |vm| vm.power = power);
        let query = "SELECT * FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'";
        format!("{power:?} {}", column(&view(state), query, "EnabledState"))
    });
    expect!["Off 3, Starting 10, Running 2, Paused 9, Saving 32773, Saved 6, Stopping 4"].assert_eq(&shown.join(", "));
}

/// Holds: SNAP-2-15
#[test]
fn a_running_machine_stays_enabled_while_its_snapshot_is_taken() {
    let mut state = one_vm();
    state.update_vm(V, |vm| vm.power = Power::Running);
    state.put_job(job(1, JobKind::CreateSnapshot, None, JobState::Running));
    let query = "SELECT * FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'";
    expect![[r#"
        EnabledState: 2
        RequestedState: 12
        OperationalStatus: 11, 32768
    "#]]
    .assert_eq(&table(&view(state), query, &["EnabledState", "RequestedState", "OperationalStatus"]));
}

/// Holds: SNAP-2-14
#[test]
fn a_machine_says_when_it_changed() {
    let mut state = one_vm();
    state.update_vm(V, |vm| {
        vm.power_changed = Timestamp(NOW.0 - 60_000_000);
        vm.configuration_changed = Timestamp(NOW.0 - 30_000_000);
    });
    let query = "SELECT * FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'";
    expect![[r#"
        InstallDate: 20260101030405.000000+000
        TimeOfLastStateChange: 20260102030305.000000+000
        TimeOfLastConfigurationChange: 20260102030335.000000+000
    "#]]
    .assert_eq(&table(&view(state), query, &["InstallDate", "TimeOfLastStateChange", "TimeOfLastConfigurationChange"]));
}

const SETTINGS: [&str; 18] = [
    "InstanceID",
    "ElementName",
    "Caption",
    "Description",
    "VirtualSystemIdentifier",
    "VirtualSystemType",
    "VirtualSystemSubType",
    "ConfigurationID",
    "ConfigurationDataRoot",
    "SnapshotDataRoot",
    "CreationTime",
    "Parent",
    "IsSaved",
    "IsAutomaticSnapshot",
    "AutomaticSnapshotsEnabled",
    "UserSnapshotType",
    "Notes",
    "AutomaticRecoveryAction",
];

/// The machine is renamed, annotated and set to another kind after its snapshot was taken while it ran.
///
/// Holds: SNAP-1-5, SNAP-1-7, SNAP-5-1, SNAP-5-13, SNAP-6-1, SNAP-6-2, SNAP-6-3, SNAP-6-4, SNAP-6-5, SNAP-6-6, SNAP-6-7,
/// SNAP-6-8, SNAP-6-9, SNAP-6-10, SNAP-6-15, SNAP-16-2, SNAP-17-8
#[test]
fn settings_of_a_machine_and_of_its_snapshot() {
    let mut state = one_vm();
    state.update_vm(V, |vm| vm.power = Power::Running);
    take(&mut state, 'A');
    state.update_snapshot(snapshot_id('A'), |snapshot| snapshot.notes = "good".to_owned());
    state.update_vm(V, |vm| {
        vm.name = "renamed".to_owned();
        vm.notes = "later".to_owned();
        vm.snapshot_kind = SnapshotKind::Disabled;
        vm.settings.firmware = Firmware::Uefi;
    });
    let view = view(state);
    let check = |kind: &str, expected: Expect| {
        let query = format!("SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType LIKE '%{kind}'");
        expected.assert_eq(&table(&view, &query, &SETTINGS));
    };
    check(
        "System:Realized",
        expect![[r#"
        InstanceID: Microsoft:00000000-0000-0000-0000-0000000000A0
        ElementName: renamed
        Caption: Virtual Machine Settings
        Description: Active settings for the virtual machine
        VirtualSystemIdentifier: 00000000-0000-0000-0000-0000000000A0
        VirtualSystemType: Microsoft:Hyper-V:System:Realized
        VirtualSystemSubType: Microsoft:Hyper-V:SubType:2
        ConfigurationID: 00000000-0000-0000-0000-0000000000A0
        ConfigurationDataRoot: /data/vms/00000000-0000-0000-0000-0000000000A0
        SnapshotDataRoot: /data/vms/00000000-0000-0000-0000-0000000000A0
        CreationTime: 20260101030405.000000+000
        Parent: \\HOST\root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:00000000-0000-0000-0000-000000005041"
        IsSaved: false
        IsAutomaticSnapshot: false
        AutomaticSnapshotsEnabled: false
        UserSnapshotType: 2
        Notes: later
        AutomaticRecoveryAction: 2
    "#]],
    );
    check(
        "Snapshot:Realized",
        expect![[r#"
        InstanceID: Microsoft:00000000-0000-0000-0000-000000005041
        ElementName: A
        Caption: Virtual Machine Settings
        Description: Snapshot settings for the virtual machine
        VirtualSystemIdentifier: 00000000-0000-0000-0000-0000000000A0
        VirtualSystemType: Microsoft:Hyper-V:Snapshot:Realized
        VirtualSystemSubType: Microsoft:Hyper-V:SubType:1
        ConfigurationID: 00000000-0000-0000-0000-000000005041
        ConfigurationDataRoot: /data/vms/00000000-0000-0000-0000-0000000000A0
        SnapshotDataRoot: /data/vms/00000000-0000-0000-0000-0000000000A0
        CreationTime: 20260102030405.000000+000
        Parent: -
        IsSaved: true
        IsAutomaticSnapshot: false
        AutomaticSnapshotsEnabled: false
        UserSnapshotType: 5
        Notes: good
        AutomaticRecoveryAction: 2
    "#]],
    );
}

/// Holds: SNAP-5-1, SNAP-5-4, SNAP-6-7
#[test]
fn a_snapshot_without_memory_is_not_saved() {
    let mut state = with_snapshot();
    state.update_vm(V, |vm| vm.power = Power::Saved);
    let view = view(state);
    let column = |property| column(&view, "SELECT * FROM Msvm_VirtualSystemSettingData", property);
    expect![[r#"
        Microsoft:Hyper-V:System:Realized
        Microsoft:Hyper-V:Snapshot:Realized"#]]
    .assert_eq(&column("VirtualSystemType"));
    expect![[r#"
        true
        false"#]]
    .assert_eq(&column("IsSaved"));
}

/// Holds: SNAP-11-3
#[test]
fn user_and_recovery_snapshots_live_together() {
    let mut state = with_snapshot();
    take(&mut state, 'B');
    state.update_snapshot(snapshot_id('B'), |snapshot| snapshot.purpose = Purpose::Recovery);
    let query = "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType LIKE '%Snapshot%'";
    expect![[r#"
        Microsoft:Hyper-V:Snapshot:Realized
        Microsoft:Hyper-V:Snapshot:Recovery"#]]
    .assert_eq(&column(&view(state), query, "VirtualSystemType"));
}

/// Holds: SNAP-5-6
#[test]
fn settings_for_taking_a_snapshot_are_no_instances() {
    let view = view(with_snapshot());
    assert_eq!(column(&view, "SELECT * FROM Msvm_VirtualSystemSnapshotSettingData", "InstanceID"), "");
}

/// Holds: SNAP-8.2-1, SNAP-8.2-7, SNAP-8.2-8, SNAP-8.2-4
#[test]
fn a_job_has_all_its_times_and_nothing_that_it_does_not_use() {
    let mut state = one_vm();
    let failure = Failure::new(Kind::NoSpace, "the disk is full\nand more").hint("make room");
    state.put_job(job(1, JobKind::CreateSnapshot, None, JobState::Failed(failure)));
    let properties = [
        "InstanceID",
        "TimeSubmitted",
        "StartTime",
        "ElapsedTime",
        "TimeOfLastStateChange",
        "TimeBeforeRemoval",
        "ErrorCode",
        "ErrorDescription",
        "ErrorSummaryDescription",
        "HealthState",
        "Owner",
        "Notify",
        "Priority",
        "RunMonth",
        "RunDay",
        "RunDayOfWeek",
        "RunStartInterval",
        "UntilTime",
        "ScheduledStartTime",
    ];
    expect![[r#"
        InstanceID: 00000000-0000-0000-0000-000000007001
        TimeSubmitted: 20260102030400.000000+000
        StartTime: 20260102030400.000000+000
        ElapsedTime: 00000000000004.000000:000
        TimeOfLastStateChange: 20260102030404.000000+000
        TimeBeforeRemoval: 00000000000500.000000:000
        ErrorCode: 32768
        ErrorDescription: the disk is full
        and more: make room
        ErrorSummaryDescription: the disk is full
        HealthState: 5
        Owner: -
        Notify: -
        Priority: -
        RunMonth: -
        RunDay: -
        RunDayOfWeek: -
        RunStartInterval: -
        UntilTime: -
        ScheduledStartTime: -
    "#]]
    .assert_eq(&table(&view(state), "SELECT * FROM Msvm_ConcreteJob", &properties));
}

/// Holds: SNAP-8.2-6
#[test]
fn a_job_says_whether_it_can_be_ended() {
    let cancellable = |stage: Stage, state: JobState| {
        let mut world = one_vm();
        world.put_job(ledger::job::Job { stage, ..job(1, JobKind::Start, None, state) });
        column(&view(world), "SELECT * FROM Msvm_ConcreteJob", "Cancellable")
    };
    assert_eq!(cancellable(Stage::Launching, JobState::Running), "true");
    assert_eq!(cancellable(Stage::Launching, JobState::Completed), "false");
    assert_eq!(cancellable(Stage::LettingRun, JobState::Running), "false");
}

/// Holds: SNAP-7.1-11
#[test]
fn export_settings_are_a_form_to_fill_in() {
    let properties = [
        "InstanceID",
        "CopySnapshotConfiguration",
        "CopyVmRuntimeInformation",
        "CopyVmStorage",
        "CaptureLiveState",
        "BackupIntent",
        "SnapshotVirtualSystem",
        "DifferentialBackupBase",
    ];
    let query = format!("SELECT * FROM CIM_SettingData WHERE InstanceID LIKE 'Microsoft:{V}%Export'");
    expect![[r#"
        InstanceID: Microsoft:00000000-0000-0000-0000-0000000000A0\Export
        CopySnapshotConfiguration: 0
        CopyVmRuntimeInformation: true
        CopyVmStorage: true
        CaptureLiveState: 1
        BackupIntent: 0
        SnapshotVirtualSystem: -
        DifferentialBackupBase: -
    "#]]
    .assert_eq(&table(&view(with_snapshot()), &query, &properties));
}

/// Holds: SNAP-10-7
#[test]
fn summaries_can_be_queried() {
    let view = view(with_snapshot());
    let query = format!("SELECT * FROM Msvm_SummaryInformation WHERE InstanceID LIKE 'Microsoft:{V}%'");
    let properties =
        ["InstanceID", "Name", "ElementName", "EnabledState", "HealthState", "NumberOfProcessors", "Snapshots"];
    expect![[r#"
        InstanceID: Microsoft:00000000-0000-0000-0000-0000000000A0
        Name: 00000000-0000-0000-0000-0000000000A0
        ElementName: web
        EnabledState: 3
        HealthState: 5
        NumberOfProcessors: 2
        Snapshots: \\HOST\root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:00000000-0000-0000-0000-000000005041"
    "#]].assert_eq(&table(&view, &query, &properties));
    assert_eq!(column(&view, "SELECT * FROM Msvm_SummaryInformation", "ElementName"), "web", "a snapshot has none");
}
