//! HTTP/1.1 as far as this client needs it: POST on one connection, over a Unix socket, TCP or TLS (RFC 9112).
//!
//! The connection is kept from one request to the next, because waiting for a job asks many times a second. Answers are
//! bounded before they are read. Blocking: the client does one thing at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use auth::context::EndPoint;

use crate::tls::{self, Trust};

/// Longest status line and headers we read; ours are below 500 bytes, proxies add little.
const HEAD_BYTES_MAX: u64 = 16 << 10;
/// Longest body we read: a list of thousands of machines fits, a runaway peer does not fill memory.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// How long we wait for an answer. The server answers within the OperationTimeout of 60 s; the rest is for a busy host.
const ANSWER_SECONDS_MAX: u64 = 90;
/// How long we try to connect over TCP; a host in the same network answers within milliseconds.
const CONNECT_SECONDS_MAX: u64 = 5;

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// Whether to speak TLS on it.
        tls: bool,
        /// Host name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
        /// Path of the service.
        path: String,
    },
}

/// Why a URL is not one we can use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    /// Something else.
    #[error("expected http://HOST[:PORT][/PATH], https://HOST[:PORT][/PATH] or unix:PATH")]
    Malformed,
}

impl std::str::FromStr for Target {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if let Some(path) = text.strip_prefix("unix:") {
            // Both unix:/run/x and unix:///run/x are in use.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(UrlError::Malformed) } else { Ok(Target::Unix(path.into())) };
        }
        let (tls, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://").ok_or(UrlError::Malformed)?),
        };
        let usual = if tls { "5986" } else { "5985" };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, "wsman"));
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some(usual))),
            None => authority.split_once(':').map_or((authority, Some(usual)), |(host, port)| (host, Some(port))),
        };
        let port = port.and_then(|port| port.parse().ok()).ok_or(UrlError::Malformed)?;
        // Anything else could smuggle a header into the request.
        let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.contains(['@', '[', ']']) || !clean(host) || !clean(path) {
            return Err(UrlError::Malformed);
        }
        Ok(Target::Tcp { tls, host: host.to_owned(), port, path: format!("/{path}") })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
            Target::Tcp { tls, host, port, path } => {
                let scheme = if *tls { "https" } else { "http" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{open}{host}{close}:{port}{path}")
            }
        }
    }
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection.
    #[error("cannot connect to {target}")]
    Connect {
        /// Where to.
        target: Target,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {target} broke")]
    Io {
        /// Where to.
        target: Target,
        /// How.
        source: io::Error,
    },
    /// The service does not let us in, or is not the one we want.
    #[error("cannot log in at {target}: {reason}")]
    Login {
        /// Where.
        target: Target,
        /// Why not.
        reason: String,
    },
    /// What came back is not HTTP as we know it.
    #[error("{target} answered something that is not HTTP: {reason}")]
    Malformed {
        /// Who.
        target: Target,
        /// What is wrong.
        reason: &'static str,
    },
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Content-Type, empty if absent.
    pub content_type: String,
    /// The WWW-Authenticate headers.
    pub authenticate: Vec<String>,
    /// Body.
    pub body: Vec<u8>,
}

/// Bytes both ways.
pub trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// A connection that opens itself when it is needed.
pub struct Connection {
    target: Target,
    trust: Trust,
    stream: Option<BufReader<Box<dyn Stream>>>,
    end_point: Option<EndPoint>,
}

impl Connection {
    /// A connection to `target`, not yet open. `trust` says which certificates are good enough, if it is TLS.
    pub fn new(target: Target, trust: Trust) -> Self {
        Self { target, trust, stream: None, end_point: None }
    }

    /// Opens it unless it is; returns whether it had to.
    ///
    /// # Errors
    /// When there is no connection, or TLS fails.
    pub fn open(&mut self) -> Result<bool, HttpError> {
        if self.stream.is_some() {
            return Ok(false);
        }
        let (stream, end_point) = connect(&self.target, &self.trust).map_err(|source| self.connect_error(source))?;
        (self.stream, self.end_point) = (Some(BufReader::new(stream)), end_point);
        Ok(true)
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Ends it; the next request opens a new one.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// What a login on this connection is bound to, if it is TLS.
    pub fn end_point(&self) -> Option<&EndPoint> {
        self.end_point.as_ref()
    }

    /// Where it goes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Sends `body` with these headers besides those that HTTP itself needs, and waits for the answer.
    ///
    /// # Errors
    /// When there is no connection, it breaks, or what comes back is not HTTP. The request may have been carried out
    /// then; nothing is repeated on its own.
    pub fn post(&mut self, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, HttpError> {
        self.open()?;
        let Some(mut stream) = self.stream.take() else {
            return Err(self.io_error(io::ErrorKind::NotConnected.into()));
        };
        send(&mut **stream.get_mut(), &self.target, headers, body).map_err(|source| self.io_error(source))?;
        let (answer, keep) = receive(&mut stream).map_err(|error| match error {
            ReceiveError::Io(source) => self.io_error(source),
            ReceiveError::Malformed(reason) => HttpError::Malformed { target: self.target.clone(), reason },
        })?;
        self.stream = keep.then_some(stream);
        Ok(answer)
    }

    fn connect_error(&self, source: io::Error) -> HttpError {
        HttpError::Connect { target: self.target.clone(), source }
    }

    fn io_error(&self, source: io::Error) -> HttpError {
        HttpError::Io { target: self.target.clone(), source }
    }
}

fn connect(target: &Target, trust: &Trust) -> io::Result<(Box<dyn Stream>, Option<EndPoint>)> {
    let limit = Some(Duration::from_secs(ANSWER_SECONDS_MAX));
    match target {
        Target::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(limit)?;
            stream.set_write_timeout(limit)?;
            Ok((Box::new(stream), None))
        }
        Target::Tcp { tls, host, port, .. } => {
            let stream = connect_tcp(host, *port)?;
            stream.set_read_timeout(limit)?;
            stream.set_write_timeout(limit)?;
            // A request is one write; waiting for more would only delay it.
            stream.set_nodelay(true)?;
            if !tls {
                return Ok((Box::new(stream), None));
            }
            let (stream, end_point) = tls::connect(stream, host, trust)?;
            Ok((Box::new(stream), Some(end_point)))
        }
    }
}

fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    use std::net::ToSocketAddrs;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(CONNECT_SECONDS_MAX)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn send(stream: &mut dyn Stream, target: &Target, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
    let (host, path) = match target {
        Target::Unix(_) => ("localhost".to_owned(), "/wsman"),
        Target::Tcp { host, port, path, .. } if host.contains(':') => (format!("[{host}]:{port}"), path.as_str()),
        Target::Tcp { host, port, path, .. } => (format!("{host}:{port}"), path.as_str()),
    };
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut request = (head + "\r\n").into_bytes();
    request.extend_from_slice(body);
    stream.write_all(&request)?;
    stream.flush()
}

enum ReceiveError {
    Io(io::Error),
    Malformed(&'static str),
}

impl From<io::Error> for ReceiveError {
    fn from(error: io::Error) -> Self {
        ReceiveError::Io(error)
    }
}

/// How long a body is.
enum Length {
    Known(u64),
    Chunked,
    UntilClose,
}

/// One answer, and whether the connection can be used again.
fn receive(stream: &mut dyn BufRead) -> Result<(Answer, bool), ReceiveError> {
    loop {
        let mut head = Read::take(&mut *stream, HEAD_BYTES_MAX);
        let status_line = line(&mut head)?;
        let (version, rest) = status_line.split_once(' ').ok_or(ReceiveError::Malformed("no status line"))?;
        let status =
            rest.get(..3).and_then(|code| code.parse().ok()).ok_or(ReceiveError::Malformed("no status code"))?;
        if !version.starts_with("HTTP/1.") {
            return Err(ReceiveError::Malformed("not version 1"));
        }
        let mut content_type = String::new();
        let mut authenticate = Vec::new();
        let mut length = Length::UntilClose;
        let mut keep = version != "HTTP/1.0";
        loop {
            let line = line(&mut head)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or(ReceiveError::Malformed("a header without colon"))?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-type" => content_type = value.to_owned(),
                "www-authenticate" => authenticate.push(value.to_owned()),
                "content-length" => {
                    let bytes = value.parse().map_err(|_| ReceiveError::Malformed("a bad Content-Length"))?;
                    length = Length::Known(bytes);
                }
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => length = Length::Chunked,
                "connection" if value.eq_ignore_ascii_case("close") => keep = false,
                _ => {}
            }
        }
        // 100 Continue and its kind: the real answer follows.
        if (100..200).contains(&status) {
            continue;
        }
        keep &= !matches!(length, Length::UntilClose);
        let body = receive_body(stream, &length)?;
        return Ok((Answer { status, content_type, authenticate, body }, keep));
    }
}

fn receive_body(stream: &mut dyn BufRead, length: &Length) -> Result<Vec<u8>, ReceiveError> {
    let mut body = Vec::new();
    match length {
        Length::Known(bytes) => read_exactly(stream, *bytes, &mut body)?,
        Length::UntilClose => {
            stream.take(BODY_BYTES_MAX + 1).read_to_end(&mut body)?;
            check_size(&body)?;
        }
        Length::Chunked => loop {
            let mut head = Read::take(&mut *stream, HEAD_BYTES_MAX);
            let size = line(&mut head)?;
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| ReceiveError::Malformed("a bad chunk size"))?;
            if size == 0 {
                // Trailers, of which we want none.
                while !line(&mut head)?.is_empty() {}
                break;
            }
            read_exactly(stream, size, &mut body)?;
            line(&mut Read::take(&mut *stream, HEAD_BYTES_MAX))?;
        },
    }
    Ok(body)
}

fn read_exactly(stream: &mut dyn BufRead, bytes: u64, body: &mut Vec<u8>) -> Result<(), ReceiveError> {
    if bytes > BODY_BYTES_MAX {
        return Err(ReceiveError::Malformed("the body is too long"));
    }
    let read = Read::take(&mut *stream, bytes).read_to_end(body)?;
    if u64::try_from(read).ok() != Some(bytes) {
        return Err(ReceiveError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    check_size(body)
}

fn check_size(body: &[u8]) -> Result<(), ReceiveError> {
    let fits = u64::try_from(body.len()).is_ok_and(|bytes| bytes <= BODY_BYTES_MAX);
    if fits { Ok(()) } else { Err(ReceiveError::Malformed("the body is too long")) }
}

/// A line without its end. The caller bounds `stream`; a line that does not end within the bound is malformed.
fn line(stream: &mut dyn BufRead) -> Result<String, ReceiveError> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(ReceiveError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    if line.pop() != Some(b'\n') {
        return Err(ReceiveError::Malformed("the head does not end"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| ReceiveError::Malformed("the head is not text"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check_answer(bytes: &str, expected: &Expect) {
        let text = match receive(&mut bytes.as_bytes()) {
            Ok((answer, keep)) => {
                let body = String::from_utf8_lossy(&answer.body);
                format!("{} {:?} {body:?} keep={keep}", answer.status, answer.content_type)
            }
            Err(ReceiveError::Io(error)) => format!("i/o: {:?}", error.kind()),
            Err(ReceiveError::Malformed(reason)) => format!("malformed: {reason}"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn answers_are_read() {
        check_answer(
            "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\ncontent-length: 3\r\n\r\nabcd",
            &expect![[r#"200 "text/x" "abc" keep=true"#]],
        );
        check_answer(
            "HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: r\r\n\r\n",
            &expect![[r#"500 "" "abc" keep=true"#]],
        );
        check_answer(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n",
            &expect![[r#"200 "" "" keep=false"#]],
        );
        check_answer("HTTP/1.0 200 OK\n\nto the end", &expect![[r#"200 "" "to the end" keep=false"#]]);
    }

    #[test]
    fn what_is_not_http_is_refused() {
        check_answer("", &expect!["i/o: UnexpectedEof"]);
        check_answer("SSH-2.0-OpenSSH_9.2\r\n", &expect!["malformed: no status line"]);
        check_answer("HTTP/1.1 abc\r\n\r\n", &expect!["malformed: no status code"]);
        check_answer("HTTP/2 200 OK\r\n\r\n", &expect!["malformed: not version 1"]);
        check_answer("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", &expect!["malformed: a bad Content-Length"]);
        check_answer(
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            &expect!["malformed: the body is too long"],
        );
        check_answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", &expect!["i/o: UnexpectedEof"]);
        check_answer(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
            &expect!["malformed: a bad chunk size"],
        );
        check_answer(
            &format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(20_000)),
            &expect!["malformed: the head does not end"],
        );
    }

    #[test]
    fn urls_are_read() {
        let check = |url: &str, expected: &str| {
            let text = url.parse::<Target>().map_or_else(|error| error.to_string(), |target| target.to_string());
            assert_eq!(text, expected, "{url}");
        };
        let malformed = UrlError::Malformed.to_string();
        check("http://127.0.0.1:5985/wsman", "http://127.0.0.1:5985/wsman");
        check("http://localhost", "http://localhost:5985/wsman");
        check("http://[::1]:80/x", "http://[::1]:80/x");
        check("http://[::1]/", "http://[::1]:5985/");
        check("unix:/run/x.sock", "unix:/run/x.sock");
        check("unix:///run/x.sock", "unix:/run/x.sock");
        check("https://h/wsman", "https://h:5986/wsman");
        check("https://[::1]", "https://[::1]:5986/wsman");
        check("http://user@h/wsman", &malformed);
        check("http://h:99999/", &malformed);
        check("http://h/a\r\nX: y", &malformed);
        check("unix:", &malformed);
        check("h:5985", &malformed);
    }
}
