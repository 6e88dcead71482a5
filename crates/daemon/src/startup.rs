//! Machines that start with the host.
//!
//! The daemon starts more often than the host does, and somebody may have turned a machine off in between. So they are
//! started once for each boot, which is written down in the run directory when it is done: a daemon that ends in the middle
//! does it again, and a machine that runs already is not started twice.

use std::path::PathBuf;
use std::time::Duration;

use ledger::id::VmId;
use ledger::request::{PowerTarget, Reply, Request};
use ledger::vm::Startup;

use crate::pump::Handle;

/// How long a machine is waited for that has unfinished work from before.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts them, unless that was done for this boot. `done` is the file that says so.
pub async fn start_machines(handle: Handle, done: PathBuf) {
    let boot = match host::identity::boot_id() {
        Ok(boot) => boot,
        Err(error) => {
            tracing::warn!(%error, "cannot tell which boot this is: no machine is started with the host");
            return;
        }
    };
    if std::fs::read_to_string(&done).is_ok_and(|known| known == boot) {
        return;
    }
    for vm in waiting(&handle) {
        start(&handle, vm).await;
    }
    if let Err(error) = std::fs::write(&done, boot) {
        tracing::warn!(%error, path = %done.display(), "machines will be started again when the daemon is");
    }
}

/// Those that are to be started and have no process.
fn waiting(handle: &Handle) -> Vec<VmId> {
    let state = handle.state();
    let machines = state.vms.values().filter(|vm| vm.startup == Startup::Start && !vm.power.has_process());
    machines.map(|vm| vm.id).collect()
}

async fn start(handle: &Handle, vm: VmId) {
    let idle = handle.wait_for(|state| state.active_job(vm).is_none());
    if tokio::time::timeout(PATIENCE, idle).await.is_err() {
        tracing::warn!(%vm, "not started with the host: it has been busy all the time");
        return;
    }
    match handle.submit(Request::SetPower { vm, target: PowerTarget::Running }).await {
        Reply::Refused(failure) => tracing::warn!(%vm, error = failure.full_text(), "not started with the host"),
        Reply::Job(_) | Reply::Done { .. } => tracing::info!(%vm, "started with the host"),
    }
}

#[cfg(test)]
mod tests {
    use ledger::job::JobKind;
    use ledger::request::{Definition, VmChanges};
    use ledger::vm::{Firmware, SnapshotKind};

    use super::*;
    use crate::world::{MemoryStore, World};

    async fn define(world: &World, name: &str, startup: Startup) -> VmId {
        let definition = Definition {
            name: name.to_owned(),
            notes: String::new(),
            processors: 1,
            memory_mib: 64,
            firmware: Firmware::Bios,
            bios_guid: None,
            snapshot_kind: SnapshotKind::Standard,
        };
        world.handle.submit(Request::DefineVm(definition)).await;
        let there = world
            .handle
            .wait_for(|state| state.vms.values().any(|vm| vm.name == name && state.active_job(vm.id).is_none()));
        let vm = there.await.vms.values().find(|vm| vm.name == name).unwrap().id;
        let changes = VmChanges { startup: Some(startup), ..VmChanges::default() };
        assert_eq!(world.handle.submit(Request::ModifyVm { vm, changes }).await, Reply::Done { created: None });
        vm
    }

    fn starts(world: &World, vm: VmId) -> usize {
        world.handle.state().jobs_of(vm).filter(|job| job.kind == JobKind::Start).count()
    }

    #[tokio::test]
    async fn once_for_each_boot_and_only_those_that_are_to_be_started() {
        let world = World::start(MemoryStore::default()).await;
        let (with_host, by_hand) =
            (define(&world, "with host", Startup::Start).await, define(&world, "by hand", Startup::Nothing).await);
        let done = world.directory.path().join("started");

        start_machines(world.handle.clone(), done.clone()).await;
        assert_eq!((starts(&world, with_host), starts(&world, by_hand)), (1, 0));
        start_machines(world.handle.clone(), done.clone()).await;
        assert_eq!(starts(&world, with_host), 1, "the boot is known");

        world.handle.wait_for(|state| state.active_job(with_host).is_none()).await;
        std::fs::write(&done, "another boot").unwrap();
        start_machines(world.handle.clone(), done).await;
        assert_eq!(starts(&world, with_host), 2);
        world.end().await;
    }
}
