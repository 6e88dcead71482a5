//! `Msvm_VirtualSystemSnapshotService`: taking, applying and removing snapshots.
//!
//! The parameter that names the snapshot is called differently by each method, and a call that uses the name of another
//! method is refused as one with an unknown parameter.

use cim::Instance;
use ledger::failure::Failure;
use ledger::request::{Contents, Request};
use ledger::snapshot::Purpose;
use ledger::vm::Vm;

use super::{Call, Completion, Reaction, invalid};
use crate::view::{View, datetime};

/// `SnapshotType`: what the machine's `UserSnapshotType` says.
const FULL: u64 = 2;
/// The same: disks only.
const DISK: u64 = 3;
/// The same: for backup.
const RECOVERY: u64 = 32768;

pub fn invoke(call: &Call) -> Result<Reaction, Failure> {
    match call.method.name.as_str() {
        "CreateSnapshot" => create(call),
        "ApplySnapshot" => call.start(Request::ApplySnapshot { snapshot: call.snapshot("Snapshot")? }),
        "DestroySnapshot" => call.start(Request::DestroySnapshot { snapshot: call.snapshot("AffectedSnapshot")? }),
        "DestroySnapshotTree" => {
            call.start(Request::DestroySnapshotTree { snapshot: call.snapshot("SnapshotSettingData")? })
        }
        "ClearSnapshotState" => {
            call.start(Request::ClearSnapshotState { snapshot: call.snapshot("SnapshotSettingData")? })
        }
        // Reference points, and states of a service that always runs.
        _ => Ok(call.not_supported()),
    }
}

fn create(call: &Call) -> Result<Reaction, Failure> {
    let id = call.vm("AffectedSystem")?;
    let vm = call.view.state.vms.get(&id).ok_or_else(|| invalid("AffectedSystem does not exist any more"))?;
    let (contents, purpose) = match call.number("SnapshotType") {
        Some(FULL) => (Contents::Full, Purpose::User),
        Some(DISK) => (Contents::Disks, Purpose::User),
        Some(RECOVERY) => (Contents::Disks, Purpose::Recovery),
        Some(other) => {
            return Err(invalid(format!("SnapshotType {other} does not exist")).hint("use 2 (full) or 3 (disk)"));
        }
        None => return Err(invalid("SnapshotType is missing").hint("use 2 (full) or 3 (disk)")),
    };
    let name = match call.instance("SnapshotSettings") {
        Some(settings) => name_in(settings)?,
        None => None,
    };
    let name = name.unwrap_or_else(|| default_name(call.view, vm));
    let request = Request::CreateSnapshot { vm: id, name, contents, purpose };
    call.submit(vec![request], Completion::job(call.view).with_pending("ResultingSnapshot"))
}

/// The name that settings give to the snapshot.
fn name_in(settings: &Instance) -> Result<Option<String>, Failure> {
    let class = settings.class();
    if class.is_a("Msvm_VirtualSystemSnapshotSettingData") || class.is_a("CIM_VirtualSystemSettingData") {
        return Ok(settings.text("ElementName").map(str::to_owned));
    }
    Err(invalid(format!("SnapshotSettings is a {}", class.name))
        .hint("pass a Msvm_VirtualSystemSnapshotSettingData, a Msvm_VirtualSystemSettingData or nothing"))
}

/// `<machine> - (<date> - <time>)` in local time. A long machine name is cut so that the whole is not too long.
fn default_name(view: &View, vm: &Vm) -> String {
    let now = match datetime(view.now) {
        cim::DateTime::Timestamp(now) => now.at_offset(view.utc_offset_minutes).unwrap_or(now),
        cim::DateTime::Interval(_) => return vm.name.clone(),
    };
    let xml = cim::DateTime::Timestamp(now).to_xml();
    let (date, time) = xml.split_once('T').unwrap_or((xml.as_str(), ""));
    let time: String = time.chars().take("hh:mm:ss".len()).collect();
    let suffix = format!(" - ({date} - {time})");
    let room = ledger::request::NAME_CHARS_MAX.saturating_sub(suffix.chars().count());
    vm.name.chars().take(room).chain(suffix.chars()).collect()
}
