//! Other programs, run to their end.

use std::process::{Command, Stdio};

use crate::service::{Error, Result};

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
