//! The client's login against services of every kind, over real loopback sockets. The service here is far away as far as
//! its policy is concerned, so that it demands what a service on another host does.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use auth::connection::{BodyKind, Connection, Head, Policy, Verdict};
use auth::context::{Peer, Surroundings};
use auth::lockout::Lockout;
use auth::sealed::{self, Plain};
use auth::secret::{NtHash, Password, Phc};
use auth::spnego::Settings;
use auth::users::{Role, User, Users};
use cli::http::{Connection as Http, Target};
use cli::login::{Channel, Credentials};
use cli::tls::Trust;

/// What kind of service it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As it should be.
    Good,
    /// Offers nothing but Basic.
    BasicOnly,
    /// Answers in clear what was asked sealed.
    Clear,
    /// Lets everybody in without asking.
    Open,
    /// Ends the connection after each answer to a sealed request.
    Forgetful,
}

/// A service; its address, and what it was sent in clear.
fn serve(kind: Kind) -> (Target, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}/wsman", listener.local_addr().unwrap()).parse().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            talk(stream.unwrap(), kind, &heard);
        }
    });
    (target, seen)
}

fn users() -> Users {
    let password = Password::new("secret".to_owned());
    let mut users = Users::default();
    let (name, role, nt_hash) = ("alice".to_owned(), Role::Read, Some(NtHash::of(&password)));
    users.add(User { name, role, password: Phc::of(&password, &[1; 16]).unwrap(), nt_hash, disabled: false }).unwrap();
    users
}

/// One connection, until it ends.
fn talk(stream: TcpStream, kind: Kind, seen: &Mutex<Vec<u8>>) {
    let settings = Settings { netbios_name: "HOST".to_owned(), dns_name: "host".to_owned(), allow_missing_mic: false };
    let is_basic = kind == Kind::BasicOnly;
    let policy = Policy { basic: is_basic, ntlm: !is_basic, kerberos: None, unencrypted: is_basic, settings };
    let peer = Peer { address: [192, 0, 2, 1].into(), owner: None, tls: None };
    let mut connection = Connection::new(Arc::new(policy), peer);
    let (users, lockout) = (users(), Mutex::new(Lockout::default()));
    let mut reader = BufReader::new(stream);
    while let Some((authorization, content_type, body)) = request(&mut reader) {
        seen.lock().unwrap().extend_from_slice(&body);
        let body_kind = match body.len() {
            0 => BodyKind::Empty,
            _ if sealed::is_sealed(&content_type) => BodyKind::Sealed,
            _ => BodyKind::Plain,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let around = Surroundings { now, random: &[7; 32], users: &users };
        let head = Head { authorization: authorization.as_deref(), body: body_kind, identify: false };
        let plain = |text: &str| Plain { content_type: "text/xml".to_owned(), body: text.as_bytes().to_vec() };
        let (status, headers, answer) = match connection.authorize(head, &around, &lockout) {
            _ if kind == Kind::Open => (200, Vec::new(), plain("<open/>")),
            Verdict::Done { headers, .. } => (200, headers, plain("")),
            Verdict::Challenge { headers, .. } => (401, headers, plain("")),
            Verdict::Serve { .. } if kind == Kind::Clear => (200, Vec::new(), plain("<clear/>")),
            Verdict::Serve { headers, .. } => {
                let (asked, style) = sealed::open(&content_type, &body, connection.seal().unwrap()).unwrap();
                let asked = String::from_utf8(asked.body).unwrap();
                let answer = plain(&format!("<answer>{asked}</answer>"));
                (200, headers, sealed::close(&answer, &style, connection.seal().unwrap()).unwrap())
            }
            Verdict::Anonymous | Verdict::Unencrypted => (500, Vec::new(), plain("")),
        };
        let ends = kind == Kind::Forgetful && body_kind == BodyKind::Sealed;
        respond(reader.get_mut(), status, &headers, &answer, ends);
        if ends {
            return;
        }
    }
}

type Request = (Option<String>, String, Vec<u8>);

fn request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let (mut authorization, mut content_type, mut length) = (None, String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some(("Authorization", value)) => authorization = Some(value.to_owned()),
            Some(("Content-Type", value)) => content_type = value.to_owned(),
            Some(("Content-Length", value)) => length = value.parse().unwrap(),
            None if line == "\r\n" => break,
            _ => (),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((authorization, content_type, body))
}

fn respond(stream: &mut TcpStream, status: u16, headers: &[String], answer: &Plain, ends: bool) {
    let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n", answer.body.len());
    head += &format!("Content-Type: {}\r\n", answer.content_type);
    for header in headers {
        head += &format!("WWW-Authenticate: {header}\r\n");
    }
    if ends {
        head += "Connection: close\r\n";
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", &answer.body].concat()).unwrap();
}

/// Two requests one after the other, and what comes of each.
fn check(kind: Kind, user: &str, password: &str, expected: [&str; 2]) {
    let (target, seen) = serve(kind);
    let name = target.to_string();
    let credentials = Credentials { user: user.to_owned(), password: Password::new(password.to_owned()) };
    let mut channel = Channel::new(Http::new(target, Trust::System), Some(credentials));
    for (index, expected) in expected.into_iter().enumerate() {
        let envelope = format!("<envelope n='{index}'/>");
        let outcome = match channel.post(&[("Content-Type", "text/xml")], envelope.as_bytes()) {
            Ok(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            Err(error) => error.to_string().replace(&name, "HOST"),
        };
        assert_eq!(outcome, expected);
    }
    let seen = seen.lock().unwrap();
    assert!(!seen.windows(9).any(|window| window == b"<envelope"), "nothing was sent in clear");
}

#[test]
fn the_right_password_opens_a_sealed_channel() {
    let answers = ["200 <answer><envelope n='0'/></answer>", "200 <answer><envelope n='1'/></answer>"];
    check(Kind::Good, "alice", "secret", answers);
    check(Kind::Good, r"HOST\Alice", "secret", answers);
    check(Kind::Forgetful, "alice", "secret", answers);
}

#[test]
fn whoever_is_not_let_in_is_told() {
    let wrong = |user: &str| {
        format!(
            "cannot log in at HOST: the user {user} is not known there, may not use NTLM or is locked for a while, or the password is wrong"
        )
    };
    check(Kind::Good, "alice", "guess", [&wrong("alice"); 2]);
    check(Kind::Good, "mallory", "secret", [&wrong("mallory"); 2]);
}

#[test]
fn a_service_that_wants_it_in_clear_gets_nothing() {
    let basic = "cannot log in at HOST: it does not accept NTLM; it offers Basic";
    check(Kind::BasicOnly, "alice", "secret", [basic; 2]);
    let open = "cannot log in at HOST: it does not ask for a login, but answers 200";
    check(Kind::Open, "alice", "secret", [open; 2]);
    let clear = "cannot log in at HOST: a sealed message is malformed: an answer came in clear";
    check(Kind::Clear, "alice", "secret", [clear; 2]);
}
