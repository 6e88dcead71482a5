//! Clients that mean ill: slow ones, endless ones, thousands of them. Others are served meanwhile and afterwards, the
//! daemon's memory stays below [`MEMORY_MIB_MAX`], and no descriptor is left open. Nothing here needs a guest.
//!
//! Whoever comes over the host's own address is as far away for the daemon as anybody, so those are the strangers. Over the
//! Unix socket it is the daemon's own user who misbehaves.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use auth::secret::{Password, Phc};
use auth::users::{Role, User, Users};
use vmtest::service::{Service, wait_for};

use crate::doors::own_address;

/// What the daemon may take at its worst moment, its program file included; two hashes of passwords are 38 of it.
const MEMORY_MIB_MAX: u64 = 160;
/// How long anything here may take that is to happen at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two bytes of a slow client.
const PAUSE: Duration = Duration::from_millis(200);

/// The beginning of a request, to which headers and a body may be added.
const HEAD: &str = "POST /wsman HTTP/1.1\r\nHost: h\r\nContent-Type: application/soap+xml;charset=UTF-8\r\n";
const BASE: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/";

/// A connection of any kind.
trait Connection: Read + Write + Send {
    fn set_patience(&self, patience: Option<Duration>);
    fn set_nonblocking(&self);
}

impl Connection for TcpStream {
    fn set_patience(&self, patience: Option<Duration>) {
        self.set_read_timeout(patience).and_then(|()| self.set_write_timeout(patience)).unwrap();
    }

    fn set_nonblocking(&self) {
        TcpStream::set_nonblocking(self, true).unwrap();
    }
}

impl Connection for UnixStream {
    fn set_patience(&self, patience: Option<Duration>) {
        self.set_read_timeout(patience).and_then(|()| self.set_write_timeout(patience)).unwrap();
    }

    fn set_nonblocking(&self) {
        UnixStream::set_nonblocking(self, true).unwrap();
    }
}

type Stream = Box<dyn Connection>;

/// Where a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Unix,
    Http,
    Https,
}

/// A daemon that is watched, and what has been seen of it.
struct World {
    service: Service,
    _users: tempfile::NamedTempFile,
    http: String,
    https: String,
    /// Name of each case, peak of memory in KiB, seconds.
    table: Vec<(&'static str, u64, f32)>,
}

impl World {
    fn start() -> Self {
        let users = tempfile::NamedTempFile::new().unwrap();
        let password = Phc::of(&Password::new("secret".to_owned()), &[7; 16]).unwrap();
        let alice = User { name: "alice".to_owned(), role: Role::Administer, password, nt_hash: None, disabled: false };
        let mut list = Users::default();
        list.add(alice).unwrap();
        std::fs::write(users.path(), list.to_string()).unwrap();
        let remote = format!("{}:0", own_address());
        let options = ["--listen", &remote, "--https-listen", &remote, "--users-file", users.path().to_str().unwrap()];
        let service = Service::start_with(&options).unwrap();
        service.ok(&["vm", "create", "web", "--memory", "64M"]).unwrap();
        let find = |begin: String| {
            let found = service.urls.iter().find_map(|url| url.strip_prefix(&begin)?.strip_suffix("/wsman"));
            format!("{}:{}", own_address(), found.unwrap_or_else(|| panic!("no {begin} in {:?}", service.urls)))
        };
        let http = find(format!("http://{}:", own_address()));
        let https = find(format!("https://{}:", own_address()));
        let world = Self { service, _users: users, http, https, table: Vec::new() };
        world.others_are_served();
        world
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.service.daemon_pid().unwrap().to_string()).join(file)
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn connect(&self, door: Door) -> Stream {
        let stream: Stream = match door {
            Door::Unix => Box::new(UnixStream::connect(self.service.directory().join("run/snapvisor.sock")).unwrap()),
            Door::Http => Box::new(TcpStream::connect(&self.http).unwrap()),
            Door::Https => Box::new(TcpStream::connect(&self.https).unwrap()),
        };
        stream.set_patience(Some(PATIENCE));
        stream
    }

    /// Connections that have sent something. Who has been turned away by then is one of them, too.
    fn open(&self, door: Door, count: usize, bytes: &[u8]) -> Vec<Stream> {
        let open = |_| {
            let mut stream = self.connect(door);
            let _ = stream.write_all(bytes);
            stream
        };
        (0..count).map(open).collect()
    }

    /// Two others ask what there is, one over the Unix socket, one over HTTPS with a password.
    fn others_are_served(&self) {
        self.owner_is_served();
        self.alice_is_served();
    }

    fn owner_is_served(&self) {
        let mut stream = self.connect(Door::Unix);
        let (status, body) = ask(&mut stream, &machines());
        assert!(status == 200 && body.contains(">web<"), "{status} {body}");
    }

    fn alice_is_served(&self) {
        let url = format!("https://{}/wsman", self.https);
        let header = "Content-Type: application/soap+xml;charset=UTF-8";
        let options = ["-sk", "--max-time", "60", "--user", "alice:secret", "-H", header, "--data-binary", "@-", &url];
        let mut curl = Command::new("curl").args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        curl.stdin.take().unwrap().write_all(machines().as_bytes()).unwrap();
        let body = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
        assert!(body.contains(">web<"), "{body}");
    }

    /// One way of being hostile: memory stays small, descriptors are given back, and others are served after it.
    #[track_caller]
    fn check(&mut self, name: &'static str, attack: impl FnOnce(&Self)) {
        let begin = std::time::Instant::now();
        let before = self.descriptors();
        // Where this is not permitted, the peak is that of all cases so far, which must be small as well.
        let _ = std::fs::write(self.proc("clear_refs"), "5");
        attack(self);
        let left = || Ok((self.descriptors() <= before).then_some(()));
        wait_for("the daemon's descriptors", PATIENCE, left).unwrap();
        self.others_are_served();
        let peak = self.peak_kib();
        self.table.push((name, peak, begin.elapsed().as_secs_f32()));
        assert!(peak <= MEMORY_MIB_MAX * 1024, "{name}: {peak} KiB of memory");
    }
}

/// Sends an envelope and gives the answer's status and body.
fn ask(stream: &mut Stream, envelope: &str) -> (u16, String) {
    write!(stream, "{HEAD}Content-Length: {}\r\n\r\n{envelope}", envelope.len()).unwrap();
    answer(stream).expect("an answer")
}

/// The answer that comes; `None` if the connection ends first.
fn answer(stream: &mut Stream) -> Option<(u16, String)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if bytes.len() >= end + 4 + length.unwrap_or(0) {
                let status = head.split(' ').nth(1)?.parse().ok()?;
                return Some((status, String::from_utf8_lossy(&bytes[end + 4..]).into_owned()));
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

/// Writes again and again until the other end has had enough; gives the bytes that went, and what it said.
fn pour(stream: &mut Stream, begin: &str, again: &[u8], bytes_max: usize) -> (usize, Option<u16>) {
    let mut sent = 0;
    stream.write_all(begin.as_bytes()).unwrap();
    while sent < bytes_max && stream.write_all(again).is_ok() {
        sent += again.len();
    }
    (sent, answer(stream).map(|(status, _)| status))
}

/// How many of these the daemon has ended.
fn ended(streams: &mut [Stream]) -> usize {
    let mut buffer = [0; 1024];
    let mut has_ended = |stream: &mut Stream| loop {
        stream.set_nonblocking();
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    };
    streams.iter_mut().map(|stream| usize::from(has_ended(stream))).sum()
}

fn envelope(action: &str, resource: &str, body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:w='http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd' \
         xmlns:a='http://schemas.xmlsoap.org/ws/2004/08/addressing' xmlns:n='http://schemas.xmlsoap.org/ws/2004/09/enumeration'>\
         <s:Header><a:Action>{action}</a:Action><w:ResourceURI>{BASE}{resource}</w:ResourceURI></s:Header>\
         <s:Body>{body}</s:Body></s:Envelope>"
    )
}

fn enumeration(verb: &str, body: &str) -> String {
    let action = format!("http://schemas.xmlsoap.org/ws/2004/09/enumeration/{verb}");
    envelope(&action, "CIM_System", &format!("<n:{verb}>{body}</n:{verb}>"))
}

/// All machines, with the answer.
fn machines() -> String {
    enumeration("Enumerate", "<w:OptimizeEnumeration/><w:MaxElements>50</w:MaxElements>")
}

/// Envelopes of the largest size that are hard on a reader, and what is refused in them or not.
fn bombs() -> Vec<String> {
    let fill = |begin: &str, again: &str, end: &str| {
        let count = (510_000 - begin.len() - end.len()) / again.len();
        format!("{begin}{}{end}", again.repeat(count))
    };
    let define = format!("{BASE}Msvm_VirtualSystemManagementService/DefineSystem");
    let call = |settings: &str| {
        let input = format!(
            "<p:DefineSystem_INPUT xmlns:p='x'><p:SystemSettings>{settings}</p:SystemSettings></p:DefineSystem_INPUT>"
        );
        envelope(&define, "Msvm_VirtualSystemManagementService", &input)
    };
    let open = "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope'><s:Header>";
    let attributes: String = (0..60).map(|number| format!(" a{number}=''")).collect();
    let spaces: String = (0..60).map(|number| format!(" xmlns:a{number}='{number}'")).collect();
    vec![
        fill(open, "<a>", ""),
        fill(open, "<a/>", ""),
        fill(open, &format!("<a{attributes}/>"), ""),
        fill(open, &format!("<a{spaces}>"), ""),
        fill("<a", " b=''", "/>"),
        fill(open, "&amp;", ""),
        fill("<!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'>", "<!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>", "]><a>&b;</a>"),
        fill("", "<!-- -->", "<a/>"),
        call(&"instance of A {[Q(".repeat(14_000)),
        call(&"instance of A {B = ".repeat(13_000)),
        enumeration("Enumerate", &format!("<w:Filter>select * from X where {}</w:Filter>", "not (".repeat(12_000))),
    ]
}

#[test]
fn who_is_hostile_harms_nobody_else() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut world = World::start();
    let at_rest = world.descriptors();

    // These go on beside everything else: strangers who send their head byte by byte, and the daemon's user his body.
    let mut slow = world.open(Door::Http, 60, HEAD.as_bytes());
    let half = format!("{HEAD}Content-Length: 400000\r\n\r\n<");
    let mut slower = world.open(Door::Unix, 20, half.as_bytes());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let trickle = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                slow.iter_mut().chain(&mut slower).for_each(|stream| drop(stream.write_all(b"x")));
                std::thread::sleep(PAUSE);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            too_much(&mut world);
            too_many(&mut world);
        }));
        is_over.store(true, Ordering::Relaxed);
        trickle.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    // Strangers are not waited for, and neither are bodies.
    let all = slow.len();
    wait_for("the slow heads to be ended", PATIENCE, || Ok((ended(&mut slow) == all).then_some(()))).unwrap();
    for stream in &mut slower {
        assert_eq!(answer(stream).map(|(status, _)| status), Some(408), "a body that does not come");
    }
    drop((slow, slower));
    wait_for("all descriptors", PATIENCE, || Ok((world.descriptors() <= at_rest).then_some(()))).unwrap();
    world.others_are_served();
    println!("{:<32} {:>9} {:>6}", "case", "peak KiB", "s");
    for (name, peak, seconds) in &world.table {
        println!("{name:<32} {peak:>9} {seconds:>6.1}");
    }
}

/// Few clients, of whom each sends more than anybody may.
fn too_much(world: &mut World) {
    world.check("nothing", |_| {});
    world.check("heads without end", |world| {
        for (door, begin, again) in [
            (Door::Http, HEAD, "X-A: b\r\n"),
            (Door::Unix, HEAD, "X-A: b\r\n"),
            (Door::Unix, "POST /wsman HTTP/1.1\r\nX-A: ", "aaaaaaaaaaaaaaaa"),
            (Door::Http, "POST /", "aaaaaaaaaaaaaaaa"),
        ] {
            for _ in 0..8 {
                let (sent, status) = pour(&mut world.connect(door), begin, again.repeat(4096).as_bytes(), 64 << 20);
                assert!(sent < 64 << 20, "{begin}: {sent} bytes were taken");
                assert!(status.is_none_or(|status| matches!(status, 400 | 414 | 431)), "{begin}: {status:?}");
            }
        }
    });
    world.check("2 GiB announced", |world| {
        let huge = format!("{HEAD}Content-Length: 2147483648\r\n\r\n");
        for door in [Door::Unix, Door::Http] {
            // More strangers from one place than have room there would crowd out each other.
            let mut streams = world.open(door, 20, huge.as_bytes());
            world.others_are_served();
            for stream in &mut streams {
                assert_eq!(answer(stream).map(|(status, _)| status), Some(413), "{door:?}");
            }
        }
    });
    world.check("2 GiB sent", |world| {
        for door in [Door::Unix, Door::Http] {
            for encoding in ["Content-Length: 2147483648", "Transfer-Encoding: chunked"] {
                let chunk = format!("10000\r\n{}\r\n", " ".repeat(1 << 16));
                let begin = format!("{HEAD}{encoding}\r\n\r\n");
                let (sent, status) = pour(&mut world.connect(door), &begin, chunk.as_bytes(), 2 << 30);
                assert!(sent < 64 << 20, "{encoding}: {sent} bytes were taken");
                assert!(status.is_none_or(|status| status == 413), "{encoding}: {status:?}");
            }
        }
    });
    world.check("half bodies, then gone", |world| {
        let half = format!("{HEAD}Content-Length: 500000\r\n\r\n{}", " ".repeat(250_000));
        let streams = world.open(Door::Unix, 80, half.as_bytes());
        world.others_are_served();
        drop(streams);
        for door in [Door::Unix, Door::Http, Door::Https] {
            (0..100).for_each(|_| drop(world.open(door, 1, HEAD.as_bytes())));
        }
    });
    world.check("envelopes that are bombs", |world| {
        let bombs = bombs();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for bomb in &bombs {
                        let (status, body) = ask(&mut world.connect(Door::Unix), bomb);
                        assert_eq!(status, 500, "{body}");
                    }
                });
            }
            world.others_are_served();
        });
    });
}

/// Many clients, or one that asks for many things.
fn too_many(world: &mut World) {
    world.check("1,100 open enumerations", |world| {
        let mut stream = world.connect(Door::Unix);
        let mut contexts = Vec::new();
        for _ in 0..1_100 {
            let (_, body) = ask(&mut stream, &enumeration("Enumerate", ""));
            let (_, rest) = body.split_once("<n:EnumerationContext>").unwrap();
            contexts.push(rest.split('<').next().unwrap().to_owned());
        }
        world.others_are_served();
        let pull = |context: &str| format!("<n:EnumerationContext>{context}</n:EnumerationContext>");
        let mut pulled = |context: &str| ask(&mut stream, &enumeration("Pull", &pull(context))).0;
        assert_eq!(pulled(&contexts[0]), 500, "the oldest gave way to newer ones");
        assert!(contexts[200..].iter().all(|context| pulled(context) == 200), "the others are there");
    });
    world.check("1,000 strangers", |world| {
        let mut streams = world.open(Door::Http, 1_000, HEAD.as_bytes());
        world.others_are_served();
        assert!(ended(&mut streams) >= 900, "few of them may stay");
    });
    world.check("1,000 handshakes of TLS", |world| {
        let hello = [b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03".as_slice(), &[7; 9_000]].concat();
        let mut streams = world.open(Door::Https, 500, &hello);
        streams.extend(world.open(Door::Https, 500, b""));
        world.others_are_served();
        assert!(ended(&mut streams) >= 900, "few of them may stay");
    });
    world.check("1,000 of the daemon's own user", |world| {
        let streams = world.open(Door::Unix, 1_000, HEAD.as_bytes());
        world.alice_is_served();
        drop(streams);
    });
}
