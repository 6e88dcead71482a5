//! The command line.

use std::time::Duration;

use vmtest::options::{number, pairs, unknown};
use vmtest::torture::Plan;

/// Shown when the command line is not understood.
pub const USAGE: &str =
    "usage: cargo xtask torture [--seed N] [--minutes N] [--kills N]\n       cargo xtask torture --phases";

/// Minutes unless another number is asked for.
const MINUTES: u64 = 10;

/// Disturbed rounds in a hundred.
const DISTURBED: u64 = 60;

/// Reads the arguments. `seed` is for who names none.
///
/// # Errors
/// What is wrong with them.
pub fn parse(arguments: &[String], seed: u64) -> Result<Plan, String> {
    let mut plan = Plan { seed, duration: Duration::from_secs(MINUTES * 60), kills: u64::MAX, disturbed: DISTURBED };
    for (name, value) in pairs(arguments)? {
        match name {
            "--seed" => plan.seed = number(value)?,
            "--minutes" => plan.duration = Duration::from_secs(u64::from(number::<u32>(value)?) * 60),
            "--kills" => plan.kills = number(value)?,
            other => return unknown(other),
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
        fn check(line: &str, expected: Result<(u64, u64, u64), &str>) {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let parsed = parse(&words, 1);
            let seen = parsed.as_ref().map(|found| (found.seed, found.duration.as_secs(), found.kills));
            assert_eq!(seen.map_err(String::as_str), expected, "{line}");
        }
        check("", Ok((1, 600, u64::MAX)));
        check("--seed 7 --minutes 2 --kills 30", Ok((7, 120, 30)));
        check("--kills some", Err("\"some\" is not a number that could be meant"));
        check("--seed", Err("--seed needs a value"));
        check("--fast yes", Err("unknown option \"--fast\""));
    }
}
