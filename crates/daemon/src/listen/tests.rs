//! The doors over real sockets, with clients of a few lines. Where somebody from elsewhere is needed, one end of a socket
//! pair is said to have come from there.

use std::fmt::Write as _;

use auth::connection::Policy;
use auth::context::Seal;
use auth::ntlm::initiate::Login;
use auth::sealed::{self, Plain, Style};
use auth::secret::{NtHash, Password, Phc};
use auth::spnego;
use auth::users::{Role, User};
use base64::Engine;
use expect_test::{Expect, expect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::audit::Audit;
use crate::http::{Question, Reply};
use crate::places::{STRANGERS_MAX, STRANGERS_OF_SOURCE_MAX};
use crate::tls::Files;
use crate::users_file::{self, UsersFile};

/// Says what it was asked, and by whom.
#[derive(Clone)]
struct Echo;

impl Answers for Echo {
    async fn answer(&self, question: Question) -> Reply {
        let Question { content_type, body, asker, explain } = question;
        let who = format!("{} {} {}", asker.principal, asker.role.name(), asker.protection);
        let status = if body == "wrong" { 500 } else { 200 };
        let body = format!("{content_type} {} explain={explain} {who}", body.len());
        Reply { status, content_type: "text/plain", body: body.into_bytes() }
    }

    fn identify(&self, _: &str, body: &[u8]) -> Option<Reply> {
        (body == b"identify").then(|| Reply { status: 200, content_type: "text/plain", body: b"a service".to_vec() })
    }

    fn refuse_unencrypted(&self) -> Reply {
        Reply { status: 500, content_type: "text/plain", body: b"encrypt".to_vec() }
    }
}

/// A house with users alice (administer), bob (read) and one who is disabled; all have the password `pass:word`.
struct Scene {
    directory: tempfile::TempDir,
    house: House<Echo>,
    close: watch::Sender<bool>,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Policy)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let password = Phc::of(&Password::new("pass:word".to_owned()), &[7; 16]).unwrap();
        let nt_hash = Some(NtHash::of(&Password::new("pass:word".to_owned())));
        let user = |name: &str, role, disabled| User {
            name: name.to_owned(),
            role,
            password: password.clone(),
            nt_hash: nt_hash.clone(),
            disabled,
        };
        users_file::change(&path, |users| {
            users.add(user("alice", Role::Administer, false))?;
            users.add(user("bob", Role::Read, false))?;
            users.add(user("eve", Role::Administer, true))
        })
        .unwrap();
        let settings = auth::spnego::Settings {
            netbios_name: "HOST".to_owned(),
            dns_name: "host.example".to_owned(),
            allow_missing_mic: false,
        };
        let mut policy = Policy { basic: true, ntlm: true, kerberos: None, unencrypted: false, settings };
        change(&mut policy);
        let audit = Audit::open(&directory.path().join("audit")).unwrap();
        let gate = Arc::new(Gate::new(UsersFile::open(&path).unwrap(), policy, audit));
        let (close, closing) = watch::channel(false);
        let lobby = Arc::new(Semaphore::new(LOBBY_MAX));
        let house = House { answers: Echo, gate, closing, lobby, places: Places::default() };
        Self { directory, house, close }
    }

    /// A connection from another host, or one on this host if `address` is loopback; nobody is let in unasked.
    fn connect(&self, address: &str) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let arrival = stranger(address);
        tokio::spawn(self.house.clone().host(server, arrival, None));
        client
    }

    /// A connection of the daemon's own user.
    fn connect_as_owner(&self) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let arrival = Arrival::unix(Some(rustix::process::geteuid().as_raw()));
        tokio::spawn(self.house.clone().host(server, arrival, None));
        client
    }

    async fn check(&self, address: &str, requests: &[String], expected: Expect) {
        let mut client = self.connect(address);
        expected.assert_eq(&converse(&mut client, requests).await);
    }

    /// The audit log, without times and the fields that are the same everywhere.
    fn audit(&self) -> String {
        self.house.gate.audit.flush();
        let text = std::fs::read_to_string(self.directory.path().join("audit")).unwrap();
        let without_time = |line: &str| line.split_once(',').map(|(_, rest)| rest.to_owned()).unwrap();
        text.lines().map(without_time).collect::<Vec<_>>().join("\n")
    }
}

fn stranger(address: &str) -> Arrival {
    let address: std::net::IpAddr = address.parse().unwrap();
    let owner = address.is_loopback().then_some(4711);
    let source = owner.map_or_else(|| Source::host(address), Source::Uid);
    let peer = Peer { address, owner, tls: None };
    Arrival { door: "http", from: address.to_string(), source, peer, trusted: None }
}

fn post(headers: &str, body: &str) -> String {
    post_to("/wsman", headers, body)
}

fn post_to(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

fn basic(name: &str, password: &str) -> String {
    let token = base64::prelude::BASE64_STANDARD.encode(format!("{name}:{password}"));
    format!("Authorization: Basic {token}\r\n")
}

/// One answer: status, challenges and body; `closed` if there is none. `100 Continue` is not the answer.
async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    loop {
        let answer = any_answer(stream).await;
        if !answer.starts_with("100") {
            return answer;
        }
    }
}

async fn any_answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let (head, body) = answer_bytes(stream).await;
    let mut lines = head.lines();
    let Some(status) = lines.next() else { return "closed".to_owned() };
    let mut text = status.split(' ').nth(1).unwrap().to_owned();
    for line in lines {
        match line.split_once(": ") {
            Some(("www-authenticate", value)) => write!(text, " [{value}]").unwrap(),
            Some(("connection", value)) => write!(text, " ({value})").unwrap(),
            _ => {}
        }
    }
    text + " " + String::from_utf8(body).unwrap().trim_end()
}

/// Head and body of an answer; both empty if the connection has ended.
async fn answer_bytes(stream: &mut (impl AsyncRead + Unpin)) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Default::default(),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

/// Requests on one connection, one after the other.
async fn converse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), requests: &[String]) -> String {
    let mut answers = Vec::new();
    for request in requests {
        if stream.write_all(request.as_bytes()).await.is_err() {
            answers.push("closed".to_owned());
            break;
        }
        answers.push(answer(stream).await);
    }
    answers.join("\n")
}

/// Holds: WIRE-A1-1, WIRE-A1-2, WIRE-A4-2, WIRE-A6-1, WIRE-A8-1, WIRE-L5-2
#[tokio::test]
async fn requests_are_sorted_out() {
    let scene = Scene::new();
    let check = async |requests: &[String], expected: Expect| {
        let text = converse(&mut scene.connect_as_owner(), requests).await;
        let own = format!("uid:{} ", rustix::process::geteuid().as_raw());
        expected.assert_eq(&text.replace(&own, ""));
    };
    let head = "POST /wsman HTTP/1.1\r\nHost: h\r\n";
    check(
        &[
            post_to("/wsman?x=y", "Content-Type: a/b\r\n", "body"),
            post_to("/wsman/", "", "22"),
            post("Prefer: x, explained-refusals\r\n", "x"),
            post("", ""),
            post_to("/other", "", ""),
            "GET /wsman HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            post("Origin: http://example.org\r\n", ""),
        ],
        expect![[r#"
            200 a/b 4 explain=false administer local
            200  2 explain=false administer local
            200  1 explain=true administer local
            401 [Negotiate] [Basic realm="WSMAN"] say who you are
            404 the service is at /wsman
            405 WS-Management is spoken with POST
            200  3 explain=false administer local
            403 (close) web pages are not served"#]],
    )
    .await;
    check(
        &[format!("{head}Content-Length: 9999999\r\n\r\n")],
        expect!["413 (close) a request has at most 512000 bytes"],
    )
    .await;
    check(
        &[format!("{head}Content-Length: 1\r\nExpect: 100-continue\r\n\r\nx")],
        expect!["200  1 explain=false administer local"],
    )
    .await;
    check(
        &["POST /wsman HTTP/1.0\r\nContent-Length: 2\r\n\r\nab".to_owned()],
        expect!["200  2 explain=false administer local"],
    )
    .await;
}

/// Holds: WIRE-A4-1
#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on() {
    let scene = Scene::new();
    let mut client = scene.connect_as_owner();
    let head = "POST /wsman HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(any_answer(&mut client).await.starts_with("100"));
    client.write_all(b"x").await.unwrap();
    assert!(any_answer(&mut client).await.starts_with("200"));
}

/// Holds: WIRE-A2-1, WIRE-A5-1, WIRE-B1-1, WIRE-B2-1, WIRE-B2-2, WIRE-B3-1
#[tokio::test]
async fn strangers_are_asked_and_told_nothing() {
    let scene = Scene::new();
    let large = "x".repeat(400_000);
    // One connection for all of it: none of the refusals ends it, and large bodies are read.
    let requests = [
        post("", ""),
        post("", &large),
        post(&basic("alice", "wrong"), &large),
        post(&basic("nobody", "pass:word"), "x"),
        post(&basic("eve", "pass:word"), "x"),
        post("Authorization: Basic !\r\n", "x"),
        post("Authorization: Digest x\r\n", "x"),
        post("Authorization: \u{e4}\r\n", "x"),
        post("Authorization: Negotiate AAAA\r\n", "x"),
        post(&basic("alice", "pass:word"), "right"),
        post("", "without a header"),
        post(&basic("alice", "wrong"), "x"),
        post("", "no more"),
    ];
    scene
        .check(
            "127.0.0.1",
            &requests,
            expect![[r#"
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        200  5 explain=false user:alice administer local
        200  16 explain=false user:alice administer local
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are"#]],
        )
        .await;
    expect![[r#"
        "event":"authentication","outcome":"refused","source":"127.0.0.1","door":"http","user":"alice","reason":"the user is unknown or disabled, or the password is wrong"}
        "event":"authentication","outcome":"refused","source":"127.0.0.1","door":"http","user":"nobody","reason":"the user is unknown or disabled, or the password is wrong"}
        "event":"authentication","outcome":"refused","source":"127.0.0.1","door":"http","user":"eve","reason":"the user is unknown or disabled, or the password is wrong"}
        "event":"authentication","outcome":"refused","source":"127.0.0.1","door":"http","reason":"the token is malformed: the header is not base64"}
        "event":"authentication","outcome":"refused","source":"127.0.0.1","door":"http","reason":"the token is malformed: the header is not base64"}
        "event":"authentication","outcome":"refused","source":"127.0.0.1","door":"http","reason":"this scheme is not offered here"}
        "event":"authentication","outcome":"refused","source":"127.0.0.1","door":"http","reason":"the token is malformed: a SPNEGO token has another element than is due"}
        "event":"authentication","outcome":"accepted","source":"127.0.0.1","door":"http","scheme":"basic","protection":"local","user":"user:alice","role":"administer"}
        "event":"authentication","outcome":"refused","source":"127.0.0.1","door":"http","user":"alice","reason":"the user is unknown or disabled, or the password is wrong"}"#]].assert_eq(&scene.audit());
}

/// Holds: WIRE-B4-1
#[tokio::test]
async fn names_come_in_many_forms() {
    let scene = Scene::new();
    let as_user = |name: &str| post(&basic(name, "pass:word"), "x");
    let requests = [as_user("alice"), as_user(r"HOST\ALICE"), as_user(r".\bob"), as_user("bob@host")];
    scene
        .check(
            "::1",
            &requests,
            expect![[r#"
        200  1 explain=false user:alice administer local
        200  1 explain=false user:alice administer local
        200  1 explain=false user:bob read local
        200  1 explain=false user:bob read local"#]],
        )
        .await;
}

#[tokio::test]
async fn beyond_this_host_nothing_is_said_in_clear() {
    let right = [post(&basic("alice", "pass:word"), "x"), post("", "x")];
    Scene::new()
        .check(
            "192.0.2.1",
            &right,
            expect![[r#"
        401 [Negotiate] say who you are
        401 [Negotiate] say who you are"#]],
        )
        .await;
    let lax = Scene::with(|policy| policy.unencrypted = true);
    lax.check(
        "192.0.2.1",
        &right,
        expect![[r#"
        200  1 explain=false user:alice administer none
        200  1 explain=false user:alice administer none"#]],
    )
    .await;
    let strict = Scene::with(|policy| policy.basic = false);
    strict
        .check(
            "127.0.0.1",
            &right,
            expect![[r#"
        401 [Negotiate] say who you are
        401 [Negotiate] say who you are"#]],
        )
        .await;
}

/// Holds: WIRE-B10-1
#[tokio::test]
async fn anybody_may_ask_what_this_is() {
    let scene = Scene::new();
    let header = "WSMANIDENTIFY: unauthenticated\r\n";
    let requests = [post(header, "identify"), post(header, "something else"), post("", "identify")];
    scene
        .check(
            "192.0.2.1",
            &requests,
            expect![[r#"
        200 a service
        401 [Negotiate] say who you are
        401 [Negotiate] say who you are"#]],
        )
        .await;
    let long = format!("identify{}", " ".repeat(10_000));
    scene.check("192.0.2.1", &[post(header, &long)], expect!["413 (close) a request has at most 4096 bytes"]).await;
}

#[tokio::test]
async fn who_names_himself_is_what_he_proves_to_be() {
    let scene = Scene::new();
    let mut client = scene.connect_as_owner();
    let own = format!("uid:{}", rustix::process::geteuid().as_raw());
    let requests = [
        post("", "x"),
        post(&basic("bob", "pass:word"), "x"),
        post("", "x"),
        post(&basic("bob", "no"), "x"),
        post("", "x"),
    ];
    let text = converse(&mut client, &requests).await.replace(&own, "uid:OWN");
    expect![[r#"
        200  1 explain=false uid:OWN administer local
        200  1 explain=false user:bob read local
        200  1 explain=false user:bob read local
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        401 [Negotiate] [Basic realm="WSMAN"] say who you are"#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn a_user_who_is_removed_is_out_at_once() {
    let scene = Scene::new();
    let mut client = scene.connect("127.0.0.1");
    let path = scene.directory.path().join("users");
    let mut story = converse(&mut client, &[post(&basic("alice", "pass:word"), "x")]).await;
    users_file::change(&path, |users| users.change("alice", |user| user.role = Role::Operate)).unwrap();
    story = story + "\n" + &converse(&mut client, &[post("", "x")]).await;
    users_file::change(&path, |users| users.remove("alice")).unwrap();
    story = story + "\n" + &converse(&mut client, &[post("", "x")]).await;
    expect![[r#"
        200  1 explain=false user:alice administer local
        200  1 explain=false user:alice operate local
        401 [Negotiate] [Basic realm="WSMAN"] say who you are"#]]
    .assert_eq(&story);
}

#[tokio::test]
async fn guessing_is_locked_out_where_it_comes_from() {
    let scene = Scene::new();
    let guesses: Vec<_> = (0..6).map(|number| post(&basic("alice", &number.to_string()), "x")).collect();
    let story = converse(&mut scene.connect("127.0.0.1"), &guesses).await;
    assert!(story.lines().all(|line| line.starts_with("401")), "{story}");
    let right = [post(&basic("alice", "pass:word"), "x")];
    scene.check("127.0.0.1", &right, expect![[r#"401 [Negotiate] [Basic realm="WSMAN"] say who you are"#]]).await;
    assert!(scene.audit().contains("\"event\":\"lockout\""), "{}", scene.audit());
    let elsewhere = Scene::with(|policy| policy.unencrypted = true);
    converse(&mut elsewhere.connect("192.0.2.1"), &guesses).await;
    elsewhere.check("192.0.2.1", &right, expect![[r#"401 [Negotiate] [Basic realm="WSMAN"] say who you are"#]]).await;
    elsewhere.check("192.0.2.2", &right, expect!["200  1 explain=false user:alice administer none"]).await;
}

#[tokio::test]
async fn who_hangs_around_keeps_nobody_out() {
    let scene = Scene::with(|policy| policy.unencrypted = true);
    let mut idle = Vec::new();
    for number in 0..STRANGERS_OF_SOURCE_MAX * 3 {
        let mut client = scene.connect("192.0.2.1");
        // Some say nothing, some begin a head, some a body.
        let begun =
            ["", "POST /wsman HTTP/1.1\r\nHost", "POST /wsman HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx"];
        client.write_all(begun[number % 3].as_bytes()).await.unwrap();
        idle.push(client);
    }
    // The oldest are gone; the newest still have a place.
    assert_eq!(answer(&mut idle[0]).await, "closed");
    let right = [post(&basic("alice", "pass:word"), "x")];
    scene.check("192.0.2.2", &right, expect!["200  1 explain=false user:alice administer none"]).await;
    for address in 3..250 {
        idle.push(scene.connect(&format!("192.0.2.{address}")));
    }
    scene.check("198.51.100.1", &right, expect!["200  1 explain=false user:alice administer none"]).await;
    let own = converse(&mut scene.connect_as_owner(), &[post("", "x")]).await;
    assert!(own.starts_with("200"), "{own}");
    assert!(scene.house.places.counts().0 <= STRANGERS_MAX);
}

/// Holds: WIRE-L3-1
#[tokio::test(start_paused = true)]
async fn strangers_have_little_time_and_users_have_more() {
    let scene = Scene::new();
    let mut silent = scene.connect("192.0.2.1");
    let mut slow = scene.connect("192.0.2.1");
    slow.write_all(b"POST /wsman HTTP/1.1\r\n").await.unwrap();
    let mut own = scene.connect_as_owner();
    assert!(converse(&mut own, &[post("", "x")]).await.starts_with("200"));
    let before = tokio::time::Instant::now();
    assert_eq!(answer(&mut silent).await, "closed");
    assert_eq!(answer(&mut slow).await, "closed");
    assert!(before.elapsed() <= Duration::from_secs(STRANGER_SECONDS_MAX));
    tokio::time::advance(Duration::from_secs(130)).await;
    assert!(converse(&mut own, &[post("", "x")]).await.starts_with("200"), "two minutes of silence are allowed");
}

/// Holds: WIRE-A7-1
#[tokio::test]
async fn tls_lets_basic_in_from_elsewhere() {
    let scene = Scene::new();
    let files = Files::made_in(scene.directory.path());
    crate::tls::make(&files, &["host.example".to_owned()]).unwrap();
    let tls = Arc::new(Tls::open(files.clone()).unwrap());
    let connect = || {
        let (client, server) = UnixStream::pair().unwrap();
        let arrival = Arrival { door: "https", ..stranger("192.0.2.1") };
        tokio::spawn(scene.house.clone().host(server, arrival, Some(Arc::clone(&tls))));
        client
    };
    let stream = handshake(connect(), &files, &[b"h2", b"http/1.1"]).await;
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut stream = stream;
    let story = converse(&mut stream, &[post("", "x"), post(&basic("alice", "pass:word"), "x")]).await;
    expect![[r#"
        401 [Negotiate] [Basic realm="WSMAN"] say who you are
        200  1 explain=false user:alice administer tls"#]]
    .assert_eq(&story);

    let mut plain = connect();
    plain.write_all(post("", "x").as_bytes()).await.unwrap();
    plain.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(scene.audit().contains("no TLS"), "{}", scene.audit());
}

async fn handshake(
    client: UnixStream,
    files: &Files,
    protocols: &[&[u8]],
) -> tokio_rustls::client::TlsStream<UnixStream> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(&files.certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let name = rustls::pki_types::ServerName::try_from("host.example").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, client).await.unwrap()
}

/// Holds: WIRE-B6-1, WIRE-B7-1, WIRE-B9-1
#[tokio::test]
async fn sealed_messages_are_answered_sealed() {
    let scene = Scene::new();
    let mut client = scene.connect("192.0.2.1");
    let (done, mut session) = log_in(&mut client, "").await;
    assert!(done.starts_with("200"), "{done}");

    let story = converse(&mut client, &[post("", "in clear")]).await;
    expect!["500 encrypt"].assert_eq(&story);
    for (body, status) in [("first", 200), ("wrong", 500), ("the third", 200)] {
        let answer = sealed_exchange(&mut client, &mut session, body).await;
        assert_eq!(answer, format!("{status} a/b {} explain=false user:alice administer sealed", body.len()));
    }
    // A message that was sent before is not taken again, and the connection ends.
    let plain = Plain { content_type: "a/b".to_owned(), body: b"x".to_vec() };
    let request = sealed_request(&sealed::close(&plain, &Style::default(), &mut session).unwrap());
    for expected in ["HTTP/1.1 200", "HTTP/1.1 400"] {
        client.write_all(&request).await.unwrap();
        let (head, _) = answer_bytes(&mut client).await;
        assert!(head.starts_with(expected), "{head}");
    }
    assert_eq!(answer(&mut client).await, "closed");
    assert!(scene.audit().contains("signature of a sealed message is wrong"), "{}", scene.audit());
}

/// Holds: WIRE-B6-2
#[tokio::test]
async fn the_last_leg_of_a_handshake_may_carry_the_request() {
    let scene = Scene::new();
    let mut client = scene.connect("127.0.0.1");
    let (done, _) = log_in(&mut client, "the request").await;
    let (head, rest) = done.split_once("[Negotiate ").unwrap();
    let (_, body) = rest.split_once("] ").unwrap();
    assert_eq!((head, body), ("200 ", " 11 explain=false user:alice administer local"));
}

/// Alice's handshake, a body on every leg: the answer to the last one, and what to seal with.
async fn log_in(client: &mut UnixStream, last_body: &str) -> (String, impl Seal + use<>) {
    let negotiate = |token: &[u8], body: &str| {
        let token = base64::prelude::BASE64_STANDARD.encode(token);
        post(&format!("Authorization: Negotiate {token}\r\n"), body)
    };
    let password = Password::new("pass:word".to_owned());
    let (ntlm, first) = spnego::Client::new(Login::new(r"HOST\alice", &password, "HTTP/host".to_owned(), None));
    let challenge = converse(client, &[negotiate(&first, "dropped")]).await;
    assert!(challenge.starts_with("401"), "{challenge}");
    let now = Duration::from_micros(host::now().0);
    let (session, last) = ntlm.answer(&token_of(&challenge), now, &[9; 32]).unwrap();
    let done = converse(client, &[negotiate(&last, last_body)]).await;
    let session = session.finish(&token_of(&done)).unwrap();
    (done, session)
}

/// The token in an answer's challenge.
fn token_of(answer: &str) -> Vec<u8> {
    let (_, rest) = answer.split_once("[Negotiate ").unwrap_or_else(|| panic!("{answer}"));
    base64::prelude::BASE64_STANDARD.decode(rest.split_once(']').unwrap().0).unwrap()
}

fn sealed_request(message: &Plain) -> Vec<u8> {
    let length = message.body.len();
    let headers = format!("Content-Type: {}\r\nContent-Length: {length}\r\n", message.content_type);
    [format!("POST /wsman HTTP/1.1\r\nHost: h\r\n{headers}\r\n").as_bytes(), &message.body].concat()
}

async fn sealed_exchange(client: &mut UnixStream, session: &mut dyn Seal, body: &str) -> String {
    let plain = Plain { content_type: "a/b".to_owned(), body: body.as_bytes().to_vec() };
    let message = sealed::close(&plain, &Style::default(), session).unwrap();
    client.write_all(&sealed_request(&message)).await.unwrap();
    let (head, body) = answer_bytes(client).await;
    let status = head.split(' ').nth(1).unwrap();
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
    let (opened, _) = sealed::open(content_type, &body, session).unwrap();
    assert_eq!(opened.content_type, "text/plain");
    format!("{status} {}", String::from_utf8(opened.body).unwrap())
}

/// Holds: WIRE-A8-1
#[tokio::test]
async fn the_doors_open_and_close() {
    let Scene { directory, house, close } = Scene::new();
    let socket = directory.path().join("s");
    let http = ["127.0.0.1:0".parse().unwrap()];
    let addresses = Addresses { socket: &socket, group: None, http: &http, https: &[], tls: None };
    let doors = Doors::bind(&addresses).await.unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let error = Doors::bind(&addresses).await.unwrap_err().to_string();
    assert!(error.contains("another daemon is listening on"), "{error}");
    let taken = doors.urls()[1].replace("http://", "").replace("/wsman", "");
    let again = [taken.parse().unwrap()];
    let error = Doors::bind(&Addresses { http: &again, ..addresses.clone() }).await.unwrap_err().to_string();
    assert!(error.contains("is in use"), "{error}");

    let task = tokio::spawn(doors.serve(house.answers, house.gate, house.closing));
    let mut over_tcp = TcpStream::connect(&taken).await.unwrap();
    assert!(converse(&mut over_tcp, &[post("", "x")]).await.starts_with("200"), "we are the daemon's user");
    let mut idle = UnixStream::connect(&socket).await.unwrap();
    assert!(converse(&mut idle, &[post("", "x")]).await.starts_with("200"));
    close.send(true).unwrap();
    task.await.unwrap();
    assert!(!socket.exists());
    assert_eq!(answer(&mut idle).await, "closed", "an idle connection does not hold up the end");

    drop(bind_unix(&socket, None).unwrap());
    assert!(socket.exists(), "a killed daemon leaves its socket behind");
    Doors::bind(&Addresses { http: &[], ..addresses }).await.unwrap();
}
