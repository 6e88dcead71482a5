//! Instances of the classes that have any here. One file for each class, or for a family that shares its properties.
//!
//! Every instance starts from the defaults its class declares and has a value for every boolean, because clients in the
//! field take a NULL boolean for true. What stays NULL does not exist here.

mod computer_system;
mod error;
mod ethernet;
mod export;
mod job;
mod part;
mod pool;
mod processor_memory;
mod serial_port;
mod service;
mod setting_data;
mod storage;
mod summary;

use cim::{CimType, Instance, Value};
use ledger::vm::Settings;

pub use error::error;
pub use pool::{DEFAULT_MEMORY_MIB, DEFAULT_PROCESSORS, role_and_range};
pub use setting_data::{SUBTYPE_1, SUBTYPE_2, snapshot_kind, startup, user_snapshot_type};
pub use summary::summary;

use crate::object::{Device, Object, Owner};
use crate::view::View;

/// The instance of an object; `None` if the state does not have it.
pub fn instance(view: &View, object: Object) -> Option<Instance> {
    let state = &view.state;
    let instance = match object {
        Object::Host => computer_system::host(view),
        Object::Vm(id) => computer_system::machine(view, state.vms.get(&id)?),
        Object::Settings(Owner::Vm(id)) => setting_data::current(view, state.vms.get(&id)?),
        Object::Settings(Owner::Snapshot(id)) => setting_data::snapshot(view, state.snapshots.get(&id)?),
        Object::Summary(id) => summary::everything(view, state.vms.get(&id)?.id),
        Object::Export(id) => export::settings(view, state.vms.get(&id)?),
        Object::Resource(owner, device) => resource(view, owner, device, owner.hardware(state)?)?,
        Object::SnapshotService | Object::ManagementService | Object::SwitchService | Object::ImageService => {
            service::service(view, object)
        }
        Object::Job(id) => job::job(view, state.jobs.get(&id)?),
        Object::Part(id, part) => part::part(view, state.vms.get(&id)?, part)?,
        Object::Switch(name) => ethernet::switch(view, name),
        Object::Pool(pool) => pool::pool(view, pool),
        Object::Allocation(pool) => pool::capabilities(view, pool),
        Object::Definition(pool, range) => pool::definition(view, pool, range),
    };
    Some(with_every_boolean(instance))
}

fn resource(view: &View, owner: Owner, device: Device, hardware: &Settings) -> Option<Instance> {
    let object = Object::Resource(owner, device);
    let fresh = blank(view, object.class()).with("InstanceID", object.id(&view.host.name));
    Some(match device {
        Device::Processor => processor_memory::processor(fresh, hardware.processors),
        Device::Memory => processor_memory::memory(fresh, hardware.memory_mib),
        Device::Controller(id) => storage::controller(fresh, hardware.controllers.iter().find(|c| c.id == id)?),
        Device::Drive(id) => storage::drive(view, fresh, owner, hardware.drives.iter().find(|d| d.id == id)?),
        Device::Disk(id) => storage::disk(view, fresh, owner, hardware.drives.iter().find(|d| d.id == id)?)?,
        Device::Nic(id) => ethernet::adapter(fresh, hardware.nics.iter().find(|n| n.id == id)?),
        Device::Connection(id) => ethernet::connection(view, fresh, owner, hardware.nics.iter().find(|n| n.id == id)?),
        Device::Serial(number) => serial_port::port(view, fresh, owner, number),
    })
}

/// An instance of a class of this crate's own schema, with the defaults of its declaration.
pub(crate) fn blank(view: &View, class: &str) -> Instance {
    let schema = view.namespaces.virtualization();
    Instance::with_defaults(
        schema.class(class).expect("classes named in this crate are in its schema, a test makes each"),
    )
}

/// A client reads a NULL boolean as true, so there are none.
pub(crate) fn with_every_boolean(instance: Instance) -> Instance {
    instance.with_nulls_filled(|property| {
        let data_type = &property.data_type;
        (data_type.cim_type == CimType::Boolean && !data_type.is_array).then_some(Value::Bool(false))
    })
}
