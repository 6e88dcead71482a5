//! What all ways to take snapshots have in common, and the guest they take them of.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vmtest::agent::{self, Agent};
use vmtest::guest;
use vmtest::service::{BOOT, Error, Result};

use crate::facts::Accelerator;
use crate::tool::io;

/// First and longest patience for one ping. A request may get lost while one QEMU goes and the next comes; too little
/// patience would never see the answer of a slow guest.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Between two attempts to connect to a port that is not there yet.
const RECONNECT: Duration = Duration::from_millis(2);

/// The guest every contender gets.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Memory, MiB.
    pub mib: u32,
    /// How its processor is made.
    pub accelerator: Accelerator,
}

/// A snapshot that was taken.
#[derive(Debug)]
pub struct Taken {
    /// How, in a word or two.
    pub method: String,
    /// QEMU's STOP to its RESUME.
    pub pause: Duration,
    /// From the request to the end of everything.
    pub total: Duration,
    /// Bytes of memory and device state on the medium.
    pub bytes: u64,
}

/// A running guest that was brought back to a snapshot and has answered.
#[derive(Debug)]
pub struct Returned {
    /// What it took to turn the guest off first, where that is a step of its own.
    pub off: Option<Duration>,
    /// All the rest.
    pub rest: Duration,
}

/// A running guest, and a way to take snapshots of it.
pub trait Contender {
    /// The agent inside.
    fn agent(&mut self) -> &mut Agent;

    /// A directory on the file system that the snapshots are on.
    fn scratch(&self) -> &Path;

    /// Takes a snapshot under the running guest.
    ///
    /// # Errors
    /// If that fails.
    fn take(&mut self, name: &str) -> Result<Taken>;

    /// Brings the running guest back to a snapshot; ends with the guest's first answer.
    ///
    /// # Errors
    /// If that fails.
    fn bring_back(&mut self, name: &str) -> Result<Returned>;

    /// Deletes a snapshot under the running guest and says how long it took.
    ///
    /// # Errors
    /// If that fails.
    fn delete(&mut self, name: &str) -> Result<Duration>;

    /// What a reader of the table must know about how this was done.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Waits for the first answer of a guest that was just brought back.
///
/// # Errors
/// If none comes.
pub fn first_answer(agent: &mut Agent) -> Result<()> {
    agent.disconnect();
    let (mut patience, most) = PATIENCE;
    let end = Instant::now() + BOOT;
    loop {
        match agent.request_within("ping", patience) {
            Ok(_) => return Ok(()),
            Err(agent::Error::Port { source, .. }) if Instant::now() < end => {
                if source.kind() == std::io::ErrorKind::NotFound
                    || source.kind() == std::io::ErrorKind::ConnectionRefused
                {
                    std::thread::sleep(RECONNECT);
                } else {
                    patience = (patience * 2).min(most);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A new directory on the file system under test, and copies of the guest's disks in it.
///
/// # Errors
/// If the guest is not built, or the disks cannot be copied.
pub fn disks() -> Result<(tempfile::TempDir, [PathBuf; 2])> {
    let images = guest::images()?;
    let base = std::env::var_os("SNAPVISOR_SCRATCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::Builder::new().prefix("sv-bench-").tempdir_in(base).map_err(io("making a directory"))?;
    let copies = [directory.path().join("disk0.qcow2"), directory.path().join("disk1.qcow2")];
    for (from, to) in [&images.system, &images.data].into_iter().zip(&copies) {
        std::fs::copy(from, to).map_err(io(format!("copying {}", from.display())))?;
    }
    Ok((directory, copies))
}

/// Turns an absent field of somebody's answer into an error.
///
/// # Errors
/// If it is absent.
pub fn present<T>(value: Option<T>, what: &str) -> Result<T> {
    value.ok_or_else(|| Error::Other(format!("{what} is missing")))
}
