//! The power cuts of `vmtest::powercut`, as many as asked.
//!
//! `cargo xtask powercut [--seed N] [--cuts N] [--operations N]` ends with the first thing that is not as it must be. A summary
//! comes last. The seed repeats what is asked of the service and what a cut leaves of a log; the log itself depends on the machine.

use std::process::ExitCode;

use vmtest::options;
use vmtest::powercut::{self, Findings, Plan, export};
use vmtest::service::describe;

const USAGE: &str = "usage: cargo xtask powercut [--seed N] [--cuts N] [--operations N]";

/// What is done unless told otherwise.
const PLAN: Plan = Plan { seed: 1, operations: 20, cuts: 100, start_every: 8 };

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let plan = match parse(&arguments) {
        Ok(plan) => plan,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(why) = export::possible() {
        eprintln!("the power cannot be cut here: {why}");
        return ExitCode::FAILURE;
    }
    let mut findings = Findings::default();
    let ended = powercut::run(&plan, &mut findings);
    print!("seed                           {}\n{findings}", plan.seed);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powercut failed, seed {}: {}", plan.seed, describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Plan, String> {
    let mut plan = PLAN;
    for (name, value) in options::pairs(arguments)? {
        match name {
            "--seed" => plan.seed = options::number(value)?,
            "--cuts" => plan.cuts = options::number(value)?,
            "--operations" => plan.operations = options::number(value)?,
            other => return options::unknown(other),
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        #[track_caller]
        fn check(line: &str, expected: Result<Plan, &str>) {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(
                parse(&words).as_ref().map_err(String::as_str),
                expected.as_ref().map_err(|text| *text),
                "{line}"
            );
        }
        check("", Ok(PLAN));
        check("--seed 7 --cuts 3 --operations 9", Ok(Plan { seed: 7, cuts: 3, operations: 9, ..PLAN }));
        check("--cuts", Err("--cuts needs a value"));
        check("--cuts -1", Err("\"-1\" is not a number that could be meant"));
        check("--volts 3", Err("unknown option \"--volts\""));
    }
}
