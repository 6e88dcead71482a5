//! `Msvm_ComputerSystem`: the host, and every machine.

use cim::Instance;
use ledger::job::{Job, JobKind};
use ledger::vm::{Power, Vm};

use super::blank;
use crate::codes;
use crate::object::Object;
use crate::view::{View, datetime};

/// `EnabledState`, `RequestedState`: running.
pub const ENABLED: u16 = 2;
/// The same: off.
pub const DISABLED: u16 = 3;
/// The same: memory saved to disk.
pub const OFFLINE: u16 = 6;
/// The same: paused.
pub const QUIESCE: u16 = 9;
/// `RequestedState`: reset.
const RESET: u16 = 11;
/// `RequestedState`: nothing is asked for.
const NOT_APPLICABLE: u16 = 12;

/// `OperationalStatus[0]`: fine.
const OK: u16 = 2;
/// The same: busy, other work is refused.
const IN_SERVICE: u16 = 11;

/// The host itself.
pub fn host(view: &View) -> Instance {
    common(blank(view, "Msvm_ComputerSystem"), &view.host.name, &view.host.name)
        .with("Caption", "Hosting Computer System")
        .with("Description", "Microsoft Hosting Computer System")
        .with("EnabledState", ENABLED)
        .with("RequestedState", NOT_APPLICABLE)
        .with("TransitioningToState", NOT_APPLICABLE)
        .with("OperationalStatus", [OK])
        .with("StatusDescriptions", ["OK"])
}

/// A machine.
pub fn machine(view: &View, vm: &Vm) -> Instance {
    let job = view.state.active_job(vm.id);
    let requested = job.map_or(NOT_APPLICABLE, |job| requested_state(job));
    let (status, descriptions) = operational_status(job.map(|job| &**job));
    let on_time = match vm.power {
        Power::Running => view.now.micros_since(vm.power_changed) / 1000,
        _ => 0,
    };
    let process = if vm.power.has_process() { (view.host.process)(vm.id) } else { None };
    common(blank(view, "Msvm_ComputerSystem"), &Object::Vm(vm.id).id(&view.host.name), &vm.name)
        .with("Caption", "Virtual Machine")
        .with("Description", "Microsoft Virtual Computer System")
        .with("InstallDate", datetime(vm.created))
        .with("EnabledState", enabled_state(vm.power))
        .with("RequestedState", requested)
        .with("TransitioningToState", requested)
        .with("AvailableRequestedStates", available_states(vm.power))
        .with("OperationalStatus", status)
        .with("StatusDescriptions", descriptions)
        .with("TimeOfLastStateChange", datetime(vm.power_changed))
        .with("TimeOfLastConfigurationChange", datetime(vm.configuration_changed))
        .with("OnTimeInMilliseconds", on_time)
        .with_some("ProcessID", process)
}

fn common(instance: Instance, name: &str, element_name: &str) -> Instance {
    // Replication and enhanced sessions do not exist here, which these numbers say.
    instance
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", name)
        .with("ElementName", element_name)
        .with("NumberOfNumaNodes", 1u16)
        .with("ReplicationState", 0u16)
        .with("ReplicationHealth", 0u16)
        .with("ReplicationMode", 0u16)
        .with("FailedOverReplicationType", 0u16)
        .with("LastReplicationType", 0u16)
        .with("EnhancedSessionModeState", 3u16)
}

/// `EnabledState`.
pub fn enabled_state(power: Power) -> u16 {
    match power {
        Power::Running => ENABLED,
        Power::Off => DISABLED,
        Power::Stopping => 4,
        Power::Saved => OFFLINE,
        Power::Paused => QUIESCE,
        Power::Starting => 10,
        Power::Saving => 32773,
    }
}

fn requested_state(job: &Job) -> u16 {
    match job.kind {
        JobKind::Start | JobKind::Restore | JobKind::Resume => ENABLED,
        JobKind::TurnOff | JobKind::Shutdown => DISABLED,
        JobKind::Save => OFFLINE,
        JobKind::Pause => QUIESCE,
        JobKind::Reset => RESET,
        JobKind::Define
        | JobKind::Modify
        | JobKind::DestroyVm
        | JobKind::CreateSnapshot
        | JobKind::ApplySnapshot
        | JobKind::DestroySnapshot
        | JobKind::ClearSnapshotState
        | JobKind::Merge
        | JobKind::CreateImage
        | JobKind::ConvertImage
        | JobKind::ResizeImage
        | JobKind::MergeImages
        | JobKind::ValidateImage => NOT_APPLICABLE,
    }
}

fn available_states(power: Power) -> Vec<u16> {
    match power {
        Power::Off => vec![ENABLED],
        Power::Saved => vec![ENABLED, DISABLED],
        Power::Running => vec![DISABLED, OFFLINE, QUIESCE, RESET],
        Power::Paused => vec![ENABLED, DISABLED, OFFLINE, RESET],
        Power::Starting | Power::Saving | Power::Stopping => Vec::new(),
    }
}

/// Positional: first whether other work is refused, then what is being done, if that has a number.
fn operational_status(job: Option<&Job>) -> (Vec<u16>, Vec<&'static str>) {
    let Some(job) = job else { return (vec![OK], vec!["Operating normally"]) };
    let operation = codes::operation(job);
    let status = std::iter::once(IN_SERVICE).chain(operation.map(|(number, _)| number)).collect();
    let descriptions = std::iter::once("In service").chain(operation.map(|(_, text)| text)).collect();
    (status, descriptions)
}
