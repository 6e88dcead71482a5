//! What must not be printed, and proofs of knowing it: passwords, their Argon2id hashes, NT hashes.
//!
//! Passwords are stored as PHC strings of Argon2id (RFC 9106). NTLM cannot use those: it needs MD4 of the password
//! (MS-NLMP 3.3.1, `NTOWFv1`), which is as good as the password itself on this service and is kept only for users who
//! ask for NTLM.

use std::cell::RefCell;
use std::fmt;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use md4::{Digest, Md4};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Longest password, in bytes: what fits a line of the users file's editor, and bounds the work of hashing it.
pub const PASSWORD_BYTES_MAX: usize = 512;
/// Memory for one Argon2id computation, in KiB, and passes over it: the first choice of the OWASP password storage cheat
/// sheet. A stranger can cause such work, so it should not be much more.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Cost that a hash in the file may ask for at most: a mistyped number must not stop the daemon.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 64;
/// Longest PHC string: that of Argon2id with 64 bytes each of salt and hash is shorter.
const PHC_BYTES_MAX: usize = 256;

/// A password as somebody typed it. Leaves memory when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why something cannot be a secret of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing, or too much.
    #[error("a password has 1 to {PASSWORD_BYTES_MAX} bytes")]
    Length,
    /// Not a PHC string of Argon2id, or one that asks for unreasonable work.
    #[error("a password hash is a PHC string of argon2id with at most {MEMORY_KIB_MAX} KiB and {PASSES_MAX} passes")]
    Phc,
    /// Not an NT hash.
    #[error("an NT hash is 32 hexadecimal digits")]
    NtHash,
}

/// An Argon2id hash as a PHC string.
#[derive(Clone, PartialEq, Eq)]
pub struct Phc(String);

impl Phc {
    /// Hashes a password; `salt` comes from the kernel's generator.
    ///
    /// # Errors
    /// When the password is empty or too long.
    pub fn of(password: &Password, salt: &[u8; 16]) -> Result<Self, SecretError> {
        let bytes = password.reveal().as_bytes();
        if bytes.is_empty() || bytes.len() > PASSWORD_BYTES_MAX {
            return Err(SecretError::Length);
        }
        let (params, output) = argon2id(bytes, salt)?;
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).map_err(|_| SecretError::Phc)?,
            salt: Some(Salt::new(salt).map_err(|_| SecretError::Phc)?),
            hash: Some(Output::new(&output).map_err(|_| SecretError::Phc)?),
        };
        Ok(Self(hash.to_string()))
    }

    /// Reads a PHC string.
    ///
    /// # Errors
    /// When it is none of Argon2id, or asks for unreasonable work.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        if text.len() > PHC_BYTES_MAX {
            return Err(SecretError::Phc);
        }
        let hash = PasswordHash::new(text).map_err(|_| SecretError::Phc)?;
        let params = Params::try_from(&hash).map_err(|_| SecretError::Phc)?;
        let is_complete = hash.algorithm.as_str() == "argon2id" && hash.salt.is_some() && hash.hash.is_some();
        let is_bearable = params.m_cost() <= MEMORY_KIB_MAX && params.t_cost() <= PASSES_MAX;
        if is_complete && is_bearable { Ok(Self(text.to_owned())) } else { Err(SecretError::Phc) }
    }

    /// Whether `password` is the one. Takes tens of milliseconds and tens of MiB, on purpose.
    pub fn verify(&self, password: &Password) -> bool {
        let bytes = password.reveal().as_bytes();
        bytes.len() <= PASSWORD_BYTES_MAX && self.is_of(bytes).unwrap_or(false)
    }

    /// `None` if it cannot be computed.
    fn is_of(&self, password: &[u8]) -> Option<bool> {
        let hash = PasswordHash::new(&self.0).ok()?;
        let version = hash.version.map_or(Some(Version::V0x13), |version| Version::try_from(version).ok())?;
        let params = Params::try_from(&hash).ok()?;
        let (salt, expected) = (hash.salt.as_ref()?, hash.hash.as_ref()?);
        let mut found = Zeroizing::new(vec![0; expected.as_ref().len()]);
        fill(&Argon2::new(Algorithm::Argon2id, version, params), password, salt.as_ref(), &mut found).ok()?;
        Some(found.ct_eq(expected.as_ref()).into())
    }

    /// The string, for the file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Does the work of [`Phc::verify`] where there is nothing to verify, so that an unknown name takes as long as a wrong
/// password.
pub fn pretend_to_verify(password: &Password) {
    let bytes = password.reveal().as_bytes();
    if bytes.len() <= PASSWORD_BYTES_MAX {
        // What comes out is of no interest, but the compiler must not find that out.
        let _ = std::hint::black_box(argon2id(bytes, b"nobody's salt..."));
    }
}

/// The cost of new hashes, and such a hash.
fn argon2id(password: &[u8], salt: &[u8; 16]) -> Result<(Params, [u8; 32]), SecretError> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|_| SecretError::Phc)?;
    let mut hash = [0; 32];
    fill(&Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone()), password, salt, &mut hash)?;
    Ok((params, hash))
}

thread_local! {
    /// What this thread computed its last hash in. An allocator that gets 19 MiB back, aligned as these are, may not find
    /// them fit for the next hash, and take new ones each time.
    static MEMORY: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Computes a hash, in memory that this thread keeps unless it is more than usual.
fn fill(hasher: &Argon2<'_>, password: &[u8], salt: &[u8], hash: &mut [u8]) -> Result<(), SecretError> {
    let usual = usize::try_from(MEMORY_KIB).unwrap_or(usize::MAX);
    let count = hasher.params().block_count();
    MEMORY.with_borrow_mut(|memory| {
        memory.resize(count.max(usual), Block::default());
        let blocks = memory.get_mut(..count).unwrap_or_default();
        let done = hasher.hash_password_into_with_memory(password, salt, hash, &mut *blocks);
        // What the password was mixed into is of no use to anybody.
        blocks.fill(Block::default());
        if count > usual {
            *memory = Vec::new();
        }
        done.map_err(|_| SecretError::Phc)
    })
}

impl fmt::Debug for Phc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phc(…)")
    }
}

/// MD4 of a password in UTF-16: all that NTLM knows of it.
#[derive(Clone)]
pub struct NtHash([u8; 16]);

impl NtHash {
    /// That of a password (MS-NLMP 3.3.1).
    pub fn of(password: &Password) -> Self {
        let mut utf16: Vec<u8> = password.reveal().encode_utf16().flat_map(u16::to_le_bytes).collect();
        let hash = Md4::digest(&utf16).into();
        utf16.zeroize();
        Self(hash)
    }

    /// From bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Reads 32 hexadecimal digits.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SecretError::NtHash);
        }
        u128::from_str_radix(text, 16).map(|bits| Self(bits.to_be_bytes())).map_err(|_| SecretError::NtHash)
    }

    /// The digits, for the file.
    pub fn to_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// The bytes, as a key.
    pub const fn reveal(&self) -> &[u8; 16] {
        &self.0
    }
}

impl PartialEq for NtHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for NtHash {}

impl Drop for NtHash {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for NtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NtHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[test]
    fn passwords_are_verified() {
        let phc = Phc::of(&password("Päss"), &[7; 16]).unwrap();
        assert!(phc.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", phc.as_str());
        let phc = Phc::parse(phc.as_str()).unwrap();
        assert!(phc.verify(&password("Päss")));
        assert!(!phc.verify(&password("päss")));
        assert!(!phc.verify(&password("")));
        assert_eq!(Phc::of(&password(""), &[7; 16]), Err(SecretError::Length));
        assert_eq!(Phc::of(&password(&"x".repeat(513)), &[7; 16]), Err(SecretError::Length));
    }

    #[test]
    fn only_bearable_argon2id_is_read() {
        let check = |text: &str, expected| assert_eq!(Phc::parse(text).is_ok(), expected, "{text}");
        let tail = "c2FsdHNhbHRzYWx0c2FsdA$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ";
        check(&format!("$argon2id$v=19$m=64,t=1,p=1${tail}"), true);
        check(&format!("$argon2i$v=19$m=64,t=1,p=1${tail}"), false);
        check(&format!("$argon2id$v=19$m=4000000,t=1,p=1${tail}"), false);
        check(&format!("$argon2id$v=19$m=64,t=1000,p=1${tail}"), false);
        check("$argon2id$v=19$m=64,t=1,p=1", false);
        check("plain", false);
        check("", false);
        check(&"$".repeat(10_000), false);
    }

    /// MS-NLMP 4.2.2.1.2.
    #[test]
    fn the_nt_hash_is_the_documented_one() {
        let hash = NtHash::of(&password("Password"));
        assert_eq!(hash.to_hex(), "a4f49c406510bdcab6824ee7c30fd852");
        assert_eq!(NtHash::parse(&hash.to_hex()), Ok(hash));
        for wrong in ["", "a4f49c", "+4f49c406510bdcab6824ee7c30fd852", "é4f49c406510bdcab6824ee7c30fd85"] {
            assert_eq!(NtHash::parse(wrong), Err(SecretError::NtHash), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let phc = Phc::of(&password("x"), &[1; 16]).unwrap();
        let printed = format!("{:?} {phc:?} {:?}", password("x"), NtHash::of(&password("x")));
        assert_eq!(printed, "Password(…) Phc(…) NtHash(…)");
    }
}
