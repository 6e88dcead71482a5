//! Where a password comes from: a file, the environment, or the person at the terminal. Never the command line, which
//! everybody on the host can read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use auth::secret::{PASSWORD_BYTES_MAX, Password};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// The environment variable.
pub const VARIABLE: &str = "SNAPVISOR_PASSWORD";

/// The password of `user`: from `file` if there is one, else from the environment, else asked for.
///
/// # Errors
/// When there is none, or it is too long.
pub fn obtain(user: &str, file: Option<&Path>) -> Result<Password> {
    if let Some(path) = file {
        let cannot = |error: io::Error| {
            Error::new(Kind::Usage, format!("cannot read the password from {}: {error}", path.display()))
        };
        return first_line(File::open(path).map_err(cannot)?).map_err(cannot);
    }
    if let Ok(password) = std::env::var(VARIABLE) {
        return Ok(Password::new(password));
    }
    ask(user).map_err(|error| {
        Error::new(Kind::Usage, format!("cannot ask for the password of {user}: {error}"))
            .hint(format!("give it with --password-file or in {VARIABLE}"))
    })
}

fn ask(user: &str) -> io::Result<Password> {
    let terminal = File::options().read(true).write(true).open("/dev/tty")?;
    (&terminal).write_all(format!("Password of {user}: ").as_bytes())?;
    let silent = Silent::begin(&terminal)?;
    let password = first_line(&terminal);
    drop(silent);
    // The Enter key was not shown either.
    (&terminal).write_all(b"\n")?;
    password
}

/// The first line without its end.
fn first_line(source: impl Read) -> io::Result<Password> {
    let limit = u64::try_from(PASSWORD_BYTES_MAX + 2).unwrap_or(u64::MAX);
    let mut line = Zeroizing::new(String::new());
    BufReader::new(source.take(limit)).read_line(&mut line)?;
    let text = line.trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.len() > PASSWORD_BYTES_MAX {
        let message = format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(Password::new(text.to_owned()))
}

/// A terminal that does not show what is typed, until it is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn begin(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // If the terminal has gone away there is nothing to put right.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password() {
        let check = |text: &str, expected: Option<&str>| {
            let password = first_line(text.as_bytes()).ok();
            assert_eq!(password.as_ref().map(Password::reveal), expected, "{text}");
        };
        check("secret\n", Some("secret"));
        check("secret", Some("secret"));
        check(" se cret \r\nmore\n", Some(" se cret "));
        check("", None);
        check("\n", None);
        check(&"x".repeat(512), Some("x".repeat(512).as_str()));
        check(&"x".repeat(513), None);
    }
}
