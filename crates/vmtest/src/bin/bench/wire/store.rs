//! A store of the size that is asked for, written through the code that writes real ones.
//!
//! The machines are off and nobody looks at their disks, so there are records and no files.

use std::path::{Path, PathBuf};

use host::layout::Layout;
use host::store_sqlite::SqliteStore;
use ledger::id::{DeviceId, IdSource, LayerId, SnapshotId, VmId};
use ledger::paths::Paths;
use ledger::record::{Store, difference};
use ledger::snapshot::{Format, Layer, Origin, Purpose, Snapshot};
use ledger::state::{State, Timestamp};
use ledger::vm::{Bus, Controller, Drive, Firmware, Network, Nic, Power, Settings, SnapshotKind, Startup, Vm};
use vmtest::service::{Error, Result};

/// 2026-01-02T03:04:05Z, when all this was made.
const THEN: Timestamp = Timestamp(1_767_323_045_000_000);
/// Every world is the same one.
const SEED: u128 = 0x5EED;

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Machines.
    pub machines: usize,
    /// Snapshots, in all; the same number for each machine.
    pub snapshots: usize,
}

/// Writes a store below `directory` and gives the snapshots in it.
///
/// # Errors
/// If it cannot be written.
pub fn make(directory: &Path, size: Size) -> Result<Vec<SnapshotId>> {
    let layout =
        Layout::new(&directory.join("data"), &directory.join("run"), host::account::Accounts::Own).map_err(other)?;
    layout.create().map_err(other)?;
    let mut maker = Maker { ids: IdSource::new(SEED), paths: Paths::new(layout.data()), state: State::default() };
    for number in 0..size.machines {
        maker.machine(number, size.snapshots / size.machines.max(1));
    }
    let commit = difference(&State::default(), &maker.state);
    let commit = commit.ok_or_else(|| Error::Other("a store without machines was asked for".to_owned()))?;
    SqliteStore::open(&layout).map_err(other)?.commit(&commit).map_err(other)?;
    Ok(maker.state.snapshots.keys().copied().collect())
}

struct Maker {
    ids: IdSource,
    paths: Paths,
    state: State,
}

impl Maker {
    /// A machine with one disk and snapshots in a row.
    fn machine(&mut self, number: usize, snapshots: usize) {
        let id = VmId(self.ids.next_uuid());
        let mut top = self.layer(id, None);
        let mut settings = self.settings(top);
        let mut parent = None;
        for at in 0..snapshots {
            let snapshot = self.snapshot(id, at, parent, &settings);
            parent = Some(snapshot);
            top = self.layer(id, Some(top));
            settings.drives.iter_mut().for_each(|drive| drive.disk = Some(top));
        }
        let generation_id = self.ids.next_uuid();
        self.state.put_vm(Vm {
            id,
            name: format!("machine-{number:05}"),
            notes: String::new(),
            created: THEN,
            settings,
            snapshot_kind: SnapshotKind::Standard,
            startup: Startup::Nothing,
            power: Power::Off,
            saved: None,
            parent,
            last_applied: None,
            generation_id,
            power_changed: THEN,
            configuration_changed: THEN,
            garbage: Vec::new(),
        });
    }

    fn snapshot(&mut self, vm: VmId, at: usize, parent: Option<SnapshotId>, settings: &Settings) -> SnapshotId {
        let id = SnapshotId(self.ids.next_uuid());
        self.state.put_snapshot(Snapshot {
            id,
            vm,
            name: format!("before change {at}"),
            notes: String::new(),
            created: THEN,
            parent,
            purpose: Purpose::User,
            settings: settings.clone(),
            snapshot_kind: SnapshotKind::Standard,
            memory: None,
        });
        id
    }

    fn layer(&mut self, vm: VmId, parent: Option<LayerId>) -> LayerId {
        let id = LayerId(self.ids.next_uuid());
        let (path, origin) = match parent {
            Some(_) => (self.paths.layer(vm, id), Origin::Created),
            None => (PathBuf::from(format!("/srv/images/{vm}.qcow2")), Origin::Attached),
        };
        self.state.put_layer(Layer {
            id,
            vm,
            path,
            format: Format::Qcow2,
            parent,
            origin,
            size: 10 << 30,
            merging: None,
        });
        id
    }

    fn settings(&mut self, disk: LayerId) -> Settings {
        let [controller, drive, nic] = std::array::from_fn(|_| DeviceId(self.ids.next_uuid()));
        let [.., a, b, c] = *nic.0.as_bytes();
        Settings {
            processors: 2,
            memory_mib: 2048,
            firmware: Firmware::Bios,
            bios_guid: self.ids.next_uuid(),
            nvram: None,
            controllers: vec![Controller { id: controller, bus: Bus::Ide, number: 0 }],
            drives: vec![Drive { id: drive, controller, address: 0, disk: Some(disk) }],
            nics: vec![Nic { id: nic, name: "net".to_owned(), mac: [0x52, 0x54, 0, a, b, c], network: Network::User }],
        }
    }
}

fn other(error: impl std::fmt::Display) -> Error {
    Error::Other(format!("making a store: {error}"))
}
