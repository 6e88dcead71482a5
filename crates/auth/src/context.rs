//! One security context: a conversation of tokens at whose end somebody is known and messages can be sealed.
//!
//! ```text
//!  step(token) ─▶ Continue(answer) ─▶ step(token) ─▶ … ─▶ Established | Refused
//! ```
//! The shape is that of GSS-API (RFC 2743) and SSPI, so that NTLM, SPNEGO and a Kerberos library fit behind it. A context
//! that has established or refused is dropped; a new attempt needs a new one.

use std::fmt;
// Addresses only; `core` has no sockets.
use core::net::IpAddr;
use std::time::Duration;

use crate::users::Users;

/// Random bytes for one step: the server's challenge, or a client's challenge and session key.
pub const RANDOM_BYTES: usize = 32;

/// What a step may look at besides its token.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Time since the Unix epoch, by the wall clock: clients put the time into what they sign.
    pub now: Duration,
    /// Bytes from the kernel's generator. Never the same twice: they become challenges.
    pub random: &'a [u8; RANDOM_BYTES],
    /// Who there is.
    pub users: &'a Users,
}

/// The acceptor's side of a conversation.
///
/// `Send`, because a connection may move between threads while it waits.
pub trait Context: Send {
    /// Takes the client's next token, as it was in the header after base64.
    fn step(&mut self, token: &[u8], surroundings: &Surroundings<'_>) -> Step;
}

/// Makes acceptors for Kerberos; the daemon supplies one when there is a keytab.
pub trait Kerberos: Send + Sync {
    /// A context for one attempt. Its first token is what the client sent first, untouched: a SPNEGO `NegTokenInit` whose
    /// preferred mechanism is Kerberos, or a bare Kerberos GSS token (RFC 4121 4.1).
    fn accept(&self, peer: &Peer) -> Box<dyn Context>;
}

/// What came of a token.
pub enum Step {
    /// The client has to answer this.
    Continue(Vec<u8>),
    /// It is known who it is.
    Established(Established),
    /// It is not, or not well enough.
    Refused(Refusal),
}

/// The end of a successful conversation.
pub struct Established {
    /// Who it is.
    pub identity: Identity,
    /// The last token, if the client expects one; it goes with the final reply.
    pub token: Option<Vec<u8>>,
    /// Protection of messages; `None` if the client did not ask for it, or not for enough.
    pub seal: Option<Box<dyn Seal>>,
}

/// Whom a context has recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A user of the users file.
    User(String),
    /// A Kerberos principal, `name@REALM`; the users file maps it to a role.
    Principal(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::User(name) | Self::Principal(name)) = self;
        f.write_str(name)
    }
}

/// The end of an unsuccessful one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why: for our log. The client learns nothing but 401.
    pub reason: Reason,
    /// Whom the client claimed to be, if it came that far. Not to be believed; the lockout counts by it.
    pub claimed: Option<String>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, claimed: None }
    }
}

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Bytes that are no token, or no token of this step.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// No such user, a wrong password, a disabled user: deliberately one reason.
    #[error("the user is unknown or disabled, or the password is wrong")]
    Credentials,
    /// Too many failures.
    #[error("after too many failures the user is locked for a while")]
    Locked,
    /// Recognised, but the users file says nothing about it.
    #[error("{0} has no role here: add it to the users file")]
    NoRole(String),
    /// Less than we accept; the text says what is missing.
    #[error("the client offers too little: {0}")]
    Weak(&'static str),
    /// Something was changed on the way, or was made for another connection.
    #[error("the exchange was tampered with or relayed: {0}")]
    Tampered(&'static str),
    /// The clocks differ too much.
    #[error("the client's clock differs from ours by {0} s")]
    Clock(u64),
    /// A mechanism or scheme that is not offered here.
    #[error("{0} is not offered here")]
    NotOffered(&'static str),
    /// From a library, such as GSS-API.
    #[error("{0}")]
    Other(String),
}

/// Protection of messages in an established context, with sequence numbers for each direction.
///
/// Messages must be wrapped in the order they are sent, and unwrapped in the order they arrive.
pub trait Seal: Send {
    /// Encrypts and signs.
    ///
    /// # Errors
    /// When the mechanism fails; the context is of no use any more.
    fn wrap(&mut self, plain: &[u8]) -> Result<Wrapped, SealError>;

    /// Checks and decrypts. `signature` and `sealed` are the two parts of [`Wrapped`]; padding is removed by the caller.
    ///
    /// # Errors
    /// When the message was changed, repeated or reordered; the context is of no use any more.
    fn unwrap(&mut self, signature: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError>;
}

/// A protected message (MS-WSMV 2.2.9.1.1.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// What the peer needs to check it: NTLM's 16 byte signature, Kerberos' token header.
    pub signature: Vec<u8>,
    /// The encrypted message, with padding and trailer where the mechanism has them.
    pub sealed: Vec<u8>,
    /// Bytes of padding that the mechanism added to the message; they count in the `Length` of the plain text.
    pub padding: usize,
}

/// Why a message cannot be protected, or is not what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The signature does not fit: changed, repeated, reordered, or from somebody else.
    #[error("the signature of a sealed message is wrong")]
    Signature,
    /// Not a protected message.
    #[error("a sealed message is malformed: {0}")]
    Malformed(&'static str),
    /// There is no key to unseal it with.
    #[error("a sealed message came on a connection that has no session key")]
    NoKey,
    /// From a library, such as GSS-API.
    #[error("{0}")]
    Other(String),
}

/// The other end of a connection, as the transport knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// The user on this host who owns the other end, if it is on this host and we could find out. Failures are counted
    /// apart for each, so that one local user cannot lock out another.
    pub owner: Option<u32>,
    /// The binding of a TLS connection, `None` if the connection is not TLS.
    pub tls: Option<EndPoint>,
}

impl Peer {
    /// Whether it is on this host, where nobody else reads along.
    pub fn is_loopback(&self) -> bool {
        self.address.to_canonical().is_loopback()
    }
}

/// `tls-server-end-point` of a TLS connection (RFC 5929 4.1): the hash of our own certificate, by the hash function of its
/// signature, but at least SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndPoint(pub Vec<u8>);
