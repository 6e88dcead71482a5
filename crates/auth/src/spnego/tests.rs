//! Negotiations of every shape, and lists that somebody changed.

use super::*;
use crate::context::{Identity, SealError};
use crate::ntlm::tests::matrix::{settings, users};
use crate::secret::Password;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const ALL_MECHANISMS: [&[u8]; 3] = [MICROSOFT_KERBEROS, KERBEROS, NTLM];

/// Kerberos that lets everybody in, so that one sees that it was asked.
struct Anyone;

impl Kerberos for Anyone {
    fn accept(&self, _: &Peer) -> Box<dyn Context> {
        Box::new(Self)
    }
}

impl Context for Anyone {
    fn step(&mut self, _: &[u8], _: &Surroundings<'_>) -> Step {
        let identity = Identity::Principal("anyone@EXAMPLE.ORG".to_owned());
        Step::Established(Established { identity, token: None, seal: None })
    }
}

fn acceptor(kerberos: bool) -> Box<dyn Context> {
    let kerberos: Option<Arc<dyn Kerberos>> = if kerberos { Some(Arc::new(Anyone)) } else { None };
    let policy = Policy { basic: false, ntlm: true, kerberos, unencrypted: false, settings: settings() };
    accept(&policy, &Peer { address: [192, 0, 2, 1].into(), owner: None, tls: None })
}

fn step(context: &mut dyn Context, token: &[u8]) -> Step {
    let users = users();
    context.step(token, &Surroundings { now: NOW, random: &[1; 32], users: &users })
}

#[track_caller]
fn continued(step: Step) -> Vec<u8> {
    match step {
        Step::Continue(token) => token,
        Step::Established(_) => panic!("established"),
        Step::Refused(refusal) => panic!("{}", refusal.reason),
    }
}

fn outcome(step: Step) -> String {
    match step {
        Step::Continue(_) => "continue".to_owned(),
        Step::Established(established) => established.identity.to_string(),
        Step::Refused(refusal) => refusal.reason.to_string(),
    }
}

fn login(password: &str) -> Login {
    Login::new("alice", &Password::new(password.to_owned()), "HTTP/host".to_owned(), None)
}

fn list(mechanisms: &[&[u8]]) -> Vec<u8> {
    let objects: Vec<u8> = mechanisms.iter().flat_map(|mechanism| der::element(der::OBJECT, mechanism)).collect();
    der::element(der::SEQUENCE, &objects)
}

fn init(mechanisms: &[&[u8]], token: &[u8]) -> Vec<u8> {
    let token = der::element(der::context(2), &der::element(der::OCTETS, token));
    let fields = [der::element(der::context(0), &list(mechanisms)), token].concat();
    let init = der::element(der::context(0), &der::element(der::SEQUENCE, &fields));
    der::element(GSS_TOKEN, &[der::element(der::OBJECT, SPNEGO), init].concat())
}

/// The whole conversation of our client.
/// Holds: WIRE-B5-1
#[test]
fn our_client_and_our_server_agree() {
    let mut server = acceptor(false);
    let (client, token) = Client::new(login("secret"));
    let challenge = continued(step(server.as_mut(), &token));
    let (client, token) = client.answer(&challenge, NOW, &[2; 32]).unwrap();
    let Step::Established(Established { identity, token: Some(token), seal: Some(mut seal) }) =
        step(server.as_mut(), &token)
    else {
        panic!("not established")
    };
    assert_eq!(identity, Identity::User("Alice".to_owned()));
    let mut client = client.finish(&token).unwrap();
    let wrapped = crate::context::Seal::wrap(&mut client, b"<a/>").unwrap();
    assert_eq!(seal.unwrap(&wrapped.signature, &wrapped.sealed).unwrap(), b"<a/>");
    assert_eq!(seal.unwrap(&wrapped.signature, &wrapped.sealed), Err(SealError::Signature));
}

/// Holds: WIRE-B8-1
#[test]
fn our_client_demands_that_the_server_knows_the_password() {
    let check = |last: fn(&[u8]) -> Vec<u8>, expected: &str| {
        let mut server = acceptor(false);
        let (client, token) = Client::new(login("secret"));
        let challenge = continued(step(server.as_mut(), &token));
        let (client, token) = client.answer(&challenge, NOW, &[2; 32]).unwrap();
        let Step::Established(Established { token: Some(token), .. }) = step(server.as_mut(), &token) else {
            panic!("not established")
        };
        let outcome = client.finish(&last(&token)).map_or_else(|reason| reason.to_string(), |_| "done".to_owned());
        assert_eq!(outcome, expected);
    };
    check(<[u8]>::to_vec, "done");
    let prefix = "the exchange was tampered with or relayed: ";
    let unsigned = |_: &[u8]| write_response(Some(COMPLETED), None, None, None);
    check(unsigned, &format!("{prefix}the server did not sign the list of mechanisms"));
    let garbled = |_: &[u8]| write_response(Some(COMPLETED), None, None, Some(&[7; 16]));
    check(garbled, &format!("{prefix}the server's signature of the list of mechanisms is wrong"));
    let rejected = |_: &[u8]| write_response(Some(REJECTED), None, None, None);
    check(rejected, "the server did not complete the negotiation");
}

/// What the last message looks like when the client's first choice was another: `(list that is signed, whether at all)`.
#[test]
fn a_choice_that_is_not_the_first_must_be_signed() {
    let check = |signed: Option<&[&[u8]]>, expected: &str| {
        let mut server = acceptor(false);
        let answer = continued(step(server.as_mut(), &init(&ALL_MECHANISMS, b"ticket")));
        assert_eq!(read_response(&answer).unwrap().state, Some(REQUEST_MIC));
        let (initiator, negotiate) = Initiator::new(login("secret"));
        let challenge = continued(step(server.as_mut(), &write_response(None, None, Some(&negotiate), None)));
        let challenge = read_response(&challenge).unwrap().token.unwrap();
        let (authenticate, mut session) = initiator.answer(challenge, NOW, &[2; 32]).unwrap();
        let mic = signed.map(|mechanisms| session.sign_mechanisms(&list(mechanisms)).unwrap());
        let last = step(server.as_mut(), &write_response(None, None, Some(&authenticate), mic.as_deref()));
        assert_eq!(outcome(last), expected);
    };
    let prefix = "the exchange was tampered with or relayed: the list of mechanisms is not";
    check(Some(&ALL_MECHANISMS), "Alice");
    check(Some(&[KERBEROS, NTLM]), &format!("{prefix} the one that was signed"));
    check(Some(&[NTLM]), &format!("{prefix} the one that was signed"));
    check(None, &format!("{prefix} signed"));
}

/// Somebody struck Kerberos from the list: the signature, of the list as the client sent it, tells.
#[test]
fn a_list_changed_on_the_way_is_noticed() {
    let mut server = acceptor(false);
    let (initiator, negotiate) = Initiator::new(login("secret"));
    let challenge = continued(step(server.as_mut(), &init(&[NTLM], &negotiate)));
    let challenge = read_response(&challenge).unwrap().token.unwrap();
    let (authenticate, mut session) = initiator.answer(challenge, NOW, &[2; 32]).unwrap();
    let mic = session.sign_mechanisms(&list(&ALL_MECHANISMS)).unwrap();
    let last = step(server.as_mut(), &write_response(None, None, Some(&authenticate), Some(&mic)));
    let expected = "the exchange was tampered with or relayed: the list of mechanisms is not the one that was signed";
    assert_eq!(outcome(last), expected);
}

#[test]
fn the_first_token_decides_who_answers() {
    let (_, negotiate) = Initiator::new(login("secret"));
    let bare_kerberos = der::element(GSS_TOKEN, &der::element(der::OBJECT, KERBEROS));
    let other = der::element(GSS_TOKEN, &der::element(der::OBJECT, &[0x2a]));
    let too_many = init(&[NTLM; 17], &negotiate);
    let check = |kerberos: bool, token: &[u8], expected: &str| {
        assert_eq!(outcome(step(acceptor(kerberos).as_mut(), token)), expected);
    };
    check(true, &init(&ALL_MECHANISMS, b"ticket"), "anyone@EXAMPLE.ORG");
    check(true, &bare_kerberos, "anyone@EXAMPLE.ORG");
    check(true, &init(&[NTLM, KERBEROS], &negotiate), "continue");
    check(true, &negotiate, "continue");
    check(false, &init(&ALL_MECHANISMS, b"ticket"), "continue");
    check(false, &init(&[KERBEROS], b"ticket"), "Kerberos is not offered here");
    check(false, &bare_kerberos, "Kerberos is not offered here");
    check(false, &other, "this mechanism is not offered here");
    check(false, &too_many, "the token is malformed: there are too many mechanisms");
    check(false, b"", "the token is malformed: a SPNEGO token ends too soon");
    check(false, &[0; 70_000], "the token is malformed: a token is too long");
}

#[test]
fn a_conversation_ends_once() {
    let mut server = acceptor(false);
    let (initiator, negotiate) = Initiator::new(login("secret"));
    let challenge = continued(step(server.as_mut(), &negotiate));
    let (authenticate, _) = initiator.answer(&challenge, NOW, &[2; 32]).unwrap();
    assert_eq!(outcome(step(server.as_mut(), &authenticate)), "Alice");
    assert_eq!(outcome(step(server.as_mut(), &authenticate)), "the token is malformed: the conversation is over");
}

#[test]
fn lengths_of_every_size_are_read_and_written() {
    for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
        let content = vec![7; length];
        let bytes = der::element(der::OCTETS, &content);
        assert_eq!(der::expect(&mut bytes.as_slice(), der::OCTETS).unwrap(), content);
        assert!(der::take(&mut &bytes[..bytes.len() - 1]).is_err());
    }
}

#[test]
fn damaged_tokens_never_panic() {
    let (_, negotiate) = Initiator::new(login("secret"));
    let response = write_response(Some(INCOMPLETE), Some(NTLM), Some(&negotiate), Some(&[1; 16]));
    for good in [init(&ALL_MECHANISMS, b"ticket"), init(&[NTLM], &negotiate), response] {
        for at in 0..good.len() {
            for value in [0, 0x30, 0x7f, 0x83, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = step(acceptor(false).as_mut(), &bytes);
                let _ = read_response(&bytes);
                let _ = step(acceptor(false).as_mut(), &good[..at]);
            }
        }
    }
}
