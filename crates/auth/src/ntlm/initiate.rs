//! The client's side of NTLM. It takes no less than it asks for: a server that will not seal is not answered.

use std::time::Duration;

use super::message::{
    Authenticate, Challenge, ClientChallenge, MIC_PRESENT, attribute, file_time, flag, utf16, write_negotiate,
};
use super::seal::{Session, Side};
use super::{Key, channel_binding, hmac_md5, rc4_once, user_key};
use crate::context::{EndPoint, RANDOM_BYTES, Reason};
use crate::secret::{NtHash, Password};

const WANTED: u32 = flag::UNICODE
    | flag::REQUEST_TARGET
    | flag::SIGN
    | flag::SEAL
    | flag::NTLM
    | flag::ALWAYS_SIGN
    | flag::EXTENDED_SESSION_SECURITY
    | flag::TARGET_INFO
    | flag::KEY_128
    | flag::KEY_EXCHANGE;

/// Who logs in where.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The domain; empty for users of the server.
    pub domain: String,
    /// The password's hash.
    pub hash: NtHash,
    /// The service, such as `HTTP/host`.
    pub service: String,
    /// The server's TLS certificate, if the connection is TLS.
    pub tls: Option<EndPoint>,
}

impl Login {
    /// A user as people write it: `user`, `DOMAIN\user` or `user@domain`.
    pub fn new(name: &str, password: &Password, service: String, tls: Option<EndPoint>) -> Self {
        let (domain, user) = name.split_once('\\').unwrap_or(("", name));
        Self { user: user.to_owned(), domain: domain.to_owned(), hash: NtHash::of(password), service, tls }
    }
}

/// A client that has introduced itself.
pub struct Initiator {
    login: Login,
    negotiate: Vec<u8>,
}

impl Initiator {
    /// Begins; gives the NEGOTIATE message too.
    pub fn new(login: Login) -> (Self, Vec<u8>) {
        let negotiate = write_negotiate(WANTED);
        (Self { login, negotiate: negotiate.clone() }, negotiate)
    }

    /// Answers a CHALLENGE message; gives the AUTHENTICATE message and the session.
    ///
    /// # Errors
    /// When it is none, or the server does not do what we insist on.
    pub fn answer(
        self,
        challenge: &[u8],
        now: Duration,
        random: &[u8; RANDOM_BYTES],
    ) -> Result<(Vec<u8>, Session), Reason> {
        let message = Challenge::read(challenge)?;
        let flags = message.flags & (WANTED | flag::VERSION);
        if !Session::can_seal(flags) || flags & flag::UNICODE == 0 {
            return Err(Reason::Weak("the server does not seal messages with 128 bits"));
        }
        let nonce: [u8; 8] = part(random, 0);
        let session_key: Key = part(random, 8);

        let Login { user, domain, hash, service, tls } = &self.login;
        let key = user_key(hash, user, domain);
        let mut pairs = message.info.clone();
        pairs.set(attribute::FLAGS, (message.info.flags() | MIC_PRESENT).to_le_bytes().to_vec());
        pairs.set(attribute::TARGET_NAME, utf16(service));
        pairs.set(attribute::CHANNEL_BINDINGS, tls.as_ref().map_or([0; 16], channel_binding).to_vec());
        let time = message.info.time().unwrap_or_else(|| file_time(now));
        let blob = ClientChallenge { time, challenge: nonce, pairs }.write();
        let proof = hmac_md5(&key, &[&message.challenge, &blob]);
        let base = hmac_md5(&key, &[&proof]);
        let authenticate = Authenticate {
            // Zeros, because the challenge has a time (MS-NLMP 3.1.5.1.2).
            lm: vec![0; 24],
            nt: [proof.as_slice(), &blob].concat(),
            domain: domain.clone(),
            user: user.clone(),
            workstation: String::new(),
            session_key: rc4_once(&base, session_key).to_vec(),
            flags,
            mic: None,
        };
        let mut bytes = authenticate.write();
        let mic = hmac_md5(&session_key, &[&self.negotiate, challenge, &bytes]);
        bytes[Authenticate::MIC].copy_from_slice(&mic);
        let session = Session::new(&session_key, flags, Side::Initiator);
        Ok((bytes, session.map_err(|error| Reason::Other(error.to_string()))?))
    }
}

/// Some of the random bytes; each is used once.
fn part<const N: usize>(random: &[u8; RANDOM_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|index| random[at + index])
}
