//! Every kind of job, with every fault at every point.
//!
//! The scenarios are written once. [`faults`] runs each of them without faults to count its effects and commits, then once more
//! for every fault at every one of these points, and then again with a second fault at every point of what the first one led to.
//! So a new kind of job needs only a scenario, and [`coverage`] sees to it that it gets one.
//! What must hold afterwards is in [`rig::Rig::check`] and [`Scene::step`]: every snapshot reads as promised, the live
//! state is not lost, nothing leaks, no job hangs.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports, in its helpers too")]

mod coverage;
mod faults;
mod images;
mod rig;
mod rules;
mod world;

use ledger::id::{DeviceId, SnapshotId, VmId};
use ledger::job::JobState;
use ledger::request::{Contents, Definition, PowerTarget, Reply, Request};
use ledger::snapshot::Purpose;
use ledger::vm::{Firmware, Power, SnapshotKind};

use faults::{every_commit, every_effect};
use rig::{CommitFault, EffectFault, Fault, Moment, Rig};
use world::File;

/// What a scenario does, one thing after another.
#[derive(Clone, Debug)]
enum Do {
    /// The guest writes to memory and all disks.
    Write(u8, u32),
    /// Take a snapshot under this name.
    Snap(&'static str),
    /// The same, without memory.
    SnapDisks(&'static str),
    Apply(&'static str),
    Destroy(&'static str),
    DestroyTree(&'static str),
    Clear(&'static str),
    Power(PowerTarget),
    GuestExits,
    Tick,
    /// The daemon is restarted.
    Restart,
    DestroyVm,
    /// Work on files that are no machine's; see [`images::work`].
    Image(&'static str),
}

use Do::*;
use PowerTarget::{Off, Paused, Reset, Running, Saved, Shutdown};

/// A machine and what happens to it.
#[derive(Clone)]
struct Scene {
    rig: Rig,
    vm: Option<VmId>,
}

impl Scene {
    fn new(faults: &[Fault]) -> Self {
        let mut scene = Self { rig: Rig::new(faults), vm: None };
        for name in ["/user/a.qcow2", "/user/b.qcow2"] {
            scene.rig.world.files.insert(name.into(), File { backing: None, blocks: [(0, 7), (1, 7)].into() });
        }
        images::prepare(&mut scene.rig.world);
        scene.define();
        scene
    }

    fn definition() -> Definition {
        Definition {
            name: "m".into(),
            notes: String::new(),
            processors: 1,
            memory_mib: 64,
            firmware: Firmware::Uefi,
            bios_guid: None,
            snapshot_kind: SnapshotKind::Standard,
        }
    }

    /// Defines a machine with two disks and UEFI variables, trying again whatever a fault prevented.
    fn define(&mut self) {
        let attempts = 0..=self.rig.faults.len();
        for _ in attempts.clone() {
            if self.rig.state().vms.is_empty() {
                self.rig.ask(Request::DefineVm(Self::definition()));
            }
        }
        let (vm, controller) = {
            let vm = self.rig.state().vms.values().next().expect("one of these attempts succeeds");
            (vm.id, vm.settings.controllers[0].id)
        };
        self.vm = Some(vm);
        for (address, path) in [(0, "/user/a.qcow2"), (1, "/user/b.qcow2")] {
            for _ in attempts.clone() {
                self.rig.ask(Request::AddDrive { vm, controller, address: Some(address) });
                if let Some(drive) = self.empty_drive(vm) {
                    self.rig.ask(Request::AttachDisk { vm, drive, path: path.into(), format: None });
                }
            }
        }
        assert_eq!(self.rig.state().vms[&vm].settings.layers().len(), 3);
    }

    fn empty_drive(&self, vm: VmId) -> Option<DeviceId> {
        let drives = &self.rig.state().vms[&vm].settings.drives;
        drives.iter().find(|drive| drive.disk.is_none()).map(|drive| drive.id)
    }

    fn snapshot(&self, name: &str) -> Option<SnapshotId> {
        self.rig.state().snapshots.values().find(|snapshot| snapshot.name == name).map(|snapshot| snapshot.id)
    }

    /// Does one thing and checks what must hold whether or not it succeeded.
    fn step(&mut self, action: &Do) {
        let Some(vm) = self.vm.filter(|vm| self.rig.state().vms.contains_key(vm)) else { return };
        let before = self.rig.live(vm);
        let request = match *action {
            Write(block, value) => {
                self.rig.world.guest_writes(vm, block, value);
                return;
            }
            Tick => return self.rig.tick(),
            Restart => return self.rig.start_again(),
            GuestExits => return self.rig.guest_exits(vm),
            Snap(name) => create(vm, name, Contents::Full),
            SnapDisks(name) => create(vm, name, Contents::Disks),
            Apply(name) => self.on(name, |snapshot| Request::ApplySnapshot { snapshot }),
            Destroy(name) => self.on(name, |snapshot| Request::DestroySnapshot { snapshot }),
            DestroyTree(name) => self.on(name, |snapshot| Request::DestroySnapshotTree { snapshot }),
            Clear(name) => self.on(name, |snapshot| Request::ClearSnapshotState { snapshot }),
            Power(target) => Request::SetPower { vm, target },
            DestroyVm => Request::DestroyVm { vm },
            Image(what) => Request::WorkOnImage(images::work(what)),
        };
        self.rig.ask(request);
        self.learn(&before, action);
        self.check_live(vm, &before, action);
        images::check(&self.rig, action);
    }

    fn on(&self, name: &str, request: impl FnOnce(SnapshotId) -> Request) -> Request {
        // A snapshot that a fault prevented is asked for all the same: the refusal must change nothing.
        request(self.snapshot(name).unwrap_or(SnapshotId(uuid::Uuid::nil())))
    }

    /// Notes what a new snapshot must contain from now on: the state before it was asked for.
    fn learn(&mut self, before: &Moment, action: &Do) {
        let state = self.rig.state().clone();
        for snapshot in state.snapshots.values() {
            let memory = snapshot.memory.and(before.memory);
            let moment = Moment { disks: before.disks.clone(), memory };
            let promised = self.rig.promised.entry(snapshot.id).or_insert(moment);
            if matches!(action, Clear(_)) && snapshot.memory.is_none() {
                promised.memory = None;
            }
        }
    }

    /// Nothing but an apply changes the content of the live disks.
    fn check_live(&self, vm: VmId, before: &Moment, action: &Do) {
        if !self.rig.state().vms.contains_key(&vm) {
            return;
        }
        let after = self.rig.live(vm);
        let applied = match action {
            Apply(name) => self.snapshot(name).and_then(|id| self.rig.promised.get(&id)),
            _ => None,
        };
        assert!(
            after.disks == before.disks || applied.is_some_and(|moment| moment.disks == after.disks),
            "{action:?}: live disks"
        );
    }

    fn run(&mut self, script: &[Do], context: &str) {
        for action in script {
            self.step(action);
            if let Some(vm) = self.vm {
                self.rig.check(vm, &format!("{context}, after {action:?}"));
            }
        }
    }
}

fn create(vm: VmId, name: &str, contents: Contents) -> Request {
    Request::CreateSnapshot { vm, name: name.into(), contents, purpose: Purpose::User }
}

/// Every kind of job, in the company it keeps in real life. See [`parse`] for the words.
const SCENARIOS: &[(&str, &str)] = &[
    ("one branch, running", "on w0:1 snap:A w1:2 snap:B w0:3 disks:C w2:4 off apply:A on w3:5"),
    (
        "destroy under a running guest",
        "on w0:1 snap:A w1:2 snap:B w2:3 snap:C w3:4 destroy:B w4:5 destroy:C w5:6 destroy:A w6:7",
    ),
    (
        "three branches",
        "on w0:1 snap:A w1:2 snap:B off apply:A on w1:3 snap:C save apply:A on w1:4 snap:D w2:5 destroy:A destroy:C tree:B destroy:D",
    ),
    ("destroy while off", "on w0:1 snap:A w1:2 snap:B w2:3 off destroy:A on w3:4 off destroy:B"),
    ("snapshots while off", "on w0:1 snap:A snap:B w1:2 off snap:C on w2:3 destroy:B"),
    ("saved", "on w0:1 save snap:S on w1:2 save apply:S clear:S on save off destroy:S"),
    // The memory of a saved machine becomes a snapshot's after its layers have moved, and then that of two.
    ("saved over merges", "on w0:1 snap:P w1:2 save destroy:P snap:A"),
    ("shared over merges", "on w0:1 snap:P w1:2 snap:Q save snap:A snap:B destroy:P apply:Q destroy:B"),
    ("off", "snap:A disks:B apply:A snap:C tree:A"),
    (
        "paused, reset, shutdown",
        "on w0:1 pause snap:P on reset w1:2 destroy:P button exits on button tick button off remove",
    ),
    ("subtree with the live state in it", "on snap:A w0:1 snap:B w1:2 snap:C w2:3 tree:B w3:4 off apply:A on"),
    (
        "image files beside a machine",
        "on w0:1 image:create image:convert snap:A image:resize image:merge w1:2 image:check destroy:A",
    ),
    ("starts that are tried again", "on w0:1 save on on w1:2 save on on off"),
    ("remove with snapshots", "on snap:A w0:1 snap:B save remove"),
    (
        "a merge that an apply left over",
        "on w0:1 snap:A w1:2 snap:B off apply:A destroy:A on w2:3 off apply:B restart on w3:4",
    ),
];

/// Reads a scenario: words separated by blanks, `w3:5` for writing 5 to block 3.
fn parse(script: &'static str) -> Vec<Do> {
    let word = |word: &'static str| match word.split_once(':') {
        Some(("snap", name)) => Snap(name),
        Some(("disks", name)) => SnapDisks(name),
        Some(("apply", name)) => Apply(name),
        Some(("destroy", name)) => Destroy(name),
        Some(("tree", name)) => DestroyTree(name),
        Some(("clear", name)) => Clear(name),
        Some(("image", what)) => Image(what),
        Some((block, value)) => Write(block[1..].parse().unwrap(), value.parse().unwrap()),
        None => match word {
            "on" => Power(Running),
            "off" => Power(Off),
            "save" => Power(Saved),
            "pause" => Power(Paused),
            "reset" => Power(Reset),
            "button" => Power(Shutdown),
            "exits" => GuestExits,
            "tick" => Tick,
            "restart" => Restart,
            "remove" => DestroyVm,
            unknown => panic!("no such word: {unknown}"),
        },
    };
    script.split(' ').map(word).collect()
}

/// Holds: SNAP-2-3, SNAP-4.2-9, SNAP-4.3-3, SNAP-4.3-4, SNAP-4.4-3, SNAP-4.4-4, SNAP-4.4-5, SNAP-15-2, SNAP-15-3
#[test]
fn every_scenario_completes_without_faults() {
    for &(name, script) in SCENARIOS {
        let script = parse(script);
        let mut scene = Scene::new(&[]);
        scene.run(&script, name);
        let unexpected: Vec<_> = scene
            .rig
            .state()
            .jobs
            .values()
            .filter(|job| matches!(&job.state, JobState::Failed(f) if f.kind != ledger::failure::Kind::Timeout))
            .collect();
        assert!(unexpected.is_empty(), "{name}: {unexpected:#?}");
        assert!(scene.rig.effects > 4, "{name} does something");
    }
}

#[test]
fn each_step_twice() {
    every_effect(EffectFault::Twice);
}

/// Holds: SNAP-4.2-16, SNAP-4.5-4
#[test]
fn failure_at_each_step() {
    every_effect(EffectFault::Fails);
}

#[test]
fn failure_at_each_step_after_its_work_was_done() {
    every_effect(EffectFault::FailsLate);
}

/// What is on record then is what the machine does.
#[test]
fn an_order_that_is_obeyed_and_not_answered() {
    every_effect(EffectFault::Unanswered { heard_first: true });
    every_effect(EffectFault::Unanswered { heard_first: false });
}

/// Holds: SNAP-8.4-5
#[test]
fn cancel_at_each_step() {
    every_effect(EffectFault::Cancelled);
}

/// Holds: SNAP-8.2-10, SNAP-15-5
#[test]
fn crash_after_each_step() {
    every_effect(EffectFault::DaemonDies);
}

#[test]
fn daemon_and_machines_die_after_each_step() {
    every_effect(EffectFault::PowerFails);
}

#[test]
fn machines_die_before_each_step() {
    every_effect(EffectFault::MachinesDie { after: false, heard_first: false });
    every_effect(EffectFault::MachinesDie { after: false, heard_first: true });
}

#[test]
fn machines_die_after_each_step() {
    every_effect(EffectFault::MachinesDie { after: true, heard_first: false });
    every_effect(EffectFault::MachinesDie { after: true, heard_first: true });
}

/// Holds: SNAP-15-5
#[test]
fn crash_before_each_commit() {
    every_commit(CommitFault::DaemonDiesBefore);
}

/// Holds: SNAP-15-5
#[test]
fn crash_after_each_commit() {
    every_commit(CommitFault::DaemonDiesAfter);
}

#[test]
fn the_store_fails_at_each_commit() {
    every_commit(CommitFault::StoreFails);
}

/// Holds: SNAP-4.2-10, SNAP-4.3-5, SNAP-4.3-6, SNAP-4.4-2, SNAP-4.5-1, SNAP-4.5-2, SNAP-7.3-1, SNAP-7.3-2,
/// SNAP-17-5, SNAP-17-8, SNAP-17-9, SNAP-17-10
#[test]
fn parents_follow_the_worked_example() {
    let mut scene = Scene::new(&[]);
    let script = parse("on snap:A snap:B off apply:A on snap:C");
    scene.run(&script, "worked example");
    let parent = |scene: &Scene, name: &str| scene.rig.state().snapshots[&scene.snapshot(name).unwrap()].parent;
    let machine = |scene: &Scene| scene.rig.state().vms.values().next().unwrap().clone();
    let (a, b, c) = (scene.snapshot("A"), scene.snapshot("B"), scene.snapshot("C"));
    assert_eq!((parent(&scene, "A"), parent(&scene, "B"), parent(&scene, "C")), (None, a, a));
    assert_eq!((machine(&scene).parent, machine(&scene).last_applied), (c, a));
    scene.run(&[Destroy("A")], "worked example");
    assert_eq!((parent(&scene, "B"), parent(&scene, "C")), (None, None));
    assert_eq!((machine(&scene).parent, machine(&scene).last_applied), (c, None));
    scene.run(&[DestroyTree("C")], "worked example");
    assert_eq!((scene.snapshot("B"), scene.snapshot("C")), (b, None));
    assert_eq!((machine(&scene).parent, machine(&scene).power), (None, Power::Running));
}

/// A merge that was left over is taken up by whichever job comes next, and that job's guest stops for it, too.
#[test]
fn a_guest_stopped_for_a_left_over_merge_runs_again() {
    let before = parse("on w0:1 save snap:A snap:B on w1:2 w2:2 snap:C w3:3");
    for failing in 0..5 {
        for crash in 0..6 {
            let mut scene = Scene::new(&[]);
            scene.run(&before, "before");
            scene.rig.faults = vec![Fault::Effect(scene.rig.effects + failing, EffectFault::Fails)];
            scene.run(&[Destroy("C")], "left over");
            let power = |scene: &Scene| scene.rig.state().vms.values().next().unwrap().power;
            // Paused if it was the order to run on that failed.
            let expected = power(&scene);
            scene.rig.faults = vec![Fault::Effect(scene.rig.effects + crash, EffectFault::DaemonDies)];
            // B needs the memory still, so that there is nothing to delete and the merge comes first.
            let context = format!("failing {failing}, crash {crash}");
            scene.run(&[Clear("A")], &context);
            assert_eq!(power(&scene), expected, "{context}");
        }
    }
}

#[test]
fn the_users_image_is_merged_into_and_stays() {
    let mut scene = Scene::new(&[]);
    let script = parse("on w0:1 snap:A w1:2 snap:B w2:3 tree:A");
    scene.run(&script, "user's image");
    let vm = scene.vm.unwrap();
    let paths: Vec<_> = scene.rig.state().layers_of(vm).map(|layer| layer.path.display().to_string()).collect();
    assert!(paths.contains(&"/user/a.qcow2".to_owned()) && paths.contains(&"/user/b.qcow2".to_owned()), "{paths:?}");
    assert_eq!(paths.len(), 3);
}

/// Holds: SNAP-2-10, SNAP-4.3-1, SNAP-5-12, SNAP-12-3, SNAP-17-4
#[test]
fn a_refusal_changes_nothing_and_says_why() {
    let mut scene = Scene::new(&[]);
    let vm = scene.vm.unwrap();
    let mut check = |before: &[Do], request: &dyn Fn(&Scene) -> Request, expected: expect_test::Expect| {
        scene.run(before, "refusals");
        let request = request(&scene);
        let state = scene.rig.state().clone();
        match scene.rig.ask(request) {
            Some(Reply::Refused(failure)) => {
                expected.assert_eq(&format!("{:?}: {}", failure.kind, failure.full_text()))
            }
            other => panic!("not refused: {other:?}"),
        }
        assert_eq!(scene.rig.state(), &state);
    };
    use expect_test::expect;
    let nobody = SnapshotId(uuid::Uuid::nil());
    check(
        &[],
        &|_| create(VmId(uuid::Uuid::nil()), "x", Contents::Full),
        expect!["NotFound: there is no virtual machine 00000000-0000-0000-0000-000000000000"],
    );
    check(&[], &|_| create(vm, " ", Contents::Full), expect!["InvalidParameter: snapshot name is empty"]);
    check(
        &[],
        &|_| create(vm, &"x".repeat(101), Contents::Full),
        expect!["InvalidParameter: snapshot name has 101 characters, and may have 100"],
    );
    check(
        &[],
        &move |_| Request::ApplySnapshot { snapshot: nobody },
        expect!["NotFound: there is no snapshot 00000000-0000-0000-0000-000000000000"],
    );
    check(
        &[],
        &|_| Request::SetPower { vm, target: Saved },
        expect!["InvalidState: 'm' is off, which does not allow saving it"],
    );
    check(
        &[Power(Running), Snap("A")],
        &|scene| Request::ApplySnapshot { snapshot: scene.snapshot("A").unwrap() },
        expect![
            "InvalidState: 'm' is running, which does not allow applying a snapshot: turn it off or save it first; its present state will be replaced"
        ],
    );
    check(
        &[],
        &|_| Request::DestroyVm { vm },
        expect!["InvalidState: 'm' is running, which does not allow removing it: turn it off first"],
    );
    check(
        &[],
        &|_| Request::SetPower { vm, target: Running },
        expect!["InvalidState: 'm' is running, which does not allow starting it"],
    );
}

/// Holds: SNAP-4.2-6
#[test]
fn the_fifty_first_snapshot_is_refused() {
    let mut scene = Scene::new(&[]);
    let vm = scene.vm.unwrap();
    for number in 0..50 {
        assert!(matches!(scene.rig.ask(create(vm, &number.to_string(), Contents::Full)), Some(Reply::Job(_))));
    }
    match scene.rig.ask(create(vm, "51", Contents::Full)) {
        Some(Reply::Refused(failure)) => assert_eq!(failure.kind, ledger::failure::Kind::LimitReached),
        other => panic!("{other:?}"),
    }
    scene.rig.check(vm, "fifty snapshots");
}
