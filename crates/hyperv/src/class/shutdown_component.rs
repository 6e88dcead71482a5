//! `Msvm_ShutdownComponent`: through which a guest is asked to shut down. Here that is the power button of every machine.

use cim::Instance;
use ledger::vm::{Power, Vm};

use super::blank;
use crate::object::Object;
use crate::view::View;

/// The component of a machine; enabled while the guest runs.
pub fn component(view: &View, vm: &Vm) -> Instance {
    let (enabled, status) = match vm.power {
        Power::Running => (2u16, 2u16),
        // No contact.
        _ => (3, 12),
    };
    blank(view, "Msvm_ShutdownComponent")
        .with("SystemCreationClassName", "Msvm_ComputerSystem")
        .with("SystemName", vm.id.to_string())
        .with("CreationClassName", "Msvm_ShutdownComponent")
        .with("DeviceID", Object::Shutdown(vm.id).id(&view.host.name))
        .with("EnabledState", enabled)
        .with("OperationalStatus", [status])
        .with("StatusDescriptions", [if enabled == 2 { "OK" } else { "The guest is not running" }])
}
