//! Single rules about machines and snapshots: what is refused when, and what a job leaves as it was.

use expect_test::{Expect, expect};
use ledger::event::MachineChange;
use ledger::failure::Kind;
use ledger::id::{SnapshotId, VmId};
use ledger::request::{Contents, Definition, PowerTarget, Reply, Request, VmChanges};
use ledger::snapshot::Purpose;
use ledger::vm::{Firmware, Power, SnapshotKind, Vm};

use super::rig::{EffectFault, Fault};
use super::{Scene, create, parse};

/// A machine after a scenario.
fn after(script: &'static str) -> (Scene, VmId) {
    let mut scene = Scene::new(&[]);
    if !script.is_empty() {
        scene.run(&parse(script), script);
    }
    let vm = scene.vm.expect("the scene has a machine");
    (scene, vm)
}

fn machine(scene: &Scene) -> Vm {
    Vm::clone(scene.rig.state().vms.values().next().expect("the scene has a machine"))
}

fn snapshot(scene: &Scene, name: &str) -> SnapshotId {
    scene.snapshot(name).expect("the snapshot was taken")
}

fn change(vm: VmId, change: impl FnOnce(&mut VmChanges)) -> Request {
    let mut changes = VmChanges::default();
    change(&mut changes);
    Request::ModifyVm { vm, changes }
}

/// The answer in short, without ids.
fn show(reply: Option<Reply>) -> String {
    match reply {
        Some(Reply::Refused(failure)) => {
            let words = failure.full_text();
            let without_id = |word: &str| match word.trim_matches(['(', ')', ':']) {
                id if id.len() == 36 => word.replace(id, "ID"),
                _ => word.to_owned(),
            };
            let words = words.split(' ').map(without_id);
            format!("{:?}: {}", failure.kind, words.collect::<Vec<_>>().join(" "))
        }
        Some(Reply::Job(_)) => "job".to_owned(),
        Some(Reply::Done { .. }) => "done".to_owned(),
        None => "no answer".to_owned(),
    }
}

/// Holds: SNAP-4.1-6, SNAP-2-4
#[test]
fn a_machine_does_one_thing_at_a_time() {
    let (mut scene, vm) = after("on snap:A snap:B");
    let (a, b) = (snapshot(&scene, "A"), snapshot(&scene, "B"));
    let mut check = |first: Request, second: Request, expected: Expect| {
        assert!(matches!(scene.rig.begin(first.clone()), Some(Reply::Job(_))), "{first:?}");
        expected.assert_eq(&show(scene.rig.begin(second)));
        scene.rig.finish();
    };
    let take = || create(vm, "x", Contents::Full);
    let power = |target| Request::SetPower { vm, target };
    check(
        take(),
        take(),
        expect!["InvalidState: 'm' is busy: Creating snapshot (job ID): wait for that job, or cancel it"],
    );
    check(
        Request::DestroySnapshot { snapshot: a },
        take(),
        expect!["InvalidState: 'm' is busy: Deleting snapshot (job ID): wait for that job, or cancel it"],
    );
    check(
        power(PowerTarget::Saved),
        Request::DestroySnapshotTree { snapshot: b },
        expect!["InvalidState: 'm' is saving, which does not allow working on its snapshots: wait until it is settled"],
    );
    check(
        power(PowerTarget::Running),
        Request::ClearSnapshotState { snapshot: b },
        expect![
            "InvalidState: 'm' is starting, which does not allow working on its snapshots: wait until it is settled"
        ],
    );
}

/// Holds: SNAP-4.2-5, SNAP-5-10
#[test]
fn snapshots_can_be_disabled_from_one_call_to_the_next() {
    let (mut scene, vm) = after("on");
    let kind = |kind| change(vm, |changes| changes.snapshot_kind = Some(kind));
    scene.rig.ask(kind(SnapshotKind::Disabled));
    match scene.rig.ask(create(vm, "x", Contents::Full)) {
        Some(Reply::Refused(failure)) => {
            assert_eq!(failure.kind, Kind::InvalidState);
            assert!(failure.message.contains("'m'") && failure.message.contains(&vm.to_string()), "{failure:?}");
            assert!(failure.message.contains("disabled"), "{failure:?}");
        }
        other => panic!("not refused: {other:?}"),
    }
    scene.rig.ask(kind(SnapshotKind::Standard));
    assert_eq!(show(scene.rig.ask(create(vm, "x", Contents::Full))), "job");
}

/// What a request for everything comes to on a running machine, by the machine's kind of snapshots.
///
/// Holds: SNAP-5-7, SNAP-17-12
#[test]
fn the_kind_of_the_machine_decides_about_memory() {
    let check = |kind: SnapshotKind, contents: Contents, expected: &str| {
        let (mut scene, vm) = after("on");
        scene.rig.ask(change(vm, |changes| changes.snapshot_kind = Some(kind)));
        let reply = show(scene.rig.ask(create(vm, "x", contents)));
        let with_memory = scene.rig.state().snapshots.values().any(|snapshot| snapshot.memory.is_some());
        assert_eq!(
            format!("{}, memory: {with_memory}", reply.split(':').next().unwrap_or_default()),
            expected,
            "{kind:?}"
        );
    };
    check(SnapshotKind::Standard, Contents::Full, "job, memory: true");
    check(SnapshotKind::ProductionOrStandard, Contents::Full, "job, memory: true");
    check(SnapshotKind::ProductionOnly, Contents::Full, "NotSupported, memory: false");
    check(SnapshotKind::Disabled, Contents::Full, "InvalidState, memory: false");
    check(SnapshotKind::Standard, Contents::Disks, "job, memory: false");
    check(SnapshotKind::ProductionOnly, Contents::Disks, "job, memory: false");
}

/// Holds: SNAP-5-1, SNAP-5-9
#[test]
fn what_a_snapshot_contains_follows_from_the_state_it_is_taken_in() {
    let check = |script: &'static str, expected: bool| {
        let (scene, _) = after(script);
        let found = &scene.rig.state().snapshots[&snapshot(&scene, "X")];
        assert_eq!((found.memory.is_some(), found.purpose), (expected, Purpose::User), "{script}");
    };
    check("on snap:X", true);
    check("on pause snap:X", true);
    check("on save snap:X", true);
    check("snap:X", false);
    check("on disks:X", false);
    check("on pause disks:X", false);
}

/// Holds: WIRE-I11-2
#[test]
fn a_machine_begins_with_the_controllers_of_its_generation() {
    let check = |firmware: Firmware, expected: Expect| {
        let (mut scene, first) = after("");
        let name = "n".to_owned();
        let definition = Definition { name, firmware, ..Scene::definition() };
        assert_eq!(show(scene.rig.ask(Request::DefineVm(definition))), "job");
        let defined = scene.rig.state().vms.values().find(|vm| vm.id != first).expect("it was defined");
        let controllers = defined.settings.controllers.iter().map(|known| format!("{:?} {}", known.bus, known.number));
        expected.assert_eq(&controllers.collect::<Vec<_>>().join(", "));
    };
    check(Firmware::Bios, expect!["Ide 0, Ide 1"]);
    check(Firmware::Uefi, expect!["Scsi 0"]);
}

/// Holds: SNAP-2-6
#[test]
fn turning_off_a_saved_machine_forgets_its_memory() {
    let (mut scene, vm) = after("on w0:1 save");
    assert!(machine(&scene).saved.is_some());
    scene.run(&parse("off"), "off");
    assert_eq!((machine(&scene).saved, machine(&scene).power), (None, Power::Off));
    assert_eq!(scene.rig.live(vm).memory, None);
}

/// Holds: SNAP-2-14
#[test]
fn snapshots_change_the_configuration_and_not_the_state() {
    let (mut scene, _) = after("on");
    for step in ["snap:A", "snap:B", "destroy:A"] {
        let before = machine(&scene);
        scene.run(&parse(step), step);
        let after = machine(&scene);
        assert!(after.configuration_changed > before.configuration_changed, "{step}");
        assert_eq!(after.power_changed, before.power_changed, "{step}");
    }
    let before = machine(&scene);
    scene.run(&parse("off"), "off");
    assert!(machine(&scene).power_changed > before.power_changed);
    let before = machine(&scene);
    scene.run(&parse("apply:B"), "apply");
    assert!(machine(&scene).configuration_changed > before.configuration_changed);
}

/// Holds: SNAP-4.3-9, SNAP-4.3-10, SNAP-4.3-11, SNAP-6-15, SNAP-15-4
#[test]
fn applying_brings_hardware_back_and_keeps_identity() {
    let (mut scene, vm) = after("disks:A");
    let before = machine(&scene);
    scene.rig.ask(change(vm, |changes| {
        changes.name = Some("renamed".to_owned());
        changes.processors = Some(7);
        changes.memory_mib = Some(4096);
    }));
    let network = ledger::vm::Network::User;
    scene.rig.ask(Request::AddNic { vm, name: "new".to_owned(), mac: None, network });
    assert_eq!((machine(&scene).settings.processors, machine(&scene).settings.nics.len()), (7, 1));
    assert_eq!(scene.rig.state().snapshots[&snapshot(&scene, "A")].name, "A");
    scene.run(&parse("apply:A"), "apply");
    let after = machine(&scene);
    assert_eq!((after.id, after.name.as_str()), (vm, "renamed"));
    assert_eq!(
        (after.settings.processors, after.settings.memory_mib),
        (before.settings.processors, before.settings.memory_mib)
    );
    assert!(after.settings.nics.is_empty());
    assert_ne!(after.generation_id, before.generation_id);
    assert_eq!(after.power, Power::Off);
}

/// Holds: SNAP-4.6-2
#[test]
fn clearing_what_has_no_memory_succeeds_without_effect() {
    let (mut scene, vm) = after("disks:A");
    let before = scene.rig.state().snapshots.clone();
    assert_eq!(show(scene.rig.ask(Request::ClearSnapshotState { snapshot: snapshot(&scene, "A") })), "job");
    assert_eq!(scene.rig.state().snapshots, before);
    scene.rig.check(vm, "cleared");
}

/// Names are counted in characters and may come twice.
///
/// Holds: SNAP-5-12
#[test]
fn two_snapshots_may_have_the_same_name() {
    let (mut scene, vm) = after("snap:A");
    assert_eq!(show(scene.rig.ask(create(vm, "A", Contents::Full))), "job");
    assert_eq!(show(scene.rig.ask(create(vm, &"ü".repeat(100), Contents::Full))), "job");
    assert_eq!(scene.rig.state().snapshots.values().filter(|snapshot| snapshot.name == "A").count(), 2);
}

/// Recovery snapshots cannot be taken; one that a store brings along is neither applied nor taken for a tree, but goes.
///
/// Holds: SNAP-4.3-2, SNAP-4.4-7, SNAP-4.5-3
#[test]
fn recovery_snapshots_are_only_removed() {
    let (mut scene, vm) = after("on snap:R off");
    scene.rig.rewrite("\"purpose\":\"User\"", "\"purpose\":\"Recovery\"");
    let snapshot = snapshot(&scene, "R");
    expect!["InvalidParameter: a recovery snapshot is for backup and cannot be applied"]
        .assert_eq(&show(scene.rig.ask(Request::ApplySnapshot { snapshot })));
    expect!["InvalidParameter: a recovery snapshot has no subtree to remove: remove the snapshot itself"]
        .assert_eq(&show(scene.rig.ask(Request::DestroySnapshotTree { snapshot })));
    assert_eq!(show(scene.rig.ask(Request::DestroySnapshot { snapshot })), "job");
    assert!(scene.rig.state().snapshots.is_empty());
    scene.rig.check(vm, "removed");
}

/// Holds: SNAP-8.2-9, WIRE-I10-1
#[test]
fn a_job_is_remembered_for_minutes() {
    let (mut scene, _) = after("on");
    let jobs = |scene: &Scene| scene.rig.state().jobs.len();
    assert!(jobs(&scene) > 0);
    scene.rig.wait(299);
    assert!(jobs(&scene) > 0);
    scene.rig.wait(2);
    assert_eq!(jobs(&scene), 0);
}

/// A clock that was wrong for days does not keep a job waiting, or remembered, for days.
#[test]
fn a_clock_that_is_set_back_holds_nothing_up() {
    let (mut scene, vm) = after("on button");
    scene.rig.set_clock_back(200_000);
    scene.rig.wait(1);
    assert!(scene.rig.state().active_job(vm).is_some(), "the guest has its time from now on");
    scene.rig.wait(181);
    assert!(scene.rig.state().active_job(vm).is_none());
    scene.rig.wait(301);
    assert_eq!(scene.rig.state().jobs.len(), 0);
}

/// A disk that was put in after a snapshot was taken leaves the machine when it is applied, and nothing else.
#[test]
fn an_apply_leaves_later_disks_to_their_owner() {
    let (mut scene, vm) = after("snap:A");
    let controller = machine(&scene).settings.controllers[0].id;
    scene.rig.ask(Request::AddDrive { vm, controller, address: None });
    let drive = scene.empty_drive(vm).unwrap();
    let path = std::path::PathBuf::from("/images/base.qcow2");
    scene.rig.ask(Request::AttachDisk { vm, drive, path: path.clone(), format: None });
    assert_eq!(machine(&scene).settings.layers().len(), 4);
    scene.rig.ask(Request::ApplySnapshot { snapshot: snapshot(&scene, "A") });
    assert_eq!(machine(&scene).settings.layers().len(), 3);
    assert!(scene.rig.world.files.contains_key(&path));
    scene.rig.check(vm, "applied");
}

/// A merge that failed leaves the newest content in a layer of ours: without its machine nobody would find it.
#[test]
fn a_disk_is_not_taken_out_before_its_file_has_all_that_was_written() {
    let (mut scene, vm) = after("on w0:1 snap:A w0:2 off");
    // Memory is deleted, two layers are measured, and their merge fails.
    scene.rig.faults = vec![Fault::Effect(scene.rig.effects + 2, EffectFault::Fails)];
    scene.run(&parse("destroy:A"), "left over");
    let device = machine(&scene).settings.drives[0].id;
    let before = scene.rig.state().clone();
    for disk_only in [true, false] {
        let reply = scene.rig.ask(Request::RemoveDevice { vm, device, disk_only });
        assert!(matches!(reply, Some(Reply::Refused(failure)) if failure.message.contains("not yet merged")));
    }
    assert_eq!(scene.rig.state().vms, before.vms);
    scene.run(&parse("restart"), "merged");
    let reply = scene.rig.ask(Request::RemoveDevice { vm, device, disk_only: true });
    assert_eq!(reply, Some(Reply::Done { created: None }));
    assert_eq!(scene.rig.world.read(std::path::Path::new("/user/a.qcow2")).get(&0), Some(&2));
}

/// By the time it is taken up the other way may copy less; but headers above may name the lower file already.
#[test]
fn an_interrupted_merge_is_finished_the_way_it_was_begun() {
    let (mut scene, vm) = after("on w0:1 snap:A w1:2 w2:2 w3:2 snap:B w0:9");
    // Memory is deleted, two layers are measured, and their merge fails.
    scene.rig.faults = vec![Fault::Effect(scene.rig.effects + 2, EffectFault::Fails)];
    scene.run(&parse("destroy:B"), "interrupted");
    let state = scene.rig.state();
    let begun = state.layers_of(vm).find(|layer| layer.merging.is_some()).expect("a merge has begun").clone();
    assert_eq!(begun.merging, Some(ledger::effect::MergeDirection::Down));
    scene.run(&parse("w1:8 w2:8 w3:8 w4:8 w5:8 restart"), "finished");
    let state = scene.rig.state();
    assert!(state.layers.contains_key(&begun.parent.unwrap()) && !state.layers.contains_key(&begun.id));
}

/// The answer to an order does not come in time, or the order fails; what the guest does is heard sooner or later than that.
#[test]
fn what_news_tells_of_a_guest_stands_when_an_order_fails() {
    use EffectFault::{Fails, FailsLate};
    use MachineChange::{Gone, Running, Stopped};
    let check = |script: &'static str, target, fault, news: Option<MachineChange>, expected| {
        for heard_first in [true, false] {
            let (mut scene, vm) = after(script);
            scene.rig.faults = vec![Fault::Effect(scene.rig.effects, fault)];
            assert_eq!(show(scene.rig.begin(Request::SetPower { vm, target })), "job");
            news.filter(|_| heard_first).into_iter().for_each(|change| scene.rig.hear(vm, change));
            scene.rig.finish();
            news.filter(|_| !heard_first).into_iter().for_each(|change| scene.rig.hear(vm, change));
            let context = format!("{script}, then {target:?}, {news:?}, first: {heard_first}");
            assert_eq!(machine(&scene).power, expected, "{context}");
            assert!(scene.rig.state().active_job(vm).is_none(), "{context}");
        }
    };
    // It was obeyed after all.
    check("on", PowerTarget::Paused, FailsLate, Some(Stopped), Power::Paused);
    check("on pause", PowerTarget::Running, FailsLate, Some(Running), Power::Running);
    check("on", PowerTarget::Off, FailsLate, Some(Gone), Power::Off);
    // It was not, and the guest did something else.
    check("on", PowerTarget::Reset, Fails, Some(Stopped), Power::Paused);
    check("on", PowerTarget::Shutdown, Fails, Some(Stopped), Power::Paused);
    check("on", PowerTarget::Off, Fails, Some(Stopped), Power::Paused);
    check("on pause", PowerTarget::Off, Fails, Some(Running), Power::Running);
    check("on pause", PowerTarget::Running, Fails, Some(Gone), Power::Off);
    // Nothing is heard of it.
    check("on", PowerTarget::Paused, Fails, None, Power::Running);
    check("on pause", PowerTarget::Running, Fails, None, Power::Paused);
    check("on pause", PowerTarget::Off, Fails, None, Power::Paused);
}

/// While overlays are made for a snapshot, the emulator stops the guest, or it turns out to run.
#[test]
fn a_guest_goes_back_to_what_it_did_when_the_moment_was_taken() {
    use MachineChange::{Running, Stopped};
    let check = |script: &'static str, change: MachineChange, expected: Power| {
        let (mut scene, vm) = after(script);
        assert_eq!(show(scene.rig.begin(create(vm, "X", Contents::Full))), "job");
        scene.rig.world.processes.get_mut(&vm).unwrap().running = change == Running;
        scene.rig.hear(vm, change);
        scene.rig.finish();
        assert_eq!(machine(&scene).power, expected, "{script}, then {change:?}");
        assert!(scene.snapshot("X").is_some());
        scene.rig.check(vm, script);
    };
    check("on", Stopped, Power::Paused);
    check("on pause", Running, Power::Running);
}
