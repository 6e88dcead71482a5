//! Requests on a connection, one after the other, and what is answered to each.

use std::time::Duration;

use super::*;
use crate::context::{EndPoint, Seal};
use crate::ntlm::initiate::{Initiator, Login};
use crate::secret::NtHash;
use crate::spnego::Client;

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn password(text: &str) -> Password {
    Password::new(text.to_owned())
}

/// A hash that costs next to nothing, for there are many here.
fn hash(text: &str) -> Phc {
    use argon2::password_hash::phc::PasswordHash;
    use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
    let hash: PasswordHash = hasher.hash_password_with_salt(text.as_bytes(), &[1; 16]).unwrap();
    Phc::parse(&hash.to_string()).unwrap()
}

fn users() -> Users {
    let mut users = Users::default();
    let secret = password("secret:ä");
    let user = |name: &str, role| User {
        name: name.to_owned(),
        role,
        password: hash("secret:ä"),
        nt_hash: Some(NtHash::of(&secret)),
        disabled: false,
    };
    users.add(user("alice", Role::Operate)).unwrap();
    users.add(user("bob", Role::Read)).unwrap();
    users
}

/// A connection and the world around it.
struct World {
    connection: Connection,
    users: Users,
    lockout: Mutex<Lockout>,
    now: Duration,
}

impl World {
    fn new(address: &str, tls: bool, change: impl FnOnce(&mut Policy)) -> Self {
        let settings = crate::ntlm::tests::matrix::settings();
        let mut policy = Policy { basic: true, ntlm: true, kerberos: None, unencrypted: false, settings };
        change(&mut policy);
        let tls = tls.then(|| EndPoint(vec![1; 32]));
        let peer = Peer { address: address.parse().unwrap(), owner: None, tls };
        let connection = Connection::new(Arc::new(policy), peer);
        Self { connection, users: users(), lockout: Mutex::default(), now: NOW }
    }

    fn far() -> Self {
        Self::new("192.0.2.1", false, |_| ())
    }

    fn near() -> Self {
        Self::new("127.0.0.1", false, |_| ())
    }

    fn ask(&mut self, authorization: Option<&str>, body: BodyKind) -> Verdict {
        let around = Surroundings { now: self.now, random: &[3; 32], users: &self.users };
        self.connection.authorize(Head { authorization, body, identify: false }, &around, &self.lockout)
    }

    /// A request with this header; the verdict as a line.
    fn say(&mut self, authorization: Option<&str>, body: BodyKind) -> String {
        match self.ask(authorization, body) {
            Verdict::Serve { caller, headers } => format!("serve {} {} {headers:?}", caller.name, caller.role),
            Verdict::Done { caller, headers } => format!("done {} {headers:?}", caller.name),
            Verdict::Challenge { headers, refusal: None } => format!("401 {}", headers.join(", ")),
            Verdict::Challenge { refusal: Some(refusal), .. } => format!("401: {}", refusal.reason),
            Verdict::Anonymous => "anonymous".to_owned(),
            Verdict::Unencrypted => "unencrypted".to_owned(),
        }
    }
}

fn basic(text: &[u8]) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(text))
}

fn negotiate(token: &[u8]) -> String {
    format!("Negotiate {}", BASE64_STANDARD.encode(token))
}

const WRONG: &str = "401: the user is unknown or disabled, or the password is wrong";

/// Holds: WIRE-B1-1
#[test]
fn schemes_are_offered_where_they_are_safe() {
    let check = |mut world: World, expected: &str| assert_eq!(world.say(None, BodyKind::Empty), expected);
    check(World::far(), "401 Negotiate");
    check(World::near(), "401 Negotiate, Basic realm=\"WSMAN\"");
    check(World::new("192.0.2.1", true, |_| ()), "401 Negotiate, Basic realm=\"WSMAN\"");
    check(World::new("192.0.2.1", false, |policy| policy.unencrypted = true), "401 Negotiate, Basic realm=\"WSMAN\"");
    check(World::new("::1", false, |policy| policy.ntlm = false), "401 Basic realm=\"WSMAN\"");
    check(World::new("::1", false, |policy| policy.basic = false), "401 Negotiate");
}

/// Holds: WIRE-B4-1
#[test]
fn basic_takes_names_in_every_form() {
    let check = |text: &[u8], expected: &str| {
        assert_eq!(World::near().say(Some(&basic(text)), BodyKind::Plain), expected, "{}", text.escape_ascii());
    };
    for name in ["alice", "Alice", r"HOST\alice", r".\alice", "alice@host"] {
        check(format!("{name}:secret:ä").as_bytes(), "serve alice operate []");
    }
    check(b"alice:secret:\xe4", "serve alice operate []");
    check(b"alice:secret", WRONG);
    check(b"alice:", WRONG);
    check(b"mallory:secret", WRONG);
    check(b":", WRONG);
    check(b"alice", "401: the token is malformed: the header has no colon");
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let check = |header: &str, expected: &str| assert_eq!(World::near().say(Some(header), BodyKind::Plain), expected);
    check("", "401: this scheme is not offered here");
    check("Basic !", "401: the token is malformed: the header is not base64");
    check("Bearer abcd", "401: this scheme is not offered here");
    check("Negotiate", "401: the token is malformed: a SPNEGO token ends too soon");
    check(&"x".repeat(70_000), "401: the token is malformed: the header is too long");
    let header = basic(b"alice:secret:\xc3\xa4");
    assert_eq!(World::far().say(Some(&header), BodyKind::Plain), "401: Basic is not offered here");
    assert_eq!(World::near().say(Some(&header.replace("Basic", "bASIC ")), BodyKind::Empty), "done alice []");
}

/// Holds: WIRE-B1-1, WIRE-B7-1
#[test]
fn basic_is_remembered_until_something_changes() {
    let mut world = World::near();
    let header = basic("alice:secret:ä".as_bytes());
    let serve = "serve alice operate []";
    assert_eq!(world.say(Some(&header), BodyKind::Plain), serve);
    // Wrong attempts would be counted, right ones that are remembered are not.
    for _ in 0..3 {
        assert_eq!(world.say(Some(&header), BodyKind::Plain), serve);
        assert_eq!(world.say(None, BodyKind::Plain), serve, "the connection is authenticated");
        let question = world.say(None, BodyKind::Empty);
        assert!(
            question.starts_with("401") && question.contains("Basic"),
            "virt-who asks before it sends its password"
        );
    }
    world.users.change("alice", |user| user.role = Role::Read).unwrap();
    assert_eq!(world.say(None, BodyKind::Plain), "serve alice read []");
    world.users.change("alice", |user| user.password = hash("other")).unwrap();
    assert_eq!(world.say(Some(&header), BodyKind::Plain), WRONG);
    assert!(world.say(None, BodyKind::Plain).starts_with("401"), "a refusal ends what was before");
}

#[test]
fn users_are_shut_out_at_once() {
    let mut world = World::near();
    let header = basic("bob:secret:ä".as_bytes());
    assert_eq!(world.say(Some(&header), BodyKind::Plain), "serve bob read []");
    world.users.change("bob", |user| user.disabled = true).unwrap();
    assert_eq!(world.say(Some(&header), BodyKind::Plain), WRONG);
    world.users.change("bob", |user| user.disabled = false).unwrap();
    assert_eq!(world.say(Some(&header), BodyKind::Plain), "serve bob read []");
    world.users.remove("bob").unwrap();
    assert_eq!(world.say(None, BodyKind::Plain), WRONG);
}

#[test]
fn guessing_locks() {
    let mut world = World::near();
    let wrong = basic(b"alice:guess");
    for _ in 0..5 {
        assert_eq!(world.say(Some(&wrong), BodyKind::Plain), WRONG);
    }
    let right = basic("alice:secret:ä".as_bytes());
    assert_eq!(world.say(Some(&right), BodyKind::Plain), "401: after too many failures the user is locked for a while");
    assert_eq!(world.say(Some(&basic("bob:secret:ä".as_bytes())), BodyKind::Plain), "serve bob read []");
    world.now += Duration::from_secs(60);
    assert_eq!(world.say(Some(&right), BodyKind::Plain), "serve alice operate []");
}

/// Both legs of our client; the last request has this body.
fn handshake(
    world: &mut World,
    secret: &str,
    legs: BodyKind,
    last: BodyKind,
) -> (String, Option<crate::spnego::ClientSession>) {
    let login = Login::new("alice", &password(secret), "HTTP/host".to_owned(), None);
    let (client, token) = Client::new(login);
    let Verdict::Challenge { headers, refusal: None } = world.ask(Some(&negotiate(&token)), legs) else {
        panic!("no challenge")
    };
    let challenge = BASE64_STANDARD.decode(headers[0].strip_prefix("Negotiate ").unwrap()).unwrap();
    let (session, token) = client.answer(&challenge, NOW, &[4; 32]).unwrap();
    (world.say(Some(&negotiate(&token)), last), Some(session))
}

/// Holds: WIRE-B5-1, WIRE-B6-3
#[test]
fn both_forms_of_a_handshake_end_well() {
    let (said, _) = handshake(&mut World::far(), "secret:ä", BodyKind::Empty, BodyKind::Empty);
    assert!(said.starts_with("done alice [\"Negotiate oR"), "{said}");
    let (said, _) = handshake(&mut World::near(), "secret:ä", BodyKind::Plain, BodyKind::Plain);
    assert!(said.starts_with("serve alice operate [\"Negotiate oR"), "{said}");
    let (said, _) = handshake(&mut World::far(), "secret:ä", BodyKind::Plain, BodyKind::Plain);
    assert_eq!(said, "unencrypted");
    let (said, _) = handshake(&mut World::far(), "guess", BodyKind::Empty, BodyKind::Empty);
    assert_eq!(said, WRONG);
}

/// Holds: WIRE-B7-1
#[test]
fn a_connection_stays_authenticated_and_sealed() {
    let mut world = World::far();
    let _ = handshake(&mut world, "secret:ä", BodyKind::Empty, BodyKind::Empty);
    assert!(world.connection.can_seal());
    assert_eq!(world.say(None, BodyKind::Sealed), "serve alice operate []");
    assert_eq!(world.say(None, BodyKind::Plain), "unencrypted");
    assert_eq!(world.say(None, BodyKind::Sealed), "serve alice operate []", "which does no harm");
    // A fresh handshake has a fresh key; a failed one leaves nothing.
    let (said, _) = handshake(&mut world, "secret:ä", BodyKind::Empty, BodyKind::Empty);
    assert!(said.starts_with("done alice"), "{said}");
    let _ = handshake(&mut world, "guess", BodyKind::Empty, BodyKind::Empty);
    assert!(!world.connection.can_seal());
    assert_eq!(world.say(None, BodyKind::Sealed), "401 Negotiate");
}

/// Holds: WIRE-B5-2, WIRE-B6-3, WIRE-B7-1
#[test]
fn a_handshake_may_be_begun_again() {
    let mut world = World::far();
    let (_, first) = Initiator::new(Login::new("alice", &password("x"), String::new(), None));
    for _ in 0..3 {
        assert!(world.say(Some(&negotiate(&first)), BodyKind::Empty).starts_with("401 Negotiate TlRM"));
    }
    let (said, _) = handshake(&mut world, "secret:ä", BodyKind::Empty, BodyKind::Empty);
    assert!(said.starts_with("done alice"), "{said}");
}

/// An answer is worth nothing on another connection, nor a second time on its own.
/// Holds: WIRE-B5-2
#[test]
fn answers_are_taken_once() {
    let login = || Login::new("alice", &password("secret:ä"), String::new(), None);
    let begin = |world: &mut World, random: u8| {
        let (initiator, first) = Initiator::new(login());
        let around = Surroundings { now: NOW, random: &[random; 32], users: &world.users };
        let head = Head { authorization: Some(&negotiate(&first)), body: BodyKind::Empty, identify: false };
        let Verdict::Challenge { headers, .. } = world.connection.authorize(head, &around, &world.lockout) else {
            panic!("no challenge")
        };
        let challenge = BASE64_STANDARD.decode(headers[0].strip_prefix("Negotiate ").unwrap()).unwrap();
        negotiate(&initiator.answer(&challenge, NOW, &[9; 32]).unwrap().0)
    };
    let (mut here, mut there) = (World::far(), World::far());
    let answer = begin(&mut here, 1);
    let _ = begin(&mut there, 2);
    assert_eq!(there.say(Some(&answer), BodyKind::Empty), WRONG);
    assert_eq!(here.say(Some(&answer), BodyKind::Empty), "done alice []", "bare, as it was addressed");
    let again = here.say(Some(&answer), BodyKind::Empty);
    assert!(again.starts_with("401: the token is malformed"), "{again}");
}

#[test]
fn identify_may_be_anonymous() {
    let mut world = World::far();
    let mut ask = |identify, body, authorization| {
        let around = Surroundings { now: NOW, random: &[3; 32], users: &world.users };
        world.connection.authorize(Head { authorization, body, identify }, &around, &world.lockout)
    };
    assert_eq!(ask(true, BodyKind::Plain, None), Verdict::Anonymous);
    assert!(matches!(ask(true, BodyKind::Sealed, None), Verdict::Challenge { .. }));
    assert!(matches!(ask(true, BodyKind::Plain, Some("Basic !")), Verdict::Challenge { .. }));
}

#[test]
fn without_a_key_nothing_is_sealed() {
    let mut world = World::near();
    let _ = world.say(Some(&basic("alice:secret:ä".as_bytes())), BodyKind::Plain);
    assert_eq!(world.connection.seal().map(|_| ()), Err(SealError::NoKey));
}

/// The two ends of a connection, with bodies as they go over the wire.
/// Holds: WIRE-B9-5
#[test]
fn sealed_bodies_go_both_ways() {
    let mut world = World::far();
    let login = Login::new("alice", &password("secret:ä"), String::new(), None);
    let (initiator, first) = Initiator::new(login);
    let Verdict::Challenge { headers, .. } = world.ask(Some(&negotiate(&first)), BodyKind::Empty) else {
        panic!("no challenge")
    };
    let challenge = BASE64_STANDARD.decode(headers[0].strip_prefix("Negotiate ").unwrap()).unwrap();
    let (last, mut client) = initiator.answer(&challenge, NOW, &[4; 32]).unwrap();
    let _ = world.ask(Some(&negotiate(&last)), BodyKind::Empty);
    let plain = crate::sealed::Plain {
        content_type: "application/soap+xml;charset=UTF-8".to_owned(),
        body: b"<s:Envelope/>".to_vec(),
    };
    for _ in 0..3 {
        let sent = crate::sealed::close(&plain, &Default::default(), &mut client).unwrap();
        let server: &mut dyn Seal = world.connection.seal().unwrap();
        let (got, style) = crate::sealed::open(&sent.content_type, &sent.body, server).unwrap();
        assert_eq!(got, plain);
        let reply = crate::sealed::close(&plain, &style, server).unwrap();
        assert_eq!(crate::sealed::open(&reply.content_type, &reply.body, &mut client).unwrap().0, plain);
    }
}
