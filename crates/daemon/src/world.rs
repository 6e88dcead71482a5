//! For tests: a daemon without QEMU, in a temporary directory, with a store that can be made to fail.

#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use host::capability::Tools;
use host::executor::{Executor, Setup};
use host::inventory::Keeper;
use host::layout::Layout;
use ledger::paths::Paths;
use ledger::record::{Commit, Store, StoreError, Stored};
use tokio::sync::{mpsc, watch};

use crate::pump::{Handle, Pump};

/// Bodies by kind and id.
type Records = BTreeMap<(String, String), String>;

/// Records in memory; clones share them.
#[derive(Clone, Default)]
pub struct MemoryStore {
    /// The revision, and what is stored at it.
    records: Arc<Mutex<(u64, Records)>>,
    /// While true, every commit fails.
    pub broken: Arc<AtomicBool>,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<(u64, Vec<Stored>), StoreError> {
        let records = self.records.lock().unwrap();
        let stored = |((kind, id), body): (&(String, String), &String)| Stored {
            kind: kind.clone(),
            id: id.clone(),
            body: body.clone(),
        };
        Ok((records.0, records.1.iter().map(stored).collect()))
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Failed("the disk is on fire".to_owned()));
        }
        let mut records = self.records.lock().unwrap();
        assert_eq!(records.0, commit.expected_revision);
        records.0 += 1;
        for change in &commit.changes {
            let key = (change.key.kind().to_owned(), change.key.id());
            match &change.body {
                Some(body) => drop(records.1.insert(key, body.clone())),
                None => drop(records.1.remove(&key)),
            }
        }
        Ok(())
    }
}

/// A pump that runs until `stop` is told.
pub struct World {
    pub directory: tempfile::TempDir,
    pub handle: Handle,
    pub executor: Executor,
    pub stop: watch::Sender<bool>,
    pub pump: tokio::task::JoinHandle<()>,
}

impl World {
    /// A daemon on `store`, in a directory of its own.
    pub async fn start(store: MemoryStore) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout =
            Layout::new(&directory.path().join("data"), &directory.path().join("run"), host::account::Accounts::Own)
                .unwrap();
        layout.create().unwrap();
        let paths = Paths::new(layout.data());
        let (outcomes, events) = mpsc::unbounded_channel();
        let inventories = Keeper::new(layout.clone());
        let executor = Executor::new(
            Setup { layout, tools: no_tools(), groups: host::cgroup::Groups::default(), image_directories: Vec::new() },
            outcomes,
        );
        let (pump, handle) = Pump::start(store, inventories, paths, executor.clone(), events).await.unwrap();
        let (stop, stopping) = watch::channel(false);
        Self { directory, handle, executor, stop, pump: tokio::spawn(pump.run(stopping)) }
    }

    /// Stops the pump and waits for its end.
    pub async fn end(self) {
        self.stop.send_replace(true);
        self.pump.await.unwrap();
    }
}

/// Programs that are not there; defining a machine needs none.
fn no_tools() -> Tools {
    Tools {
        emulator: "/nonexistent/qemu".into(),
        qemu_img: "/nonexistent/qemu-img".into(),
        storage_daemon: "/nonexistent/qemu-storage-daemon".into(),
        version: qemu::version::Version { major: 10, minor: 0, micro: 2 },
        platform: qemu::launch::Platform {
            machine_type: "pc-q35-10.0".to_owned(),
            accelerator: qemu::launch::Accelerator::Tcg,
            cpu: "Nehalem-v1".to_owned(),
            display: qemu::launch::Display::Vga,
        },
        no_kvm: None,
        uefi: None,
        disk_io: qemu::graph::DiskIo::Buffered,
    }
}
