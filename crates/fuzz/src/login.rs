//! Who is asking: headers, tokens and messages of a handshake, and sealed bodies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use auth::certificate;
use auth::connection::{BodyKind, Connection, Head, Policy, Verdict};
use auth::context::{Peer, Seal, SealError, Step, Surroundings, Wrapped};
use auth::lockout::Lockout;
use auth::ntlm::initiate::Login;
use auth::ntlm::message::{self, Authenticate, Challenge, ClientChallenge, Pairs, flag};
use auth::sealed::{self, Plain};
use auth::secret::{NtHash, Password, Phc};
use auth::spnego::{self, Client, Settings};
use auth::users::{Role, User, Users};

use crate::soap::split_line;

/// Headers of one connection.
const HEADERS_MAX: usize = 16;
/// When the handshakes of the corpus took place.
const NOW: Duration = Duration::from_secs(1_800_000_000);
/// Their challenge, which makes a recorded answer right.
const RANDOM: [u8; 32] = [7; 32];
/// A hash that costs next to nothing. Basic is not offered below, so nobody looks at it.
const PHC: &str = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ";

fn users() -> Users {
    let mut users = Users::default();
    let nt_hash = Some(NtHash::of(&secret()));
    let password = Phc::parse(PHC).unwrap_or_else(|error| panic!("it is one: {error}"));
    let alice = User { name: "alice".to_owned(), role: Role::Operate, password, nt_hash, disabled: false };
    users.add(alice).unwrap_or_else(|error| panic!("the first user: {error}"));
    users
}

fn secret() -> Password {
    Password::new("secret".to_owned())
}

/// Negotiate with NTLM. Basic, which would take a slow hash for each try, ends where its header has been read.
fn policy() -> Policy {
    let settings =
        Settings { netbios_name: "HOST".to_owned(), dns_name: "host.test".to_owned(), allow_missing_mic: false };
    Policy { basic: false, ntlm: true, kerberos: None, unencrypted: false, settings }
}

fn peer() -> Peer {
    Peer { address: [192, 0, 2, 1].into(), owner: None, tls: None }
}

fn login() -> Login {
    Login::new("alice", &secret(), "HTTP/host.test".to_owned(), None)
}

/// The headers of a connection's requests; an empty line is a request without one. Whether somebody was let in.
pub fn authorization(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let users = users();
    let around = Surroundings { now: NOW, random: &RANDOM, users: &users };
    let lockout = Mutex::new(Lockout::default());
    let mut connection = Connection::new(Arc::new(policy()), peer());
    let mut is_accepted = false;
    for (line, body) in text.lines().take(HEADERS_MAX).zip([BodyKind::Sealed, BodyKind::Empty].into_iter().cycle()) {
        let authorization = Some(line).filter(|line| !line.is_empty());
        match connection.authorize(Head { authorization, body, identify: false }, &around, &lockout) {
            Verdict::Serve { caller, .. } | Verdict::Done { caller, .. } => {
                assert_eq!((caller.name.as_str(), caller.role), ("alice", Role::Operate));
                is_accepted = true;
            }
            Verdict::Challenge { headers, .. } => assert!(!headers.is_empty(), "a refusal says what is offered"),
            Verdict::Anonymous | Verdict::Unencrypted => panic!("nobody asked for Identify, or in clear"),
        }
    }
    is_accepted
}

/// The tokens of a handshake, given to a server and, each by itself, to a client.
pub fn spnego(bytes: &[u8]) -> bool {
    let users = users();
    let around = Surroundings { now: NOW, random: &RANDOM, users: &users };
    let mut server = spnego::accept(&policy(), &peer());
    let (mut rest, mut is_over, mut is_accepted) = (bytes, false, false);
    while let Some((length, after)) = rest.split_first_chunk() {
        let (token, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        rest = after;
        spnego::is_first(token);
        if !is_over {
            match server.step(token, &around) {
                Step::Continue(_) => {}
                Step::Established(established) => {
                    assert_eq!(established.identity.to_string(), "alice");
                    (is_over, is_accepted) = (true, true);
                }
                Step::Refused(_) => is_over = true,
            }
        }
        let (client, _) = Client::new(login());
        if let Ok((session, _)) = client.answer(token, NOW, &RANDOM) {
            // No token can be a challenge and the answer to what it led to.
            assert!(session.finish(token).is_err());
        }
    }
    is_accepted
}

/// Messages, which say the same when they are written and read.
pub fn ntlm(bytes: &[u8]) -> bool {
    let negotiate = message::read_negotiate(bytes);
    if let Ok(flags) = negotiate {
        assert_eq!(message::read_negotiate(&message::write_negotiate(flags)), Ok(flags | flag::VERSION));
    }
    let challenge = Challenge::read(bytes);
    if let Ok(challenge) = &challenge {
        assert_eq!(Challenge::read(&challenge.write()).as_ref(), Ok(challenge));
    }
    let authenticate = Authenticate::read(bytes);
    if let Ok(authenticate) = &authenticate {
        let again = Authenticate::read(&authenticate.write())
            .unwrap_or_else(|error| panic!("what we write is a message: {error}"));
        // We write one form only: with a version and room for a signature.
        let (flags, mic) = (authenticate.flags | flag::VERSION, Some(Authenticate::MIC.start));
        assert_eq!(again, Authenticate { flags, mic, ..authenticate.clone() });
    }
    let client = ClientChallenge::read(bytes);
    if let Ok(client) = &client {
        assert_eq!(ClientChallenge::read(&client.write()).as_ref(), Ok(client));
    }
    let pairs = Pairs::read(bytes);
    if let Ok(pairs) = &pairs {
        assert_eq!(Pairs::read(&pairs.write()).as_ref(), Ok(pairs));
    }
    negotiate.is_ok() || challenge.is_ok() || authenticate.is_ok() || client.is_ok() || pairs.is_ok()
}

/// Turns every byte around and signs with nothing.
struct Turn;

impl Seal for Turn {
    fn wrap(&mut self, plain: &[u8]) -> Result<Wrapped, SealError> {
        let sealed = plain.iter().map(|byte| !byte).collect();
        Ok(Wrapped { signature: b"signed".to_vec(), sealed, padding: 0 })
    }

    fn unwrap(&mut self, _: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(sealed.iter().map(|byte| !byte).collect())
    }
}

/// A sealed body, whose answer, in the form that it had, opens again.
pub fn sealed(bytes: &[u8]) -> bool {
    let (head, body) = split_line(bytes);
    let Ok(content_type) = std::str::from_utf8(head) else { return false };
    sealed::is_sealed(content_type);
    let Ok((plain, style)) = sealed::open(content_type, body, &mut Turn) else { return false };
    // An answer has a media type of ours.
    let answer = Plain { content_type: "application/soap+xml;charset=UTF-16".to_owned(), body: plain.body };
    let again = sealed::close(&answer, &style, &mut Turn)
        .and_then(|closed| sealed::open(&closed.content_type, &closed.body, &mut Turn));
    assert_eq!(again, Ok((answer, style)));
    true
}

/// A certificate, of which only the signature's algorithm matters.
pub fn certificate(bytes: &[u8]) -> bool {
    certificate::binding_hash(bytes) != certificate::Hash::Sha256
}
