//! The doors: a Unix socket and loopback TCP, with an accept loop of our own.
//!
//! ```text
//!   accept ──▶ who is it? ──▶ below the cap? ──▶ hyper, HTTP/1.1, keep-alive ──▶ crate::http
//!     │            │ not us, not root: 403          │ full: wait for a place
//!     └─ until the shutdown: connections finish the request they are at
//! ```
//! Who may come in: over the Unix socket whoever the file's mode lets in (its owner, root, and a group if one is named),
//! over TCP its owner and root, by the owner of the client's socket ([`crate::peer`]). Addresses that are not loopback are refused at start, because
//! there is no authentication and no encryption yet.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use crate::http::{self, Answers, Caller};

/// Connections at a time. Each client has one or two; a full house makes the next one wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may be idle or take to send a head; hyper counts both alike. Clients in the field keep one
/// connection and do not notice when it is closed within two minutes.
const IDLE_SECONDS_MAX: u64 = 180;
/// Bytes of a request's head; ours have 300, those with authentication headers a few thousand.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pause after an accept that failed for want of descriptors or memory, so that the loop does not spin.
const ACCEPT_PAUSE_MS: u64 = 50;

/// Where clients may connect, bound and not yet accepting.
#[derive(Debug)]
pub struct Doors {
    unix: UnixListener,
    unix_path: PathBuf,
    tcp: Vec<TcpListener>,
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not a loopback address.
    #[error(
        "refusing to listen on {0}: there is no authentication and no encryption yet, so only loopback addresses such as 127.0.0.1 and [::1] are served; for access from elsewhere forward a port over SSH"
    )]
    NotLoopback(SocketAddr),
    /// Somebody listens there.
    #[error("{0} is in use: another daemon may be running; choose another address with --listen, or --no-tcp")]
    AddressInUse(SocketAddr),
    /// Another daemon answers on the socket.
    #[error("another daemon is listening on {0}: stop it first, or choose another socket with --socket")]
    SocketInUse(PathBuf),
    /// Something else.
    #[error("could not listen on {place}: {source}")]
    Io {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
}

impl Doors {
    /// Takes the places where clients will connect. Nobody is let in yet. Members of `group` may use the Unix socket.
    ///
    /// # Errors
    /// When an address is not loopback, or a place is taken or forbidden.
    pub async fn bind(socket: &Path, group: Option<u32>, addresses: &[SocketAddr]) -> Result<Self, ListenError> {
        if let Some(address) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
            return Err(ListenError::NotLoopback(*address));
        }
        let mut tcp = Vec::new();
        for &address in addresses {
            tcp.push(TcpListener::bind(address).await.map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ListenError::AddressInUse(address),
                _ => ListenError::Io { place: address.to_string(), source },
            })?);
        }
        Ok(Self { unix: bind_unix(socket, group)?, unix_path: socket.to_owned(), tcp })
    }

    /// What to connect to, for the ready line: URLs as the client takes them.
    pub fn urls(&self) -> Vec<String> {
        let tcp = self.tcp.iter().filter_map(|listener| listener.local_addr().ok());
        let tcp = tcp.map(|address| format!("http://{address}/wsman"));
        std::iter::once(format!("unix:{}", self.unix_path.display())).chain(tcp).collect()
    }

    /// Lets clients in until `closing` becomes true; returns when the last connection has ended.
    pub async fn serve(self, answers: impl Answers, closing: watch::Receiver<bool>) {
        let house = House { answers, closing, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
        let mut loops = tokio::task::JoinSet::new();
        for listener in self.tcp {
            loops.spawn(house.clone().tcp_loop(listener));
        }
        loops.spawn(house.clone().unix_loop(self.unix));
        while loops.join_next().await.is_some() {}
        // Leaving the file behind would make the next client wait for nobody.
        let _ = std::fs::remove_file(&self.unix_path);
        let all = u32::try_from(CONNECTIONS_MAX).expect("a small constant");
        // The semaphore is never closed.
        let _ = house.places.acquire_many(all).await;
    }
}

/// What every connection is served with.
#[derive(Clone)]
struct House<A> {
    answers: A,
    closing: watch::Receiver<bool>,
    places: Arc<Semaphore>,
}

impl<A: Answers> House<A> {
    async fn unix_loop(mut self, listener: UnixListener) {
        while let Some(accepted) = self.next(listener.accept()).await {
            let Some((stream, _)) = settle(accepted).await else { continue };
            let caller = match stream.peer_cred() {
                Ok(credentials) => Caller::User(credentials.uid()),
                Err(error) => Caller::Stranger(format!("the caller's credentials could not be read: {error}")),
            };
            self.host(stream, caller).await;
        }
    }

    async fn tcp_loop(mut self, listener: TcpListener) {
        while let Some(accepted) = self.next(listener.accept()).await {
            let Some((stream, client)) = settle(accepted).await else { continue };
            // Replies are one write each.
            let _ = stream.set_nodelay(true);
            let caller = match stream.local_addr() {
                Ok(server) => tokio::task::spawn_blocking(move || admit(client, server)).await,
                Err(error) => Ok(Caller::Stranger(error.to_string())),
            };
            let caller = caller.unwrap_or_else(|error| Caller::Stranger(error.to_string()));
            self.host(stream, caller).await;
        }
    }

    /// What `future` gives, or `None` when it is time to close.
    async fn next<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = told(&mut self.closing) => None,
            value = future => Some(value),
        }
    }

    /// Serves one connection in a task of its own, as soon as there is a place.
    async fn host(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, caller: Caller) {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        let Self { answers, mut closing, .. } = self.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| http::respond(request, &caller, &answers));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(IDLE_SECONDS_MAX))
                .max_buf_size(HEAD_BYTES_MAX)
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = told(&mut closing) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
            drop(place);
        });
    }
}

/// Returns when it is time to close. Nothing of the channel stays locked, as it would if its answer were kept.
async fn told(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Whether the owner of a TCP client may come in.
fn admit(client: SocketAddr, server: SocketAddr) -> Caller {
    let own = rustix::process::geteuid().as_raw();
    match crate::peer::owner_of(client, server) {
        Ok(Some(uid)) if uid == own || uid == 0 => Caller::User(uid),
        Ok(Some(uid)) => Caller::Stranger(format!("user {uid} is neither the daemon's user {own} nor root")),
        Ok(None) => Caller::Stranger("the owner of the connection could not be found".to_owned()),
        Err(error) => Caller::Stranger(format!("the owner of the connection could not be found: {error}")),
    }
}

/// An accepted connection; `None` after a pause if accepting failed, which passes when others close theirs.
async fn settle<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(connection) => Some(connection),
        Err(error) => {
            tracing::warn!(%error, "could not accept a connection");
            tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            None
        }
    }
}

fn bind_unix(path: &Path, group: Option<u32>) -> Result<UnixListener, ListenError> {
    let wrap = |source| ListenError::Io { place: path.display().to_string(), source };
    // A file without a listener was left by a daemon that was killed; the move below replaces it.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::SocketInUse(path.to_owned()));
    }
    private_socket(path, group).map_err(wrap)
}

/// A socket that only its owner and perhaps a group may use, from its first moment: bound under another name and moved when its mode is set.
fn private_socket(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(".new");
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::os::unix::fs::chown(&hidden, None, group)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&hidden, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::http::{Question, Reply};

    /// Says what it was asked.
    #[derive(Clone)]
    struct Echo;

    impl Answers for Echo {
        async fn answer(&self, question: Question) -> Reply {
            let body = format!("{} {} explain={}", question.content_type, question.body.len(), question.explain);
            Reply { status: 200, content_type: "text/plain", body: body.into_bytes() }
        }
    }

    async fn open() -> (tempfile::TempDir, PathBuf, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let doors = Doors::bind(&path, None, &["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (close, closing) = watch::channel(false);
        let task = tokio::spawn(doors.serve(Echo, closing));
        (directory, path, close, task)
    }

    /// What comes back on one connection until the server closes it, on one line and without dates and lengths.
    async fn converse(path: PathBuf, request: String) -> String {
        let exchange = move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let dull = ["date:", "content-length:", "content-type: text/plain"];
            let lines = answer.lines().filter(|line| !dull.iter().any(|dull| line.starts_with(dull)));
            lines.collect::<Vec<_>>().join(" | ")
        };
        tokio::task::spawn_blocking(exchange).await.unwrap()
    }

    fn post(path: &str, headers: &str, body: &str) -> String {
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
    }

    /// Holds: WIRE-A1-1, WIRE-A1-2, WIRE-A4-1, WIRE-A4-2, WIRE-A6-1, WIRE-L5-2
    #[tokio::test]
    async fn requests_are_sorted_out() {
        let (_directory, path, close, task) = open().await;
        let check = async |request: String, expected: Expect| {
            expected.assert_eq(&converse(path.clone(), request).await);
        };
        let last = "Connection: close\r\n";
        let typed = format!("Content-Type: a/b\r\n{last}");
        let preferring = format!("Prefer: x, explained-refusals\r\n{last}");
        let page = format!("Origin: http://example.org\r\n{last}");
        let head = "POST /wsman HTTP/1.1\r\nHost: h\r\nConnection: close\r\n";
        check(
            post("/wsman?x=y", &typed, "body"),
            expect!["HTTP/1.1 200 OK | connection: close |  | a/b 4 explain=false"],
        )
        .await;
        check(
            post("/wsman", "", "1") + &post("/wsman/", last, "22"),
            expect!["HTTP/1.1 200 OK |  |  1 explain=falseHTTP/1.1 200 OK | connection: close |  |  2 explain=false"],
        )
        .await;
        check(post("/wsman", &preferring, ""), expect!["HTTP/1.1 200 OK | connection: close |  |  0 explain=true"])
            .await;
        check(
            post("/other", last, ""),
            expect!["HTTP/1.1 404 Not Found | connection: close |  | the service is at /wsman"],
        )
        .await;
        check(
            post("/wsman", &page, ""),
            expect!["HTTP/1.1 403 Forbidden | connection: close |  | web pages are not served"],
        )
        .await;
        check(format!("GET /wsman HTTP/1.1\r\nHost: h\r\n{last}\r\n"), expect!["HTTP/1.1 405 Method Not Allowed | allow: POST | connection: close |  | WS-Management is spoken with POST"]).await;
        check(
            format!("{head}Content-Length: 9999999\r\n\r\n"),
            expect!["HTTP/1.1 413 Payload Too Large | connection: close |  | a request has at most 512000 bytes"],
        )
        .await;
        check(
            format!("{head}Content-Length: 1\r\nExpect: 100-continue\r\n\r\nx"),
            expect!["HTTP/1.1 100 Continue |  | HTTP/1.1 200 OK | connection: close |  |  1 explain=false"],
        )
        .await;
        check(
            format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            expect!["HTTP/1.1 200 OK | connection: close |  |  3 explain=false"],
        )
        .await;
        check(
            "POST /wsman HTTP/1.0\r\nContent-Length: 2\r\n\r\nab".to_owned(),
            expect!["HTTP/1.0 200 OK |  |  2 explain=false"],
        )
        .await;
        close.send(true).unwrap();
        task.await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_hold_up_the_shutdown() {
        let (_directory, path, close, task) = open().await;
        let idle = UnixStream::connect(&path).unwrap();
        close.send(true).unwrap();
        task.await.unwrap();
        drop(idle);
    }

    #[tokio::test]
    async fn doors_that_must_stay_shut_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let bind = async |address: &str| {
            Doors::bind(&path, None, &[address.parse().unwrap()]).await.map(drop).map_err(|error| error.to_string())
        };
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
            let error = bind(address).await.unwrap_err();
            assert!(error.starts_with(&format!("refusing to listen on {address}")), "{error}");
        }
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let holder = TcpListener::bind(&taken).await.unwrap();
        assert!(bind(&taken).await.unwrap_err().contains("is in use"));
        drop(holder);

        let first = Doors::bind(&path, None, &[]).await.unwrap();
        let error = Doors::bind(&path, None, &[]).await.unwrap_err().to_string();
        assert!(error.contains("another daemon is listening on"), "{error}");
        drop(first);
        assert!(path.exists(), "a killed daemon leaves its socket behind");
        Doors::bind(&path, None, &[]).await.unwrap();
    }

    #[test]
    fn strangers_are_told_apart() {
        let nobody = "127.0.0.1:1".parse().unwrap();
        assert!(matches!(admit(nobody, nobody), Caller::Stranger(_)));
    }
}
