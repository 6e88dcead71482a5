//! A small world for tests: states made by hand, a host, and short ways to ask and to call.

#![cfg(test)]

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cim::op::{Answer, Argument, Operation, Query, Row, Target};
use cim::{Error, Value, wql};
use ledger::id::{DeviceId, JobId, LayerId, MemoryId, SnapshotId, VmId};
use ledger::job::{Job, JobKind, JobState, Stage};
use ledger::snapshot::{Format, Layer, Memory, Origin, Purpose, Snapshot};
use ledger::state::{State, Timestamp};
use ledger::vm::{Bus, Controller, Drive, Firmware, Network, Nic, Power, Settings, SnapshotKind, Vm};
use uuid::Uuid;

use crate::schema::VIRTUALIZATION;
use crate::{Host, Namespaces, Outcome, Reaction, Submission, View};

/// 2026-01-02T03:04:05Z.
pub const NOW: Timestamp = Timestamp(1_767_323_045_000_000);

pub const V: VmId = VmId(Uuid::from_u128(0xA0));
pub const IDE: DeviceId = DeviceId(Uuid::from_u128(0xD1));
pub const DRIVE: DeviceId = DeviceId(Uuid::from_u128(0xD2));
pub const EMPTY_DRIVE: DeviceId = DeviceId(Uuid::from_u128(0xD3));
pub const NIC: DeviceId = DeviceId(Uuid::from_u128(0xD4));

pub fn snapshot_id(name: char) -> SnapshotId {
    SnapshotId(Uuid::from_u128(0x5000 + name as u128))
}

pub fn job_id(number: u128) -> JobId {
    JobId(Uuid::from_u128(0x7000 + number))
}

pub fn layer_id(number: u128) -> LayerId {
    LayerId(Uuid::from_u128(0x1A00 + number))
}

pub fn settings(layer: LayerId) -> Settings {
    Settings {
        processors: 2,
        memory_mib: 1024,
        firmware: Firmware::Bios,
        bios_guid: Uuid::from_u128(0xB105),
        nvram: None,
        controllers: vec![Controller { id: IDE, bus: Bus::Ide, number: 0 }],
        drives: vec![
            Drive { id: DRIVE, controller: IDE, address: 0, disk: Some(layer) },
            Drive { id: EMPTY_DRIVE, controller: IDE, address: 1, disk: None },
        ],
        nics: vec![Nic { id: NIC, name: "net".to_owned(), mac: [2, 0, 0, 0, 0, 1], network: Network::User }],
    }
}

/// One machine, off, with one disk and no snapshots.
pub fn one_vm() -> State {
    let mut state = State::default();
    state.put_layer(layer(0, None));
    state.put_vm(Vm {
        id: V,
        name: "web".to_owned(),
        notes: String::new(),
        created: Timestamp(NOW.0 - 86_400_000_000),
        settings: settings(layer_id(0)),
        snapshot_kind: SnapshotKind::Standard,
        startup: Default::default(),
        power: Power::Off,
        saved: None,
        parent: None,
        last_applied: None,
        generation_id: Uuid::from_u128(0x6E),
        power_changed: NOW,
        configuration_changed: NOW,
        garbage: Default::default(),
    });
    state
}

/// The same with snapshot `A`.
pub fn with_snapshot() -> State {
    let mut state = one_vm();
    take(&mut state, 'A');
    state
}

pub fn layer(number: u128, parent: Option<u128>) -> Layer {
    Layer {
        id: layer_id(number),
        vm: V,
        path: PathBuf::from(format!("/disks/{number}.qcow2")),
        format: Format::Qcow2,
        parent: parent.map(layer_id),
        origin: Origin::Created,
        size: 1 << 30,
        merging: None,
    }
}

/// Adds snapshot `name` of what the machine is now: the active layer freezes and a new one goes on top.
pub fn take(state: &mut State, name: char) {
    let vm = Arc::clone(&state.vms[&V]);
    let active = vm.settings.drives[0].disk.unwrap();
    let next = state.layers.len() as u128;
    let memory = (vm.power == Power::Running).then_some(MemoryId(Uuid::from_u128(0xE000 + name as u128)));
    if let Some(id) = memory {
        let path = PathBuf::from("/memory");
        state.put_memory(Memory { id, vm: V, path, bytes: 1, machine: String::new() });
    }
    state.put_layer(Layer { parent: Some(active), ..layer(next, None) });
    state.put_snapshot(Snapshot {
        id: snapshot_id(name),
        vm: V,
        name: name.to_string(),
        notes: String::new(),
        created: NOW,
        parent: vm.parent,
        purpose: Purpose::User,
        settings: vm.settings.clone(),
        snapshot_kind: vm.snapshot_kind,
        memory,
    });
    state.update_vm(V, |vm| {
        vm.parent = Some(snapshot_id(name));
        vm.settings.drives[0].disk = Some(layer_id(next));
    });
}

pub fn job(number: u128, kind: JobKind, snapshot: Option<char>, state: JobState) -> Job {
    Job {
        id: job_id(number),
        vm: V,
        kind,
        percent: if state == JobState::Completed { 100 } else { 40 },
        state,
        stage: Stage::Launching,
        activity: "writing memory".to_owned(),
        snapshot: snapshot.map(snapshot_id),
        report: None,
        cancel: None,
        effects: 1,
        submitted: Timestamp(NOW.0 - 5_000_000),
        changed: Timestamp(NOW.0 - 1_000_000),
    }
}

pub fn view(state: State) -> View {
    static NAMESPACES: OnceLock<Arc<Namespaces>> = OnceLock::new();
    let serial = |vm: VmId, port: u8| Some(PathBuf::from(format!("/run/{vm}.com{}", port + 1)));
    View {
        namespaces: Arc::clone(NAMESPACES.get_or_init(|| Arc::new(Namespaces::load()))),
        host: Arc::new(Host {
            name: "HOST".to_owned(),
            uuid: Uuid::from_u128(0x40),
            processors: 8,
            memory_bytes: 16 << 30,
            data_root: PathBuf::from("/data"),
            serial: Box::new(serial),
            process: Box::new(|_| Some(4711)),
            free_memory: Box::new(|| 6 << 30),
        }),
        state: Arc::new(state),
        now: NOW,
        utc_offset_minutes: 60,
        role: crate::Role::Administer,
    }
}

/// Rows of a WQL query.
pub fn ask(view: &View, query: &str) -> Result<Vec<Row>, Error> {
    let query = Query::from_wql(wql::parse(query).unwrap(), VIRTUALIZATION);
    rows(view, query)
}

pub fn rows(view: &View, query: Query) -> Result<Vec<Row>, Error> {
    match crate::answer(view, Operation::Enumerate { namespace: VIRTUALIZATION.to_owned(), query })? {
        Reaction::Read(Answer::Rows(rows)) => rows.collect(),
        other => panic!("not rows: {other:?}"),
    }
}

/// One property of each row, as text, NULL as `-`.
pub fn column(view: &View, query: &str, property: &str) -> String {
    match ask(view, query) {
        Ok(rows) => {
            let texts = rows.iter().map(|row| row.instance.get(property).map_or("-".to_owned(), Value::to_string));
            texts.collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("{}: {error}", error.status),
    }
}

/// The path of an object, as WMI writes it in a query.
pub fn of(class: &str, key: &str, value: impl std::fmt::Display) -> String {
    format!("{class}.{key}='{value}'")
}

pub fn system(vm: VmId) -> Target {
    Target::new(VIRTUALIZATION, "Msvm_ComputerSystem").with_key("Name", vm.to_string())
}

pub fn vssd(guid: Uuid) -> Target {
    let id = format!("Microsoft:{:X}", guid.as_hyphenated());
    Target::new(VIRTUALIZATION, "Msvm_VirtualSystemSettingData").with_key("InstanceID", id)
}

pub fn snapshot_target(name: char) -> Target {
    vssd(snapshot_id(name).0)
}

pub fn snapshot_service() -> Target {
    Target::new(VIRTUALIZATION, "Msvm_VirtualSystemSnapshotService")
}

pub fn management_service() -> Target {
    Target::new(VIRTUALIZATION, "Msvm_VirtualSystemManagementService")
}

/// A call: parameters are references, texts, or embedded instances in MOF.
pub fn call(view: &View, target: Target, method: &str, arguments: Vec<(&str, Argument)>) -> Result<Reaction, Error> {
    let arguments = arguments.into_iter().map(|(name, argument)| (name.to_owned(), argument)).collect();
    crate::answer(view, Operation::Invoke { target, method: method.to_owned(), arguments })
}

pub fn text(text: impl Into<String>) -> Argument {
    Argument::Text(text.into())
}

pub fn reference(target: Target) -> Argument {
    Argument::Reference(target)
}

/// What a call leads to, in few words.
pub fn show(reaction: Result<Reaction, Error>) -> String {
    match reaction {
        Ok(Reaction::Read(_)) => "a read".to_owned(),
        Ok(Reaction::Follow(_)) => "a subscription".to_owned(),
        Ok(Reaction::Done(outcome)) => show_outcome(&outcome),
        Ok(Reaction::Ask(inquiry)) => {
            let questions: Vec<String> = inquiry.questions.iter().map(|question| format!("{question:?}")).collect();
            format!("ask {}", questions.join("\n")).replace("00000000-0000-0000-0000-00000000", "")
        }
        Ok(Reaction::Submit(Submission { requests, completion })) => {
            let requests: Vec<String> = requests.iter().map(|request| format!("{request:?}")).collect();
            let wait = if completion.wait_for_job { "wait for " } else { "" };
            // The ids of this world differ in their last digits only.
            format!("{wait}{}", requests.join("\n")).replace("00000000-0000-0000-0000-00000000", "")
        }
        Err(error) => format!("fault {}: {error}", error.status),
    }
}

pub fn show_outcome(outcome: &Outcome) -> String {
    let mut text = outcome.result.return_value.to_string();
    for (name, value) in &outcome.result.outputs {
        text += &format!(" {name}={}", value.as_ref().map_or("-".to_owned(), Value::to_string));
    }
    if let Some(refusal) = &outcome.refusal {
        text += &format!(": {}", refusal.full_text());
    }
    text
}
