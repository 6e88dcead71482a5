//! The doors: a Unix socket, HTTP and HTTPS, with accept loops of our own.
//!
//! ```text
//!   accept ──▶ lobby: who owns the other end? ──▶ a place ──▶ TLS ──▶ hyper, HTTP/1.1, keep-alive ──▶ crate::http
//!     │                                             │ strangers: a time limit until they are let in
//!     └─ until the shutdown: connections finish the request they are at
//! ```
//! Who may come in: over the Unix socket whoever the file's mode lets in (its owner, root, and a group if one is named),
//! over TCP on loopback the daemon's user and root, told by the owner of the client's socket ([`crate::peer`]), everybody
//! else as a user who proves it ([`crate::guest`]). An accept loop never waits for a client: the lobby waits for the
//! kernel only, and places are taken in tasks of their own ([`crate::places`]).

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use auth::context::{EndPoint, Peer};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::guest::{Arrival, Gate, Guest};
use crate::http::{self, Answers};
use crate::places::{Place, Places, Source};
use crate::tls::Tls;

/// Connections whose owner is being found out. The kernel answers at once, so this bounds descriptors, not clients.
const LOBBY_MAX: usize = 64;
/// How long somebody may be connected without having been let in: a handshake takes three requests and, on a busy host, a second.
const STRANGER_SECONDS_MAX: u64 = 20;
/// How long a connection may be idle or take to send a head; hyper counts both alike. Clients in the field keep one
/// connection and do not notice when it is closed within two minutes.
const IDLE_SECONDS_MAX: u64 = 180;
/// Bytes of a request's head; ours have 300, those with Kerberos tickets up to [`auth::connection::AUTHORIZATION_BYTES_MAX`].
const HEAD_BYTES_MAX: usize = 96 << 10;
/// Pause after an accept that failed for want of descriptors or memory, so that the loop does not spin.
const ACCEPT_PAUSE_MS: u64 = 50;

/// Where clients shall connect.
#[derive(Clone, Debug)]
pub struct Addresses<'a> {
    /// The Unix socket.
    pub socket: &'a Path,
    /// Whose members may use it, besides its owner.
    pub group: Option<u32>,
    /// HTTP.
    pub http: &'a [SocketAddr],
    /// HTTPS.
    pub https: &'a [SocketAddr],
    /// What HTTPS is spoken with; without it there is none.
    pub tls: Option<Arc<Tls>>,
}

/// Where clients may connect, bound and not yet accepting.
#[derive(Debug)]
pub struct Doors {
    unix: UnixListener,
    unix_path: PathBuf,
    http: Vec<TcpListener>,
    https: Vec<(TcpListener, Arc<Tls>)>,
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
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
    /// Takes the places where clients will connect. Nobody is let in yet.
    ///
    /// # Errors
    /// When a place is taken or forbidden.
    pub async fn bind(addresses: &Addresses<'_>) -> Result<Self, ListenError> {
        let mut http = Vec::new();
        for &address in addresses.http {
            http.push(bind_tcp(address).await?);
        }
        let mut https = Vec::new();
        for &address in addresses.tls.iter().flat_map(|_| addresses.https) {
            https.extend(bind_tcp(address).await.map(|listener| addresses.tls.clone().map(|tls| (listener, tls)))?);
        }
        let unix = bind_unix(addresses.socket, addresses.group)?;
        Ok(Self { unix, unix_path: addresses.socket.to_owned(), http, https })
    }

    /// What to connect to, for the ready line: URLs as the client takes them.
    pub fn urls(&self) -> Vec<String> {
        let url = |scheme: &str, listener: &TcpListener| {
            listener.local_addr().ok().map(|address| format!("{scheme}://{address}/wsman"))
        };
        let mut urls = vec![format!("unix:{}", self.unix_path.display())];
        urls.extend(self.http.iter().filter_map(|listener| url("http", listener)));
        urls.extend(self.https.iter().filter_map(|(listener, _)| url("https", listener)));
        urls
    }

    /// Lets clients in until `closing` becomes true; returns when the last connection has ended.
    pub async fn serve(self, answers: impl Answers, gate: Arc<Gate>, closing: watch::Receiver<bool>) {
        let lobby = Arc::new(Semaphore::new(LOBBY_MAX));
        let house = House { answers, gate, closing, lobby, places: Places::default() };
        let mut loops = JoinSet::new();
        for listener in self.http {
            loops.spawn(house.clone().tcp_loop(listener, None));
        }
        for (listener, tls) in self.https {
            loops.spawn(house.clone().tcp_loop(listener, Some(tls)));
        }
        loops.spawn(house.unix_loop(self.unix));
        let mut rest = Vec::new();
        while let Some(connections) = loops.join_next().await {
            rest.extend(connections.ok());
        }
        // Leaving the file behind would make the next client wait for nobody.
        let _ = std::fs::remove_file(&self.unix_path);
        for mut connections in rest {
            while connections.join_next().await.is_some() {}
        }
    }
}

/// What every connection is served with.
#[derive(Clone)]
struct House<A> {
    answers: A,
    gate: Arc<Gate>,
    closing: watch::Receiver<bool>,
    lobby: Arc<Semaphore>,
    places: Places,
}

impl<A: Answers> House<A> {
    async fn unix_loop(mut self, listener: UnixListener) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        while let Some(accepted) = self.next(listener.accept(), &mut connections).await {
            let Some((stream, _)) = settle(accepted).await else { continue };
            let arrival = Arrival::unix(stream.peer_cred().ok().map(|credentials| credentials.uid()));
            connections.spawn(self.clone().host(stream, arrival, None));
        }
        connections
    }

    async fn tcp_loop(mut self, listener: TcpListener, tls: Option<Arc<Tls>>) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        while let Some(accepted) = self.next(listener.accept(), &mut connections).await {
            let Some((stream, client)) = settle(accepted).await else { continue };
            // Never closed; it fills only while the kernel is asked.
            let Ok(waiting) = Arc::clone(&self.lobby).acquire_owned().await else { break };
            connections.spawn(self.clone().receive(stream, client, tls.clone(), waiting));
        }
        connections
    }

    /// What `future` gives, or `None` when it is time to close. Connections that have ended are forgotten meanwhile.
    async fn next<T>(&mut self, future: impl Future<Output = T>, connections: &mut JoinSet<()>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                () = told(&mut self.closing) => return None,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                value = future.as_mut() => return Some(value),
            }
        }
    }

    /// Finds out who it is that came over TCP, and serves him.
    async fn receive(
        self,
        stream: TcpStream,
        client: SocketAddr,
        tls: Option<Arc<Tls>>,
        waiting: OwnedSemaphorePermit,
    ) {
        // Replies are one write each.
        let _ = stream.set_nodelay(true);
        let door = if tls.is_some() { "https" } else { "http" };
        let arrival = match stream.local_addr() {
            Ok(server) => arrival(client, server, door).await,
            Err(error) => {
                tracing::debug!(%error, "a connection broke before it was looked at");
                return;
            }
        };
        drop(waiting);
        self.host(stream, arrival, tls).await;
    }

    /// Serves one connection.
    async fn host(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        mut arrival: Arrival,
        tls: Option<Arc<Tls>>,
    ) {
        let Some(place) = self.place(&arrival) else {
            tracing::warn!(from = %arrival.from, "too many connections of the daemon's own user");
            return;
        };
        let Some(tls) = tls else { return self.converse(stream, arrival, place).await };
        let presented = tls.current();
        arrival.peer.tls = Some(EndPoint(presented.end_point.clone()));
        let leave = place.leave();
        let handshake = tokio_rustls::TlsAcceptor::from(Arc::clone(&presented.config)).accept(stream);
        let limit = Duration::from_secs(STRANGER_SECONDS_MAX);
        let reason = tokio::select! {
            () = leave.notified() => "crowded out by others from there".to_owned(),
            accepted = tokio::time::timeout(limit, handshake) => match accepted {
                Ok(Ok(stream)) => return self.converse(stream, arrival, place).await,
                Ok(Err(error)) => format!("no TLS: {error}"),
                Err(_) => "no TLS in time".to_owned(),
            },
        };
        Guest::new(self.gate, arrival, place).tell("connection", "refused", reason);
    }

    /// A place of the right kind; `None` if the owners have none left.
    fn place(&self, arrival: &Arrival) -> Option<Place> {
        match arrival.trusted {
            Some(uid) if is_owner(uid) => self.places.owner().ok(),
            _ => Some(self.places.stranger(arrival.source.clone())),
        }
    }

    async fn converse(
        mut self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        arrival: Arrival,
        place: Place,
    ) {
        let is_stranger = arrival.trusted.is_none_or(|uid| !is_owner(uid));
        let leave = place.leave();
        let guest = Guest::new(self.gate, arrival, place);
        let service = service_fn(|request| http::respond(request, &guest, &self.answers));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(IDLE_SECONDS_MAX))
            .max_buf_size(HEAD_BYTES_MAX)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let overstays = async {
            tokio::select! {
                // Who is let in may stay.
                biased;
                () = guest.admitted() => std::future::pending().await,
                () = leave.notified() => "crowded out by others from there",
                () = tokio::time::sleep(Duration::from_secs(STRANGER_SECONDS_MAX)) => "nobody was let in in time",
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            reason = overstays, if is_stranger => {
                guest.tell("connection", "refused", reason.to_owned());
                return;
            }
            () = told(&mut self.closing) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }
}

/// Returns when it is time to close. Nothing of the channel stays locked, as it would if its answer were kept.
async fn told(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Who came over TCP.
async fn arrival(client: SocketAddr, server: SocketAddr, door: &'static str) -> Arrival {
    let address = client.ip().to_canonical();
    if !address.is_loopback() {
        let peer = Peer { address, owner: None, tls: None };
        return Arrival { door, from: client.to_string(), source: Source::host(address), peer, trusted: None };
    }
    let found = tokio::task::spawn_blocking(move || crate::peer::owner_of(client, server)).await;
    let owner = match found {
        Ok(Ok(owner)) => owner,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the owner of a local connection could not be found");
            None
        }
        // A panic, which has been printed.
        Err(_) => None,
    };
    let from = owner.map_or_else(|| client.to_string(), |uid| format!("{client} uid:{uid}"));
    let source = owner.map_or(Source::ThisHost, Source::Uid);
    let peer = Peer { address, owner, tls: None };
    Arrival { door, from, source, peer, trusted: owner.filter(|&uid| is_owner(uid)) }
}

/// Whether this is the daemon's user or root.
fn is_owner(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::AddressInUse(address),
        _ => ListenError::Io { place: address.to_string(), source },
    })
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
mod tests;
