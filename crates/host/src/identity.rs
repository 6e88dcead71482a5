//! Which process a machine is, across restarts of the daemon, and never by number alone.
//!
//! A process id is used again after its process is gone; together with the time of its start, counted since boot, and
//! the id of that boot it is not. We hold processes by pidfd (pidfd_open(2), Linux 5.3): a signal through it reaches
//! the process it was opened for or nobody, and it becomes readable when that process ends, whoever its parent is.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::hands::replace_file;

/// Names one process for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// When it was started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
    /// Which boot, as `/proc/sys/kernel/random/boot_id` tells.
    pub boot: String,
}

/// A process that can be watched and killed without doubt about which one it is.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Held>);

#[derive(Debug)]
struct Held {
    identity: Identity,
    pidfd: OwnedFd,
    /// Becomes true when the process has ended; made when first asked for.
    end: OnceLock<watch::Receiver<bool>>,
}

/// How often a process is looked at when no thread can wait for it.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Stack of the thread that waits for a process: it makes one system call.
const WAITER_STACK_BYTES: usize = 64 << 10;

impl Identity {
    /// The identity of the process that has `pid` now.
    ///
    /// # Errors
    /// `NotFound` when there is none; others when `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        // One that ends between open and read.
        let ended = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
        let stat = stat.map_err(|error| if ended(&error) { io::ErrorKind::NotFound.into() } else { error })?;
        let start_ticks = live_since(&stat).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, start_ticks, boot: boot_id()? })
    }

    /// Writes it down for the next daemon, all or nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        replace_file(path, serde_json::to_string(self)?.as_bytes())
    }

    /// What an earlier daemon wrote down. `None` if it wrote nothing, or nothing that can be understood.
    ///
    /// # Errors
    /// When the file is there and cannot be read: then nobody knows.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The id of this boot of the host.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl Handle {
    /// Takes hold of the process, if it still lives.
    ///
    /// # Errors
    /// `NotFound` if it is gone, whoever has its number now.
    pub fn open(identity: Identity) -> io::Result<Self> {
        let pid = Pid::from_raw(identity.pid).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
            // The latter, before Linux 6.16, if the number is a thread's now.
            rustix::io::Errno::SRCH | rustix::io::Errno::INVAL => io::ErrorKind::NotFound.into(),
            other => io::Error::from(other),
        })?;
        // Looked at after the pidfd is open: the process started before that, so if it is ours now it was ours then.
        if Identity::of(identity.pid)? != identity {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self(Arc::new(Held { identity, pidfd, end: OnceLock::new() })))
    }

    /// Which process.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Returns when the process has ended.
    ///
    /// A thread waits for it, and not the runtime's poller: putting a foreign descriptor there is an unsafe operation.
    pub async fn ended(&self) {
        let mut end = self.0.end.get_or_init(|| self.start_waiter()).clone();
        if end.wait_for(|ended| *ended).await.is_err() {
            // No thread could be made, or poll failed. Looking now and then is worse, and still right.
            while self.is_alive() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    fn start_waiter(&self) -> watch::Receiver<bool> {
        let (sender, receiver) = watch::channel(false);
        let held = Arc::clone(&self.0);
        let wait = move || {
            let mut interest = [PollFd::new(&held.pidfd, PollFlags::IN)];
            loop {
                match rustix::event::poll(&mut interest, None) {
                    Ok(_) => {
                        sender.send_replace(true);
                        return;
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => {
                        tracing::warn!(pid = held.identity.pid, %error, "cannot wait for the process");
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("process-end".to_owned()).stack_size(WAITER_STACK_BYTES);
        if let Err(error) = thread.spawn(wait) {
            tracing::warn!(%error, "no thread to wait for the process");
        }
        receiver
    }

    /// Whether the process still lives. It does if nobody can say.
    pub fn is_alive(&self) -> bool {
        let mut interest = [PollFd::new(&self.0.pidfd, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(rustix::event::poll(&mut interest, Some(&now)), Ok(1..))
    }

    /// Ends the process at once. Nothing to do if it has ended.
    pub fn kill(&self) {
        match rustix::process::pidfd_send_signal(&self.0.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(pid = self.0.identity.pid, %error, "could not kill the process"),
        }
    }
}

/// The start time in a `/proc/<pid>/stat` line, if the process has not ended. The command in parentheses may itself
/// hold spaces and parentheses; the fields are counted from the last one (proc_pid_stat(5)).
fn live_since(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    // From the state, field 3, to the start time, field 22.
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_any_command_name() {
        let check = |line: &str, expected: Option<u64>| assert_eq!(live_since(line), expected, "{line}");
        let tail = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        check(&format!("12 (qemu) S {tail}"), Some(4711));
        check(&format!("12 (a) b) R) S {tail}"), Some(4711));
        check(&format!("12 (qemu) Z {tail}"), None);
        check("12 (qemu) S 1 2", None);
        check("", None);
    }

    #[tokio::test]
    async fn only_the_very_process_is_taken() {
        let mut child = tokio::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let identity = Identity::of(pid).unwrap();
        let impostor = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
        assert_eq!(Handle::open(impostor).unwrap_err().kind(), io::ErrorKind::NotFound);
        let other_boot = Identity { boot: "another".to_owned(), ..identity.clone() };
        assert_eq!(Handle::open(other_boot).unwrap_err().kind(), io::ErrorKind::NotFound);

        let handle = Handle::open(identity.clone()).unwrap();
        assert!(handle.is_alive());
        handle.kill();
        handle.ended().await;
        assert!(!handle.is_alive(), "a process that nobody has waited for yet is gone all the same");
        child.wait().await.unwrap();
        handle.kill();
        assert_eq!(Handle::open(identity).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_identity_survives_in_its_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("process.json");
        assert_eq!(Identity::load(&path).unwrap(), None);
        let identity = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        identity.save(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap(), Some(identity));
        fs::write(&path, "{").unwrap();
        assert_eq!(Identity::load(&path).unwrap(), None);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        Identity::load(&path).expect_err("what cannot be read is not the same as nothing");
    }
}
