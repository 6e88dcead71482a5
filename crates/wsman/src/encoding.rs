//! Bytes to text and back. A request in UTF-16 is answered in UTF-16 little-endian, everything else in UTF-8 without a byte order mark.
//!
//! What the bytes say wins over what the header says: a byte order mark first, then the charset parameter, then the look of the first two
//! bytes. openwsman asked to speak UTF-16 can read neither UTF-8 nor big-endian, hence the rule for the reply.

use thiserror::Error;

/// The encoding a reply is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// The default of every client.
    #[default]
    Utf8,
    /// Little-endian, without a byte order mark.
    Utf16,
}

/// Why a body is not text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodingError {
    /// The charset parameter names something we do not read.
    #[error("character set {0:?} is not supported; send UTF-8 or UTF-16")]
    Charset(String),
    /// The bytes are not valid in the encoding they claim.
    #[error("the body is not valid {0}")]
    Malformed(&'static str),
    /// Another media type than SOAP 1.2.
    #[error("content type {0:?} is not application/soap+xml")]
    MediaType(String),
}

impl Encoding {
    /// The `Content-Type` of a reply in this encoding.
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Utf8 => "application/soap+xml;charset=UTF-8",
            Encoding::Utf16 => "application/soap+xml;charset=UTF-16",
        }
    }

    /// Encodes a reply.
    pub fn encode(self, text: String) -> Vec<u8> {
        match self {
            Encoding::Utf8 => text.into_bytes(),
            Encoding::Utf16 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        }
    }

    /// How many bytes `text` will take.
    pub fn encoded_len(self, text: &str) -> usize {
        match self {
            Encoding::Utf8 => text.len(),
            Encoding::Utf16 => text.encode_utf16().count() * 2,
        }
    }
}

/// Decodes a body by its byte order mark, its `Content-Type`, or the look of its first bytes. The mark is removed.
///
/// An empty content type is accepted: vw and hand-made clients omit it.
pub fn decode(content_type: &str, body: &[u8]) -> Result<(String, Encoding), EncodingError> {
    let charset = charset(content_type)?;
    let (bytes, form) = match body {
        [0xEF, 0xBB, 0xBF, rest @ ..] => (rest, Form::Utf8),
        [0xFF, 0xFE, rest @ ..] => (rest, Form::Utf16Le),
        [0xFE, 0xFF, rest @ ..] => (rest, Form::Utf16Be),
        // XML starts with `<`, so a zero beside it shows the byte order even without a mark.
        [b'<', 0, ..] => (body, Form::Utf16Le),
        [0, b'<', ..] => (body, Form::Utf16Be),
        _ => (body, charset),
    };
    match form {
        Form::Utf8 => {
            let text = std::str::from_utf8(bytes).map_err(|_| EncodingError::Malformed("UTF-8"))?;
            Ok((text.to_owned(), Encoding::Utf8))
        }
        Form::Utf16Le => Ok((utf16(bytes, u16::from_le_bytes)?, Encoding::Utf16)),
        Form::Utf16Be => Ok((utf16(bytes, u16::from_be_bytes)?, Encoding::Utf16)),
    }
}

#[derive(Clone, Copy)]
enum Form {
    Utf8,
    Utf16Le,
    Utf16Be,
}

fn charset(content_type: &str) -> Result<Form, EncodingError> {
    let mut parts = content_type.split(';');
    let media = parts.next().unwrap_or_default().trim();
    let known = ["application/soap+xml", "application/xml", "text/xml", ""];
    if !known.iter().any(|name| media.eq_ignore_ascii_case(name)) {
        return Err(EncodingError::MediaType(media.to_owned()));
    }
    for part in parts {
        let Some((name, value)) = part.split_once('=') else { continue };
        if !name.trim().eq_ignore_ascii_case("charset") {
            continue;
        }
        let value = value.trim().trim_matches(['"', '\'']);
        return match value.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" | "us-ascii" => Ok(Form::Utf8),
            "utf-16" | "utf-16le" | "utf16" => Ok(Form::Utf16Le),
            "utf-16be" => Ok(Form::Utf16Be),
            _ => Err(EncodingError::Charset(value.to_owned())),
        };
    }
    Ok(Form::Utf8)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, EncodingError> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(EncodingError::Malformed("UTF-16"));
    }
    char::decode_utf16(pairs.iter().map(|pair| unit(*pair)))
        .collect::<Result<String, _>>()
        .map_err(|_| EncodingError::Malformed("UTF-16"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(content_type: &str, body: &[u8], expected: Expect) {
        expected.assert_eq(&match decode(content_type, body) {
            Ok((text, encoding)) => format!("{encoding:?} {text}"),
            Err(error) => error.to_string(),
        });
    }

    /// Holds: WIRE-A3-2, WIRE-C2-1
    #[test]
    fn the_mark_wins_over_the_header() {
        check("application/soap+xml; charset=\"UTF-8\"", b"<a/>", expect!["Utf8 <a/>"]);
        check("", b"<a/>", expect!["Utf8 <a/>"]);
        check("Application/SOAP+XML ;  Charset='utf-16'", b"<\0a\0/\0>\0", expect!["Utf16 <a/>"]);
        check("application/soap+xml", b"\0<\0a\0/\0>", expect!["Utf16 <a/>"]);
        check("application/soap+xml;charset=utf-8", b"\xFF\xFE<\0a\0/\0>\0", expect!["Utf16 <a/>"]);
        check("application/soap+xml;charset=utf-8", b"\xFE\xFF\0<\0a\0/\0>", expect!["Utf16 <a/>"]);
        check("application/soap+xml;charset=utf-16", b"\xEF\xBB\xBF<a/>", expect!["Utf8 <a/>"]);
    }

    #[test]
    fn what_is_not_text_is_refused() {
        check(
            "application/soap+xml;charset=koi8-r",
            b"<a/>",
            expect![[r#"character set "koi8-r" is not supported; send UTF-8 or UTF-16"#]],
        );
        check("text/html", b"<a/>", expect![[r#"content type "text/html" is not application/soap+xml"#]]);
        check("", b"<\xFF", expect!["the body is not valid UTF-8"]);
        check("", b"<\0a", expect!["the body is not valid UTF-16"]);
        check("", b"<\0\0\xD8", expect!["the body is not valid UTF-16"]);
    }

    #[test]
    fn a_utf16_reply_is_little_endian() {
        assert_eq!(Encoding::Utf16.encode("<é".to_owned()), [b'<', 0, 0xE9, 0]);
        assert_eq!(Encoding::Utf16.encoded_len("<é"), 4);
    }
}
