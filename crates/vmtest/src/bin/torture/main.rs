//! The campaign of `vmtest::torture`, as long as asked.
//!
//! `cargo xtask torture [--seed N] [--minutes N] [--kills N]` ends after so many minutes or kills, whichever is first, or
//! with the first thing that is not as it must be. A summary of what was done comes last.

mod options;

use std::process::ExitCode;

use vmtest::torture::{self, tally::Tally};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let plan = match options::parse(&arguments, seed_of_now()) {
        Ok(plan) => plan,
        Err(wrong) => {
            eprintln!("{wrong}\n{}", options::USAGE);
            return ExitCode::FAILURE;
        }
    };
    println!("seed {}", plan.seed);
    let mut tally = Tally::default();
    let ended = torture::run(&plan, &mut tally);
    print!("seed                           {}\n{tally}", plan.seed);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture failed, seed {}: {error}", plan.seed);
            ExitCode::FAILURE
        }
    }
}

/// A seed for who names none.
fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs()
}
