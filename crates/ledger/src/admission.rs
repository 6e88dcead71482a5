//! May this be done now? Pure, and the only place that says no before anything has started.
//!
//! Checks come in the order clients rely on: does the object exist, is it of the right kind, are the values good, is the
//! machine in the right state, is it busy, are limits kept. A refusal changes nothing.
//!
//! | request | off | saved | running | paused | in transition |
//! | --- | --- | --- | --- | --- | --- |
//! | create snapshot | yes | yes | yes | yes | no |
//! | apply snapshot | yes | yes | no | no | no |
//! | destroy, clear | yes | yes | yes | yes | no |
//! | hardware changes | yes | no | no | no | no |
//! | start | start | restore | – | resume | no |
//! | turn off | – | forget memory | yes | yes | no |
//! | save | no | – | yes | yes | no |
//!
//! A machine whose start could be neither completed nor undone stays "starting" without a job; it can be started or turned off again.

use crate::failure::{Failure, Kind};
use crate::id::{DeviceId, JobId, SnapshotId, VmId};
use crate::image_file;
use crate::job::JobKind;
use crate::request::{
    Contents, Definition, MEMORY_MIB, NAME_CHARS_MAX, NOTES_BYTES_MAX, PROCESSORS_MAX, PowerTarget, Request,
    SNAPSHOTS_MAX, VmChanges,
};
use crate::snapshot::{Origin, Purpose, Snapshot};
use crate::state::State;
use crate::vm::{Power, SnapshotKind, Vm};

/// Most network adapters and SCSI controllers of a machine: Hyper-V's own limits.
const NICS_MAX: usize = 8;
/// See [`NICS_MAX`].
const SCSI_CONTROLLERS_MAX: usize = 4;

/// Whether `request` may be started in `state`.
///
/// # Errors
/// The refusal, with what to do instead.
pub fn admit(state: &State, request: &Request) -> Result<(), Failure> {
    match request {
        Request::DefineVm(definition) => admit_definition(definition),
        Request::ModifyVm { vm, changes } => admit_changes(state, *vm, changes),
        Request::DestroyVm { vm } => {
            let vm = find_vm(state, *vm)?;
            require(vm, &[Power::Off, Power::Saved], "removing it", "turn it off first")?;
            idle(state, vm)
        }
        Request::AddController { vm, .. } => {
            let vm = hardware(state, *vm)?;
            let count =
                vm.settings.controllers.iter().filter(|controller| controller.bus == crate::vm::Bus::Scsi).count();
            limit(count < SCSI_CONTROLLERS_MAX, || {
                format!("'{}' has {count} SCSI controllers, the most there may be", vm.name)
            })
        }
        Request::AddDrive { vm, controller, address } => admit_drive(state, *vm, *controller, *address),
        Request::AttachDisk { vm, drive, path, .. } => {
            let vm = hardware(state, *vm)?;
            if !path.is_absolute() {
                return Err(invalid(format!("disk image path '{}' is not absolute", path.display())));
            }
            match vm.settings.drives.iter().find(|candidate| candidate.id == *drive) {
                None => Err(Failure::new(Kind::NotFound, format!("'{}' has no drive {drive}", vm.name))),
                Some(drive) if drive.disk.is_some() => Err(Failure::new(Kind::InUse, "the drive has a disk in it")
                    .hint("remove that disk first, or add another drive")),
                Some(_) => Ok(()),
            }
        }
        Request::AddNic { vm, name, .. } => {
            let vm = hardware(state, *vm)?;
            check_name("network adapter name", name)?;
            let count = vm.settings.nics.len();
            limit(count < NICS_MAX, || format!("'{}' has {count} network adapters, the most there may be", vm.name))
        }
        Request::ConnectNic { vm, nic, .. } => {
            let vm = hardware(state, *vm)?;
            let found = vm.settings.nics.iter().any(|candidate| candidate.id == *nic);
            found
                .then_some(())
                .ok_or_else(|| Failure::new(Kind::NotFound, format!("'{}' has no network adapter {nic}", vm.name)))
        }
        Request::RemoveDevice { vm, device, disk_only } => admit_removal(state, *vm, *device, *disk_only),
        Request::SetPower { vm, target } => admit_power(state, *vm, *target),
        Request::CreateSnapshot { vm, name, contents, purpose } => admit_create(state, *vm, name, *contents, *purpose),
        Request::ApplySnapshot { snapshot } => admit_apply(state, *snapshot),
        Request::DestroySnapshot { snapshot } | Request::ClearSnapshotState { snapshot } => {
            let (_, vm) = find_snapshot(state, *snapshot)?;
            settled(vm)?;
            idle(state, vm)
        }
        Request::DestroySnapshotTree { snapshot } => {
            let (snapshot, vm) = find_snapshot(state, *snapshot)?;
            if snapshot.purpose == Purpose::Recovery {
                return Err(invalid("a recovery snapshot has no subtree to remove").hint("remove the snapshot itself"));
            }
            settled(vm)?;
            idle(state, vm)
        }
        Request::ModifySnapshot { snapshot, name, notes } => {
            find_snapshot(state, *snapshot)?;
            name.as_deref().map_or(Ok(()), |name| check_name("snapshot name", name))?;
            notes.as_deref().map_or(Ok(()), check_notes)
        }
        Request::WorkOnImage(work) => image_file::admit(work),
        Request::CancelJob { job, .. } => admit_cancel(state, *job),
    }
}

fn admit_definition(definition: &Definition) -> Result<(), Failure> {
    check_name("machine name", &definition.name)?;
    check_notes(&definition.notes)?;
    check_processors(definition.processors)?;
    check_memory(definition.memory_mib)
}

fn admit_changes(state: &State, vm: VmId, changes: &VmChanges) -> Result<(), Failure> {
    let vm = find_vm(state, vm)?;
    changes.name.as_deref().map_or(Ok(()), |name| check_name("machine name", name))?;
    changes.notes.as_deref().map_or(Ok(()), check_notes)?;
    changes.processors.map_or(Ok(()), check_processors)?;
    changes.memory_mib.map_or(Ok(()), check_memory)?;
    if changes.processors.is_some() || changes.memory_mib.is_some() {
        hardware(state, vm.id)?;
    }
    Ok(())
}

fn admit_drive(state: &State, vm: VmId, controller: DeviceId, address: Option<u32>) -> Result<(), Failure> {
    let vm = hardware(state, vm)?;
    let found = vm.settings.controllers.iter().find(|candidate| candidate.id == controller);
    let controller =
        found.ok_or_else(|| Failure::new(Kind::NotFound, format!("'{}' has no controller {controller}", vm.name)))?;
    let taken = |address: u32| {
        vm.settings.drives.iter().any(|drive| drive.controller == controller.id && drive.address == address)
    };
    let capacity = controller.bus.capacity();
    match address {
        Some(address) if address >= capacity => {
            Err(invalid(format!("address {address} does not exist on a controller with {capacity} places")))
        }
        Some(address) if taken(address) => {
            Err(Failure::new(Kind::InUse, format!("address {address} has a drive already")))
        }
        Some(_) => Ok(()),
        None => limit((0..capacity).any(|address| !taken(address)), || {
            format!("the controller's {capacity} places are taken")
        }),
    }
}

fn admit_removal(state: &State, vm: VmId, device: DeviceId, disk_only: bool) -> Result<(), Failure> {
    let vm = hardware(state, vm)?;
    let settings = &vm.settings;
    let drive = settings.drives.iter().find(|drive| drive.id == device);
    let known = drive.is_some()
        || !disk_only && settings.controllers.iter().any(|controller| controller.id == device)
        || !disk_only && settings.nics.iter().any(|nic| nic.id == device);
    if !known {
        return Err(Failure::new(Kind::NotFound, format!("'{}' has no device {device}", vm.name)));
    }
    if drive.is_some_and(|drive| drive.disk.is_some()) && state.snapshots_of(vm.id).next().is_some() {
        return Err(Failure::new(
            Kind::InvalidState,
            format!("'{}' has snapshots that hold earlier states of this disk", vm.name),
        )
        .hint("remove the snapshots first"));
    }
    let live = drive.and_then(|drive| state.layers.get(&drive.disk?));
    if live.is_some_and(|layer| layer.origin == Origin::Created) {
        return Err(Failure::new(
            Kind::InvalidState,
            format!("what was written to this disk of '{}' last is not yet merged into its file", vm.name),
        )
        .hint("a merge failed before: free some space, take a snapshot and delete it, which merges; then try again"));
    }
    if settings.drives.iter().any(|drive| drive.controller == device) {
        return Err(Failure::new(Kind::InUse, "the controller has drives on it").hint("remove the drives first"));
    }
    Ok(())
}

fn admit_power(state: &State, vm: VmId, target: PowerTarget) -> Result<(), Failure> {
    let vm = find_vm(state, vm)?;
    let (allowed, doing): (&[Power], _) = match target {
        // Starting without a job: an earlier start could not be undone.
        PowerTarget::Running => (&[Power::Off, Power::Saved, Power::Paused, Power::Starting], "starting it"),
        PowerTarget::Off => (&[Power::Running, Power::Paused, Power::Saved, Power::Starting], "turning it off"),
        PowerTarget::Saved => (&[Power::Running, Power::Paused], "saving it"),
        PowerTarget::Paused => (&[Power::Running], "pausing it"),
        PowerTarget::Reset => (&[Power::Running, Power::Paused], "resetting it"),
        PowerTarget::Shutdown => (&[Power::Running], "shutting it down"),
    };
    // Turning off must get through to a guest that ignores its power button: the waiting job gives way.
    let gives_way = state.active_job(vm.id).is_some_and(|job| job.kind == JobKind::Shutdown);
    if !(gives_way && matches!(target, PowerTarget::Off)) {
        idle(state, vm)?;
    }
    require(vm, allowed, doing, "")
}

fn admit_create(state: &State, vm: VmId, name: &str, contents: Contents, purpose: Purpose) -> Result<(), Failure> {
    let vm = find_vm(state, vm)?;
    check_name("snapshot name", name)?;
    if purpose == Purpose::Recovery {
        return Err(Failure::new(Kind::NotSupported, "recovery snapshots are not supported yet"));
    }
    if vm.snapshot_kind == SnapshotKind::Disabled {
        return Err(Failure::new(Kind::InvalidState, format!("snapshots are disabled for '{}' ({})", vm.name, vm.id))
            .hint("set its snapshot kind to standard"));
    }
    if vm.snapshot_kind == SnapshotKind::ProductionOnly && contents == Contents::Full && vm.power.has_process() {
        return Err(Failure::new(
            Kind::NotSupported,
            format!(
                "'{}' wants production snapshots only, which need an agent in the guest; that is not supported yet",
                vm.name
            ),
        )
        .hint("set its snapshot kind to standard, or take a snapshot of the disks only"));
    }
    settled(vm)?;
    idle(state, vm)?;
    let count = state.snapshots_of(vm.id).filter(|snapshot| snapshot.purpose == Purpose::User).count();
    limit(count < SNAPSHOTS_MAX, || format!("'{}' has {count} snapshots, the most there may be", vm.name))
        .map_err(|failure| failure.hint("remove some first"))
}

fn admit_apply(state: &State, snapshot: SnapshotId) -> Result<(), Failure> {
    let (snapshot, vm) = find_snapshot(state, snapshot)?;
    if snapshot.purpose == Purpose::Recovery {
        return Err(invalid("a recovery snapshot is for backup and cannot be applied"));
    }
    require(
        vm,
        &[Power::Off, Power::Saved],
        "applying a snapshot",
        "turn it off or save it first; its present state will be replaced",
    )?;
    idle(state, vm)
}

fn admit_cancel(state: &State, job: JobId) -> Result<(), Failure> {
    let job = state.jobs.get(&job).ok_or_else(|| Failure::new(Kind::NotFound, format!("there is no job {job}")))?;
    if job.state.is_final() {
        return Err(Failure::new(Kind::InvalidState, "the job has ended already"));
    }
    if !job.cancellable() {
        return Err(Failure::new(Kind::InvalidState, format!("'{}' cannot be stopped at this point", job.activity))
            .hint("it will end shortly by itself"));
    }
    Ok(())
}

/// The machine named, or a refusal.
pub(crate) fn find_vm(state: &State, id: VmId) -> Result<&Vm, Failure> {
    let found = state.vms.get(&id).map(AsRef::as_ref);
    found.ok_or_else(|| Failure::new(Kind::NotFound, format!("there is no virtual machine {id}")))
}

/// The snapshot named and its machine, or a refusal.
pub(crate) fn find_snapshot(state: &State, id: SnapshotId) -> Result<(&Snapshot, &Vm), Failure> {
    let found = state.snapshots.get(&id).map(AsRef::as_ref);
    let snapshot: &Snapshot =
        found.ok_or_else(|| Failure::new(Kind::NotFound, format!("there is no snapshot {id}")))?;
    Ok((snapshot, find_vm(state, snapshot.vm)?))
}

/// A machine whose hardware may be changed.
fn hardware(state: &State, vm: VmId) -> Result<&Vm, Failure> {
    let vm = find_vm(state, vm)?;
    require(vm, &[Power::Off], "changing its hardware", "turn it off first")?;
    idle(state, vm)?;
    Ok(vm)
}

fn settled(vm: &Vm) -> Result<(), Failure> {
    require(
        vm,
        &[Power::Off, Power::Saved, Power::Running, Power::Paused],
        "working on its snapshots",
        "wait until it is settled",
    )
}

fn require(vm: &Vm, allowed: &[Power], doing: &str, hint: &str) -> Result<(), Failure> {
    if allowed.contains(&vm.power) {
        return Ok(());
    }
    let refusal = Failure::new(
        Kind::InvalidState,
        format!("'{}' is {}, which does not allow {doing}", vm.name, power_text(vm.power)),
    );
    Err(if hint.is_empty() { refusal } else { refusal.hint(hint) })
}

/// A power state in words.
pub fn power_text(power: Power) -> &'static str {
    match power {
        Power::Off => "off",
        Power::Starting => "starting",
        Power::Running => "running",
        Power::Paused => "paused",
        Power::Saving => "saving",
        Power::Saved => "saved",
        Power::Stopping => "stopping",
    }
}

fn idle(state: &State, vm: &Vm) -> Result<(), Failure> {
    match state.active_job(vm.id) {
        None => Ok(()),
        Some(job) => {
            Err(Failure::new(Kind::InvalidState, format!("'{}' is busy: {} (job {})", vm.name, job.activity, job.id))
                .hint("wait for that job, or cancel it"))
        }
    }
}

fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let count = name.chars().count();
    if name.trim().is_empty() {
        Err(invalid(format!("{what} is empty")))
    } else if count > NAME_CHARS_MAX {
        Err(invalid(format!("{what} has {count} characters, and may have {NAME_CHARS_MAX}")))
    } else if name.chars().any(char::is_control) {
        Err(invalid(format!("{what} contains a control character")))
    } else {
        Ok(())
    }
}

fn check_notes(notes: &str) -> Result<(), Failure> {
    match notes.len() {
        bytes if bytes > NOTES_BYTES_MAX => {
            Err(invalid(format!("notes have {bytes} bytes, and may have {NOTES_BYTES_MAX}")))
        }
        _ => Ok(()),
    }
}

fn check_processors(count: u32) -> Result<(), Failure> {
    let good = (1..=PROCESSORS_MAX).contains(&count);
    good.then_some(())
        .ok_or_else(|| invalid(format!("{count} processors asked for, between 1 and {PROCESSORS_MAX} are possible")))
}

fn check_memory(mib: u64) -> Result<(), Failure> {
    let (least, most) = (MEMORY_MIB.start(), MEMORY_MIB.end());
    let good = MEMORY_MIB.contains(&mib);
    good.then_some(())
        .ok_or_else(|| invalid(format!("{mib} MiB of memory asked for, between {least} and {most} are possible")))
}

fn limit(kept: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
    if kept { Ok(()) } else { Err(Failure::new(Kind::LimitReached, message())) }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Kind::InvalidParameter, message)
}
