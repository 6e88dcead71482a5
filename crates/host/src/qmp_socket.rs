//! A QMP connection over a UNIX socket: commands with deadlines, events in order, descriptors along the way.
//!
//! One task owns the socket and a [`Session`]. It hands each reply to the caller who waits for it, and each event to
//! every subscriber, in the order QEMU sent them: who awaits a reply has every event that preceded it in its queue.
//! Events that arrive while a [`Quiet`] is held are marked as brought about by ourselves. Whoever holds the [`Floor`] has the
//! emulator's attention for itself: a procedure while its guest may stand still, or a question while it is answered.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qemu::qmp::{Command, Event, Happening, Refusal, Session};
use qemu::version::Version;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Bytes read at once. Replies are short; the large ones come in a few rounds.
const READ_BYTES: usize = 64 << 10;

/// Most descriptors with one command: a memory file twice is what we need, SCM_MAX_FD is 253.
const DESCRIPTORS_MAX: usize = 4;

/// A connection whose handshake is done. Clones talk over the same socket; it is closed with the last one.
#[derive(Clone, Debug)]
pub struct Monitor {
    version: Version,
    commands: mpsc::UnboundedSender<Order>,
    subscribers: Subscribers,
    quiet: Arc<AtomicU32>,
    floor: Arc<tokio::sync::Mutex<()>>,
}

/// While it lives, nobody else does what the guest could notice.
pub type Floor = tokio::sync::OwnedMutexGuard<()>;

/// An event, and whether we are the cause.
#[derive(Clone, Debug)]
pub struct Notice {
    /// What QEMU said.
    pub event: Event,
    /// It came while somebody held a [`Quiet`].
    pub ours: bool,
}

/// While it lives, events are marked as ours.
#[derive(Debug)]
pub struct Quiet(Arc<AtomicU32>);

/// Why a command has no good answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MonitorError {
    /// QEMU refused.
    #[error("QEMU refused {command}: {refusal}")]
    Refused {
        /// Which command.
        command: &'static str,
        /// QEMU's words.
        refusal: Refusal,
    },
    /// The connection ended.
    #[error("the connection to QEMU was lost")]
    Lost,
    /// No answer in time.
    #[error("QEMU did not answer {command} within {} s", .after.as_secs())]
    Timeout {
        /// Which command, or the handshake.
        command: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// Whether there is a process to talk to could not be found out.
    #[error("could not look for the machine's process: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
    /// The socket could not be connected.
    #[error("could not connect to the monitor {path}: {reason}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What came was no QMP, or the socket failed.
    #[error("the monitor {path} failed before it was ready: {reason}")]
    Handshake {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

type Subscribers = Arc<Mutex<Option<Vec<mpsc::UnboundedSender<Notice>>>>>;
type Answer = Result<Value, Refusal>;

#[derive(Debug)]
struct Order {
    command: Command,
    descriptors: Vec<Arc<OwnedFd>>,
    answer: oneshot::Sender<Answer>,
}

impl Monitor {
    /// Connects and does the handshake.
    ///
    /// # Errors
    /// When nobody listens, what answers is no QMP, or it takes longer than `patience`.
    pub async fn connect(path: &Path, patience: Duration) -> Result<Self, MonitorError> {
        let connect_error =
            |error: io::Error| MonitorError::Connect { path: path.to_owned(), reason: error.to_string() };
        let stream = UnixStream::connect(path).await.map_err(connect_error)?;
        let mut wire = Wire { stream, session: Session::new(), buffer: vec![0; READ_BYTES] };
        let version = timeout(patience, wire.shake_hands())
            .await
            .map_err(|_| MonitorError::Timeout { command: "the handshake", after: patience })?
            .map_err(|error| MonitorError::Handshake { path: path.to_owned(), reason: error.to_string() })?;
        let (commands, orders) = mpsc::unbounded_channel();
        let subscribers = Arc::new(Mutex::new(Some(Vec::new())));
        let quiet = Arc::new(AtomicU32::new(0));
        tokio::spawn(serve(wire, orders, Arc::clone(&subscribers), Arc::clone(&quiet)));
        Ok(Self { version, commands, subscribers, quiet, floor: Arc::default() })
    }

    /// Version of the emulator.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Sends a command, with descriptors if any, and waits for the answer.
    ///
    /// # Errors
    /// When QEMU refuses, is gone, or takes longer than `patience`. In the last case the command may still take effect.
    pub async fn execute(
        &self,
        command: Command,
        descriptors: Vec<Arc<OwnedFd>>,
        patience: Duration,
    ) -> Result<Value, MonitorError> {
        let name = command.name();
        let (answer, reply) = oneshot::channel();
        self.commands.send(Order { command, descriptors, answer }).map_err(|_| MonitorError::Lost)?;
        match timeout(patience, reply).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(refusal))) => Err(MonitorError::Refused { command: name, refusal }),
            Ok(Err(_)) => Err(MonitorError::Lost),
            Err(_) => Err(MonitorError::Timeout { command: name, after: patience }),
        }
    }

    /// All events from now on. The stream ends when the connection does.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Notice> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(subscribers) = &mut *lock(&self.subscribers) {
            subscribers.push(sender);
        }
        receiver
    }

    /// Whether the connection has ended.
    pub fn is_lost(&self) -> bool {
        lock(&self.subscribers).is_none()
    }

    /// Waits for the floor.
    pub async fn floor(&self) -> Floor {
        Arc::clone(&self.floor).lock_owned().await
    }

    /// Marks events as ours while the returned value lives.
    pub fn quiet(&self) -> Quiet {
        self.quiet.fetch_add(1, Ordering::SeqCst);
        Quiet(Arc::clone(&self.quiet))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Wire {
    stream: UnixStream,
    session: Session,
    buffer: Vec<u8>,
}

impl Wire {
    async fn shake_hands(&mut self) -> io::Result<Version> {
        loop {
            self.receive().await?;
            while let Some(happening) = self.session.poll() {
                match happening {
                    Happening::Transmit(bytes) => self.send(&bytes, &[]).await?,
                    Happening::Ready { version } => return Ok(version),
                    // Nobody has subscribed and nothing has been asked.
                    Happening::Event(_) | Happening::Reply { .. } => {}
                }
            }
        }
    }

    /// Waits for bytes and feeds them to the session. May be dropped at any await without loss.
    async fn receive(&mut self) -> io::Result<()> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    let bytes = self.buffer.get(..count).unwrap_or_default();
                    return self.session.receive(bytes).map_err(io::Error::other);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends all bytes; the descriptors go with the first of them.
    async fn send(&self, mut bytes: &[u8], descriptors: &[Arc<OwnedFd>]) -> io::Result<()> {
        let mut along: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        if along.len() > DESCRIPTORS_MAX {
            return Err(io::Error::other("too many descriptors for one command"));
        }
        while !bytes.is_empty() {
            let sent = self.stream.async_io(Interest::WRITABLE, || send_some(&self.stream, bytes, &along)).await?;
            bytes = bytes.get(sent..).unwrap_or_default();
            along.clear();
        }
        Ok(())
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], along: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !along.is_empty() && !control.push(SendAncillaryMessage::ScmRights(along)) {
        return Err(io::Error::other("too many descriptors for one command"));
    }
    // Without NOSIGNAL a peer that is gone would end us with SIGPIPE where the runtime has not ignored it.
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Runs until the peer closes, breaks the protocol, or the last [`Monitor`] is dropped.
async fn serve(
    mut wire: Wire,
    mut orders: mpsc::UnboundedReceiver<Order>,
    subscribers: Subscribers,
    quiet: Arc<AtomicU32>,
) {
    let mut waiting: HashMap<u64, oneshot::Sender<Answer>> = HashMap::new();
    let ended = loop {
        let step = tokio::select! {
            received = wire.receive() => received,
            order = orders.recv() => match order {
                None => break Ok(()),
                Some(order) => {
                    let (id, line) = wire.session.execute(&order.command);
                    waiting.insert(id, order.answer);
                    wire.send(&line, &order.descriptors).await
                }
            },
        };
        if let Err(error) = step {
            break Err(error);
        }
        while let Some(happening) = wire.session.poll() {
            dispatch(happening, &mut waiting, &subscribers, &quiet);
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a monitor connection ended");
    }
    // From here on a subscription is an ended stream, and every command fails as lost.
    *lock(&subscribers) = None;
}

fn dispatch(
    happening: Happening,
    waiting: &mut HashMap<u64, oneshot::Sender<Answer>>,
    subscribers: &Subscribers,
    quiet: &AtomicU32,
) {
    match happening {
        Happening::Reply { id, result } => {
            if let Some(answer) = waiting.remove(&id) {
                // Whoever asked may have lost patience.
                let _ = answer.send(result);
            }
        }
        Happening::Event(event) => {
            let notice = Notice { event, ours: quiet.load(Ordering::SeqCst) > 0 };
            if let Some(subscribers) = &mut *lock(subscribers) {
                subscribers.retain(|subscriber| subscriber.send(notice.clone()).is_ok());
            }
        }
        // Only the handshake transmits, and it is over.
        Happening::Transmit(_) | Happening::Ready { .. } => {}
    }
}

/// Nothing is done under the lock that could panic half-way.
fn lock(subscribers: &Subscribers) -> std::sync::MutexGuard<'_, Option<Vec<mpsc::UnboundedSender<Notice>>>> {
    subscribers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use std::io::{BufRead, BufReader, IoSliceMut, Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream as StdStream};

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}"#;

    /// Plays QEMU in a thread: greets, agrees, then does what the test says.
    fn peer<T: Send + 'static>(
        play: impl FnOnce(StdStream, BufReader<StdStream>) -> T + Send + 'static,
    ) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<T>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            writeln!(stream, "{GREETING}").unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut String::new()).unwrap();
            writeln!(stream, r#"{{"return": {{}}, "id": 0}}"#).unwrap();
            play(stream, reader)
        });
        (root, path, thread)
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test(flavor = "multi_thread")]
    async fn replies_find_their_callers_and_events_come_first() {
        let (_root, path, thread) = peer(|mut stream, mut reader| {
            let mut lines = String::new();
            reader.read_line(&mut lines).unwrap();
            reader.read_line(&mut lines).unwrap();
            let event = r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 5}}"#;
            let refusal = r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 1}"#;
            write!(stream, "{event}\n{{\"return\": 2, \"id\": 2}}\n{refusal}\n").unwrap();
            reader.read_line(&mut lines).unwrap();
        });
        let monitor = Monitor::connect(&path, PATIENCE).await.unwrap();
        assert_eq!(monitor.version().to_string(), "10.0.2");
        let mut events = monitor.subscribe();
        let quiet = monitor.quiet();
        let (first, second) = tokio::join!(
            monitor.execute(Command::new("one"), vec![], PATIENCE),
            monitor.execute(Command::new("two"), vec![], PATIENCE),
        );
        assert_eq!(first.unwrap_err().to_string(), "QEMU refused one: no");
        assert_eq!(second.unwrap(), 2);
        let notice = events.try_recv().unwrap();
        assert!(notice.ours && notice.event.name == "STOP" && notice.event.micros == 1_000_005);
        drop((quiet, monitor));
        thread.join().unwrap();
        assert!(events.recv().await.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn descriptors_travel_with_the_first_byte() {
        let (_root, path, thread) = peer(|mut stream, _reader| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; 4096];
            rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty())
                .unwrap();
            let fds: Vec<OwnedFd> = control
                .drain()
                .flat_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                    _ => vec![],
                })
                .collect();
            writeln!(stream, r#"{{"return": {{}}, "id": 1}}"#).unwrap();
            let mut text = String::new();
            std::fs::File::from(fds.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
            text
        });
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"through the socket").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let monitor = Monitor::connect(&path, PATIENCE).await.unwrap();
        let descriptor = Arc::new(OwnedFd::from(file));
        monitor.execute(Command::new("add-fd"), vec![descriptor], PATIENCE).await.unwrap();
        assert_eq!(thread.join().unwrap(), "through the socket");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lost_connection_fails_what_waits_and_what_comes_later() {
        let (_root, path, thread) = peer(|stream, mut reader| {
            reader.read_line(&mut String::new()).unwrap();
            drop(stream);
        });
        let monitor = Monitor::connect(&path, PATIENCE).await.unwrap();
        for _ in 0..2 {
            let error = monitor.execute(Command::new("stop"), vec![], PATIENCE).await.unwrap_err();
            assert!(matches!(error, MonitorError::Lost), "{error}");
        }
        assert!(monitor.subscribe().recv().await.is_none());
        thread.join().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn patience_ends() {
        let (_root, path, thread) =
            peer(|_stream, mut reader| while reader.read_line(&mut String::new()).unwrap() > 0 {});
        let monitor = Monitor::connect(&path, PATIENCE).await.unwrap();
        let error = monitor.execute(Command::new("stop"), vec![], Duration::ZERO).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU did not answer stop within 0 s");
        drop(monitor);
        thread.join().unwrap();
    }
}
