//! Plays histories of the simulation, as many as asked, on every processor.
//!
//! ```text
//!   seed, seed + 1, … ──▶ one history each ──▶ counts        a broken promise ──▶ its seed, its last moves, exit code 1
//! ```
//! With `--every`, a seed's history without faults is played, and then again and again, each time with one fault at one of its moves:
//!
//! ```text
//!   --every S [--seeds N] [--share K]     every fault at every move of seeds S … S+N-1, or every K-th of these
//!   --seed S --fault F --move M           one of them
//! ```
//! A history is a function of its seed and of this program's version: the printed command plays it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sim::every;
use sim::faults::Fault;
use sim::run::{Findings, Plan, Run, Strike};
use sim::service::Surroundings;
use vmtest::options::{number, pairs, unknown};

const USAGE: &str = "usage: cargo xtask sim [--seed N] [--seeds N] [--minutes N] | --every SEED [--seeds N] [--share N] \
                     | --seed N --fault NAME --move N";

/// Histories unless told otherwise: what two processors play in about a minute.
const SEEDS: u64 = 2000;

/// Between two lines that say how far it is.
const REPORT: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq)]
struct Options {
    seed: u64,
    seeds: u64,
    time: Option<Duration>,
    mode: Mode,
}

/// Which histories are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// With faults at random.
    Random,
    /// With one fault at every move, or at every so many-th.
    Every { share: usize },
    /// With this fault.
    One(Strike),
}

/// One history to play.
#[derive(Clone, Copy, Debug)]
struct Task {
    seed: u64,
    trouble: Trouble,
}

/// What goes wrong in a history.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Faults at random.
    Random,
    /// Nothing.
    None,
    /// This.
    One(Strike),
}

/// Gives out histories.
struct Source {
    next: u64,
    end: u64,
    mode: Mode,
    /// What is left of the present seed, the next one last.
    tasks: Vec<Task>,
}

/// What all histories showed together.
#[derive(Default)]
struct Totals {
    histories: u64,
    snapshots: u64,
    applied: u64,
    answers: u64,
    faults: BTreeMap<&'static str, u64>,
    points: BTreeSet<String>,
    broken: Option<(Task, Findings)>,
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
        Some((task, findings)) => {
            findings.trace.iter().for_each(|line| println!("  {line}"));
            findings.broken.iter().for_each(|line| println!("BROKEN: {line}"));
            println!("again with: {task}");
            ExitCode::FAILURE
        }
    }
}

fn play(options: &Options, began: Instant) -> Totals {
    let surroundings = Surroundings::default();
    let end = options.seed.saturating_add(options.seeds);
    let source = Mutex::new(Source { next: options.seed, end, mode: options.mode, tasks: Vec::new() });
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let reported = Mutex::new(began);
    let work = || {
        while !stop.load(Ordering::Relaxed) && options.time.is_none_or(|time| began.elapsed() < time) {
            let task = source.lock().expect("nobody panics with the source in hand").next(&surroundings);
            let Some(task) = task else { return };
            let findings = task.play(&surroundings);
            let mut totals = totals.lock().expect("nobody panics with the totals in hand");
            stop.fetch_or(!findings.broken.is_empty(), Ordering::Relaxed);
            totals.add(task, findings);
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

impl Source {
    fn next(&mut self, surroundings: &Surroundings) -> Option<Task> {
        loop {
            if let Some(task) = self.tasks.pop() {
                return Some(task);
            }
            if self.next >= self.end {
                return None;
            }
            let seed = self.next;
            self.next += 1;
            match self.mode {
                Mode::Random => return Some(Task { seed, trouble: Trouble::Random }),
                Mode::One(strike) => return Some(Task { seed, trouble: Trouble::One(strike) }),
                Mode::Every { share } => {
                    let strikes = every::strikes(seed, surroundings).1.into_iter().step_by(share);
                    self.tasks = strikes.map(|strike| Task { seed, trouble: Trouble::One(strike) }).collect();
                    // Played once more, so that it counts and is reported as all others are.
                    self.tasks.push(Task { seed, trouble: Trouble::None });
                }
            }
        }
    }
}

impl Task {
    fn play(&self, surroundings: &Surroundings) -> Findings {
        match self.trouble {
            Trouble::Random => Run::play(self.seed, Plan::default(), surroundings),
            Trouble::None => every::calm(self.seed, surroundings),
            Trouble::One(strike) => every::play(self.seed, strike, surroundings),
        }
    }

    /// Place in the order in which failures are reported: the first seed, of that the history without a fault, then the first move.
    fn rank(&self) -> (u64, Option<usize>) {
        let at = match self.trouble {
            Trouble::Random | Trouble::None => None,
            Trouble::One(strike) => Some(strike.at),
        };
        (self.seed, at)
    }
}

impl fmt::Display for Task {
    /// The command that plays it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trouble {
            Trouble::Random => write!(f, "cargo xtask sim --seed {} --seeds 1", self.seed),
            Trouble::None => write!(f, "cargo xtask sim --every {}", self.seed),
            Trouble::One(Strike { at, fault }) => {
                write!(f, "cargo xtask sim --seed {} --fault {} --move {at}", self.seed, fault.name())
            }
        }
    }
}

impl Totals {
    fn add(&mut self, task: Task, mut findings: Findings) {
        self.histories += 1;
        self.snapshots += findings.snapshots;
        self.applied += findings.applied;
        self.answers += findings.answers;
        for (name, count) in std::mem::take(&mut findings.faults) {
            *self.faults.entry(name).or_default() += count;
        }
        self.points.append(&mut findings.points);
        if !findings.broken.is_empty() && self.broken.as_ref().is_none_or(|(first, _)| task.rank() < first.rank()) {
            self.broken = Some((task, findings));
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
        let (mut seed, mut seeds, mut minutes) = (None, None, None);
        let (mut every, mut share, mut fault, mut at) = (None, None, None, None);
        for (name, value) in pairs(arguments)? {
            match name {
                "--seed" => seed = Some(number(value)?),
                "--seeds" => seeds = Some(number(value)?),
                "--minutes" => minutes = Some(number::<u64>(value)?),
                "--every" => every = Some(number(value)?),
                "--share" => share = Some(number::<usize>(value)?.max(1)),
                "--move" => at = Some(number(value)?),
                "--fault" => fault = Some(Fault::of_name(value).ok_or_else(|| format!("there is no fault {value:?}"))?),
                other => return unknown(other),
            }
        }
        // Together, and only now: none of them may undo what another one said before it.
        let mode = match (every, share, fault, at) {
            (None, None, None, None) => Mode::Random,
            (Some(_), share, None, None) => Mode::Every { share: share.unwrap_or(1) },
            (None, None, Some(fault), Some(at)) => Mode::One(Strike { at, fault }),
            (None, Some(_), ..) => return Err("a share is one of --every".to_owned()),
            (Some(_), ..) => return Err("--every leaves no fault and no move to choose".to_owned()),
            _ => return Err("a fault needs a move, and a move needs a fault".to_owned()),
        };
        let unless_told = match mode {
            Mode::Random | Mode::Every { .. } if minutes.is_some() => u64::MAX,
            Mode::Random => SEEDS,
            Mode::Every { .. } | Mode::One(_) => 1,
        };
        let seeds = if matches!(mode, Mode::One(_)) { 1 } else { seeds.unwrap_or(unless_told) };
        let time = minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
        Ok(Self { seed: every.or(seed).unwrap_or(0), seeds, time, mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        #[track_caller]
        fn check(line: &str, expected: Result<(u64, u64, bool, Mode), &str>) {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let parsed = Options::parse(&words);
            let seen = parsed.as_ref().map(|found| (found.seed, found.seeds, found.time.is_some(), found.mode));
            assert_eq!(seen.map_err(String::as_str), expected, "{line}");
        }
        check("", Ok((0, SEEDS, false, Mode::Random)));
        check("--seed 7 --seeds 1", Ok((7, 1, false, Mode::Random)));
        check("--minutes 60", Ok((0, u64::MAX, true, Mode::Random)));
        check("--every 3", Ok((3, 1, false, Mode::Every { share: 1 })));
        check("--every 3 --seeds 5 --share 4", Ok((3, 5, false, Mode::Every { share: 4 })));
        check("--share 4 --seeds 5 --every 3", Ok((3, 5, false, Mode::Every { share: 4 })));
        check("--every 3 --minutes 60", Ok((3, u64::MAX, true, Mode::Every { share: 1 })));
        check("--minutes 60 --seeds 5", Ok((0, 5, true, Mode::Random)));
        check("--share 4", Err("a share is one of --every"));
        check("--share 4 --fault power-fails --move 1", Err("a share is one of --every"));
        check("--every 3 --fault power-fails --move 1", Err("--every leaves no fault and no move to choose"));
        let strike = Strike { at: 12, fault: Fault::PowerFails };
        check("--seed 3 --fault power-fails --move 12", Ok((3, 1, false, Mode::One(strike))));
        check("--fault power-fails", Err("a fault needs a move, and a move needs a fault"));
        check("--fault rain --move 1", Err("there is no fault \"rain\""));
        check("--seeds many", Err("\"many\" is not a number that could be meant"));
        check("--fast 1", Err("unknown option \"--fast\""));
    }
}
