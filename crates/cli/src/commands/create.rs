//! `snapvisor vm create`: a machine, then its hardware piece by piece, as any client of the namespace would.
//!
//! The calls are not one transaction on the wire. If one is refused, the machine that has been begun is removed again,
//! so a failed command leaves nothing behind.

use cim::embedded::EmbeddedInstance;
use cim::op::{Argument, Target};
use serde_json::json;

use super::job::finish;
use super::lookup::{management_service, settings_target, vm_target};
use crate::args::{Firmware, Network, SnapshotKind, VmCreate};
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::session::{Session, embedded, key_text};
use crate::show::printable;

/// Drives on an IDE controller.
const IDE_DRIVES: u32 = 2;
/// Drives on a SCSI controller.
const SCSI_DRIVES: u32 = 64;

const RESOURCE: &str = "Msvm_ResourceAllocationSettingData";

/// Defines the machine.
///
/// # Errors
/// When a step is refused; then the machine does not exist.
pub fn run(session: &mut Session, wanted: &VmCreate) -> Result<Output> {
    let disks = absolute(wanted)?;
    let id = define(session, wanted)?;
    let equipped = equip(session, &id, &disks, &wanted.networks);
    if let Err(error) = equipped {
        return Err(undo(session, &id, error));
    }
    let text = format!("machine {} created, {id}\n", printable(&wanted.name));
    Ok(Output::new(text, json!({ "vm": { "id": id, "name": wanted.name } })))
}

/// Paths as the daemon, which runs elsewhere, must be told them.
fn absolute(wanted: &VmCreate) -> Result<Vec<String>> {
    let disks = wanted.disks.iter().map(|path| {
        let unusable = |reason: &str| Error::new(Kind::Usage, format!("{} cannot be used: {reason}", path.display()));
        let path = std::path::absolute(path).map_err(|error| unusable(&error.to_string()))?;
        path.into_os_string().into_string().map_err(|_| unusable("its name is not UTF-8"))
    });
    disks.collect()
}

fn define(session: &mut Session, wanted: &VmCreate) -> Result<String> {
    let subtype = match wanted.firmware {
        Firmware::Bios => "Microsoft:Hyper-V:SubType:1",
        Firmware::Uefi => "Microsoft:Hyper-V:SubType:2",
    };
    let mut properties = vec![("ElementName", wanted.name.as_str()), ("VirtualSystemSubType", subtype)];
    properties.extend(wanted.notes.as_deref().map(|notes| ("Notes", notes)));
    properties.extend(wanted.snapshot_kind.map(|kind| ("UserSnapshotType", kind_number(kind))));
    let (memory, cpus) = (wanted.memory.mib.to_string(), wanted.cpus.to_string());
    let arguments = vec![
        instance("SystemSettings", embedded("Msvm_VirtualSystemSettingData", &properties)),
        instance("ResourceSettings", embedded("Msvm_ProcessorSettingData", &[("VirtualQuantity", cpus.as_str())])),
        instance("ResourceSettings", embedded("Msvm_MemorySettingData", &[("VirtualQuantity", memory.as_str())])),
    ];
    let called = session.invoke(management_service(), "DefineSystem", arguments)?;
    finish(session, &called)?;
    let system = called.outputs.reference("ResultingSystem").and_then(|system| key_text(system, "Name"));
    system.ok_or_else(|| Error::new(Kind::Failed, "the daemon defined a machine and did not say which"))
}

fn equip(session: &mut Session, id: &str, disks: &[String], networks: &[Network]) -> Result<()> {
    let mut places = Places::of(session, id)?;
    for disk in disks {
        let (controller, address) = places.next(session, id)?;
        let drive = add(
            session,
            id,
            embedded(
                RESOURCE,
                &[
                    ("ResourceType", "17"),
                    ("ResourceSubType", "Microsoft:Hyper-V:Synthetic Disk Drive"),
                    ("Parent", &controller),
                    ("AddressOnParent", &address.to_string()),
                ],
            ),
        )?;
        add(
            session,
            id,
            embedded(
                "Msvm_StorageAllocationSettingData",
                &[
                    ("ResourceType", "31"),
                    ("ResourceSubType", "Microsoft:Hyper-V:Virtual Hard Disk"),
                    ("Parent", &drive.to_path().to_string()),
                    ("HostResource", disk),
                ],
            ),
        )?;
    }
    for network in networks {
        let subtype = ("ResourceSubType", "Microsoft:Hyper-V:Synthetic Ethernet Port");
        let mut properties = vec![("ResourceType", "10"), subtype, ("ElementName", "Network Adapter")];
        match network {
            Network::Unconnected => {}
            Network::User => properties.push(("Connection", "user")),
            Network::Tap(interface) => properties.push(("Connection", interface)),
        }
        add(session, id, embedded("Msvm_SyntheticEthernetPortSettingData", &properties))?;
    }
    Ok(())
}

/// Adds one resource and says which it is.
fn add(session: &mut Session, id: &str, resource: EmbeddedInstance) -> Result<Target> {
    let configuration = ("AffectedConfiguration".to_owned(), Argument::Reference(settings_target(id)));
    let arguments = vec![configuration, instance("ResourceSettings", resource)];
    let called = session.invoke(management_service(), "AddResourceSettings", arguments)?;
    finish(session, &called)?;
    let added = called.outputs.reference("ResultingResourceSettings").cloned();
    added.ok_or_else(|| Error::new(Kind::Failed, "the daemon added a resource and did not say which"))
}

fn undo(session: &mut Session, id: &str, error: Error) -> Error {
    let arguments = vec![("AffectedSystem".to_owned(), Argument::Reference(vm_target(id)))];
    let undone = session.invoke(management_service(), "DestroySystem", arguments);
    match undone.and_then(|called| finish(session, &called)) {
        Ok(_) => error,
        Err(_) => error.hint(format!("the unfinished machine could not be removed: `snapvisor vm delete {id}`")),
    }
}

/// Where the next disk goes: the machine's own controllers first, in order, then new SCSI controllers.
struct Places {
    /// Path and free addresses of each controller, the next one last.
    free: Vec<(String, std::ops::Range<u32>)>,
}

impl Places {
    fn of(session: &mut Session, id: &str) -> Result<Self> {
        let like = crate::session::wql_quoted(&crate::model::instance_id(id));
        let rows = session.query(&format!("SELECT * FROM {RESOURCE} WHERE InstanceID LIKE '{like}%'"))?;
        let mut controllers: Vec<(u64, u64, String)> = rows
            .iter()
            .filter_map(|row| {
                let bus = row.number("ResourceType").filter(|bus| matches!(bus, 5 | 6))?;
                let target =
                    Target::new(crate::session::NAMESPACE, RESOURCE).with_key("InstanceID", row.text("InstanceID")?);
                Some((bus, row.number("Address").unwrap_or_default(), target.to_path().to_string()))
            })
            .collect();
        controllers.sort();
        let places = |bus| if bus == 5 { 0..IDE_DRIVES } else { 0..SCSI_DRIVES };
        Ok(Self { free: controllers.into_iter().rev().map(|(bus, _, path)| (path, places(bus))).collect() })
    }

    fn next(&mut self, session: &mut Session, id: &str) -> Result<(String, u32)> {
        loop {
            while let Some((path, addresses)) = self.free.last_mut() {
                if let Some(address) = addresses.next() {
                    return Ok((path.clone(), address));
                }
                self.free.pop();
            }
            let added = add(
                session,
                id,
                embedded(
                    RESOURCE,
                    &[("ResourceType", "6"), ("ResourceSubType", "Microsoft:Hyper-V:Synthetic SCSI Controller")],
                ),
            )?;
            self.free.push((added.to_path().to_string(), 0..SCSI_DRIVES));
        }
    }
}

/// `UserSnapshotType`
pub(super) fn kind_number(kind: SnapshotKind) -> &'static str {
    match kind {
        SnapshotKind::Disabled => "2",
        SnapshotKind::Production => "3",
        SnapshotKind::ProductionOnly => "4",
        SnapshotKind::Standard => "5",
    }
}

/// An argument that is an embedded instance.
pub(super) fn instance(name: &str, instance: EmbeddedInstance) -> (String, Argument) {
    (name.to_owned(), Argument::Instance(instance))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id_in_path;

    #[test]
    fn paths_of_settings_are_recognised() {
        let path = settings_target("AA").to_path().to_string();
        assert_eq!(id_in_path(&path).as_deref(), Some("AA"));
    }
}
