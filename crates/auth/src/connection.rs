//! One connection: what each request's `Authorization` header means for it, and what to answer.
//!
//! ```text
//!            ┌── fresh token (restarts) ──┐
//!            ▼                            │
//!  Fresh ─▶ Handshake ─ established ─▶ Authenticated ─▶ requests without a header are served
//!    ▲          │ refused                 │ user removed or disabled, header refused
//!    └──────────┴─────────────────────────┘
//! ```
//! Both forms of a handshake over HTTP (RFC 4559, MS-WSMV 3.1.4.1.30) come out of one rule: a leg that is not the last is
//! answered 401 with our token and its body is dropped; the last leg is served if it has a body, and answered 200 with
//! nothing if it has none. Basic is taken only where nobody reads along: over TLS, on this host, or where the policy
//! allows clear text.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::context::{
    Context, Established, Identity, Kerberos, Peer, Reason, Refusal, Seal, SealError, Step, Surroundings,
};
use crate::lockout::{Lockout, Source};
use crate::secret::{Password, Phc};
use crate::spnego;
use crate::users::{Role, User, Users, local_name};

/// Longest `Authorization` header. Kerberos tickets with many group memberships reach 48 KiB, in base64 64 KiB.
pub const AUTHORIZATION_BYTES_MAX: usize = 64 * 1024;

/// What is offered, to every connection of a listener.
#[derive(Clone)]
pub struct Policy {
    /// Whether Basic is offered, where it cannot be read by others.
    pub basic: bool,
    /// Whether Negotiate with NTLM is offered.
    pub ntlm: bool,
    /// Makes Kerberos contexts, if there is a keytab.
    pub kerberos: Option<Arc<dyn Kerberos>>,
    /// Whether clear text is fine even between hosts: Basic is offered there, and bodies need not be sealed.
    pub unencrypted: bool,
    /// How NTLM is spoken.
    pub settings: spnego::Settings,
}

/// What a request's head says.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The `Authorization` header, if there is one.
    pub authorization: Option<&'a str>,
    /// What the body is.
    pub body: BodyKind,
    /// Whether the header `WSMANIDENTIFY: unauthenticated` is there (DSP0226 11).
    pub identify: bool,
}

/// A request's body, as its headers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// There is none.
    Empty,
    /// An envelope in clear.
    Plain,
    /// `multipart/encrypted`.
    Sealed,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Serve it. If the body is sealed, [`crate::sealed::open`] has to open it first, with
    /// [`Connection::seal`]; if that fails, answer 400 and end the connection.
    Serve {
        /// Who asks.
        caller: Caller,
        /// `WWW-Authenticate` values of the reply: the last token of a handshake.
        headers: Vec<String>,
    },
    /// Serve it if it is `Identify`, and tell nothing but the protocol; refuse everything else with 401.
    Anonymous,
    /// Answer 200 without a body: the handshake is complete and there was nothing to serve.
    Done {
        /// Who it is.
        caller: Caller,
        /// `WWW-Authenticate` values: the last token.
        headers: Vec<String>,
    },
    /// Answer 401, keep the connection open, and drop the request's body.
    Challenge {
        /// `WWW-Authenticate` values, each in a header line of its own.
        headers: Vec<String>,
        /// Why the client is not let in, for the log; `None` if it has only been asked who it is.
        refusal: Option<Refusal>,
    },
    /// Refuse to serve: the body is in clear and must not be. WinRM answers 500 to this; the connection stays as it is.
    Unencrypted,
}

/// Somebody who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name of the user or Kerberos principal, as the users file has it.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// How he proved it.
    pub method: Method,
}

/// A way of proving who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A password in the header.
    Basic,
    /// Negotiate, and NTLM or Kerberos by it.
    Negotiate,
}

/// A connection.
pub struct Connection {
    policy: Arc<Policy>,
    peer: Peer,
    phase: Phase,
}

enum Phase {
    Fresh,
    Handshake { scheme: &'static str, context: Box<dyn Context> },
    Authenticated(Session),
}

struct Session {
    identity: Identity,
    method: Method,
    seal: Option<Box<dyn Seal>>,
    /// For Basic: the header that was right, and the hash it was checked against. Clients send it with each request, and
    /// Argon2 is dear.
    basic: Option<(Zeroizing<String>, Phc)>,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(policy: Arc<Policy>, peer: Peer) -> Self {
        Self { policy, peer, phase: Phase::Fresh }
    }

    /// Decides about one request. Takes tens of milliseconds when a password is verified: call it where that is no harm.
    pub fn authorize(&mut self, head: Head<'_>, around: &Surroundings<'_>, lockout: &Mutex<Lockout>) -> Verdict {
        let Some(header) = head.authorization else { return self.without_header(head, around.users) };
        // Whatever is wrong with a header, nobody is let in by an earlier one.
        let before = std::mem::replace(&mut self.phase, Phase::Fresh);
        let outcome = match Credentials::parse(header) {
            Err(reason) => Err(Refusal::from(reason)),
            Ok(Credentials::Basic { name, password }) => {
                self.basic(before, header, (&name, &password), around, lockout).map(|session| (session, Vec::new()))
            }
            Ok(Credentials::Token { scheme, token }) => match self.token(before, scheme, &token, around, lockout) {
                Ok(Leg::Last(session, headers)) => Ok((session, headers)),
                Ok(Leg::Next(header)) => return Verdict::Challenge { headers: vec![header], refusal: None },
                Err(refusal) => Err(refusal),
            },
        };
        match outcome.and_then(|(session, headers)| Ok((session.caller(around.users)?, session, headers))) {
            Ok((caller, session, headers)) => {
                self.phase = Phase::Authenticated(session);
                self.admit(head.body, caller, headers)
            }
            Err(refusal) => self.challenge(Some(refusal)),
        }
    }

    /// Whether a session key is there, so that bodies can be sealed.
    pub fn can_seal(&self) -> bool {
        matches!(&self.phase, Phase::Authenticated(Session { seal: Some(_), .. }))
    }

    /// The protection of this connection's messages.
    ///
    /// # Errors
    /// When there is no session key.
    pub fn seal(&mut self) -> Result<&mut (dyn Seal + 'static), SealError> {
        match &mut self.phase {
            Phase::Authenticated(Session { seal: Some(seal), .. }) => Ok(seal.as_mut()),
            _ => Err(SealError::NoKey),
        }
    }

    fn without_header(&mut self, head: Head<'_>, users: &Users) -> Verdict {
        if let Phase::Authenticated(session) = &self.phase {
            // A request without a body asks how one may log in. There is a client that asks so before each of its first
            // requests, and takes anything but a 401 for a reason to send its password no more.
            if session.method == Method::Basic && head.body == BodyKind::Empty {
                return self.challenge(None);
            }
            return match session.caller(users) {
                Ok(caller) => self.admit(head.body, caller, Vec::new()),
                Err(refusal) => {
                    self.phase = Phase::Fresh;
                    self.challenge(Some(refusal))
                }
            };
        }
        self.phase = Phase::Fresh;
        if head.identify && head.body == BodyKind::Plain { Verdict::Anonymous } else { self.challenge(None) }
    }

    fn admit(&self, body: BodyKind, caller: Caller, headers: Vec<String>) -> Verdict {
        match body {
            BodyKind::Empty => Verdict::Done { caller, headers },
            BodyKind::Plain if !self.is_private() => Verdict::Unencrypted,
            BodyKind::Plain | BodyKind::Sealed => Verdict::Serve { caller, headers },
        }
    }

    /// Whether nobody else reads what goes over this connection in clear, or nobody minds.
    fn is_private(&self) -> bool {
        self.peer.tls.is_some() || self.peer.is_loopback() || self.policy.unencrypted
    }

    fn offers_basic(&self) -> bool {
        self.policy.basic && self.is_private()
    }

    fn challenge(&self, refusal: Option<Refusal>) -> Verdict {
        let mut headers = Vec::new();
        if self.policy.ntlm || self.policy.kerberos.is_some() {
            headers.push("Negotiate".to_owned());
        }
        if self.policy.kerberos.is_some() {
            headers.push("Kerberos".to_owned());
        }
        if self.offers_basic() {
            headers.push("Basic realm=\"WSMAN\"".to_owned());
        }
        Verdict::Challenge { headers, refusal }
    }

    fn basic(
        &self,
        before: Phase,
        header: &str,
        (name, password): (&str, &Password),
        around: &Surroundings<'_>,
        lockout: &Mutex<Lockout>,
    ) -> Result<Session, Refusal> {
        if !self.offers_basic() {
            return Err(Reason::NotOffered("Basic").into());
        }
        let known = around.users.find(name);
        if let (Phase::Authenticated(session), Some(user)) = (before, known)
            && session.was_proved_by(header, user)
        {
            return Ok(session);
        }
        let refusal = |reason| Refusal { reason, claimed: Some(name.to_owned()) };
        let source = Source::from(&self.peer);
        let may_succeed = lock(lockout).attempt(known.map(|user| user.name.as_str()), source, around.now);
        let user = around.users.verify(name, password).ok_or_else(|| refusal(Reason::Credentials))?;
        if !may_succeed {
            return Err(refusal(Reason::Locked));
        }
        lock(lockout).succeeded(&user.name, source);
        Ok(Session {
            identity: Identity::User(user.name.clone()),
            method: Method::Basic,
            seal: None,
            basic: Some((Zeroizing::new(header.to_owned()), user.password.clone())),
        })
    }

    fn token(
        &mut self,
        before: Phase,
        scheme: &'static str,
        token: &[u8],
        around: &Surroundings<'_>,
        lockout: &Mutex<Lockout>,
    ) -> Result<Leg, Refusal> {
        let mut context = match before {
            Phase::Handshake { context, scheme: begun } if begun == scheme && !spnego::is_first(token) => context,
            _ => spnego::accept(&self.policy, &self.peer),
        };
        let reply = |token: &[u8]| format!("{scheme} {}", BASE64_STANDARD.encode(token));
        match context.step(token, around) {
            Step::Continue(answer) => {
                self.phase = Phase::Handshake { scheme, context };
                Ok(Leg::Next(reply(&answer)))
            }
            Step::Established(Established { identity, token, seal }) => {
                if let Identity::User(name) = &identity {
                    self.count(name, around, lockout, true)?;
                }
                let session = Session { identity, method: Method::Negotiate, seal, basic: None };
                Ok(Leg::Last(session, token.iter().map(|token| reply(token)).collect()))
            }
            Step::Refused(refusal) => {
                if let Some(name) = &refusal.claimed {
                    self.count(name, around, lockout, false)?;
                }
                Err(refusal)
            }
        }
    }

    /// Counts an attempt by token, which is known to be right or wrong already.
    fn count(
        &self,
        name: &str,
        around: &Surroundings<'_>,
        lockout: &Mutex<Lockout>,
        is_right: bool,
    ) -> Result<(), Refusal> {
        let source = Source::from(&self.peer);
        let known = around.users.find(name).map(|user| user.name.as_str());
        let mut lockout = lock(lockout);
        if !lockout.attempt(known, source, around.now) {
            return Err(Refusal { reason: Reason::Locked, claimed: Some(name.to_owned()) });
        }
        if is_right {
            lockout.succeeded(name, source);
        }
        Ok(())
    }
}

/// What came of a token.
enum Leg {
    /// The value of the header that asks for the next one.
    Next(String),
    /// The end, and values for the final reply.
    Last(Session, Vec<String>),
}

impl Session {
    /// Who it is, by the users file as it is now: roles change, and users are disabled, while connections stay.
    fn caller(&self, users: &Users) -> Result<Caller, Refusal> {
        let caller = |name: &str, role| Caller { name: name.to_owned(), role, method: self.method };
        let refusal = |reason, name: &str| Refusal { reason, claimed: Some(name.to_owned()) };
        match &self.identity {
            Identity::User(name) => match users.find(name).filter(|user| !user.disabled) {
                Some(user) => Ok(caller(&user.name, user.role)),
                None => Err(refusal(Reason::Credentials, name)),
            },
            Identity::Principal(name) => match users.role_of_principal(name) {
                Some(role) => Ok(caller(name, role)),
                None => Err(refusal(Reason::NoRole(name.clone()), name)),
            },
        }
    }

    /// Whether this Basic header was found right before, and the password has not been changed since.
    fn was_proved_by(&self, header: &str, user: &User) -> bool {
        let Some((proved, hash)) = &self.basic else { return false };
        let is_same: bool = proved.as_bytes().ct_eq(header.as_bytes()).into();
        is_same && *hash == user.password
    }
}

/// What stands in an `Authorization` header.
enum Credentials {
    Basic { name: String, password: Password },
    Token { scheme: &'static str, token: Vec<u8> },
}

impl Credentials {
    fn parse(header: &str) -> Result<Self, Reason> {
        if header.len() > AUTHORIZATION_BYTES_MAX {
            return Err(Reason::Malformed("the header is too long"));
        }
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        let decoded = BASE64_STANDARD.decode(rest.trim()).map(Zeroizing::new);
        let decoded = decoded.map_err(|_| Reason::Malformed("the header is not base64"))?;
        if scheme.eq_ignore_ascii_case("basic") {
            let text = Zeroizing::new(text_of(&decoded));
            let (name, password) = text.split_once(':').ok_or(Reason::Malformed("the header has no colon"))?;
            let password = Password::new(password.to_owned());
            return Ok(Self::Basic { name: local_name(name).to_owned(), password });
        }
        let known = ["Negotiate", "Kerberos"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known));
        let scheme = known.ok_or(Reason::NotOffered("this scheme"))?;
        Ok(Self::Token { scheme, token: decoded.to_vec() })
    }
}

/// UTF-8, as RFC 7617 recommends, or else Latin-1, which some clients send.
fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// A table of counters cannot be left half changed.
fn lock(lockout: &Mutex<Lockout>) -> std::sync::MutexGuard<'_, Lockout> {
    lockout.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
