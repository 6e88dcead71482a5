//! `Msvm_VirtualSystemSettingData`: the settings of a machine, and every snapshot.
//!
//! A snapshot has no class of its own. What tells the two apart is `VirtualSystemType`; what ties them together is
//! `VirtualSystemIdentifier`, and `Parent`, which points from each snapshot to the one it is based on and from the
//! current settings to the snapshot that the present state descends from.

use cim::{DateTime, Instance};
use ledger::id::{SnapshotId, VmId};
use ledger::paths::Paths;
use ledger::snapshot::{Purpose, Snapshot};
use ledger::vm::{Firmware, Power, Settings, SnapshotKind, Startup, Vm};

use super::blank;
use crate::object::{Object, Owner};
use crate::view::{View, datetime};

/// `VirtualSystemSubType` of a machine with a BIOS.
pub const SUBTYPE_1: &str = "Microsoft:Hyper-V:SubType:1";
/// The same with UEFI.
pub const SUBTYPE_2: &str = "Microsoft:Hyper-V:SubType:2";

/// `Version`: the configuration version whose features come closest. 5.0 would say that there is no UEFI, 8.0 and later
/// would promise what is not here.
const VERSION: &str = "6.2";

/// What a machine is set to now.
pub fn current(view: &View, vm: &Vm) -> Instance {
    let notes = (!vm.notes.is_empty()).then(|| vec![vm.notes.as_str()]);
    common(view, Owner::Vm(vm.id), vm.id, &vm.settings, vm.parent)
        .with("ElementName", &vm.name)
        .with("Description", "Active settings for the virtual machine")
        .with("VirtualSystemType", "Microsoft:Hyper-V:System:Realized")
        .with("CreationTime", datetime(vm.created))
        .with("UserSnapshotType", user_snapshot_type(vm.snapshot_kind))
        .with("IsSaved", vm.power == Power::Saved)
        .with_some("Notes", notes)
}

/// A snapshot.
pub fn snapshot(view: &View, snapshot: &Snapshot) -> Instance {
    let kind = match snapshot.purpose {
        Purpose::User => "Microsoft:Hyper-V:Snapshot:Realized",
        Purpose::Recovery => "Microsoft:Hyper-V:Snapshot:Recovery",
    };
    let notes = (!snapshot.notes.is_empty()).then(|| vec![snapshot.notes.as_str()]);
    common(view, Owner::Snapshot(snapshot.id), snapshot.vm, &snapshot.settings, snapshot.parent)
        .with("ElementName", &snapshot.name)
        .with("Description", "Snapshot settings for the virtual machine")
        .with("VirtualSystemType", kind)
        .with("CreationTime", datetime(snapshot.created))
        .with("UserSnapshotType", user_snapshot_type(snapshot.snapshot_kind))
        .with("IsSaved", snapshot.memory.is_some())
        .with_some("Notes", notes)
}

fn common(view: &View, owner: Owner, vm: VmId, hardware: &Settings, parent: Option<SnapshotId>) -> Instance {
    let object = Object::Settings(owner);
    let directory = Paths::new(&view.host.data_root).vm(vm).display().to_string();
    let startup = vm_startup(view, vm);
    let parent = parent.map(|id| Object::Settings(Owner::Snapshot(id)).path(view).to_string());
    let (subtype, boot_order) = match hardware.firmware {
        // CD-ROM, disk, network, floppy: what Hyper-V writes for generation 1; generation 2 has no such list.
        Firmware::Bios => (SUBTYPE_1, vec![1u16, 2, 3, 0]),
        Firmware::Uefi => (SUBTYPE_2, Vec::new()),
    };
    blank(view, object.class())
        .with("InstanceID", object.id(&view.host.name))
        .with("VirtualSystemIdentifier", vm.to_string())
        .with("VirtualSystemSubType", subtype)
        .with("ConfigurationID", format!("{:X}", owner.guid().as_hyphenated()))
        .with("ConfigurationDataRoot", directory.as_str())
        .with("SnapshotDataRoot", directory.as_str())
        .with("SuspendDataRoot", directory.as_str())
        .with("SwapFileDataRoot", directory.as_str())
        .with("LogDataRoot", directory.as_str())
        // Machines are not brought back when they end, and outlive the service.
        .with("AutomaticStartupAction", automatic_startup_action(startup))
        .with("AutomaticStartupActionDelay", DateTime::from_interval_micros(0))
        .with("AutomaticStartupActionSequenceNumber", 0u16)
        .with("AutomaticShutdownAction", 2u16)
        .with("AutomaticRecoveryAction", 2u16)
        .with("BIOSGUID", format!("{{{:X}}}", hardware.bios_guid.as_hyphenated()))
        .with("BootOrder", boot_order)
        .with("Architecture", "x64")
        .with("DebugChannelId", 0u32)
        .with("DebugPortEnabled", 0u16)
        .with("DebugPort", 0u32)
        .with("NetworkBootPreferredProtocol", 4096u16)
        .with("AutomaticCriticalErrorAction", 0u16)
        .with("AutomaticCriticalErrorActionTimeout", DateTime::from_interval_micros(0))
        .with("ConsoleMode", 0u16)
        .with("LowMmioGapSize", 0u64)
        .with("HighMmioGapSize", 0u64)
        .with("EnhancedSessionTransportType", 0u16)
        .with("Version", VERSION)
        .with_some("Parent", parent)
}

/// Of the machine, also for its snapshots: it is not brought back with one.
fn vm_startup(view: &View, vm: VmId) -> Startup {
    view.state.vms.get(&vm).map(|vm| vm.startup).unwrap_or_default()
}

/// `AutomaticStartupAction` as a number.
fn automatic_startup_action(startup: Startup) -> u16 {
    match startup {
        Startup::Nothing => 2,
        Startup::Start => 4,
    }
}

/// `AutomaticStartupAction` from a number; `None` for those without a meaning here. To start a machine if it ran when
/// the host went down, 3, would take knowing that it did, which a host that went down can no longer say.
pub fn startup(number: u64) -> Option<Startup> {
    [Startup::Nothing, Startup::Start]
        .into_iter()
        .find(|startup| u64::from(automatic_startup_action(*startup)) == number)
}

/// `UserSnapshotType` as a number.
pub fn user_snapshot_type(kind: SnapshotKind) -> u16 {
    match kind {
        SnapshotKind::Disabled => 2,
        SnapshotKind::ProductionOrStandard => 3,
        SnapshotKind::ProductionOnly => 4,
        SnapshotKind::Standard => 5,
    }
}

/// `UserSnapshotType` from a number; `None` for those without a meaning.
pub fn snapshot_kind(number: u64) -> Option<SnapshotKind> {
    use SnapshotKind::{Disabled, ProductionOnly, ProductionOrStandard, Standard};
    let kinds = [Disabled, ProductionOrStandard, ProductionOnly, Standard];
    kinds.into_iter().find(|kind| u64::from(user_snapshot_type(*kind)) == number)
}
