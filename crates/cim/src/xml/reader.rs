//! From text to a tree.

use std::borrow::Cow;
use std::sync::Arc;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::tree::{Attribute, Element, Node, Scope};
use crate::limit;

/// What `xml:` stands for without being declared.
const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// A text that is not an acceptable document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// More bytes than [`limit::XML_BYTES`].
    #[error("the XML document is longer than {} bytes", limit::XML_BYTES)]
    TooLong,
    /// Elements nested deeper than [`limit::XML_DEPTH`].
    #[error("the XML document is nested deeper than {} elements", limit::XML_DEPTH)]
    TooDeep,
    /// More elements than [`limit::XML_ELEMENTS`].
    #[error("the XML document has more than {} elements", limit::XML_ELEMENTS)]
    TooManyElements,
    /// More attributes on one element than [`limit::XML_ATTRIBUTES`].
    #[error("element {element} has more than {} attributes", limit::XML_ATTRIBUTES)]
    TooManyAttributes {
        /// The element, as written.
        element: String,
    },
    /// A document type declaration.
    #[error("document type declarations are not accepted")]
    DocType,
    /// An entity that XML itself does not define.
    #[error("entity &{name}; is not accepted")]
    Entity {
        /// Its name.
        name: String,
    },
    /// A prefix that is not declared.
    #[error("prefix {prefix} is not declared")]
    UnboundPrefix {
        /// The prefix.
        prefix: String,
    },
    /// Not XML.
    #[error("the XML document is malformed at byte {at}: {reason}")]
    Malformed {
        /// Offset in bytes.
        at: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Reads a document. A byte order mark, comments and processing instructions are skipped.
///
/// # Errors
/// If it is not well formed or exceeds a bound of [`crate::limit`].
pub fn parse(text: &str) -> Result<Element, XmlError> {
    if text.len() > limit::XML_BYTES {
        return Err(XmlError::TooLong);
    }
    let mut reader = quick_xml::Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut builder = Builder::default();
    loop {
        let at = reader.buffer_position();
        let malformed = |reason: String| XmlError::Malformed { at, reason };
        match reader.read_event().map_err(|error| malformed(error.to_string()))? {
            Event::Start(start) => builder.open(&start, at)?,
            Event::Empty(start) => {
                builder.open(&start, at)?;
                builder.close();
            }
            Event::End(_) => builder.close(),
            Event::Text(text) => builder.text(&text.xml10_content(), at)?,
            Event::CData(text) => builder.text(&text.xml10_content(), at)?,
            Event::GeneralRef(reference) => builder.text(&resolved(&reference, at)?, at)?,
            Event::DocType(_) => return Err(XmlError::DocType),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof if !builder.open.is_empty() => return Err(malformed("an element is not closed".to_owned())),
            Event::Eof => return builder.root.ok_or_else(|| malformed("there is no element".to_owned())),
        }
    }
}

/// The tree so far: the elements that are open, outermost first.
#[derive(Default)]
struct Builder {
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
    /// Namespaces seen so far; a document repeats a handful of them on every element.
    namespaces: Vec<Arc<str>>,
}

impl Builder {
    fn open(&mut self, start: &BytesStart<'_>, at: u64) -> Result<(), XmlError> {
        self.elements += 1;
        if self.elements > limit::XML_ELEMENTS {
            return Err(XmlError::TooManyElements);
        }
        if self.open.len() >= limit::XML_DEPTH {
            return Err(XmlError::TooDeep);
        }
        if self.root.is_some() {
            return Err(XmlError::Malformed { at, reason: "there is a second outermost element".to_owned() });
        }
        let raw = raw_attributes(start, at)?;
        let scope = self.scope(&raw);
        let qname = start.name();
        let (namespace, name) = match split(qname.as_ref()) {
            ("", name) => (scope.namespace("").map_or_else(|| self.intern(""), Arc::clone), name),
            (prefix, name) => (self.bound(&scope, prefix)?, name),
        };
        let mut attributes: Vec<Attribute> = Vec::new();
        for (qname, value) in raw.into_iter().filter(|(qname, _)| declared_prefix(qname).is_none()) {
            let (namespace, name) = match split(qname) {
                ("", name) => (self.intern(""), name),
                (prefix, name) => (self.bound(&scope, prefix)?, name),
            };
            if attributes.iter().any(|a| a.name == name && a.namespace == namespace) {
                return Err(XmlError::Malformed { at, reason: format!("attribute {qname} is given twice") });
            }
            attributes.push(Attribute { namespace, name: name.to_owned(), value: value.into_owned() });
        }
        self.open.push(Element { namespace, name: name.to_owned(), attributes, children: Vec::new(), scope });
        Ok(())
    }

    /// The reader has checked that there is an element to close.
    fn close(&mut self) {
        let Some(mut element) = self.open.pop() else { return };
        if element.elements().next().is_some() {
            element.children.retain(|node| !matches!(node, Node::Text(text) if text.trim().is_empty()));
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(Node::Element(element)),
            None => self.root = Some(element),
        }
    }

    fn text(&mut self, text: &str, at: u64) -> Result<(), XmlError> {
        if !self.open.is_empty() {
            check_characters(text, at)?;
        }
        match self.open.last_mut().map(|element| &mut element.children) {
            Some(_) if text.is_empty() => Ok(()),
            Some(children) => {
                if let Some(Node::Text(before)) = children.last_mut() {
                    before.push_str(text);
                } else {
                    children.push(Node::Text(text.to_owned()));
                }
                Ok(())
            }
            // Senders that count wrongly leave a NUL behind the document.
            None if text.trim_matches(|c: char| c.is_whitespace() || c == '\0').is_empty() => Ok(()),
            None => {
                Err(XmlError::Malformed { at, reason: "there is text outside of the outermost element".to_owned() })
            }
        }
    }

    /// The scope of an element with these attributes: a new one only if it declares something.
    fn scope(&mut self, raw: &[(&str, Cow<'_, str>)]) -> Arc<Scope> {
        let outer = self.open.last().map(|element| Arc::clone(&element.scope));
        let mut declared: Vec<(String, Arc<str>)> = Vec::new();
        for (qname, value) in raw {
            if let Some(prefix) = declared_prefix(qname) {
                declared.push((prefix.to_owned(), self.intern(value)));
            }
        }
        match outer {
            Some(outer) if declared.is_empty() => outer,
            outer => Arc::new(Scope { outer, declared }),
        }
    }

    fn bound(&mut self, scope: &Scope, prefix: &str) -> Result<Arc<str>, XmlError> {
        match scope.namespace(prefix) {
            Some(namespace) => Ok(Arc::clone(namespace)),
            None if prefix == "xml" => Ok(self.intern(XML_NAMESPACE)),
            None => Err(XmlError::UnboundPrefix { prefix: prefix.to_owned() }),
        }
    }

    fn intern(&mut self, namespace: &str) -> Arc<str> {
        // Beyond the namespaces of any real document, sharing is not worth the search.
        if let Some(known) = self.namespaces.iter().find(|known| ***known == *namespace) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(namespace);
        if self.namespaces.len() < limit::XML_ATTRIBUTES {
            self.namespaces.push(Arc::clone(&new));
        }
        new
    }
}

/// The attributes as written, with values decoded.
fn raw_attributes<'a>(start: &'a BytesStart<'_>, at: u64) -> Result<Vec<(&'a str, Cow<'a, str>)>, XmlError> {
    let mut raw = Vec::new();
    // The check for repeated names is ours: a namespace declared twice in the same way is tolerated, as Windows does.
    for attribute in start.attributes().with_checks(false) {
        let malformed = |reason: String| XmlError::Malformed { at, reason };
        let attribute = attribute.map_err(|error| malformed(error.to_string()))?;
        let value =
            attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| malformed(error.to_string()))?;
        check_characters(&value, at)?;
        if raw.len() >= limit::XML_ATTRIBUTES {
            return Err(XmlError::TooManyAttributes { element: start.name().as_ref().chars().take(60).collect() });
        }
        raw.push((attribute.key.into_inner(), value));
    }
    Ok(raw)
}

/// The prefix an attribute declares, if it is a declaration.
fn declared_prefix(qname: &str) -> Option<&str> {
    if qname == "xmlns" { Some("") } else { qname.strip_prefix("xmlns:") }
}

fn split(qname: &str) -> (&str, &str) {
    qname.split_once(':').unwrap_or(("", qname))
}

/// Refuses what no XML document may contain, written out or as a reference (XML 1.0, 2.2): a NUL in a name would end it for others.
fn check_characters(text: &str, at: u64) -> Result<(), XmlError> {
    let is_forbidden =
        |c: &char| matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    match text.chars().find(is_forbidden) {
        Some(c) => {
            Err(XmlError::Malformed { at, reason: format!("character U+{:04X} is not permitted in XML", u32::from(c)) })
        }
        None => Ok(()),
    }
}

fn resolved(reference: &BytesRef<'_>, at: u64) -> Result<String, XmlError> {
    let malformed = |reason: String| XmlError::Malformed { at, reason };
    if let Some(c) = reference.resolve_char_ref().map_err(|error| malformed(error.to_string()))? {
        return Ok(c.to_string());
    }
    let name = reference.xml10_content();
    let text = match name.as_ref() {
        "lt" => "<",
        "gt" => ">",
        "amp" => "&",
        "quot" => "\"",
        "apos" => "'",
        other => return Err(XmlError::Entity { name: other.chars().take(60).collect() }),
    };
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// Shows a tree: `{namespace}name @attribute=value`, children indented, text in quotes.
    fn show(element: &Element, indent: usize, out: &mut String) {
        let name = |namespace: &str, name: &str| {
            if namespace.is_empty() { name.to_owned() } else { format!("{{{namespace}}}{name}") }
        };
        *out += &format!("{:indent$}{}", "", name(&element.namespace, &element.name));
        for a in &element.attributes {
            *out += &format!(" @{}={:?}", name(&a.namespace, &a.name), a.value);
        }
        *out += "\n";
        for node in &element.children {
            match node {
                Node::Element(child) => show(child, indent + 2, out),
                Node::Text(text) => *out += &format!("{:width$}{text:?}\n", "", width = indent + 2),
            }
        }
    }

    fn check(text: &str, expected: Expect) {
        let mut shown = String::new();
        match parse(text) {
            Ok(root) => show(&root, 0, &mut shown),
            Err(error) => shown = error.to_string(),
        }
        expected.assert_eq(&shown);
    }

    /// Holds: WIRE-C1-1, WIRE-L5-1
    #[test]
    fn names_are_resolved() {
        check(
            r#"<a xmlns="d" xmlns:p="n" x="1" p:y="2" xml:lang="en"><p:b/><b xmlns=""/><p:c xmlns:p="m" xmlns:p="m"> <d/> </p:c></a>"#,
            expect![[r#"
                {d}a @x="1" @{n}y="2" @{http://www.w3.org/XML/1998/namespace}lang="en"
                  {n}b
                  b
                  {m}c
                    {d}d
            "#]],
        );
        check("<q:a/>", expect!["prefix q is not declared"]);
        check(r#"<a q:x="1"/>"#, expect!["prefix q is not declared"]);
    }

    /// Holds: WIRE-C1-2
    #[test]
    fn text_is_put_together() {
        check(
            "\u{feff}<?xml version=\"1.0\"?><!-- c --><a> 1 &lt;&#x41;&amp;<!-- c --><![CDATA[<b>]]>\r\n</a>\n\0",
            expect![[r#"
                a
                  " 1 <A&<b>\n"
            "#]],
        );
        check(
            "<a x='&quot;&#65;&lt;'/>",
            expect![[r#"
            a @x="\"A<"
        "#]],
        );
    }

    /// Holds: WIRE-C1-3
    #[test]
    fn what_is_dangerous_or_broken_is_refused() {
        check("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", expect!["document type declarations are not accepted"]);
        check("<a>&b;</a>", expect!["entity &b; is not accepted"]);
        check("<a x='&b;'/>", expect!["the XML document is malformed at byte 0: at 1..2: unrecognized entity `b`"]);
        check(
            "<a>&#0;</a>",
            expect![
                "the XML document is malformed at byte 3: invalid character reference: 0x0 character is not permitted in XML"
            ],
        );
        check(
            "<a>x\0</a>",
            expect!["the XML document is malformed at byte 3: character U+0000 is not permitted in XML"],
        );
        check(
            "<a>&#31;</a>",
            expect!["the XML document is malformed at byte 3: character U+001F is not permitted in XML"],
        );
        check(
            "<a x='\u{1}'/>",
            expect!["the XML document is malformed at byte 0: character U+0001 is not permitted in XML"],
        );
        check(
            "<a x='&#x1;'/>",
            expect!["the XML document is malformed at byte 0: character U+0001 is not permitted in XML"],
        );
        check(
            "<a><![CDATA[\u{ffff}]]></a>",
            expect!["the XML document is malformed at byte 3: character U+FFFF is not permitted in XML"],
        );
        check("", expect!["the XML document is malformed at byte 0: there is no element"]);
        check(
            "text",
            expect!["the XML document is malformed at byte 0: there is text outside of the outermost element"],
        );
        check("<a>", expect!["the XML document is malformed at byte 3: an element is not closed"]);
        check(
            "<a></b>",
            expect![
                "the XML document is malformed at byte 3: ill-formed document: expected `</a>`, but `</b>` was found"
            ],
        );
        check("<a/><b/>", expect!["the XML document is malformed at byte 4: there is a second outermost element"]);
        check(
            "<a/>x",
            expect!["the XML document is malformed at byte 4: there is text outside of the outermost element"],
        );
        check("<a x='1' x='2'/>", expect!["the XML document is malformed at byte 0: attribute x is given twice"]);
        check(
            "<a",
            expect![
                "the XML document is malformed at byte 0: syntax error: tag not closed: `>` not found before end of input"
            ],
        );
        check(
            "</a>",
            expect![
                "the XML document is malformed at byte 0: ill-formed document: close tag `</a>` does not match any open tag"
            ],
        );
    }

    #[test]
    fn sizes_are_bounded() {
        check(&"<a>".repeat(40), expect!["the XML document is nested deeper than 32 elements"]);
        check(&format!("<a>{}</a>", "<b/>".repeat(20_000)), expect!["the XML document has more than 20000 elements"]);
        check(
            &format!("<a>{}</a>", "x".repeat(limit::XML_BYTES)),
            expect!["the XML document is longer than 1048576 bytes"],
        );
        let attributes: String = (0..70).map(|i| format!(" x{i}='1'")).collect();
        check(&format!("<a{attributes}/>"), expect!["element a has more than 64 attributes"]);
    }

    #[test]
    fn prefixes_in_content_are_found() {
        let root = parse(r#"<a xmlns="d" xmlns:p="n"><b t="p:T"/></a>"#).unwrap();
        let b = root.child("d", "b").unwrap();
        assert_eq!(b.attribute("", "t").and_then(|t| b.resolve(t)), Some(("n", "T")));
        assert_eq!(b.resolve("T"), Some(("d", "T")));
        assert_eq!(b.resolve("q:T"), None);
    }
}
