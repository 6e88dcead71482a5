//! The same procedure for everyone: prepare the guest, take and delete, bring back.

use std::path::Path;
use std::time::{Duration, Instant};

use vmtest::service::{BOOT, Error, Result};

use crate::contender::Contender;
use crate::samples::Samples;
use crate::tool;

/// From which the guest computes its pages.
const SEED: u64 = 31_337;
/// How long an emulated guest may take to fill or check gigabytes.
const LONG: Duration = Duration::from_secs(900);
/// Over which the real rate of rewriting is measured.
const RATE_WINDOW: Duration = Duration::from_secs(2);
/// The guest's pages per MiB.
const PAGES_PER_MIB: f64 = 256.0;
/// One block of `dd`.
const DD_BLOCK: u64 = 1 << 20;

/// How fast the guest rewrites the filled half of its memory, round and round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// MiB per second.
    Rate(u32),
    /// As fast as it can.
    Max,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// Whose snapshots.
    pub name: String,
    /// Memory of the guest, MiB.
    pub mib: u32,
    /// What the guest was told to do.
    pub load: Load,
    /// What it managed to rewrite per second before the first snapshot, MiB.
    pub reached: Option<f64>,
    /// Each method that was used.
    pub methods: Vec<String>,
    /// Pauses of the guest while a snapshot was taken.
    pub pause: Samples,
    /// Whole times of taking.
    pub total: Samples,
    /// `dd` of as many bytes.
    pub dd: Samples,
    /// Bytes of the largest snapshot.
    pub bytes: u64,
    /// Bringing the guest back, without turning off.
    pub back: Samples,
    /// The same, turning off included.
    pub back_and_off: Samples,
    /// Deleting under the running guest.
    pub delete: Samples,
    /// Footnotes.
    pub remarks: Vec<String>,
    /// Why the rest of the row is missing.
    pub failure: Option<String>,
}

impl Row {
    /// An empty one.
    pub fn new(name: &str, mib: u32, load: Load) -> Self {
        Self {
            name: name.to_owned(),
            mib,
            load,
            reached: None,
            methods: Vec::new(),
            pause: Samples::default(),
            total: Samples::default(),
            dd: Samples::default(),
            bytes: 0,
            back: Samples::default(),
            back_and_off: Samples::default(),
            delete: Samples::default(),
            remarks: Vec::new(),
            failure: None,
        }
    }

    fn progress(&self, text: &str) {
        eprintln!("bench: {} MiB, {}, {}: {text}", self.mib, self.name, self.load);
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate(mib) => write!(f, "{mib}"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// Waits for the guest to boot and fills half of its memory.
///
/// # Errors
/// If it does not answer.
pub fn prepare(guest: &mut impl Contender, mib: u32) -> Result<()> {
    let agent = guest.agent();
    agent.wait_ready(BOOT)?;
    agent.request_within(&format!("fill {} {SEED}", mib / 2), LONG)?;
    Ok(())
}

/// Takes snapshots of the guest at work, each deleted before the next, so that every one meets the same chain of disks.
///
/// # Errors
/// If one of these fails; what was measured before is in the row.
pub fn snapshots(guest: &mut impl Contender, rounds: usize, row: &mut Row) -> Result<()> {
    row.reached = Some(begin_load(guest, row.load)?);
    for round in 0..rounds {
        let name = format!("round-{}-{round}", row.load);
        let taken = guest.take(&name)?;
        row.progress(&format!(
            "{} paused {:.1?}, {:.2?} in all, {} MiB",
            taken.method,
            taken.pause,
            taken.total,
            taken.bytes >> 20
        ));
        row.dd.push(dd(guest.scratch(), taken.bytes)?);
        row.pause.push(taken.pause);
        row.total.push(taken.total);
        row.bytes = row.bytes.max(taken.bytes);
        if !row.methods.contains(&taken.method) {
            row.methods.push(taken.method);
        }
        let deleted = guest.delete(&name)?;
        row.progress(&format!("deleted in {deleted:.2?}"));
        row.delete.push(deleted);
    }
    Ok(())
}

/// Brings the running guest back to a snapshot of itself, again and again, and checks its memory in the end.
///
/// # Errors
/// If one of these fails; what was measured before is in the row.
pub fn returns(guest: &mut impl Contender, rounds: usize, row: &mut Row) -> Result<()> {
    begin_load(guest, row.load)?;
    guest.take("origin")?;
    for _ in 0..rounds {
        let returned = guest.bring_back("origin")?;
        row.progress(&format!("back in {:.1?}, before that off in {:.1?}", returned.rest, returned.off));
        row.back.push(returned.rest);
        if let Some(off) = returned.off {
            row.back_and_off.push(off + returned.rest);
        }
    }
    let answer = guest.agent().request_within(&format!("verify {SEED}"), LONG)?;
    let intact =
        ["mismatches=0", "dirty-mismatches=0"].iter().all(|wanted| answer.split(' ').any(|word| word == *wanted));
    if intact { Ok(()) } else { Err(Error::Other(format!("the guest's memory is not what it was: {answer}"))) }
}

/// Starts the rewriting and gives the rate that the guest reaches, MiB per second.
fn begin_load(guest: &mut impl Contender, load: Load) -> Result<f64> {
    let command = format!("dirty {load}");
    let mut rewritten = || -> Result<u64> {
        let answer = guest.agent().request(&command)?;
        let count = answer.split(' ').find_map(|word| word.strip_prefix("rewritten=")?.parse().ok());
        count.ok_or_else(|| Error::Other(format!("the agent answers `{command}` with {answer:?}")))
    };
    let (before, begin) = (rewritten()?, Instant::now());
    std::thread::sleep(RATE_WINDOW);
    let pages = u32::try_from(rewritten()?.saturating_sub(before)).unwrap_or(u32::MAX);
    Ok(f64::from(pages) / PAGES_PER_MIB / begin.elapsed().as_secs_f64())
}

/// Writes as many bytes to the same file system, past the page cache, in one sequence: what the medium can do.
fn dd(directory: &Path, bytes: u64) -> Result<Duration> {
    let path = directory.join("dd");
    let output = format!("of={}", path.display());
    let count = format!("count={}", bytes.div_ceil(DD_BLOCK));
    let begin = Instant::now();
    let written = tool::run("dd", &["if=/dev/zero", &output, "bs=1M", &count, "oflag=direct"]);
    let elapsed = begin.elapsed();
    std::fs::remove_file(&path).map_err(tool::io("removing what dd wrote"))?;
    written.map(|_| elapsed)
}
