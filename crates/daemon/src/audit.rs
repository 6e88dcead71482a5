//! The audit log: who came, who was let in, who asked for a change and what came of it. One JSON object on each line.
//!
//! ```text
//!   Audit::tell ──▶ queue ──▶ a thread of its own: allowance of the source ─▶ escape ─▶ append
//!                                     │ used up: counted                        │ too long, or SIGHUP: next file
//!                                     └▶ told with the next record of this source
//! ```
//! Records never hold secrets: no password, token or session key comes near this module. What strangers can cause has an
//! allowance for each source and one for all, so that nobody fills the disk by knocking; what somebody who was let in
//! does is always recorded, and waits for the disk if it must.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::Serialize;

/// Records that wait for the disk. Beyond that strangers' are counted only, and others wait.
const QUEUE_MAX: usize = 1024;
/// Bytes of one file; then it becomes `.1`, and an older one `.2` and so on.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Older files that are kept. With the allowance of all strangers together they hold the traces of some days.
const OLD_FILES_MAX: u32 = 4;
/// Characters of one text of a record; names and reasons have fewer, what is longer was made to be.
const TEXT_CHARS_MAX: usize = 512;
/// Records at once, and then one each [`Allowance::SOURCE`] interval, of a source that is not let in.
const SOURCE_BURST: u32 = 20;
/// The same for all such sources together.
const ALL_BURST: u32 = 200;
/// Sources that are told apart; more share one allowance.
const SOURCES_MAX: usize = 4096;

/// One thing that happened. Fields that do not apply are left out.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Record {
    /// What happened: `connection`, `authentication`, `authorization`, `method`, `users`, `lockout`, `daemon`.
    pub event: &'static str,
    /// How it ended: `accepted`, `refused`, and for methods `done`, `job` or `refused`.
    pub outcome: &'static str,
    /// Where it came from: an address and port, `uid:1000`, or both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `unix`, `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub door: Option<&'static str>,
    /// How the caller proved who he is: `peer`, `basic`, `negotiate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<&'static str>,
    /// What protects the messages: `local`, `tls`, `sealed` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<&'static str>,
    /// Who it is; with a refusal, who he claims to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What he may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// The method called, `Class.Method`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The machine it is about, by GUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// What else it names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// `ReturnValue` of the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_value: Option<u32>,
    /// The job that does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it has an allowance, and whose.
    #[serde(skip)]
    pub stranger: Option<String>,
}

/// Where records go. Clones write to the same file; the default writes nowhere.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<SyncSender<Order>>);

#[derive(Debug)]
enum Order {
    Write(Box<Record>),
    Reopen,
    Flush(SyncSender<()>),
}

impl Audit {
    /// Opens or makes the file, and begins to write.
    ///
    /// # Errors
    /// When it cannot be opened, or others may read it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = LogFile::open(path)?;
        let (orders, incoming) = sync_channel(QUEUE_MAX);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || Writer::new(file).run(&incoming))?;
        Ok(Self(Some(orders)))
    }

    /// Records something.
    pub fn tell(&self, record: Record) {
        let Some(orders) = &self.0 else { return };
        if record.stranger.is_some() {
            // Somebody who floods us may lose his own traces, not our time.
            let _ = orders.try_send(Order::Write(Box::new(record)));
        } else {
            let _ = orders.send(Order::Write(Box::new(record)));
        }
    }

    /// Opens the file by its name again, after somebody has moved it away.
    pub fn reopen(&self) {
        self.order(Order::Reopen);
    }

    /// Returns when everything told so far is with the kernel.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        self.order(Order::Flush(done));
        let _ = wait.recv();
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.0 {
            let _ = orders.send(order);
        }
    }
}

struct Writer {
    file: LogFile,
    sources: BTreeMap<String, Allowance>,
    all: Allowance,
}

impl Writer {
    fn new(file: LogFile) -> Self {
        Self { file, sources: BTreeMap::new(), all: Allowance::new(ALL_BURST, Allowance::ALL) }
    }

    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            let done = match order {
                Order::Write(record) => self.write(&record, host::now().0),
                Order::Reopen => LogFile::open(&self.file.path).map(|file| self.file = file),
                Order::Flush(done) => done.send(()).map_err(|_| io::ErrorKind::BrokenPipe.into()),
            };
            if let Err(error) = done {
                tracing::error!(%error, path = %self.file.path.display(), "the audit log could not be written");
            }
        }
    }

    fn write(&mut self, record: &Record, now_us: u64) -> io::Result<()> {
        let Some(suppressed) = self.allow(record, now_us) else { return Ok(()) };
        self.file.append(&line(record, now_us, suppressed))
    }

    /// Whether the record is within the allowance of its source, and how many before it were not.
    fn allow(&mut self, record: &Record, now_us: u64) -> Option<u64> {
        let Some(source) = &record.stranger else { return Some(0) };
        let now = Duration::from_micros(now_us);
        if self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, allowance| !allowance.is_full(now));
        }
        let key = if self.sources.len() < SOURCES_MAX || self.sources.contains_key(source) { source } else { "" };
        let source =
            self.sources.entry(key.to_owned()).or_insert_with(|| Allowance::new(SOURCE_BURST, Allowance::SOURCE));
        // The source's own first: a noisy one must not use up what belongs to all.
        if !source.take(now) {
            return None;
        }
        if !self.all.take(now) {
            source.suppressed += 1;
            return None;
        }
        Some(std::mem::take(&mut source.suppressed))
    }
}

/// A bucket that fills with time.
struct Allowance {
    burst: u32,
    interval: Duration,
    left: u32,
    filled: Duration,
    suppressed: u64,
}

impl Allowance {
    /// One record in five seconds is enough to see that somebody keeps trying.
    const SOURCE: Duration = Duration::from_secs(5);
    /// With 300 bytes a record, 26 MB a day at most.
    const ALL: Duration = Duration::from_secs(1);

    fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, left: burst, filled: Duration::ZERO, suppressed: 0 }
    }

    fn fill(&mut self, now: Duration) {
        let periods = now.saturating_sub(self.filled).as_nanos() / self.interval.as_nanos();
        self.left = self.left.saturating_add(u32::try_from(periods).unwrap_or(u32::MAX)).min(self.burst);
        if periods > 0 {
            self.filled = now;
        }
    }

    fn take(&mut self, now: Duration) -> bool {
        self.fill(now);
        let Some(left) = self.left.checked_sub(1) else {
            self.suppressed += 1;
            return false;
        };
        self.left = left;
        true
    }

    /// Whether forgetting it changes nothing.
    fn is_full(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.left == self.burst && self.suppressed == 0
    }
}

/// The record as it stands in the file.
fn line(record: &Record, now_us: u64, suppressed: u64) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        #[serde(flatten)]
        record: &'a Record,
        #[serde(skip_serializing_if = "Option::is_none")]
        suppressed: Option<u64>,
    }
    let moment = i64::try_from(now_us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    let time = moment.map(|moment| moment.to_string()).unwrap_or_default();
    let shortened = shorten(record);
    let line = Line { time, record: &shortened, suppressed: (suppressed > 0).then_some(suppressed) };
    let json = serde_json::to_string(&line).expect("our own types have string keys");
    let mut escaped = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        // serde_json leaves everything above U+001F; some of it moves the cursor or turns the line around.
        if c.is_control() || is_invisible(c) {
            escaped += &format!("\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped + "\n"
}

/// Line and paragraph separators, marks of writing direction, and the byte order mark; all in the basic plane.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn shorten(record: &Record) -> Record {
    let cut = |text: &String| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
    Record {
        user: record.user.as_ref().map(cut),
        reason: record.reason.as_ref().map(cut),
        method: record.method.as_ref().map(cut),
        objects: record.objects.iter().map(cut).collect(),
        ..record.clone()
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.mode() & 0o077 != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(Self { path: path.to_owned(), file, bytes: metadata.len() })
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.bytes >= FILE_BYTES_MAX {
            self.rotate()?;
        }
        self.file.write_all(line.as_bytes())?;
        self.bytes += u64::try_from(line.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let old = |number: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..OLD_FILES_MAX).rev() {
            match std::fs::rename(old(number), old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, old(1))?;
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn stranger(source: &str) -> Record {
        let source = Some(source.to_owned());
        Record { event: "connection", outcome: "refused", stranger: source.clone(), source, ..Record::default() }
    }

    #[test]
    fn a_line_cannot_be_forged() {
        let user = Some("eve\n{\"event\":\"x\"}\u{1b}[2J\u{9b}\u{202e}\"".to_owned());
        let record = Record { event: "authentication", outcome: "refused", user, ..Record::default() };
        expect![[r#"{"time":"1970-01-01T00:00:01Z","event":"authentication","outcome":"refused","user":"eve\n{\"event\":\"x\"}\u001b[2J\u009b\u202e\"","suppressed":3}
"#]]
        .assert_eq(&line(&record, 1_000_000, 3));
        let long = Record { user: Some("x".repeat(100_000)), ..record };
        assert!(line(&long, 0, 0).len() < 1000);
    }

    #[test]
    fn who_knocks_all_the_time_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let mut writer = Writer::new(LogFile::open(&path).unwrap());
        let lines = || std::fs::read_to_string(&path).unwrap();
        for _ in 0..1000 {
            writer.write(&stranger("eve"), 1_000_000_000).unwrap();
        }
        assert_eq!(lines().lines().count(), SOURCE_BURST as usize);
        writer.write(&stranger("bob"), 1_000_000_000).unwrap();
        assert_eq!(lines().lines().count(), SOURCE_BURST as usize + 1, "others are heard");
        writer.write(&stranger("eve"), 1_006_000_000).unwrap();
        assert!(lines().lines().last().unwrap().contains("\"suppressed\":980"), "{}", lines());
        for source in 0..10_000 {
            writer.write(&stranger(&source.to_string()), 1_006_000_000).unwrap();
        }
        assert!(lines().lines().count() <= (ALL_BURST + 10) as usize);
        assert!(writer.sources.len() <= SOURCES_MAX + 1);
        let known = Record { event: "method", outcome: "done", ..Record::default() };
        writer.write(&known, 1_006_000_000).unwrap();
        assert!(lines().lines().last().unwrap().contains("method"), "who was let in is always recorded");
    }

    #[test]
    fn files_are_private_and_take_turns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let audit = Audit::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        audit.tell(stranger("a"));
        audit.flush();
        std::fs::rename(&path, directory.path().join("moved")).unwrap();
        audit.reopen();
        audit.tell(stranger("b"));
        audit.flush();
        assert!(std::fs::read_to_string(&path).unwrap().contains("\"source\":\"b\""));

        let mut file = LogFile::open(&path).unwrap();
        for _ in 0..7 {
            file.bytes = FILE_BYTES_MAX;
            file.append("x\n").unwrap();
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2 + OLD_FILES_MAX as usize);
    }
}
