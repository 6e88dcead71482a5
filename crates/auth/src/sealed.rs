//! Encrypted bodies over plain HTTP: `multipart/encrypted` as WS-Management uses it (MS-WSMV 2.2.9.1.1).
//!
//! ```text
//! --Encrypted Boundary
//! <TAB>Content-Type: application/HTTP-SPNEGO-session-encrypted
//! <TAB>OriginalContent: type=application/soap+xml;charset=UTF-8;Length=1234
//! --Encrypted Boundary
//! <TAB>Content-Type: application/octet-stream
//! <length of signature, 4 bytes><signature><1234 bytes, and what the mechanism adds>--Encrypted Boundary--
//! ```
//! It looks like MIME and is not: no empty line ends a part's head, no line break ends its content, and header lines begin
//! with a tab, which some clients insist on and others cannot bear. So a reply takes the form of its request. The sealed
//! bytes may contain anything, so their end is found from the end of the body, never by looking for a boundary.

use crate::context::{Seal, SealError};

/// Longest signature: Kerberos' header and trailer have less than a hundred bytes.
const SIGNATURE_BYTES_MAX: usize = 1024;
/// Longest head of a part.
const HEAD_BYTES_MAX: usize = 4096;
/// Longest boundary (RFC 2046 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;
/// Bytes that a mechanism may pad a message with.
const PADDING_BYTES_MAX: usize = 64;

const MEDIA_TYPE: &str = "multipart/encrypted";
const USUAL_BOUNDARY: &str = "Encrypted Boundary";
const PROTOCOLS: [&str; 2] =
    ["application/HTTP-SPNEGO-session-encrypted", "application/HTTP-Kerberos-session-encrypted"];

/// The form in which a peer writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    protocol: &'static str,
    boundary: String,
    has_tabs: bool,
}

impl Default for Style {
    /// As WinRM writes.
    fn default() -> Self {
        Self { protocol: PROTOCOLS[0], boundary: USUAL_BOUNDARY.to_owned(), has_tabs: true }
    }
}

/// A body in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Its media type with parameters, such as the character set.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Whether a `Content-Type` header announces a sealed body.
pub fn is_sealed(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE)
}

/// Opens a sealed body.
///
/// # Errors
/// When it is malformed, or not what the peer sealed. The connection is of no use then.
pub fn open(content_type: &str, body: &[u8], seal: &mut dyn Seal) -> Result<(Plain, Style), SealError> {
    let parts = Parts::read(content_type, body)?;
    let mut plain = seal.unwrap(parts.signature, parts.sealed)?;
    let padding = parts.length.checked_sub(plain.len());
    if padding.is_none_or(|padding| padding > PADDING_BYTES_MAX) {
        return Err(SealError::Malformed("it is not as long as it says"));
    }
    // Some clients seal the zero at the end of their buffer, too. An envelope in UTF-16 ends in a zero of its own.
    let is_wide = parts.content_type.to_ascii_lowercase().contains("utf-16");
    while !is_wide && plain.last() == Some(&0) {
        plain.pop();
    }
    Ok((Plain { content_type: parts.content_type, body: plain }, parts.style))
}

/// Seals a body in the peer's form.
///
/// # Errors
/// When the mechanism fails.
pub fn close(plain: &Plain, style: &Style, seal: &mut dyn Seal) -> Result<Plain, SealError> {
    let wrapped = seal.wrap(&plain.body)?;
    let Style { protocol, boundary, has_tabs } = style;
    let tab = if *has_tabs { "\t" } else { "" };
    let Plain { content_type, .. } = plain;
    let length = plain.body.len() + wrapped.padding;
    let head = format!(
        "--{boundary}\r\n{tab}Content-Type: {protocol}\r\n{tab}OriginalContent: type={content_type};Length={length}\r\n\
         --{boundary}\r\n{tab}Content-Type: application/octet-stream\r\n"
    );
    let signature_length = u32::try_from(wrapped.signature.len()).map_err(|_| SealError::Malformed("no signature"))?;
    let signature_length = signature_length.to_le_bytes();
    let end = format!("--{boundary}--\r\n");
    let body = [head.as_bytes(), &signature_length, &wrapped.signature, &wrapped.sealed, end.as_bytes()].concat();
    let content_type = format!("{MEDIA_TYPE};protocol=\"{protocol}\";boundary=\"{boundary}\"");
    Ok(Plain { content_type, body })
}

/// The parts of a sealed body.
struct Parts<'a> {
    style: Style,
    content_type: String,
    length: usize,
    signature: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(content_type: &str, body: &'a [u8]) -> Result<Self, SealError> {
        let boundary = parameter(content_type, "boundary").unwrap_or(USUAL_BOUNDARY);
        if boundary.is_empty() || boundary.len() > BOUNDARY_BYTES_MAX {
            return Err(SealError::Malformed("the boundary is empty or too long"));
        }
        let mut lines = Lines { rest: body, boundary, has_tabs: false };
        lines.boundary()?;
        let (mut protocol, mut original) = (None, None);
        while let Some((name, value)) = lines.header()? {
            match name {
                name if name.eq_ignore_ascii_case("content-type") => protocol = Some(value),
                name if name.eq_ignore_ascii_case("originalcontent") => original = Some(value),
                _ => (),
            }
        }
        let has_tabs = lines.has_tabs;
        let protocol =
            protocol.and_then(|protocol| PROTOCOLS.iter().find(|known| known.eq_ignore_ascii_case(protocol)));
        let protocol = *protocol.ok_or(SealError::Malformed("its protocol is unknown"))?;
        let (content_type, length) = original.and_then(original_content).ok_or(SealError::Malformed("no length"))?;
        lines.octet_stream()?;

        let (signature_length, rest) = lines.rest.split_first_chunk().ok_or(TRUNCATED)?;
        let signature_length = usize::try_from(u32::from_le_bytes(*signature_length)).unwrap_or(usize::MAX);
        if signature_length > SIGNATURE_BYTES_MAX {
            return Err(SealError::Malformed("the signature is too long"));
        }
        let (signature, rest) = rest.split_at_checked(signature_length).ok_or(TRUNCATED)?;
        let sealed = before_end(rest, boundary).ok_or(SealError::Malformed("the closing boundary is missing"))?;
        let style = Style { protocol, boundary: boundary.to_owned(), has_tabs };
        Ok(Self { style, content_type, length, signature, sealed })
    }
}

const TRUNCATED: SealError = SealError::Malformed("it ends too soon");

/// Reads the heads of the parts, line by line.
struct Lines<'a, 'b> {
    rest: &'a [u8],
    boundary: &'b str,
    /// Whether header lines begin with a tab.
    has_tabs: bool,
}

impl<'a> Lines<'a, '_> {
    fn boundary(&mut self) -> Result<(), SealError> {
        let line = self.line()?;
        if self.is_boundary(line) { Ok(()) } else { Err(SealError::Malformed("the boundary is missing")) }
    }

    /// The next header; `None` at a boundary.
    fn header(&mut self) -> Result<Option<(&'a str, &'a str)>, SealError> {
        let line = self.line()?;
        if self.is_boundary(line) {
            return Ok(None);
        }
        self.has_tabs |= line.starts_with('\t');
        let (name, value) = line.split_once(':').ok_or(SealError::Malformed("a header has no colon"))?;
        Ok(Some((name.trim(), value.trim())))
    }

    fn octet_stream(&mut self) -> Result<(), SealError> {
        let header = self.header()?;
        let is_right = header.is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("content-type") && value.eq_ignore_ascii_case("application/octet-stream")
        });
        if is_right { Ok(()) } else { Err(SealError::Malformed("the second part is no octet stream")) }
    }

    /// The next line that is not empty.
    fn line(&mut self) -> Result<&'a str, SealError> {
        loop {
            let window = self.rest.get(..HEAD_BYTES_MAX).unwrap_or(self.rest);
            let end = window.iter().position(|byte| *byte == b'\n').ok_or(TRUNCATED)?;
            let (line, rest) = self.rest.split_at_checked(end + 1).ok_or(TRUNCATED)?;
            self.rest = rest;
            let line = std::str::from_utf8(line).map_err(|_| SealError::Malformed("a header is not text"))?;
            let line = line.trim_end_matches(['\r', '\n']);
            if !line.is_empty() {
                return Ok(line);
            }
        }
    }

    /// Exchange writes a blank after the dashes.
    fn is_boundary(&self, line: &str) -> bool {
        line.strip_prefix("--").is_some_and(|name| name.trim() == self.boundary)
    }
}

/// What stands before `--boundary--` at the very end.
fn before_end<'a>(bytes: &'a [u8], boundary: &str) -> Option<&'a [u8]> {
    let bytes = bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"--")?.strip_suffix(boundary.as_bytes())?;
    bytes.strip_suffix(b"-- ").or_else(|| bytes.strip_suffix(b"--"))
}

/// Media type and length in `type=application/soap+xml;charset=UTF-8;Length=1234`.
fn original_content(value: &str) -> Option<(String, usize)> {
    let length = parameter(value, "length")?.parse().ok()?;
    let rest = value.split(';').filter(|part| !is_named(part, "length"));
    let rest = rest.map(|part| if is_named(part, "type") { part.split_once('=').map_or("", |(_, v)| v) } else { part });
    Some((rest.map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(";"), length))
}

fn is_named(part: &str, name: &str) -> bool {
    part.split_once('=').is_some_and(|(found, _)| found.trim().eq_ignore_ascii_case(name))
}

/// A parameter of a header value, without quotes. No value that occurs has a semicolon in quotes.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let part = value.split(';').find(|part| is_named(part, name))?;
    let (_, found) = part.split_once('=')?;
    Some(found.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns every byte around and signs with the length, so that a test sees what is done with either.
    struct Turn;

    impl Seal for Turn {
        fn wrap(&mut self, plain: &[u8]) -> Result<crate::context::Wrapped, SealError> {
            let sealed = plain.iter().map(|byte| !byte).collect();
            Ok(crate::context::Wrapped { signature: b"signed".to_vec(), sealed, padding: 0 })
        }

        fn unwrap(&mut self, signature: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
            if signature != b"signed" {
                return Err(SealError::Signature);
            }
            Ok(sealed.iter().map(|byte| !byte).collect())
        }
    }

    fn header(protocol: &str) -> String {
        format!("multipart/encrypted;protocol=\"{protocol}\";boundary=\"Encrypted Boundary\"")
    }

    fn plain(body: &[u8]) -> Plain {
        Plain { content_type: "application/soap+xml;charset=UTF-8".to_owned(), body: body.to_vec() }
    }

    /// Holds: WIRE-B9-2, WIRE-B9-3
    #[test]
    fn what_is_closed_opens_in_the_same_style() {
        // The boundary inside the sealed bytes must not end them.
        let hidden: Vec<u8> =
            b"\r\n--Encrypted Boundary\r\n--Encrypted Boundary--\r\n".iter().map(|byte| !byte).collect();
        for has_tabs in [true, false] {
            for protocol in PROTOCOLS {
                for boundary in [USUAL_BOUNDARY, "x"] {
                    let style = Style { protocol, boundary: boundary.to_owned(), has_tabs };
                    for body in [b"".as_slice(), b"<s:Envelope/>", &hidden] {
                        let closed = close(&plain(body), &style, &mut Turn).unwrap();
                        assert!(is_sealed(&closed.content_type));
                        let opened = open(&closed.content_type, &closed.body, &mut Turn).unwrap();
                        assert_eq!(opened, (plain(body), style.clone()));
                    }
                }
            }
        }
    }

    /// Holds: WIRE-B9-2, WIRE-B9-3, WIRE-B9-4
    #[test]
    fn what_clients_write_is_read() {
        let check = |content_type: &str, head: &str, sealed: &[u8], end: &str, expected: Result<&str, SealError>| {
            let sealed: Vec<u8> = sealed.iter().map(|byte| !byte).collect();
            let body = [head.as_bytes(), b"\x06\0\0\0signed", &sealed, end.as_bytes()].concat();
            let opened = open(content_type, &body, &mut Turn);
            let text = opened.map(|(plain, _)| String::from_utf8(plain.body).unwrap());
            assert_eq!(text, expected.map(str::to_owned), "{head}");
        };
        let usual = header(PROTOCOLS[0]);
        let head = "--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\
                    \tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=4\r\n--Encrypted Boundary\r\n\
                    \tContent-Type: application/octet-stream\r\n";
        let end = "--Encrypted Boundary--\r\n";
        check(&usual, head, b"<a/>", end, Ok("<a/>"));
        check(&usual, &head.replace('\t', ""), b"<a/>", "--Encrypted Boundary--", Ok("<a/>"));
        check(
            &usual,
            &head.to_ascii_lowercase().replace("encrypted boundary", "Encrypted Boundary"),
            b"<a/>",
            end,
            Ok("<a/>"),
        );
        check(&usual, &head.replace("--E", "-- E"), b"<a/>", "-- Encrypted Boundary--\r\n", Ok("<a/>"));
        check(&usual, &head.replace("=4", "=5"), b"<a/>\0", end, Ok("<a/>"));
        check(&usual, &head.replace("=4", "=12"), b"<a/>", end, Ok("<a/>"));
        check("multipart/encrypted", head, b"<a/>", end, Ok("<a/>"));
        let malformed = |what| Err(SealError::Malformed(what));
        check(&usual, &head.replace("=4", "=3"), b"<a/>", end, malformed("it is not as long as it says"));
        check(&usual, &head.replace("=4", "=99"), b"<a/>", end, malformed("it is not as long as it says"));
        check(&usual, &head.replace("=4", "=-1"), b"<a/>", end, malformed("no length"));
        check(&usual, &head.replace("SPNEGO", "CredSSP"), b"<a/>", end, malformed("its protocol is unknown"));
        check(&usual, &head.replace("octet", "x"), b"<a/>", end, malformed("the second part is no octet stream"));
        check(&usual, head, b"<a/>", "", malformed("the closing boundary is missing"));
        check("multipart/encrypted;boundary=x", head, b"<a/>", end, malformed("the boundary is missing"));
        check("multipart/encrypted;boundary=\"\"", head, b"<a/>", end, malformed("the boundary is empty or too long"));
        check(&usual, &"\r\n".repeat(10), b"", "", malformed("it ends too soon"));
    }

    #[test]
    fn the_length_of_the_signature_is_bounded() {
        let style = Style::default();
        let body = close(&plain(b"<a/>"), &style, &mut Turn).unwrap().body;
        let at = body.windows(6).position(|window| window == b"signed").unwrap() - 4;
        for (length, expected) in [
            (5_u32, SealError::Signature),
            (1024, SealError::Malformed("it ends too soon")),
            (1025, SealError::Malformed("the signature is too long")),
            (u32::MAX, SealError::Malformed("the signature is too long")),
        ] {
            let mut body = body.clone();
            body[at..at + 4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(open(&header(PROTOCOLS[0]), &body, &mut Turn), Err(expected));
        }
    }

    #[test]
    fn damaged_bodies_never_panic() {
        let good = close(&plain(b"<a/>"), &Style::default(), &mut Turn).unwrap();
        for at in 0..good.body.len() {
            let _ = open(&good.content_type, &good.body[..at], &mut Turn);
            for value in [0, b'\n', b'-', 0xff] {
                let mut body = good.body.clone();
                body[at] = value;
                let _ = open(&good.content_type, &body, &mut Turn);
            }
        }
    }
}
