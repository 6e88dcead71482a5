//! Envelopes, both ways.

use std::time::Duration;

use cim::op::{Answer, Events, Row};
use cim::xml::XmlError;
use hyperv::{Reaction, Subscription};
use wsman::client::{self, Reply, Request, Stamp};
use wsman::{HttpReply, Identity, Incoming, Moment, Progress, Server, Step, encoding};

use crate::world::{self, NAMESPACE};

/// Pulls on an enumeration before it is released.
const PULLS: u8 = 3;

/// A request, answered as the daemon would with no hands. What comes of it is followed: rows are pulled, events too.
pub fn envelope(bytes: &[u8]) -> bool {
    let identity = Identity { vendor: "v".to_owned(), version: "0".to_owned(), host: world::HOST.to_owned() };
    let server = Server::new(identity);
    // What somebody unknown gets to see must not depend on what he asks for.
    if let Some(reply) = server.identify(client::CONTENT_TYPE, bytes) {
        check(&reply);
    }
    let Some(reply) = ask(&server, bytes, 0) else { return true };
    let is_accepted = reply.status == 200;
    for turn in 1..=PULLS {
        let Some(context) = context(&reply) else { break };
        let (namespace, page) = (NAMESPACE.to_owned(), 2);
        let pull = Request::Pull { namespace, context, page }.to_envelope(stamp());
        let Some(reply) = ask(&server, &pull, turn) else { break };
        assert!(
            reply.status == 200 || String::from_utf8_lossy(&reply.body).contains("Fault"),
            "a pull is answered or refused"
        );
    }
    is_accepted
}

/// What the server says to a request; `None` if it waits for events that do not come.
fn ask(server: &Server, body: &[u8], turn: u8) -> Option<HttpReply> {
    let now = Duration::from_secs(u64::from(turn));
    let incoming = Incoming { content_type: "application/soap+xml", body, principal: "p" };
    let reply = match server.handle(incoming, Moment { now, entropy: [turn; 32] }) {
        Step::Reply(reply) | Step::Ended(reply) => reply,
        Step::Follow(pull) => match server.look(&pull, now) {
            Progress::Reply(reply) => reply,
            Progress::Waiting(until) => match server.look(&pull, until) {
                Progress::Reply(reply) => reply,
                Progress::Waiting(_) => return None,
            },
        },
        Step::Perform(operation, continuation) => {
            let answer = hyperv::answer(world::view(), operation).and_then(|reaction| match reaction {
                Reaction::Read(answer) => Ok(answer),
                Reaction::Done(outcome) => Ok(Answer::Method(outcome.result)),
                Reaction::Ask(inquiry) => Ok(Answer::Method(inquiry.finish(Vec::new()).result)),
                Reaction::Follow(subscription) => Ok(Answer::Events(Box::new(Live(subscription)))),
                Reaction::Submit(_) => Err(cim::Error::new(cim::Status::NotSupported, "nobody works here")),
            });
            server.complete(continuation, answer, now)
        }
    };
    check(&reply);
    Some(reply)
}

/// A subscription that sees the world of later.
#[derive(Debug)]
struct Live(Box<Subscription>);

impl Events for Live {
    fn take(&mut self, now: Duration) -> Vec<Row> {
        self.0.take(&world::later(), now)
    }

    fn due(&self) -> Option<Duration> {
        self.0.due()
    }

    fn projection(&self) -> Option<&[String]> {
        self.0.projection()
    }
}

/// Whatever a client sends, what it gets is an envelope.
fn check(reply: &HttpReply) {
    let (text, _) = encoding::decode(reply.content_type, &reply.body)
        .unwrap_or_else(|error| panic!("a reply is in its character set: {error}"));
    match cim::xml::parse(&text) {
        // Answers may be longer than questions.
        Ok(_) | Err(XmlError::TooLong | XmlError::TooManyElements) => {}
        Err(error) => panic!("a reply cannot be read: {error}\n{text}"),
    }
    for request in requests() {
        // A reply to something else is an error at most.
        drop(client::read(&request, reply.status, reply.content_type, &reply.body));
    }
}

/// What to pull with, if the reply is to Enumerate or Subscribe.
fn context(reply: &HttpReply) -> Option<String> {
    requests().into_iter().find_map(|request| {
        match client::read(&request, reply.status, reply.content_type, &reply.body).ok()? {
            Reply::Page(page) => page.context,
            Reply::Subscribed(context) => Some(context),
            _ => None,
        }
    })
}

/// A request of each kind.
fn requests() -> Vec<Request> {
    let namespace = || NAMESPACE.to_owned();
    let target = || cim::op::Target::new(NAMESPACE, "Msvm_ComputerSystem");
    vec![
        Request::Identify,
        Request::Get(target()),
        Request::Enumerate { namespace: namespace(), wql: String::new(), page: 1 },
        Request::Subscribe { namespace: namespace(), wql: String::new() },
        Request::Invoke { target: target(), method: "M".to_owned(), arguments: Vec::new() },
        Request::Release { namespace: namespace(), context: String::new() },
    ]
}

fn stamp() -> Stamp<'static> {
    Stamp { to: "http://host/wsman", message_id: [9; 16], timeout: Duration::from_secs(60) }
}

/// What a server might send to our command line.
pub fn reply(bytes: &[u8]) -> bool {
    let mut is_accepted = false;
    for request in requests() {
        for status in [200, 500] {
            is_accepted |= client::read(&request, status, client::CONTENT_TYPE, bytes).is_ok();
        }
    }
    is_accepted
}

/// Bytes in a character set; what was decoded is the same when it is encoded and decoded once more.
pub fn body(bytes: &[u8]) -> bool {
    let (head, body) = split_line(bytes);
    let Ok((text, encoding)) = encoding::decode(&String::from_utf8_lossy(head), body) else { return false };
    assert_eq!(encoding.encoded_len(&text), encoding.encode(text.clone()).len());
    // A text that begins with a byte order mark, or a zero beside `<`, would be taken for another encoding.
    if text.starts_with('<') && !text.starts_with("<\0") {
        let again = encoding::decode(encoding.content_type(), &encoding.encode(text.clone()));
        assert_eq!(again, Ok((text, encoding)));
    }
    true
}

/// The first line and the rest.
pub fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default()),
        None => (bytes, &[]),
    }
}
