//! Turns what the daemon answered into text: tables, trees, styles. Pure functions from values to strings.

pub mod style;
pub mod table;
pub mod tree;

/// The text with control characters made visible, so that a name cannot command the terminal.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Direction overrides are not control characters by category, yet can make a line read backwards.
        if c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// A name as one word of a command that the reader may copy into a shell.
pub fn word(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-.,:@%+/=".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

/// Columns a text takes in a terminal: two for East Asian wide characters and emoji, none for combining marks.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036F | 0x200B..=0x200F | 0x20D0..=0x20FF | 0xFE00..=0xFE0F | 0xFE20..=0xFE2F => 0,
        0x1100..=0x115F
        | 0x2E80..=0x303E
        | 0x3041..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1F64F
        | 0x1F900..=0x1F9FF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

/// Appends `text`, padded with blanks to `columns`.
pub fn push_padded(out: &mut String, text: &str, columns: usize) {
    out.push_str(text);
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(width(text))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_words_of_a_shell() {
        let words = ["web-1", "日本", "two words", "it's", "$(x)", ""].map(word);
        assert_eq!(words, ["web-1", "日本", "'two words'", r"'it'\''s'", "'$(x)'", "''"]);
    }

    #[test]
    fn hostile_names_are_defused_and_widths_counted() {
        assert_eq!(printable("a\u{1b}[31m\n\u{202e}b"), "a\\u{1b}[31m\\u{a}\\u{202e}b");
        assert_eq!(["web", "日本", "e\u{301}", ""].map(width), [3, 4, 1, 0]);
    }
}
