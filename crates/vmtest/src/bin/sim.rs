//! Plays histories of the simulation, as many as asked, on every processor.
//!
//! ```text
//!   seed, seed + 1, … ──▶ one history each ──▶ counts        a broken promise ──▶ its seed, its last moves, exit code 1
//! ```
//! A history is a function of its seed and of this program's version: the printed command plays it again.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sim::run::{Findings, Plan, Run};
use sim::service::Surroundings;

const USAGE: &str = "usage: cargo xtask sim [--seed N] [--seeds N] [--minutes N]";

/// Histories unless told otherwise: what two processors play in about a minute.
const SEEDS: u64 = 2000;

/// Between two lines that say how far it is.
const REPORT: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq)]
struct Options {
    seed: u64,
    seeds: u64,
    time: Option<Duration>,
}

/// What all histories showed together.
#[derive(Default)]
struct Totals {
    histories: u64,
    snapshots: u64,
    applied: u64,
    answers: u64,
    faults: std::collections::BTreeMap<&'static str, u64>,
    points: BTreeSet<String>,
    broken: Option<(u64, Findings)>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}; {USAGE}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let totals = play(&options, began);
    totals.print(began.elapsed());
    match totals.broken {
        None => ExitCode::SUCCESS,
        Some((seed, findings)) => {
            findings.trace.iter().for_each(|line| println!("  {line}"));
            findings.broken.iter().for_each(|line| println!("BROKEN: {line}"));
            println!("again with: cargo xtask sim --seed {seed} --seeds 1");
            ExitCode::FAILURE
        }
    }
}

fn play(options: &Options, began: Instant) -> Totals {
    let next = AtomicU64::new(options.seed);
    let end = options.seed.saturating_add(options.seeds);
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let surroundings = Surroundings::default();
    let reported = Mutex::new(began);
    let work = || {
        while !stop.load(Ordering::Relaxed) && options.time.is_none_or(|time| began.elapsed() < time) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let findings = Run::play(seed, Plan::default(), &surroundings);
            let mut totals = totals.lock().expect("nobody panics with the totals in hand");
            stop.fetch_or(!findings.broken.is_empty(), Ordering::Relaxed);
            totals.add(seed, findings);
            let mut reported = reported.lock().expect("nobody panics with a clock in hand");
            if reported.elapsed() > REPORT {
                *reported = Instant::now();
                eprintln!("{} histories, {} points", totals.histories, totals.points.len());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    totals.into_inner().expect("all threads have ended well")
}

impl Totals {
    fn add(&mut self, seed: u64, mut findings: Findings) {
        self.histories += 1;
        self.snapshots += findings.snapshots;
        self.applied += findings.applied;
        self.answers += findings.answers;
        for (name, count) in std::mem::take(&mut findings.faults) {
            *self.faults.entry(name).or_default() += count;
        }
        self.points.append(&mut findings.points);
        if !findings.broken.is_empty() && self.broken.as_ref().is_none_or(|(first, _)| seed < *first) {
            self.broken = Some((seed, findings));
        }
    }

    fn print(&self, took: Duration) {
        let Self { histories, snapshots, applied, answers, faults, points, .. } = self;
        println!(
            "{histories} histories in {took:.0?}, {answers} answers to clients, {snapshots} snapshots left at the end,"
        );
        println!("{applied} of them applied, started and compared; faults at {} distinct points:", points.len());
        faults.iter().for_each(|(name, count)| println!("  {count:>8}  {name}"));
    }
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { seed: 0, seeds: SEEDS, time: None };
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { return Err(format!("{} needs a value", pair.concat())) };
            let number: u64 = value.parse().map_err(|_| format!("{value:?} is not a number that could be meant"))?;
            match name.as_str() {
                "--seed" => options.seed = number,
                "--seeds" => options.seeds = number,
                "--minutes" => {
                    options.time = Some(Duration::from_secs(number.saturating_mul(60)));
                    options.seeds = u64::MAX;
                }
                other => return Err(format!("unknown option {other:?}")),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        #[track_caller]
        fn check(line: &str, expected: Result<(u64, u64, bool), &str>) {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let parsed = Options::parse(&words);
            let seen = parsed.as_ref().map(|found| (found.seed, found.seeds, found.time.is_some()));
            assert_eq!(seen.map_err(String::as_str), expected, "{line}");
        }
        check("", Ok((0, SEEDS, false)));
        check("--seed 7 --seeds 1", Ok((7, 1, false)));
        check("--minutes 60", Ok((0, u64::MAX, true)));
        check("--seeds many", Err("\"many\" is not a number that could be meant"));
        check("--fast 1", Err("unknown option \"--fast\""));
    }
}
