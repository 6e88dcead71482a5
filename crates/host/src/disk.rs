//! Files of a machine: made, measured, removed. No emulator is involved.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ledger::effect::{Foundation, Image, MachineSpec, MemorySource, Overlay};
use ledger::event::Outcome;
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use ledger::snapshot::Format;
use qemu::graph::{self, Layer};
use qemu::procedure::HostReply;
use qemu::qcow2::{self, Backing, NewImage};
use qemu::save::{MEMORY_FILE, SIDECAR_FILE};

use crate::account::{self, Account};
use crate::capability::Tools;
use crate::executor::{Attempt, Ending};
use crate::fault;
use crate::hands::{allocated, sync_directory_of, sync_file};
use crate::headers;
use crate::layout::Layout;
use crate::lent;
use crate::seal::{Depth, Sealed, Seals};
use crate::spec::{self, SavedMachine, no_uefi};

/// Space left alone: an overlay needs 256 KiB at first, and a guest that runs on needs room for what it writes while
/// somebody reads the error message.
const RESERVE_BYTES: u64 = 64 << 20;

/// Makes a machine's directories and, with UEFI, its variables. What is there is kept.
pub async fn prepare_vm(attempt: &Attempt, vm: VmId, nvram: Option<Image>) -> Ending {
    let layout = attempt.layout().clone();
    let tools = attempt.tools().clone();
    blocking(move || {
        let account = layout.settle_vm(vm)?;
        if let Some(image) = nvram {
            prepare_nvram(account, &tools, &image)?;
        }
        for path in [layout.vm(vm).join("disks"), layout.vm(vm)] {
            sync_directory_of(&path).map_err(|error| fault::file("sync the directory of", &path, &error))?;
        }
        Ok(Outcome::Done)
    })
    .await
}

/// Makes overlay files anew, on `ground` that is on stable storage before; for an apply what they rest on is known to be undamaged before.
pub async fn create_overlays(
    attempt: &Attempt,
    vm: VmId,
    overlays: Vec<Overlay>,
    ground: Vec<PathBuf>,
    foundation: Option<Foundation>,
) -> Ending {
    let layout = attempt.layout().clone();
    let seals = attempt.bench.seals.clone();
    blocking(move || {
        if let Some(Foundation { chains, memory }) = foundation {
            let layers = chains.iter().flat_map(|chain| &chain.images).map(Sealed::of);
            let things: Vec<Sealed> = layers.chain(memory.as_ref().and_then(sealed_memory)).collect();
            let verified = seals.verify(vm, &things, Depth::Quick);
            verified.map_err(|damage| fault::damage("the snapshot cannot be applied", &damage))?;
            // And all else that the start would refuse it for, when what the machine has now is gone.
            chains.iter().try_for_each(headers::verify_chain)?;
            memory.as_ref().map(SavedMachine::decode).transpose()?;
        }
        layout.create_vm(vm)?;
        require_space(&layout.vm(vm), 0, "a new layer")?;
        let account = layout.account_of(vm);
        let sync = |path: &PathBuf| sync_file(path).map_err(|error| fault::file("sync", path, &error));
        ground.iter().try_for_each(sync)?;
        overlays.iter().try_for_each(|overlay| create_overlay(account, overlay))?;
        Ok(Outcome::Done)
    })
    .await
}

/// Bytes that files take on disk.
pub async fn measure(images: Vec<Image>) -> Ending {
    blocking(move || {
        let measure =
            |image: &Image| allocated(&image.path).map_err(|error| fault::file("measure", &image.path, &error));
        let bytes = images.iter().map(measure).collect::<Result<_, _>>()?;
        Ok(Outcome::Measured { bytes })
    })
    .await
}

/// Removes files and directories, and makes sure that they stay away: nobody would know of one that came back after a power
/// cut. Missing ones are fine; what is not ours is refused. With the directory of a machine goes its hold on its users' images.
pub async fn delete(attempt: &Attempt, paths: Vec<PathBuf>) -> Ending {
    let layout = attempt.layout().clone();
    blocking(move || {
        let vms = layout.vms();
        // All are looked at before the first goes.
        for path in &paths {
            require_ours(path, &vms)?;
        }
        for vm in paths.iter().filter_map(|path| layout.vm_of(path)) {
            lent::give_back(&layout, vm);
        }
        for path in &paths {
            remove(path).map_err(|error| fault::file("remove", path, &error))?;
        }
        for path in &paths {
            match sync_directory_of(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(fault::file("sync the removal of", path, &error));
                }
                _ => {}
            }
        }
        Ok(Outcome::Done)
    })
    .await
}

/// Refuses to start a machine on files that are not as they were: all that lies below the live tops, and saved memory. Blocks.
///
/// # Errors
/// Names the file.
pub fn require_undamaged(seals: &Seals, spec: &MachineSpec, memory: Option<&MemorySource>) -> Result<(), Failure> {
    let frozen = spec.chains.iter().flat_map(|chain| chain.images.iter().skip(1)).map(Sealed::of);
    let things: Vec<Sealed> = frozen.chain(memory.and_then(sealed_memory)).collect();
    let verified = seals.verify(spec.vm, &things, Depth::Quick);
    verified.map_err(|damage| fault::damage(&format!("{} cannot be started", spec.name), &damage))
}

/// A memory image is named after its directory.
fn sealed_memory(source: &MemorySource) -> Option<Sealed> {
    let id = source.path.file_name()?.to_str()?.parse().ok()?;
    Some(Sealed::Memory(id, source.path.clone()))
}

/// Gives saved memory to the machine's account, which may be another one than when it was saved.
///
/// # Errors
/// When the mode of the directory or the owner of a file cannot be changed.
pub fn hand_over_memory(layout: &Layout, account: Option<Account>, directory: &Path) -> Result<(), Failure> {
    layout.create_passage(directory)?;
    for path in [MEMORY_FILE, SIDECAR_FILE].map(|name| directory.join(name)) {
        account::hand_over(&path, account).map_err(|error| fault::file("change the owner of", &path, &error))?;
    }
    Ok(())
}

/// How much room it takes to copy one layer into another. No more is copied than the first one takes on disk, and the second one cannot grow
/// beyond its disk, of which it takes some already. A block device grows not at all.
///
/// # Errors
/// When a file or its file system cannot be examined.
pub fn room_to_merge(from: &Layer, into: &Layer) -> io::Result<HostReply> {
    let meta = fs::metadata(&into.path)?;
    if !meta.is_file() {
        return Ok(HostReply::Room { needed: 0, free: u64::MAX });
    }
    let size = match into.format {
        graph::Format::Raw => meta.len(),
        graph::Format::Qcow2 => read_header(&into.path)?.map_or(u64::MAX, |header| header.size),
    };
    let growth = allocated(&from.path)?.min(size.saturating_sub(allocated(&into.path)?));
    let free = free_bytes(into.path.parent().unwrap_or(&into.path))?;
    Ok(HostReply::Room { needed: growth.saturating_add(RESERVE_BYTES), free })
}

/// What a qcow2 image says of itself, if that can be understood.
fn read_header(path: &Path) -> io::Result<Option<qcow2::Header>> {
    Ok(qcow2::Header::read(&headers::head_of(File::open(path)?)?).ok())
}

/// Bytes that may still be written below `directory`.
///
/// # Errors
/// When its file system cannot be examined.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(directory)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Refuses if the file system of `directory` has not `bytes` and a reserve free. `what` is what needs them.
pub fn require_space(directory: &Path, bytes: u64, what: &str) -> Result<(), Failure> {
    let free = free_bytes(directory).map_err(|error| fault::file("examine", directory, &error))?;
    let needed = bytes.saturating_add(RESERVE_BYTES);
    if free >= needed {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let text = format!(
        "{what} needs up to {} MiB in {}, and only {} MiB are free",
        mib(needed),
        directory.display(),
        mib(free)
    );
    Err(Failure::new(Kind::NoSpace, text).hint("free some space or delete snapshots, then try again"))
}

/// Gives every file that the machine may own to its account, and checks that it can read the others.
///
/// # Errors
/// When the account could not open one of them; says what to do about it.
pub fn hand_over_images<'a>(
    layout: &Layout,
    vm: VmId,
    account: Option<Account>,
    images: impl IntoIterator<Item = &'a Image>,
) -> Result<(), Failure> {
    let Some(account) = account else { return Ok(()) };
    for image in images {
        if let Some(directory) = image.path.parent() {
            account::check_passage(directory, account)?;
        }
        if image.private {
            let handed = if image.path.starts_with(layout.data()) {
                account::hand_over(&image.path, Some(account))
            } else {
                lent::lend(layout, vm, &image.path, account)
            };
            handed.map_err(|error| not_handed_over(&image.path, &error))?;
            account::check_writable(&image.path, account)?;
        } else {
            account::check_readable(&image.path, account)?;
        }
    }
    Ok(())
}

fn not_handed_over(path: &Path, error: &io::Error) -> Failure {
    let failure = fault::file("change the owner of", path, error);
    if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        let hint = "there was no link on its path when it was put into the machine: put the directory back, or put the image \
                    into the machine again by its present path";
        return failure.hint(hint);
    }
    failure
}

fn prepare_nvram(account: Option<Account>, tools: &Tools, image: &Image) -> Result<(), Failure> {
    if image.path.exists() {
        // An earlier attempt may have ended before its name was on stable storage.
        return sync_directory_of(&image.path).map_err(|error| fault::file("sync", &image.path, &error));
    }
    let template = &tools.uefi.as_ref().ok_or_else(no_uefi)?.variables;
    let draft = image.path.with_extension("draft");
    let write = || -> io::Result<()> {
        create_private(&draft)?;
        account::hand_over(&draft, account)?;
        convert(account, &tools.qemu_img, template, &draft, image.format)?;
        File::open(&draft)?.sync_all()?;
        fs::rename(&draft, &image.path)?;
        sync_directory_of(&image.path)
    };
    write().map_err(|error| fault::file("write the UEFI variables to", &image.path, &error))
}

/// Copies a raw file into a new image.
fn convert(account: Option<Account>, qemu_img: &Path, from: &Path, to: &Path, format: Format) -> io::Result<()> {
    let mut command = std::process::Command::new(qemu_img);
    command.args(["convert", "-f", "raw", "-O", spec::format(format).driver()]).arg(from).arg(to);
    account::run_as(&mut command, account);
    let output = command.stdin(std::process::Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn create_overlay(account: Option<Account>, overlay: &Overlay) -> Result<(), Failure> {
    let path = &overlay.image.path;
    let parent = overlay.parent.path.to_str().ok_or_else(|| {
        Failure::new(Kind::InvalidParameter, format!("the path {} is not text", overlay.parent.path.display()))
    })?;
    let backing = Backing { file: parent, format: spec::format(overlay.parent.format) };
    let content = qcow2::empty(overlay.image.size, Some(backing))
        .map_err(|error| Failure::new(Kind::InvalidParameter, format!("could not make {}: {error}", path.display())))?;
    let write = || -> io::Result<()> {
        let file = create_private(path)?;
        write_image(&file, &content)?;
        file.sync_all()?;
        account::hand_over(path, account)?;
        sync_directory_of(path)
    };
    write().map_err(|error| fault::file("create", path, &error))
}

/// Writes a new image into an empty file.
///
/// # Errors
/// When it cannot be written.
pub fn write_image(file: &File, image: &NewImage) -> io::Result<()> {
    file.set_len(image.length)?;
    image.pieces.iter().try_for_each(|(offset, bytes)| file.write_all_at(bytes, *offset))
}

/// A new empty file in the place of whatever was there. Removing first leaves alone a process that still has it open.
fn create_private(path: &Path) -> io::Result<File> {
    remove(path)?;
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A last line of defence: the ledger never asks for the removal of a user's file, and if it did, nothing would happen.
fn require_ours(path: &Path, vms: &Path) -> Result<(), Failure> {
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    // Not the directory of all machines itself, but something in it.
    if plain && path.starts_with(vms) && path != vms {
        return Ok(());
    }
    Err(Failure::new(Kind::Failed, format!("refused to remove {}: it is not below {}", path.display(), vms.display())))
}

/// Runs file work where it may block.
pub async fn blocking(work: impl FnOnce() -> Result<Outcome, Failure> + Send + 'static) -> Ending {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(fault::task(&error).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::account::Accounts;

    #[test]
    fn memory_saved_without_an_account_is_within_the_reach_of_one() {
        let root = tempfile::tempdir().unwrap();
        let (data, run) = (root.path().join("data"), root.path().join("run"));
        let saved = data.join("memory");
        Layout::new(&data, &run, Accounts::Own).unwrap().create_passage(&saved).unwrap();
        for name in [MEMORY_FILE, SIDECAR_FILE] {
            fs::write(saved.join(name), "").unwrap();
            fs::set_permissions(saved.join(name), fs::Permissions::from_mode(0o400)).unwrap();
        }
        // Ourselves: nobody else's account may be given anything without being root.
        let own = fs::metadata(root.path()).unwrap();
        let account = Account { uid: own.uid(), gid: own.gid() };
        let layout = Layout::new(&data, &run, Accounts::One(account)).unwrap();
        hand_over_memory(&layout, Some(account), &saved).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&saved), mode(&saved.join(MEMORY_FILE))), (0o711, 0o400));
    }
}
