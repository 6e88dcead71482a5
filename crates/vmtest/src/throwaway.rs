//! A snapshot started beside the service: by the script in its memory's directory, with stock QEMU, on overlays that go with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::agent::Agent;
use crate::service::{BOOT, Error, Result, scratch, wait_for};

/// How long QEMU may take to make its sockets.
const SOCKETS: Duration = Duration::from_secs(60);

/// A guest that is gone, with all it wrote, when this is dropped.
#[derive(Debug)]
pub struct Throwaway {
    /// The shell that has become QEMU.
    qemu: Child,
    scratch: tempfile::TempDir,
}

impl Throwaway {
    /// Starts the memory in `directory`; gives it with a client of its agent, which answers.
    ///
    /// # Errors
    /// If QEMU or the guest does not come up.
    pub fn start(directory: &Path) -> Result<(Self, Agent)> {
        let scratch = scratch()?;
        let log = File::create(scratch.path().join("log"));
        let log = log.map_err(|source| Error::Io { what: "making a log".into(), source })?;
        let mut command = Command::new("sh");
        command.arg(directory.join("start.sh")).env("TMPDIR", scratch.path());
        let qemu = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let qemu = qemu.map_err(|source| Error::Io { what: "starting a shell".into(), source })?;
        let mut started = Self { qemu, scratch };
        let port = started.await_port().map_err(|error| started.explain(directory, &error))?;
        let mut agent = Agent::new(port);
        agent.wait_ready(BOOT).map_err(|error| started.explain(directory, &error.into()))?;
        Ok((started, agent))
    }

    fn await_port(&mut self) -> Result<PathBuf> {
        wait_for("a socket of QEMU", SOCKETS, || {
            if let Ok(Some(status)) = self.qemu.try_wait() {
                return Err(Error::Other(format!("it ended with {status}")));
            }
            let below = std::fs::read_dir(self.scratch.path()).into_iter().flatten().flatten();
            Ok(below.map(|entry| entry.path().join("com2")).find(|path| path.exists()))
        })
    }

    fn explain(&self, directory: &Path, error: &Error) -> Error {
        let log = std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default();
        Error::Other(format!("{} does not start: {error}; it said: {log}", directory.join("start.sh").display()))
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
