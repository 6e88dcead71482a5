//! From calls to text.

use std::fmt;
use std::ops::Range;

/// Writes a document piece by piece. Names are taken as they are (with the prefix the caller declares), text and values
/// are escaped, and characters that XML 1.0 cannot carry become U+FFFD.
///
/// ```
/// let mut w = cim::xml::Writer::new();
/// w.element("a", |w| {
///     w.attribute("x", "1 < 2");
///     w.leaf("b", "text & more");
/// });
/// assert_eq!(w.finish(), r#"<a x="1 &lt; 2"><b>text &amp; more</b></a>"#);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Writer {
    out: String,
    /// Where in `out` the name of each open element stands, so that it is written again without being kept twice.
    open: Vec<Range<usize>>,
    /// Whether the start tag of the innermost open element still lacks its `>`.
    in_tag: bool,
}

impl Writer {
    /// A writer that has written nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with room for so many bytes before memory has to be moved.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: String::with_capacity(bytes), ..Self::default() }
    }

    /// Opens an element.
    pub fn open(&mut self, name: &str) {
        self.end_tag();
        self.out.push('<');
        let start = self.out.len();
        self.out.push_str(name);
        self.open.push(start..self.out.len());
        self.in_tag = true;
    }

    /// Adds an attribute, or a namespace declaration, to the element just opened.
    ///
    /// # Panics
    /// If the element has content already: a mistake of the caller, not of any input.
    pub fn attribute(&mut self, name: &str, value: &str) {
        assert!(self.in_tag, "attribute {name} comes after the content of its element");
        self.out.push(' ');
        self.out.push_str(name);
        self.out.push_str("=\"");
        push_escaped(&mut self.out, value, true);
        self.out.push('"');
    }

    /// Adds text to the innermost open element.
    pub fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.end_tag();
            push_escaped(&mut self.out, text, false);
        }
    }

    /// Adds what is XML already.
    pub fn verbatim(&mut self, xml: &str) {
        if !xml.is_empty() {
            self.end_tag();
            self.out.push_str(xml);
        }
    }

    /// Closes the innermost open element.
    ///
    /// # Panics
    /// If none is open: a mistake of the caller, not of any input.
    pub fn close(&mut self) {
        let name = self.open.pop();
        assert!(name.is_some(), "there is no element to close");
        if self.in_tag {
            self.out.push_str("/>");
            self.in_tag = false;
        } else if let Some(name) = name {
            self.out.push_str("</");
            self.out.extend_from_within(name);
            self.out.push('>');
        }
    }

    /// Writes an element with what `content` writes in it.
    pub fn element(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.open(name);
        content(self);
        self.close();
    }

    /// Writes an element that contains only text.
    pub fn leaf(&mut self, name: &str, text: &str) {
        self.element(name, |w| w.text(text));
    }

    /// The same of anything that can be shown as text.
    pub fn shown(&mut self, name: &str, value: impl fmt::Display) {
        use fmt::Write as _;
        self.element(name, |w| write!(w, "{value}").expect("nothing that we show refuses, and neither does memory"));
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The document.
    ///
    /// # Panics
    /// If an element is open: a mistake of the caller, not of any input.
    pub fn finish(self) -> String {
        let unclosed = self.open.last().and_then(|name| self.out.get(name.clone()));
        assert!(unclosed.is_none(), "element {unclosed:?} is not closed");
        self.out
    }

    fn end_tag(&mut self) {
        if self.in_tag {
            self.out.push('>');
            self.in_tag = false;
        }
    }
}

/// Text that is made of something else, such as a number, need not be made elsewhere first.
impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}

fn push_escaped(out: &mut String, text: &str, in_attribute: bool) {
    // Nearly all texts need no escape and are copied whole. U+FFFE and U+FFFF begin with the byte EF.
    if !text.bytes().any(|byte| matches!(byte, 0..0x20 | b'&' | b'<' | b'>' | b'"' | 0xEF)) {
        return out.push_str(text);
    }
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Readers turn a bare carriage return into a line feed.
            '\r' => out.push_str("&#xD;"),
            '"' if in_attribute => out.push_str("&quot;"),
            // Readers turn these into blanks within attributes.
            '\n' if in_attribute => out.push_str("&#xA;"),
            '\t' if in_attribute => out.push_str("&#x9;"),
            '\n' | '\t' => out.push(c),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        fn check(text: &str, read_back: &str) {
            let mut w = Writer::new();
            w.element("a", |w| {
                w.attribute("x", text);
                w.text(text);
            });
            let root = crate::xml::parse(&w.finish()).unwrap();
            assert_eq!(root.attribute("", "x"), Some(read_back));
            assert_eq!(root.text(), read_back);
        }
        check("plain", "plain");
        check("<&>\"'", "<&>\"'");
        check(" a\r\n\tb ", " a\r\n\tb ");
        check("]]>", "]]>");
        check("\0\u{1}\u{ffff}é😀", "\u{fffd}\u{fffd}\u{fffd}é😀");
    }

    #[test]
    fn empty_elements_are_short_and_pieces_can_be_inserted() {
        let mut w = Writer::new();
        w.element("a", |w| {
            w.leaf("b", "");
            w.verbatim("<c/>");
        });
        assert_eq!(w.finish(), "<a><b/><c/></a>");
    }
}
