//! Reading machines, snapshots and jobs, and finding the ones that are meant.

use cim::op::{Argument, Target};

use crate::args::SnapshotName;
use crate::error::{Kind, Result};
use crate::find::{self, Named};
use crate::model::{self, Job, Role, Settings, Vm};
use crate::session::{Session, class};

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
    let rows = session.query("SELECT * FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'")?;
    let mut vms: Vec<Vm> = rows.iter().filter_map(Vm::read).collect();
    vms.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(vms)
}

/// The machine that is meant.
pub fn vm(session: &mut Session, typed: &str) -> Result<Vm> {
    find::one(typed, vms(session)?)
}

/// Settings: of all machines and snapshots, or of what belongs to one machine.
pub fn settings(session: &mut Session, vm: Option<&str>) -> Result<Vec<Settings>> {
    let only = vm.map(|id| format!(" WHERE VirtualSystemIdentifier = '{id}'")).unwrap_or_default();
    let rows = session.query(&format!("SELECT * FROM Msvm_VirtualSystemSettingData{only}"))?;
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

/// The snapshot that is meant.
pub fn snapshot(session: &mut Session, name: &SnapshotName) -> Result<SnapshotOf> {
    let vms = match &name.vm {
        Some(typed) => vec![vm(session, typed)?],
        None => vms(session)?,
    };
    let only = name.vm.as_ref().and(vms.first()).map(|vm| vm.id.clone());
    let snapshots = settings(session, only.as_deref())?;
    let snapshots = snapshots.into_iter().filter(|settings| settings.role != Role::Machine).filter_map(|settings| {
        let vm = vms.iter().find(|vm| vm.id == settings.vm)?.clone();
        Some(SnapshotOf { settings, vm })
    });
    find::one(&name.snapshot, snapshots.collect())
}

/// All jobs, oldest first.
pub fn jobs(session: &mut Session) -> Result<Vec<Job>> {
    let rows = session.query("SELECT * FROM Msvm_ConcreteJob")?;
    let mut jobs: Vec<Job> = rows.iter().filter_map(Job::read).collect();
    jobs.sort_by(|a, b| (a.submitted, &a.id).cmp(&(b.submitted, &b.id)));
    Ok(jobs)
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
