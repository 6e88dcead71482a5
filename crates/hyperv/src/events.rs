//! Events: what has become of instances since a subscriber was last told.
//!
//! ```text
//!   take(view) ──▶ too early ─────────────────────────────▶ nothing yet
//!              ├─▶ a round under way ──▶ its next events
//!              └─▶ the state told last ≠ the present one
//!                     │ which entities differ (persistent maps: the cost follows from the changes)
//!                     ▼
//!                  objects whose instances follow from them ──▶ instance before, instance after ──▶ event, filtered
//! ```
//!
//! A subscription keeps one old state instead of a queue. So it cannot overflow, and what a subscriber has not fetched is
//! told in one event for each instance, from what he knows to what is. Steps in between are lost to one who is slow, as they
//! are to WMI's own polling for `WITHIN`; the end never is. An instance that came and went in between is not told of at all.
//!
//! `WITHIN n` is the pause after events that were told: the first ones are told at once, the next ones not before n seconds
//! have passed. Without it there is no pause.
//!
//! Both instances of a modification are shown at the time of the event, so that clocks among their properties, such as
//! `ElapsedTime`, are no change.
//!
//! Everything that has instances is followed, except associations and switches: they follow from other objects, which can
//! be followed instead.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cim::op::Row;
use cim::wql::{EventFilter, Select, event};
use cim::{Error, Instance, Schema};
use ledger::id::VmId;
use ledger::state::{State, Timestamp};

use crate::assoc;
use crate::class::{blank, instance};
use crate::object::{Device, Object, Owner, Part};
use crate::part;
use crate::read::{find, is_virtualization};
use crate::view::View;

/// Events made at a time. A page of the protocol holds fewer; what is left comes with the next.
const BATCH: usize = 200;

/// Microseconds from 1601, where WMI's event times begin, to 1970.
const MICROS_1601_TO_1970: u64 = 11_644_473_600_000_000;

/// The class whose instances are those that some machine or snapshot uses: to know them takes a look at all.
const SWITCH: &str = "Msvm_VirtualEthernetSwitch";

/// One subscriber's place in the course of events.
#[derive(Debug)]
pub struct Subscription {
    filter: EventFilter,
    /// Followed classes that the query can be about.
    classes: BTreeSet<&'static str>,
    /// The state told last.
    told: Arc<State>,
    round: Option<Round>,
    /// When the pause is over that follows events, by the caller's clock.
    pause_ends: Duration,
    /// Whether the last call came too early to look.
    is_waiting: bool,
}

/// The way from one state to a later one.
#[derive(Debug)]
struct Round {
    after: Arc<State>,
    now: Timestamp,
    /// What is still to be looked at.
    objects: std::vec::IntoIter<Object>,
}

impl Subscription {
    /// A subscription to what changes from the state of `view` on.
    ///
    /// # Errors
    /// Unknown namespaces and classes, queries that are no event queries, and classes without events.
    pub fn new(view: &View, namespace: &str, select: &Select) -> Result<Self, Error> {
        let schema = view.schema(namespace)?;
        if !is_virtualization(schema) {
            return Err(Error::not_supported(format!("following instances of {}", schema.namespace())));
        }
        let filter = select.resolve_events(schema, &view.host.name)?;
        let admitted = |class: &&'static str| schema.class(class).is_some_and(|class| filter.admits(class));
        let classes: BTreeSet<&'static str> = followed().filter(admitted).collect();
        if classes.is_empty() {
            refuse_derived(schema, &filter)?;
        }
        Ok(Self {
            filter,
            classes,
            told: Arc::clone(&view.state),
            round: None,
            pause_ends: Duration::ZERO,
            is_waiting: false,
        })
    }

    /// The properties of an event that are wanted; `None` for all.
    pub fn projection(&self) -> Option<&[String]> {
        self.filter.projection()
    }

    /// When the pause ends that kept the last call from looking.
    pub fn due(&self) -> Option<Duration> {
        self.is_waiting.then_some(self.pause_ends)
    }

    /// What has happened until `view`, as events; some of it, if it is much. `now` is a clock that never goes backwards.
    pub fn take(&mut self, view: &View, now: Duration) -> Vec<Row> {
        self.is_waiting = self.round.is_none() && now < self.pause_ends;
        if self.is_waiting {
            return Vec::new();
        }
        let Some(mut round) = self.round.take().or_else(|| self.begin(view)) else { return Vec::new() };
        let before = View { state: Arc::clone(&self.told), now: round.now, ..view.clone() };
        let after = View { state: Arc::clone(&round.after), ..before.clone() };
        let events = round.objects.by_ref().filter_map(|object| event_of(&before, &after, object));
        let selected = events.filter(|event| self.filter.matches(event)).take(BATCH);
        let rows: Vec<Row> = selected.map(|event| row(&after, event)).collect();
        if round.objects.len() == 0 {
            self.told = round.after;
        } else {
            self.round = Some(round);
        }
        if !rows.is_empty() {
            self.pause_ends = now.saturating_add(self.filter.within());
        }
        rows
    }

    /// The way to the present state; `None` if nothing that is followed changed on it.
    fn begin(&mut self, view: &View) -> Option<Round> {
        if Arc::ptr_eq(&self.told, &view.state) {
            return None;
        }
        let objects = concerned(&self.told, &view.state, &self.classes);
        if objects.is_empty() {
            self.told = Arc::clone(&view.state);
            return None;
        }
        let objects: Vec<Object> = objects.into_iter().collect();
        Some(Round { after: Arc::clone(&view.state), now: view.now, objects: objects.into_iter() })
    }
}

/// A class that exists and has no events here, if that is all the query is about. Other classes just have no instances.
fn refuse_derived(schema: &Schema, filter: &EventFilter) -> Result<(), Error> {
    let associations = assoc::ASSOCIATIONS.iter().map(|association| association.class);
    let derived =
        associations.chain([SWITCH]).find(|class| schema.class(class).is_some_and(|class| filter.admits(class)));
    derived.map_or(Ok(()), |class| {
        Err(Error::not_supported(format!("following {class}, which follows from other objects,")))
    })
}

/// Classes whose instances are followed. Some of them, such as services, never change.
fn followed() -> impl Iterator<Item = &'static str> {
    find::CLASSES.into_iter().chain(part::CLASSES).filter(|class| *class != SWITCH)
}

/// Objects of these classes whose instances may differ between the two states.
fn concerned(before: &State, after: &State, classes: &BTreeSet<&'static str>) -> BTreeSet<Object> {
    let mut found = BTreeSet::new();
    let mut add = |object: Object| {
        if classes.contains(object.class()) {
            found.insert(object);
        }
    };
    for change in after.changed_jobs(before) {
        add(Object::Job(change.id));
        // What a machine is busy with is part of its status, and of its summary.
        change.versions().flat_map(|job| [Object::Vm(job.vm), Object::Summary(job.vm)]).for_each(&mut add);
    }
    let mut owners: Vec<Owner> = after.changed_vms(before).iter().map(|change| Owner::Vm(change.id)).collect();
    owners.extend(after.changed_snapshots(before).iter().map(|change| Owner::Snapshot(change.id)));
    for &owner in &owners {
        add(Object::Settings(owner));
        match owner {
            Owner::Vm(vm) => [Object::Vm(vm), Object::Summary(vm), Object::Export(vm)].into_iter().for_each(&mut add),
            // A machine's summary lists its snapshots.
            Owner::Snapshot(_) => {
                let vms = [before, after].into_iter().filter_map(|state| owner.vm(state));
                vms.map(Object::Summary).for_each(&mut add);
            }
        }
    }
    if !classes.iter().any(|class| is_below_settings(class)) {
        return found;
    }
    // A disk shows where its layer is and how large, whoever refers to it.
    for change in after.changed_layers(before) {
        if let (Some(old), Some(new)) = (change.before, change.after)
            && (&old.path, old.size) != (&new.path, new.size)
        {
            owners.extend(owners_of(after, new.vm));
        }
    }
    for owner in owners {
        for hardware in [before, after].into_iter().filter_map(|state| owner.hardware(state)) {
            Device::all(hardware).into_iter().for_each(|device| add(Object::Resource(owner, device)));
            if let Owner::Vm(vm) = owner {
                Part::all(hardware).into_iter().for_each(|part| add(Object::Part(vm, part)));
            }
        }
    }
    found
}

/// Whether instances of the class are parts of a machine, or the settings of such.
fn is_below_settings(class: &str) -> bool {
    !matches!(class, "Msvm_ComputerSystem" | "Msvm_VirtualSystemSettingData" | "Msvm_ConcreteJob")
}

/// A machine and its snapshots.
fn owners_of(state: &State, vm: VmId) -> impl Iterator<Item = Owner> {
    let snapshots = state.snapshots_of(vm).map(|snapshot| Owner::Snapshot(snapshot.id));
    std::iter::once(Owner::Vm(vm)).chain(snapshots)
}

/// What happened to an object; `None` if nothing that shows.
fn event_of(before: &View, after: &View, object: Object) -> Option<Instance> {
    let (class, target, previous) = match (instance(before, object), instance(after, object)) {
        (Some(previous), Some(target)) if previous != target => ("__InstanceModificationEvent", target, Some(previous)),
        (None, Some(target)) => ("__InstanceCreationEvent", target, None),
        (Some(target), None) => ("__InstanceDeletionEvent", target, None),
        _ => return None,
    };
    let created = after.now.0.saturating_add(MICROS_1601_TO_1970).saturating_mul(10);
    let event = blank(after, class).with("TIME_CREATED", created).with(event::TARGET, target);
    Some(event.with_some(event::PREVIOUS, previous))
}

fn row(view: &View, event: Instance) -> Row {
    Row { path: event.path(&view.host.name, view.namespaces.virtualization().namespace()), instance: event }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use ledger::job::{JobKind, JobState};
    use ledger::vm::Power;

    use super::*;
    use crate::schema::VIRTUALIZATION;
    use crate::world::{NOW, V, job, job_id, layer_id, one_vm, snapshot_id, view, with_snapshot};

    fn subscribe(state: &State, text: &str) -> Result<Subscription, Error> {
        let cim::wql::Query::Select(select) = cim::wql::parse(text)? else { panic!("{text} is a selection") };
        Subscription::new(&view(state.clone()), VIRTUALIZATION, &select)
    }

    /// Events in few words: what happened to which instance, and the property asked for, before and after.
    fn show(rows: &[Row], property: &str) -> String {
        let rows = rows.iter().map(|row| {
            let held = |name: &str| row.instance.get(name).and_then(|value| value.as_object());
            let text = |held: Option<&Instance>| {
                held.and_then(|held| held.get(property)).map_or("-".to_owned(), ToString::to_string)
            };
            let kind = row.path.class.trim_start_matches("__Instance").trim_end_matches("Event");
            let (target, previous) = (held(event::TARGET), held(event::PREVIOUS));
            let class = target.map_or("-", |target| target.class().name.as_str());
            match previous {
                Some(_) => format!("{kind} {class} {} -> {}", text(previous), text(target)),
                None => format!("{kind} {class} {}", text(target)),
            }
        });
        rows.collect::<Vec<_>>().join("\n")
    }

    /// What a subscriber is told of one step.
    fn check(query: &str, property: &str, before: State, after: State, expected: Expect) {
        let mut subscription = subscribe(&before, query).unwrap();
        let rows = subscription.take(&view(after.clone()), Duration::ZERO);
        expected.assert_eq(&show(&rows, property));
        assert!(subscription.take(&view(after), Duration::from_secs(9)).is_empty(), "nothing is told twice");
    }

    fn any(class: &str) -> String {
        format!("SELECT * FROM __InstanceOperationEvent WHERE TargetInstance ISA '{class}'")
    }

    fn with_job(state: &State, percent: u8, end: JobState) -> State {
        let mut state = state.clone();
        state.put_job(ledger::job::Job { percent, ..job(1, JobKind::CreateSnapshot, Some('A'), end) });
        state
    }

    /// Holds: SNAP-8.1-2, SNAP-13-1, SNAP-13-2, SNAP-13-3
    #[test]
    fn jobs_machines_and_snapshots_come_change_and_go() {
        let (one, snapshot) = (one_vm(), with_snapshot());
        let running = with_job(&one, 10, JobState::Running);
        let over = with_job(&one, 100, JobState::Completed);
        let mut on = one.clone();
        on.update_vm(V, |vm| vm.power = Power::Running);
        let mut gone = one.clone();
        gone.remove_vm(V);
        let job = any("CIM_Job");
        check(&job, "JobState", one.clone(), running.clone(), expect!["Creation Msvm_ConcreteJob 4"]);
        check(&job, "JobState", running.clone(), over.clone(), expect!["Modification Msvm_ConcreteJob 4 -> 7"]);
        check(&job, "PercentComplete", over.clone(), one.clone(), expect!["Deletion Msvm_ConcreteJob 100"]);
        check(&job, "JobState", one.clone(), snapshot.clone(), expect![""]);
        let system = any("Msvm_ComputerSystem");
        check(&system, "EnabledState", one.clone(), on, expect!["Modification Msvm_ComputerSystem 3 -> 2"]);
        check(&system, "ElementName", one.clone(), gone, expect!["Deletion Msvm_ComputerSystem web"]);
        check(
            &system,
            "StatusDescriptions",
            one.clone(),
            running.clone(),
            expect!["Modification Msvm_ComputerSystem Operating normally -> In service, Creating snapshot"],
        );
        let settings = any("Msvm_VirtualSystemSettingData");
        check(
            &settings,
            "ElementName",
            one.clone(),
            snapshot.clone(),
            expect![[r#"
            Modification Msvm_VirtualSystemSettingData web -> web
            Creation Msvm_VirtualSystemSettingData A"#]],
        );
        let mut renamed = snapshot.clone();
        renamed.update_snapshot(snapshot_id('A'), |snapshot| snapshot.name = "B".to_owned());
        check(
            &settings,
            "ElementName",
            snapshot,
            renamed,
            expect!["Modification Msvm_VirtualSystemSettingData A -> B"],
        );
    }

    #[test]
    fn what_does_not_show_is_no_event() {
        let one = one_vm();
        let mut same = one.clone();
        same.update_vm(V, |vm| vm.generation_id = uuid::Uuid::from_u128(1));
        check(&any("Msvm_ComputerSystem"), "Name", one.clone(), same, expect![""]);
        let running = with_job(&one, 10, JobState::Running);
        let mut subscription = subscribe(&running, &any("Msvm_ConcreteJob")).unwrap();
        let later = View { now: Timestamp(NOW.0 + 5_000_000), ..view(running) };
        assert!(subscription.take(&later, Duration::ZERO).is_empty(), "time alone passes");
    }

    #[test]
    fn resources_are_followed_with_their_owners() {
        let one = one_vm();
        let mut bigger = one.clone();
        bigger.update_vm(V, |vm| vm.settings.memory_mib = 2048);
        let resources = any("CIM_ResourceAllocationSettingData");
        check(
            &resources,
            "VirtualQuantity",
            one.clone(),
            bigger,
            expect!["Modification Msvm_MemorySettingData 1024 -> 2048"],
        );
        let mut without = one.clone();
        without.update_vm(V, |vm| vm.settings.nics.clear());
        check(
            &any("Msvm_SyntheticEthernetPortSettingData"),
            "ElementName",
            one.clone(),
            without,
            expect!["Deletion Msvm_SyntheticEthernetPortSettingData net"],
        );
        let mut moved = one.clone();
        moved.put_layer(ledger::snapshot::Layer { path: "/elsewhere".into(), ..(*one.layers[&layer_id(0)]).clone() });
        check(
            &any("Msvm_StorageAllocationSettingData"),
            "HostResource",
            one,
            moved,
            expect!["Modification Msvm_StorageAllocationSettingData /disks/0.qcow2 -> /elsewhere"],
        );
    }

    /// Everything that can be seen before and after, one by one: what differs must be among what is looked at.
    #[test]
    fn nothing_that_shows_is_overlooked() {
        let one = one_vm();
        let changed = |change: &dyn Fn(&mut ledger::vm::Vm)| {
            let mut state = one.clone();
            state.update_vm(V, change);
            state
        };
        let layer = (*one.layers[&layer_id(0)]).clone();
        let mut larger = one.clone();
        larger.put_layer(ledger::snapshot::Layer { size: layer.size * 2, ..layer.clone() });
        let mut moved = with_snapshot();
        moved.put_layer(ledger::snapshot::Layer { path: "/elsewhere".into(), ..layer });
        let mut empty = one.clone();
        empty.remove_vm(V);
        let steps = [
            (one.clone(), changed(&|vm| vm.power = Power::Running)),
            (one.clone(), changed(&|vm| vm.settings.processors = 4)),
            (one.clone(), changed(&|vm| vm.settings.nics.clear())),
            (one.clone(), changed(&|vm| vm.settings.drives.clear())),
            (one.clone(), changed(&|vm| vm.name = "other".to_owned())),
            (one.clone(), with_job(&one, 1, JobState::Running)),
            (with_job(&one, 1, JobState::Running), with_job(&one, 100, JobState::Completed)),
            (one.clone(), with_snapshot()),
            (with_snapshot(), moved),
            (one.clone(), larger),
            (empty, one.clone()),
        ];
        let classes: BTreeSet<&'static str> = followed().collect();
        for (before, after) in steps.into_iter().flat_map(|(a, b)| [(a.clone(), b.clone()), (b, a)]) {
            let looked_at = concerned(&before, &after, &classes);
            let (before, after) = (view(before), view(after));
            let objects = |state: &Arc<State>| classes.iter().flat_map(|class| find::objects(state, class)).collect();
            let all: [Vec<Object>; 2] = [objects(&before.state), objects(&after.state)];
            for object in all.into_iter().flatten() {
                let shows = event_of(&before, &after, object).is_some();
                assert!(!shows || looked_at.contains(&object), "{object:?}");
            }
        }
    }

    #[test]
    fn an_event_carries_its_time_and_both_instances() {
        let mut subscription = subscribe(&one_vm(), &any("Msvm_VirtualSystemSettingData")).unwrap();
        let rows = subscription.take(&view(with_snapshot()), Duration::ZERO);
        assert_eq!(rows[0].instance.number("TIME_CREATED"), Some((NOW.0 + 11_644_473_600_000_000) * 10));
        assert_eq!(rows[0].path.to_string(), r"\\HOST\root\virtualization\v2:__InstanceModificationEvent=@");
    }

    #[test]
    fn steps_in_between_are_told_as_one_and_pauses_are_kept() {
        let states = [0, 10, 20, 30, 40].map(|percent| with_job(&one_vm(), percent, JobState::Running));
        let query = "SELECT * FROM __InstanceModificationEvent WITHIN 2 WHERE TargetInstance ISA 'Msvm_ConcreteJob'";
        let mut subscription = subscribe(&states[0], query).unwrap();
        let mut tell = |state: &State, seconds: u64, expected: Expect| {
            let rows = subscription.take(&view(state.clone()), Duration::from_secs(seconds));
            expected.assert_eq(&format!("{} due {:?}", show(&rows, "PercentComplete"), subscription.due()));
        };
        tell(&states[0], 5, expect![" due None"]);
        tell(&states[1], 5, expect!["Modification Msvm_ConcreteJob 0 -> 10 due None"]);
        tell(&states[2], 6, expect![" due Some(7s)"]);
        tell(&states[3], 6, expect![" due Some(7s)"]);
        tell(&states[3], 7, expect!["Modification Msvm_ConcreteJob 10 -> 30 due None"]);
        tell(&states[3], 30, expect![" due None"]);
        tell(&states[4], 30, expect!["Modification Msvm_ConcreteJob 30 -> 40 due None"]);
    }

    #[test]
    fn events_that_are_not_selected_begin_no_pause() {
        let states = [0, 10, 20].map(|percent| with_job(&one_vm(), percent, JobState::Running));
        let query = "SELECT * FROM __InstanceModificationEvent WITHIN 60 WHERE TargetInstance ISA 'Msvm_ConcreteJob' AND TargetInstance.PercentComplete = 20";
        let mut subscription = subscribe(&states[0], query).unwrap();
        assert!(subscription.take(&view(states[1].clone()), Duration::ZERO).is_empty());
        assert_eq!(subscription.take(&view(states[2].clone()), Duration::ZERO).len(), 1);
    }

    #[test]
    fn much_is_told_in_parts() {
        let mut many = one_vm();
        for number in 0..450 {
            many.put_job(job(number, JobKind::Start, None, JobState::Completed));
        }
        let mut subscription = subscribe(&one_vm(), &any("Msvm_ConcreteJob")).unwrap();
        let mut sizes = Vec::new();
        let view = view(many);
        loop {
            let rows = subscription.take(&view, Duration::ZERO);
            if rows.is_empty() {
                break;
            }
            sizes.push(rows.len());
        }
        assert_eq!(sizes, [200, 200, 50]);
        // What happens while the parts are fetched is told after them.
        let mut subscription = subscribe(&one_vm(), &any("Msvm_ConcreteJob")).unwrap();
        assert_eq!(subscription.take(&view, Duration::ZERO).len(), 200);
        let mut later = State::clone(&view.state);
        later.remove_job(job_id(449));
        let later = View { state: Arc::new(later), ..view };
        let counts = [(); 4].map(|()| subscription.take(&later, Duration::ZERO).len());
        assert_eq!(counts, [200, 50, 1, 0]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        fn check(class: &str, expected: Expect) {
            let shown = match subscribe(&one_vm(), &any(class)) {
                Ok(_) => "followed".to_owned(),
                Err(error) => format!("{}: {error}", error.status),
            };
            expected.assert_eq(&shown);
        }
        check("Msvm_ComputerSystem", expect!["followed"]);
        check("CIM_ManagedElement", expect!["followed"]);
        check("Msvm_Keyboard", expect!["followed"]);
        check(
            "Msvm_VirtualEthernetSwitch",
            expect![
                "WBEM_E_NOT_SUPPORTED: following Msvm_VirtualEthernetSwitch, which follows from other objects, is not supported"
            ],
        );
        check(
            "Msvm_SettingsDefineState",
            expect![
                "WBEM_E_NOT_SUPPORTED: following Msvm_SettingsDefineState, which follows from other objects, is not supported"
            ],
        );
        check("Msvm_Nothing", expect!["WBEM_E_INVALID_CLASS: there is no class Msvm_Nothing in this namespace"]);
        let select = "SELECT * FROM Msvm_ConcreteJob";
        assert_eq!(subscribe(&one_vm(), select).unwrap_err().status, cim::Status::NotEventClass);
        let cim::wql::Query::Select(select) = cim::wql::parse(&any("Win32_Process")).unwrap() else {
            panic!("a selection")
        };
        let error = Subscription::new(&view(one_vm()), "root/cimv2", &select).unwrap_err();
        assert_eq!(error.status, cim::Status::NotSupported);
    }
}
