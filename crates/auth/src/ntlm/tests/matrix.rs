//! Every way in which an AUTHENTICATE message can be wrong, a row each: what a client could send that we must not take,
//! and what we do take. The messages are forged by hand, because our own client cannot do wrong.

use std::time::Duration;

use crate::context::{EndPoint, Reason, Refusal, Seal, SealError, Surroundings, Wrapped};
use crate::ntlm::accept::{Accepted, Challenged};
use crate::ntlm::initiate::{Initiator, Login};
use crate::ntlm::message::{
    Authenticate, Challenge, ClientChallenge, MIC_PRESENT, attribute, flag, utf16, write_negotiate,
};
use crate::ntlm::seal::{Session, Side};
use crate::ntlm::{Key, channel_binding, hmac_md5, rc4_once, user_key};
use crate::secret::{NtHash, Password};
use crate::spnego::Settings;
use crate::users::Users;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const SESSION_KEY: Key = [0x42; 16];
const ALL: u32 = flag::UNICODE
    | flag::SIGN
    | flag::SEAL
    | flag::NTLM
    | flag::EXTENDED_SESSION_SECURITY
    | flag::KEY_128
    | flag::KEY_EXCHANGE;

/// alice and carol have the password `secret`; bob may not use NTLM, and carol is disabled.
pub fn users() -> Users {
    let phc = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ";
    let nt = NtHash::of(&Password::new("secret".to_owned())).to_hex();
    let text = format!(
        "snapvisor-users 1\nuser Alice operate password={phc} nt={nt}\nuser bob read password={phc}\n\
         user carol read password={phc} nt={nt} disabled\n"
    );
    Users::parse(&text).unwrap()
}

pub fn settings() -> Settings {
    Settings { netbios_name: "HOST".to_owned(), dns_name: "host.example".to_owned(), allow_missing_mic: false }
}

fn end_point() -> EndPoint {
    EndPoint(vec![0xee; 32])
}

/// How a message is forged. The default is right.
struct Forgery {
    password: &'static str,
    /// What goes into the key, and what onto the wire.
    user: (&'static str, &'static str),
    domain: (&'static str, &'static str),
    negotiate_flags: u32,
    flags: u32,
    /// Seconds that the client's clock is ahead.
    clock: i64,
    binding: Option<Key>,
    /// Whether the signed flags announce a MIC, and what stands in its place.
    mic: (bool, Mic),
    /// The NT response, if it is not to be one of NTLMv2.
    nt: Option<Vec<u8>>,
    session_key_bytes: usize,
    /// Damage after all is done.
    damage: fn(&mut Vec<u8>),
    /// Whether it answers an older challenge.
    is_replay: bool,
    /// The server's side.
    allow_missing_mic: bool,
    tls: Option<EndPoint>,
}

enum Mic {
    Right,
    Wrong,
    Zero,
}

impl Default for Forgery {
    fn default() -> Self {
        Self {
            password: "secret",
            user: ("alice", "alice"),
            domain: ("", ""),
            negotiate_flags: ALL,
            flags: ALL,
            clock: 0,
            binding: None,
            mic: (true, Mic::Right),
            nt: None,
            session_key_bytes: 16,
            damage: |_| (),
            is_replay: false,
            allow_missing_mic: false,
            tls: None,
        }
    }
}

impl Forgery {
    /// The client's message, and the server's verdict on it.
    fn judge(&self) -> Result<Accepted, Refusal> {
        let users = users();
        let settings = Settings { allow_missing_mic: self.allow_missing_mic, ..settings() };
        let negotiate = write_negotiate(self.negotiate_flags);
        let around = |random| Surroundings { now: NOW, random, users: &users };
        let (challenged, challenge) = Challenged::new(&negotiate, &settings, &around(&[1; 32]))?;
        let (_, older) = Challenged::new(&negotiate, &settings, &around(&[2; 32]))?;
        let message = self.message(&negotiate, if self.is_replay { &older } else { &challenge });
        challenged.authenticate(&message, self.tls.as_ref(), &around(&[3; 32]))
    }

    fn message(&self, negotiate: &[u8], challenge: &[u8]) -> Vec<u8> {
        let read = Challenge::read(challenge).unwrap();
        let hash = NtHash::of(&Password::new(self.password.to_owned()));
        let key = user_key(&hash, self.user.0, self.domain.0);
        let mut pairs = read.info.clone();
        if self.mic.0 {
            pairs.set(attribute::FLAGS, MIC_PRESENT.to_le_bytes().to_vec());
        }
        if let Some(binding) = self.binding {
            pairs.set(attribute::CHANNEL_BINDINGS, binding.to_vec());
        }
        let time = read.info.time().unwrap().checked_add_signed(self.clock * 10_000_000).unwrap();
        let blob = ClientChallenge { time, challenge: [7; 8], pairs }.write();
        let proof = hmac_md5(&key, &[&read.challenge, &blob]);
        let base = hmac_md5(&key, &[&proof]);
        let is_exchanged = self.flags & flag::KEY_EXCHANGE != 0;
        let session_key = if is_exchanged { SESSION_KEY } else { base };
        let encrypted = if is_exchanged { rc4_once(&base, SESSION_KEY).to_vec() } else { Vec::new() };
        let message = Authenticate {
            lm: vec![0; 24],
            nt: self.nt.clone().unwrap_or_else(|| [proof.as_slice(), &blob].concat()),
            domain: self.domain.1.to_owned(),
            user: self.user.1.to_owned(),
            workstation: "CLIENT".to_owned(),
            session_key: encrypted.get(..self.session_key_bytes).unwrap_or(&encrypted).to_vec(),
            flags: self.flags,
            mic: None,
        };
        let mut bytes = message.write();
        let mic = match self.mic.1 {
            Mic::Right => hmac_md5(&session_key, &[negotiate, challenge, &bytes]),
            Mic::Wrong => [9; 16],
            Mic::Zero => [0; 16],
        };
        bytes[Authenticate::MIC].copy_from_slice(&mic);
        (self.damage)(&mut bytes);
        bytes
    }
}

#[track_caller]
fn check(name: &str, change: impl FnOnce(&mut Forgery), expected: &str) {
    let mut forgery = Forgery::default();
    change(&mut forgery);
    let verdict = match forgery.judge() {
        Ok(Accepted { identity, flags, session }) => {
            let protection = match session {
                Some(_) if Session::can_seal(flags) => "sealed",
                Some(_) => "signed",
                None => "bare",
            };
            format!("{identity}, {protection}")
        }
        Err(refusal) => refusal.reason.to_string(),
    };
    assert_eq!(verdict, expected, "{name}");
}

const CREDENTIALS: &str = "the user is unknown or disabled, or the password is wrong";
const WRONG_MIC: &str = "the exchange was tampered with or relayed: the message integrity code is wrong";
const NO_MIC: &str = "the client offers too little: there is no message integrity code";
const OTHER_CHANNEL: &str = "the exchange was tampered with or relayed: it was meant for another TLS channel";

/// Holds: WIRE-B5-3, WIRE-B5-4
#[test]
fn whoever_proves_it_is_let_in() {
    check("all is right", |_| (), "Alice, sealed");
    check("a domain, in the proof too", |f| f.domain = ("HOST", "HOST"), "Alice, sealed");
    check("a name with a domain in it", |f| f.user = ("alice@host", "alice@host"), "Alice, sealed");
    check("the clock a little off", |f| f.clock = -299, "Alice, sealed");
    check("no MIC, and none is needed", |f| (f.mic, f.allow_missing_mic) = ((false, Mic::Zero), true), "Alice, bare");
    check("nothing to be sealed", |f| f.flags &= !flag::SEAL, "Alice, signed");
    check("no key exchange", |f| f.flags &= !flag::KEY_EXCHANGE, "Alice, signed");
    check("neither signed nor sealed", no_protection, "Alice, bare");
    check("keys of 56 bits", |f| f.flags &= !flag::KEY_128, "Alice, bare");
}

fn no_protection(forgery: &mut Forgery) {
    forgery.flags &= !(flag::SIGN | flag::SEAL | flag::KEY_EXCHANGE);
    forgery.negotiate_flags = forgery.flags;
}

#[test]
fn whoever_does_not_is_not() {
    check("wrong password", |f| f.password = "Secret", CREDENTIALS);
    check("unknown user", |f| f.user = ("mallory", "mallory"), CREDENTIALS);
    check("unknown user, hash of nobody", |f| (f.user, f.password) = (("mallory", "mallory"), ""), CREDENTIALS);
    check("user without NTLM", |f| f.user = ("bob", "bob"), CREDENTIALS);
    check("disabled user", |f| f.user = ("carol", "carol"), CREDENTIALS);
    check("right password, name of another", |f| f.user = ("mallory", "alice"), CREDENTIALS);
    check("own password, another's name on the wire", |f| f.user = ("alice", "carol"), CREDENTIALS);
    check("domain changed on the way", |f| f.domain = ("HOST", "OTHER"), CREDENTIALS);
    check("proof of garbage", |f| f.nt = Some([vec![0xaa; 16], blob_of_nobody()].concat()), CREDENTIALS);
    check(
        "garbage and no MIC",
        |f| (f.nt, f.mic.1) = (Some([vec![0xaa; 16], blob_of_nobody()].concat()), Mic::Zero),
        CREDENTIALS,
    );
    check("answer to an older challenge", |f| f.is_replay = true, CREDENTIALS);
}

fn blob_of_nobody() -> Vec<u8> {
    ClientChallenge { time: crate::ntlm::message::file_time(NOW), challenge: [0; 8], pairs: Default::default() }.write()
}

/// Holds: WIRE-B5-4
#[test]
fn whoever_offers_less_is_not() {
    let weak = |what: &str| format!("the client offers too little: {what}");
    check("NTLMv1", |f| f.nt = Some(vec![1; 24]), &weak("NTLMv1"));
    check("LM only", |f| f.nt = Some(Vec::new()), &weak("LM responses only"));
    check("anonymous by flag", |f| f.flags |= flag::ANONYMOUS, &weak("anonymous"));
    check("anonymous by name", |f| f.user = ("", ""), &weak("anonymous"));
    check("no Unicode", |f| f.negotiate_flags &= !flag::UNICODE, &weak("no Unicode"));
    let no_security = |f: &mut Forgery| f.negotiate_flags &= !flag::EXTENDED_SESSION_SECURITY;
    check("no extended session security", no_security, &weak("no extended session security"));
    check("none later", |f| f.flags &= !flag::EXTENDED_SESSION_SECURITY, &weak("no extended session security"));
    check("no MIC", |f| f.mic = (false, Mic::Zero), NO_MIC);
    check("a MIC that nothing announces", |f| f.mic = (false, Mic::Right), NO_MIC);
}

#[test]
fn whatever_was_changed_on_the_way_is_refused() {
    check("wrong MIC", |f| f.mic = (true, Mic::Wrong), WRONG_MIC);
    check("MIC taken out", |f| f.mic = (true, Mic::Zero), WRONG_MIC);
    let relaxed = |f: &mut Forgery| (f.mic, f.allow_missing_mic) = ((true, Mic::Zero), true);
    check("MIC taken out, where it is not needed", relaxed, WRONG_MIC);
    check("flags changed after the MIC", |f| f.damage = |bytes| bytes[60] &= !0x20, WRONG_MIC);
    check("workstation changed after the MIC", |f| f.damage = |bytes| *last_c(bytes) = b'X', WRONG_MIC);
    check("session key changed", |f| f.damage = |bytes| *bytes.last_mut().unwrap() ^= 1, WRONG_MIC);
    check("clock behind", |f| f.clock = -301, "the client's clock differs from ours by 301 s");
    check("clock ahead", |f| f.clock = 86_400, "the client's clock differs from ours by 86400 s");
}

/// The first letter of the workstation, which stands before the session key.
fn last_c(bytes: &mut [u8]) -> &mut u8 {
    let at = bytes.windows(2).rposition(|pair| pair == b"C\0").unwrap();
    &mut bytes[at]
}

#[test]
fn tls_channels_are_told_apart() {
    let ours = Some(channel_binding(&end_point()));
    check("bound to our channel", |f| (f.tls, f.binding) = (Some(end_point()), ours), "Alice, sealed");
    check("not bound", |f| f.tls = Some(end_point()), "Alice, sealed");
    check("bound to nothing", |f| (f.tls, f.binding) = (Some(end_point()), Some([0; 16])), "Alice, sealed");
    check("bound to another", |f| (f.tls, f.binding) = (Some(end_point()), Some([1; 16])), OTHER_CHANNEL);
    check("bound to TLS where there is none", |f| f.binding = ours, OTHER_CHANNEL);
}

#[test]
fn malformed_messages_are_refused() {
    let malformed = |what: &str| format!("the token is malformed: {what}");
    let ends = malformed("an NTLM message ends too soon");
    check("cut short", |f| f.damage = |bytes| bytes.truncate(bytes.len() - 1), &ends);
    check("only a head", |f| f.damage = |bytes| bytes.truncate(64), &ends);
    check("a field far outside", |f| f.damage = |bytes| bytes[24..28].fill(0xff), &ends);
    let overlap = malformed("fields of an NTLM message overlap");
    // The user's field begins at 36, its offset at 40; the workstation's at 44 and 48.
    check("overlapping fields", |f| f.damage = |bytes| bytes.copy_within(48..52, 40), &overlap);
    let head = malformed("a field of an NTLM message points into its head");
    check("a field in the head", |f| f.damage = |bytes| bytes[40..44].copy_from_slice(&60_u32.to_le_bytes()), &head);
    check("another message", |f| f.damage = |bytes| bytes[8] = 1, &malformed("not the NTLM message that is due"));
    check("too long", |f| f.damage = |bytes| bytes.resize(20_000, 0), &malformed("an NTLM message is too long"));
    check("half a session key", |f| f.session_key_bytes = 8, &malformed("no session key"));
    check("a response too short", |f| f.nt = Some(vec![1; 10]), &malformed("no proof"));
}

/// Who was claimed is told, for the lockout, only once the message makes sense.
#[test]
fn the_claimed_name_is_without_domain() {
    let forgery = Forgery { user: ("x", r"HOST\Mallory"), ..Forgery::default() };
    let refusal = forgery.judge().err().unwrap();
    assert_eq!(refusal, Refusal { reason: Reason::Credentials, claimed: Some("Mallory".to_owned()) });
}

/// Our client against our server, and the session that comes of it.
fn sessions() -> (Session, Session) {
    let users = users();
    let around = Surroundings { now: NOW, random: &[5; 32], users: &users };
    let login =
        Login::new(r"HOST\ALICE", &Password::new("secret".to_owned()), "HTTP/host".to_owned(), Some(end_point()));
    let (initiator, negotiate) = Initiator::new(login);
    let (challenged, challenge) = Challenged::new(&negotiate, &settings(), &around).unwrap();
    let (authenticate, client) = initiator.answer(&challenge, NOW, &[6; 32]).unwrap();
    let accepted = challenged.authenticate(&authenticate, Some(&end_point()), &around).unwrap();
    (client, accepted.session.unwrap())
}

/// Holds: WIRE-B5-4, WIRE-B9-5
#[test]
fn sealed_messages_arrive_once_in_order_and_whole() {
    type Mix = fn(Vec<Wrapped>) -> Vec<Wrapped>;
    let check = |name: &str, mix: Mix, expected: &[Result<&str, SealError>]| {
        let (mut client, mut server) = sessions();
        let sent: Vec<Wrapped> = ["one", "two", "three"].map(|text| client.wrap(text.as_bytes()).unwrap()).into();
        let got = mix(sent).into_iter().map(|Wrapped { signature, sealed, .. }| {
            server.unwrap(&signature, &sealed).map(|plain| String::from_utf8(plain).unwrap())
        });
        let expected: Vec<_> = expected.iter().cloned().map(|result| result.map(str::to_owned)).collect();
        assert_eq!(got.collect::<Vec<_>>(), expected, "{name}");
    };
    let wrong = || Err(SealError::Signature);
    check("as sent", |sent| sent, &[Ok("one"), Ok("two"), Ok("three")]);
    check("repeated", |sent| vec![sent[0].clone(), sent[0].clone(), sent[1].clone()], &[Ok("one"), wrong(), wrong()]);
    check("reordered", |sent| vec![sent[1].clone(), sent[0].clone()], &[wrong(), wrong()]);
    check("one left out", |sent| vec![sent[0].clone(), sent[2].clone()], &[Ok("one"), wrong()]);
    let flip_text = |mut sent: Vec<Wrapped>| {
        sent[0].sealed[0] ^= 1;
        sent
    };
    check("text changed", flip_text, &[wrong(), wrong(), wrong()]);
    let flip_signature = |mut sent: Vec<Wrapped>| {
        sent[0].signature[4] ^= 1;
        sent
    };
    check("signature changed", flip_signature, &[wrong(), wrong(), wrong()]);
    let shorten = |mut sent: Vec<Wrapped>| {
        sent[0].signature.pop();
        sent
    };
    check("signature shortened", shorten, &[wrong(), wrong(), wrong()]);
}

/// Holds: WIRE-B9-5
#[test]
fn the_directions_have_keys_of_their_own() {
    let (mut client, mut server) = sessions();
    let there = client.wrap(b"same").unwrap();
    let back = server.wrap(b"same").unwrap();
    assert_ne!(there, back);
    assert_eq!(client.unwrap(&back.signature, &back.sealed).unwrap(), b"same");
    assert_eq!(client.unwrap(&there.signature, &there.sealed), Err(SealError::Signature), "reflected");
}

#[test]
fn the_client_takes_no_less_than_it_asks_for() {
    let check = |change: fn(&mut Challenge), expected: bool| {
        let users = users();
        let around = Surroundings { now: NOW, random: &[5; 32], users: &users };
        let (initiator, negotiate) =
            Initiator::new(Login::new("alice", &Password::new("secret".to_owned()), String::new(), None));
        let (_, bytes) = Challenged::new(&negotiate, &settings(), &around).unwrap();
        let mut challenge = Challenge::read(&bytes).unwrap();
        change(&mut challenge);
        assert_eq!(initiator.answer(&challenge.write(), NOW, &[6; 32]).is_ok(), expected);
    };
    check(|_| (), true);
    check(|challenge| challenge.flags &= !flag::SEAL, false);
    check(|challenge| challenge.flags &= !flag::KEY_EXCHANGE, false);
    check(|challenge| challenge.flags &= !flag::KEY_128, false);
    check(|challenge| challenge.flags &= !flag::EXTENDED_SESSION_SECURITY, false);
    check(|challenge| challenge.info.set(attribute::COMPUTER, utf16("OTHER")), true);
}

#[test]
fn a_session_key_makes_two_ends() {
    let mut client = Session::new(&SESSION_KEY, ALL, Side::Initiator).unwrap();
    let mut server = Session::new(&SESSION_KEY, ALL, Side::Acceptor).unwrap();
    let signature = client.sign_mechanisms(b"list").unwrap();
    server.verify_mechanisms(b"list", &signature).unwrap();
    // The cipher began anew, the number did not.
    let wrapped = client.wrap(b"x").unwrap();
    assert_eq!(wrapped.signature[12..], [1, 0, 0, 0]);
    assert_eq!(server.unwrap(&wrapped.signature, &wrapped.sealed).unwrap(), b"x");
}
