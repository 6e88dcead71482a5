//! From keys to identities.
//!
//! A key that tells objects apart leads to its object at once, however many there are; only a query without one walks
//! through all objects of its class.

use std::sync::Arc;

use cim::op::{Row, Target};
use cim::{Error, Schema, Status, Value, case};
use ledger::id::VmId;
use ledger::state::State;

use super::{Item, Items, as_target, is_virtualization, known};
use crate::assoc::{self, ASSOCIATIONS, Association, Link};
use crate::object::{Object, Owner, Part, SwitchName, split_settings_id};
use crate::part;
use crate::schema::VIRTUALIZATION;
use crate::view::View;

/// Most candidates looked at for an incomplete target. Clients leave out keys of services and systems; an instance
/// among more than this is not named but searched for, and there are queries for that.
const AMBIGUOUS_LOOKS: usize = 10_000;

/// Classes with instances that are no associations, in the order of [`objects`]; devices, [`part::CLASSES`], follow.
pub const CLASSES: [&str; 20] = [
    "Msvm_ComputerSystem",
    "Msvm_VirtualSystemSettingData",
    "Msvm_SummaryInformation",
    "Msvm_VirtualSystemExportSettingData",
    "Msvm_VirtualSystemSnapshotService",
    "Msvm_VirtualSystemManagementService",
    "Msvm_ConcreteJob",
    "Msvm_VirtualEthernetSwitch",
    "Msvm_VirtualEthernetSwitchManagementService",
    "Msvm_ImageManagementService",
    "Msvm_ResourcePool",
    "Msvm_ProcessorPool",
    "Msvm_AllocationCapabilities",
    "Msvm_ProcessorSettingData",
    "Msvm_MemorySettingData",
    "Msvm_ResourceAllocationSettingData",
    "Msvm_StorageAllocationSettingData",
    "Msvm_SyntheticEthernetPortSettingData",
    "Msvm_EthernetPortAllocationSettingData",
    "Msvm_SerialPortSettingData",
];

/// The one instance a target names.
///
/// # Errors
/// Unknown namespace or class, no such instance, or several of them.
pub fn find(view: &View, target: &Target) -> Result<Item, Error> {
    find_row(view, target).map(|(item, _)| item)
}

/// The same with its row, which had to be made to compare its keys.
///
/// # Errors
/// As [`find`].
pub fn find_row(view: &View, target: &Target) -> Result<(Item, Row), Error> {
    let schema = view.schema(&target.namespace)?;
    let class = known(schema, &target.class)?;
    let mut found: Option<(Item, Row)> = None;
    for item in candidates(view, schema, target).take(AMBIGUOUS_LOOKS) {
        let Some(row) = item.row(view).filter(|row| target.matches(&row.instance)) else { continue };
        if found.is_some() {
            let keys: Vec<&str> = row.instance.class().keys().map(|key| key.name.as_str()).collect();
            let message = format!("several instances match {}: give {}", target.to_path(), keys.join(", "));
            return Err(Error::new(Status::InvalidParameter, message));
        }
        found = Some((item, row));
    }
    let unknown_key = target.keys.iter().find(|(name, _)| !name.is_empty() && class.property(name).is_none());
    match (found, unknown_key) {
        (Some(found), _) => Ok(found),
        (None, Some((name, _))) => {
            Err(Error::new(Status::InvalidParameter, format!("class {} has no key {name}", class.name)))
        }
        (None, None) => Err(Error::not_found(target.to_path().relative())),
    }
}

/// The object a target names, which must not be an association.
///
/// # Errors
/// As [`find`].
pub fn find_object(view: &View, target: &Target) -> Result<Object, Error> {
    match find(view, target)? {
        Item::Object(object) => Ok(object),
        Item::Link(_) => Err(Error::new(Status::InvalidParameter, format!("{} is an association", target.class))),
    }
}

/// Whatever may match a target, of its class and those below it; callers compare. Where the target has the key that
/// tells instances of a class apart, that is at most one of them.
pub fn candidates(view: &View, schema: &Schema, target: &Target) -> Items {
    let objects = members(schema, &target.class).into_iter().map(|class| objects_like(view, class, target));
    let links = ASSOCIATIONS.iter().filter(|association| is_member(schema, &target.class, association.class));
    let links = links.map(|association| links_like(view, association, target));
    Box::new(objects.chain(links).collect::<Vec<Items>>().into_iter().flatten())
}

/// Whether a class or one below it can have instances here at all.
pub fn has_instances(schema: &Schema, class: &str) -> bool {
    !members(schema, class).is_empty() || ASSOCIATIONS.iter().any(|association| schema.is_a(association.class, class))
}

/// All instances of a class and of those below it.
pub fn all(view: &View, schema: &Schema, class: &str) -> Items {
    candidates(view, schema, &Target::new(schema.namespace(), class))
}

/// All instances of exactly this class.
pub fn exactly(view: &View, class: &str) -> Items {
    let everything = Target::new(VIRTUALIZATION, class);
    let members = CLASSES.into_iter().chain(part::CLASSES).filter(|member| case::eq(member, class));
    let objects = members.map(|class| objects_like(view, class, &everything));
    let links = assoc::association(class).into_iter().map(|association| links_like(view, association, &everything));
    Box::new(objects.chain(links).collect::<Vec<Items>>().into_iter().flatten())
}

fn objects_like(view: &View, class: &'static str, target: &Target) -> Items {
    let text = |name: &str| target.key(name).and_then(Value::as_str);
    if let Some(id) = text("").or_else(|| text(id_key(class))) {
        return Box::new(Object::by_id(&view.state, &view.host.name, class, id).map(Item::Object).into_iter());
    }
    let machine = text("VirtualSystemIdentifier").and_then(|id| id.parse().ok());
    match (class, machine) {
        ("Msvm_VirtualSystemSettingData", Some(machine)) => {
            Box::new(settings_of(&view.state, machine).into_iter().map(Object::Settings).map(Item::Object))
        }
        _ => Box::new(objects(&view.state, class).map(Item::Object)),
    }
}

/// The key that tells instances of one of these classes apart; the others are the same for all or follow from it.
fn id_key(class: &str) -> &'static str {
    match class {
        "Msvm_ComputerSystem"
        | "Msvm_VirtualEthernetSwitch"
        | "Msvm_VirtualSystemSnapshotService"
        | "Msvm_VirtualSystemManagementService"
        | "Msvm_VirtualEthernetSwitchManagementService"
        | "Msvm_ImageManagementService" => "Name",
        class if part::CLASSES.contains(&class) => "DeviceID",
        _ => "InstanceID",
    }
}

/// Resources whose instance id begins with this text, if the text is long enough to name their owner.
pub fn with_id_prefix(view: &View, schema: &Schema, class: &str, prefix: &str) -> Option<Items> {
    let (guid, _) = split_settings_id(prefix)?;
    let owner = Owner::of_guid(&view.state, guid)?;
    let members = members(schema, class);
    let beside = match owner {
        Owner::Vm(id) => vec![Object::Summary(id), Object::Export(id)],
        Owner::Snapshot(_) => Vec::new(),
    };
    let objects = std::iter::once(Object::Settings(owner)).chain(beside).chain(assoc::resources(&view.state, owner));
    let objects: Vec<Object> = objects.filter(|object| members.contains(&object.class())).collect();
    Some(Box::new(objects.into_iter().map(Item::Object)))
}

/// All objects of exactly this class, found one by one: an enumeration in progress holds the state and its place in it.
pub fn objects(state: &Arc<State>, class: &'static str) -> Box<dyn Iterator<Item = Object> + Send> {
    match class {
        "Msvm_ComputerSystem" => Box::new(std::iter::once(Object::Host).chain(vms(state).map(Object::Vm))),
        "Msvm_VirtualSystemSettingData" => Box::new(owners(state).map(Object::Settings)),
        "Msvm_SummaryInformation" => Box::new(vms(state).map(Object::Summary)),
        "Msvm_VirtualSystemExportSettingData" => Box::new(vms(state).map(Object::Export)),
        "Msvm_VirtualSystemSnapshotService" => Box::new(std::iter::once(Object::SnapshotService)),
        "Msvm_VirtualSystemManagementService" => Box::new(std::iter::once(Object::ManagementService)),
        "Msvm_VirtualEthernetSwitchManagementService" => Box::new(std::iter::once(Object::SwitchService)),
        "Msvm_ImageManagementService" => Box::new(std::iter::once(Object::ImageService)),
        "Msvm_ResourcePool" | "Msvm_ProcessorPool" | "Msvm_AllocationCapabilities" => {
            Box::new(Object::of_pools().filter(move |object| object.class() == class))
        }
        class if part::CLASSES.contains(&class) => {
            let (vms, state) = (vms(state), Arc::clone(state));
            Box::new(vms.flat_map(move |vm| {
                let parts = state.vms.get(&vm).map(|machine| Part::all(&machine.settings)).unwrap_or_default();
                parts.into_iter().filter(move |part| part.class() == class).map(move |part| Object::Part(vm, part))
            }))
        }
        "Msvm_VirtualEthernetSwitch" => Box::new(SwitchName::all(state).into_iter().map(Object::Switch)),
        "Msvm_ConcreteJob" => Box::new(in_order(state, State::next_job).map(Object::Job)),
        _ => {
            let (owners, state) = (owners(state), Arc::clone(state));
            let resources = owners.flat_map(move |owner| assoc::resources(&state, owner));
            // Those of machines and snapshots first, then those that belong to nobody.
            Box::new(resources.chain(Object::of_pools()).filter(move |object| object.class() == class))
        }
    }
}

fn vms(state: &Arc<State>) -> impl Iterator<Item = VmId> + Send + use<> {
    in_order(state, State::next_vm)
}

/// Everything that has settings, machine by machine.
fn owners(state: &Arc<State>) -> impl Iterator<Item = Owner> + Send + use<> {
    let (vms, state) = (vms(state), Arc::clone(state));
    vms.flat_map(move |vm| settings_of(&state, vm))
}

/// Walks through a part of the state by its ids.
fn in_order<I: Copy + Send + 'static>(
    state: &Arc<State>,
    next: fn(&State, Option<I>) -> Option<I>,
) -> impl Iterator<Item = I> + Send + use<I> {
    let state = Arc::clone(state);
    std::iter::successors(next(&state, None), move |&id| next(&state, Some(id)))
}

/// Current settings first, then those of the snapshots, of which a machine has [`ledger::request::SNAPSHOTS_MAX`] at most.
fn settings_of(state: &State, vm: VmId) -> Vec<Owner> {
    let current = state.vms.contains_key(&vm).then_some(Owner::Vm(vm));
    let snapshots = state.snapshots_of(vm).map(|snapshot| Owner::Snapshot(snapshot.id));
    current.into_iter().chain(snapshots).collect()
}

/// The classes of [`CLASSES`] that are this class or below it.
fn members(schema: &Schema, class: &str) -> Vec<&'static str> {
    if !is_virtualization(schema) {
        return Vec::new();
    }
    let members = CLASSES.into_iter().chain(part::CLASSES);
    members.filter(|member| is_member(schema, class, member)).collect()
}

/// Whether `member`, in its canonical case, is this class or below it. Cheap for the usual class, which has none below it.
fn is_member(schema: &Schema, class: &str, member: &str) -> bool {
    schema.family(class).any(|class| class.name == member)
}

/// Connections of one class; where the target names a side, those of that side.
fn links_like(view: &View, association: &'static Association, target: &Target) -> Items {
    let side = target.keys.iter().find_map(|(name, value)| {
        let is_left = case::eq(name, association.left);
        let side = as_target(value, &target.namespace).filter(|_| is_left || case::eq(name, association.right))?;
        Some((find_object(view, &side), is_left))
    });
    let Some((side, is_left)) = side else { return links(&view.state, association) };
    // What does not exist has no connections.
    let Ok(side) = side else { return Box::new(std::iter::empty()) };
    let others = if is_left { (association.rights)(&view.state, side) } else { (association.lefts)(&view.state, side) };
    Box::new(others.into_iter().map(move |other| {
        let (left, right) = if is_left { (side, other) } else { (other, side) };
        Item::Link(Link { association, left, right })
    }))
}

fn links(state: &Arc<State>, association: &'static Association) -> Items {
    let everything = Arc::clone(state);
    let lefts = association.left_classes.iter().flat_map(move |class| objects(&everything, class));
    let state = Arc::clone(state);
    Box::new(lefts.flat_map(move |left| {
        let rights = (association.rights)(&state, left);
        rights.into_iter().map(move |right| Item::Link(Link { association, left, right }))
    }))
}
