//! The daemon under test: on a store that was made for it, and on one processor.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vmtest::service::{Error, Result};

use crate::tool::io;

/// Unit of processor time in `/proc` on Linux, whatever the kernel's own clock is.
const TICK: Duration = Duration::from_millis(10);

/// A running daemon. Ends when dropped.
pub struct Daemon {
    child: Child,
    /// Where it listens on TCP.
    pub url: String,
    /// From its start to its being ready.
    pub started: Duration,
}

impl Daemon {
    /// Starts it on what is below `directory`, on processor `core`.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(directory: &Path, core: usize) -> Result<Self> {
        let binary = std::env::var_os("SNAPVISOR_BIN");
        let binary = binary.ok_or_else(|| Error::Other("SNAPVISOR_BIN does not name the service".to_owned()))?;
        let log = std::fs::File::create(directory.join("log")).map_err(io("making the daemon's log"))?;
        let begin = Instant::now();
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory.join("data"))
            .arg("--run-dir")
            .arg(directory.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(io("starting the daemon"))?;
        let lines = child.stdout.take().map(|output| BufReader::new(output).lines()).into_iter().flatten();
        let ready = lines.map_while(std::result::Result::ok).find_map(|line| address(&line));
        let started = begin.elapsed();
        let mut daemon = Self { child, url: String::new(), started };
        match ready {
            Some(url) => daemon.url = url,
            None => {
                // What it left behind says why, and dropping it waits for its end.
                drop(daemon);
                let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
                return Err(Error::Other(format!("the daemon did not start: {log}")));
            }
        }
        Ok(daemon)
    }

    /// Memory it has now, in bytes.
    ///
    /// # Errors
    /// If it is gone.
    pub fn resident(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// The most memory it had since it started, or since [`Daemon::forget_peak`].
    ///
    /// # Errors
    /// If it is gone.
    pub fn peak(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    /// Begins a new peak.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn forget_peak(&self) -> Result<()> {
        // 5 resets the peak (proc(5), clear_refs).
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").map_err(io("resetting the peak"))
    }

    /// Processor time it took so far, to a hundredth of a second.
    ///
    /// # Errors
    /// If it is gone.
    pub fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).map_err(io(format!("reading {path}")))?;
        // Behind the name in parentheses the fields are numbered from 3; 14 and 15 are user and system time (proc(5)).
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    fn status(&self, name: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).map_err(io(format!("reading {path}")))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| Error::Other(format!("{path} has no {name}")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The TCP address in the line that says where the daemon listens.
fn address(line: &str) -> Option<String> {
    line.split_whitespace().find(|word| word.starts_with("http://")).map(|url| url.trim_end_matches(',').to_owned())
}
