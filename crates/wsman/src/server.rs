//! The serving end: bytes, time and entropy in; an operation or bytes out.
//!
//! ```text
//!   handle ──▶ Reply                      Identify, Pull, Release, every fault found before the provider is asked
//!          └─▶ Perform(op, continuation)
//!                        └─▶ complete ──▶ HttpReply
//! ```
//!
//! A [`Continuation`] is everything the reply needs and nothing else; it may be kept as long as the operation takes and dropped if the
//! client goes away. Authentication happens before [`Server::handle`]: the principal it found is an argument.

use cim::op::{Answer, Operation};
use std::time::Duration;

/// Bytes of one request body; Windows' own default. A transport answers a larger one with 413 and need not read it.
pub const MAX_REQUEST_BYTES: usize = 512_000;

/// Who answers: what Identify tells and what faults name.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Vendor, as Identify tells it.
    pub vendor: String,
    /// Version, in the form Windows uses: `OS: a.b.c SP: d.e Stack: 3.0`.
    pub version: String,
    /// Name of this host, as fault details tell it.
    pub host: String,
}

/// One request as it came off the connection.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The `Content-Type` header; empty if there was none.
    pub content_type: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// Who asks, as authentication found it. Enumerations belong to the principal that began them.
    pub principal: &'a str,
}

/// What differs each time: the caller's clock and random source.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Time since any fixed point, never going backwards.
    pub now: Duration,
    /// Fresh random bits: 128 for the id of the reply, 128 for an enumeration context. Whoever can guess them can guess contexts.
    pub entropy: [u8; 32],
}

/// A complete HTTP reply but for the headers a transport adds itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// 200, or 500 for a fault.
    pub status: u16,
    /// The `Content-Type` header.
    pub content_type: &'static str,
    /// The envelope.
    pub body: Vec<u8>,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Reply(HttpReply),
    /// Have this carried out, then call [`Server::complete`], or [`Server::time_out`] after [`Continuation::timeout`].
    Perform(Operation, Continuation),
}

/// What a reply needs to know of its request.
#[derive(Debug)]
pub struct Continuation {
    timeout: Duration,
}

impl Continuation {
    /// How long the client is willing to wait.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// The machine: who it is, and the enumerations that clients have open.
#[derive(Debug)]
pub struct Server {
    identity: Identity,
}

impl Server {
    /// A server without open enumerations.
    pub fn new(identity: Identity) -> Self {
        Server { identity }
    }

    /// Takes a request. Everything but Get, Enumerate, Invoke and class requests is answered at once.
    pub fn handle(&mut self, incoming: Incoming<'_>, moment: Moment) -> Step {
        let _ = (incoming, moment, &self.identity);
        Step::Reply(HttpReply { status: 500, content_type: "application/soap+xml;charset=UTF-8", body: Vec::new() })
    }

    /// Turns the provider's answer into the reply. Errors become faults.
    pub fn complete(
        &mut self,
        continuation: Continuation,
        answer: Result<Answer, cim::Error>,
        now: Duration,
    ) -> HttpReply {
        let _ = (continuation.timeout, answer, now);
        HttpReply { status: 500, content_type: "application/soap+xml;charset=UTF-8", body: Vec::new() }
    }

    /// The reply to a request whose time is over.
    pub fn time_out(&mut self, continuation: Continuation) -> HttpReply {
        let _ = continuation.timeout;
        HttpReply { status: 500, content_type: "application/soap+xml;charset=UTF-8", body: Vec::new() }
    }
}
