//! Requests about events (WS-Eventing 2004/08, DSP0226 chapter 10).
//!
//! Only pull delivery is served: the other modes would have the server call its clients. What tunes delivery by push
//! (heartbeats, retries, batches, where to tell the end) has no meaning then and is ignored.

use super::header::{Header, read_duration};
use super::{Request, Shape, Wish};
use crate::epr::Style;
use crate::fault::{Fault, Kind};
use crate::ns;
use cim::op::Operation;
use cim::wql::{self, Query};
use cim::xml::Element;
use std::time::Duration;

/// Bytes of the address that references to a subscription repeat; longer ones are not repeated.
const MAX_ADDRESS: usize = 1024;

/// How long a subscription is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// As long as it is used.
    Used,
    /// So long, used or not.
    For(Duration),
}

/// What the reply to Subscribe needs to know of the request.
#[derive(Debug)]
pub(crate) struct Terms {
    /// How long it is to live.
    pub lifetime: Lifetime,
    /// What the client calls the server.
    pub address: String,
    /// The resource URI.
    pub resource_uri: String,
    /// In which style of URI events are told.
    pub style: Style,
}

/// Reads an `e:Subscribe`.
pub(super) fn subscribe(header: &Header, body: &Element) -> Result<Request, Fault> {
    let (resource, namespace) = header.resource()?;
    let delivery = body.child(ns::EVENTING, "Delivery");
    let mode = delivery.and_then(|delivery| delivery.attribute("", "Mode")).unwrap_or_default().trim();
    if ![ns::DELIVERY_PULL, ns::DELIVERY_PULL_SHORT].iter().any(|pull| mode.eq_ignore_ascii_case(pull)) {
        let reason = format!("delivery mode {mode:?} is not supported; use {}", ns::DELIVERY_PULL);
        return Err(Fault::new(Kind::DeliveryMode, reason));
    }
    for name in ["SendBookmarks", "Bookmark"] {
        if body.child(ns::WSMAN, name).is_some() {
            return Err(Fault::new(Kind::Bookmarks, format!("{name} is not supported: past events are not kept")));
        }
    }
    let address = if header.to.is_empty() || header.to.len() > MAX_ADDRESS { ns::ANONYMOUS } else { &header.to };
    let terms = Terms {
        lifetime: lifetime(body)?,
        address: address.to_owned(),
        resource_uri: header.resource_uri.clone(),
        style: resource.style,
    };
    Ok(Request::Perform(Operation::Subscribe { namespace, query: query(body)? }, Shape::Subscribe(terms)))
}

/// Reads an `e:Renew`.
pub(super) fn renew(header: &Header, body: &Element) -> Result<Request, Fault> {
    Ok(manage(header, Wish::Renew(lifetime(body)?)))
}

/// A message that is all about the subscription in its header.
pub(super) fn manage(header: &Header, wish: Wish) -> Request {
    Request::Manage { subscription: header.subscription.clone().unwrap_or_default(), wish }
}

fn query(body: &Element) -> Result<wql::Select, Fault> {
    let filter = body.child(ns::WSMAN, "Filter").or_else(|| body.child(ns::EVENTING, "Filter")).ok_or_else(|| {
        Fault::new(
            Kind::FilterRequired,
            "a subscription needs a filter: an event query in WQL that says what to follow",
        )
    })?;
    let dialect = filter.attribute("", "Dialect").unwrap_or_default().trim();
    if !dialect.eq_ignore_ascii_case(ns::DIALECT_WQL) {
        let reason = format!("filter dialect {dialect:?} is not supported for events; use WQL, {}", ns::DIALECT_WQL);
        return Err(Fault::new(Kind::EventFilterDialect, reason));
    }
    match wql::parse(filter.text().trim()).map_err(cim::Error::from)? {
        Query::Select(select) => Ok(select),
        Query::Associators(_) | Query::References(_) => {
            Err(cim::Error::invalid_query("an event query selects from a class of events").into())
        }
    }
}

fn lifetime(body: &Element) -> Result<Lifetime, Fault> {
    let Some(text) = body.child(ns::EVENTING, "Expires").map(Element::trimmed_text) else { return Ok(Lifetime::Used) };
    match read_duration(&text) {
        Some(Duration::ZERO) => Err(Fault::new(Kind::ExpirationTime, "a subscription cannot expire at once")),
        Some(duration) => Ok(Lifetime::For(duration)),
        None => {
            let reason = format!("Expires {text:?} is not a duration such as PT600S; points in time are not supported");
            Err(Fault::new(Kind::ExpirationType, reason))
        }
    }
}
