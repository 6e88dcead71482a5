//! The QEMU Machine Protocol: bytes in, messages out, and the numbering of commands.
//!
//! QMP is JSON, one object per line. [`Decoder`] cuts and reads the lines; [`Session`] does the handshake, numbers the
//! commands and hands out what comes back. Both are fed bytes and never wait.
//!
//! ```text
//!   Connecting ──greeting──▶ Negotiating ──reply to qmp_capabilities──▶ Ready
//!        │                        │                                      │
//!        └────────── a line that is no QMP ──▶ Err: drop the connection ─┘
//! ```
//!
//! Source: QEMU `docs/interop/qmp-spec.rst`. `qemu-storage-daemon` speaks the same.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use crate::version::Version;

/// Longest line accepted. `query-qmp-schema` answers with about 300 KiB and `query-named-block-nodes` with about 1 KiB per
/// node; 16 MiB leaves room for a machine with thousands of layers and still ends a runaway.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Microseconds since the Unix epoch, as QEMU stamps its events.
pub type Micros = u64;

/// Why a peer's bytes are not QMP. Nothing more can be read from the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Runaway line.
    #[error("the QMP peer sent a line longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// Not JSON.
    #[error("the QMP peer sent a line that is not JSON: {reason}")]
    NotJson {
        /// What the JSON reader says.
        reason: String,
    },
    /// JSON, but none of the four messages.
    #[error("the QMP peer sent an object that is no QMP message: {start}")]
    NoMessage {
        /// The beginning of the line.
        start: String,
    },
    /// The first message was something else.
    #[error("the QMP peer did not begin with a greeting")]
    NoGreeting,
    /// QEMU refused the handshake.
    #[error("QEMU refused the QMP handshake: {desc}")]
    Handshake {
        /// QEMU's words.
        desc: String,
    },
}

/// Something QEMU said.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// First line of a connection.
    Greeting {
        /// Version of the emulator.
        version: Version,
    },
    /// A command succeeded.
    Return {
        /// Number of the command; `None` if it had none.
        id: Option<u64>,
        /// What it returned.
        value: Value,
    },
    /// A command failed.
    Error {
        /// Number of the command; `None` if QEMU could not read it.
        id: Option<u64>,
        /// Why.
        refusal: Refusal,
    },
    /// Something happened. Unknown events are kept.
    Event(Event),
}

/// QEMU's answer to a command that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{desc}")]
pub struct Refusal {
    /// Error class, nearly always `GenericError`.
    pub class: String,
    /// For people. Not stable between versions.
    pub desc: String,
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Such as `STOP`.
    pub name: String,
    /// Its data, `Null` if it has none.
    pub data: Value,
    /// When QEMU says it happened; 0 if it does not say.
    pub micros: Micros,
}

/// QEMU's word for what the guest does, from the answer to `query-status`; `qapi/run-state.json` has them all.
pub fn run_state(answer: &Value) -> &str {
    answer.get("status").and_then(Value::as_str).unwrap_or("unknown")
}

impl Event {
    /// A text member of the event's data.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.data.get(member)?.as_str()
    }
}

/// A command to be executed.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    name: &'static str,
    arguments: Map<String, Value>,
}

impl Command {
    /// A command without arguments.
    pub fn new(name: &'static str) -> Self {
        Self { name, arguments: Map::new() }
    }

    /// A command with all its arguments in one object, as [`crate::graph`] makes them. Anything else than an object means none.
    pub fn with(name: &'static str, arguments: Value) -> Self {
        match arguments {
            Value::Object(arguments) => Self { name, arguments },
            _ => Self::new(name),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.to_owned(), value.into());
        self
    }

    /// The command's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its arguments.
    pub fn arguments(&self) -> &Map<String, Value> {
        &self.arguments
    }

    /// The line to send, with its number.
    pub fn line(&self, id: u64) -> Vec<u8> {
        let message = if self.arguments.is_empty() {
            json!({ "execute": self.name, "id": id })
        } else {
            json!({ "execute": self.name, "arguments": self.arguments, "id": id })
        };
        let mut line = message.to_string().into_bytes();
        line.extend_from_slice(b"\r\n");
        line
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the start of `buffer` that are known to hold no line end.
    searched: usize,
}

impl Decoder {
    /// Takes bytes as they came from the socket.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, if a whole line is there. After an error the connection is of no use.
    pub fn next_message(&mut self) -> Result<Option<Message>, ProtocolError> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return if self.searched > LINE_BYTES_MAX { Err(ProtocolError::LineTooLong) } else { Ok(None) };
            };
            let line: Vec<u8> = self.buffer.drain(..=self.searched + end).collect();
            self.searched = 0;
            if line.len() > LINE_BYTES_MAX {
                return Err(ProtocolError::LineTooLong);
            }
            if !line.trim_ascii().is_empty() {
                return read_message(line.trim_ascii()).map(Some);
            }
        }
    }
}

/// What a session has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// Send these bytes now.
    Transmit(Vec<u8>),
    /// The handshake is over; commands may be sent.
    Ready {
        /// Version of the emulator.
        version: Version,
    },
    /// A command was answered.
    Reply {
        /// As returned by [`Session::execute`].
        id: u64,
        /// Its value, or why not.
        result: Result<Value, Refusal>,
    },
    /// Something happened in QEMU.
    Event(Event),
}

/// One connection's protocol state.
#[derive(Debug, Default)]
pub struct Session {
    decoder: Decoder,
    happenings: VecDeque<Happening>,
    phase: Phase,
    last_id: u64,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Connecting,
    Negotiating {
        version: Version,
    },
    Ready,
}

impl Session {
    /// Number of the handshake's own command; ours count from 1.
    const HANDSHAKE_ID: u64 = 0;

    /// A session on a fresh connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came from the socket. Ask [`Self::poll`] afterwards until it has nothing more.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.decoder.feed(bytes);
        while let Some(message) = self.decoder.next_message()? {
            self.take(message)?;
        }
        Ok(())
    }

    /// What is to be done or known next.
    pub fn poll(&mut self) -> Option<Happening> {
        self.happenings.pop_front()
    }

    /// Numbers a command. Returns the number its reply will carry, and the bytes to send; descriptors go with the first byte.
    pub fn execute(&mut self, command: &Command) -> (u64, Vec<u8>) {
        self.last_id += 1;
        (self.last_id, command.line(self.last_id))
    }

    fn take(&mut self, message: Message) -> Result<(), ProtocolError> {
        match (&self.phase, message) {
            (Phase::Connecting, Message::Greeting { version }) => {
                self.phase = Phase::Negotiating { version };
                let line = Command::new("qmp_capabilities").line(Self::HANDSHAKE_ID);
                self.happenings.push_back(Happening::Transmit(line));
            }
            (Phase::Connecting, _) => return Err(ProtocolError::NoGreeting),
            (Phase::Negotiating { .. }, Message::Error { refusal, .. }) => {
                return Err(ProtocolError::Handshake { desc: refusal.desc });
            }
            (Phase::Negotiating { version }, Message::Return { .. }) => {
                let version = version.clone();
                self.phase = Phase::Ready;
                self.happenings.push_back(Happening::Ready { version });
            }
            (Phase::Ready, Message::Return { id: Some(id), value }) => {
                self.happenings.push_back(Happening::Reply { id, result: Ok(value) });
            }
            (Phase::Ready, Message::Error { id: Some(id), refusal }) => {
                self.happenings.push_back(Happening::Reply { id, result: Err(refusal) });
            }
            (_, Message::Event(event)) => self.happenings.push_back(Happening::Event(event)),
            (Phase::Negotiating { .. } | Phase::Ready, message) => {
                return Err(ProtocolError::NoMessage { start: beginning(format!("{message:?}").as_bytes()) });
            }
        }
        Ok(())
    }
}

fn read_message(line: &[u8]) -> Result<Message, ProtocolError> {
    // serde_json refuses nesting deeper than 128 levels, which bounds the stack.
    let value: Value =
        serde_json::from_slice(line).map_err(|error| ProtocolError::NotJson { reason: error.to_string() })?;
    let strange = || ProtocolError::NoMessage { start: beginning(line) };
    let Value::Object(mut object) = value else { return Err(strange()) };
    let id = object.get("id").and_then(Value::as_u64);
    if let Some(value) = object.remove("return") {
        return Ok(Message::Return { id, value });
    }
    if let Some(error) = object.get("error") {
        return Ok(Message::Error { id, refusal: Refusal { class: text(error, "class"), desc: text(error, "desc") } });
    }
    if let Some(greeting) = object.get("QMP") {
        let version = Version::from_greeting(greeting).ok_or_else(strange)?;
        return Ok(Message::Greeting { version });
    }
    let Some(Value::String(name)) = object.get("event") else { return Err(strange()) };
    let name = name.clone();
    let micros = object.get("timestamp").map_or(0, read_timestamp);
    Ok(Message::Event(Event { name, data: object.remove("data").unwrap_or_default(), micros }))
}

/// QEMU writes -1 for both members when the host has no clock; that counts as unknown.
fn read_timestamp(value: &Value) -> Micros {
    let part = |name| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    part("seconds").saturating_mul(1_000_000).saturating_add(part("microseconds"))
}

fn text(object: &Value, member: &str) -> String {
    object.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn beginning(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}"#;

    /// Feeds lines to a session byte by byte, and shows what comes out.
    fn check(lines: &[&str], expected: Expect) {
        let mut session = Session::new();
        let mut shown = String::new();
        for byte in lines.iter().flat_map(|line| line.bytes().chain(*b"\r\n")) {
            if let Err(error) = session.receive(&[byte]) {
                shown += &format!("{error}\n");
                break;
            }
            while let Some(happening) = session.poll() {
                shown += &match happening {
                    Happening::Transmit(line) => format!("transmit {}\n", String::from_utf8_lossy(&line).trim()),
                    other => format!("{other:?}\n"),
                };
            }
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn handshake_replies_and_events() {
        check(
            &[
                GREETING,
                r#"{"return": {}, "id": 0}"#,
                r#"{"timestamp": {"seconds": 5, "microseconds": 7}, "event": "NEW_ONE", "data": {"a": 1}}"#,
                "",
                r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "STOP"}"#,
                r#"{"return": [1], "id": 1}"#,
                r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 2}"#,
            ],
            expect![[r#"
                transmit {"execute":"qmp_capabilities","id":0}
                Ready { version: Version { major: 10, minor: 0, micro: 2 } }
                Event(Event { name: "NEW_ONE", data: Object {"a": Number(1)}, micros: 5000007 })
                Event(Event { name: "STOP", data: Null, micros: 0 })
                Reply { id: 1, result: Ok(Array [Number(1)]) }
                Reply { id: 2, result: Err(Refusal { class: "GenericError", desc: "no" }) }
            "#]],
        );
    }

    #[test]
    fn other_peers_are_told_apart() {
        check(
            &["SSH-2.0-OpenSSH"],
            expect![[r#"
            the QMP peer sent a line that is not JSON: expected value at line 1 column 1
        "#]],
        );
        check(
            &["[]"],
            expect![[r#"
            the QMP peer sent an object that is no QMP message: []
        "#]],
        );
        check(
            &[r#"{"return": {}}"#],
            expect![[r#"
            the QMP peer did not begin with a greeting
        "#]],
        );
        check(
            &[GREETING, GREETING],
            expect![[r#"
            transmit {"execute":"qmp_capabilities","id":0}
            the QMP peer sent an object that is no QMP message: Greeting { version: Version { major: 10, minor: 0, micro: 2 } }
        "#]],
        );
        check(
            &[GREETING, r#"{"error": {"desc": "unknown command"}}"#],
            expect![[r#"
            transmit {"execute":"qmp_capabilities","id":0}
            QEMU refused the QMP handshake: unknown command
        "#]],
        );
    }

    #[test]
    fn lines_are_bounded_with_and_without_an_end() {
        let long = vec![b' '; LINE_BYTES_MAX + 1];
        for end in [&b""[..], &b"\n"[..]] {
            let mut decoder = Decoder::default();
            decoder.feed(&long);
            decoder.feed(end);
            assert_eq!(decoder.next_message(), Err(ProtocolError::LineTooLong));
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.feed(&[b'['; 100_000]);
        decoder.feed(b"\n");
        assert!(matches!(decoder.next_message(), Err(ProtocolError::NotJson { .. })));
    }

    #[test]
    fn commands_are_numbered() {
        let mut session = Session::new();
        let lines: Vec<_> = [Command::new("stop"), Command::new("cont").arg("a", 1)]
            .iter()
            .map(|command| session.execute(command))
            .map(|(id, line)| format!("{id} {}", String::from_utf8_lossy(&line).trim()))
            .collect();
        assert_eq!(lines, [r#"1 {"execute":"stop","id":1}"#, r#"2 {"arguments":{"a":1},"execute":"cont","id":2}"#]);
    }
}
