//! Measures the service as a server of questions: how fast it answers, starts and streams, and what memory that takes.
//!
//! No guest runs. A store is made ([`store`]), the daemon is started on it on one processor ([`daemon`]), and the other
//! processors ask: `wrk` for rates ([`load`]), a client of our own for single times ([`client`]). All of it is done once
//! for a handful of snapshots and once for very many, so that what grows can be seen.

mod client;
mod daemon;
mod figures;
mod load;
mod store;

use std::path::PathBuf;
use std::time::Instant;

use ledger::id::SnapshotId;
use vmtest::service::{Error, Result};

use crate::tool::io;
use client::Client;
use daemon::Daemon;
use figures::Figures;
use store::Size;

/// What is compared: as good as nothing, and more than any host has.
const SIZES: [Size; 2] = [Size { machines: 10, snapshots: 100 }, Size { machines: 10_000, snapshots: 100_000 }];
/// The class of the rows.
const CLASS: &str = "Msvm_VirtualSystemSettingData";
/// The processor of the daemon, and that of everything else.
const CORES: (usize, usize) = (0, 1);
/// Length of one run of `wrk`.
const SECONDS: u64 = 5;
/// Different envelopes in such a run.
const ENVELOPES: usize = 100;
/// Questions asked one after the other to time one.
const QUESTIONS: usize = 1_000;
/// Rows of one Pull.
const PULL: usize = 1_000;
/// Enumerations that are begun and not ended.
const OPEN: usize = 1_000;

/// Measures everything `rounds` times and prints a table.
///
/// # Errors
/// If something is not answered.
pub fn run(rounds: usize) -> Result<()> {
    for size in SIZES {
        let base = std::env::var_os("SNAPVISOR_SCRATCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let directory =
            tempfile::Builder::new().prefix("sv-wire-").tempdir_in(base).map_err(io("making a directory"))?;
        let snapshots = store::make(directory.path(), size)?;
        let mut figures = Figures::default();
        for round in 1..=rounds {
            eprintln!("{} machines, {} snapshots: round {round} of {rounds}", size.machines, size.snapshots);
            let daemon = Daemon::start(directory.path(), CORES.0)?;
            figures.add("start, s", daemon.started.as_secs_f64());
            figures.add("memory: idle, MiB", mib(daemon.resident()?));
            single(&mut figures, &daemon, &snapshots)?;
            rates(&mut figures, directory.path(), &daemon, &snapshots)?;
            memory(&mut figures, &daemon)?;
        }
        println!("{} machines, {} snapshots\n{figures}", size.machines, size.snapshots);
    }
    Ok(())
}

/// Single questions on one connection.
fn single(figures: &mut Figures, daemon: &Daemon, snapshots: &[SnapshotId]) -> Result<()> {
    let mut client = Client::connect(&daemon.url)?;
    let questions = by_key(snapshots, QUESTIONS);
    let begin = Instant::now();
    for question in &questions {
        expect(client.ask(question)?.rows(CLASS), 1)?;
    }
    figures.add("WQL on a key, one connection, us", micros(begin) / questions.len() as f64);

    daemon.forget_peak()?;
    let before = daemon.resident()?;
    let begin = Instant::now();
    let first = client.ask(&client::query(&format!("SELECT * FROM {CLASS}"), 1))?;
    figures.add("enumerate: first row, ms", micros(begin) / 1e3);
    let mut context = first.context();
    let (mut count, mut pulls, mut slowest) = (first.rows(CLASS), 0, 0.0_f64);
    while let Some(name) = context {
        let begin = Instant::now();
        let page = client.ask(&client::pull(&name, PULL))?;
        let took = micros(begin) / 1e3;
        (count, pulls, context) = (count + page.rows(CLASS), pulls + 1, page.context());
        if page.rows(CLASS) == PULL {
            slowest = slowest.max(took);
            figures.add("Pull of 1000 rows, ms", took);
            figures.add("Pull of 1000 rows, MiB", mib(page.bytes() as u64));
        }
    }
    figures.add("enumerate: all rows, s", micros(begin) / 1e6);
    figures.add("enumerate: rows", count as f64);
    figures.add("enumerate: pulls", f64::from(pulls));
    figures.add("memory: growth while enumerating, MiB", mib(daemon.peak()?.saturating_sub(before)));
    Ok(())
}

/// As many questions as are answered.
fn rates(figures: &mut Figures, directory: &std::path::Path, daemon: &Daemon, snapshots: &[SnapshotId]) -> Result<()> {
    let ids = snapshots.iter().step_by(snapshots.len().div_ceil(ENVELOPES));
    let gets: Vec<String> = ids.map(|id| client::get(CLASS, "InstanceID", &format!("Microsoft:{id}"))).collect();
    for (name, envelopes) in [("Get", gets), ("WQL on a key", by_key(snapshots, ENVELOPES))] {
        let before = daemon.processor_time()?;
        let rate = load::rate(directory, &daemon.url, CORES.1, SECONDS, &envelopes)?;
        let spent = (daemon.processor_time()? - before).as_secs_f64();
        figures.add_rate(&format!("{name}, one processor, 1/s"), rate);
        figures.add(&format!("{name}, processor time of each, us"), spent * 1e6 / (rate * SECONDS as f64));
    }
    Ok(())
}

/// What enumerations cost that are begun and left alone.
fn memory(figures: &mut Figures, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.url)?;
    let begin = client::query(&format!("SELECT * FROM {CLASS}"), 1);
    let before = daemon.resident()?;
    for _ in 0..OPEN {
        client.ask(&begin)?.context().ok_or_else(|| Error::Other("an enumeration was over at once".to_owned()))?;
    }
    figures.add("memory: 1000 open enumerations, MiB", mib(daemon.resident()?.saturating_sub(before)));
    figures.add("memory: at the end, MiB", mib(daemon.resident()?));
    Ok(())
}

fn by_key(snapshots: &[SnapshotId], count: usize) -> Vec<String> {
    let ids = snapshots.iter().step_by(snapshots.len().div_ceil(count)).cycle().take(count);
    ids.map(|id| client::query(&format!("SELECT * FROM {CLASS} WHERE InstanceID = 'Microsoft:{id}'"), 10)).collect()
}

fn expect(rows: usize, expected: usize) -> Result<()> {
    if rows == expected { Ok(()) } else { Err(Error::Other(format!("{rows} rows, {expected} were expected"))) }
}

fn micros(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
