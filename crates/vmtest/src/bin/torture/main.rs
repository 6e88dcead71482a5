//! The campaign of `vmtest::torture`, as long as asked.
//!
//! `cargo xtask torture [--seed N] [--minutes N] [--kills N]` ends after so many minutes or kills, whichever is first, or
//! with the first thing that is not as it must be. A summary of what was done comes last.
//! `cargo xtask torture --phases` kills QEMU in every phase of every operation instead, see `vmtest::torture::phases`.

mod options;

use std::process::ExitCode;

use vmtest::service::{Result, describe};
use vmtest::torture::{self, phases, tally::Tally};

/// Kills of each kind of operation, spread over the time that it takes, besides those in each of its stages.
const MOMENTS: u32 = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut tally = Tally::default();
    if arguments == ["--phases"] {
        let ended = phases::run(MOMENTS, &mut tally);
        return conclude("--phases", &ended, &tally);
    }
    let plan = match options::parse(&arguments, seed_of_now()) {
        Ok(plan) => plan,
        Err(wrong) => {
            eprintln!("{wrong}\n{}", options::USAGE);
            return ExitCode::FAILURE;
        }
    };
    println!("seed {}", plan.seed);
    let ended = torture::run(&plan, &mut tally);
    conclude(&format!("--seed {}", plan.seed), &ended, &tally)
}

fn conclude(what: &str, ended: &Result<()>, tally: &Tally) -> ExitCode {
    print!("asked for                      {what}\n{tally}");
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture failed, {what}: {}", describe(error));
            ExitCode::FAILURE
        }
    }
}

/// A seed for who names none.
fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs()
}
