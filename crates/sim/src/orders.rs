//! What is asked of the ledger besides what clients of the wire ask: hardware, names, image files, and what makes no sense.

use std::path::PathBuf;

use ledger::id::{DeviceId, SnapshotId, VmId};
use ledger::image_file::ImageWork;
use ledger::request::{Contents, Definition, Request, VmChanges};
use ledger::snapshot::Purpose;
use ledger::state::State;
use ledger::vm::{Bus, Firmware, SnapshotKind, Vm};

use crate::images::{BASE, TOP};
use crate::random::Random;

/// Most machines there are at one time; each costs the end of a history time.
const MACHINES_MAX: usize = 3;

/// Names that new image files get; few, so that they meet.
const NAMES: usize = 3;

/// A machine to define.
pub fn definition(name: String, firmware: Firmware) -> Definition {
    Definition {
        name,
        notes: String::new(),
        processors: 1,
        memory_mib: 64,
        firmware,
        bios_guid: None,
        snapshot_kind: SnapshotKind::Standard,
    }
}

/// Something to ask.
pub fn draw(state: &State, random: &mut Random) -> Request {
    let vms: Vec<VmId> = state.vms.keys().copied().collect();
    let machine = random.pick(&vms).and_then(|id| state.vms.get(id));
    let vm = machine.map_or(VmId(uuid::Uuid::nil()), |vm| vm.id);
    match random.below(100) {
        0..8 if vms.len() < MACHINES_MAX => {
            let firmware = if random.permille(500) { Firmware::Uefi } else { Firmware::Bios };
            Request::DefineVm(definition("x".to_owned(), firmware))
        }
        0..12 => Request::DestroyVm { vm },
        12..20 => {
            let changes = VmChanges { name: Some("renamed".to_owned()), processors: Some(2), ..VmChanges::default() };
            Request::ModifyVm { vm, changes }
        }
        20..25 => {
            let snapshots: Vec<SnapshotId> = state.snapshots.keys().copied().collect();
            let snapshot = random.pick(&snapshots).copied().unwrap_or(SnapshotId(uuid::Uuid::nil()));
            Request::ModifySnapshot { snapshot, name: Some("renamed".to_owned()), notes: None }
        }
        25..50 => machine.map_or(Request::DestroyVm { vm }, |vm| hardware(vm, random)),
        50..80 => Request::WorkOnImage(image_work(random)),
        _ => nonsense(vm, random),
    }
}

fn hardware(vm: &Vm, random: &mut Random) -> Request {
    let controller = random.pick(&vm.settings.controllers).map_or(DeviceId(uuid::Uuid::nil()), |known| known.id);
    let drive = random.pick(&vm.settings.drives).map_or(controller, |drive| drive.id);
    match random.below(10) {
        0..3 => Request::AddDrive { vm: vm.id, controller, address: None },
        3..7 => {
            let number = random.below(NAMES);
            let path = if random.permille(800) { format!("/user/extra-{number}.qcow2") } else { TOP.to_owned() };
            Request::AttachDisk { vm: vm.id, drive, path: path.into(), format: None }
        }
        7 => Request::AddController { vm: vm.id, bus: Bus::Scsi },
        _ => Request::RemoveDevice { vm: vm.id, device: drive, disk_only: random.permille(500) },
    }
}

fn image_work(random: &mut Random) -> ImageWork {
    let new = |random: &mut Random| PathBuf::from(format!("/images/new-{}.qcow2", random.below(NAMES)));
    match random.below(10) {
        0..3 => ImageWork::Create { path: new(random), size: Some(1 << 20), fixed: false, parent: None },
        3..6 => {
            let source = if random.permille(500) { TOP.into() } else { BASE.into() };
            ImageWork::Convert { source, path: new(random), fixed: false }
        }
        6 => ImageWork::Resize { path: new(random), size: 1 << 21 },
        7 => ImageWork::Validate { path: TOP.into() },
        _ => ImageWork::Merge { child: TOP.into(), parent: BASE.into() },
    }
}

/// Requests that must be refused whatever the state is.
fn nonsense(vm: VmId, random: &mut Random) -> Request {
    let nobody = uuid::Uuid::from_u128(1);
    let name = |name: &str| name.to_owned();
    match random.below(7) {
        0 => Request::ApplySnapshot { snapshot: SnapshotId(nobody) },
        1 => Request::DestroyVm { vm: VmId(nobody) },
        2 => Request::CreateSnapshot { vm, name: name(" "), contents: Contents::Full, purpose: Purpose::User },
        3 => Request::DefineVm(definition("x".repeat(101), Firmware::Bios)),
        4 => Request::ModifyVm { vm, changes: VmChanges { name: Some(name("\n")), ..VmChanges::default() } },
        5 => Request::AttachDisk { vm, drive: DeviceId(nobody), path: "relative.qcow2".into(), format: None },
        _ => Request::WorkOnImage(ImageWork::Resize { path: BASE.into(), size: 1 }),
    }
}
