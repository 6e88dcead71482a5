//! Talks to the agent inside a test guest, over the UNIX socket of the guest's second serial port.
//!
//! The port also carries what firmware and boot loader print before the agent runs, the echo of requests that came too
//! early, and answers to requests of a life that a restore has undone. All of it is told apart by the request's id:
//! ids are drawn from the clock once per client and counted up, so that no two clients of one guest share any, and
//! every line that is not an answer to the present request is skipped.
//!
//! States: connected or not. A request connects if needed; an error or a timeout disconnects, so the next request
//! starts afresh, also with another QEMU that has taken over the path.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long a request may take unless the caller says otherwise; an emulated guest on a busy machine is slow.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How long one attempt waits while the guest boots, before it connects again and asks anew.
const BOOT_ATTEMPT: Duration = Duration::from_millis(500);
/// Longest line that is kept, in bytes: the agent's longest answer with every character escaped.
const MAX_LINE: usize = 256 * 1024;

/// Why the agent gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port could not be reached, or nothing came in time (`TimedOut`).
    #[error("no answer from the guest's agent on {}", .path.display())]
    Port {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent understood and declined or failed.
    #[error("the guest's agent refuses `{request}`: {reason}")]
    Refused {
        /// The command with its arguments.
        request: String,
        /// The agent's words.
        reason: String,
    },
    /// An answer whose text is not what the command promises.
    #[error("the guest's agent answers `{request}` with {answer:?}")]
    Unexpected {
        /// The command with its arguments.
        request: String,
        /// The text that was not understood.
        answer: String,
    },
}

/// What `chain status` says; see the agent's `chain` for what the chain proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainStatus {
    /// The last number written.
    pub number: u64,
    /// Comparisons that found a disk not to hold what memory remembers. Zero, or memory and disks are not one moment.
    pub mismatches: u64,
    /// Rounds since the chain was started.
    pub iterations: u64,
    /// Whether the chain moves.
    pub running: bool,
}

/// A client of one guest's agent.
#[derive(Debug)]
pub struct Agent {
    path: PathBuf,
    port: Option<BufReader<UnixStream>>,
    next_id: u64,
}

impl Agent {
    /// A client for the agent behind a socket; connects with the first request.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Microseconds leave room for a thousand requests per millisecond before two clients could meet.
        let next_id = u64::try_from(now.as_micros()).unwrap_or(1);
        Self { path: socket.as_ref().to_owned(), port: None, next_id }
    }

    /// Waits until the guest has booted and its agent answers.
    ///
    /// # Errors
    /// If it does not within `limit`.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<(), Error> {
        let end = Instant::now() + limit;
        loop {
            let answer = self.request_within("ping", BOOT_ATTEMPT);
            match answer {
                Ok(_) => return Ok(()),
                Err(Error::Port { .. }) if Instant::now() < end => {
                    // A socket that does not exist yet fails at once.
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends `command`, such as `read 0 name`, and returns the text of the answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn request(&mut self, command: &str) -> Result<String, Error> {
        self.request_within(command, TIMEOUT)
    }

    /// As [`Agent::request`]; `None` when the agent declines, as it does for what it has not got.
    ///
    /// # Errors
    /// When it does not answer, see [`Error`].
    pub fn request_or_none(&mut self, command: &str) -> Result<Option<String>, Error> {
        match self.request(command) {
            Ok(text) => Ok(Some(text)),
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Agent::request`], with another timeout.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn request_within(&mut self, command: &str, limit: Duration) -> Result<String, Error> {
        self.next_id += 1;
        let (id, end) = (self.next_id, Instant::now() + limit);
        match self.exchange(id, command, end) {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(reason)) => Err(Error::Refused { request: command.to_owned(), reason }),
            Err(source) => {
                self.port = None;
                Err(Error::Port { path: self.path.clone(), source })
            }
        }
    }

    /// Drops the connection; the next request makes a new one. For tests that replace the QEMU behind the socket.
    pub fn disconnect(&mut self) {
        self.port = None;
    }

    /// The guest's `counter`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn counter(&mut self) -> Result<u64, Error> {
        let answer = self.request("counter")?;
        answer.parse().map_err(|_| Error::Unexpected { request: "counter".to_owned(), answer })
    }

    /// The guest's `chain status`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn chain_status(&mut self) -> Result<ChainStatus, Error> {
        let answer = self.request("chain status")?;
        parse_chain_status(&answer).ok_or(Error::Unexpected { request: "chain status".to_owned(), answer })
    }

    /// Waits until the chain has gone on by so many rounds, and gives its status then; at once if that tells of a mismatch. `None`
    /// if it has not within `limit`, or no longer runs.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn await_chain(&mut self, rounds: u64, limit: Duration) -> Result<Option<ChainStatus>, Error> {
        let begun = Instant::now();
        let begin = self.chain_status()?;
        let mut now = begin;
        loop {
            if now.mismatches > 0 {
                return Ok(Some(now));
            }
            // The round that an I/O error ended has a number, too.
            if !now.running {
                return Ok(None);
            }
            if now.number >= begin.number + rounds {
                return Ok(Some(now));
            }
            if begun.elapsed() > limit {
                return Ok(None);
            }
            now = self.chain_status()?;
        }
    }

    /// `verify <seed>`: how many pages of the filled memory are not what they must be, now or when last dirtied.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn wrong_pages(&mut self, seed: u64) -> Result<u64, Error> {
        let request = format!("verify {seed}");
        let answer = self.request(&request)?;
        let counts = (field::<u64>(&answer, "mismatches"), field::<u64>(&answer, "dirty-mismatches"));
        match counts {
            (Some(now), Some(earlier)) => Ok(now + earlier),
            _ => Err(Error::Unexpected { request, answer }),
        }
    }

    fn exchange(&mut self, id: u64, command: &str, end: Instant) -> io::Result<Result<String, String>> {
        let port = match &mut self.port {
            Some(port) => port,
            None => self.port.insert(BufReader::new(UnixStream::connect(&self.path)?)),
        };
        port.get_ref().set_write_timeout(Some(remaining(end)?))?;
        // The line break in front ends whatever half line is left in the guest.
        port.get_mut().write_all(format!("\n{id} {command}\n").as_bytes())?;
        loop {
            let line = read_line(port, end)?;
            if let Some(answer) = parse_answer(&line, id) {
                return Ok(answer);
            }
        }
    }
}

/// Reads up to the next line break, however the bytes are cut up; waits until `end` at most.
fn read_line(port: &mut BufReader<UnixStream>, end: Instant) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        port.get_ref().set_read_timeout(Some(remaining(end)?))?;
        let bytes = port.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (taken, complete) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(position) => (position + 1, true),
            None => (bytes.len(), false),
        };
        line.extend_from_slice(&bytes[..taken]);
        port.consume(taken);
        if complete {
            return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
        }
        if line.len() > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"));
        }
    }
}

/// Time left, or the error for none.
fn remaining(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The answer to `id`, if the line is one. Terminals put a carriage return in front of a line at times.
fn parse_answer(line: &str, id: u64) -> Option<Result<String, String>> {
    let rest = line.trim_start_matches('\r').strip_prefix(&id.to_string())?.strip_prefix(' ')?;
    let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
    match word {
        "ok" => Some(Ok(unescape(text))),
        "error" => Some(Err(unescape(text))),
        _ => None,
    }
}

/// Undoes the agent's escapes; a sequence that is none stays as it is.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut tail = after.chars();
        rest = match tail.next() {
            Some('n') => push(&mut plain, '\n', tail.as_str()),
            Some('r') => push(&mut plain, '\r', tail.as_str()),
            Some('t') => push(&mut plain, '\t', tail.as_str()),
            Some('\\') => push(&mut plain, '\\', tail.as_str()),
            Some('x') => match after.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => push(&mut plain, char::from(byte), &after[3..]),
                None => push(&mut plain, '\\', after),
            },
            _ => push(&mut plain, '\\', after),
        };
    }
    plain.push_str(rest);
    plain
}

fn push<'a>(plain: &mut String, character: char, rest: &'a str) -> &'a str {
    plain.push(character);
    rest
}

fn parse_chain_status(answer: &str) -> Option<ChainStatus> {
    Some(ChainStatus {
        number: field(answer, "n")?,
        mismatches: field(answer, "mismatches")?,
        iterations: field(answer, "iterations")?,
        running: field(answer, "running")?,
    })
}

/// The value of `name=value` among the words of an answer.
fn field<T: std::str::FromStr>(answer: &str, name: &str) -> Option<T> {
    answer.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_an_answer_to_the_present_request_counts() {
        #[track_caller]
        fn check(line: &str, expected: Option<Result<&str, &str>>) {
            let parsed = parse_answer(line, 12);
            let parsed = parsed.as_ref().map(|answer| answer.as_deref().map_err(String::as_str));
            assert_eq!(parsed, expected, "{line:?}");
        }
        check("12 ok", Some(Ok("")));
        check("\r12 ok a b", Some(Ok("a b")));
        check("12 error not\\nnow", Some(Err("not\nnow")));
        check("11 ok a", None);
        check("121 ok a", None);
        // The port's echo of a request that came before the agent.
        check("12 ping", None);
        check("ready", None);
        check("", None);
    }

    #[test]
    fn escapes_are_undone() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            assert_eq!(unescape(text), expected);
        }
        check("a\\nb\\\\n\\x1b\\t\\r", "a\nb\\n\u{1b}\t\r");
        check("\\", "\\");
        check("\\x1", "\\x1");
        check("\\xé", "\\xé");
        check("\\q", "\\q");
    }

    #[test]
    fn a_chain_status_is_read_by_names() {
        let status = parse_chain_status("n=7 mismatches=1 iterations=6 running=true remark=disk 0 held n=3");
        assert_eq!(status, Some(ChainStatus { number: 7, mismatches: 1, iterations: 6, running: true }));
        assert_eq!(parse_chain_status("n=7"), None);
    }

    /// A guest whose every line is scripted: reads one request, then writes what the script makes of its id.
    #[test]
    fn a_request_survives_noise_and_a_lost_connection() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = std::thread::spawn(move || {
            let (first, _) = listener.accept().unwrap();
            drop(first);
            let (second, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(second.try_clone().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "");
            let request = lines.next().unwrap().unwrap();
            let (id, command) = request.split_once(' ').unwrap();
            let (mut port, stale) = (second, 1);
            write!(port, "Welcome\n{stale} ok old\n{id} {command}\nready\n{id} ok new\n").unwrap();
        });
        let mut agent = Agent::new(&path);
        assert!(matches!(agent.request("get a"), Err(Error::Port { .. })));
        assert_eq!(agent.request("get a").unwrap(), "new");
        guest.join().unwrap();
    }
}
