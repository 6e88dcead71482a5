//! `Msvm_SummaryInformation`: many properties of a machine or a snapshot at once, as `GetSummaryInformation` gives them.
//!
//! A caller says by number what it wants; everything else stays NULL, except the name.

use cim::{Instance, Value};
use ledger::id::VmId;

use super::{blank, instance};
use crate::assoc;
use crate::object::{Object, Owner, SwitchName};
use crate::view::View;

/// All numbers of `RequestedInformation` that there are.
const NUMBERS: std::ops::RangeInclusive<u64> = 0..=133;

/// What was asked for of the machine or snapshot with these settings; without a name if there are no such settings.
pub fn summary(view: &View, owner: Option<Owner>, asked: &[u64]) -> Instance {
    let blank = blank(view, "Msvm_SummaryInformation");
    let found = owner.and_then(|owner| Some((owner, instance(view, Object::Settings(owner))?)));
    let Some((owner, settings)) = found else { return blank };
    let system = match owner {
        Owner::Vm(id) => instance(view, Object::Vm(id)),
        Owner::Snapshot(_) => None,
    };
    let name = format!("{:X}", owner.guid().as_hyphenated());
    let summary = blank.with_some("InstanceID", settings.text("InstanceID")).with("Name", name);
    asked.iter().fold(summary, |summary, number| match value(view, owner, &settings, system.as_ref(), *number) {
        Some((property, value)) => summary.with(property, value),
        None => summary,
    })
}

/// All there is to say about a machine: the summary as an instance that can be queried. Snapshots have none of those.
pub fn everything(view: &View, vm: VmId) -> Instance {
    let numbers: Vec<u64> = NUMBERS.collect();
    summary(view, Some(Owner::Vm(vm)), &numbers)
}

/// The property of this number and its value; `None` where the number has no value here.
fn value(
    view: &View,
    owner: Owner,
    settings: &Instance,
    system: Option<&Instance>,
    number: u64,
) -> Option<(&'static str, Value)> {
    let hardware = owner.hardware(&view.state)?;
    let of_settings = |property| Some((property, settings.get(property)?.clone()));
    let of_system = |property| Some((property, system?.get(property)?.clone()));
    match number {
        1 => of_settings("ElementName"),
        2 => of_settings("CreationTime"),
        3 => Some(("Notes", settings.get("Notes")?.to_string().into())),
        4 => Some(("NumberOfProcessors", u16::try_from(hardware.processors).ok()?.into())),
        9 => {
            let switches = hardware.nics.iter().filter_map(|nic| SwitchName::of(&nic.network));
            Some(("VirtualSwitchNames", switches.map(|name| name.to_string()).collect::<Vec<_>>().into()))
        }
        10 => of_settings("Version"),
        // A snapshot would start as a saved machine or as one that is off.
        100 if system.is_none() => Some(("EnabledState", (if settings.flag("IsSaved")? { 6u16 } else { 3 }).into())),
        100 => of_system("EnabledState"),
        103 => {
            let Owner::Vm(id) = owner else { return None };
            let in_use = view.state.vms.get(&id)?.power.has_process();
            Some(("MemoryUsage", (if in_use { hardware.memory_mib } else { 0 }).into()))
        }
        105 => Some(("UpTime", system?.get("OnTimeInMilliseconds")?.clone())),
        107 => paths(view, owner, "Msvm_SnapshotOfVirtualSystem").map(|paths| ("Snapshots", paths)),
        108 => paths(view, owner, "Msvm_AffectedJobElement").map(|paths| ("AsynchronousTasks", paths)),
        109 => of_system("HealthState"),
        110 if system.is_none() => Some(("OperationalStatus", [2u16].into())),
        110 => of_system("OperationalStatus"),
        111 => of_system("StatusDescriptions"),
        _ => None,
    }
}

/// Paths of what a machine is connected with from its left; a snapshot has neither snapshots nor tasks.
fn paths(view: &View, owner: Owner, association: &str) -> Option<Value> {
    let Owner::Vm(id) = owner else { return None };
    let ends = (assoc::association(association)?.rights)(&view.state, Object::Vm(id));
    Some(ends.into_iter().map(|end| end.path(view).to_string()).collect::<Vec<_>>().into())
}
