//! `snapvisor vm console`: this terminal as the machine's serial terminal.
//!
//! Where the port can be reached, the namespace says: `Connection` of the machine's `Msvm_SerialPortSettingData`. The
//! bytes themselves go over that Unix socket, not through the daemon. Only on the daemon's host, as its user or root.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::termios::{OptionalActions, Termios};
use serde_json::json;

use super::lookup;
use crate::error::{Error, Kind, Result};
use crate::model::instance_id;
use crate::output::Output;
use crate::session::{Session, wql_quoted};
use crate::show::{printable, word};

/// Ctrl-], as in telnet and in most consoles of machines.
const ESCAPE: u8 = 0x1D;

/// Connects, until Ctrl-] or the end of the machine.
///
/// # Errors
/// When the machine does not run or its console cannot be reached.
pub fn run(session: &mut Session, typed: &str) -> Result<Output> {
    let vm = lookup::vm(session, typed)?;
    let like = wql_quoted(&instance_id(&vm.id));
    let ports = session.query(&format!("SELECT * FROM Msvm_SerialPortSettingData WHERE InstanceID LIKE '{like}%'"))?;
    // COM 1; the other one is for whatever the user attaches to it.
    let console = ports.iter().find(|port| port.text("AddressOnParent") == Some("0"));
    let path = console.and_then(|port| port.text("Connection")).filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| Error::new(Kind::Refused, format!("{} has no console", vm.name)))?;
    if !vm.is_on() {
        return Err(Error::new(Kind::Refused, format!("{} is {}, so nobody is at its console", vm.name, vm.state))
            .hint(format!("`snapvisor vm start {}` starts it", word(&vm.name))));
    }
    let failed = |error: io::Error| {
        Error::new(Kind::Failed, format!("the console of {} at {path} cannot be used: {error}", vm.name))
            .hint("it can be reached only on the daemon's host, by the daemon's user or root, by one at a time")
    };
    let socket = UnixStream::connect(path).map_err(failed)?;
    let raw = RawTerminal::enter().map_err(failed)?;
    if raw.is_some() {
        eprint!("connected to {}; Ctrl-] leaves\r\n", printable(&vm.name));
    }
    let end = converse(socket).map_err(failed)?;
    drop(raw);
    let text = match end {
        End::Left => format!("\nleft the console of {}\n", printable(&vm.name)),
        End::Closed => format!("\n{} has closed its console\n", printable(&vm.name)),
    };
    Ok(Output::new(text, json!({ "vm": vm })))
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The user has left.
    Left,
    /// The machine has closed the connection.
    Closed,
}

/// Copies both ways until one side ends. The thread that reads the terminal ends with the process.
fn converse(socket: UnixStream) -> io::Result<End> {
    let (ended, end) = std::sync::mpsc::channel();
    let mut to_guest = socket.try_clone()?;
    let typed = ended.clone();
    std::thread::spawn(move || {
        let left = copy_keys(&mut io::stdin().lock(), &mut to_guest);
        // After a pipe has been copied, what the guest still says is of interest.
        if !matches!(left, Ok(false)) {
            let _ = typed.send(left.map(|_| End::Left));
        }
    });
    std::thread::spawn(move || {
        let mut socket = socket;
        // Not locked for good: when the user has left, somebody else wants to say so.
        let copied = copy_output(&mut socket, &mut io::stdout());
        let _ = ended.send(copied.map(|()| End::Closed));
    });
    end.recv().unwrap_or(Ok(End::Closed))
}

/// Copies what is typed; true when the escape was typed, false at the end of the input.
fn copy_keys(from: &mut impl Read, to: &mut impl Write) -> io::Result<bool> {
    let mut buffer = [0; 1024];
    loop {
        let count = from.read(&mut buffer)?;
        let keys = buffer.get(..count).unwrap_or_default();
        if keys.is_empty() {
            return Ok(false);
        }
        let escape = keys.iter().position(|key| *key == ESCAPE);
        to.write_all(keys.get(..escape.unwrap_or(count)).unwrap_or_default())?;
        if escape.is_some() {
            return Ok(true);
        }
    }
}

/// Copies what the guest says, at once, byte by byte as it comes.
fn copy_output(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(buffer.get(..count).unwrap_or_default())?,
        }
        to.flush()?;
    }
}

/// The terminal with every key passed on, until it is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` if standard input is not a terminal.
    fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = rustix::termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // If the terminal has gone away there is nothing to put right.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_copied_up_to_the_escape() {
        let check = |typed: &[u8], expected: &[u8], left: bool| {
            let mut sent = Vec::new();
            assert_eq!(copy_keys(&mut &typed[..], &mut sent).unwrap(), left);
            assert_eq!(sent, expected);
        };
        check(b"ls\r", b"ls\r", false);
        check(b"ls\r\x1drest", b"ls\r", true);
        check(b"\x1d", b"", true);
        check(&[b'x'; 5000], &[b'x'; 5000], false);
    }
}
