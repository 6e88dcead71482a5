//! The serving end: bytes, time and entropy in; an operation or bytes out.
//!
//! ```text
//!   handle ──▶ Reply                      Identify, Pull, Release, every fault found before the provider is asked
//!          ├─▶ Perform(op, continuation)
//!          │             └─▶ complete ──▶ HttpReply
//!          └─▶ Follow(pull) ─▶ look ────▶ HttpReply   a pull that waits for events
//! ```
//!
//! A [`Continuation`] is everything the reply needs and nothing else; it may be kept as long as the operation takes and dropped if the
//! client goes away. Authentication happens before [`Server::handle`]: the principal it found is an argument.

mod following;

pub use following::{MAX_WAIT, Progress, Pull};

use crate::encoding::{self, Encoding};
use crate::enumeration::{Allowance, Contexts, Enumeration, Form};
use crate::fault::{Fault, Kind};
use crate::reply::{self, Head};
use crate::request::{self, Header, Request, Shape, Wish};
use crate::soap::{self, Envelope};
use crate::subscription::Subscriptions;
use cim::op::{Answer, Operation, Rows};
use std::time::Duration;

/// Bytes of one request body; Windows' own default. A transport answers a larger one with 413 and need not read it.
pub const MAX_REQUEST_BYTES: usize = 512_000;

/// Bytes a page may need beyond its frame without rows: `</n:Items><n:EndOfSequence/>` in UTF-16, and to spare.
const FRAME_SLACK: usize = 128;

/// What anonymous callers are told, as Windows does.
const ANONYMOUS_VERSION: &str = "OS: 0.0.0 SP: 0.0 Stack: 3.0";

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
#[expect(
    clippy::large_enum_variant,
    reason = "one per request, moved a few times at most; a box would be one more thing to explain"
)]
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Reply(HttpReply),
    /// Have this carried out, then call [`Server::complete`], or [`Server::time_out`] after [`Continuation::timeout`].
    Perform(Operation, Continuation),
    /// Wait for events with [`Server::look`].
    Follow(Pull),
    /// Send this, and let those who wait for events look again: a subscription has ended.
    Ended(HttpReply),
}

/// What a reply needs to know of its request.
#[derive(Debug)]
pub struct Continuation {
    head: Head,
    shape: Shape,
    timeout: Duration,
    ticket: Ticket,
}

/// Whose enumeration it will be and what it will be called, should there be one.
#[derive(Debug)]
struct Ticket {
    principal: String,
    context: String,
}

impl Continuation {
    /// How long the client is willing to wait.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Who asked.
    pub fn principal(&self) -> &str {
        &self.ticket.principal
    }
}

/// The machine: who it is, and the enumerations that clients have open. Any number of requests may be handled at the same time; what
/// they share are the tables of enumerations and subscriptions alone.
#[derive(Debug)]
pub struct Server {
    identity: Identity,
    contexts: Contexts,
    subscriptions: Subscriptions,
}

impl Server {
    /// A server without open enumerations and subscriptions.
    pub fn new(identity: Identity) -> Self {
        Server { identity, contexts: Contexts::default(), subscriptions: Subscriptions::default() }
    }

    /// Takes a request. Identify, Pull, Release and whatever cannot be understood are answered at once.
    pub fn handle(&self, incoming: Incoming<'_>, moment: Moment) -> Step {
        let (id, context) = split(moment.entropy);
        let mut head = Head::new(soap::uuid(id));
        match self.begin(&mut head, incoming, moment.now) {
            Ok(Begun::Reply(envelope)) => Step::Reply(self.finish(&head, envelope)),
            Ok(Begun::Perform { operation, shape, timeout }) => {
                let ticket = Ticket { principal: incoming.principal.to_owned(), context: soap::uuid(context) };
                Step::Perform(operation, Continuation { head, shape, timeout, ticket })
            }
            Ok(Begun::Follow { context, rows, patience }) => {
                let deadline = moment.now + patience.min(MAX_WAIT);
                Step::Follow(Pull { head, context, principal: incoming.principal.to_owned(), rows, deadline })
            }
            Ok(Begun::Ended(envelope)) => Step::Ended(self.finish(&head, envelope)),
            Err(fault) => Step::Reply(self.refuse(&head, &fault)),
        }
    }

    /// Answers somebody who has not said who he is: Identify, without the version of the product, and nothing
    /// else (DSP0226 11).
    pub fn identify(&self, content_type: &str, body: &[u8]) -> Option<HttpReply> {
        let (text, encoding) = encoding::decode(content_type, body).ok()?;
        let envelope = Envelope::open(cim::xml::parse(&text).ok()?).ok()?;
        let anonymous = Identity { version: ANONYMOUS_VERSION.to_owned(), ..self.identity.clone() };
        Request::is_identify(&envelope).then(|| send(200, encoding, reply::identify(&anonymous)))
    }

    /// Turns the provider's answer into the reply. Errors become faults.
    pub fn complete(&self, continuation: Continuation, answer: Result<Answer, cim::Error>, now: Duration) -> HttpReply {
        let Continuation { head, shape, ticket, .. } = continuation;
        let envelope = answer.map_err(Fault::from).and_then(|answer| match (shape, answer) {
            (Shape::Get { style, fragment }, Answer::Instance(row)) => {
                reply::instance(&head, &row, style, fragment.as_ref())
            }
            (Shape::Enumerate { form, optimized }, Answer::Rows(rows)) => {
                self.start(&head, ticket, rows, form, optimized, now)
            }
            (Shape::Invoke { uri, method, namespace, style }, Answer::Method(result)) => {
                Ok(reply::method(&head, &uri, &method, &result, style, &namespace))
            }
            (Shape::Subscribe(terms), Answer::Events(events)) => {
                self.subscribe(&head, (ticket.context, &ticket.principal), &terms, events, now)
            }
            (Shape::Class { is_enumeration }, Answer::Class(class)) => Ok(reply::class(&head, &class, is_enumeration)),
            _ => Err(Fault::new(Kind::Internal, "the provider answered another question than the one asked")),
        });
        match envelope {
            Ok(envelope) => self.finish(&head, envelope),
            Err(fault) => self.refuse(&head, &fault),
        }
    }

    /// The reply to a request whose time is over. What it asked for may still happen.
    pub fn time_out(&self, continuation: Continuation) -> HttpReply {
        let seconds = continuation.timeout.as_secs();
        let reason = format!("the operation did not finish within {seconds} s; it may still do so");
        self.refuse(&continuation.head, &Fault::new(Kind::TimedOut, reason))
    }

    /// The fault for somebody whose message came in clear where it must not. What it asks for is not looked at, so the
    /// fault relates to nothing.
    pub fn refuse_unencrypted(&self, entropy: [u8; 32]) -> HttpReply {
        let (id, _) = split(entropy);
        let reason = "messages must be encrypted here: use https, or Negotiate authentication with message encryption";
        self.refuse(&Head::new(soap::uuid(id)), &Fault::new(Kind::AccessDenied, reason))
    }

    fn begin(&self, head: &mut Head, incoming: Incoming<'_>, now: Duration) -> Result<Begun, Fault> {
        if incoming.body.len() > MAX_REQUEST_BYTES {
            let reason = format!("the request has {} bytes, {MAX_REQUEST_BYTES} are accepted", incoming.body.len());
            return Err(Fault::new(Kind::RequestTooLarge, reason));
        }
        let (text, encoding) = encoding::decode(incoming.content_type, incoming.body)?;
        head.encoding = encoding;
        let envelope = Envelope::open(cim::xml::parse(&text)?)?;
        head.relates_to = request::message_id(&envelope);
        if Request::is_identify(&envelope) {
            return Ok(Begun::Reply(reply::identify(&self.identity)));
        }
        let header = Header::read(&envelope)?;
        head.action.clone_from(&header.action);
        head.max_envelope = header.max_envelope;
        match Request::read(&header, envelope.body.as_ref())? {
            Request::Perform(operation, shape) => Ok(Begun::Perform { operation, shape, timeout: header.timeout }),
            Request::Pull { context, rows, patience }
                if self.subscriptions.knows(&context, incoming.principal, now) =>
            {
                Ok(Begun::Follow { context, rows, patience })
            }
            Request::Pull { context, rows, .. } => {
                let allowance = allowance(head, rows, &reply::page(head, &context, "", false));
                let page = self.contexts.take(&context, incoming.principal, allowance, now)?;
                Ok(Begun::Reply(reply::page(head, &context, &page.items, page.is_last)))
            }
            Request::Release { context } if self.subscriptions.end(&context, incoming.principal, now) => {
                Ok(Begun::Ended(reply::released(head)))
            }
            Request::Manage { subscription, wish } => {
                let envelope = self.manage(head, (&subscription, incoming.principal), wish, now)?;
                Ok(if wish == Wish::Unsubscribe { Begun::Ended(envelope) } else { Begun::Reply(envelope) })
            }
            Request::Release { context } => {
                self.contexts.release(&context, incoming.principal, now)?;
                Ok(Begun::Reply(reply::released(head)))
            }
        }
    }

    /// The reply to Enumerate: rows, if it asked for some with the reply, and a context for what is left.
    fn start(
        &self,
        head: &Head,
        ticket: Ticket,
        rows: Rows,
        form: Form,
        optimized: Option<usize>,
        now: Duration,
    ) -> Result<String, Fault> {
        let Ticket { principal, context } = ticket;
        let mut enumeration = Enumeration::new(rows, form);
        let mut items = None;
        if let Some(count) = optimized {
            let frame = reply::enumeration(head, Some(&context), Some(""));
            let page = enumeration.take(allowance(head, count, &frame))?;
            if page.is_last {
                return Ok(reply::enumeration(head, None, Some(&page.items)));
            }
            items = Some(page.items);
        }
        let envelope = reply::enumeration(head, Some(&context), items.as_deref());
        self.contexts.insert(context, &principal, enumeration, now);
        Ok(envelope)
    }

    fn finish(&self, head: &Head, envelope: String) -> HttpReply {
        let size = head.encoding.encoded_len(&envelope);
        if size > head.max_envelope {
            let reason = format!("the reply takes {size} bytes, the client accepts {}", head.max_envelope);
            return self.refuse(head, &Fault::new(Kind::EnvelopeTooLarge, reason));
        }
        send(200, head.encoding, envelope)
    }

    fn refuse(&self, head: &Head, fault: &Fault) -> HttpReply {
        send(500, head.encoding, reply::fault(head, fault, &self.identity.host))
    }
}

/// What a request turned out to be.
#[expect(
    clippy::large_enum_variant,
    reason = "one per request, moved a few times at most; a box would be one more thing to explain"
)]
enum Begun {
    /// Answered.
    Reply(String),
    /// For the provider.
    Perform { operation: Operation, shape: Shape, timeout: Duration },
    /// A pull on a subscription.
    Follow { context: String, rows: usize, patience: Duration },
    /// Answered, and a subscription has ended.
    Ended(String),
}

fn send(status: u16, encoding: Encoding, envelope: String) -> HttpReply {
    HttpReply { status, content_type: encoding.content_type(), body: encoding.encode(envelope) }
}

/// What is left for rows beside the envelope around them.
fn allowance(head: &Head, rows: usize, frame: &str) -> Allowance {
    // The end tag of an empty `Items` and the end of the sequence come on top.
    let frame = head.encoding.encoded_len(frame) + FRAME_SLACK;
    Allowance { rows, bytes: head.max_envelope.saturating_sub(frame), encoding: head.encoding }
}

fn split(entropy: [u8; 32]) -> ([u8; 16], [u8; 16]) {
    (std::array::from_fn(|i| entropy[i]), std::array::from_fn(|i| entropy[i + 16]))
}
