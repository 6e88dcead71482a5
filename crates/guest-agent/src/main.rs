//! The agent inside the test guest.
//!
//! The lab asks it over the second serial port what the guest's memory and disks hold, and makes it hold something
//! worth checking. It is started by the guest's init with the port as standard input and output, already in raw mode,
//! says `ready` once, and then answers one line per request, in order; `protocol` has the form of a line.
//!
//! States: there is only one, serving. It ends when its input ends, and init starts a fresh one (which has lost the
//! values in memory, so a test sees it).
//!
//! | command | answer |
//! | --- | --- |
//! | `ping` | `pong` |
//! | `uptime` | milliseconds since the guest's boot |
//! | `clock` | `<unix ms> <monotonic ms>` |
//! | `set <key> <text>`, `get <key>` | a value kept in memory only |
//! | `write <disk> <name> <text>`, `read <disk> <name>` | a file on `/disk0` or `/disk1`, on the medium when answered |
//! | `wreck` | forgets the values, destroys the files, scribbles over memory |
//! | `fill <MiB> <seed>`, `verify <seed>` | memory full of pseudo-random pages, see `memory` |
//! | `dirty <MiB/s>`, `dirty max`, `dirty stop` | rewrites that memory without pause |
//! | `chain start`, `chain stop`, `chain status` | the proof that memory and disks are one moment, see `chain` |
//! | `counter` | a number that grows about a thousand times a second |
//! | `genid` | the VM generation id as the guest's memory holds it |
//! | `sh <command>` | `<exit code> <output>` |
//! | `poweroff`, `reboot` | after the answer, the guest does so |

mod chain;
mod disks;
mod memory;
mod protocol;
mod system;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::Request;

/// What a command answers: text for `ok`, or text for `error`.
type Answer = Result<String, String>;

/// Most values kept at once. Tests use a handful; a runaway client must not eat the guest.
const MAX_VALUES: usize = 4096;

fn main() -> io::Result<()> {
    let mut guest = Guest::start();
    let mut input = io::stdin().lock();
    let mut output = io::stdout().lock();
    writeln!(output, "ready")?;
    output.flush()?;
    let mut line = Vec::new();
    loop {
        line.clear();
        // Bytes rather than text: after a restore the first line may be half of one request and half of another.
        let limit = u64::try_from(protocol::MAX_LINE).unwrap_or(u64::MAX);
        if input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        // A line that is not a request has no id to answer to; the client's next request finds the port in step again.
        if let Some(request) = Request::parse(text.trim_end_matches(['\r', '\n'])) {
            let answer = guest.answer(&request);
            writeln!(output, "{}", protocol::format_answer(request.id, &answer))?;
            output.flush()?;
        }
    }
}

/// Everything the agent remembers. All of it lives in memory only, which is the point.
struct Guest {
    values: BTreeMap<String, String>,
    memory: Arc<memory::Arena>,
    /// Memory that `wreck` filled, kept so that it stays taken.
    scribbled: Vec<u64>,
    chain: chain::Chain,
    counter: Arc<AtomicU64>,
    started: Instant,
}

impl Guest {
    fn start() -> Self {
        system::watch_power_button();
        Self {
            values: BTreeMap::new(),
            memory: Arc::new(memory::Arena::default()),
            scribbled: Vec::new(),
            chain: chain::Chain::default(),
            counter: start_counter(),
            started: Instant::now(),
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Answer {
        let (first, rest) = protocol::split_word(request.arguments);
        match request.command {
            "ping" => Ok("pong".to_owned()),
            "uptime" => system::uptime_ms(),
            "clock" => system::clock(self.started),
            "set" => self.set(first, rest),
            "get" => self.values.get(first).cloned().ok_or_else(|| format!("no value named {first:?}")),
            "write" => {
                let (name, text) = protocol::split_word(rest);
                disks::write(first, name, text)
            }
            "read" => disks::read(first, rest),
            "wreck" => self.wreck(),
            "fill" => self.memory.fill(protocol::number(first, "MiB")?, protocol::number(rest, "seed")?),
            "verify" => self.memory.verify(protocol::number(first, "seed")?),
            "dirty" => memory::dirty(&self.memory, first),
            "chain" => self.chain.command(first),
            "counter" => Ok(self.counter.load(Ordering::Relaxed).to_string()),
            "genid" => system::generation_id(),
            "sh" => system::shell(request.arguments),
            "poweroff" => system::leave("poweroff"),
            "reboot" => system::leave("reboot"),
            unknown => Err(format!("no command named {unknown:?}")),
        }
    }

    fn set(&mut self, key: &str, text: &str) -> Answer {
        if key.is_empty() {
            return Err("set needs a key and a text".to_owned());
        }
        if self.values.len() >= MAX_VALUES && !self.values.contains_key(key) {
            return Err(format!("{MAX_VALUES} values are kept already"));
        }
        self.values.insert(key.to_owned(), text.to_owned());
        Ok(String::new())
    }

    /// Makes the guest a different one, so that a restore that restored nothing cannot pass for a good one.
    fn wreck(&mut self) -> Answer {
        /// 32 MiB: much more than any cache, little enough for the smallest test guest.
        const SCRIBBLED_WORDS: usize = 32 << 17;
        self.values.clear();
        self.chain.stop();
        self.memory.scribble();
        self.scribbled = vec![0xdead_dead_dead_dead; SCRIBBLED_WORDS];
        let destroyed = disks::wreck()?;
        Ok(format!("files={destroyed}"))
    }
}

/// A number in memory that only grows: it shows whether a guest ran on, stood still or went back.
fn start_counter() -> Arc<AtomicU64> {
    let counter = Arc::new(AtomicU64::new(0));
    let ours = Arc::clone(&counter);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(1));
            ours.fetch_add(1, Ordering::Relaxed);
        }
    });
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(guest: &mut Guest, line: &str, expected: &str) {
        let request = Request::parse(line).expect("the test's line is a request");
        let answer = guest.answer(&request);
        assert_eq!(protocol::format_answer(request.id, &answer), expected);
    }

    #[test]
    fn values_live_until_the_wreck_or_an_overwrite() {
        let mut guest = Guest::start();
        check(&mut guest, "1 ping", "1 ok pong");
        check(&mut guest, "2 set colour dark  blue", "2 ok");
        check(&mut guest, "3 get colour", "3 ok dark  blue");
        check(&mut guest, "4 set colour red\\", "4 ok");
        check(&mut guest, "5 get colour", "5 ok red\\\\");
        check(&mut guest, "6 get size", "6 error no value named \"size\"");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let mut guest = Guest::start();
        check(&mut guest, "1 dance", "1 error no command named \"dance\"");
        check(&mut guest, "2 set", "2 error set needs a key and a text");
        check(&mut guest, "3 fill much 1", "3 error MiB must be a whole number, not \"much\"");
        check(&mut guest, "4 write 2 name text", "4 error there are disks 0 and 1, not \"2\"");
        check(&mut guest, "5 read 0 ../etc", "5 error a file name is letters, digits, dots and dashes, not \"../etc\"");
    }
}
