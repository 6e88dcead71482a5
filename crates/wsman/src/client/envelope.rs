//! Requests to envelopes. Classes are addressed in Microsoft's style, which carries the namespace in the URI.

use super::{Request, Stamp, embedded};
use crate::epr::{self, Style, slashed};
use crate::ns;
use crate::soap;
use cim::Value;
use cim::op::{Argument, Target};
use cim::xml::Writer;

/// The largest reply our own XML reader takes, a little below its bound.
const MAX_ENVELOPE: usize = 1_000_000;

/// Writes the envelope of a request.
pub(super) fn write(request: &Request, stamp: Stamp<'_>) -> String {
    match request {
        Request::Identify => {
            soap::write(|_| {}, |w| w.element("wsmid:Identify", |w| w.attribute("xmlns:wsmid", ns::IDENTITY)))
        }
        Request::Get(target) => soap::write(|w| header(w, stamp, ns::GET, &uri(target), &target.keys), |_| {}),
        Request::Enumerate { namespace, wql, page } => soap::write(
            |w| header(w, stamp, ns::ENUMERATE, &all(namespace), &[]),
            |w| {
                w.element("n:Enumerate", |w| {
                    w.element("w:Filter", |w| {
                        w.attribute("Dialect", ns::DIALECT_WQL);
                        w.text(wql);
                    });
                    w.element("w:OptimizeEnumeration", |_| {});
                    w.leaf("w:MaxElements", &page.max(&1).to_string());
                });
            },
        ),
        Request::Subscribe { namespace, wql } => soap::write(
            |w| header(w, stamp, ns::SUBSCRIBE, &all(namespace), &[]),
            |w| {
                w.element("e:Subscribe", |w| {
                    w.attribute("xmlns:e", ns::EVENTING);
                    w.element("e:Delivery", |w| w.attribute("Mode", ns::DELIVERY_PULL));
                    w.element("w:Filter", |w| {
                        w.attribute("Dialect", ns::DIALECT_WQL);
                        w.text(wql);
                    });
                });
            },
        ),
        Request::Pull { namespace, context, page } => soap::write(
            |w| header(w, stamp, ns::PULL, &all(namespace), &[]),
            |w| {
                w.element("n:Pull", |w| {
                    w.leaf("n:EnumerationContext", context);
                    w.leaf("n:MaxElements", &page.max(&1).to_string());
                });
            },
        ),
        Request::Release { namespace, context } => soap::write(
            |w| header(w, stamp, ns::RELEASE, &all(namespace), &[]),
            |w| w.element("n:Release", |w| w.leaf("n:EnumerationContext", context)),
        ),
        Request::Invoke { target, method, arguments } => {
            let uri = uri(target);
            soap::write(
                |w| header(w, stamp, &format!("{uri}/{method}"), &uri, &target.keys),
                |w| {
                    w.element(&format!("p:{method}_INPUT"), |w| {
                        w.attribute("xmlns:p", &uri);
                        w.attribute("xmlns:xsi", ns::XSI);
                        for (name, value) in arguments {
                            write_argument(w, &format!("p:{name}"), value);
                        }
                    });
                },
            )
        }
    }
}

fn header(w: &mut Writer, stamp: Stamp<'_>, action: &str, uri: &str, keys: &[(String, Value)]) {
    w.leaf("a:Action", action);
    w.leaf("a:To", stamp.to);
    w.leaf("w:ResourceURI", uri);
    w.leaf("a:MessageID", &soap::uuid(stamp.message_id));
    w.element("a:ReplyTo", |w| w.leaf("a:Address", ns::ANONYMOUS));
    w.leaf("w:MaxEnvelopeSize", &MAX_ENVELOPE.to_string());
    w.leaf("w:OperationTimeout", &format!("PT{}.{:03}S", stamp.timeout.as_secs(), stamp.timeout.subsec_millis()));
    if !keys.is_empty() {
        epr::write_selectors(w, None, keys, Style::Microsoft);
    }
}

fn write_argument(w: &mut Writer, element: &str, argument: &Argument) {
    match argument {
        Argument::Null => w.element(element, |w| w.attribute("xsi:nil", "true")),
        Argument::Text(text) => w.leaf(element, text),
        Argument::Reference(target) => w.element(element, |w| epr::write(w, &target.to_path(), Style::Microsoft)),
        Argument::Instance(instance) => w.leaf(element, &embedded::to_cim_xml(instance)),
    }
}

fn uri(target: &Target) -> String {
    Style::Microsoft.class_uri(target.namespace.trim_matches(['/', '\\']), &target.class)
}

fn all(namespace: &str) -> String {
    format!("{}{}/*", ns::MS_BASE, slashed(namespace.trim_matches(['/', '\\'])))
}
