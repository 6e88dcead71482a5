//! What requests are answered from: a host, a machine with a disk and a snapshot, and the same a moment later.

use std::sync::{Arc, OnceLock};

use hyperv::role::Role;
use hyperv::{Host, Namespaces, View};
use ledger::record::{self, Stored};
use ledger::state::{State, Timestamp};

/// Name of the host.
pub const HOST: &str = "HOST";
/// The namespace that matters.
pub const NAMESPACE: &str = "root/virtualization/v2";

/// Records of the store. The machine is off, and has a disk in two layers, an empty drive, a network adapter, a snapshot and a job.
const RECORDS: &[(&str, &str)] = &[
    (
        "vm",
        r#"{"version":1,"id":"00000000-0000-4000-8000-000000000001","name":"web","notes":"n","created":1,"settings":{"processors":2,"memory_mib":64,"firmware":"Uefi","bios_guid":"00000000-0000-4000-8000-000000000009","nvram":null,"controllers":[{"id":"00000000-0000-4000-8000-000000000003","bus":"Scsi","number":0}],"drives":[{"id":"00000000-0000-4000-8000-000000000004","controller":"00000000-0000-4000-8000-000000000003","address":0,"disk":"00000000-0000-4000-8000-000000000005"},{"id":"00000000-0000-4000-8000-00000000000B","controller":"00000000-0000-4000-8000-000000000003","address":1,"disk":null}],"nics":[{"id":"00000000-0000-4000-8000-000000000006","name":"n","mac":[82,84,0,1,2,3],"network":{"Tap":"t"}}]},"snapshot_kind":"Standard","power":"Off","saved":null,"parent":"00000000-0000-4000-8000-000000000002","last_applied":null,"generation_id":"00000000-0000-4000-8000-000000000007","power_changed":1,"configuration_changed":1,"garbage":[]}"#,
    ),
    (
        "layer",
        r#"{"version":1,"id":"00000000-0000-4000-8000-000000000005","vm":"00000000-0000-4000-8000-000000000001","path":"/d/a.qcow2","format":"Qcow2","parent":"00000000-0000-4000-8000-00000000000C","origin":"Attached","size":1048576}"#,
    ),
    (
        "layer",
        r#"{"version":1,"id":"00000000-0000-4000-8000-00000000000C","vm":"00000000-0000-4000-8000-000000000001","path":"/d/b.raw","format":"Raw","parent":null,"origin":"Attached","size":1048576}"#,
    ),
    (
        "memory",
        r#"{"version":1,"id":"00000000-0000-4000-8000-000000000008","vm":"00000000-0000-4000-8000-000000000001","path":"/d/m","bytes":7,"machine":"{}"}"#,
    ),
    (
        "snapshot",
        r#"{"version":1,"id":"00000000-0000-4000-8000-000000000002","vm":"00000000-0000-4000-8000-000000000001","name":"s","notes":"","created":2,"parent":null,"purpose":"User","settings":{"processors":1,"memory_mib":64,"firmware":"Bios","bios_guid":"00000000-0000-4000-8000-000000000009","nvram":null,"controllers":[{"id":"00000000-0000-4000-8000-000000000003","bus":"Scsi","number":0}],"drives":[{"id":"00000000-0000-4000-8000-000000000004","controller":"00000000-0000-4000-8000-000000000003","address":0,"disk":"00000000-0000-4000-8000-00000000000C"}],"nics":[]},"snapshot_kind":"Standard","memory":"00000000-0000-4000-8000-000000000008"}"#,
    ),
    (
        "job",
        r#"{"version":1,"id":"00000000-0000-4000-8000-00000000000A","vm":"00000000-0000-4000-8000-000000000001","kind":"CreateSnapshot","state":"Completed","stage":"Finished","percent":100,"activity":"done","snapshot":"00000000-0000-4000-8000-000000000002","report":{"method":"live","reason":null,"pause_us":10,"total_us":20,"bytes":30},"cancel":null,"effects":3,"submitted":1,"changed":2}"#,
    ),
];

/// The world as an administrator sees it.
pub fn view() -> &'static View {
    static VIEW: OnceLock<View> = OnceLock::new();
    VIEW.get_or_init(|| {
        let host = Host {
            name: HOST.to_owned(),
            uuid: uuid::Uuid::from_u128(7),
            processors: 4,
            memory_bytes: 8 << 30,
            data_root: "/data".into(),
            serial: Box::new(|_, port| Some(format!("/run/serial-{port}").into())),
            process: Box::new(|_| None),
            free_memory: Box::new(|| 4 << 30),
        };
        View {
            namespaces: Arc::new(Namespaces::load()),
            host: Arc::new(host),
            state: Arc::new(state()),
            now: Timestamp(1_767_323_045_000_000),
            utc_offset_minutes: 60,
            role: Role::Administer,
        }
    })
}

/// The same after something has happened to everything that there is.
pub fn later() -> View {
    static LATER: OnceLock<Arc<State>> = OnceLock::new();
    let state = LATER.get_or_init(|| {
        let mut state = State::clone(&view().state);
        let Some(vm) = state.vms.keys().next().copied() else { return Arc::new(state) };
        state.update_vm(vm, |vm| vm.name.push('2'));
        for id in state.jobs.keys().copied().collect::<Vec<_>>() {
            state.update_job(id, |job| job.percent = 50);
        }
        for id in state.snapshots.keys().copied().collect::<Vec<_>>() {
            state.remove_snapshot(id);
        }
        Arc::new(state)
    });
    View { state: Arc::clone(state), ..view().clone() }
}

fn state() -> State {
    let stored =
        |(kind, body): &(&str, &str)| Stored { kind: (*kind).to_owned(), id: String::new(), body: (*body).to_owned() };
    let records: Vec<Stored> = RECORDS.iter().map(stored).collect();
    record::rebuild(1, &records).unwrap_or_else(|error| panic!("the records of the small world can be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_is_sound_and_changes() {
        assert_eq!(view().state.check(), Vec::<String>::new());
        assert_ne!(*later().state, *view().state);
    }
}
