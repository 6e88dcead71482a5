//! Signing and sealing with an NTLM session key (MS-NLMP 3.4): a sequence number and a cipher for each direction.

use rc4::{KeyInit, Rc4, StreamCipher};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::message::flag;
use super::{Key, hmac_md5, md5};
use crate::context::{Seal, SealError, Wrapped};

/// Bytes of a signature: version, checksum, sequence number.
pub const SIGNATURE_BYTES: usize = 16;

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Initiator,
    /// The server.
    Acceptor,
}

/// Protection of messages by an NTLM session key.
pub struct Session {
    outgoing: Direction,
    incoming: Direction,
    /// After a wrong signature the ciphers are out of step for ever.
    broken: bool,
}

struct Direction {
    sign: Key,
    seal: Key,
    cipher: Rc4,
    sequence: u32,
    /// Whether checksums are encrypted, which they are if keys were exchanged.
    encrypts_checksum: bool,
}

impl Session {
    /// Whether something can be signed with what was negotiated: a key of 128 bits.
    pub fn can_sign(flags: u32) -> bool {
        let needed = flag::SIGN | flag::KEY_128 | flag::EXTENDED_SESSION_SECURITY;
        flags & needed == needed
    }

    /// Whether messages can be sealed with what was negotiated: the same, and the key is fresh.
    pub fn can_seal(flags: u32) -> bool {
        let needed = flag::SEAL | flag::KEY_EXCHANGE;
        flags & needed == needed && Self::can_sign(flags)
    }

    /// The two directions of a session, as `side` sees them.
    ///
    /// # Errors
    /// When the ciphers cannot be made.
    pub fn new(session_key: &Key, flags: u32, side: Side) -> Result<Self, SealError> {
        let to_server = Direction::new(session_key, flags, "client-to-server")?;
        let to_client = Direction::new(session_key, flags, "server-to-client")?;
        let (outgoing, incoming) = match side {
            Side::Initiator => (to_server, to_client),
            Side::Acceptor => (to_client, to_server),
        };
        Ok(Self { outgoing, incoming, broken: false })
    }

    /// Signs the list of mechanisms. The cipher starts anew afterwards, the sequence numbers go on (MS-SPNG 3.3.5.1).
    ///
    /// # Errors
    /// When the cipher cannot start anew.
    pub fn sign_mechanisms(&mut self, list: &[u8]) -> Result<Vec<u8>, SealError> {
        let signature = self.outgoing.signature(list).to_vec();
        self.outgoing.restart()?;
        Ok(signature)
    }

    /// Checks the peer's signature of the list.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn verify_mechanisms(&mut self, list: &[u8], signature: &[u8]) -> Result<(), SealError> {
        let expected = self.incoming.signature(list);
        if !bool::from(expected.ct_eq(signature)) {
            self.broken = true;
            return Err(SealError::Signature);
        }
        self.incoming.restart()
    }
}

impl Seal for Session {
    fn wrap(&mut self, plain: &[u8]) -> Result<Wrapped, SealError> {
        if self.broken {
            return Err(SealError::Signature);
        }
        let mut sealed = plain.to_vec();
        self.outgoing.cipher.apply_keystream(&mut sealed);
        let signature = self.outgoing.signature(plain).to_vec();
        Ok(Wrapped { signature, sealed, padding: 0 })
    }

    fn unwrap(&mut self, signature: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        if self.broken {
            return Err(SealError::Signature);
        }
        let mut plain = sealed.to_vec();
        self.incoming.cipher.apply_keystream(&mut plain);
        let expected = self.incoming.signature(&plain);
        if !bool::from(expected.ct_eq(signature)) {
            self.broken = true;
            return Err(SealError::Signature);
        }
        Ok(plain)
    }
}

impl Direction {
    /// Keys of one direction, of 128 bits (MS-NLMP 3.4.5.2, 3.4.5.3).
    fn new(session_key: &Key, flags: u32, direction: &str) -> Result<Self, SealError> {
        let key = |purpose| {
            let magic = format!("session key to {direction} {purpose} key magic constant\0");
            md5(&[session_key, magic.as_bytes()])
        };
        let (sign, seal) = (key("signing"), key("sealing"));
        let encrypts_checksum = flags & flag::KEY_EXCHANGE != 0;
        Ok(Self { sign, seal, cipher: cipher(&seal)?, sequence: 0, encrypts_checksum })
    }

    /// The signature of the next message (MS-NLMP 3.4.4.2). The message must have gone through the cipher before.
    fn signature(&mut self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let sequence = self.sequence.to_le_bytes();
        let [mut checksum @ .., _, _, _, _, _, _, _, _] = hmac_md5(&self.sign, &[&sequence, message]);
        if self.encrypts_checksum {
            self.cipher.apply_keystream(&mut checksum);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut signature = [0; SIGNATURE_BYTES];
        signature[0] = 1;
        signature[4..12].copy_from_slice(&checksum);
        signature[12..].copy_from_slice(&sequence);
        signature
    }

    fn restart(&mut self) -> Result<(), SealError> {
        self.cipher = cipher(&self.seal)?;
        Ok(())
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.sign.zeroize();
        self.seal.zeroize();
    }
}

fn cipher(key: &Key) -> Result<Rc4, SealError> {
    Rc4::new_from_slice(key).map_err(|_| SealError::NoKey)
}
