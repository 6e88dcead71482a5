//! XML as far as management protocols need it: a bounded reader to a small tree, and a writer.
//!
//! The reader resolves namespaces, so that no code behind it sees a prefix; only where a prefix stands in content
//! (`xsi:type="p:…"`) does [`Element::resolve`] look it up. It refuses a document type declaration, and with it every entity
//! but the five of XML itself. Sizes are bounded by [`crate::limit`]. Text is UTF-8 by then; who receives UTF-16 decodes it.

mod reader;
mod tree;
mod writer;

pub use reader::{XmlError, parse};
pub use tree::{Attribute, Element, Node, Scope};
pub use writer::Writer;

/// The namespace of `xsi:type` and `xsi:nil`.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
