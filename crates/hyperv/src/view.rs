//! What an operation is answered from.

use std::path::PathBuf;
use std::sync::Arc;

use cim::{DateTime, Error, Schema, Status};
use ledger::id::VmId;
use ledger::state::{State, Timestamp};
use uuid::Uuid;

use crate::role::Role;
use crate::schema::Namespaces;

/// Where a machine's serial port, numbered from zero, can be reached, as a path on this host; `None` if it cannot.
pub type SerialPath = Box<dyn Fn(VmId, u8) -> Option<PathBuf> + Send + Sync>;

/// The process of a machine that has one, by number.
pub type ProcessNumber = Box<dyn Fn(VmId) -> Option<u32> + Send + Sync>;

/// Memory of the host that could be used for something else, in bytes.
pub type FreeMemory = Box<dyn Fn() -> u64 + Send + Sync>;

/// What is known of the host and does not change while the daemon runs, and how to ask for what does.
pub struct Host {
    /// Host name, as it stands in object paths.
    pub name: String,
    /// SMBIOS UUID of the host, or another stable identity.
    pub uuid: Uuid,
    /// Logical processors.
    pub processors: u32,
    /// Installed memory in bytes.
    pub memory_bytes: u64,
    /// Directory under which the service keeps what belongs to machines.
    pub data_root: PathBuf,
    /// Serial ports of a machine, shown as their connections; the first is its console.
    pub serial: SerialPath,
    /// Processes of machines.
    pub process: ProcessNumber,
    /// Memory that is free now.
    pub free_memory: FreeMemory,
}

/// All that an operation is answered from; cheap to clone, and never changes.
#[derive(Clone)]
pub struct View {
    /// The classes.
    pub namespaces: Arc<Namespaces>,
    /// The host.
    pub host: Arc<Host>,
    /// Machines, snapshots and jobs at one revision.
    pub state: Arc<State>,
    /// The time by the host's clock.
    pub now: Timestamp,
    /// Minutes that local time is ahead of UTC; for names that show a date.
    pub utc_offset_minutes: i16,
    /// What whoever asks may do.
    pub role: Role,
}

impl View {
    /// The schema of a namespace.
    ///
    /// # Errors
    /// [`Status::InvalidNamespace`] if there is none of this name.
    pub fn schema(&self, namespace: &str) -> Result<&Arc<Schema>, Error> {
        self.namespaces.find(namespace).ok_or_else(|| {
            let v2 = self.namespaces.virtualization().namespace();
            Error::new(Status::InvalidNamespace, format!("there is no namespace {namespace} here; try {v2}"))
        })
    }
}

/// A point in time as CIM writes it.
pub fn datetime(moment: Timestamp) -> DateTime {
    DateTime::from_unix_micros(i64::try_from(moment.0).unwrap_or(i64::MAX))
}
