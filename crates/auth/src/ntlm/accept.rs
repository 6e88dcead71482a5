//! The server's side of NTLM.
//!
//! [`Challenged`] holds one challenge and is consumed by the answer to it, so an AUTHENTICATE message is worth something
//! once, on the connection whose challenge it answers. Nothing here depends on whether there is such a user until all has
//! been computed.

use std::time::Duration;

use subtle::ConstantTimeEq;

use super::message::{Authenticate, Challenge, ClientChallenge, MIC_PRESENT, Pairs, attribute, file_time, flag, utf16};
use super::seal::{Session, Side};
use super::{Key, channel_binding, hmac_md5, message, rc4_once, user_key};
use crate::context::{EndPoint, Identity, Reason, Refusal, Surroundings};
use crate::secret::NtHash;
use crate::spnego::Settings;
use crate::users::local_name;

/// How far the time that a client signed may be from ours: as Kerberos. Clients take the time from our challenge, so this
/// bounds how long an answer may take, and the clock only of clients that do not.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// What we go along with, of what a client asks for.
const SUPPORTED: u32 = flag::UNICODE
    | flag::REQUEST_TARGET
    | flag::SIGN
    | flag::SEAL
    | flag::NTLM
    | flag::ALWAYS_SIGN
    | flag::EXTENDED_SESSION_SECURITY
    | flag::VERSION
    | flag::KEY_128
    | flag::KEY_EXCHANGE
    | flag::KEY_56;

/// A client that has been challenged.
pub struct Challenged {
    negotiate: Vec<u8>,
    challenge: Vec<u8>,
    nonce: [u8; 8],
    flags: u32,
    allow_missing_mic: bool,
}

/// A client that has been recognised.
pub struct Accepted {
    /// Who it is.
    pub identity: Identity,
    /// What both sides agreed on.
    pub flags: u32,
    /// Signs, if a key for that was agreed on. Seals only if [`Session::can_seal`].
    pub session: Option<Session>,
}

impl Challenged {
    /// Answers a NEGOTIATE message.
    ///
    /// # Errors
    /// When it is none, or offers too little.
    pub fn new(negotiate: &[u8], settings: &Settings, around: &Surroundings<'_>) -> Result<(Self, Vec<u8>), Reason> {
        let asked = message::read_negotiate(negotiate)?;
        check_flags(asked)?;
        // Only what was asked for: there are clients that take the offer of a key exchange for a demand.
        let flags = asked & SUPPORTED | flag::NTLM | flag::TARGET_INFO | flag::TARGET_TYPE_SERVER;
        let [a, b, c, d, e, f, g, h, ..] = *around.random;
        let nonce = [a, b, c, d, e, f, g, h];
        let mut info = Pairs::default();
        info.set(attribute::DOMAIN, utf16(&settings.netbios_name));
        info.set(attribute::COMPUTER, utf16(&settings.netbios_name));
        info.set(attribute::DNS_DOMAIN, utf16(&settings.dns_name));
        info.set(attribute::DNS_COMPUTER, utf16(&settings.dns_name));
        // To send the time is to ask for a MIC (MS-NLMP 3.1.5.1.2).
        info.set(attribute::TIMESTAMP, file_time(around.now).to_le_bytes().to_vec());
        let challenge = Challenge { flags, challenge: nonce, target: settings.netbios_name.clone(), info }.write();
        let allow_missing_mic = settings.allow_missing_mic;
        let challenged =
            Self { negotiate: negotiate.to_vec(), challenge: challenge.clone(), nonce, flags, allow_missing_mic };
        Ok((challenged, challenge))
    }

    /// Judges an AUTHENTICATE message.
    ///
    /// # Errors
    /// When it is none, or wrong in any way.
    pub fn authenticate(
        self,
        bytes: &[u8],
        tls: Option<&EndPoint>,
        around: &Surroundings<'_>,
    ) -> Result<Accepted, Refusal> {
        let message = Authenticate::read(bytes)?;
        let claimed = local_name(&message.user);
        let refusal = |reason| Refusal { reason, claimed: Some(claimed.to_owned()) };
        check_is_version_2(&message)?;
        let (proof, blob) = message.nt.split_first_chunk::<16>().ok_or(Reason::Malformed("no proof"))?;
        let client = ClientChallenge::read(blob)?;

        let user = around.users.find(claimed).filter(|user| !user.disabled);
        let known = user.and_then(|user| Some((user, user.nt_hash.as_ref()?)));
        let nobody = NtHash::from_bytes([0; 16]);
        let hash = known.map_or(&nobody, |(_, hash)| hash);
        let key = user_key(hash, &message.user, &message.domain);
        let is_proved: bool = hmac_md5(&key, &[&self.nonce, blob]).ct_eq(proof).into();
        let flags = self.flags & message.flags;
        let session_key = session_key(&hmac_md5(&key, &[proof]), flags, &message)?;
        let is_mic_right = self.is_mic_right(bytes, &message, &session_key);

        let Some((user, _)) = known.filter(|_| is_proved) else { return Err(refusal(Reason::Credentials)) };
        let has_mic = client.pairs.flags() & MIC_PRESENT != 0;
        if has_mic && !is_mic_right {
            return Err(refusal(Reason::Tampered("the message integrity code is wrong")));
        }
        if !has_mic && !self.allow_missing_mic {
            return Err(refusal(Reason::Weak("there is no message integrity code")));
        }
        check_flags(flags).map_err(refusal)?;
        check_time(client.time, around.now).map_err(refusal)?;
        check_binding(&client.pairs, tls).map_err(refusal)?;
        // Without a MIC, whoever was in between may have weakened the key.
        let session = (has_mic && Session::can_sign(flags)).then(|| Session::new(&session_key, flags, Side::Acceptor));
        let session = session.transpose().map_err(|error| Reason::Other(error.to_string()))?;
        Ok(Accepted { identity: Identity::User(user.name.clone()), flags, session })
    }

    /// Whether the code over all three messages is right (MS-NLMP 3.2.5.1.2).
    fn is_mic_right(&self, bytes: &[u8], message: &Authenticate, session_key: &Key) -> bool {
        let Some(at) = message.mic else { return false };
        let (Some(before), Some(mic), Some(after)) = (bytes.get(..at), bytes.get(at..at + 16), bytes.get(at + 16..))
        else {
            return false;
        };
        let parts = [&self.negotiate, self.challenge.as_slice(), before, &[0; 16], after];
        hmac_md5(session_key, &parts).ct_eq(mic).into()
    }
}

fn check_flags(flags: u32) -> Result<(), Reason> {
    if flags & flag::UNICODE == 0 {
        return Err(Reason::Weak("no Unicode"));
    }
    if flags & flag::EXTENDED_SESSION_SECURITY == 0 {
        return Err(Reason::Weak("no extended session security"));
    }
    Ok(())
}

/// NTLMv1, NTLM2 session responses and LM are recognised by their length, and refused whoever sent them.
fn check_is_version_2(message: &Authenticate) -> Result<(), Reason> {
    let is_anonymous = message.flags & flag::ANONYMOUS != 0 || message.user.is_empty();
    match message.nt.len() {
        _ if is_anonymous => Err(Reason::Weak("anonymous")),
        0 => Err(Reason::Weak("LM responses only")),
        24 => Err(Reason::Weak("NTLMv1")),
        _ => Ok(()),
    }
}

/// The session key; without an exchange, what follows from the password and the challenges (MS-NLMP 3.4.5.1).
fn session_key(base: &Key, flags: u32, message: &Authenticate) -> Result<Key, Reason> {
    let is_exchanged = flags & flag::KEY_EXCHANGE != 0 && flags & (flag::SIGN | flag::SEAL) != 0;
    if !is_exchanged {
        return Ok(*base);
    }
    let encrypted = message.session_key.as_slice().try_into();
    encrypted.map(|encrypted| rc4_once(base, encrypted)).map_err(|_| Reason::Malformed("no session key"))
}

fn check_time(client: u64, now: Duration) -> Result<(), Reason> {
    let seconds = file_time(now).abs_diff(client) / 10_000_000;
    if seconds > CLOCK_SKEW_MAX.as_secs() { Err(Reason::Clock(seconds)) } else { Ok(()) }
}

/// A client that says which TLS channel it means must mean this one; on a channel without TLS it means another one.
fn check_binding(pairs: &Pairs, tls: Option<&EndPoint>) -> Result<(), Reason> {
    let Some(binding) = pairs.get(attribute::CHANNEL_BINDINGS).filter(|binding| *binding != [0; 16]) else {
        return Ok(());
    };
    let is_ours = tls.is_some_and(|tls| channel_binding(tls).ct_eq(binding).into());
    if is_ours { Ok(()) } else { Err(Reason::Tampered("it was meant for another TLS channel")) }
}
