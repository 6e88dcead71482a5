//! The published examples, and damaged messages.

pub(crate) mod matrix;

use super::accept::Challenged;
use super::initiate::{Initiator, Login};
use super::message::{Authenticate, Challenge, ClientChallenge, flag, read_negotiate};
use super::seal::{Session, Side};
use super::*;
use crate::context::{Seal, Surroundings};
use crate::secret::Password;
use crate::spnego::Settings;
use crate::users::Users;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// What MS-NLMP 4.2.1 and 4.2.4 compute with.
const SERVER_CHALLENGE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
const RANDOM_KEY: Key = [0x55; 16];
const BLOB: &str = "01010000000000000000000000000000aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e0001000c005300650072\
                    0076006500720000000000 00000000";
const FLAGS: u32 = 0xe28a_8233;

/// MS-NLMP 4.2.4.
#[test]
fn the_published_values_come_out() {
    let key = user_key(&NtHash::of(&Password::new("Password".to_owned())), "User", "Domain");
    assert_eq!(hex(&key), "0c868a403bfd7a93a3001ef22ef02e3f");
    let proof = hmac_md5(&key, &[&SERVER_CHALLENGE, &bytes(BLOB)]);
    assert_eq!(hex(&proof), "68cd0ab851e51c96aabc927bebef6a1c");
    let base = hmac_md5(&key, &[&proof]);
    assert_eq!(hex(&base), "8de40ccadbc14a82f15cb0ad0de95ca3");
    assert_eq!(hex(&rc4_once(&base, RANDOM_KEY)), "c5dad2544fc9799094ce1ce90bc9d03e");

    let mut session = Session::new(&RANDOM_KEY, FLAGS, Side::Initiator).unwrap();
    let wrapped = session.wrap(&message::utf16("Plaintext")).unwrap();
    assert_eq!(hex(&wrapped.sealed), "54e50165bf1936dc996020c1811b0f06fb5f");
    assert_eq!(hex(&wrapped.signature), "010000007fb38ec5c55d497600000000");
}

#[test]
fn the_client_challenge_is_read_and_written() {
    let blob = ClientChallenge::read(&bytes(BLOB)).unwrap();
    assert_eq!((blob.time, blob.challenge), (0, [0xaa; 8]));
    assert_eq!(blob.pairs.get(message::attribute::COMPUTER), Some(message::utf16("Server").as_slice()));
    assert_eq!(blob.write(), bytes(BLOB));
}

/// Upper case is one character for one, as on Windows.
#[test]
fn names_are_raised_like_windows_does() {
    let hash = NtHash::from_bytes([7; 16]);
    assert_eq!(user_key(&hash, "straße", "D"), user_key(&hash, "STRAßE", "D"));
    assert_eq!(user_key(&hash, "élan", "D"), user_key(&hash, "ÉLAN", "D"));
    assert_ne!(user_key(&hash, "a", "D"), user_key(&hash, "a", "d"));
}

#[test]
fn file_times_count_from_1601() {
    use std::time::Duration;
    assert_eq!(message::file_time(Duration::ZERO), 116_444_736_000_000_000);
    assert_eq!(message::file_time(Duration::new(1, 200)), 116_444_736_010_000_002);
}

/// Every message cut short at every place, and with every byte replaced by telling values.
#[test]
fn damaged_messages_never_panic() {
    let settings =
        Settings { netbios_name: "HOST".to_owned(), dns_name: "host.example".to_owned(), allow_missing_mic: true };
    let users = Users::parse("snapvisor-users 1\n").unwrap();
    let around = Surroundings { now: std::time::Duration::from_secs(1_000_000), random: &[9; 32], users: &users };
    let password = Password::new("x".to_owned());
    let login = || Login::new(r"D\alice", &password, "HTTP/host".to_owned(), None);
    let (initiator, negotiate) = Initiator::new(login());
    let (_, challenge) = Challenged::new(&negotiate, &settings, &around).unwrap();
    let (authenticate, _) = initiator.answer(&challenge, around.now, &[3; 32]).unwrap();
    let mutations = |good: &[u8]| {
        let cut = (0..good.len()).map(|at| good[..at].to_vec());
        let changed = (0..good.len()).flat_map(|at| {
            [0, 1, 0x7f, 0xff].map(|value| {
                let mut bytes = good.to_vec();
                bytes[at] = value;
                bytes
            })
        });
        cut.chain(changed).collect::<Vec<_>>()
    };
    for bytes in mutations(&negotiate) {
        let _ = Challenged::new(&bytes, &settings, &around);
    }
    for bytes in mutations(&challenge) {
        let _ = Challenge::read(&bytes);
        let _ = Initiator::new(login()).0.answer(&bytes, around.now, &[3; 32]);
    }
    for bytes in mutations(&authenticate) {
        let (challenged, _) = Challenged::new(&negotiate, &settings, &around).unwrap();
        assert!(challenged.authenticate(&bytes, None, &around).is_err(), "there are no users");
    }
}

#[test]
fn what_is_written_is_read() {
    let pairs = ClientChallenge::read(&bytes(BLOB)).unwrap().pairs;
    let challenge = Challenge { flags: FLAGS, challenge: SERVER_CHALLENGE, target: "Server".to_owned(), info: pairs };
    assert_eq!(Challenge::read(&challenge.write()).unwrap(), challenge);
    let authenticate = Authenticate {
        lm: vec![0; 24],
        nt: bytes(BLOB),
        domain: String::new(),
        user: "Jörg".to_owned(),
        workstation: "COMPUTER".to_owned(),
        session_key: vec![1; 16],
        flags: FLAGS | flag::VERSION,
        mic: Some(Authenticate::MIC.start),
    };
    assert_eq!(Authenticate::read(&authenticate.write()).unwrap(), authenticate);
    assert_eq!(read_negotiate(&message::write_negotiate(5)), Ok(5 | flag::VERSION));
}
