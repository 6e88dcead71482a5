//! The persisted form: what a commit consists of.
//!
//! Each entity is one record: a kind, an id and a JSON body. The body is the entity as declared in [`crate::vm`],
//! [`crate::snapshot`] and [`crate::job`], under a version number of this format. We keep one set of types rather than a
//! second, persisted set beside it: the golden test below pins the form, so that a change that would make old records
//! unreadable fails there and must come with a version and a conversion.

use serde::{Deserialize, Serialize};

use crate::id::{JobId, LayerId, MemoryId, SnapshotId, VmId};
use crate::job::Job;
use crate::snapshot::{Layer, Memory, Snapshot};
use crate::state::State;
use crate::vm::Vm;

/// Version of the record bodies. Readers refuse newer ones and convert older ones.
pub const FORMAT_VERSION: u32 = 1;

/// Names a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A machine.
    Vm(VmId),
    /// A snapshot.
    Snapshot(SnapshotId),
    /// A layer.
    Layer(LayerId),
    /// A memory image.
    Memory(MemoryId),
    /// A job.
    Job(JobId),
}

impl Key {
    /// The kind, as stored.
    pub fn kind(&self) -> &'static str {
        match self {
            Key::Vm(_) => "vm",
            Key::Snapshot(_) => "snapshot",
            Key::Layer(_) => "layer",
            Key::Memory(_) => "memory",
            Key::Job(_) => "job",
        }
    }

    /// The id, as stored.
    pub fn id(&self) -> String {
        match self {
            Key::Vm(id) => id.to_string(),
            Key::Snapshot(id) => id.to_string(),
            Key::Layer(id) => id.to_string(),
            Key::Memory(id) => id.to_string(),
            Key::Job(id) => id.to_string(),
        }
    }
}

/// A change of one record: a new body, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which record.
    pub key: Key,
    /// The new body; `None` removes the record.
    pub body: Option<String>,
}

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The revision the store must be at, or it refuses: somebody else has written.
    pub expected_revision: u64,
    /// The changes. After them the store is at `expected_revision + 1`.
    pub changes: Vec<Change>,
}

/// A stored record, as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// As [`Key::kind`].
    pub kind: String,
    /// As [`Key::id`].
    pub id: String,
    /// As [`Change::body`].
    pub body: String,
}

/// Where records live. Implementations decide how; the driver only knows this.
pub trait Store: Send {
    /// Everything stored, and the revision it is at.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn load(&mut self) -> Result<(u64, Vec<Stored>), StoreError>;

    /// Makes `commit` durable: when this returns `Ok`, it survives a power cut.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the revision is another one; then nothing is written.
    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError>;
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote to the store.
    #[error("the store is at revision {found}, not {expected}: another daemon has written to it")]
    Conflict {
        /// Revision we knew.
        expected: u64,
        /// Revision it is at.
        found: u64,
    },
    /// The store could not read or write.
    #[error("the state store failed: {0}")]
    Failed(String),
}

/// Why stored records could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer version.
    #[error("record {kind} {id} has format version {version}; this program knows up to {FORMAT_VERSION}")]
    TooNew {
        /// Kind of record.
        kind: String,
        /// Its id.
        id: String,
        /// Its version.
        version: u32,
    },
    /// Damaged.
    #[error("record {kind} {id} is damaged: {reason}")]
    Damaged {
        /// Kind of record.
        kind: String,
        /// Its id.
        id: String,
        /// What the reader said.
        reason: String,
    },
}

#[derive(Serialize)]
struct Envelope<T> {
    version: u32,
    #[serde(flatten)]
    entity: T,
}

/// The changes that turn `before` into `after`, as one commit. `None` if nothing durable changed.
pub fn difference(before: &State, after: &State) -> Option<Commit> {
    let mut changes = Vec::new();
    diff_map(&before.vms, &after.vms, Key::Vm, &mut changes);
    diff_map(&before.snapshots, &after.snapshots, Key::Snapshot, &mut changes);
    diff_map(&before.layers, &after.layers, Key::Layer, &mut changes);
    diff_map(&before.memories, &after.memories, Key::Memory, &mut changes);
    diff_map(&before.jobs, &after.jobs, Key::Job, &mut changes);
    (!changes.is_empty()).then_some(Commit { expected_revision: before.revision, changes })
}

fn diff_map<I: Ord + Copy, E: PartialEq + Serialize>(
    before: &imbl::OrdMap<I, std::sync::Arc<E>>,
    after: &imbl::OrdMap<I, std::sync::Arc<E>>,
    key: fn(I) -> Key,
    changes: &mut Vec<Change>,
) {
    use imbl::ordmap::DiffItem;
    for item in before.diff(after) {
        let (id, body) = match item {
            DiffItem::Add(id, entity) | DiffItem::Update { new: (id, entity), .. } => (*id, Some(encode(&**entity))),
            DiffItem::Remove(id, _) => (*id, None),
        };
        changes.push(Change { key: key(id), body });
    }
}

/// The record of an entity.
pub(crate) fn stored<E: Serialize>(key: Key, entity: &E) -> Stored {
    Stored { kind: key.kind().to_owned(), id: key.id(), body: encode(entity) }
}

fn encode<E: Serialize>(entity: &E) -> String {
    serde_json::to_string(&Envelope { version: FORMAT_VERSION, entity }).expect("entities have string keys only")
}

/// Rebuilds the state from stored records.
///
/// # Errors
/// When a record is damaged or from a newer program. Nothing is guessed.
pub fn rebuild(revision: u64, records: &[Stored]) -> Result<State, RecordError> {
    let mut state = State::default();
    state.revision = revision;
    for record in records {
        match record.kind.as_str() {
            "vm" => state.put_vm(decode::<Vm>(record)?),
            "snapshot" => state.put_snapshot(decode::<Snapshot>(record)?),
            "layer" => state.put_layer(decode::<Layer>(record)?),
            "memory" => state.put_memory(decode::<Memory>(record)?),
            "job" => state.put_job(decode::<Job>(record)?),
            _ => return Err(damaged(record, "its kind is unknown")),
        }
    }
    Ok(state)
}

fn decode<E: for<'a> Deserialize<'a>>(record: &Stored) -> Result<E, RecordError> {
    let version = version(&record.body).map_err(|error| damaged(record, error))?;
    if version > FORMAT_VERSION {
        return Err(RecordError::TooNew { kind: record.kind.clone(), id: record.id.clone(), version });
    }
    // The version is one more field of the same object, which the entity ignores.
    serde_json::from_str(&record.body).map_err(|error| damaged(record, error))
}

/// The version of a body. Those that we write begin with it; to look for it elsewhere takes reading all of the body once more.
fn version(body: &str) -> Result<u32, serde_json::Error> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let first = body.strip_prefix(r#"{"version":"#).and_then(|rest| rest.split_once(','));
    match first.and_then(|(number, _)| number.parse().ok()) {
        Some(version) => Ok(version),
        None => serde_json::from_str(body).map(|Version { version }| version),
    }
}

fn damaged(record: &Stored, reason: impl ToString) -> RecordError {
    RecordError::Damaged { kind: record.kind.clone(), id: record.id.clone(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records as version 1 wrote them. A type that changes must go on reading these, or come with a new version.
    const VERSION_1: &[(&str, &str)] = &[
        (
            "vm",
            r#"{"version":1,"id":"00000000-0000-4000-8000-000000000001","name":"m","notes":"","created":1,"settings":{"processors":1,"memory_mib":64,"firmware":"Uefi","bios_guid":"00000000-0000-4000-8000-000000000009","nvram":null,"controllers":[{"id":"00000000-0000-4000-8000-000000000003","bus":"Scsi","number":0}],"drives":[{"id":"00000000-0000-4000-8000-000000000004","controller":"00000000-0000-4000-8000-000000000003","address":0,"disk":"00000000-0000-4000-8000-000000000005"}],"nics":[{"id":"00000000-0000-4000-8000-000000000006","name":"n","mac":[82,84,0,1,2,3],"network":{"Tap":"t"}}]},"snapshot_kind":"Standard","power":"Off","saved":null,"parent":null,"last_applied":null,"generation_id":"00000000-0000-4000-8000-000000000007","power_changed":1,"configuration_changed":1,"garbage":["/d/x"]}"#,
        ),
        (
            "layer",
            r#"{"version":1,"id":"00000000-0000-4000-8000-000000000005","vm":"00000000-0000-4000-8000-000000000001","path":"/d/a.qcow2","format":"Qcow2","parent":null,"origin":"Attached","size":1048576}"#,
        ),
        (
            "memory",
            r#"{"version":1,"id":"00000000-0000-4000-8000-000000000008","vm":"00000000-0000-4000-8000-000000000001","path":"/d/m","bytes":7,"machine":"{}"}"#,
        ),
        (
            "snapshot",
            r#"{"version":1,"id":"00000000-0000-4000-8000-000000000002","vm":"00000000-0000-4000-8000-000000000001","name":"s","notes":"","created":2,"parent":null,"purpose":"User","settings":{"processors":1,"memory_mib":64,"firmware":"Bios","bios_guid":"00000000-0000-4000-8000-000000000009","nvram":null,"controllers":[],"drives":[],"nics":[]},"snapshot_kind":"Standard","memory":"00000000-0000-4000-8000-000000000008"}"#,
        ),
        (
            "job",
            r#"{"version":1,"id":"00000000-0000-4000-8000-00000000000A","vm":"00000000-0000-4000-8000-000000000001","kind":"CreateSnapshot","state":"Completed","stage":"Finished","percent":100,"activity":"done","snapshot":"00000000-0000-4000-8000-000000000002","report":{"method":"live","reason":null,"pause_us":10,"total_us":20,"bytes":30},"cancel":null,"effects":3,"submitted":1,"changed":2}"#,
        ),
    ];

    #[test]
    fn records_of_version_1_are_read_and_written_as_they_were() {
        let stored =
            |(kind, body): &(&str, &str)| Stored { kind: (*kind).into(), id: String::new(), body: (*body).into() };
        let records: Vec<Stored> = VERSION_1.iter().map(stored).collect();
        let state = rebuild(7, &records).unwrap();
        assert_eq!((state.revision, state.check()), (7, Vec::new()));
        let commit = difference(&State::default(), &state).unwrap();
        for change in commit.changes {
            let expected = VERSION_1.iter().find(|(kind, _)| *kind == change.key.kind()).unwrap().1;
            let lower = |text: &str| text.to_lowercase();
            assert_eq!(change.body.as_deref().map(lower), Some(lower(expected)));
        }
    }

    #[test]
    fn damaged_and_newer_records_are_refused() {
        let check = |kind: &str, body: &str, expected: &str| {
            let record = Stored { kind: kind.into(), id: "X".into(), body: body.into() };
            let error = rebuild(0, &[record]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("vm", "{", "record vm X is damaged");
        check("vm", "{}", "missing field `version`");
        check("vm", r#"{"version":1}"#, "missing field `id`");
        check("layer", r#"{"version":2}"#, "record layer X has format version 2; this program knows up to 1");
        check("cat", r#"{"version":1}"#, "its kind is unknown");
    }
}
