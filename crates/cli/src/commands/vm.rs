//! `snapvisor vm …`

use cim::op::Argument;
use serde::Serialize;
use serde_json::json;

use super::create::{instance, kind_number};
use super::job::{finish, settle, text};
use super::lookup::{self, management_service, vm_target, zone};
use super::{console, create, keyboard, screen};
use crate::args::{self, VmDelete, VmSet, Wait};
use crate::error::{Error, Kind, Result};
use crate::model::{Role, Settings, Vm, instance_id};
use crate::output::Output;
use crate::session::{Session, embedded, wql_quoted};
use crate::show::table::{Align, Table, fields};
use crate::show::{printable, word};
use crate::units::{self, MemorySize};

/// `RequestedState`
const START: &str = "2";
const TURN_OFF: &str = "3";
const SHUT_DOWN: &str = "4";
const SAVE: &str = "6";
const PAUSE: &str = "9";
const RESET: &str = "11";

/// Carries out one of the commands.
///
/// # Errors
/// When the daemon cannot be reached or refuses, or a job did not complete.
pub fn run(session: &mut Session, command: args::Vm) -> Result<Output> {
    match command {
        args::Vm::Create(wanted) => create::run(session, &wanted),
        args::Vm::List => list(session),
        args::Vm::Show { vm } => show(session, &vm),
        args::Vm::Start(action) => request(session, &action, START, "runs"),
        args::Vm::Stop(action) => request(session, &action, TURN_OFF, "is off"),
        args::Vm::Pause(action) => request(session, &action, PAUSE, "is paused"),
        args::Vm::Resume(action) => resume(session, &action),
        args::Vm::Save(action) => request(session, &action, SAVE, "is saved"),
        args::Vm::Reset(action) => request(session, &action, RESET, "was reset"),
        args::Vm::Shutdown(action) => request(session, &action, SHUT_DOWN, "has shut down"),
        args::Vm::Type { vm, text, enter } => keyboard::type_text(session, &vm, &text, enter),
        args::Vm::Keys { vm, keys } => keyboard::press(session, &vm, &keys),
        args::Vm::Screenshot { vm, screenshot } => {
            let vm = lookup::vm(session, &vm)?;
            screen::run(session, &vm.id, &vm.name, &screenshot)
        }
        args::Vm::Console { vm } => console::run(session, &vm),
        args::Vm::Delete(delete) => remove(session, &delete),
        args::Vm::Set(set) => change(session, &set),
    }
}

/// A machine with what it is set to.
#[derive(Debug, Serialize)]
struct Machine {
    #[serde(flatten)]
    vm: Vm,
    notes: String,
    created: Option<crate::model::Moment>,
    firmware: &'static str,
    snapshot_kind: &'static str,
    parent_snapshot: Option<String>,
    snapshots: usize,
    cpus: Option<u64>,
    memory_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Devices>,
}

/// What only `show` asks for.
#[derive(Debug, Serialize)]
struct Devices {
    disks: Vec<String>,
    networks: Vec<Network>,
    /// Sockets of COM 1, the console, and COM 2.
    serial_ports: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Network {
    mac: String,
    connection: Option<String>,
}

fn list(session: &mut Session) -> Result<Output> {
    let vms = lookup::vms(session)?;
    let settings = lookup::settings(session, None)?;
    let cpus = quantities(session, "Msvm_ProcessorSettingData", "")?;
    let memory = quantities(session, "Msvm_MemorySettingData", "")?;
    let machines = vms.into_iter().map(|vm| machine(vm, &settings, &cpus, &memory)).collect::<Vec<_>>();
    Ok(Output::new(table(&machines), &machines))
}

fn show(session: &mut Session, typed: &str) -> Result<Output> {
    let vm = lookup::vm(session, typed)?;
    let only = format!(" WHERE InstanceID LIKE '{}%'", wql_quoted(&instance_id(&vm.id)));
    let settings = lookup::settings(session, Some(&vm.id))?;
    let cpus = quantities(session, "Msvm_ProcessorSettingData", &only)?;
    let memory = quantities(session, "Msvm_MemorySettingData", &only)?;
    let mut machine = machine(vm, &settings, &cpus, &memory);
    let disks = session.query(&format!("SELECT * FROM Msvm_StorageAllocationSettingData{only}"))?;
    let adapters = session.query(&format!("SELECT * FROM Msvm_SyntheticEthernetPortSettingData{only}"))?;
    let connections = session.query(&format!("SELECT * FROM Msvm_EthernetPortAllocationSettingData{only}"))?;
    let ports = session.query(&format!("SELECT * FROM Msvm_SerialPortSettingData{only}"))?;
    let network = |adapter: &wsman::client::Bag| {
        let id = adapter.text("InstanceID")?.to_owned();
        let connection =
            connections.iter().find(|one| one.text("InstanceID").is_some_and(|other| other.starts_with(&id)));
        let switch = connection.and_then(|connection| connection.text("LastKnownSwitchName"));
        Some(Network {
            mac: adapter.text("Address").unwrap_or_default().to_owned(),
            connection: switch.map(str::to_owned),
        })
    };
    machine.devices = Some(Devices {
        disks: disks.iter().filter_map(|disk| disk.text("HostResource")).map(str::to_owned).collect(),
        networks: adapters.iter().filter_map(network).collect(),
        serial_ports: ports.iter().filter_map(|port| port.text("Connection")).map(str::to_owned).collect(),
    });
    let parent = settings.iter().find(|one| Some(&one.id) == machine.parent_snapshot.as_ref());
    let text = describe(&machine, parent.map(|parent| parent.name.as_str()), &zone());
    Ok(Output::new(text, &machine))
}

/// `VirtualQuantity` by the GUID of the settings it belongs to.
fn quantities(session: &mut Session, class: &str, only: &str) -> Result<Vec<(String, u64)>> {
    let rows = session.query(&format!("SELECT InstanceID, VirtualQuantity FROM {class}{only}"))?;
    let quantity = |row: &wsman::client::Bag| {
        let id = row.text("InstanceID")?.strip_prefix("Microsoft:")?;
        Some((id.split('\\').next()?.to_owned(), row.number("VirtualQuantity")?))
    };
    Ok(rows.iter().filter_map(quantity).collect())
}

fn machine(vm: Vm, settings: &[Settings], cpus: &[(String, u64)], memory: &[(String, u64)]) -> Machine {
    let own = settings.iter().find(|one| one.role == Role::Machine && one.id == vm.id);
    let of =
        |quantities: &[(String, u64)]| quantities.iter().find(|(id, _)| *id == vm.id).map(|(_, quantity)| *quantity);
    Machine {
        notes: own.map(|own| own.notes.clone()).unwrap_or_default(),
        created: own.and_then(|own| own.created),
        firmware: own.map_or("unknown", |own| own.firmware),
        snapshot_kind: own.map_or("unknown", |own| own.snapshot_kind),
        parent_snapshot: own.and_then(|own| own.parent.clone()),
        snapshots: settings.iter().filter(|one| one.vm == vm.id && one.role != Role::Machine).count(),
        cpus: of(cpus),
        memory_mib: of(memory),
        devices: None,
        vm,
    }
}

fn table(machines: &[Machine]) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("CPUS", Align::Right),
        ("MEMORY", Align::Right),
        ("SNAPSHOTS", Align::Right),
        ("ID", Align::Left),
    ]);
    for machine in machines {
        let state = match &machine.vm.activity {
            Some(activity) => format!("{} ({})", machine.vm.state, activity.to_lowercase()),
            None => machine.vm.state.to_owned(),
        };
        let memory = machine.memory_mib.map(|mib| MemorySize { mib }.to_string()).unwrap_or_default();
        let cpus = machine.cpus.map(|cpus| cpus.to_string()).unwrap_or_default();
        let snapshots = machine.snapshots.to_string();
        table.row([machine.vm.name.clone(), state, cpus, memory, snapshots, machine.vm.id.clone()]);
    }
    table.render()
}

fn describe(machine: &Machine, parent: Option<&str>, zone: &jiff::tz::TimeZone) -> String {
    let mut rows =
        vec![("name", machine.vm.name.clone()), ("id", machine.vm.id.clone()), ("state", machine.vm.state.to_owned())];
    rows.extend(machine.vm.activity.clone().map(|activity| ("busy", activity.to_lowercase())));
    if machine.vm.uptime_ms > 0 {
        rows.push(("running for", units::duration(machine.vm.uptime_ms.saturating_mul(1000))));
    }
    rows.extend(machine.cpus.map(|cpus| ("cpus", cpus.to_string())));
    rows.extend(machine.memory_mib.map(|mib| ("memory", MemorySize { mib }.to_string())));
    rows.push(("firmware", machine.firmware.to_owned()));
    for disk in machine.devices.iter().flat_map(|devices| &devices.disks) {
        rows.push(("disk", disk.clone()));
    }
    for network in machine.devices.iter().flat_map(|devices| &devices.networks) {
        rows.push(("network", format!("{}, {}", network.mac, network.connection.as_deref().unwrap_or("unplugged"))));
    }
    rows.push(("snapshot kind", machine.snapshot_kind.to_owned()));
    rows.push(("snapshots", machine.snapshots.to_string()));
    rows.extend(parent.map(|name| ("based on", name.to_owned())));
    rows.extend(machine.created.map(|created| ("created", units::moment(created.0, zone))));
    if !machine.notes.is_empty() {
        rows.push(("notes", machine.notes.clone()));
    }
    fields(&rows)
}

fn request(session: &mut Session, action: &args::VmAction, state: &str, done: &str) -> Result<Output> {
    let vm = lookup::vm(session, &action.vm)?;
    change_state(session, &vm, state, action.wait, &format!("{} {done}", printable(&vm.name)))
}

/// Resuming is starting, on the wire; a machine that is off must not be started by it.
fn resume(session: &mut Session, action: &args::VmAction) -> Result<Output> {
    let vm = lookup::vm(session, &action.vm)?;
    if !vm.is_on() {
        return Err(Error::new(Kind::Refused, format!("{} is {}, not paused", vm.name, vm.state))
            .hint(format!("`snapvisor vm start {}` starts it", word(&vm.name))));
    }
    change_state(session, &vm, START, action.wait, &format!("{} runs", printable(&vm.name)))
}

/// Asks for a power state and waits for it if that is wanted.
pub(super) fn change_state(session: &mut Session, vm: &Vm, state: &str, wait: Wait, done: &str) -> Result<Output> {
    let called = session.invoke(vm_target(&vm.id), "RequestStateChange", vec![text("RequestedState", state)])?;
    settle(session, &called, wait, done)
}

/// Turns a machine off, as a step of a longer command.
pub(super) fn turn_off(session: &mut Session, vm: &Vm) -> Result<()> {
    change_state(session, vm, TURN_OFF, Wait { no_wait: false }, "").map(drop)
}

/// Starts a machine.
pub(super) fn start(session: &mut Session, vm: &Vm, wait: Wait, done: &str) -> Result<Output> {
    change_state(session, vm, START, wait, done)
}

fn remove(session: &mut Session, delete: &VmDelete) -> Result<Output> {
    let vm = lookup::vm(session, &delete.vm)?;
    if vm.is_on() {
        if !delete.force {
            return Err(Error::new(Kind::Refused, format!("{} is {}", vm.name, vm.state))
                .hint("turn it off first, or use --force"));
        }
        turn_off(session, &vm)?;
    }
    let arguments = vec![("AffectedSystem".to_owned(), Argument::Reference(vm_target(&vm.id)))];
    let called = session.invoke(management_service(), "DestroySystem", arguments)?;
    settle(session, &called, delete.wait, &format!("{} deleted", printable(&vm.name)))
}

fn change(session: &mut Session, set: &VmSet) -> Result<Output> {
    let vm = lookup::vm(session, &set.vm)?;
    let hardware = [
        ("Msvm_ProcessorSettingData", set.cpus.map(u64::from)),
        ("Msvm_MemorySettingData", set.memory.map(|memory| memory.mib)),
    ];
    // Hardware first: it can be refused because the machine runs, and then nothing should have changed.
    for (class, quantity) in hardware {
        if let Some(quantity) = quantity {
            change_quantity(session, &vm, class, quantity)?;
        }
    }
    let id = instance_id(&vm.id);
    let mut properties = vec![("InstanceID", id.as_str())];
    properties.extend(set.name.as_deref().map(|name| ("ElementName", name)));
    properties.extend(set.notes.as_deref().map(|notes| ("Notes", notes)));
    properties.extend(set.snapshot_kind.map(|kind| ("UserSnapshotType", kind_number(kind))));
    if properties.len() > 1 {
        let settings = embedded("Msvm_VirtualSystemSettingData", &properties);
        let arguments = vec![instance("SystemSettings", settings)];
        let called = session.invoke(management_service(), "ModifySystemSettings", arguments)?;
        finish(session, &called)?;
    }
    let name = set.name.as_deref().unwrap_or(&vm.name);
    Ok(Output::new(format!("{} changed\n", printable(name)), json!({ "vm": { "id": vm.id, "name": name } })))
}

fn change_quantity(session: &mut Session, vm: &Vm, class: &str, quantity: u64) -> Result<()> {
    let like = wql_quoted(&instance_id(&vm.id));
    let rows = session.query(&format!("SELECT * FROM {class} WHERE InstanceID LIKE '{like}%'"))?;
    let id = rows.first().and_then(|row| row.text("InstanceID"));
    let id = id.ok_or_else(|| Error::new(Kind::Failed, format!("{} has no {class}", vm.name)))?;
    let resource = embedded(class, &[("InstanceID", id), ("VirtualQuantity", &quantity.to_string())]);
    let arguments = vec![instance("ResourceSettings", resource)];
    let called = session.invoke(management_service(), "ModifyResourceSettings", arguments)?;
    finish(session, &called).map(drop)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn sample(name: &str, state: &'static str, activity: Option<&str>) -> Machine {
        let vm = Vm {
            id: "0A1B2C3D-0000-4000-8000-00000000ABCD".to_owned(),
            name: name.to_owned(),
            state,
            activity: activity.map(str::to_owned),
            uptime_ms: 0,
        };
        let id = vm.id.clone();
        machine(vm, &[], &[(id.clone(), 2)], &[(id, 1536)])
    }

    #[test]
    fn machines_are_listed() {
        let machines = [sample("web", "running", Some("Creating snapshot")), sample("データ", "off", None)];
        expect![[r#"
            NAME    STATE                        CPUS   MEMORY  SNAPSHOTS  ID
            web     running (creating snapshot)     2  1.5 GiB          0  0A1B2C3D-0000-4000-8000-00000000ABCD
            データ  off                             2  1.5 GiB          0  0A1B2C3D-0000-4000-8000-00000000ABCD
        "#]]
        .assert_eq(&table(&machines));
        expect![[r#"{"id":"0A1B2C3D-0000-4000-8000-00000000ABCD","name":"web","state":"running","activity":"Creating snapshot","uptime_ms":0,"notes":"","created":null,"firmware":"unknown","snapshot_kind":"unknown","parent_snapshot":null,"snapshots":0,"cpus":2,"memory_mib":1536}"#]].assert_eq(&serde_json::to_string(&machines[0]).unwrap());
    }

    #[test]
    fn a_machine_is_described() {
        let mut machine = sample("web", "running", None);
        machine.vm.uptime_ms = 250_000;
        machine.notes = "first line\nsecond".to_owned();
        machine.devices = Some(Devices {
            disks: vec!["/images/a.qcow2".to_owned()],
            networks: vec![
                Network { mac: "525400ABCDEF".to_owned(), connection: Some("user".to_owned()) },
                Network { mac: "525400ABCDEE".to_owned(), connection: None },
            ],
            serial_ports: vec!["/run/com1".to_owned()],
        });
        expect![[r#"
            name:          web
            id:            0A1B2C3D-0000-4000-8000-00000000ABCD
            state:         running
            running for:   4 min 10 s
            cpus:          2
            memory:        1.5 GiB
            firmware:      unknown
            disk:          /images/a.qcow2
            network:       525400ABCDEF, user
            network:       525400ABCDEE, unplugged
            snapshot kind: unknown
            snapshots:     0
            based on:      before
            notes:         first line
                           second
        "#]]
        .assert_eq(&describe(&machine, Some("before"), &jiff::tz::TimeZone::UTC));
    }
}
