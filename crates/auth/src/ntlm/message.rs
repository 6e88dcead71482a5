//! The three messages of NTLM as bytes (MS-NLMP 2.2): bounded, and without a panic on whatever a stranger sends.
//!
//! A message is a head of fixed layout, whose fields point at a payload behind it by length and offset. We refuse fields
//! that point outside, into the head, or into each other: nobody honest does it, and the MIC covers bytes, not meanings.

use std::ops::Range;
use std::time::Duration;

use crate::context::Reason;

/// Longest message: names and the target information fit many times.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Attributes of a target information; ten kinds exist.
const PAIRS_MAX: usize = 32;

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";

/// Negotiate flags (MS-NLMP 2.2.2.5).
pub mod flag {
    /// Texts are UTF-16.
    pub const UNICODE: u32 = 0x0000_0001;
    /// The target's name is wanted.
    pub const REQUEST_TARGET: u32 = 0x0000_0004;
    /// Messages will be signed.
    pub const SIGN: u32 = 0x0000_0010;
    /// Messages will be encrypted.
    pub const SEAL: u32 = 0x0000_0020;
    /// NTLM at all.
    pub const NTLM: u32 = 0x0000_0200;
    /// Nobody in particular asks.
    pub const ANONYMOUS: u32 = 0x0000_0800;
    /// A session key is wanted.
    pub const ALWAYS_SIGN: u32 = 0x0000_8000;
    /// The target is a server, not a domain.
    pub const TARGET_TYPE_SERVER: u32 = 0x0002_0000;
    /// Keys for each direction.
    pub const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
    /// The CHALLENGE has a target information.
    pub const TARGET_INFO: u32 = 0x0080_0000;
    /// Messages tell a version.
    pub const VERSION: u32 = 0x0200_0000;
    /// Keys of 128 bits.
    pub const KEY_128: u32 = 0x2000_0000;
    /// The client chooses the session key.
    pub const KEY_EXCHANGE: u32 = 0x4000_0000;
    /// Keys of 56 bits; asked for beside 128.
    pub const KEY_56: u32 = 0x8000_0000;
}

/// Attributes of a target information (MS-NLMP 2.2.2.1).
pub mod attribute {
    /// Ends the list.
    pub const END: u16 = 0;
    /// NetBIOS name of the server.
    pub const COMPUTER: u16 = 1;
    /// NetBIOS name of its domain; of a server without one, its own.
    pub const DOMAIN: u16 = 2;
    /// DNS name of the server.
    pub const DNS_COMPUTER: u16 = 3;
    /// DNS name of its domain.
    pub const DNS_DOMAIN: u16 = 4;
    /// 32 bits, see [`super::MIC_PRESENT`].
    pub const FLAGS: u16 = 6;
    /// The server's time.
    pub const TIMESTAMP: u16 = 7;
    /// The service name that the client wants to reach.
    pub const TARGET_NAME: u16 = 9;
    /// Hash of the TLS channel's binding.
    pub const CHANNEL_BINDINGS: u16 = 10;
}

/// In [`attribute::FLAGS`]: the AUTHENTICATE message has a MIC.
pub const MIC_PRESENT: u32 = 2;
/// Version 10.0, NTLM revision 15 (MS-NLMP 2.2.2.10).
const VERSION: [u8; 8] = [10, 0, 0, 0, 0, 0, 0, 15];
/// Where the fixed part of an AUTHENTICATE message ends that has neither version nor MIC.
const AUTHENTICATE_HEAD: usize = 64;
/// As we write it: with both.
const AUTHENTICATE_HEAD_FULL: usize = 88;

/// A text as it stands in messages.
pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// 100 ns intervals since 1601 (MS-DTYP 2.3.3).
pub fn file_time(since_epoch: Duration) -> u64 {
    const EPOCH_SECONDS: u64 = 11_644_473_600;
    let seconds = since_epoch.as_secs().saturating_add(EPOCH_SECONDS);
    seconds.saturating_mul(10_000_000).saturating_add(u64::from(since_epoch.subsec_nanos() / 100))
}

/// Whether a token is a message of NTLM rather than of SPNEGO.
pub fn is_message(token: &[u8]) -> bool {
    token.starts_with(SIGNATURE)
}

/// Reads the flags of a NEGOTIATE message; nothing else in it matters to us.
///
/// # Errors
/// When it is no such message.
pub fn read_negotiate(bytes: &[u8]) -> Result<u32, Reason> {
    check_head(bytes, 1)?;
    u32_at(bytes, 12)
}

/// Writes a NEGOTIATE message.
pub fn write_negotiate(flags: u32) -> Vec<u8> {
    let mut bytes = head(1);
    bytes.extend((flags | flag::VERSION).to_le_bytes());
    // Neither domain nor workstation.
    bytes.extend([0; 16]);
    bytes.extend(VERSION);
    bytes
}

/// A CHALLENGE message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// What both sides can.
    pub flags: u32,
    /// What the answer must depend on.
    pub challenge: [u8; 8],
    /// Who asks.
    pub target: String,
    /// About the target, and its time.
    pub info: Pairs,
}

impl Challenge {
    /// Reads one.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, Reason> {
        check_head(bytes, 2)?;
        let target = field(bytes, 12, 48)?;
        let info = field(bytes, 40, 48)?;
        check_apart(&mut [target.clone(), info.clone()])?;
        let challenge = array_at(bytes, 24)?;
        let flags = u32_at(bytes, 20)?;
        let target = text(slice(bytes, &target)?)?;
        let info = if info.is_empty() { Pairs::default() } else { Pairs::read(slice(bytes, &info)?)? };
        Ok(Self { flags, challenge, target, info })
    }

    /// Writes it.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = head(2);
        let mut payload = Payload::new(56);
        payload.field(&mut bytes, &utf16(&self.target));
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.challenge);
        bytes.extend([0; 8]);
        payload.field(&mut bytes, &self.info.write());
        bytes.extend(if self.flags & flag::VERSION == 0 { [0; 8] } else { VERSION });
        bytes.extend(payload.bytes);
        bytes
    }
}

/// An AUTHENTICATE message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authenticate {
    /// The LM response; all zero where there is nothing to say.
    pub lm: Vec<u8>,
    /// The NT response.
    pub nt: Vec<u8>,
    /// The domain as the client means it.
    pub domain: String,
    /// The user.
    pub user: String,
    /// The client's name.
    pub workstation: String,
    /// The session key, encrypted.
    pub session_key: Vec<u8>,
    /// What the client goes on with.
    pub flags: u32,
    /// Where the MIC is, if there is room for one.
    pub mic: Option<usize>,
}

impl Authenticate {
    /// Reads one.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, Reason> {
        check_head(bytes, 3)?;
        let mut fields: [Range<usize>; 6] = Default::default();
        for (index, place) in fields.iter_mut().enumerate() {
            *place = field(bytes, 12 + 8 * index, AUTHENTICATE_HEAD)?;
        }
        check_apart(&mut fields.clone())?;
        let payload = fields.iter().filter(|field| !field.is_empty()).map(|field| field.start).min();
        // Clients of old leave out the MIC, and some the version before it.
        let mic = match payload.unwrap_or(bytes.len()) {
            AUTHENTICATE_HEAD_FULL.. => Some(72),
            80.. => Some(AUTHENTICATE_HEAD),
            _ => None,
        };
        let [lm, nt, domain, user, workstation, session_key] = fields;
        Ok(Self {
            lm: slice(bytes, &lm)?.to_vec(),
            nt: slice(bytes, &nt)?.to_vec(),
            domain: text(slice(bytes, &domain)?)?,
            user: text(slice(bytes, &user)?)?,
            workstation: text(slice(bytes, &workstation)?)?,
            session_key: slice(bytes, &session_key)?.to_vec(),
            flags: u32_at(bytes, 60)?,
            mic,
        })
    }

    /// Writes it, with a MIC of zeros at [`Self::MIC`].
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = head(3);
        let mut payload = Payload::new(AUTHENTICATE_HEAD_FULL);
        let texts = [&self.domain, &self.user, &self.workstation].map(|text| utf16(text));
        let [domain, user, workstation] = &texts;
        for content in [&self.lm, &self.nt, domain, user, workstation, &self.session_key] {
            payload.field(&mut bytes, content);
        }
        bytes.extend((self.flags | flag::VERSION).to_le_bytes());
        bytes.extend(VERSION);
        bytes.extend([0; 16]);
        bytes.extend(payload.bytes);
        bytes
    }

    /// Where the MIC stands in messages that we write.
    pub const MIC: Range<usize> = 72..88;
}

/// The part of an NTLMv2 response that the client chooses (MS-NLMP 2.2.2.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientChallenge {
    /// The client's idea of the time, or the server's, as [`file_time`].
    pub time: u64,
    /// Random.
    pub challenge: [u8; 8],
    /// The server's target information and the client's additions.
    pub pairs: Pairs,
}

impl ClientChallenge {
    /// Reads one.
    ///
    /// # Errors
    /// When it is none of the only version there is.
    pub fn read(bytes: &[u8]) -> Result<Self, Reason> {
        if !bytes.starts_with(&[1, 1]) {
            return Err(Reason::Malformed("the NTLMv2 response has an unknown version"));
        }
        let time = u64::from_le_bytes(array_at(bytes, 8)?);
        let challenge = array_at(bytes, 16)?;
        let pairs = bytes.get(28..).ok_or(TRUNCATED)?;
        Ok(Self { time, challenge, pairs: Pairs::read(pairs)? })
    }

    /// Writes it.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(self.time.to_le_bytes());
        bytes.extend(self.challenge);
        bytes.extend([0; 4]);
        bytes.extend(self.pairs.write());
        bytes.extend([0; 4]);
        bytes
    }
}

/// Attributes, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(Vec<(u16, Vec<u8>)>);

impl Pairs {
    /// Reads a list up to its end mark; what follows does not belong to it.
    ///
    /// # Errors
    /// When it does not end, is too long, or names an attribute twice.
    pub fn read(mut bytes: &[u8]) -> Result<Self, Reason> {
        let mut pairs = Self::default();
        loop {
            let (id, length) = (u16_at(bytes, 0)?, usize::from(u16_at(bytes, 2)?));
            if id == attribute::END {
                return Ok(pairs);
            }
            let value = bytes.get(4..4 + length).ok_or(TRUNCATED)?;
            if pairs.get(id).is_some() || pairs.0.len() >= PAIRS_MAX {
                return Err(Reason::Malformed(
                    "an attribute of the target information is repeated, or there are too many",
                ));
            }
            pairs.0.push((id, value.to_vec()));
            bytes = bytes.get(4 + length..).unwrap_or_default();
        }
    }

    /// Writes the list and its end mark.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, value) in &self.0 {
            bytes.extend(id.to_le_bytes());
            bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(value);
        }
        bytes.extend([0; 4]);
        bytes
    }

    /// An attribute.
    pub fn get(&self, id: u16) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| *other == id).map(|(_, value)| value.as_slice())
    }

    /// Sets an attribute.
    pub fn set(&mut self, id: u16, value: Vec<u8>) {
        self.0.retain(|(other, _)| *other != id);
        self.0.push((id, value));
    }

    /// The flags, 0 if there are none.
    pub fn flags(&self) -> u32 {
        self.get(attribute::FLAGS).and_then(|value| value.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    /// The time, if the list has one.
    pub fn time(&self) -> Option<u64> {
        self.get(attribute::TIMESTAMP)?.try_into().ok().map(u64::from_le_bytes)
    }
}

const TRUNCATED: Reason = Reason::Malformed("an NTLM message ends too soon");

/// Collects what fields point at.
struct Payload {
    head: usize,
    bytes: Vec<u8>,
}

impl Payload {
    fn new(head: usize) -> Self {
        Self { head, bytes: Vec::new() }
    }

    fn field(&mut self, message: &mut Vec<u8>, content: &[u8]) {
        let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_le_bytes();
        let offset = u32::try_from(self.head + self.bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        message.extend(length);
        message.extend(length);
        message.extend(offset);
        self.bytes.extend(content);
    }
}

fn head(kind: u32) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes
}

fn check_head(bytes: &[u8], kind: u32) -> Result<(), Reason> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Reason::Malformed("an NTLM message is too long"));
    }
    if !is_message(bytes) || u32_at(bytes, 8)? != kind {
        return Err(Reason::Malformed("not the NTLM message that is due"));
    }
    Ok(())
}

/// What a field points at; empty ones may point anywhere.
fn field(bytes: &[u8], at: usize, head: usize) -> Result<Range<usize>, Reason> {
    let length = usize::from(u16_at(bytes, at)?);
    let offset = usize::try_from(u32_at(bytes, at + 4)?).map_err(|_| TRUNCATED)?;
    if length == 0 {
        return Ok(0..0);
    }
    let end = offset.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(TRUNCATED)?;
    if offset < head {
        return Err(Reason::Malformed("a field of an NTLM message points into its head"));
    }
    Ok(offset..end)
}

fn check_apart(fields: &mut [Range<usize>]) -> Result<(), Reason> {
    fields.sort_by_key(|field| field.start);
    let mut end = 0;
    for field in fields.iter().filter(|field| !field.is_empty()) {
        if field.start < end {
            return Err(Reason::Malformed("fields of an NTLM message overlap"));
        }
        end = field.end;
    }
    Ok(())
}

fn slice<'a>(bytes: &'a [u8], range: &Range<usize>) -> Result<&'a [u8], Reason> {
    bytes.get(range.clone()).ok_or(TRUNCATED)
}

fn text(bytes: &[u8]) -> Result<String, Reason> {
    let wrong = Reason::Malformed("a text of an NTLM message is not UTF-16");
    let (units, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong);
    }
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| wrong)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Reason> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(TRUNCATED)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Reason> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Reason> {
    array_at(bytes, at).map(u32::from_le_bytes)
}
