//! As much DER (X.690) as SPNEGO needs: tags of one byte, definite lengths, nothing nested deeper than its callers go.

use crate::context::Reason;

/// A sequence.
pub const SEQUENCE: u8 = 0x30;
/// A string of bytes.
pub const OCTETS: u8 = 0x04;
/// An object identifier.
pub const OBJECT: u8 = 0x06;
/// One of several numbers.
pub const ENUMERATED: u8 = 0x0a;

const TRUNCATED: Reason = Reason::Malformed("a SPNEGO token ends too soon");

/// The context-specific, constructed tag of a number.
pub const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Takes the next element off the front: its tag and content.
///
/// # Errors
/// When it is longer than what is there.
pub fn take<'a>(bytes: &mut &'a [u8]) -> Result<(u8, &'a [u8]), Reason> {
    let (&[tag, first], mut rest) = bytes.split_first_chunk().ok_or(TRUNCATED)?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x80 | 0x84.. => return Err(Reason::Malformed("a SPNEGO token has a length that we do not read")),
        // Lengths of up to three bytes: a token is far shorter than 16 MiB.
        0x81..=0x83 => {
            let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f)).ok_or(TRUNCATED)?;
            rest = after;
            digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit))
        }
    };
    let (content, after) = rest.split_at_checked(length).ok_or(TRUNCATED)?;
    *bytes = after;
    Ok((tag, content))
}

/// Takes the next element, which must have this tag.
///
/// # Errors
/// When it has another, or is longer than what is there.
pub fn expect<'a>(bytes: &mut &'a [u8], tag: u8) -> Result<&'a [u8], Reason> {
    match take(bytes)? {
        (found, content) if found == tag => Ok(content),
        _ => Err(Reason::Malformed("a SPNEGO token has another element than is due")),
    }
}

/// An element.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let [_, high, middle, low] = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes();
    match content.len() {
        0..0x80 => bytes.push(low),
        0x80..0x100 => bytes.extend([0x81, low]),
        0x100..0x1_0000 => bytes.extend([0x82, middle, low]),
        _ => bytes.extend([0x83, high, middle, low]),
    }
    bytes.extend(content);
    bytes
}
