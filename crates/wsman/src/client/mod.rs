//! The asking end, for a command line without a schema: requests to envelopes, replies to property bags or an [`ClientError`].
//!
//! A [`Request`] is turned into bytes by [`Request::to_envelope`]; its reply is read by [`read`]. An enumeration is `Enumerate`, then
//! `Pull` with the context of each [`Page`] until there is none. Events are `Subscribe`, then `Pull` again and again: a pull waits for some,
//! and a fault with [`TIMED_OUT`] says that there were none in the time it had. `Release` ends either.

mod embedded;
mod envelope;
mod read;

pub use read::read;

use cim::embedded::EmbeddedInstance;
use cim::op::{Argument, Target};
use std::time::Duration;

/// The `Content-Type` of every request.
pub const CONTENT_TYPE: &str = "application/soap+xml;charset=UTF-8";

/// WinRM's code for a wait that was in vain.
pub const TIMED_OUT: u32 = 2_150_858_793;

/// What to ask.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Who is there.
    Identify,
    /// One instance.
    Get(Target),
    /// The answers to a WQL query, the first of them with the reply.
    Enumerate {
        /// The namespace, such as `root/virtualization/v2`.
        namespace: String,
        /// The query.
        wql: String,
        /// How many rows a reply may carry; at least one.
        page: u32,
    },
    /// To be told of events, by pulling them.
    Subscribe {
        /// The namespace.
        namespace: String,
        /// The event query.
        wql: String,
    },
    /// More answers.
    Pull {
        /// The namespace of the enumeration.
        namespace: String,
        /// The context of the page before.
        context: String,
        /// How many rows a reply may carry; at least one.
        page: u32,
    },
    /// No more answers or events, please.
    Release {
        /// The namespace of the enumeration.
        namespace: String,
        /// The context of the last page.
        context: String,
    },
    /// A method call. An embedded instance travels as CIM-XML text, an array as its name repeated.
    Invoke {
        /// The instance; keys may be left out where the rest is unambiguous.
        target: Target,
        /// The method.
        method: String,
        /// The arguments.
        arguments: Vec<(String, Argument)>,
    },
}

/// What differs with each request.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// Where it goes, for `a:To`.
    pub to: &'a str,
    /// Random bits for the message id.
    pub message_id: [u8; 16],
    /// How long the server may take.
    pub timeout: Duration,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Request::Identify`].
    Identity(Identity),
    /// To [`Request::Get`].
    Instance(Bag),
    /// To [`Request::Enumerate`] and [`Request::Pull`].
    Page(Page),
    /// To [`Request::Subscribe`]: what to pull with.
    Subscribed(String),
    /// To [`Request::Release`].
    Released,
    /// To [`Request::Invoke`].
    Method(MethodReply),
}

/// Who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: String,
    /// Version, in whatever form the vendor likes.
    pub version: String,
}

/// Some of the answers to a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows of this page.
    pub rows: Vec<Bag>,
    /// What to pull with, or `None` when this was the last page.
    pub context: Option<String>,
}

/// What a method gave back.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodReply {
    /// The return value: 0 done, 4096 job started, others per method.
    pub return_value: u32,
    /// The output parameters.
    pub outputs: Bag,
}

/// An instance without a schema: names with texts, references, embedded instances or nothing. An array is its name repeated.
#[derive(Debug, Clone, PartialEq)]
pub struct Bag(pub EmbeddedInstance);

impl Bag {
    /// The class, as the server wrote it; for outputs of a method `<Method>_OUTPUT`.
    pub fn class(&self) -> &str {
        &self.0.class
    }

    /// Every value of this name, in order, nulls included.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &Argument> {
        self.0.properties.iter().filter(move |(n, _)| cim::case::eq(n, name)).map(|(_, value)| value)
    }

    /// The text of a property that is there and not null.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts(name).next()
    }

    /// The texts of an array property, or of a scalar.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).filter_map(|value| if let Argument::Text(text) = value { Some(text.as_str()) } else { None })
    }

    /// The instance a reference property names.
    pub fn reference(&self, name: &str) -> Option<&Target> {
        self.references(name).next()
    }

    /// The instances an array of references names.
    pub fn references(&self, name: &str) -> impl Iterator<Item = &Target> {
        self.values(name).filter_map(|value| if let Argument::Reference(target) = value { Some(target) } else { None })
    }

    /// The instance that a property holds.
    pub fn instance(&self, name: &str) -> Option<Bag> {
        let held = self.values(name).find_map(|value| match value {
            Argument::Instance(held) => Some(held.clone()),
            _ => None,
        });
        held.map(Bag)
    }

    /// The number of an integer property.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }

    /// The value of a boolean property.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.text(name)?.trim() {
            text if text.eq_ignore_ascii_case("true") => Some(true),
            text if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server refused, in its own words.
    #[error("{reason}")]
    Fault {
        /// The reason text.
        reason: String,
        /// The local name of the SOAP subcode, such as `DestinationUnreachable`.
        subcode: String,
        /// `WBEM_E_*` from the `MSFT_WmiError` detail.
        wmi_code: Option<u32>,
        /// WinRM's code from the `WSManFault` detail.
        wsman_code: Option<u32>,
    },
    /// The server answered outside the protocol: not authenticated, or not a WS-Management server at all.
    #[error("the server answered with HTTP status {status} and no SOAP envelope")]
    Http {
        /// The HTTP status.
        status: u16,
    },
    /// An envelope that is not the reply to what was asked.
    #[error("the reply cannot be read: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: String,
    },
}

impl Request {
    /// The envelope, in UTF-8, to be posted as [`CONTENT_TYPE`].
    pub fn to_envelope(&self, stamp: Stamp<'_>) -> Vec<u8> {
        envelope::write(self, stamp).into_bytes()
    }
}
