//! A small QMP client that waits: one command, its answer, and the events that came meanwhile.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use vmtest::service::{Error, Result};

use crate::tool::io;

/// Longest silence of a QEMU that saves gigabytes, during which it answers nothing.
const SILENCE: Duration = Duration::from_secs(900);

/// A connection after its greeting.
pub struct Qmp {
    port: BufReader<UnixStream>,
    /// What came since the last [`Qmp::take_events`].
    events: Vec<Event>,
}

/// Something that QEMU announced.
#[derive(Debug)]
pub struct Event {
    /// Such as `STOP`.
    pub name: String,
    /// By the clock of the host, since 1970.
    pub time: Duration,
    data: Value,
}

impl Qmp {
    /// Connects and leaves the negotiation behind.
    ///
    /// # Errors
    /// If nobody listens or it is not QMP.
    pub fn connect(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path).map_err(io("connecting to QEMU"))?;
        socket.set_read_timeout(Some(SILENCE)).map_err(io("connecting to QEMU"))?;
        let mut qmp = Self { port: BufReader::new(socket), events: Vec::new() };
        qmp.read()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Executes a command.
    ///
    /// # Errors
    /// If QEMU refuses or is gone.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.port.get_mut().write_all(line.as_bytes()).map_err(io(format!("sending {command}")))?;
        loop {
            let message = self.read()?;
            if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = message.get("error") {
                return Err(Error::Other(format!("QEMU refuses {command}: {}", error["desc"])));
            }
            self.note(&message);
        }
    }

    /// Starts a command that is a job and waits until it is over. The job's name is the command's.
    ///
    /// # Errors
    /// If it fails.
    pub fn job(&mut self, command: &str, mut arguments: Value) -> Result<()> {
        arguments["job-id"] = command.into();
        self.execute(command, &arguments)?;
        while !self.events.iter().any(|event| event.data["id"] == command && event.data["status"] == "concluded") {
            let message = self.read()?;
            self.note(&message);
        }
        let jobs = self.execute("query-jobs", &json!({}))?;
        self.execute("job-dismiss", &json!({ "id": command }))?;
        let own = jobs.as_array().into_iter().flatten().find(|job| job["id"] == command);
        match own.and_then(|job| job["error"].as_str()) {
            Some(reason) => Err(Error::Other(format!("QEMU's {command} failed: {reason}"))),
            None => Ok(()),
        }
    }

    /// Hands out the events.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.port.read_line(&mut line).map_err(io("reading from QEMU"))?;
        if length == 0 {
            return Err(Error::Other("QEMU is gone".to_owned()));
        }
        serde_json::from_str(&line).map_err(|error| Error::Other(format!("QEMU says {line:?}: {error}")))
    }

    fn note(&mut self, message: &Value) {
        let Some(name) = message["event"].as_str() else { return };
        let part = |unit: &str| message["timestamp"][unit].as_u64().unwrap_or_default();
        let time = Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds"));
        self.events.push(Event { name: name.to_owned(), time, data: message["data"].clone() });
    }
}

/// How long the guest stood still in all, from each STOP to the RESUME after it; `None` if it never did.
pub fn paused(events: impl IntoIterator<Item = (String, Duration)>) -> Option<Duration> {
    let (mut whole, mut stopped) = (None, None);
    for (name, time) in events {
        match name.as_str() {
            "STOP" => stopped = stopped.or(Some(time)),
            "RESUME" => {
                let pause = stopped.take().map(|begin| time.saturating_sub(begin));
                whole = pause.map(|pause| pause + whole.unwrap_or_default()).or(whole);
            }
            _ => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_added_up() {
        #[track_caller]
        fn check(events: &[(&str, u64)], expected: Option<u64>) {
            let events = events.iter().map(|(name, time)| ((*name).to_owned(), Duration::from_millis(*time)));
            assert_eq!(paused(events), expected.map(Duration::from_millis));
        }
        check(&[], None);
        check(&[("RESUME", 3)], None);
        check(&[("STOP", 3)], None);
        check(&[("STOP", 3), ("MIGRATION", 4), ("RESUME", 10)], Some(7));
        check(&[("STOP", 3), ("STOP", 4), ("RESUME", 10), ("STOP", 20), ("RESUME", 25), ("RESUME", 30)], Some(12));
    }
}
