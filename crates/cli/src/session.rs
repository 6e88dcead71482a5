//! A conversation with the daemon: queries, reads and method calls, and their failures in words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cim::embedded::EmbeddedInstance;
use cim::op::{Argument, Target};
use wsman::client::{self, Bag, CONTENT_TYPE, ClientError, Reply, Request, Stamp};

use crate::error::{Error, Kind, Result};
use crate::http::{self, HttpError};
use crate::login::Channel;

/// The namespace of machines and snapshots.
pub const NAMESPACE: &str = "root/virtualization/v2";
/// Rows of one page; a row has 2 to 4 KiB, so a page stays below the server's envelope limit.
const PAGE_ROWS: u32 = 100;
/// Rows of one answer at most: 50 snapshots each of a thousand machines, with their resources.
const ROWS_MAX: usize = 1_000_000;
/// How long the server may take: Windows' default.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Asks the daemon for refusals in words instead of bare return values; other servers ignore it (RFC 7240).
const EXPLAINED: (&str, &str) = ("Prefer", "explained-refusals");

/// `WBEM_E_NOT_FOUND`
const WBEM_NOT_FOUND: u32 = 0x8004_1002;
/// Return value of a method: done.
const COMPLETED: u32 = 0;
/// The same: a job does it.
const JOB_STARTED: u32 = 4096;

/// How a method call went.
#[derive(Debug)]
pub struct Called {
    /// The job that does it, if it is not done.
    pub job: Option<String>,
    /// The output parameters.
    pub outputs: Bag,
}

/// A conversation.
pub struct Session {
    channel: Channel,
    to: String,
}

/// Where the daemon's socket is if nobody says otherwise; the daemon has the same rule.
pub fn default_socket(root: bool, home: Option<&Path>, runtime: Option<&Path>) -> Option<PathBuf> {
    if root {
        return Some("/run/snapvisor/snapvisor.sock".into());
    }
    let base = runtime.map(Path::to_owned).or_else(|| Some(home?.join(".local/state")))?;
    Some(base.join("snapvisor/snapvisor.sock"))
}

/// The daemon's address: as told, else from `SNAPVISOR_SOCKET`, else where it usually is.
///
/// # Errors
/// When the address makes no sense, or there is none.
pub fn target(url: Option<&str>) -> Result<http::Target> {
    if let Some(url) = url {
        let wrong = |error| Error::new(Kind::Usage, format!("{url} is not an address of the daemon: {error}"));
        return url.parse().map_err(wrong);
    }
    let path = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let root = rustix::process::geteuid().is_root();
    let usual = || default_socket(root, path("HOME").as_deref(), path("XDG_RUNTIME_DIR").as_deref());
    let socket = path("SNAPVISOR_SOCKET").or_else(usual);
    socket.map(http::Target::Unix).ok_or_else(|| {
        Error::new(Kind::Usage, "there is no home directory to look for the daemon's socket in")
            .hint("say where the daemon is with --url")
    })
}

impl Session {
    /// A conversation over `channel`; nothing is sent yet.
    pub fn new(channel: Channel) -> Self {
        let to = match channel.target() {
            http::Target::Unix(_) => "http://localhost/wsman".to_owned(),
            tcp @ http::Target::Tcp { .. } => tcp.to_string(),
        };
        Self { channel, to }
    }

    /// All rows of a query.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub fn query(&mut self, wql: &str) -> Result<Vec<Bag>> {
        let first = Request::Enumerate { namespace: NAMESPACE.to_owned(), wql: wql.to_owned(), page: PAGE_ROWS };
        let mut request = first;
        let mut rows = Vec::new();
        loop {
            let Reply::Page(page) = self.ask(&request)? else { return Err(unexpected()) };
            rows.extend(page.rows);
            match page.context {
                Some(context) if rows.len() < ROWS_MAX => {
                    request = Request::Pull { namespace: NAMESPACE.to_owned(), context, page: PAGE_ROWS };
                }
                _ => return Ok(rows),
            }
        }
    }

    /// One instance, or `None` if it does not exist.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub fn get(&mut self, target: Target) -> Result<Option<Bag>> {
        match self.ask(&Request::Get(target)) {
            Ok(Reply::Instance(bag)) => Ok(Some(bag)),
            Ok(_) => Err(unexpected()),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Calls a method.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or the call is refused.
    pub fn invoke(&mut self, target: Target, method: &str, arguments: Vec<(String, Argument)>) -> Result<Called> {
        let request = Request::Invoke { target, method: method.to_owned(), arguments };
        let reply = self.ask(&request).map_err(|error| match error.kind {
            Kind::Failed => Error { kind: Kind::Refused, ..error },
            _ => error,
        })?;
        let Reply::Method(reply) = reply else { return Err(unexpected()) };
        let outputs = reply.outputs;
        match reply.return_value {
            COMPLETED => Ok(Called { job: None, outputs }),
            JOB_STARTED => {
                let job = outputs.reference("Job").and_then(|job| key_text(job, "InstanceID"));
                let job =
                    job.ok_or_else(|| Error::new(Kind::Failed, format!("{method} began a job and did not say which")))?;
                Ok(Called { job: Some(job), outputs })
            }
            code => Err(Error::new(Kind::Refused, format!("{method} was refused with code {code}"))),
        }
    }

    /// Begins to follow the events of a query; gives what to ask for them with.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or does not let events be followed.
    pub fn subscribe(&mut self, wql: &str) -> Result<String> {
        let request = Request::Subscribe { namespace: NAMESPACE.to_owned(), wql: wql.to_owned() };
        match self.ask(&request)? {
            Reply::Subscribed(context) => Ok(context),
            _ => Err(unexpected()),
        }
    }

    /// Waits for events; none if there are none in this time.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or the subscription is over.
    pub fn events(&mut self, context: &str, patience: Duration) -> Result<Vec<Bag>> {
        let (namespace, context) = (NAMESPACE.to_owned(), context.to_owned());
        match self.exchange(&Request::Pull { namespace, context, page: PAGE_ROWS }, patience)? {
            Ok(Reply::Page(page)) => Ok(page.rows),
            Ok(_) => Err(unexpected()),
            Err(ClientError::Fault { wsman_code: Some(client::TIMED_OUT), .. }) => Ok(Vec::new()),
            Err(error) => Err(client_error(error)),
        }
    }

    /// Follows events no longer. Should that not reach the daemon, the subscription expires.
    pub fn unsubscribe(&mut self, context: String) {
        let _ = self.ask(&Request::Release { namespace: NAMESPACE.to_owned(), context });
    }

    fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.exchange(request, TIMEOUT)?.map_err(client_error)
    }

    /// The reply, or the server's refusal as it came.
    fn exchange(&mut self, request: &Request, timeout: Duration) -> Result<std::result::Result<Reply, ClientError>> {
        let mut message_id = [0; 16];
        getrandom::fill(&mut message_id)
            .map_err(|error| Error::new(Kind::Failed, format!("the kernel gave no random bytes: {error}")))?;
        let envelope = request.to_envelope(Stamp { to: &self.to, message_id, timeout });
        let headers = [
            ("Content-Type", CONTENT_TYPE),
            ("User-Agent", concat!("snapvisor/", env!("CARGO_PKG_VERSION"))),
            EXPLAINED,
        ];
        let answer = self.channel.post(&headers, &envelope).map_err(transport_error)?;
        if answer.status == 403 {
            let reason = String::from_utf8_lossy(&answer.body);
            return Err(Error::new(Kind::Unreachable, format!("the daemon let us not in: {}", reason.trim())));
        }
        Ok(client::read(request, answer.status, &answer.content_type, &answer.body))
    }
}

/// A target in the namespace, without keys: enough for the services, of which there is one each.
pub fn class(name: &str) -> Target {
    Target::new(NAMESPACE, name)
}

/// An embedded instance, property by property.
pub fn embedded(class: &str, properties: &[(&str, &str)]) -> EmbeddedInstance {
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), Argument::Text((*value).to_owned())));
    EmbeddedInstance { class: class.to_owned(), properties: properties.collect() }
}

/// The text of a key.
pub fn key_text(target: &Target, name: &str) -> Option<String> {
    target.key(name).and_then(|value| value.as_str()).map(str::to_owned)
}

/// A text as it stands between single quotes in WQL.
pub fn wql_quoted(text: &str) -> String {
    text.replace('\\', r"\\").replace('\'', r"\'")
}

fn transport_error(error: HttpError) -> Error {
    use std::error::Error as _;
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    let message = format!("{error}{cause}");
    match error {
        HttpError::Connect { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Error::new(Kind::Unreachable, message)
                .hint("the user who runs the daemon, root and members of the daemon's group may connect, nobody else")
        }
        HttpError::Connect { target, source } => unreachable(&target, &source, message),
        HttpError::Login { .. } => Error::new(Kind::Refused, message),
        HttpError::Io { .. } => Error::new(Kind::Unreachable, message).hint("look at the daemon's log"),
        HttpError::Malformed { .. } => Error::new(Kind::Unreachable, message)
            .hint("is it a Snapvisor daemon? a port of https takes --transport https, or https:// in --url"),
    }
}

/// There is no connection: because of TLS, because of the name, or because nobody listens.
fn unreachable(target: &http::Target, source: &std::io::Error, message: String) -> Error {
    if let Some(error) = source.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        let (words, advice) = crate::tls::explain(error);
        return Error::new(Kind::Unreachable, format!("cannot connect to {target}: {words}")).hint(advice);
    }
    let advice = match target {
        http::Target::Tcp { host, .. } if !is_this_host(host) => {
            "is the name right, and does the service listen there? ours listens beyond its host only with --listen or --https-listen"
        }
        http::Target::Tcp { .. } | http::Target::Unix(_) => {
            "is the daemon running? start it with `snapvisor serve`, or say where it is with --url"
        }
    };
    Error::new(Kind::Unreachable, message).hint(advice)
}

fn is_this_host(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn client_error(error: ClientError) -> Error {
    match error {
        ClientError::Fault { reason, wmi_code, subcode, .. } => {
            let gone = wmi_code.map_or(subcode == "DestinationUnreachable", |code| code == WBEM_NOT_FOUND);
            let mut lines = reason.lines().map(str::trim).filter(|line| !line.is_empty());
            let kind = if gone { Kind::NotFound } else { Kind::Failed };
            let first = Error::new(kind, lines.next().unwrap_or("the daemon refused and did not say why"));
            // The daemon puts what to do on lines of their own.
            lines.fold(first, Error::hint)
        }
        ClientError::Http { status: 401 } => Error::new(Kind::Refused, "the service wants to know who asks")
            .hint("log in with --user NAME; over http a user with NTLM, or use https"),
        error @ (ClientError::Http { .. } | ClientError::Malformed { .. }) => {
            Error::new(Kind::Unreachable, error.to_string()).hint("is it a Snapvisor daemon?")
        }
    }
}

fn unexpected() -> Error {
    Error::new(Kind::Failed, "the daemon answered something else than was asked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_become_errors_with_hints() {
        let check = |reason: &str, wmi_code, subcode: &str, expected: &str| {
            let (reason, subcode) = (reason.to_owned(), subcode.to_owned());
            let error = client_error(ClientError::Fault { reason, subcode, wmi_code, wsman_code: None });
            assert_eq!(format!("{:?} {} {:?}", error.kind, error.message, error.hints), expected);
        };
        check("web runs\nturn it off", Some(0x8004_1001), "InternalError", r#"Failed web runs ["turn it off"]"#);
        check("no such job", Some(WBEM_NOT_FOUND), "DestinationUnreachable", "NotFound no such job []");
        check("gone", None, "DestinationUnreachable", "NotFound gone []");
        check("", None, "x", "Failed the daemon refused and did not say why []");
    }

    #[test]
    fn texts_are_quoted_for_wql() {
        assert_eq!(wql_quoted(r"Microsoft:1\it's"), r"Microsoft:1\\it\'s");
    }
}
