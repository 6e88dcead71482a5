//! The tree of snapshots as clients see it: associations asked for over the wire, against what is on record.

use std::collections::BTreeSet;
use std::time::Duration;

use ledger::id::{SnapshotId, VmId};
use ledger::state::State;
use ledger::vm::Vm;
use wsman::client::{self, Reply, Request, Stamp};
use wsman::server::HttpReply;

/// The client that asks these questions.
pub const CLIENT: usize = usize::MAX;

/// More rows than there are snapshots of one machine.
const PAGE: u32 = 100;

/// Every question is the first of its connection.
pub const STAMP: Stamp<'static> =
    Stamp { to: "http://sim/wsman", message_id: [7; 16], timeout: Duration::from_secs(60) };

/// A row: the snapshot, and its parent where it matters.
type Row = (String, Option<String>);

/// What each association of a machine must lead to.
pub fn expected(state: &State, vm: &Vm) -> [(&'static str, BTreeSet<Row>); 3] {
    let row = |id: SnapshotId| {
        let parent = state.snapshots.get(&id).and_then(|snapshot| snapshot.parent);
        (instance_id(id), parent.map(instance_id))
    };
    [
        ("Msvm_SnapshotOfVirtualSystem", state.snapshots_of(vm.id).map(|snapshot| row(snapshot.id)).collect()),
        ("Msvm_MostCurrentSnapshotInBranch", vm.parent.map(row).into_iter().collect()),
        ("Msvm_LastAppliedSnapshot", vm.last_applied.map(row).into_iter().collect()),
    ]
}

fn instance_id(id: SnapshotId) -> String {
    format!("Microsoft:{id}")
}

/// The question.
pub fn question(vm: VmId, association: &str) -> Request {
    let wql = format!(
        "ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{vm}'}} \
         WHERE AssocClass = {association}"
    );
    Request::Enumerate { namespace: "root/virtualization/v2".to_owned(), wql, page: PAGE }
}

/// Whether the answer is what is on record; how many of its rows have a parent.
///
/// # Errors
/// What the difference is.
pub fn compare(question: &Request, reply: Option<&HttpReply>, expected: &BTreeSet<Row>) -> Result<u64, String> {
    let reply = reply.ok_or("no answer")?;
    let answer = client::read(question, reply.status, reply.content_type, &reply.body);
    let Reply::Page(page) = answer.map_err(|error| error.to_string())? else { return Err("no rows".to_owned()) };
    let parent = |row: &client::Bag| {
        // A path of the parent's settings; its key is what counts.
        row.text("Parent").map(key_of)
    };
    let found: BTreeSet<Row> =
        page.rows.iter().map(|row| (row.text("InstanceID").unwrap_or_default().to_owned(), parent(row))).collect();
    if found != *expected {
        return Err(format!("clients see {found:?}, on record is {expected:?}"));
    }
    Ok(found.iter().filter(|(_, parent)| parent.is_some()).map(|_| 1).sum())
}

/// The key in an object path.
fn key_of(path: &str) -> String {
    path.split('"').nth(1).unwrap_or(path).replace("\\\\", "\\")
}
