//! Emulator processes: started apart from the daemon, so that they outlive it.
//!
//! ```text
//!   Program ──start──▶ Spawned ──connect──▶ Talking          (crate::machines: Running)
//!                         │                    │
//!                         └────────┬───────────┘
//!                                  ▼
//!                                Gone: how it ended, and its last words
//! ```
//! A process is put in a process group of its own, so signals from the daemon's terminal do not reach it; its output
//! goes to a file, so it never writes into a closed pipe; and its monitor socket is made by us and given to it as
//! standard input. The last point makes starting exact: the socket is listening before the process exists, so we
//! connect at once and never poll, and an emulator without rights to our directories can serve it all the same.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::watch;

use crate::account::{self, Account};
use crate::cgroup::Group;
use crate::identity::{Handle, Identity};
use crate::qmp_socket::{Monitor, MonitorError};

/// How much of a log is quoted when a process ends: enough for QEMU's error and the line before it.
const LAST_WORDS_BYTES: u64 = 2048;

/// How long after closing its monitor a process may take to end: QEMU closes it some milliseconds before.
const DYING_PATIENCE: Duration = Duration::from_secs(2);

/// Lines of it that are quoted.
const LAST_WORDS_LINES: usize = 5;

/// What to start, and where it talks.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments. The monitor must be at file descriptor 0, a listening socket.
    pub arguments: Vec<OsString>,
    /// Path of the monitor socket, made anew.
    pub socket: PathBuf,
    /// File for its output, begun anew.
    pub log: PathBuf,
    /// Where the identity of the process is written down; not for helpers that need not survive us.
    pub identity: Option<PathBuf>,
    /// Whom it runs as, if not as ourselves.
    pub account: Option<Account>,
    /// The control group that it is put into.
    pub group: Option<Group>,
}

/// A process that has been started and has not yet said anything.
#[derive(Debug)]
pub struct Spawned {
    /// The process.
    pub process: Process,
    /// Where it will talk.
    pub socket: PathBuf,
}

/// A process that lives, as far as we know.
#[derive(Clone, Debug)]
pub struct Process {
    handle: Handle,
    log: PathBuf,
    status: Option<watch::Receiver<Option<ExitStatus>>>,
}

/// A process that has greeted us.
#[derive(Debug)]
pub struct Talking {
    /// The process.
    pub process: Process,
    /// Its monitor.
    pub monitor: Monitor,
}

/// A process that has ended.
#[derive(Clone, Debug)]
pub struct Gone {
    /// How, if we were its parent.
    pub status: Option<ExitStatus>,
    /// The end of its log.
    pub last_words: String,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its socket could not be made.
    #[error("could not make the monitor socket {path}: {source}")]
    Socket {
        /// Path of the socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its log could not be made.
    #[error("could not write the log file {path}: {source}")]
    Log {
        /// Path of the log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program could not be run.
    #[error("could not start {path}: {source}")]
    Execute {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended before we had a hold of it.
    #[error("{0}")]
    Ended(Gone),
    /// It was started and could not be written down; it has been killed again.
    #[error("could not record the process that was started, so it was ended again: {source}")]
    Record {
        /// Why.
        source: io::Error,
    },
}

/// Why a process that was started is of no use. It has ended, or has been ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It ended on its own.
    #[error("{0}")]
    Gone(Gone),
    /// It does not talk.
    #[error("{error}; it was ended: {gone}")]
    Mute {
        /// What went wrong.
        error: MonitorError,
        /// Its end.
        gone: Gone,
    },
}

/// Why there is no process that talks to us.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It was started and is of no use.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Puts the monitor of an emulator's command line, a socket listening at `socket`, at standard input, where
/// [`Program::start`] gives it an open one.
pub fn listen_on_standard_input(arguments: Vec<String>, socket: &Path) -> Vec<OsString> {
    let at_path = format!("path={},", socket.to_string_lossy().replace(',', ",,"));
    arguments.into_iter().map(|argument| argument.replacen(&at_path, "fd=0,", 1).into()).collect()
}

impl Program {
    /// Starts it and waits for its greeting. One that lives and says nothing is ended and started once more: an emulator and a storage
    /// daemon have been seen to do so on a busy host, each once, with nothing printed, nothing begun and no cause found.
    ///
    /// # Errors
    /// When it cannot be started, ends first, or does not greet within `patience` the second time either. Nothing runs then.
    pub async fn talk(self, patience: Duration) -> Result<Talking, StartError> {
        match self.clone().start()?.connect(patience).await {
            Err(error @ ConnectError::Mute { .. }) => {
                tracing::warn!(program = %self.path.display(), %error, "starting it once more");
                Ok(self.start()?.connect(patience).await?)
            }
            ended => Ok(ended?),
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started. Nothing runs then.
    pub fn start(self) -> Result<Spawned, SpawnError> {
        let listener =
            listen(&self.socket).map_err(|source| SpawnError::Socket { path: self.socket.clone(), source })?;
        let logs = open_log(&self.log).map_err(|source| SpawnError::Log { path: self.log.clone(), source })?;
        let mut command = tokio::process::Command::new(&self.path);
        command.args(&self.arguments).stdin(OwnedFd::from(listener)).stdout(logs.0).stderr(logs.1);
        // `kill_on_drop` stays off, and the group of its own keeps the terminal's signals away.
        command.process_group(0).current_dir("/").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        account::run_as(command.as_std_mut(), self.account);
        let mut child = command.spawn().map_err(|source| SpawnError::Execute { path: self.path.clone(), source })?;
        // It cannot vanish before we have a hold of it: it stays a zombie until `child` is waited for.
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        if let Some(Err(error)) = self.group.as_ref().map(|group| group.take_in(pid)) {
            tracing::warn!(pid, %error, "a process runs without limits, because it could not be put into its control group");
        }
        match take_hold(pid, self.identity.as_deref()) {
            Ok(Some(handle)) => {
                let (sender, status) = watch::channel(None);
                let group = self.group;
                tokio::spawn(async move {
                    let ended = child.wait().await.ok();
                    sender.send_replace(ended);
                    if let Some(group) = group {
                        group.remove().await;
                    }
                });
                Ok(Spawned { process: Process { handle, log: self.log, status: Some(status) }, socket: self.socket })
            }
            Ok(None) => {
                let status = child.try_wait().ok().flatten();
                Err(SpawnError::Ended(Gone { status, last_words: last_words(&self.log) }))
            }
            Err(source) => {
                // Our child, not yet waited for: its number is still its own.
                let _ = child.start_kill();
                Err(SpawnError::Record { source })
            }
        }
    }
}

impl Spawned {
    /// Waits for the greeting.
    ///
    /// # Errors
    /// When the process ends first, or does not greet within `patience`. There is no process any more then.
    pub async fn connect(self, patience: Duration) -> Result<Talking, ConnectError> {
        let process = self.process;
        let error = tokio::select! {
            // A process that ends closes the socket, too; its last words are the better explanation.
            biased;
            gone = process.ended() => return Err(ConnectError::Gone(gone)),
            connected = Monitor::connect(&self.socket, patience) => match connected {
                Ok(monitor) => return Ok(Talking { process, monitor }),
                Err(error) => error,
            },
        };
        let ended = tokio::time::timeout(DYING_PATIENCE, process.ended()).await;
        match ended {
            Ok(gone) => Err(ConnectError::Gone(gone)),
            Err(_) => Err(ConnectError::Mute { error, gone: process.kill().await }),
        }
    }
}

impl Process {
    /// Finds a process that an earlier daemon started.
    ///
    /// `None` if it is gone.
    ///
    /// # Errors
    /// When we cannot look, for want of descriptors say: then it may be there.
    pub fn find(identity: &Path, log: &Path) -> io::Result<Option<Self>> {
        let Some(identity) = Identity::load(identity)? else { return Ok(None) };
        match Handle::open(identity) {
            Ok(handle) => Ok(Some(Self { handle, log: log.to_owned(), status: None })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.handle.identity().pid
    }

    /// Whether it still lives.
    pub fn is_alive(&self) -> bool {
        self.handle.is_alive()
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Gone {
        self.handle.ended().await;
        let status = match self.status.clone() {
            // The end of the channel means that the runtime is going down.
            Some(mut status) => status.wait_for(Option::is_some).await.ok().and_then(|status| *status),
            None => None,
        };
        Gone { status, last_words: last_words(&self.log) }
    }

    /// Ends it at once and waits until it has ended.
    pub async fn kill(&self) -> Gone {
        self.handle.kill();
        self.ended().await
    }
}

/// Ends every process whose command line holds `mark`, a text that only one machine's emulator or storage daemon has.
///
/// Between the start of a process and the record of it a daemon may die; such a process never runs a guest, because
/// that is ordered later, but an emulator holds the locks of the disks, and a storage daemon would wait for ever.
pub async fn end_strays(mark: &str) {
    for pid in pids_with(mark) {
        let Ok(handle) = Identity::of(pid).and_then(Handle::open) else { continue };
        // Looked at again with a hold on it: now it is this process that has the mark, and no other.
        if has_mark(pid, mark) {
            tracing::warn!(pid, "ending a process that nobody recorded");
            handle.kill();
            handle.ended().await;
        }
    }
}

fn pids_with(mark: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has_mark(*pid, mark)).collect()
}

fn has_mark(pid: i32, mark: &str) -> bool {
    let own = i32::try_from(std::process::id()) == Ok(pid);
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !own && line
        .split(|byte| *byte == 0)
        .any(|argument| argument.windows(mark.len().max(1)).any(|part| part == mark.as_bytes()))
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => write!(f, "the process ended")?,
        }
        if self.last_words.is_empty() {
            write!(f, ", and it printed nothing")
        } else {
            write!(f, "; its last words: {}", self.last_words)
        }
    }
}

/// A listening socket at `path`, replacing what an earlier process left there.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path)
}

/// The same log twice, for output and errors, appended to in order.
fn open_log(path: &Path) -> io::Result<(Stdio, Stdio)> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file: File = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
    Ok((file.try_clone()?.into(), file.into()))
}

/// Holds the new process and writes down which one it is. `None` if it has already ended.
fn take_hold(pid: i32, record: Option<&Path>) -> io::Result<Option<Handle>> {
    let identity = match Identity::of(pid) {
        Ok(identity) => identity,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if let Some(path) = record {
        identity.save(path)?;
    }
    match Handle::open(identity) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last lines of a log, as one line. Empty if there is none.
fn last_words(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
        let mut text = Vec::new();
        file.take(LAST_WORDS_BYTES).read_to_end(&mut text)?;
        Ok(text)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].join(" / ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(root: &Path, script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            socket: root.join("qmp"),
            log: root.join("log"),
            identity: Some(root.join("process.json")),
            account: None,
            group: None,
        }
    }

    #[tokio::test]
    async fn the_end_of_a_process_comes_with_its_last_words() {
        let root = tempfile::tempdir().unwrap();
        let script = "echo first; until test -e \"$0\"; do :; done; echo no such machine >&2; exit 3";
        let go_on = root.path().join("go on");
        let mut program = program(root.path(), script);
        program.arguments.push(go_on.clone().into());
        let spawned = program.start().unwrap();
        fs::write(go_on, "").unwrap();
        let gone = spawned.process.ended().await;
        assert_eq!(gone.to_string(), "exit status: 3; its last words: first / no such machine");
    }

    #[tokio::test]
    async fn an_account_comes_with_nothing_of_ours() {
        // Only root can change accounts.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let script = "grep -E '^(Uid|Gid|Groups|CapPrm|CapEff|CapAmb):' /proc/self/status | tr -s '\\t \\n' ' '; \
                      until test -e \"$0\"; do :; done; exit 3";
        let account = Some(Account { uid: 65_530, gid: 65_531 });
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let mut program = Program { account, ..program(root.path(), script) };
        let go_on = root.path().join("go on");
        program.arguments.push(go_on.clone().into());
        let spawned = program.start().unwrap();
        fs::write(go_on, "").unwrap();
        let expected = "exit status: 3; its last words: Uid: 65530 65530 65530 65530 Gid: 65531 65531 65531 65531 \
                        Groups: CapPrm: 0000000000000000 CapEff: 0000000000000000 CapAmb: 0000000000000000";
        assert_eq!(spawned.process.ended().await.to_string(), expected);
    }

    #[tokio::test]
    async fn one_that_says_nothing_is_started_once_more() {
        let root = tempfile::tempdir().unwrap();
        let starts = root.path().join("starts");
        let mut mute = program(root.path(), "echo started >> \"$0\"; exec sleep 1000");
        mute.arguments.push(starts.clone().into());
        let error = mute.talk(Duration::from_secs(3)).await.unwrap_err();
        assert!(matches!(error, StartError::Connect(ConnectError::Mute { .. })), "{error}");
        assert_eq!(fs::read_to_string(starts).unwrap(), "started\nstarted\n");

        let mut ending = program(root.path(), "echo started >> \"$0\"; exit 3");
        let starts = root.path().join("other starts");
        ending.arguments.push(starts.clone().into());
        let error = ending.talk(Duration::from_secs(30)).await.unwrap_err();
        assert!(!matches!(error, StartError::Connect(ConnectError::Mute { .. })), "{error}");
        assert_eq!(fs::read_to_string(starts).unwrap(), "started\n", "one that says why is believed");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let root = tempfile::tempdir().unwrap();
        let program = Program { path: "/no/such/qemu".into(), ..program(root.path(), "") };
        let text = program.start().unwrap_err().to_string();
        assert_eq!(text, "could not start /no/such/qemu: No such file or directory (os error 2)");
    }

    #[tokio::test]
    async fn a_process_is_found_again_by_its_record_and_only_while_it_lives() {
        let root = tempfile::tempdir().unwrap();
        let spawned = program(root.path(), "exec sleep 1000").start().unwrap();
        let (identity, log) = (root.path().join("process.json"), root.path().join("log"));
        let found = Process::find(&identity, &log).unwrap().unwrap();
        assert_eq!(found.pid(), spawned.process.pid());
        found.kill().await;
        let gone = spawned.process.ended().await;
        assert_eq!(gone.to_string(), "signal: 9 (SIGKILL), and it printed nothing");
        assert!(Process::find(&identity, &log).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_process_leads_a_group_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let spawned = program(root.path(), "exec sleep 1000").start().unwrap();
        let pid = rustix::process::Pid::from_raw(spawned.process.pid()).unwrap();
        assert_eq!(rustix::process::getpgid(Some(pid)).unwrap(), pid);
        spawned.process.kill().await;
    }
}
