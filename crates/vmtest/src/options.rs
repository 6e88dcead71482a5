//! Command lines of the programs here that do something at random: options, each with a value.

use std::str::FromStr;

/// Names and values, in the order in which they stand.
///
/// # Errors
/// If the last name has no value.
pub fn pairs(arguments: &[String]) -> Result<Vec<(&str, &str)>, String> {
    let pairs = arguments.chunks(2).map(|words| match words {
        [name, value] => Ok((name.as_str(), value.as_str())),
        lone => Err(format!("{} needs a value", lone.concat())),
    });
    pairs.collect()
}

/// A value that is a number.
///
/// # Errors
/// If it is none, or one that does not fit.
pub fn number<N: FromStr>(value: &str) -> Result<N, String> {
    value.parse().map_err(|_| format!("{value:?} is not a number that could be meant"))
}

/// What is said of a name that is none.
pub fn unknown<T>(name: &str) -> Result<T, String> {
    Err(format!("unknown option {name:?}"))
}
