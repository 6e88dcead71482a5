//! `Msvm_SyntheticEthernetPortSettingData`, a network adapter, `Msvm_EthernetPortAllocationSettingData`, what it is
//! connected to, and `Msvm_VirtualEthernetSwitch`, what it can be connected to.
//!
//! There are no virtual switches to manage here. One stands for user-mode networking, and one for each tap interface of
//! the host that machines use; a connection names its switch in `HostResource`.

use cim::Instance;
use ledger::vm::Nic;

use super::blank;
use crate::object::{Device, Object, Owner, SwitchName};
use crate::view::View;

/// An adapter.
pub fn adapter(fresh: Instance, nic: &Nic) -> Instance {
    fresh
        .with("ElementName", &nic.name)
        .with("Address", address(nic))
        .with("StaticMacAddress", true)
        .with("VirtualSystemIdentifiers", [format!("{{{}}}", nic.id)])
}

/// What an adapter is connected to, or could be.
pub fn connection(view: &View, fresh: Instance, owner: Owner, nic: &Nic) -> Instance {
    let switch = SwitchName::of(&nic.network);
    let adapter = Object::Resource(owner, Device::Nic(nic.id)).path(view);
    let resource = switch.map(|name| vec![Object::Switch(name).path(view).to_string()]);
    kind_of_connection(fresh)
        .with("Parent", adapter.to_string())
        .with("EnabledState", if switch.is_some() { 2u16 } else { 3 })
        .with_some("LastKnownSwitchName", switch.map(|name| name.to_string()))
        .with_some("HostResource", resource)
}

/// A connection, whatever of.
pub fn kind_of_connection(fresh: Instance) -> Instance {
    fresh
        .with("ElementName", "Dynamic Ethernet Switch Port")
        .with("ResourceSubType", "Microsoft:Hyper-V:Ethernet Connection")
        .with("VirtualQuantity", 1u64)
        .with("Reservation", 1u64)
        .with("Limit", 1u64)
        .with("AllocationUnits", "count")
        .with("AutomaticAllocation", true)
        .with("AutomaticDeallocation", true)
}

/// The MAC address, as twelve hexadecimal digits.
pub fn address(nic: &Nic) -> String {
    nic.mac.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A switch.
pub fn switch(view: &View, name: SwitchName) -> Instance {
    blank(view, "Msvm_VirtualEthernetSwitch")
        .with("CreationClassName", "Msvm_VirtualEthernetSwitch")
        .with("Name", Object::Switch(name).id(&view.host.name))
        .with("ElementName", name.to_string())
        .with("EnabledState", 2u16)
        .with("RequestedState", 12u16)
        .with("OperationalStatus", [2u16])
        .with("HealthState", 5u16)
}
