//! Associations: which objects are connected, in which role, computed from the state on the spot.
//!
//! Each association is one line of [`ASSOCIATIONS`]: two roles, and two functions from the object in one role to the
//! objects in the other. A test checks that the two agree.

mod devices;

use std::sync::Arc;

use cim::Instance;
use ledger::id::{SnapshotId, VmId};
use ledger::job::{Job, JobKind};
use ledger::state::State;

use crate::class::{blank, role_and_range};
use crate::object::{Device, Object, Owner, Part, Pool, Range, SwitchName};
use crate::view::View;

/// An association class that has instances here.
pub struct Association {
    /// The class.
    pub class: &'static str,
    /// Role of the left side: the name of the reference to it.
    pub left: &'static str,
    /// Role of the right side.
    pub right: &'static str,
    /// Every object that may be on the left side, as a class to enumerate.
    pub left_classes: &'static [&'static str],
    /// From left to right.
    pub rights: fn(&State, Object) -> Vec<Object>,
    /// From right to left.
    pub lefts: fn(&State, Object) -> Vec<Object>,
}

/// An instance of an association.
#[derive(Clone, Copy)]
pub struct Link {
    /// Which association.
    pub association: &'static Association,
    /// The object on its left side.
    pub left: Object,
    /// The object on its right side.
    pub right: Object,
}

const SYSTEM: &str = "Msvm_ComputerSystem";
const SETTINGS: &str = "Msvm_VirtualSystemSettingData";
const SERVICES: [&str; 4] = [
    "Msvm_VirtualSystemManagementService",
    "Msvm_VirtualSystemSnapshotService",
    "Msvm_VirtualEthernetSwitchManagementService",
    "Msvm_ImageManagementService",
];
const POOLS: [&str; 2] = ["Msvm_ResourcePool", "Msvm_ProcessorPool"];
/// What has settings of its own: machines and their devices.
const STATEFUL: [&str; 9] = [
    SYSTEM,
    "Msvm_SerialPort",
    "Msvm_Memory",
    "Msvm_Processor",
    "Msvm_IDEController",
    "Msvm_SCSIProtocolController",
    "Msvm_DiskDrive",
    "Msvm_LogicalDisk",
    "Msvm_SyntheticEthernetPort",
];

/// `ElementEffects`: the job has the element for itself.
const EXCLUSIVE_USE: u16 = 2;
/// The same: the job brings the element into being, or the service manages it.
const CREATE: u16 = 5;

/// All of them. The order is that of answers to a client who does not say which association it means: the settings a
/// machine has now come before those of its snapshots, because there are clients that take the first.
pub static ASSOCIATIONS: [Association; 24] = [
    Association {
        class: "Msvm_SettingsDefineState",
        left: "ManagedElement",
        right: "SettingData",
        left_classes: &STATEFUL,
        rights: |_, object| match object {
            Object::Vm(id) => vec![Object::Settings(Owner::Vm(id))],
            _ => devices::settings(object),
        },
        lefts: |state, object| match object {
            Object::Settings(Owner::Vm(id)) => vec![Object::Vm(id)],
            _ => devices::of_settings(state, object),
        },
    },
    Association {
        class: "Msvm_SnapshotOfVirtualSystem",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &[SYSTEM],
        rights: snapshots_of,
        lefts: vm_of_snapshot,
    },
    Association {
        class: "Msvm_MostCurrentSnapshotInBranch",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &[SYSTEM],
        rights: |state, object| {
            let parent = vm(object).and_then(|id| state.vms.get(&id)).and_then(|vm| vm.parent);
            parent.map(snapshot).into_iter().collect()
        },
        lefts: |state, object| vms_of_snapshot_where(state, object, |vm, snapshot| vm.parent == Some(snapshot)),
    },
    // The other way round than all others: the snapshot is the antecedent.
    Association {
        class: "Msvm_LastAppliedSnapshot",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &[SETTINGS],
        rights: |state, object| vms_of_snapshot_where(state, object, |vm, snapshot| vm.last_applied == Some(snapshot)),
        lefts: |state, object| {
            let applied = vm(object).and_then(|id| state.vms.get(&id)).and_then(|vm| vm.last_applied);
            applied.map(snapshot).into_iter().collect()
        },
    },
    Association {
        class: "Msvm_ElementSettingData",
        left: "ManagedElement",
        right: "SettingData",
        left_classes: &STATEFUL,
        rights: |state, object| match object {
            Object::Vm(_) => snapshots_of(state, object),
            _ => devices::settings(object),
        },
        lefts: |state, object| match object {
            Object::Settings(_) => vm_of_snapshot(state, object),
            _ => devices::of_settings(state, object),
        },
    },
    Association {
        class: "Msvm_SystemExportSettingData",
        left: "ManagedElement",
        right: "SettingData",
        left_classes: &[SYSTEM],
        rights: |_, object| vm(object).map(Object::Export).into_iter().collect(),
        lefts: |_, object| match object {
            Object::Export(id) => vec![Object::Vm(id)],
            _ => Vec::new(),
        },
    },
    Association {
        class: "Msvm_ComputerSystemSummaryInformation",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &[SYSTEM],
        rights: |_, object| vm(object).map(Object::Summary).into_iter().collect(),
        lefts: |_, object| match object {
            Object::Summary(id) => vec![Object::Vm(id)],
            _ => Vec::new(),
        },
    },
    Association {
        class: "Msvm_VirtualSystemSettingDataComponent",
        left: "GroupComponent",
        right: "PartComponent",
        left_classes: &[SETTINGS],
        rights: |state, object| match object {
            Object::Settings(owner) => resources(state, owner),
            _ => Vec::new(),
        },
        lefts: |_, object| match object {
            Object::Resource(owner, _) => vec![Object::Settings(owner)],
            _ => Vec::new(),
        },
    },
    Association {
        class: "Msvm_ParentChildSettingData",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &[SETTINGS],
        rights: children,
        lefts: |state, object| parent(state, object).map(snapshot).into_iter().collect(),
    },
    Association {
        class: "Msvm_AffectedJobElement",
        left: "AffectedElement",
        right: "AffectingElement",
        left_classes: &[SYSTEM, SETTINGS],
        rights: |state, object| {
            let owner = match object {
                Object::Vm(id) => Some(id),
                Object::Settings(Owner::Snapshot(id)) => state.snapshots.get(&id).map(|snapshot| snapshot.vm),
                _ => None,
            };
            let jobs = owner.into_iter().flat_map(|vm| state.jobs_of(vm));
            jobs.filter(|job| affected(state, job).contains(&object)).map(|job| Object::Job(job.id)).collect()
        },
        lefts: |state, object| match object {
            Object::Job(id) => state.jobs.get(&id).map(|job| affected(state, job)).unwrap_or_default(),
            _ => Vec::new(),
        },
    },
    Association {
        class: "Msvm_OwningJobElement",
        left: "OwningElement",
        right: "OwnedElement",
        left_classes: &SERVICES,
        rights: |state, object| match object {
            Object::SnapshotService | Object::ManagementService | Object::ImageService => {
                let owned = state.jobs.values().filter(|job| service_of(job) == object);
                owned.map(|job| Object::Job(job.id)).collect()
            }
            _ => Vec::new(),
        },
        lefts: |state, object| match object {
            Object::Job(id) => state.jobs.get(&id).map(service_of).into_iter().collect(),
            _ => Vec::new(),
        },
    },
    Association {
        class: "Msvm_ServiceAffectsElement",
        left: "AffectingElement",
        right: "AffectedElement",
        left_classes: &SERVICES,
        rights: |state, object| match object {
            Object::SwitchService => SwitchName::all(state).into_iter().map(Object::Switch).collect(),
            Object::SnapshotService | Object::ManagementService => all_vms(state),
            _ => Vec::new(),
        },
        lefts: |_, object| match object {
            Object::Switch(_) => vec![Object::SwitchService],
            Object::Vm(_) => vec![Object::ManagementService, Object::SnapshotService],
            _ => Vec::new(),
        },
    },
    Association {
        class: "Msvm_HostedService",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &[SYSTEM],
        rights: |_, object| if object == Object::Host { services() } else { Vec::new() },
        lefts: |_, object| if is_service(object) { vec![Object::Host] } else { Vec::new() },
    },
    Association {
        class: "Msvm_HostedDependency",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &[SYSTEM],
        rights: |state, object| if object == Object::Host { all_vms(state) } else { Vec::new() },
        lefts: |_, object| if vm(object).is_some() { vec![Object::Host] } else { Vec::new() },
    },
    Association {
        class: "Msvm_SystemDevice",
        left: "GroupComponent",
        right: "PartComponent",
        left_classes: &[SYSTEM],
        rights: |state, object| vm(object).map(|id| devices::all(state, id)).unwrap_or_default(),
        lefts: |_, object| match object {
            Object::Part(id, _) => vec![Object::Vm(id)],
            _ => Vec::new(),
        },
    },
    Association {
        class: "Msvm_VideoHeadOnController",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &["Msvm_SyntheticDisplayController"],
        rights: |_, object| devices::beside(object, Part::Display, &[Part::VideoHead]),
        lefts: |_, object| devices::beside(object, Part::VideoHead, &[Part::Display]),
    },
    Association {
        class: "Msvm_SerialPortOnSerialController",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &["Msvm_SerialController"],
        rights: |_, object| devices::beside(object, Part::SerialController, &devices::SERIAL_PORTS),
        lefts: |_, object| {
            let ports = devices::SERIAL_PORTS.into_iter();
            ports.flat_map(|port| devices::beside(object, port, &[Part::SerialController])).collect()
        },
    },
    Association {
        class: "Msvm_ControlledBy",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &["Msvm_IDEController", "Msvm_SCSIProtocolController"],
        rights: devices::drives,
        lefts: devices::controller,
    },
    Association {
        class: "Msvm_MediaPresent",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &["Msvm_DiskDrive"],
        rights: devices::medium,
        lefts: devices::drive_of_medium,
    },
    Association {
        class: "Msvm_HostedResourcePool",
        left: "GroupComponent",
        right: "PartComponent",
        left_classes: &[SYSTEM],
        rights: |_, object| if object == Object::Host { Pool::ALL.map(Object::Pool).to_vec() } else { Vec::new() },
        lefts: |_, object| if matches!(object, Object::Pool(_)) { vec![Object::Host] } else { Vec::new() },
    },
    Association {
        class: "Msvm_ElementCapabilities",
        left: "ManagedElement",
        right: "Capabilities",
        left_classes: &POOLS,
        rights: |_, object| if let Object::Pool(pool) = object { vec![Object::Allocation(pool)] } else { Vec::new() },
        lefts: |_, object| if let Object::Allocation(pool) = object { vec![Object::Pool(pool)] } else { Vec::new() },
    },
    Association {
        class: "Msvm_SettingsDefineCapabilities",
        left: "GroupComponent",
        right: "PartComponent",
        left_classes: &["Msvm_AllocationCapabilities"],
        rights: |_, object| match object {
            Object::Allocation(pool) => Range::ALL.map(|range| Object::Definition(pool, range)).to_vec(),
            _ => Vec::new(),
        },
        lefts: |_, object| match object {
            Object::Definition(pool, _) => vec![Object::Allocation(pool)],
            _ => Vec::new(),
        },
    },
    Association {
        class: "Msvm_ElementAllocatedFromPool",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &POOLS,
        rights: devices::from_pool,
        lefts: devices::pool,
    },
    Association {
        class: "Msvm_ResourceAllocationFromPool",
        left: "Antecedent",
        right: "Dependent",
        left_classes: &POOLS,
        rights: devices::settings_from_pool,
        lefts: devices::pool_of_settings,
    },
];

/// The association of this class, if it has instances here.
pub fn association(class: &str) -> Option<&'static Association> {
    ASSOCIATIONS.iter().find(|association| cim::case::eq(association.class, class))
}

/// Every connection of an object by the associations that are `wanted`, in the order of [`ASSOCIATIONS`]: the link, and whether the
/// object is on its left.
pub fn links_of(state: &State, object: Object, wanted: impl Fn(&Association) -> bool) -> Vec<(Link, bool)> {
    let links = |association: &'static Association| {
        let rights = (association.rights)(state, object).into_iter();
        let lefts = (association.lefts)(state, object).into_iter();
        rights
            .map(move |right| (Link { association, left: object, right }, true))
            .chain(lefts.map(move |left| (Link { association, left, right: object }, false)))
    };
    ASSOCIATIONS.iter().filter(|association| wanted(association)).flat_map(links).collect()
}

impl Link {
    /// The instance; both references are its keys.
    pub fn instance(&self, view: &View) -> Instance {
        let instance = blank(view, self.association.class)
            .with(self.association.left, self.left.reference(view))
            .with(self.association.right, self.right.reference(view));
        match (self.association.class, self.right) {
            ("Msvm_AffectedJobElement", Object::Job(job)) => {
                let creates = view.state.jobs.get(&job).is_some_and(|job| is_created_by(job, self.left));
                instance.with("ElementEffects", [if creates { CREATE } else { EXCLUSIVE_USE }])
            }
            ("Msvm_ServiceAffectsElement", _) => instance.with("ElementEffects", [CREATE]),
            ("Msvm_MediaPresent", _) => instance.with("FixedMedia", true),
            ("Msvm_SettingsDefineCapabilities", Object::Definition(_, range)) => {
                let (value_role, value_range) = role_and_range(range);
                instance.with("ValueRole", value_role).with("ValueRange", value_range)
            }
            _ => instance,
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?}", self.association.class, self.left, self.right)
    }
}

impl PartialEq for Link {
    fn eq(&self, other: &Self) -> bool {
        self.association.class == other.association.class && self.left == other.left && self.right == other.right
    }
}

/// The current settings and resources, or a snapshot's.
pub fn resources(state: &State, owner: Owner) -> Vec<Object> {
    let devices = owner.hardware(state).map(Device::all).unwrap_or_default();
    devices.into_iter().map(|device| Object::Resource(owner, device)).collect()
}

/// What a job works on: the machine, and the one snapshot it is about. Never the machine's current settings: clients
/// take *the* settings related to a job that took a snapshot for that snapshot.
fn affected(state: &State, job: &Arc<Job>) -> Vec<Object> {
    let about = job.snapshot.map(snapshot);
    std::iter::once(Object::Vm(job.vm)).chain(about).filter(|object| object.exists(state)).collect()
}

fn is_created_by(job: &Job, object: Object) -> bool {
    match job.kind {
        JobKind::CreateSnapshot => job.snapshot.map(snapshot) == Some(object),
        JobKind::Define => object == Object::Vm(job.vm),
        _ => false,
    }
}

fn service_of(job: &Arc<Job>) -> Object {
    match job.kind {
        JobKind::CreateSnapshot | JobKind::ApplySnapshot | JobKind::DestroySnapshot | JobKind::ClearSnapshotState => {
            Object::SnapshotService
        }
        JobKind::CreateImage
        | JobKind::ConvertImage
        | JobKind::ResizeImage
        | JobKind::MergeImages
        | JobKind::ValidateImage => Object::ImageService,
        _ => Object::ManagementService,
    }
}

fn vm(object: Object) -> Option<VmId> {
    if let Object::Vm(id) = object { Some(id) } else { None }
}

fn snapshot(id: SnapshotId) -> Object {
    Object::Settings(Owner::Snapshot(id))
}

fn services() -> Vec<Object> {
    vec![Object::ManagementService, Object::SnapshotService, Object::SwitchService, Object::ImageService]
}

fn is_service(object: Object) -> bool {
    matches!(object, Object::SnapshotService | Object::ManagementService | Object::SwitchService | Object::ImageService)
}

fn all_vms(state: &State) -> Vec<Object> {
    state.vms.keys().map(|&id| Object::Vm(id)).collect()
}

fn snapshots_of(state: &State, object: Object) -> Vec<Object> {
    vm(object).into_iter().flat_map(|id| state.snapshots_of(id)).map(|found| snapshot(found.id)).collect()
}

fn vm_of_snapshot(state: &State, object: Object) -> Vec<Object> {
    vms_of_snapshot_where(state, object, |_, _| true)
}

fn vms_of_snapshot_where(
    state: &State,
    object: Object,
    holds: impl Fn(&ledger::vm::Vm, SnapshotId) -> bool,
) -> Vec<Object> {
    let Object::Settings(Owner::Snapshot(id)) = object else { return Vec::new() };
    let vm = state.snapshots.get(&id).and_then(|snapshot| state.vms.get(&snapshot.vm));
    vm.filter(|vm| holds(vm, id)).map(|vm| Object::Vm(vm.id)).into_iter().collect()
}

fn parent(state: &State, object: Object) -> Option<SnapshotId> {
    match object {
        Object::Settings(Owner::Vm(id)) => state.vms.get(&id)?.parent,
        Object::Settings(Owner::Snapshot(id)) => state.snapshots.get(&id)?.parent,
        _ => None,
    }
}

fn children(state: &State, object: Object) -> Vec<Object> {
    let Object::Settings(Owner::Snapshot(id)) = object else { return Vec::new() };
    let Some(parent) = state.snapshots.get(&id) else { return Vec::new() };
    let current = state.vms.get(&parent.vm).filter(|vm| vm.parent == Some(id));
    let snapshots = state.children_of(parent).map(|child| snapshot(child.id));
    snapshots.chain(current.map(|vm| Object::Settings(Owner::Vm(vm.id)))).collect()
}
