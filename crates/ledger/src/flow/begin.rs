//! From an admitted request to its one commit, or to a job in its first stage.

use uuid::Uuid;

use super::Turn;
use crate::admission::{admit, find_snapshot, find_vm};
use crate::failure::Failure;
use crate::id::{DeviceId, IdSource, JobId, LayerId, SnapshotId, VmId};
use crate::job::{Cancel, JobKind, JobState, Stage};
use crate::layers;
use crate::request::{Definition, PowerTarget, Reply, Request, VmChanges};
use crate::snapshot::{Format, Layer, Origin};
use crate::vm::{Bus, Controller, Drive, Firmware, Network, Nic, Power, Settings, Startup, Vm};

/// Virtual size of a UEFI variable store: that of the 4 MiB firmware builds' variable image.
const NVRAM_BYTES: u64 = 540_672;

impl Turn<'_> {
    pub(super) fn begin(&mut self, request: &Request, mut ids: IdSource) -> Result<Reply, Failure> {
        admit(&self.state, request)?;
        let ids = &mut ids;
        match request {
            Request::DefineVm(definition) => Ok(self.begin_define(definition, ids)),
            Request::ModifyVm { vm, changes } => Ok(self.modify_vm(*vm, changes)),
            Request::DestroyVm { vm } => Ok(self.begin_destroy_vm(*vm, ids)),
            Request::AddController { vm, bus } => Ok(self.add_controller(*vm, *bus, ids)),
            Request::AddDrive { vm, controller, address } => self.add_drive(*vm, *controller, *address, ids),
            Request::AttachDisk { vm, drive, path, format } => {
                let job = self.create_job(ids, *vm, JobKind::Modify);
                self.enter(job, Stage::InspectingImage { drive: *drive, path: path.clone(), format: *format });
                Ok(Reply::Job(job))
            }
            Request::AddNic { vm, name, mac, network } => Ok(self.add_nic(*vm, name, *mac, network, ids)),
            Request::ConnectNic { vm, nic, network } => {
                self.change_hardware(*vm, |settings| {
                    settings
                        .nics
                        .iter_mut()
                        .filter(|known| known.id == *nic)
                        .for_each(|known| known.network = network.clone());
                });
                Ok(Reply::Done { created: None })
            }
            Request::RemoveDevice { vm, device, disk_only } => Ok(self.remove_device(*vm, *device, *disk_only)),
            Request::SetPower { vm, target } => self.begin_power(*vm, *target, ids),
            Request::CreateSnapshot { vm, name, contents, purpose } => {
                self.begin_create_snapshot(*vm, name, *contents, *purpose, ids)
            }
            Request::ApplySnapshot { snapshot } => self.begin_apply_snapshot(*snapshot, ids),
            Request::DestroySnapshot { snapshot } => self.begin_destroy_snapshots(*snapshot, false, ids),
            Request::DestroySnapshotTree { snapshot } => self.begin_destroy_snapshots(*snapshot, true, ids),
            Request::ClearSnapshotState { snapshot } => self.begin_clear_state(*snapshot, ids),
            Request::ModifySnapshot { snapshot, name, notes } => Ok(self.modify_snapshot(*snapshot, name, notes)),
            Request::WorkOnImage(work) => Ok(self.begin_image_work(work, ids)),
            Request::CancelJob { job, kill } => Ok(self.cancel(*job, *kill)),
        }
    }

    fn begin_define(&mut self, definition: &Definition, ids: &mut IdSource) -> Reply {
        let id = VmId(ids.next_uuid());
        let uefi = definition.firmware == Firmware::Uefi;
        let nvram = uefi.then(|| LayerId(ids.next_uuid())).map(|layer| Layer {
            id: layer,
            vm: id,
            path: self.paths.layer(id, layer),
            format: Format::Qcow2,
            parent: None,
            origin: Origin::Created,
            size: NVRAM_BYTES,
            merging: None,
        });
        let mut controller = |bus, number| Controller { id: DeviceId(ids.next_uuid()), bus, number };
        let controllers = match definition.firmware {
            Firmware::Bios => vec![controller(Bus::Ide, 0), controller(Bus::Ide, 1)],
            Firmware::Uefi => vec![controller(Bus::Scsi, 0)],
        };
        let settings = Settings {
            processors: definition.processors,
            memory_mib: definition.memory_mib,
            firmware: definition.firmware,
            bios_guid: definition.bios_guid.unwrap_or_else(|| ids.next_uuid()),
            nvram: nvram.as_ref().map(|layer| layer.id),
            controllers,
            drives: Vec::new(),
            nics: Vec::new(),
        };
        let vm = Vm {
            id,
            name: definition.name.clone(),
            notes: definition.notes.clone(),
            created: self.now,
            settings,
            snapshot_kind: definition.snapshot_kind,
            startup: Startup::Nothing,
            power: Power::Off,
            saved: None,
            parent: None,
            last_applied: None,
            generation_id: ids.next_uuid(),
            power_changed: self.now,
            configuration_changed: self.now,
            garbage: Vec::new(),
        };
        let job = self.create_job(ids, id, JobKind::Define);
        self.enter(job, Stage::PreparingVm { vm: Box::new(vm), nvram: nvram.map(Box::new) });
        Reply::Job(job)
    }

    fn modify_vm(&mut self, vm: VmId, changes: &VmChanges) -> Reply {
        let now = self.now;
        self.state.update_vm(vm, |vm| {
            let VmChanges { name, notes, snapshot_kind, startup, processors, memory_mib } = changes.clone();
            vm.name = name.unwrap_or_else(|| vm.name.clone());
            vm.notes = notes.unwrap_or_else(|| vm.notes.clone());
            vm.snapshot_kind = snapshot_kind.unwrap_or(vm.snapshot_kind);
            vm.startup = startup.unwrap_or(vm.startup);
            vm.settings.processors = processors.unwrap_or(vm.settings.processors);
            vm.settings.memory_mib = memory_mib.unwrap_or(vm.settings.memory_mib);
            vm.configuration_changed = now;
        });
        Reply::Done { created: None }
    }

    /// The machine leaves the record at once; its files follow. Nobody can start what is not on record.
    fn begin_destroy_vm(&mut self, vm: VmId, ids: &mut IdSource) -> Reply {
        let job = self.create_job(ids, vm, JobKind::DestroyVm);
        let snapshots: Vec<_> = self.state.snapshots_of(vm).map(|snapshot| snapshot.id).collect();
        let layers: Vec<_> = self.state.layers_of(vm).map(|layer| layer.id).collect();
        let memories: Vec<_> = self.state.memories_of(vm).map(|memory| memory.id).collect();
        snapshots.into_iter().for_each(|id| self.state.remove_snapshot(id));
        layers.into_iter().for_each(|id| self.state.remove_layer(id));
        memories.into_iter().for_each(|id| self.state.remove_memory(id));
        self.state.remove_vm(vm);
        self.enter(job, Stage::Deleting { paths: vec![self.paths.vm(vm)], end: JobState::Completed });
        Reply::Job(job)
    }

    fn add_controller(&mut self, vm: VmId, bus: Bus, ids: &mut IdSource) -> Reply {
        let id = DeviceId(ids.next_uuid());
        self.change_hardware(vm, |settings| {
            let used =
                |number: &u32| settings.controllers.iter().any(|known| known.bus == bus && known.number == *number);
            let number = (0..).find(|number| !used(number)).unwrap_or(0);
            settings.controllers.push(Controller { id, bus, number });
        });
        Reply::Done { created: Some(id) }
    }

    fn add_drive(
        &mut self,
        vm: VmId,
        controller: DeviceId,
        address: Option<u32>,
        ids: &mut IdSource,
    ) -> Result<Reply, Failure> {
        let id = DeviceId(ids.next_uuid());
        let drives = &find_vm(&self.state, vm)?.settings.drives;
        let taken =
            |address: &u32| drives.iter().any(|drive| drive.controller == controller && drive.address == *address);
        let address = address.or_else(|| (0..).find(|address| !taken(address))).unwrap_or(0);
        self.change_hardware(vm, |settings| settings.drives.push(Drive { id, controller, address, disk: None }));
        Ok(Reply::Done { created: Some(id) })
    }

    fn add_nic(&mut self, vm: VmId, name: &str, mac: Option<[u8; 6]>, network: &Network, ids: &mut IdSource) -> Reply {
        let id = DeviceId(ids.next_uuid());
        let nic =
            Nic { id, name: name.to_owned(), mac: mac.unwrap_or_else(|| derived_mac(id.0)), network: network.clone() };
        self.change_hardware(vm, |settings| settings.nics.push(nic));
        Reply::Done { created: Some(id) }
    }

    /// Takes a device out. Layers that only it used leave the record; none of them has a file of ours, because a machine
    /// without snapshots lives in its owner's image.
    fn remove_device(&mut self, vm: VmId, device: DeviceId, disk_only: bool) -> Reply {
        self.change_hardware(vm, |settings| {
            settings.drives.iter_mut().filter(|drive| drive.id == device).for_each(|drive| drive.disk = None);
            if !disk_only {
                settings.drives.retain(|drive| drive.id != device);
                settings.controllers.retain(|controller| controller.id != device);
                settings.nics.retain(|nic| nic.id != device);
            }
        });
        while let Some(layers::Tidy::Drop(layer)) = layers::next_tidy(&self.state, vm) {
            self.state.remove_layer(layer);
        }
        Reply::Done { created: None }
    }

    fn change_hardware(&mut self, vm: VmId, change: impl FnOnce(&mut Settings)) {
        let now = self.now;
        self.state.update_vm(vm, |vm| {
            change(&mut vm.settings);
            vm.configuration_changed = now;
        });
    }

    fn modify_snapshot(&mut self, snapshot: SnapshotId, name: &Option<String>, notes: &Option<String>) -> Reply {
        self.state.update_snapshot(snapshot, |snapshot| {
            snapshot.name = name.clone().unwrap_or_else(|| snapshot.name.clone());
            snapshot.notes = notes.clone().unwrap_or_else(|| snapshot.notes.clone());
        });
        Reply::Done { created: None }
    }

    fn begin_power(&mut self, vm: VmId, target: PowerTarget, ids: &mut IdSource) -> Result<Reply, Failure> {
        let machine = find_vm(&self.state, vm)?;
        let (power, saved) = (machine.power, machine.saved.is_some());
        if let Some(waiting) = self.state.active_job(vm).map(|job| job.id) {
            // Admission lets only "off" through while a shutdown waits for the guest.
            self.end(waiting, JobState::Terminated);
        }
        let kind = match (target, power) {
            (PowerTarget::Running, _) if saved => JobKind::Restore,
            (PowerTarget::Running, Power::Paused) => JobKind::Resume,
            (PowerTarget::Running, _) => JobKind::Start,
            (PowerTarget::Off, _) => JobKind::TurnOff,
            (PowerTarget::Saved, _) => JobKind::Save,
            (PowerTarget::Paused, _) => JobKind::Pause,
            (PowerTarget::Reset, _) => JobKind::Reset,
            (PowerTarget::Shutdown, _) => JobKind::Shutdown,
        };
        let job = self.create_job(ids, vm, kind);
        match kind {
            JobKind::Start | JobKind::Restore => {
                self.set_power(vm, Power::Starting);
                self.enter(job, Stage::Launching);
            }
            JobKind::TurnOff if power == Power::Saved => {
                self.state.update_vm(vm, |vm| vm.saved = None);
                self.set_power(vm, Power::Off);
                self.tidy(job);
            }
            JobKind::TurnOff => {
                // Only one whose start failed half-way has memory here.
                self.state.update_vm(vm, |vm| vm.saved = None);
                self.set_power(vm, Power::Stopping);
                self.enter(job, Stage::Controlling { target, power });
            }
            JobKind::Save => {
                self.set_power(vm, Power::Saving);
                self.enter(job, Stage::Saving { memory: crate::id::MemoryId(ids.next_uuid()), power });
            }
            _ => self.enter(job, Stage::Controlling { target, power }),
        }
        Ok(Reply::Job(job))
    }

    fn begin_clear_state(&mut self, snapshot: SnapshotId, ids: &mut IdSource) -> Result<Reply, Failure> {
        let vm = find_snapshot(&self.state, snapshot)?.1.id;
        let job = self.create_job(ids, vm, JobKind::ClearSnapshotState);
        self.state.update_job(job, |job| job.snapshot = Some(snapshot));
        self.state.update_snapshot(snapshot, |snapshot| snapshot.memory = None);
        self.tidy(job);
        Ok(Reply::Job(job))
    }

    /// Asks a job to end: its effect is told to stop, and how the effect ends decides the rest.
    fn cancel(&mut self, job: JobId, kill: bool) -> Reply {
        self.state.update_job(job, |job| job.cancel = Some(if kill { Cancel::Kill } else { Cancel::Terminate }));
        if let Some(record) = self.state.jobs.get(&job).cloned() {
            if record.stage == Stage::AwaitingShutdown {
                self.end(job, if kill { JobState::Killed } else { JobState::Terminated });
            } else {
                self.released.cancels.push(crate::effect::EffectId { job, number: record.effects });
            }
        }
        Reply::Done { created: None }
    }
}

/// A locally administered unicast address from an adapter's identity, under the prefix QEMU's documentation uses.
fn derived_mac(id: Uuid) -> [u8; 6] {
    let bytes = id.as_bytes();
    [0x52, 0x54, 0x00, bytes[13], bytes[14], bytes[15]]
}
