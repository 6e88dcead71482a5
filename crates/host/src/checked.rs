//! Lines of text that tell when they are damaged: `<sixteen hexadecimal digits> <text>`.
//!
//! The digits are the beginning of the text's SHA-256. Meant against disks that fail, not against people who forge.

use ring::digest::{SHA256, digest};

/// Hexadecimal digits in front of a text: 64 bits.
const SUM_DIGITS: usize = 16;

/// The text with its sum in front, without a line break.
pub fn line(text: &str) -> String {
    format!("{} {text}", sum(text))
}

/// The text of a line; `None` if one of the two is damaged.
pub fn read(line: &str) -> Option<&str> {
    let (found, text) = line.split_once(' ')?;
    (found == sum(text)).then_some(text)
}

/// Whether a line has the form, damaged or not. Texts that begin with a brace never do.
pub fn has_form(line: &str) -> bool {
    let digits = |sum: &str| sum.len() == SUM_DIGITS && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
    line.split_once(' ').is_some_and(|(sum, _)| digits(sum))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sum(text: &str) -> String {
    let mut digits = hex(digest(&SHA256, text.as_bytes()).as_ref());
    digits.truncate(SUM_DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_character_is_noticed() {
        let whole = line(r#"{"a": "ä b"}"#);
        assert_eq!(read(&whole), Some(r#"{"a": "ä b"}"#));
        assert!(has_form(&whole) && !has_form(r#"{"a": 1}"#));
        for position in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[position] ^= 1;
            let read = String::from_utf8(bytes).ok().and_then(|damaged| read(&damaged).map(str::to_owned));
            assert_eq!(read, None, "position {position}");
        }
    }
}
