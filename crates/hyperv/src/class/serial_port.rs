//! `Msvm_SerialPortSettingData`: COM 1, which is the machine's console, and COM 2.

use cim::Instance;

use crate::object::Owner;
use crate::view::View;

/// A port, numbered from zero. A snapshot's is where the machine's is: it has no process of its own.
pub fn port(view: &View, fresh: Instance, owner: Owner, number: u8) -> Instance {
    let path = owner.vm(&view.state).and_then(|vm| (view.host.serial)(vm, number));
    let name = format!("COM {}", u16::from(number) + 1);
    kind_of_port(fresh)
        .with("ElementName", name.as_str())
        .with("Caption", name)
        .with("AddressOnParent", number.to_string())
        .with("Connection", [path.map(|path| path.display().to_string()).unwrap_or_default()])
}

/// A port, whatever of.
pub fn kind_of_port(fresh: Instance) -> Instance {
    fresh
        .with("Description", "Settings for the Microsoft Serial Port")
        .with("ResourceType", 21u16)
        .with("ResourceSubType", "Microsoft:Hyper-V:Serial Port")
        .with("AutomaticAllocation", true)
        .with("AutomaticDeallocation", true)
        .with("VirtualQuantity", 1u64)
        .with("Reservation", 1u64)
        .with("Limit", 1u64)
        .with("Weight", 0u32)
}
