//! The service as its users meet it: the binary, started on a data directory of its own, asked through its command line.
//!
//! A [`Service`] ends its machines and itself when dropped, also when a test panics, so that nothing runs on after it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::{self, Agent};
use crate::guest;

/// How long the daemon may take to be ready: it probes QEMU, which a busy machine makes slow.
const READY: Duration = Duration::from_secs(60);
/// How long a guest may take to boot under emulation on a busy machine.
pub const BOOT: Duration = Duration::from_secs(180);
/// Between two looks at something that announces nothing.
const LOOK: Duration = Duration::from_millis(20);

/// Why a test could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest's disks are missing.
    #[error(transparent)]
    NotBuilt(#[from] guest::NotBuilt),
    /// The guest does not answer.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// A command of the service failed.
    #[error("`snapvisor {arguments}` ended with {status}: {output}")]
    Command {
        /// What was asked.
        arguments: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// Something else.
    #[error("{0}")]
    Other(String),
    /// The system refused.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// An error with its causes, in one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(|error| error.to_string().replace('\n', " ")).collect::<Vec<_>>().join(": ")
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A daemon with a data directory of its own.
pub struct Service {
    /// Sockets and the log, and all else unless that has a place of its own.
    directory: tempfile::TempDir,
    /// Where the data directory and the machines' disks are.
    place: PathBuf,
    daemon: Option<Child>,
    binary: PathBuf,
    extra: Vec<String>,
    environment: Vec<(String, OsString)>,
    disk_mib: Option<u32>,
    /// `http://127.0.0.1:PORT/wsman`
    pub url: String,
    /// All that clients can connect to, in the order of the daemon's addresses.
    pub urls: Vec<String>,
}

impl Service {
    /// Starts the daemon.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same, with more arguments for `serve`.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_with(extra: &[&str]) -> Result<Self> {
        Self::begin(extra, &[], None, None)
    }

    /// The same, with variables for the daemon and whatever of it runs later.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_in(environment: &[(&str, &Path)], extra: &[&str]) -> Result<Self> {
        Self::begin(extra, environment, None, None)
    }

    /// The same, with a data directory that holds `mib` MiB and not more. Such a service cannot be restarted: the file
    /// system is the daemon's own and goes with it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_on_small_disk(mib: u32) -> Result<Self> {
        Self::begin(&[], &[], Some(mib), None)
    }

    /// The same, with data directory and disks below `place`, where an earlier service may have left some; they stay when
    /// this one goes.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_at(place: &Path) -> Result<Self> {
        Self::begin(&[], &[], None, Some(place))
    }

    fn begin(
        extra: &[&str],
        environment: &[(&str, &Path)],
        disk_mib: Option<u32>,
        place: Option<&Path>,
    ) -> Result<Self> {
        let directory = scratch()?;
        let mut service = Self {
            place: place.unwrap_or(directory.path()).to_owned(),
            directory,
            daemon: None,
            binary: binary()?,
            extra: extra.iter().map(|&argument| argument.to_owned()).collect(),
            environment: environment.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect(),
            disk_mib,
            url: String::new(),
            urls: Vec::new(),
        };
        std::fs::create_dir_all(service.data())
            .map_err(|source| Error::Io { what: "making the data directory".into(), source })?;
        service.restart()?;
        Ok(service)
    }

    /// Where everything of this service is, but for its sockets and its log if it was started in a place of its own.
    pub fn directory(&self) -> &Path {
        &self.place
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// The data directory as the daemon sees it, which matters when that is a file system of its own.
    ///
    /// # Errors
    /// If the daemon does not run.
    pub fn data_seen_by_daemon(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{}", self.daemon_pid()?, self.data().display())))
    }

    /// Process number of the daemon.
    ///
    /// # Errors
    /// If the daemon does not run.
    pub fn daemon_pid(&self) -> Result<u32> {
        self.daemon.as_ref().map(Child::id).ok_or_else(|| Error::Other("the daemon does not run".into()))
    }

    /// What the daemon logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("daemon.log")
    }

    /// Kills the daemon with signal 9; machines run on.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Both fail only if it is dead already.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Starts the daemon again, on the same data.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let mut command = self.serve_command();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path());
        let log = log.map_err(|source| Error::Io { what: "opening the daemon's log".into(), source })?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command
            .spawn()
            .map_err(|source| Error::Io { what: format!("starting {}", self.binary.display()), source })?;
        let output = child.stdout.take();
        self.daemon = Some(child);
        self.urls = output
            .and_then(|output| await_ready(output, READY))
            .ok_or_else(|| Error::Other(format!("the daemon did not say where it listens; its log: {}", self.log())))?;
        self.url = self.urls.iter().find(|url| url.starts_with("http://")).cloned().unwrap_or_default();
        Ok(())
    }

    /// The same, with other arguments for `serve` from now on.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart_with(&mut self, extra: &[&str]) -> Result<()> {
        self.extra = extra.iter().map(|&argument| argument.to_owned()).collect();
        self.restart()
    }

    /// The command that starts the daemon, for tests that want to see it fail.
    pub fn serve_command(&self) -> Command {
        self.serve_command_on(&self.data(), &self.directory.path().join("run"))
    }

    /// The same, for another place: `data` and `run` below `directory`.
    pub fn serve_command_in(&self, directory: &Path) -> Command {
        self.serve_command_on(&directory.join("data"), &directory.join("run"))
    }

    fn serve_command_on(&self, data: &Path, run: &Path) -> Command {
        let mut command = self.program();
        command.arg("serve").arg("--data-dir").arg(data).arg("--run-dir").arg(run);
        command.args(["--listen", "127.0.0.1:0"]).args(&self.extra);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The program, if need be in a mount namespace of its own with a small file system as data directory.
    fn program(&self) -> Command {
        let Some(mib) = self.disk_mib else { return Command::new(&self.binary) };
        let script = "mount -t tmpfs -o mode=0700,size=$1m tmpfs \"$2\" && shift 2 && exec \"$@\"";
        let mut command = Command::new("unshare");
        // For root this changes nothing; for others it is what makes mounting possible.
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh", &mib.to_string()]);
        command.arg(self.data()).arg(&self.binary);
        command
    }

    /// Runs a command of the command line and returns whatever comes.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        let output = self.client(arguments).output();
        let output =
            output.map_err(|source| Error::Io { what: format!("running {}", self.binary.display()), source })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Finished { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }

    /// A command of the command line, not yet started.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("SNAPVISOR_URL", self.socket_url()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    fn socket_url(&self) -> String {
        format!("unix:{}", self.directory.path().join("run/snapvisor.sock").display())
    }

    /// Runs a command that must succeed; gives what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.run(arguments)?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        let output = format!("{}{}", finished.stdout, finished.stderr);
        Err(Error::Command { arguments: arguments.join(" "), status: finished.status, output })
    }

    /// Runs a command that must succeed with `--json`.
    ///
    /// # Errors
    /// If it fails or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ok(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text)
            .map_err(|error| Error::Other(format!("`snapvisor {}`: {error} in {text}", arguments.join(" "))))
    }

    /// Defines a machine on copies of the test guest's two disks, and starts it.
    ///
    /// # Errors
    /// If one of these steps fails.
    pub fn boot(&self, name: &str, options: &[&str]) -> Result<Agent> {
        self.define(name, options)?;
        self.ok(&["vm", "start", name])?;
        let mut agent = self.agent(name)?;
        agent.wait_ready(BOOT)?;
        Ok(agent)
    }

    /// Defines a machine on copies of the test guest's two disks.
    ///
    /// # Errors
    /// If one of these steps fails.
    pub fn define(&self, name: &str, options: &[&str]) -> Result<()> {
        let images = guest::images()?;
        let (system, data) = (self.place.join(format!("{name}-0.qcow2")), self.place.join(format!("{name}-1.qcow2")));
        for (from, to) in [(&images.system, &system), (&images.data, &data)] {
            std::fs::copy(from, to)
                .map_err(|source| Error::Io { what: format!("copying {}", from.display()), source })?;
        }
        let disks = [system.display().to_string(), data.display().to_string()];
        let create = ["vm", "create", name, "--disk", &disks[0], "--disk", &disks[1]];
        self.ok(&[&create, options].concat()).map(drop)
    }

    /// A client for a machine's agent.
    ///
    /// # Errors
    /// If the machine's second serial port is not known.
    pub fn agent(&self, name: &str) -> Result<Agent> {
        let machine = self.json(&["vm", "show", name])?;
        let port = machine["devices"]["serial_ports"].get(1).and_then(Value::as_str);
        port.map(Agent::new).ok_or_else(|| Error::Other(format!("no second serial port in {machine}")))
    }

    /// Process number of a machine's QEMU, if one runs.
    ///
    /// # Errors
    /// If the processes of this host cannot be listed.
    pub fn qemu_pid(&self, guid: &str) -> Result<Option<u32>> {
        Ok(processes("qemu-system", guid)?.pop())
    }
}

/// Process numbers of a program whose arguments name a machine: `qemu-system` or `qemu-storage-daemon`.
///
/// # Errors
/// If the processes of this host cannot be listed.
pub fn processes(program: &str, guid: &str) -> Result<Vec<u32>> {
    let listing =
        std::fs::read_dir("/proc").map_err(|source| Error::Io { what: "listing processes".into(), source })?;
    let is_it = |line: &str| {
        line.split('\0').next().is_some_and(|word| word.contains(program)) && line.contains(&guid.to_lowercase())
    };
    let mut found = Vec::new();
    for entry in listing.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if is_it(&String::from_utf8_lossy(&line).to_lowercase()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Kills a process with signal 9; one that is gone already is fine.
///
/// # Errors
/// If `kill` cannot be run.
pub fn kill_process(pid: u32) -> Result<()> {
    let kill = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
    kill.map(drop).map_err(|source| Error::Io { what: format!("killing process {pid}"), source })
}

impl Drop for Service {
    fn drop(&mut self) {
        // What fails here has nobody left to tell; the guests' processes are the only thing that must not stay.
        if self.daemon.is_none() && self.disk_mib.is_none() {
            let _ = self.restart();
        }
        let machines = self.json(&["vm", "list"]).ok();
        let names =
            machines.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(|vm| vm["id"].as_str());
        for name in names {
            let _ = self.run(&["vm", "stop", name]);
            if let Ok(Some(pid)) = self.qemu_pid(name) {
                let _ = kill_process(pid);
            }
        }
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- daemon's log ---\n{}", self.log());
        }
    }
}

/// Waits until `condition` gives something.
///
/// # Errors
/// If it does not within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(Error::Other(format!("waited {limit:?} in vain for {what}")));
        }
        std::thread::sleep(LOOK);
    }
}

/// A directory for one service, on the file system of the guest's images rather than one that may be memory.
pub(crate) fn scratch() -> Result<tempfile::TempDir> {
    let base = std::env::var_os("SNAPVISOR_SCRATCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    // Open to passage: if we are root, emulators run under an account of their own.
    let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    let made = tempfile::Builder::new().prefix("sv-").permissions(passable).tempdir_in(base);
    made.map_err(|source| Error::Io { what: "making a scratch directory".into(), source })
}

/// The program under test.
fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("SNAPVISOR_BIN").map(PathBuf::from);
    path.filter(|path| path.exists())
        .ok_or_else(|| Error::Other("SNAPVISOR_BIN does not name the program to test; run `cargo xtask test`".into()))
}

/// Reads the daemon's output until it says where it listens; goes on reading so that the daemon never blocks.
fn await_ready(output: std::process::ChildStdout, limit: Duration) -> Option<Vec<String>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
            let Some(places) = line.strip_prefix("listening on ") else { continue };
            // A closed channel means that nobody waits any more.
            let _ = sender.send(places.split_whitespace().map(str::to_owned).collect());
        }
    });
    receiver.recv_timeout(limit).ok()
}
