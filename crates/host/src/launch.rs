//! Starting a machine: fresh, from saved memory, or by adopting the process that is already there.
//!
//! ```text
//!   a process is there ──▶ its guest runs, or is ready to run: adopted
//!          │ no           └▶ it never began: ended, then
//!          ▼
//!   one that nobody recorded is ended, too
//!          ▼
//!   Spawned ──connect──▶ Talking ──┬─ fresh ───────────────▶ Running, watched
//!      │                    │      └─ saved: load the sidecar ──▶ Running, watched
//!      └────────────────────┴──▶ killed, with its last words in the failure
//! ```
//! The guest is let run by an order of its own, when the ledger has on record that it will. The record of how the process
//! was built is written before: a later daemon can always tell.

use std::time::Duration;

use ledger::effect::{MachineSpec, MemorySource};
use ledger::event::Outcome;
use ledger::failure::{Failure, Kind};
use ledger::vm;
use qemu::launch::{Memory, Start};
use qemu::restore::{Restore, RestoreError};
use qemu::save::SIDECAR_FILE;

use crate::account::Account;
use crate::cgroup::Limits;
use crate::control;
use crate::disk;
use crate::drive::Drive;
use crate::executor::{Attempt, Ending};
use crate::fault;
use crate::hands::Hands;
use crate::headers;
use crate::machines::{Build, GuestState, Running};
use crate::process::{self, Program, Talking, listen_on_standard_input};
use crate::spec::{self, SavedMachine, Surroundings};
use crate::tap;

/// How long an emulator may take until it greets us. It allocates no memory before the guest touches it.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long a process that is of no use may take to end in order.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Starts the process, up to the point where the guest can be let run.
pub async fn launch(attempt: &Attempt, spec: MachineSpec, memory: Option<MemorySource>) -> Ending {
    if adopt(attempt, &spec).await? {
        return Ok(Outcome::Done);
    }
    // The path of a serial port: in no other command line, and not changed by anything.
    process::end_strays(&format!("path={},", attempt.layout().com1(spec.vm).display())).await;
    let saved = memory.map(|source| SavedMachine::decode(&source).map(|saved| (source, saved))).transpose()?;
    let account = prepare(attempt, &spec, saved.as_ref().map(|(source, _)| source.clone())).await?;
    attempt.progress(0, 3, "starting the emulator");
    let build = Build {
        platform: saved.as_ref().map_or(&attempt.tools().platform, |(_, saved)| &saved.platform).clone(),
        mapped: saved.is_some(),
        disk_io: attempt.tools().disk_io,
    };
    let talking = start(attempt, &spec, &build, account, saved.as_ref()).await?;
    let loaded = match &saved {
        Some((source, _)) => {
            attempt.progress(2, 3, "restoring memory");
            load(attempt, account, &talking, source).await
        }
        None => Ok(()),
    };
    match loaded {
        Ok(()) => {
            attempt.machines().put(Running::new(spec.vm, talking.process, talking.monitor, build));
            Ok(Outcome::Done)
        }
        Err(mut failure) => {
            let alive = talking.process.is_alive();
            let gone = talking.process.kill().await;
            if !alive {
                failure.message = format!("{} ({gone})", failure.message);
            } else if !gone.last_words.is_empty() {
                failure.message = format!("{} (its last words: {})", failure.message, gone.last_words);
            }
            Err(failure.into())
        }
    }
}

/// Whether a process that is there already was taken over. One that is of no use is ended.
async fn adopt(attempt: &Attempt, spec: &MachineSpec) -> Result<bool, Failure> {
    let machines = attempt.machines();
    let running = match machines.find(spec.vm).await {
        Ok(None) => return Ok(false),
        Ok(Some(running)) => running,
        Err(error) => {
            let killed = machines.kill(spec.vm, &error).await;
            return killed.map(|()| false).map_err(|error| fault::monitor("start the machine", &error));
        }
    };
    match running.guest_state().await {
        Ok(GuestState::Running | GuestState::Stopped) => Ok(true),
        Ok(GuestState::NotBegun) | Err(_) => {
            running.end(END_PATIENCE).await;
            Ok(false)
        }
    }
}

/// Directories, files that are as they were, and rights for the account that the emulator is to run under.
async fn prepare(
    attempt: &Attempt,
    spec: &MachineSpec,
    memory: Option<MemorySource>,
) -> Result<Option<Account>, Failure> {
    let (layout, seals, spec) = (attempt.layout().clone(), attempt.bench.seals.clone(), spec.clone());
    let work = move || {
        let account = layout.settle_vm(spec.vm)?;
        spec.chains.iter().try_for_each(headers::verify_chain)?;
        disk::require_undamaged(&seals, &spec, memory.as_ref())?;
        disk::hand_over_images(&layout, spec.vm, account, spec.chains.iter().flat_map(|chain| &chain.images))?;
        if let Some(account) = account {
            for nic in &spec.nics {
                if let vm::Network::Tap(name) = &nic.network {
                    tap::check(name, account)?;
                }
            }
        }
        if let Some(source) = memory {
            disk::hand_over_memory(&layout, account, &source.path)?;
        }
        Ok(account)
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| fault::task(&error))?
}

/// Starts the process, up to the point where it listens and the guest does not run.
async fn start(
    attempt: &Attempt,
    spec: &MachineSpec,
    build: &Build,
    account: Option<Account>,
    saved: Option<&(MemorySource, SavedMachine)>,
) -> Result<Talking, Failure> {
    let (layout, tools) = (attempt.layout(), attempt.tools());
    let around = Surroundings {
        platform: build.platform.clone(),
        memory: saved.map_or(Memory::Anonymous, |(source, saved)| spec::mapped(&source.path, saved)),
        start: if saved.is_some() { Start::Incoming } else { Start::Stopped },
        sockets: spec::sockets(layout, spec.vm),
        tools,
    };
    let machine = spec::machine(spec, around)?;
    let arguments =
        machine.arguments().map_err(|error| Failure::new(Kind::NotSupported, format!("{}: {error}", spec.name)))?;
    let program = Program {
        path: tools.emulator.clone(),
        arguments: listen_on_standard_input(arguments, &layout.qmp(spec.vm)),
        socket: layout.qmp(spec.vm),
        log: layout.log(spec.vm),
        identity: Some(layout.identity(spec.vm)),
        account,
        group: attempt.bench.setup.groups.of(spec.vm, limits(spec)),
    };
    build.save(&layout.build(spec.vm)).map_err(|error| fault::file("write", &layout.build(spec.vm), &error))?;
    attempt.progress(1, 3, "waiting for the emulator");
    let talking = program.talk(START_PATIENCE).await;
    talking.map_err(|error| fault::start(&format!("the emulator of {}", spec.name), &error))
}

fn limits(spec: &MachineSpec) -> Limits {
    Limits::of(spec.processors, spec.memory_mib, spec.chains.iter().map(|chain| chain.images.len()).sum())
}

/// Loads saved memory; the guest does not run yet.
async fn load(
    attempt: &Attempt,
    account: Option<Account>,
    talking: &Talking,
    source: &MemorySource,
) -> Result<(), Failure> {
    let hands = Hands::new(account, attempt.tools().qemu_img.clone());
    let drive = Drive { monitor: &talking.monitor, hands, cancel: attempt.cancel.clone(), progress: &|_, _| {} };
    let restored = drive.run(Restore { sidecar: source.path.join(SIDECAR_FILE), resume: false }).await;
    restored.map(|_| ()).map_err(|error| restore_failure(source, &error))
}

fn restore_failure(source: &MemorySource, error: &RestoreError) -> Failure {
    let what = format!("restore the memory in {}", source.path.display());
    match error {
        RestoreError::Command(error) => fault::command(&what, error),
        RestoreError::DoesNotFit { .. } => Failure::new(Kind::Failed, format!("could not {what}: {error}"))
            .hint("if the emulator was upgraded since, install the old version again, or apply the snapshot without its memory"),
        RestoreError::NotWaiting { .. } | RestoreError::Ended => {
            Failure::new(Kind::Failed, format!("could not {what}: {error}"))
        }
        RestoreError::TooSlow { .. } => Failure::new(Kind::Timeout, format!("could not {what}: {error}")),
        RestoreError::Cancelled => control::cancelled("the start of the machine"),
    }
}
