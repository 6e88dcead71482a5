//! The processes of machines that we can talk to, and the news they give on their own.
//!
//! ```text
//!   launch ──put──▶ Running ──watched──▶ STOP, RESUME not of our doing ──▶ Event::Machine
//!   restart ─find─▶    │
//!                      └── the process ends, not of our doing ──▶ Event::Machine { Gone }
//! ```
//! A machine is found again after a restart of the daemon by the identity and the build that its launch wrote into the
//! run directory.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ledger::event::{Event, MachineChange, Observation};
use ledger::id::VmId;
use qemu::graph::DiskIo;
use qemu::launch::Platform;
use qemu::qmp::{Command, run_state};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::ask::QUESTIONS_MAX;
use crate::cgroup;
use crate::keyboard::Pressed;
use crate::layout::Layout;
use crate::process::{Gone, Process};
use crate::qmp_socket::{Monitor, MonitorError, Notice};

/// How long a running emulator may take to greet us. Its main loop may be busy with a flush.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// How a process was built, as far as it matters later: written beside its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// What the machine is built on.
    pub platform: Platform,
    /// Guest memory is a private mapping of a saved file.
    pub mapped: bool,
    /// How disks are reached.
    pub disk_io: DiskIo,
}

/// A machine whose process can be talked to.
#[derive(Debug)]
pub struct Running {
    /// Which machine.
    pub vm: VmId,
    /// Its process.
    pub process: Process,
    /// Its monitor.
    pub monitor: Monitor,
    /// How it was built.
    pub build: Build,
    /// Places for those who ask it something, see [`Executor::ask`](crate::executor::Executor::ask).
    pub(crate) questions: tokio::sync::Semaphore,
    /// Keys that are down.
    pub(crate) pressed: Pressed,
    /// Its end is our doing.
    ending: AtomicBool,
}

/// What QEMU says of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// It runs.
    Running,
    /// It stands still, and could run.
    Stopped,
    /// It has not begun to run, or has ended.
    NotBegun,
}

/// All machines whose processes we can talk to.
#[derive(Clone, Debug)]
pub struct Machines(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    events: mpsc::UnboundedSender<Event>,
    live: Mutex<HashMap<VmId, Arc<Running>>>,
    /// Held while a machine is looked for: QEMU serves one monitor client at a time, and a second one that waits for its
    /// greeting in vain would take the machine for dead.
    looking: Mutex<HashMap<VmId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Running {
    /// A machine at the end of its launch.
    pub fn new(vm: VmId, process: Process, monitor: Monitor, build: Build) -> Self {
        let questions = tokio::sync::Semaphore::new(QUESTIONS_MAX);
        Self { vm, process, monitor, build, questions, pressed: Pressed::default(), ending: AtomicBool::new(false) }
    }

    /// Asks QEMU what the guest does.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub async fn guest_state(&self) -> Result<GuestState, MonitorError> {
        guest_state(&self.monitor, GREETING_PATIENCE).await
    }

    /// Ends the process: in order if it listens within `patience`, else at once. Its end is no news then.
    pub async fn end(&self, patience: Duration) -> Gone {
        self.ending.store(true, Ordering::SeqCst);
        let orderly = async {
            // The connection usually ends before the answer comes; the end of the process is what counts.
            let _ = self.monitor.execute(Command::new("quit"), Vec::new(), patience).await;
            self.process.ended().await
        };
        match tokio::time::timeout(patience, orderly).await {
            Ok(gone) => gone,
            Err(_) => self.process.kill().await,
        }
    }
}

impl Build {
    /// Writes it down for the next daemon.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self)?)
    }

    fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

impl Machines {
    /// With nobody in it yet. News goes to `events`.
    pub fn new(layout: Layout, events: mpsc::UnboundedSender<Event>) -> Self {
        Self(Arc::new(Inner { layout, events, live: Mutex::default(), looking: Mutex::default() }))
    }

    /// The machine's process, if it is alive: the one we know, or one that an earlier daemon started.
    ///
    /// # Errors
    /// When there is one and it cannot be talked to.
    pub async fn find(&self, vm: VmId) -> Result<Option<Arc<Running>>, MonitorError> {
        self.find_within(vm, GREETING_PATIENCE).await
    }

    /// The same, with as much patience as whoever asks has.
    ///
    /// # Errors
    /// When there is one and it cannot be talked to.
    pub async fn find_within(&self, vm: VmId, patience: Duration) -> Result<Option<Arc<Running>>, MonitorError> {
        let looking = {
            let mut looking = self.0.looking.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(looking.entry(vm).or_default())
        };
        let _alone = looking.lock().await;
        let known = self.live().get(&vm).cloned();
        if let Some(running) = known.filter(|known| known.process.is_alive() && !known.monitor.is_lost()) {
            return Ok(Some(running));
        }
        let Some(process) = self.process(vm)? else { return Ok(None) };
        let path = self.0.layout.qmp(vm);
        let build = Build::load(&self.0.layout.build(vm)).ok_or_else(|| MonitorError::Handshake {
            path: path.clone(),
            reason: "its record beside the socket is missing or damaged".to_owned(),
        })?;
        let monitor = Monitor::connect(&path, patience).await?;
        Ok(Some(self.put(Running::new(vm, process, monitor, build))))
    }

    /// The machine's process, whether it can be talked to or not.
    fn process(&self, vm: VmId) -> Result<Option<Process>, MonitorError> {
        let layout = &self.0.layout;
        let found = Process::find(&layout.identity(vm), &layout.log(vm));
        found.map_err(|error| MonitorError::Unknown { reason: error.to_string() })
    }

    /// Ends the machine's process, if there is one, without a word to it: it cannot be talked to.
    ///
    /// # Errors
    /// When nobody can say whether there is one.
    pub async fn kill(&self, vm: VmId, why: &MonitorError) -> Result<(), MonitorError> {
        if let Some(process) = self.process(vm)? {
            tracing::warn!(%vm, pid = process.pid(), error = %why, "ending a process that cannot be talked to");
            process.kill().await;
        }
        Ok(())
    }

    /// Adds a machine and watches it.
    pub fn put(&self, running: Running) -> Arc<Running> {
        let running = Arc::new(running);
        self.live().insert(running.vm, Arc::clone(&running));
        // From now on, and not from when its task first runs: what QEMU tells until then would be lost.
        let notices = running.monitor.subscribe();
        tokio::spawn(watch(Arc::clone(&self.0), Arc::clone(&running), notices));
        running
    }

    /// What there is of a machine.
    pub async fn observe(&self, vm: VmId) -> Observation {
        let state = match self.find(vm).await {
            Ok(None) => return Observation::NoProcess,
            Ok(Some(running)) => running.guest_state().await,
            Err(error) => Err(error),
        };
        match state {
            Ok(GuestState::Running) => Observation::Running,
            Ok(GuestState::Stopped) => Observation::Stopped,
            Ok(GuestState::NotBegun) => Observation::Unusable,
            Err(error) => {
                tracing::warn!(%vm, %error, "the machine's process cannot be talked to");
                Observation::Unusable
            }
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Arc<Running>>> {
        self.0.live()
    }
}

impl Inner {
    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Arc<Running>>> {
        // Nothing is done under the lock that could panic half-way.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on news of a machine.
    fn tell(&self, vm: VmId, change: MachineChange) {
        tracing::info!(%vm, ?change, "the machine changed on its own");
        // Nobody listens only if the daemon is going down; the next one observes.
        let _ = self.events.send(Event::Machine { vm, change });
    }
}

/// Asks QEMU what the guest does.
///
/// # Errors
/// When QEMU does not answer.
pub async fn guest_state(monitor: &Monitor, patience: Duration) -> Result<GuestState, MonitorError> {
    let reply = monitor.execute(Command::new("query-status"), Vec::new(), patience).await?;
    Ok(read_state(run_state(&reply)))
}

/// Run states as in QEMU's `qapi/run-state.json`.
fn read_state(status: &str) -> GuestState {
    match status {
        // A guest in standby is on; it wakes on its own.
        "running" | "suspended" => GuestState::Running,
        "prelaunch" | "inmigrate" | "preconfig" | "shutdown" => GuestState::NotBegun,
        _ => GuestState::Stopped,
    }
}

/// What an event of this name tells of the guest.
pub fn change_told(event: &str) -> Option<MachineChange> {
    match event {
        "STOP" => Some(MachineChange::Stopped),
        "RESUME" => Some(MachineChange::Running),
        _ => None,
    }
}

/// Reports what the machine does on its own until its process ends or we lose its monitor.
async fn watch(inner: Arc<Inner>, running: Arc<Running>, mut notices: mpsc::UnboundedReceiver<Notice>) {
    let vm = running.vm;
    let groups = cgroup::directories_of(running.process.pid());
    while let Some(notice) = notices.recv().await {
        match change_told(&notice.event.name) {
            Some(change) if !notice.ours => inner.tell(vm, change),
            None if notice.event.name == "SHUTDOWN" => {
                tracing::info!(%vm, reason = ?notice.event.text("reason"), "the machine shuts down");
            }
            _ => {}
        }
    }
    let gone = running.process.ended().await;
    let current = {
        let mut live = inner.live();
        let is_current = live.get(&vm).is_some_and(|known| Arc::ptr_eq(known, &running));
        if is_current {
            live.remove(&vm);
        }
        is_current
    };
    // If it is not the one we know any more, it has been replaced, and its successor is watched.
    if current && !running.ending.load(Ordering::SeqCst) {
        tracing::info!(%vm, %gone, "the machine's process ended");
        inner.tell(vm, MachineChange::Gone);
    }
    // Of a process that an earlier daemon started nobody else would know.
    cgroup::remove(&groups).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_states_are_sorted_by_what_can_be_done() {
        let check = |status: &str, expected: GuestState| assert_eq!(read_state(status), expected, "{status}");
        check("running", GuestState::Running);
        check("paused", GuestState::Stopped);
        check("io-error", GuestState::Stopped);
        check("postmigrate", GuestState::Stopped);
        check("finish-migrate", GuestState::Stopped);
        check("prelaunch", GuestState::NotBegun);
        check("inmigrate", GuestState::NotBegun);
    }

    /// Plays a QEMU that says what it is told to.
    fn peer(path: &Path) -> (std::thread::JoinHandle<()>, std::sync::mpsc::Sender<String>) {
        use std::io::{BufRead, BufReader, Write};
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        let (sender, lines) = std::sync::mpsc::channel::<String>();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let greeting =
                r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}}, "capabilities": []}}"#;
            writeln!(stream, "{greeting}").unwrap();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            writeln!(stream, r#"{{"return": {{}}, "id": 0}}"#).unwrap();
            for line in lines {
                writeln!(stream, "{line}").unwrap();
            }
        });
        (thread, sender)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn news_is_what_we_did_not_do_ourselves() {
        let root = tempfile::tempdir().unwrap();
        let layout =
            Layout::new(&root.path().join("data"), &root.path().join("run"), crate::account::Accounts::Own).unwrap();
        let (sender, mut events) = mpsc::unbounded_channel();
        let machines = Machines::new(layout, sender);
        let program = crate::process::Program {
            path: "/bin/sleep".into(),
            arguments: vec!["1000".into()],
            socket: root.path().join("unused"),
            log: root.path().join("log"),
            identity: None,
            account: None,
            group: None,
        };
        let process = program.start().unwrap().process;
        let socket = root.path().join("qmp");
        let (thread, say) = peer(&socket);
        let monitor = Monitor::connect(&socket, GREETING_PATIENCE).await.unwrap();
        let platform = Platform {
            machine_type: "pc-q35-10.0".to_owned(),
            accelerator: qemu::launch::Accelerator::Tcg,
            cpu: "Nehalem-v1".to_owned(),
            display: qemu::launch::Display::Vga,
        };
        let build = Build { platform, mapped: false, disk_io: DiskIo::Buffered };
        let vm = VmId(uuid::Uuid::from_u128(1));
        let running = machines.put(Running::new(vm, process.clone(), monitor.clone(), build));

        let mut heard = monitor.subscribe();
        let quiet = monitor.quiet();
        say.send(r#"{"event": "STOP"}"#.to_owned()).unwrap();
        heard.recv().await.unwrap();
        drop(quiet);
        say.send(r#"{"event": "STOP"}"#.to_owned()).unwrap();
        say.send(r#"{"event": "RESUME"}"#.to_owned()).unwrap();
        for change in [MachineChange::Stopped, MachineChange::Running] {
            assert_eq!(events.recv().await.unwrap(), Event::Machine { vm, change });
        }
        drop(say);
        thread.join().unwrap();
        process.kill().await;
        assert_eq!(events.recv().await.unwrap(), Event::Machine { vm, change: MachineChange::Gone });
        drop(running);
    }
}
