//! Reading machines, snapshots and jobs, and finding the ones that are meant.

use std::collections::HashMap;

use cim::op::{Argument, Target};
use wsman::client::Bag;

use crate::args::SnapshotName;
use crate::error::{Kind, Result};
use crate::find::{self, Named};
use crate::model::{self, Job, Role, Settings, Vm};
use crate::session::{Session, class, key_text, wql_quoted};

impl Named for Vm {
    const WHAT: &'static str = "machine";
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn details(&self) -> String {
        self.state.to_owned()
    }
}

/// A snapshot together with the name of its machine, which tells it from others of the same name.
pub struct SnapshotOf {
    pub settings: Settings,
    pub vm: Vm,
}

impl Named for SnapshotOf {
    const WHAT: &'static str = "snapshot";
    fn id(&self) -> &str {
        &self.settings.id
    }
    fn name(&self) -> &str {
        &self.settings.name
    }
    fn details(&self) -> String {
        let created = self.settings.created.map(|created| crate::units::moment(created.0, &zone()));
        format!("of {}, taken {}", self.vm.name, created.unwrap_or_default())
    }
}

impl Named for Job {
    const WHAT: &'static str = "job";
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        ""
    }
    fn details(&self) -> String {
        self.title.clone()
    }
}

/// All machines, by name.
pub fn vms(session: &mut Session) -> Result<Vec<Vm>> {
    vms_where(session, "")
}

fn vms_where(session: &mut Session, condition: &str) -> Result<Vec<Vm>> {
    let query = format!("SELECT * FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'{condition}");
    let mut vms: Vec<Vm> = session.query(&query)?.iter().filter_map(Vm::read).collect();
    vms.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(vms)
}

/// The machine that is meant. The others are only asked for when there is something to suggest.
pub fn vm(session: &mut Session, typed: &str) -> Result<Vm> {
    let (name, id) = (wql_quoted(typed), wql_quoted(find::bare_guid(typed)));
    let candidates = vms_where(session, &format!(" AND (ElementName = '{name}' OR Name = '{id}')"))?;
    let candidates = if candidates.is_empty() { vms(session)? } else { candidates };
    find::one(typed, candidates)
}

/// Settings: of all machines and snapshots, or of what belongs to one machine.
pub fn settings(session: &mut Session, vm: Option<&str>) -> Result<Vec<Settings>> {
    let only = vm.map(|id| format!(" WHERE VirtualSystemIdentifier = '{id}'")).unwrap_or_default();
    settings_where(session, &only)
}

fn settings_where(session: &mut Session, condition: &str) -> Result<Vec<Settings>> {
    let rows = session.query(&format!("SELECT * FROM Msvm_VirtualSystemSettingData{condition}"))?;
    Ok(rows.iter().filter_map(Settings::read).collect())
}

/// Fills in how much memory on disk comes with settings. A server that cannot tell leaves it open.
pub fn measure(session: &mut Session, settings: &mut Settings) -> Result<()> {
    if !settings.has_memory {
        return Ok(());
    }
    let arguments = vec![("Vssd".to_owned(), Argument::Reference(settings_target(&settings.id)))];
    settings.memory_bytes = match session.invoke(management_service(), "GetSizeOfSystemFiles", arguments) {
        Ok(called) => called.outputs.number("Size"),
        Err(error) if matches!(error.kind, Kind::Refused | Kind::NotFound) => None,
        Err(error) => return Err(error),
    };
    Ok(())
}

/// The snapshot that is meant. The others are only asked for when there is something to suggest.
pub fn snapshot(session: &mut Session, name: &SnapshotName) -> Result<SnapshotOf> {
    let of = name.vm.as_ref().map(|typed| vm(session, typed)).transpose()?;
    let typed = &name.snapshot;
    let (quoted, id) = (wql_quoted(typed), wql_quoted(&model::instance_id(find::bare_guid(typed))));
    let named = settings_where(session, &format!(" WHERE ElementName = '{quoted}' OR InstanceID = '{id}'"))?;
    let candidates = with_machines(session, named, of.as_ref())?;
    if candidates.is_empty() {
        let all = settings(session, of.as_ref().map(|vm| vm.id.as_str()))?;
        return find::one(typed, with_machines(session, all, of.as_ref())?);
    }
    find::one(typed, candidates)
}

/// The snapshots among settings, each with its machine; only those of one machine if that is given.
fn with_machines(session: &mut Session, settings: Vec<Settings>, of: Option<&Vm>) -> Result<Vec<SnapshotOf>> {
    let snapshots: Vec<Settings> = settings
        .into_iter()
        .filter(|settings| settings.role != Role::Machine && of.is_none_or(|vm| vm.id == settings.vm))
        .collect();
    let vms = match (of, snapshots.as_slice()) {
        (Some(vm), _) => vec![vm.clone()],
        (None, []) => Vec::new(),
        (None, [only]) => vms_where(session, &format!(" AND Name = '{}'", wql_quoted(&only.vm)))?,
        (None, _) => vms(session)?,
    };
    let pair = |settings: Settings| {
        let vm = vms.iter().find(|vm| vm.id == settings.vm)?.clone();
        Some(SnapshotOf { settings, vm })
    };
    Ok(snapshots.into_iter().filter_map(pair).collect())
}

/// All jobs, oldest first.
pub fn jobs(session: &mut Session) -> Result<Vec<Job>> {
    let rows = session.query("SELECT * FROM Msvm_ConcreteJob")?;
    let mut jobs: Vec<Job> = rows.iter().filter_map(Job::read).collect();
    jobs.sort_by(|a, b| (a.submitted, &a.id).cmp(&(b.submitted, &b.id)));
    Ok(jobs)
}

/// The machine of each job, by the job's GUID. A machine that has been removed since is not there.
pub fn machines_of_jobs(session: &mut Session) -> Result<HashMap<String, Vm>> {
    let vms = vms(session)?;
    let links = session.query("SELECT * FROM Msvm_AffectedJobElement")?;
    let pair = |link: &Bag| {
        let job = key_text(link.reference("AffectingElement")?, "InstanceID")?;
        let vm = key_text(link.reference("AffectedElement")?, "Name")?;
        Some((job, vms.iter().find(|known| known.id == vm)?.clone()))
    };
    Ok(links.iter().filter_map(pair).collect())
}

/// A machine as the target of a call.
pub fn vm_target(id: &str) -> Target {
    class("Msvm_ComputerSystem").with_key("CreationClassName", "Msvm_ComputerSystem").with_key("Name", id)
}

/// Settings as the target of a call.
pub fn settings_target(id: &str) -> Target {
    class("Msvm_VirtualSystemSettingData").with_key("InstanceID", model::instance_id(id))
}

/// The service for snapshots.
pub fn snapshot_service() -> Target {
    class("Msvm_VirtualSystemSnapshotService")
}

/// The service for machines.
pub fn management_service() -> Target {
    class("Msvm_VirtualSystemManagementService")
}

/// The time zone of the user.
pub fn zone() -> jiff::tz::TimeZone {
    jiff::tz::TimeZone::system()
}
