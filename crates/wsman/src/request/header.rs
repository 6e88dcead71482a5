//! The headers of a request, checked.
//!
//! Required is only what the action cannot do without. A header that must be understood and is not known here is a fault; all others that
//! are not known are ignored, as SOAP demands.

use crate::epr::{self, Resource, Selectors};
use crate::fault::{Fault, Kind};
use crate::ns;
use crate::soap::{Envelope, says_yes};
use cim::DateTime;
use cim::xml::Element;
use std::time::Duration;

/// Header blocks of one request. The chattiest client (MI) sends twelve.
const MAX_HEADERS: usize = 64;
/// Options of one request. Five are the most seen.
const MAX_OPTIONS: usize = 64;
/// Bytes of a message id. It is opaque and repeated in the reply, so it must not be a way to fill the reply.
const MAX_MESSAGE_ID: usize = 1024;
/// How long a client waits if it does not say, as on Windows.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest wait that is believed; a longer one would only hold memory for a client that is gone.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// The smallest limit DSP0226 lets a client set.
const MIN_ENVELOPE: usize = 8192;
/// The largest reply if the client sets no limit: what Windows takes by default.
pub(crate) const DEFAULT_ENVELOPE: usize = 512_000;
/// The largest reply whatever the client says, so that one pull cannot ask for everything at once: room for 1,000 rows of the largest
/// class, which take 4.5 KiB each.
const MAX_ENVELOPE: usize = 8 << 20;

/// What the headers say.
#[derive(Debug)]
pub(crate) struct Header {
    /// The action URI.
    pub action: String,
    /// The resource URI as it was written; empty if missing.
    pub resource_uri: String,
    /// The selectors.
    pub selectors: Selectors,
    /// Bytes the reply may have.
    pub max_envelope: usize,
    /// How long the client waits.
    pub timeout: Duration,
    /// What the client calls the server; it goes into references to subscriptions.
    pub to: String,
    /// The subscription that the message is about.
    pub subscription: Option<String>,
    /// The expression of `w:FragmentTransfer`.
    pub fragment: Option<String>,
    resource: Option<Resource>,
}

impl Header {
    /// Reads and checks the headers.
    pub fn read(envelope: &Envelope) -> Result<Header, Fault> {
        if envelope.headers.len() > MAX_HEADERS {
            return Err(Fault::new(Kind::RequestTooLarge, format!("there are more than {MAX_HEADERS} headers")));
        }
        let mut header = Header {
            action: String::new(),
            resource_uri: String::new(),
            selectors: Selectors::default(),
            max_envelope: DEFAULT_ENVELOPE,
            timeout: DEFAULT_TIMEOUT,
            to: String::new(),
            subscription: None,
            fragment: None,
            resource: None,
        };
        for block in &envelope.headers {
            header.take(block)?;
        }
        if header.action.is_empty() {
            return Err(Fault::new(Kind::HeaderRequired, "the request has no a:Action"));
        }
        Ok(header)
    }

    /// The resource, and the CIM namespace that its URI and the selectors agree on.
    pub fn resource(&self) -> Result<(&Resource, String), Fault> {
        if self.resource_uri.is_empty() {
            return Err(Fault::new(Kind::HeaderRequired, "the request has no w:ResourceURI"));
        }
        let resource = self.resource.as_ref().ok_or_else(|| epr::unknown_uri(&self.resource_uri))?;
        Ok((resource, self.selectors.namespace_for(resource)?))
    }

    fn take(&mut self, block: &Element) -> Result<(), Fault> {
        match (&*block.namespace, block.name.as_str()) {
            (ns::ADDRESSING, "Action") => set_once(&mut self.action, block)?,
            (ns::ADDRESSING, "ReplyTo") => check_reply_to(block)?,
            (ns::WSMAN, "ResourceURI") => {
                set_once(&mut self.resource_uri, block)?;
                self.resource = Resource::parse(&self.resource_uri);
            }
            (ns::WSMAN, "SelectorSet") => self.selectors = Selectors::read(block)?,
            (ns::WSMAN, "OptionSet") => check_options(block)?,
            (ns::WSMAN, "MaxEnvelopeSize") => self.max_envelope = read_max_envelope(block)?,
            (ns::WSMAN, "OperationTimeout") => self.timeout = read_timeout(block)?,
            (ns::WSMAN, "FragmentTransfer") => self.fragment = Some(block.trimmed_text()),
            (ns::WSMAN, "Locale") if must_understand(block) => {
                return Err(Fault::new(
                    Kind::LocaleUnsupported,
                    "messages are in English only; do not insist on a locale",
                ));
            }
            (ns::EVENTING, "Identifier") => self.subscription = Some(block.trimmed_text()),
            // Whatever the client calls us.
            (ns::ADDRESSING, "To") => self.to = block.trimmed_text(),
            // MessageID is opaque and was read before.
            (ns::ADDRESSING, "MessageID" | "From" | "FaultTo") => {}
            (_, name) if must_understand(block) => {
                return Err(Fault::new(Kind::MustUnderstand, format!("header {name} is not understood")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The id to repeat in the reply, faults included, verbatim. One that is unreasonably long is not repeated.
pub(crate) fn message_id(envelope: &Envelope) -> Option<String> {
    envelope.header_text(ns::ADDRESSING, "MessageID").filter(|id| !id.is_empty() && id.len() <= MAX_MESSAGE_ID)
}

fn must_understand(block: &Element) -> bool {
    says_yes(block.attribute(ns::SOAP, "mustUnderstand"))
}

fn set_once(field: &mut String, block: &Element) -> Result<(), Fault> {
    if !field.is_empty() {
        return Err(Fault::new(Kind::InvalidHeader, format!("header {} is given twice", block.name)));
    }
    *field = block.trimmed_text();
    Ok(())
}

fn check_reply_to(block: &Element) -> Result<(), Fault> {
    let address = block.child(ns::ADDRESSING, "Address").map(Element::trimmed_text).unwrap_or_default();
    if address.is_empty() || address == ns::ANONYMOUS {
        return Ok(());
    }
    Err(Fault::new(Kind::AddressingMode, "replies go back on the connection; ReplyTo must be anonymous"))
}

fn check_options(set: &Element) -> Result<(), Fault> {
    for (count, option) in set.children_named(ns::WSMAN, "Option").enumerate() {
        if count >= MAX_OPTIONS {
            return Err(Fault::new(Kind::OptionLimit, format!("there are more than {MAX_OPTIONS} options")));
        }
        let name = option.attribute("", "Name").unwrap_or_default();
        // Options may carry a vendor's prefix, such as `msftwinrm:UsePreciseArrays`.
        let name = name.rsplit(':').next().unwrap_or(name);
        // Options of MI clients steer callbacks that plain WS-Management does not have; the other two ask for what we do anyway.
        let is_known = name.starts_with("__MI_")
            || name.starts_with("MI_")
            || matches!(name, "ShowExtensions" | "UsePreciseArrays");
        if !is_known && says_yes(option.attribute("", "MustComply")) {
            return Err(Fault::new(
                Kind::InvalidOptions,
                format!("option {name} must be complied with and is not known"),
            ));
        }
    }
    Ok(())
}

fn read_max_envelope(block: &Element) -> Result<usize, Fault> {
    let text = block.trimmed_text();
    let size: u64 = text
        .parse()
        .map_err(|_| Fault::new(Kind::InvalidHeader, format!("MaxEnvelopeSize {text:?} is not a number")))?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size < MIN_ENVELOPE {
        let reason = format!("MaxEnvelopeSize {size} is less than the {MIN_ENVELOPE} bytes a client must take");
        return Err(Fault::new(Kind::MinimumEnvelope, reason));
    }
    Ok(size.min(MAX_ENVELOPE))
}

fn read_timeout(block: &Element) -> Result<Duration, Fault> {
    let text = block.trimmed_text();
    let duration = read_duration(&text).map(|duration| duration.min(MAX_TIMEOUT));
    duration.ok_or_else(|| {
        Fault::new(Kind::InvalidTimeout, format!("OperationTimeout {text:?} is not a duration such as PT60S"))
    })
}

/// An xs:duration.
pub(super) fn read_duration(text: &str) -> Option<Duration> {
    // CIM's own interval notation is no xs:duration.
    match DateTime::parse(text) {
        Ok(DateTime::Interval(interval)) if text.starts_with('P') => Some(Duration::from_micros(interval.micros())),
        _ => None,
    }
}
