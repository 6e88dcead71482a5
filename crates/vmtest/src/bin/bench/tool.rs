//! Other programs, run to their end.

use std::process::{Command, Stdio};

use vmtest::service::{Error, Result};

/// Runs a program that must succeed; gives what it printed.
///
/// # Errors
/// If it cannot be started or fails, with what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|source| Error::Io { what: format!("running {program}"), source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let words: Vec<&str> = arguments.iter().take_while(|argument| !argument.starts_with("--")).copied().collect();
    Err(Error::Other(format!("{program} {}: {}", words.join(" "), text(&output.stderr).replace('\n', " "))))
}

/// Shorthand for errors of the file system.
pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// An error with its causes, in one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(|error| error.to_string().replace('\n', " ")).collect::<Vec<_>>().join(": ")
}
