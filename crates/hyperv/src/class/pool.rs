//! `Msvm_ResourcePool` and `Msvm_ProcessorPool`, `Msvm_AllocationCapabilities`, and the settings that define them: what a
//! resource is by default, at least, at most, and in which steps.

use cim::Instance;
use ledger::request::{MEMORY_MIB, PROCESSORS_MAX};
use ledger::vm::Bus;

use super::{blank, ethernet, processor_memory, serial_port, storage};
use crate::object::{Object, Pool, Range};
use crate::view::View;

/// Processors and memory in MiB of a machine whose definition does not say.
pub const DEFAULT_PROCESSORS: u32 = 1;
/// See [`DEFAULT_PROCESSORS`].
pub const DEFAULT_MEMORY_MIB: u64 = 1024;

/// `ValueRole`: what holds if nothing is said, and what is possible.
const ROLE_DEFAULT: u16 = 0;
const ROLE_SUPPORTED: u16 = 3;

/// A pool: all that the host has. What is handed out is not counted, because memory and processors can be promised twice.
pub fn pool(view: &View, pool: Pool) -> Instance {
    let definition = definition(view, pool, Range::Default);
    let capacity = match pool {
        Pool::Processor => Some(u64::from(view.host.processors)),
        Pool::Memory => Some(view.host.memory_bytes >> 20),
        _ => None,
    };
    of_kind(blank(view, pool.class()), &definition)
        .with("InstanceID", Object::Pool(pool).id(&view.host.name))
        .with("ElementName", definition.text("ElementName").unwrap_or_default())
        .with("PoolID", "")
        .with("Primordial", true)
        .with("OperationalStatus", [2u16])
        .with("StatusDescriptions", ["OK"])
        .with("HealthState", 5u16)
        .with("AllocationUnits", if pool == Pool::Memory { "byte * 2^20" } else { "count" })
        .with_some("Capacity", capacity)
}

/// What a pool can be asked for.
pub fn capabilities(view: &View, pool: Pool) -> Instance {
    let definition = definition(view, pool, Range::Default);
    of_kind(blank(view, "Msvm_AllocationCapabilities"), &definition)
        .with("InstanceID", Object::Allocation(pool).id(&view.host.name))
        .with("ElementName", definition.text("ElementName").unwrap_or_default())
        .with("RequestTypesSupported", 2u16)
        .with("SharingMode", if matches!(pool, Pool::Processor | Pool::Memory) { 3u16 } else { 2 })
        .with("SupportedAddStates", [3u16])
        .with("SupportedRemoveStates", [3u16])
}

/// Settings that define the capabilities of a pool.
pub fn definition(view: &View, pool: Pool, range: Range) -> Instance {
    let fresh = blank(view, pool.settings_class());
    let instance = match pool {
        Pool::Processor => processor_memory::processor(fresh, processors(range)),
        Pool::Memory => processor_memory::memory(fresh, memory_mib(range)),
        Pool::Ide => storage::kind_of_controller(fresh, Bus::Ide),
        Pool::Scsi => storage::kind_of_controller(fresh, Bus::Scsi),
        Pool::Drive => storage::kind_of_drive(fresh),
        Pool::Disk => storage::kind_of_disk(fresh),
        Pool::Adapter => fresh.with("ElementName", "Network Adapter"),
        Pool::Connection => ethernet::kind_of_connection(fresh),
        Pool::Serial => serial_port::kind_of_port(fresh).with("ElementName", "Serial Port"),
    };
    instance.with("InstanceID", Object::Definition(pool, range).id(&view.host.name))
}

/// `ValueRole` and `ValueRange` of the connection between capabilities and the settings that define them.
pub fn role_and_range(range: Range) -> (u16, u16) {
    match range {
        Range::Default => (ROLE_DEFAULT, 0),
        Range::Minimum => (ROLE_SUPPORTED, 1),
        Range::Maximum => (ROLE_SUPPORTED, 2),
        Range::Increment => (ROLE_SUPPORTED, 3),
    }
}

fn processors(range: Range) -> u32 {
    match range {
        Range::Default => DEFAULT_PROCESSORS,
        Range::Minimum | Range::Increment => 1,
        Range::Maximum => PROCESSORS_MAX,
    }
}

fn memory_mib(range: Range) -> u64 {
    match range {
        Range::Default => DEFAULT_MEMORY_MIB,
        Range::Minimum => *MEMORY_MIB.start(),
        Range::Maximum => *MEMORY_MIB.end(),
        Range::Increment => 1,
    }
}

/// The kind of resource, as its settings say it.
fn of_kind(instance: Instance, definition: &Instance) -> Instance {
    ["ResourceType", "ResourceSubType"]
        .into_iter()
        .fold(instance, |instance, property| instance.with_some(property, definition.get(property).cloned()))
}
