//! `Msvm_VirtualSystemExportSettingData`: what an export of a machine would do if nobody changed anything.
//!
//! Backup programs fetch this as a form to fill in, over `Msvm_SystemExportSettingData`, before they call
//! `ExportSystemDefinition`, which says that it is not supported.

use cim::Instance;
use ledger::vm::Vm;

use super::blank;
use crate::object::Object;
use crate::view::View;

/// `CopySnapshotConfiguration`: all snapshots.
const ALL_SNAPSHOTS: u8 = 0;
/// `CaptureLiveState`: a running machine with its memory.
const SAVED_STATE: u8 = 1;
/// `BackupIntent`: chains of layers stay chains.
const PRESERVE_CHAIN: u8 = 0;

/// The default export settings of a machine.
pub fn settings(view: &View, vm: &Vm) -> Instance {
    let object = Object::Export(vm.id);
    blank(view, object.class())
        .with("InstanceID", object.id(&view.host.name))
        .with("Caption", "Virtual Machine Export Settings")
        .with("Description", "Default export settings for the virtual machine")
        .with("ElementName", &vm.name)
        .with("CopySnapshotConfiguration", ALL_SNAPSHOTS)
        .with("CopyVmRuntimeInformation", true)
        .with("CopyVmStorage", true)
        .with("CreateVmExportSubdirectory", true)
        .with("CaptureLiveState", SAVED_STATE)
        .with("BackupIntent", PRESERVE_CHAIN)
}
