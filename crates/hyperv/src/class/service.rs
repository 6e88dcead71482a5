//! `Msvm_VirtualSystemSnapshotService`, `Msvm_VirtualSystemManagementService`, `Msvm_ImageManagementService` and
//! `Msvm_VirtualEthernetSwitchManagementService`: one of each, always running.

use cim::Instance;

use super::blank;
use crate::object::Object;
use crate::view::View;

/// One of the services.
pub fn service(view: &View, object: Object) -> Instance {
    let name = match object {
        Object::SnapshotService => "Hyper-V Virtual System Snapshot Service",
        Object::SwitchService => "Hyper-V Networking Management Service",
        Object::ImageService => "Hyper-V Image Management Service",
        _ => "Hyper-V Virtual System Management Service",
    };
    blank(view, object.class())
        .with("SystemCreationClassName", "Msvm_ComputerSystem")
        .with("SystemName", &view.host.name)
        .with("CreationClassName", object.class())
        .with("Name", object.id(&view.host.name))
        .with("Caption", name)
        .with("ElementName", name)
        .with("EnabledState", 2u16)
        .with("RequestedState", 12u16)
        .with("EnabledDefault", 2u16)
        .with("TransitioningToState", 12u16)
        .with("OperationalStatus", [2u16])
        .with("StatusDescriptions", ["The service is running normally"])
        .with("HealthState", 5u16)
        .with("Started", true)
}
