//! The envelope: what it contains on the way in, and how it looks on the way out.
//!
//! Reading is driven by namespaces alone, since every client has prefixes of its own. Writing is not free to choose: virsh looks up
//! `s`, `a`, `w` and `p` in replies without asking what they are bound to.

use crate::fault::{Fault, Kind};
use crate::ns;
use cim::xml::{Element, Node, Writer};
use std::fmt::Write as _;

/// Room for an envelope with one instance, the usual one; larger ones grow.
const USUAL_BYTES: usize = 8 << 10;

/// The parts of an envelope.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// The header blocks in order.
    pub headers: Vec<Element>,
    /// The first element of the body; none in a Get.
    pub body: Option<Element>,
}

impl Envelope {
    /// Takes the outermost element of a document apart.
    pub fn open(root: Element) -> Result<Self, Fault> {
        if root.name != "Envelope" {
            return Err(Fault::schema(format!("the outermost element is {}, not a SOAP envelope", root.name)));
        }
        if *root.namespace != *ns::SOAP {
            return Err(Fault::new(Kind::VersionMismatch, "the envelope is not SOAP 1.2"));
        }
        let mut envelope = Envelope { headers: Vec::new(), body: None };
        let mut has_body = false;
        for part in into_elements(root) {
            match part.name.as_str() {
                "Header" if envelope.headers.is_empty() && !has_body => {
                    envelope.headers = into_elements(part).collect()
                }
                "Body" if !has_body => {
                    has_body = true;
                    envelope.body = into_elements(part).next();
                }
                name => return Err(Fault::schema(format!("the envelope has an unexpected {name}"))),
            }
        }
        if has_body { Ok(envelope) } else { Err(Fault::schema("the envelope has no body")) }
    }

    /// The text of a header block, without blanks around it.
    pub fn header_text(&self, namespace: &str, name: &str) -> Option<String> {
        self.headers.iter().find(|header| header.is(namespace, name)).map(Element::trimmed_text)
    }
}

fn into_elements(parent: Element) -> impl Iterator<Item = Element> {
    parent.children.into_iter().filter_map(|node| if let Node::Element(element) = node { Some(element) } else { None })
}

/// Whether an attribute that says yes or no says yes.
pub(crate) fn says_yes(value: Option<&str>) -> bool {
    value.is_some_and(|value| matches!(value.trim(), "true" | "1"))
}

/// Writes an envelope around the header blocks and the body that the closures write.
pub(crate) fn write(header: impl FnOnce(&mut Writer), body: impl FnOnce(&mut Writer)) -> String {
    let mut w = Writer::with_capacity(USUAL_BYTES);
    w.element("s:Envelope", |w| {
        w.attribute("xml:lang", "en-US");
        w.attribute("xmlns:s", ns::SOAP);
        w.attribute("xmlns:a", ns::ADDRESSING);
        w.attribute("xmlns:x", ns::TRANSFER);
        w.attribute("xmlns:w", ns::WSMAN);
        w.attribute("xmlns:n", ns::ENUMERATION);
        w.element("s:Header", header);
        w.element("s:Body", body);
    });
    w.finish()
}

/// A message id from 128 random bits, in the form Windows writes: `uuid:` and a version 4 UUID in capitals.
pub(crate) fn uuid(random: [u8; 16]) -> String {
    let mut text = String::from("uuid:");
    for (position, mut byte) in random.into_iter().enumerate() {
        match position {
            4 | 10 => text.push('-'),
            6 => {
                text.push('-');
                byte = (byte & 0x0F) | 0x40;
            }
            8 => {
                text.push('-');
                byte = (byte & 0x3F) | 0x80;
            }
            _ => {}
        }
        write!(text, "{byte:02X}").expect("writing to a string cannot fail");
    }
    text
}
