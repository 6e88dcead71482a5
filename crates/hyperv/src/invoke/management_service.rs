//! `Msvm_VirtualSystemManagementService`: machines, their names and notes. Hardware is in [`super::resources`], pictures and
//! summaries are in [`super::screen`].

use cim::{Instance, Value};
use ledger::failure::Failure;
use ledger::id::{SnapshotId, VmId};
use ledger::request::{Definition, Request, VmChanges};
use ledger::vm::{Firmware, SnapshotKind, Startup};
use uuid::Uuid;

use super::arguments::texts;
use super::changes::{allow_only, changed};
use super::{Call, Completion, Outcome, Reaction, invalid, resources, screen, unsupported};
use crate::class::{self, SUBTYPE_1, SUBTYPE_2};
use crate::object::{Object, Owner};

/// Name of a machine that is defined without one.
const DEFAULT_NAME: &str = "New Virtual Machine";

pub fn invoke(call: &Call) -> Result<Reaction, Failure> {
    match call.method.name.as_str() {
        "DefineSystem" => define(call),
        "DestroySystem" => call.start(Request::DestroyVm { vm: call.vm("AffectedSystem")? }),
        "ModifySystemSettings" => modify(call),
        "AddResourceSettings" => resources::add(call),
        "ModifyResourceSettings" => resources::modify(call),
        "RemoveResourceSettings" => resources::remove(call),
        "GetSizeOfSystemFiles" => size_of_system_files(call),
        "GetSummaryInformation" => Ok(screen::summaries(call)),
        "GetVirtualSystemThumbnailImage" => screen::thumbnail_image(call),
        _ => Ok(call.not_supported()),
    }
}

/// Bytes of the saved memory that settings come with; everything else of a machine is a record of the store.
fn size_of_system_files(call: &Call) -> Result<Reaction, Failure> {
    let state = &call.view.state;
    let memory = match call.settings("Vssd")? {
        Owner::Vm(id) => state.vms.get(&id).and_then(|vm| vm.saved),
        Owner::Snapshot(id) => state.snapshots.get(&id).and_then(|snapshot| snapshot.memory),
    };
    let bytes = memory.and_then(|id| state.memories.get(&id)).map_or(0, |memory| memory.bytes);
    Ok(Reaction::Done(Outcome::done(vec![("Size".to_owned(), Some(Value::U64(bytes)))])))
}

fn define(call: &Call) -> Result<Reaction, Failure> {
    if call.arguments.get("ReferenceConfiguration").is_some() {
        return Err(unsupported("defining a machine after the model of another is not supported")
            .hint("leave ReferenceConfiguration empty"));
    }
    let settings = call.instance("SystemSettings");
    let text = |property| settings.and_then(|settings| settings.text(property)).filter(|text| !text.is_empty());
    let mut definition = Definition {
        name: text("ElementName").unwrap_or(DEFAULT_NAME).to_owned(),
        notes: settings.map(notes).unwrap_or_default(),
        processors: class::DEFAULT_PROCESSORS,
        memory_mib: class::DEFAULT_MEMORY_MIB,
        firmware: firmware(text("VirtualSystemSubType"))?,
        bios_guid: text("BIOSGUID").map(bios_guid).transpose()?,
        snapshot_kind: settings.map_or(Ok(None), snapshot_kind)?.unwrap_or(SnapshotKind::Standard),
    };
    for resource in call.instances("ResourceSettings") {
        match resources::resource_type(resource) {
            Some(resources::PROCESSOR) => {
                definition.processors = resources::processors(resource)?.unwrap_or(definition.processors);
            }
            Some(resources::MEMORY) => {
                definition.memory_mib = resources::memory_mib(resource)?.unwrap_or(definition.memory_mib);
            }
            _ => {
                let class = &resource.class().name;
                return Err(unsupported(format!("DefineSystem takes processor and memory, not a {class}"))
                    .hint("add it to the new machine with AddResourceSettings"));
            }
        }
    }
    call.submit(vec![Request::DefineVm(definition)], Completion::job(call.view).awaited().with_system())
}

fn modify(call: &Call) -> Result<Reaction, Failure> {
    let wanted = call.instance("SystemSettings").ok_or_else(|| invalid("SystemSettings is missing"))?;
    let id = wanted.text("InstanceID").ok_or_else(|| {
        invalid("InstanceID is missing in SystemSettings").hint("it says which settings are to be changed")
    })?;
    let object = Object::by_instance_id(&call.view.state, id);
    let found = object.and_then(|object| Some((object, class::instance(call.view, object)?)));
    let Some((Object::Settings(owner), current)) = found else {
        return Err(invalid(format!("there are no settings with InstanceID {id}")));
    };
    let changed = changed(&current, wanted);
    let requests = match owner {
        Owner::Vm(vm) => modify_vm(vm, wanted, &changed)?,
        Owner::Snapshot(snapshot) => modify_snapshot(snapshot, wanted, &changed)?,
    };
    call.submit(requests, Completion::job(call.view).awaited())
}

fn modify_vm(vm: VmId, wanted: &Instance, changed: &[String]) -> Result<Vec<Request>, Failure> {
    let changeable = ["ElementName", "Notes", "UserSnapshotType", "AutomaticStartupAction"];
    allow_only(changed, &changeable, "a virtual machine")?;
    let has = |name: &str| changed.iter().any(|changed| changed == name);
    let changes = VmChanges {
        name: wanted.text("ElementName").filter(|_| has("ElementName")).map(str::to_owned),
        notes: has("Notes").then(|| notes(wanted)),
        snapshot_kind: if has("UserSnapshotType") { snapshot_kind(wanted)? } else { None },
        startup: if has("AutomaticStartupAction") { startup(wanted)? } else { None },
        ..VmChanges::default()
    };
    Ok(if changed.is_empty() { Vec::new() } else { vec![Request::ModifyVm { vm, changes }] })
}

fn modify_snapshot(snapshot: SnapshotId, wanted: &Instance, changed: &[String]) -> Result<Vec<Request>, Failure> {
    allow_only(changed, &["ElementName", "Notes"], "a snapshot")?;
    let has = |name: &str| changed.iter().any(|changed| changed == name);
    let name = wanted.text("ElementName").filter(|_| has("ElementName")).map(str::to_owned);
    let notes = has("Notes").then(|| notes(wanted));
    Ok(if changed.is_empty() { Vec::new() } else { vec![Request::ModifySnapshot { snapshot, name, notes }] })
}

/// `Notes` is an array of lines or of paragraphs; here it is one text.
fn notes(settings: &Instance) -> String {
    texts(settings, "Notes").join("\n")
}

fn snapshot_kind(settings: &Instance) -> Result<Option<SnapshotKind>, Failure> {
    let Some(number) = settings.number("UserSnapshotType") else { return Ok(None) };
    class::snapshot_kind(number).map(Some).ok_or_else(|| {
        invalid(format!("UserSnapshotType {number} does not exist"))
            .hint("use 2 (none), 3 (production, else standard), 4 (production) or 5 (standard)")
    })
}

fn startup(settings: &Instance) -> Result<Option<Startup>, Failure> {
    let Some(number) = settings.number("AutomaticStartupAction") else { return Ok(None) };
    class::startup(number).map(Some).ok_or_else(|| {
        unsupported(format!("AutomaticStartupAction {number} is not supported"))
            .hint("use 2 (nothing) or 4 (start with the host)")
    })
}

fn firmware(subtype: Option<&str>) -> Result<Firmware, Failure> {
    match subtype {
        None => Ok(Firmware::Bios),
        Some(text) if cim::case::eq(text, SUBTYPE_1) => Ok(Firmware::Bios),
        Some(text) if cim::case::eq(text, SUBTYPE_2) => Ok(Firmware::Uefi),
        Some(text) => Err(invalid(format!("VirtualSystemSubType {text} does not exist"))
            .hint(format!("use {SUBTYPE_1} (BIOS) or {SUBTYPE_2} (UEFI)"))),
    }
}

fn bios_guid(text: &str) -> Result<Uuid, Failure> {
    Uuid::try_parse(text).map_err(|_| invalid(format!("BIOSGUID {text} is not a GUID")))
}
