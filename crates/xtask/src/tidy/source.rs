//! A Rust file as the rules see it: comments and strings blanked out, tests told apart, functions found.
//!
//! This is no parser. It knows enough of Rust's tokens to count braces, and the files it reads have passed rustfmt.

use std::ops::Range;

/// One file.
pub struct Source<'a> {
    /// Relative to the checkout.
    pub path: &'a str,
    /// As it is.
    pub text: &'a str,
    /// The same lines with the inside of comments, strings and characters blanked out.
    pub code: String,
    /// As `code`, with tests blanked out too.
    pub product: String,
}

/// A function or module and its extent.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Index of the line with `fn` or `mod`, from zero.
    pub first_line: usize,
    /// Lines from there to the closing brace.
    pub lines: usize,
}

impl Item {
    /// Whether a line, counted from zero, belongs to it.
    pub fn contains(&self, line: usize) -> bool {
        (self.first_line..self.first_line + self.lines).contains(&line)
    }
}

impl<'a> Source<'a> {
    /// Takes a file apart.
    pub fn new(path: &'a str, text: &'a str) -> Self {
        let code = mask(text);
        let is_test = path.contains("/tests/") || path.ends_with("/tests.rs") || text.contains("#![cfg(test)]");
        let tests = test_items(&code);
        let product = blank(&code, |at| is_test || tests.iter().any(|range| range.contains(&at)));
        Self { path, text, code, product }
    }

    /// The functions of the file, tests included, nested ones too.
    pub fn functions(&self) -> Vec<Item> {
        self.items("fn")
    }

    /// The modules written out in the file, outer ones first.
    pub fn modules(&self) -> Vec<Item> {
        self.items("mod")
    }

    fn items(&self, keyword: &str) -> Vec<Item> {
        let mut items = Vec::new();
        for start in word_positions(&self.code, keyword) {
            let rest = &self.code[start + keyword.len()..];
            let name: String = rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // Without a name it is the type of a function pointer.
            if name.is_empty() {
                continue;
            }
            if let Some(end) = body_end(&self.code, start) {
                let first_line = line_index(&self.code, start);
                items.push(Item { name, first_line, lines: line_index(&self.code, end) - first_line + 1 });
            }
        }
        items
    }
}

/// Positions where `word` stands alone.
pub fn word_positions(code: &str, word: &str) -> Vec<usize> {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let alone =
        |at: usize| !is_part(code[..at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next());
    code.match_indices(word).map(|(at, _)| at).filter(|at| alone(*at)).collect()
}

/// The line of a position, from zero.
pub fn line_index(text: &str, position: usize) -> usize {
    text[..position].matches('\n').count()
}

/// Ranges of what stands under `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let end = |start: usize| body_end(code, start).map_or(code.len(), |end| end + 1);
    code.match_indices("#[cfg(test)]").map(|(start, _)| start..end(start)).collect()
}

/// The position of the brace that closes the first block after `start`; `None` if a semicolon comes before any block.
fn body_end(code: &str, start: usize) -> Option<usize> {
    let (mut braces, mut inner) = (0_usize, 0_usize);
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => inner += 1,
            b')' | b']' => inner = inner.saturating_sub(1),
            b';' if braces == 0 && inner == 0 => return None,
            b'{' => braces += 1,
            b'}' if braces <= 1 => return Some(offset),
            b'}' => braces -= 1,
            _ => (),
        }
    }
    None
}

fn blank(code: &str, inside: impl Fn(usize) -> bool) -> String {
    code.char_indices().map(|(at, c)| if c != '\n' && inside(at) { ' ' } else { c }).collect()
}

/// Blanks out what is not code. Every blanked byte becomes a blank, so lines and positions stay.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut masked = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = token_to_blank(rest, at.checked_sub(1).map(|before| bytes[before]));
        for byte in masked.iter_mut().skip(at).take(length).filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
        at += length.max(1);
    }
    String::from_utf8_lossy(&masked).into_owned()
}

/// Length of the comment, string or character at the start of `rest`; zero if there is none.
fn token_to_blank(rest: &[u8], before: Option<u8>) -> usize {
    let until = |end: &[u8], from: usize| {
        rest.windows(end.len())
            .skip(from)
            .position(|window| window == end)
            .map_or(rest.len(), |at| from + at + end.len())
    };
    match rest {
        [b'/', b'/', ..] => until(b"\n", 0),
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'"', ..] => quoted(rest),
        [b'r', b'"' | b'#', ..] if !before.is_some_and(|b| b.is_ascii_alphanumeric() && b != b'b' || b == b'_') => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            let opens = rest.get(1 + hashes) == Some(&b'"');
            let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            if opens { until(&end, 2 + hashes) } else { 0 }
        }
        [b'\'', b'\\', ..] => until(b"'", 3),
        // A lifetime has no quote behind its first character; a character does, behind one to four bytes.
        [b'\'', first, ..] => {
            let width = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let masked = mask(text);
            assert_eq!(masked.len(), text.len());
            assert_eq!(masked.lines().count(), text.lines().count());
            assert_eq!(masked.split_whitespace().collect::<Vec<_>>().join(" "), expected);
        }
        check("a // {\nb", "a b");
        check("a /* { \n */ b", "a b");
        check(r#"f("{\"{", x)"#, "f( , x)");
        check("f(r#\"{\"{\"#)", "f( )");
        check("r#type r#\"{\"# var\"{\"", "r#type var");
        check("'{' '\\'' 'é' '\\u{7d}' '\\\\' &'a str", "&'a str");
        check("b\"{\" br\"{\"", "b b");
    }

    #[test]
    fn functions_are_found_with_their_lines() {
        let text = "fn a() {\n    if x {\n    }\n}\ntrait T {\n    fn none(x: [u8; 2]);\n}\nfn c(f: fn(u8)) { }\n";
        let found = Source::new("crates/x/src/lib.rs", text).functions();
        let shown: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.first_line, f.lines)).collect();
        assert_eq!(shown, [("a", 0, 4), ("c", 7, 1)]);
    }

    #[test]
    fn modules_are_found_with_their_lines() {
        let text = "mod elsewhere;\nmod tests {\n    mod inner {\n    }\n}\n";
        let found = Source::new("crates/x/src/lib.rs", text).modules();
        let shown: Vec<_> = found.iter().map(|m| (m.name.as_str(), m.first_line, m.lines)).collect();
        assert_eq!(shown, [("tests", 1, 4), ("inner", 2, 2)]);
        assert!(found[1].contains(3) && !found[1].contains(4));
    }

    #[test]
    fn tests_are_no_product() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let source = Source::new("crates/x/src/lib.rs", text);
        assert!(source.product.contains("fn a") && source.product.contains("fn c"));
        assert!(!source.product.contains("fn b"));
        assert_eq!(source.product.lines().count(), 6);
        assert!(Source::new("crates/x/tests/y.rs", "fn a() {}").product.trim().is_empty());
    }
}
