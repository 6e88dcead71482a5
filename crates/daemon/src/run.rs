//! From configuration to a running service, and back to silence.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use host::capability::{self, CapabilityError, Tools, UefiFiles, Wishes};
use host::cgroup::Groups;
use host::executor::{Executor, Setup};
use host::inventory::Keeper;
use host::layout::{Layout, LayoutError};
use host::sealer;
use host::store_sqlite::{OpenError, SqliteStore};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::accounts::{self, AccountError};
use crate::audit::{Audit, Record};
use crate::config::{Accelerator, Config, ConfigError, DiskIo};
use crate::door::{self, DoorError};
use crate::listen::ListenError;
use crate::pump::{Handle, Pump, StartError};
use crate::service::Service;
use crate::telemetry::FilterError;
use crate::{facts, rights, startup, telemetry};

/// How long a stopping daemon waits for requests and effects under way. What is not done by then is taken up by the
/// next daemon, as after a crash.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is told something that makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The same, of the log filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The same, of the account.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The directories cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store cannot be opened, or another daemon has it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be understood.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The emulator is missing or of no use.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// Clients could not connect.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The system refuses something basic.
    #[error("could not {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl RunError {
    /// Exit status of the process: 2 if what it was told makes no sense, 3 if another daemon is in the way, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Config(_) | RunError::Filter(_) | RunError::Account(_) => 2,
            RunError::Door(
                DoorError::Group(_) | DoorError::Keytab { .. } | DoorError::Tls(_) | DoorError::Users(_),
            ) => 2,
            RunError::Open(OpenError::Locked { .. }) => 3,
            RunError::Door(DoorError::Listen(ListenError::SocketInUse(_) | ListenError::AddressInUse(_))) => 3,
            _ => 1,
        }
    }
}

/// Runs the daemon until it is told to stop. `ready` is given what clients can connect to, once they can.
///
/// # Errors
/// When it cannot start. Once it runs, it goes on.
pub fn serve(config: Config, ready: impl FnOnce(&[String])) -> Result<(), RunError> {
    telemetry::init(&config.log)?;
    // Before there are other threads: they and the processes that we start inherit it. Nothing of ours needs a program
    // that gains rights when it is started.
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| RunError::System { what: "give up gaining privileges", source: error.into() })?;
    rights::give_up(config.listen.iter().chain(&config.https_listen).map(SocketAddr::port))
        .map_err(|error| RunError::System { what: "give up rights that are not needed", source: error.into() })?;
    // What is to be open to others is opened by name; files of machines are nobody's business.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // A machine takes two and a client one; the usual 1024 are for programs that use select(2).
    let files = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
        .map_err(|error| RunError::System { what: "allow itself more open files", source: error.into() })?;
    let runtime =
        tokio::runtime::Runtime::new().map_err(|source| RunError::System { what: "start the runtime", source })?;
    let result = runtime.block_on(run(config, ready));
    // A file operation that hangs must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(config: Config, ready: impl FnOnce(&[String])) -> Result<(), RunError> {
    let mut stop = Signals::new()?;
    let wishes = wishes(&config);
    let layout = layout(&config)?;
    layout.create()?;
    let store = SqliteStore::open(&layout)?;
    let (doors, gate) = door::prepare(&config).await?;
    let tools = Tools::find(&wishes, &layout).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        qemu = %tools.version,
        accelerator = ?tools.platform.accelerator,
        emulator_users = %layout.accounts(),
        data = %layout.data().display(),
        "starting"
    );
    if let Some(reason) = &tools.no_kvm {
        tracing::warn!(reason, "guests run many times slower, because their instructions are translated");
    }

    let (outcomes, events) = mpsc::unbounded_channel();
    let executor = Executor::new(setup(&config, layout.clone(), tools), outcomes);
    let paths = ledger::paths::Paths::new(layout.data());
    let inventories = Keeper::new(layout.clone());
    let (pump, handle) = Pump::start(store, inventories.clone(), paths, executor.clone(), events).await?;
    keep_files(&handle, &executor, inventories);
    let (stop_pump, pump_stopping) = watch::channel(false);
    let pump = tokio::spawn(pump.run(pump_stopping));

    let started = layout.started();
    let places = layout.clone();
    let host = facts::host(
        layout.data().to_owned(),
        Box::new(move |vm, port| Some(if port == 0 { layout.com1(vm) } else { layout.com2(vm) })),
        Box::new(move |vm| u32::try_from(host::identity::Identity::load(&places.identity(vm)).ok()??.pid).ok()),
    );
    let starting = tokio::spawn(startup::start_machines(handle.clone(), started));
    let service = Service::new(host, handle, executor.clone(), gate.audit.clone());
    let urls = doors.urls();
    let (close, closing) = watch::channel(false);
    tokio::spawn(reopen_at_hangup(gate.audit.clone(), signal(SignalKind::hangup()).map_err(no_signals)?));
    gate.audit.tell(Record { event: "daemon", outcome: "started", objects: urls.clone(), ..Record::default() });
    let doors = tokio::spawn(doors.serve(service.clone(), Arc::clone(&gate), closing));
    ready(&urls);

    stop.wait().await;
    tracing::info!("stopping; machines go on running");
    close.send_replace(true);
    service.stop();
    starting.abort();
    let farewell = async {
        let _ = doors.await;
        executor.idle().await;
    };
    tokio::select! {
        () = stop.wait() => tracing::warn!("told to stop twice: stopping at once"),
        rested = tokio::time::timeout(FAREWELL, farewell) => if rested.is_err() {
            tracing::warn!("stopping with work under way; it is taken up at the next start");
        },
    }
    stop_pump.send_replace(true);
    // A panic in the pump has been printed; there is nothing left to save.
    let _ = pump.await;
    gate.audit.tell(Record { event: "daemon", outcome: "stopped", ..Record::default() });
    // The last lines are written by a thread of its own, which ends with the process.
    let _ = tokio::task::spawn_blocking(move || gate.audit.flush()).await;
    Ok(())
}

/// What goes on beside everything else: inventories that are behind, files that have no seal.
fn keep_files(handle: &Handle, executor: &Executor, inventories: Keeper) {
    let found = handle.state();
    tokio::task::spawn_blocking(move || inventories.reconcile(&found));
    tokio::spawn(sealer::run(executor.clone(), handle.states()));
}

/// SIGHUP: the audit log has been moved away. What else may change is looked at when it is used.
async fn reopen_at_hangup(audit: Audit, mut hangup: tokio::signal::unix::Signal) {
    while hangup.recv().await.is_some() {
        audit.reopen();
    }
}

/// Where things are, and whom emulators run as. Makes nothing.
///
/// # Errors
/// When the configuration names accounts or directories that cannot be.
pub fn layout(config: &Config) -> Result<Layout, RunError> {
    let root = rustix::process::geteuid().is_root();
    let accounts = accounts::emulators(config.user.as_deref(), config.user_ids.as_deref(), root)?;
    let accounts = capability::with_kvm_group(accounts, wishes(config).accelerator);
    Ok(Layout::new(&config.data_dir, &config.run_dir, accounts)?)
}

fn setup(config: &Config, layout: Layout, tools: Tools) -> Setup {
    Setup { layout, tools, groups: groups(config.cgroups), image_directories: config.image_directories.clone() }
}

/// Where machines' processes are limited.
fn groups(wanted: bool) -> Groups {
    if !wanted {
        return Groups::default();
    }
    Groups::find().unwrap_or_else(|reason| {
        tracing::warn!(
            reason,
            "emulators run without limits on their memory and threads; cgroups = false says so for good"
        );
        Groups::default()
    })
}

fn no_signals(source: std::io::Error) -> RunError {
    RunError::System { what: "listen for signals", source }
}

fn wishes(config: &Config) -> Wishes {
    Wishes {
        emulator: config.qemu.clone(),
        qemu_img: config.qemu_img.clone(),
        storage_daemon: config.qemu_storage_daemon.clone(),
        uefi: config.uefi.clone().map(|(code, variables)| UefiFiles { code, variables }),
        accelerator: match config.accelerator {
            Accelerator::Auto => None,
            Accelerator::Kvm => Some(qemu::launch::Accelerator::Kvm),
            Accelerator::Tcg => Some(qemu::launch::Accelerator::Tcg),
        },
        disk_io: Some(match config.disk_io {
            DiskIo::Buffered => qemu::graph::DiskIo::Buffered,
            DiskIo::Direct => qemu::graph::DiskIo::DirectThreads,
            DiskIo::IoUring => qemu::graph::DiskIo::DirectIoUring,
        }),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(no_signals);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
