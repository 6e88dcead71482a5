//! `Msvm_SyntheticEthernetPortSettingData`, a network adapter, and `Msvm_EthernetPortAllocationSettingData`, what it is
//! connected to.
//!
//! There are no virtual switches to manage here. A connection names what it leads to in `HostResource`, as a path of
//! `Msvm_VirtualEthernetSwitch` whose `Name` is [`USER`] for user-mode networking or the name of a tap interface.

use cim::{Instance, ObjectPath};
use ledger::vm::{Network, Nic};

use crate::object::{Device, Object, Owner};
use crate::view::View;

/// Name of the switch that stands for user-mode networking.
pub const USER: &str = "user";
/// The class that a connection's host resource is a path of.
pub const SWITCH: &str = "Msvm_VirtualEthernetSwitch";

/// An adapter.
pub fn adapter(fresh: Instance, nic: &Nic) -> Instance {
    let mac: String = nic.mac.iter().map(|byte| format!("{byte:02X}")).collect();
    fresh
        .with("ElementName", &nic.name)
        .with("Address", mac)
        .with("StaticMacAddress", true)
        .with("VirtualSystemIdentifiers", [format!("{{{}}}", nic.id)])
}

/// What an adapter is connected to, or could be.
pub fn connection(view: &View, fresh: Instance, owner: Owner, nic: &Nic) -> Instance {
    let switch = match &nic.network {
        Network::Unconnected => None,
        Network::User => Some(USER),
        Network::Tap(name) => Some(name.as_str()),
    };
    let adapter = Object::Resource(owner, Device::Nic(nic.id)).path(view);
    let resource = switch.map(|name| vec![switch_path(view, name).to_string()]);
    fresh
        .with("ElementName", "Dynamic Ethernet Switch Port")
        .with("ResourceSubType", "Microsoft:Hyper-V:Ethernet Connection")
        .with("Parent", adapter.to_string())
        .with("EnabledState", if switch.is_some() { 2u16 } else { 3 })
        .with("VirtualQuantity", 1u64)
        .with("Reservation", 1u64)
        .with("Limit", 1u64)
        .with("AllocationUnits", "count")
        .with("AutomaticAllocation", true)
        .with("AutomaticDeallocation", true)
        .with_some("LastKnownSwitchName", switch)
        .with_some("HostResource", resource)
}

fn switch_path(view: &View, name: &str) -> ObjectPath {
    ObjectPath::new(SWITCH)
        .with_host(&view.host.name)
        .with_namespace(view.namespaces.virtualization().namespace())
        .with_key("CreationClassName", SWITCH)
        .with_key("Name", name)
}
