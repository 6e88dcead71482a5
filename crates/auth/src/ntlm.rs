//! NTLM, version 2 only (MS-NLMP): proving knowledge of a password, and a session key from it.
//!
//! ```text
//!   initiator                               acceptor
//!   Initiator::new ── NEGOTIATE ──────────▶ accept::Challenged::new
//!   Initiator::answer ◀───── CHALLENGE ────
//!                    ── AUTHENTICATE ─────▶ Challenged::authenticate ─▶ Accepted
//!   seal::Session                           seal::Session
//! ```
//! What we ask of a client beyond a right answer: NTLMv2 rather than the older responses, Unicode, extended session
//! security, and a message integrity code (MIC) over all three messages, so that nobody took flags away. Session keys are
//! used only if they are fresh (key exchange) and have 128 bits.

pub mod accept;
pub mod initiate;
pub mod message;
pub mod seal;
#[cfg(test)]
pub(crate) mod tests;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use rc4::{Rc4, StreamCipher};

use crate::context::EndPoint;
use crate::secret::NtHash;

/// A key, or a hash that serves as one.
pub(crate) type Key = [u8; 16];

/// `HMAC_MD5` over the concatenation of `parts` (MS-NLMP 6).
pub(crate) fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> Key {
    // HMAC takes keys of any length, so this cannot fail; and if it did, nothing would match.
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(key) else { return [0; 16] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(crate) fn md5(parts: &[&[u8]]) -> Key {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// `RC4K`: one use of the cipher, which is its own inverse (MS-NLMP 6).
pub(crate) fn rc4_once(key: &Key, mut data: Key) -> Key {
    if let Ok(mut cipher) = Rc4::new_from_slice(key) {
        cipher.apply_keystream(&mut data);
    }
    data
}

/// `NTOWFv2`: the key of one user (MS-NLMP 3.3.2). The domain is used as it was sent; the name in upper case.
pub(crate) fn user_key(hash: &NtHash, user: &str, domain: &str) -> Key {
    let upper = user.chars().map(|c| {
        // Windows maps characters one to one; what has a longer upper case stays.
        let mut upper = c.to_uppercase();
        if upper.len() == 1 { upper.next().unwrap_or(c) } else { c }
    });
    let upper: String = upper.collect();
    hmac_md5(hash.reveal(), &[&message::utf16(&upper), &message::utf16(domain)])
}

/// The `MsvAvChannelBindings` of a TLS connection: MD5 of a `gss_channel_bindings_struct` that has only application data
/// (MS-NLMP 3.1.5.1.2, RFC 5929 4.1).
pub(crate) fn channel_binding(end_point: &EndPoint) -> Key {
    let prefix = b"tls-server-end-point:";
    // Two empty addresses: type and length of each.
    let no_addresses = [0; 16];
    let length = u32::try_from(prefix.len() + end_point.0.len()).unwrap_or(u32::MAX).to_le_bytes();
    md5(&[&no_addresses, &length, prefix, &end_point.0])
}
