//! Moments of a running machine: captured, saved, or given up half-way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger::effect::{MachineSpec, MemoryTarget, MomentSpec, Overlay};
use ledger::event::{CaptureReport, EffectFailure, MachineChange, Outcome};
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use ledger::state::Timestamp;
use qemu::procedure::CommandError;
use qemu::save::{AbortCapture, Capture, CaptureFailed, Captured, Policy, Save, SaveError};

use crate::drive::{COMMAND_PATIENCE, Drive};
use crate::executor::{Attempt, Ending};
use crate::fault;
use crate::hands::{Hands, allocated, sync_directory_of, sync_file};
use crate::layout::Layout;
use crate::machines::{GuestState, Running};
use crate::manifest;
use crate::spec::{self, SavedMachine};
use crate::{control, disk, screen};

/// Takes one moment: memory if wanted, devices, disks.
pub async fn capture(
    attempt: &Attempt,
    spec: MachineSpec,
    overlays: Vec<Overlay>,
    memory: Option<MemoryTarget>,
    resume: bool,
) -> Ending {
    let running = require_running(attempt, spec.vm).await?;
    let directory = memory.map(|target| target.path);
    prepare_memory(attempt, &spec, &running, directory.as_deref()).await?;
    let procedure = Capture {
        overlays: spec::overlays(&overlays),
        memory: directory.clone(),
        resume,
        disk_io: running.build.disk_io,
        policy: Policy { background: !running.build.mapped, only: None },
    };
    let before = if directory.is_some() { screen::glance(&running).await } else { None };
    let activity = if directory.is_some() { "saving memory" } else { "switching disks" };
    match drive(attempt, &running, activity).run(procedure).await {
        Ok(captured) => {
            if resume {
                tell_if_stopped(attempt, &running).await;
            }
            if let Some(directory) = &directory {
                screen::keep(&running, directory, before, captured.moment_us).await;
            }
            let moment = Timestamp(captured.moment_us);
            let (report, machine) = conclude(attempt, &spec, &running, directory, captured, true).await?;
            Ok(Outcome::Captured { moment, report, machine })
        }
        Err(failed) => {
            let failure = give_up("take the snapshot", directory, &failed, memory_bytes(&spec, &running)).await;
            if failure.switched {
                settle_below(&overlays).await;
            }
            if resume {
                run_on(attempt, &running).await;
            }
            Err(failure)
        }
    }
}

/// Stops the guest and saves its memory.
pub async fn save(attempt: &Attempt, spec: MachineSpec, memory: MemoryTarget) -> Ending {
    let running = require_running(attempt, spec.vm).await?;
    prepare_memory(attempt, &spec, &running, Some(&memory.path)).await?;
    let procedure = Save { memory: memory.path.clone() };
    match drive(attempt, &running, "saving memory").run(procedure).await {
        Ok(captured) => {
            screen::keep(&running, &memory.path, None, captured.moment_us).await;
            let (report, machine) = conclude(attempt, &spec, &running, Some(memory.path), captured, false).await?;
            Ok(Outcome::Saved { report, machine })
        }
        Err(failed) => {
            Err(give_up("save the machine", Some(memory.path), &failed, memory_bytes(&spec, &running)).await)
        }
    }
}

/// Ends what an interrupted capture or save left in the process.
pub async fn abort(attempt: &Attempt, vm: VmId, overlays: Vec<Overlay>, resume: bool) -> Ending {
    // Its main loop may be busy with the flush that the capture asked for.
    let running = match attempt.machines().find_within(vm, COMMAND_PATIENCE).await {
        Ok(Some(running)) => running,
        Ok(None) => return Ok(unknown(&overlays).await),
        // Its guest may yet be saved by whoever brings it to answer: what cannot be undone is left.
        Err(error) => return Err(fault::monitor("end an interrupted capture", &error).into()),
    };
    let procedure = AbortCapture { overlays: spec::overlays(&overlays), resume };
    match drive(attempt, &running, "ending the saving of memory").run(procedure).await {
        Ok(found) => {
            let alive = found.alive && running.process.is_alive();
            Ok(Outcome::Aborted { switched: found.switched, alive })
        }
        Err(CommandError::Lost { .. }) => Ok(unknown(&overlays).await),
        Err(error) => Err(fault::command("end an interrupted capture", &error).into()),
    }
}

/// Without the process nobody can say; an overlay that was never written reads like what is below it.
async fn unknown(overlays: &[Overlay]) -> Outcome {
    settle_below(overlays).await;
    Outcome::Aborted { switched: !overlays.is_empty(), alive: false }
}

/// Overlays that count as switched make the layers below them frozen ones, on which snapshots will rest. An emulator flushes them
/// when it switches; one that died before has not.
async fn settle_below(overlays: &[Overlay]) {
    let paths: Vec<PathBuf> = overlays.iter().map(|overlay| overlay.parent.path.clone()).collect();
    let synced = tokio::task::spawn_blocking(move || {
        for path in &paths {
            if let Err(error) = sync_file(path) {
                tracing::warn!(path = %path.display(), %error, "could not bring a layer to stable storage");
            }
        }
    });
    // A thread that panicked has said so in the log.
    let _ = synced.await;
}

/// Writes the texts beside memory images anew, after their layers have moved.
pub async fn describe(attempt: &Attempt, moments: Vec<MomentSpec>) -> Ending {
    let tools = attempt.tools().clone();
    let work = move || {
        for MomentSpec { spec, memory, moment } in &moments {
            manifest::write(&memory.path, spec, &SavedMachine::decode(memory)?, &tools, moment.0)?;
            sync_directory_of(&memory.path.join("all")).map_err(|error| fault::file("sync", &memory.path, &error))?;
        }
        Ok(Outcome::Done)
    };
    disk::blocking(work).await
}

async fn require_running(attempt: &Attempt, vm: VmId) -> Result<Arc<Running>, Failure> {
    let found = attempt.machines().find(vm).await;
    found.map_err(|error| fault::monitor("reach the machine", &error))?.ok_or_else(|| fault::no_process(vm))
}

fn drive<'a>(attempt: &'a Attempt, running: &'a Running, activity: &'static str) -> DriveWith<'a> {
    DriveWith { attempt, running, activity }
}

/// A drive that reports its progress as `activity`.
struct DriveWith<'a> {
    attempt: &'a Attempt,
    running: &'a Running,
    activity: &'static str,
}

impl DriveWith<'_> {
    async fn run<P: qemu::procedure::Procedure>(self, procedure: P) -> P::Outcome {
        let report = |done, total| self.attempt.progress(done, total, self.activity);
        let drive = Drive {
            monitor: &self.running.monitor,
            hands: Hands::new(self.attempt.layout().account_of(self.running.vm), self.attempt.tools().qemu_img.clone()),
            cancel: self.attempt.cancel.clone(),
            progress: &report,
        };
        drive.run(procedure).await
    }
}

/// Makes the directory for memory, if it can hold it.
async fn prepare_memory(
    attempt: &Attempt,
    spec: &MachineSpec,
    running: &Running,
    directory: Option<&Path>,
) -> Result<(), Failure> {
    let Some(directory) = directory.map(Path::to_owned) else { return Ok(()) };
    let (layout, needed) = (attempt.layout().clone(), memory_bytes(spec, running));
    let vm = spec.vm;
    let name = spec.name.clone();
    let work = move || -> Result<(), Failure> {
        layout.create_vm(vm)?;
        let place = directory.parent().unwrap_or(&directory);
        disk::require_space(place, needed, &format!("the memory of {name}"))?;
        make_memory_directory(&layout, &directory)
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| fault::task(&error))?
}

/// Bytes that the memory of a machine may take on disk.
fn memory_bytes(spec: &MachineSpec, running: &Running) -> u64 {
    let limit = spec.memory_mib << 20;
    resident_bytes(running.process.pid()).map_or(limit, |resident| resident.min(limit))
}

/// Makes the directory anew: whatever an attempt before us left there is of no use.
fn make_memory_directory(layout: &Layout, directory: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault::file("remove", directory, &error)),
        _ => layout.create_passage(directory).map_err(Failure::from),
    }
}

/// Bytes of the process in memory, swap and mapped files included: no less than the guest's pages that are not zero.
/// Of a machine that was restored by mapping, the pages it has not touched are not counted; they are in a file already.
fn resident_bytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some((kib("VmRSS:")? + kib("VmSwap:").unwrap_or(0)) << 10)
}

/// Writes the texts beside the memory, makes all of it durable, and puts the report together.
async fn conclude(
    attempt: &Attempt,
    spec: &MachineSpec,
    running: &Running,
    directory: Option<PathBuf>,
    captured: Captured,
    switched: bool,
) -> Result<(CaptureReport, String), EffectFailure> {
    let mut report = CaptureReport {
        method: captured.method.name().to_owned(),
        reason: captured.reason,
        pause_us: captured.pause_us,
        total_us: captured.total_us,
        bytes: captured.memory.map_or(0, |(_, bytes)| bytes),
    };
    let (Some(directory), Some((layout, _))) = (directory, captured.memory) else {
        return Ok((report, String::new()));
    };
    let saved = SavedMachine { platform: running.build.platform.clone(), layout };
    let machine = saved.encode();
    let (spec, tools) = (spec.clone(), attempt.tools().clone());
    let work = move || -> Result<u64, Failure> {
        manifest::write(&directory, &spec, &saved, &tools, captured.moment_us)?;
        let sync = || sync_directory_of(&directory.join("all")).and_then(|()| sync_directory_of(&directory));
        sync().map_err(|error| fault::file("sync", &directory, &error))?;
        let texts = manifest::FILES.iter().map(|name| directory.join(name)).chain(screen::path_of(&directory));
        texts.map(|path| allocated(&path).map_err(|error| fault::file("measure", &directory, &error))).sum()
    };
    let written = tokio::task::spawn_blocking(work).await.map_err(|error| fault::task(&error)).and_then(|done| done);
    // The disks are switched by now, and the memory that cannot be described is not a snapshot.
    report.bytes += written.map_err(|failure| EffectFailure { failure, switched })?;
    Ok((report, machine))
}

/// Removes what was written, and says why it did not work; `needed` is what memory may take on disk.
async fn give_up(what: &str, directory: Option<PathBuf>, failed: &CaptureFailed, needed: u64) -> EffectFailure {
    let place = directory.as_deref().and_then(Path::parent).map(Path::to_owned);
    if let Some(directory) = directory {
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(&directory).map_err(|e| (directory, e)));
        if let Ok(Err((directory, error))) = removed.await {
            tracing::warn!(directory = %directory.display(), %error, "could not remove what a failed capture wrote");
        }
    }
    let mut failure = match &failed.reason {
        SaveError::Command(error) => fault::command(what, error),
        SaveError::Host(error) => fault::host_part(what, error),
        SaveError::Migration { reason } => {
            Failure::new(fault::kind_of_words(reason), format!("could not {what}: {}", failed.reason))
        }
        SaveError::Unable { .. } => Failure::new(Kind::NotSupported, format!("could not {what}: {}", failed.reason))
            .hint("install QEMU 9.0 or later and restart the machine"),
        SaveError::Busy => Failure::new(Kind::InUse, format!("could not {what}: {}", failed.reason))
            .hint("wait until that has ended, then try again"),
        SaveError::RunState { .. } => Failure::new(Kind::InvalidState, format!("could not {what}: {}", failed.reason))
            .hint("resume or restart the machine, then try again"),
        SaveError::OtherLayer { .. } => {
            Failure::new(Kind::InvalidState, format!("could not {what}: {}", failed.reason))
                .hint("a merge that sets this right follows at once: try again, or turn the machine off and on")
        }
        SaveError::Cancelled => control::cancelled("the capture"),
    };
    if failure.kind == Kind::NoSpace {
        let room =
            |place: &Path| format!(" (up to {} MiB are needed in {})", needed.div_ceil(1 << 20), place.display());
        let room = place.as_deref().map_or_else(String::new, room);
        let hint = format!("free some space{room} or delete snapshots, then try again; the guest was not harmed");
        failure = failure.hint(hint);
    }
    if failure.kind == Kind::MachineGone {
        failure.message = format!("could not {what}: the machine's process ended in the middle");
        return EffectFailure { failure: failure.hint("start the machine again"), switched: failed.switched };
    }
    if let Some(stuck) = &failed.stuck {
        failure.message = format!("{}; and the guest could not be brought to run again: {stuck}", failure.message);
        failure = failure.hint("resume the machine by hand, or turn it off and on");
    }
    EffectFailure { failure, switched: failed.switched }
}

/// Lets a guest run on that the emulator stopped because the snapshot left no space for what the guest wrote itself. What
/// the snapshot had taken is free again by now, and the guest repeats the write.
async fn run_on(attempt: &Attempt, running: &Running) {
    if let Ok(GuestState::Stopped) = running.guest_state().await {
        let change = match control::resume(&running.monitor).await {
            Ok(()) => MachineChange::Running,
            Err(_) => MachineChange::Stopped,
        };
        attempt.tell(running.vm, change);
    }
}

/// The guest may have been stopped by the emulator in the middle, for a full disk say, when its events counted as ours.
async fn tell_if_stopped(attempt: &Attempt, running: &Running) {
    if let Ok(GuestState::Stopped) = running.guest_state().await {
        attempt.tell(running.vm, MachineChange::Stopped);
    }
}
