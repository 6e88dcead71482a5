//! Answers to envelopes.

use crate::binding;
use crate::class_xml;
use crate::encoding::Encoding;
use crate::epr::Style;
use crate::fault::{Fault, Kind};
use crate::ns;
use crate::request::{DEFAULT_ENVELOPE, Fragment, Terms};
use crate::server::Identity;
use crate::soap;
use cim::Class;
use cim::op::{MethodResult, Row};
use cim::xml::Writer;
use std::time::Duration;

/// What every reply to a request has in common.
#[derive(Debug)]
pub(crate) struct Head {
    /// The id of the reply.
    pub id: String,
    /// The id of the request.
    pub relates_to: Option<String>,
    /// The action of the request; empty until it is known.
    pub action: String,
    /// The encoding of the request.
    pub encoding: Encoding,
    /// Bytes the reply may have.
    pub max_envelope: usize,
}

impl Head {
    /// The head of a reply to a request of which nothing is known yet.
    pub fn new(id: String) -> Self {
        Head {
            id,
            relates_to: None,
            action: String::new(),
            encoding: Encoding::default(),
            max_envelope: DEFAULT_ENVELOPE,
        }
    }

    fn write(&self, w: &mut Writer, action: &str) {
        w.leaf("a:Action", action);
        w.leaf("a:MessageID", &self.id);
        w.leaf("a:To", ns::ANONYMOUS);
        if let Some(id) = &self.relates_to {
            w.leaf("a:RelatesTo", id);
        }
    }

    fn respond(&self, body: impl FnOnce(&mut Writer)) -> String {
        soap::write(|w| self.write(w, &format!("{}Response", self.action)), body)
    }
}

/// To Identify. It is the one exchange without addressing headers.
pub(crate) fn identify(identity: &Identity) -> String {
    soap::write(
        |_| {},
        |w| {
            w.element("wsmid:IdentifyResponse", |w| {
                w.attribute("xmlns:wsmid", ns::IDENTITY);
                w.leaf("wsmid:ProtocolVersion", ns::WSMAN);
                w.leaf("wsmid:ProductVendor", &identity.vendor);
                w.leaf("wsmid:ProductVersion", &identity.version);
            });
        },
    )
}

/// To Get.
pub(crate) fn instance(head: &Head, row: &Row, style: Style, fragment: Option<&Fragment>) -> Result<String, Fault> {
    let Some(fragment) = fragment else {
        return Ok(head.respond(|w| binding::write_instance(w, row, style)));
    };
    let mut is_there = false;
    let header = |w: &mut Writer| {
        head.write(w, &format!("{}Response", head.action));
        w.leaf("w:FragmentTransfer", &fragment.expression);
    };
    let envelope = soap::write(header, |w| {
        is_there = binding::write_fragment(w, row, &fragment.property, fragment.text_only, style);
    });
    if is_there {
        return Ok(envelope);
    }
    let reason = format!("class {} has no property {}", row.instance.class().name, fragment.property);
    Err(Fault::new(Kind::InvalidFragment, reason))
}

/// To Enumerate: the context, absent when everything is in `items`.
pub(crate) fn enumeration(head: &Head, context: Option<&str>, items: Option<&str>) -> String {
    head.respond(|w| {
        w.element("n:EnumerateResponse", |w| {
            w.leaf("n:EnumerationContext", context.unwrap_or_default());
            if let Some(items) = items {
                w.element("w:Items", |w| w.verbatim(items));
            }
            if context.is_none() {
                w.element("w:EndOfSequence", |_| {});
            }
        });
    })
}

/// To Pull. There are always items, be it none: virsh looks for the element.
pub(crate) fn page(head: &Head, context: &str, items: &str, is_last: bool) -> String {
    head.respond(|w| {
        w.element("n:PullResponse", |w| {
            if !is_last {
                w.leaf("n:EnumerationContext", context);
            }
            w.element("n:Items", |w| w.verbatim(items));
            if is_last {
                w.element("n:EndOfSequence", |_| {});
            }
        });
    })
}

/// To Release and Unsubscribe.
pub(crate) fn released(head: &Head) -> String {
    head.respond(|_| {})
}

/// To Subscribe: where to manage the subscription, and what to pull with.
pub(crate) fn subscribed(head: &Head, context: &str, terms: &Terms, lifetime: Duration) -> String {
    head.respond(|w| {
        w.element("e:SubscribeResponse", |w| {
            w.attribute("xmlns:e", ns::EVENTING);
            w.element("e:SubscriptionManager", |w| {
                w.leaf("a:Address", &terms.address);
                w.element("a:ReferenceParameters", |w| {
                    w.leaf("w:ResourceURI", &terms.resource_uri);
                    w.leaf("e:Identifier", context);
                });
            });
            w.leaf("e:Expires", &duration(lifetime));
            w.leaf("n:EnumerationContext", context);
        });
    })
}

/// To Renew and GetStatus: how long the subscription lives.
pub(crate) fn lifetime(head: &Head, left: Duration) -> String {
    let name = head.action.rsplit('/').next().unwrap_or_default();
    head.respond(|w| {
        w.element(&format!("e:{name}Response"), |w| {
            w.attribute("xmlns:e", ns::EVENTING);
            w.leaf("e:Expires", &duration(left));
        });
    })
}

fn duration(duration: Duration) -> String {
    format!("PT{}.{:03}S", duration.as_secs(), duration.subsec_millis())
}

/// To a method call.
pub(crate) fn method(
    head: &Head,
    uri: &str,
    method: &str,
    result: &MethodResult,
    style: Style,
    namespace: &str,
) -> String {
    head.respond(|w| binding::write_outputs(w, method, result, uri, style, namespace))
}

/// To Get or Enumerate on a class.
pub(crate) fn class(head: &Head, class: &Class, is_enumeration: bool) -> String {
    let mut w = Writer::new();
    class_xml::write(&mut w, class);
    let declaration = w.finish();
    if is_enumeration {
        return enumeration(head, None, Some(&declaration));
    }
    head.respond(|w| w.verbatim(&declaration))
}

/// To whatever cannot be answered.
pub(crate) fn fault(head: &Head, fault: &Fault, host: &str) -> String {
    soap::write(|w| head.write(w, fault.action()), |w| fault.write(w, host))
}
