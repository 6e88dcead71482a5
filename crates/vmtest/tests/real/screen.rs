//! Screens of a guest that does one thing: it writes what is typed to its screen and to its serial port.
//!
//! It is a boot sector and needs a second to boot; that a key has arrived is told by the serial port, and by then the
//! screen has changed, so nothing here waits for time to pass.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use vmtest::service::{BOOT, Service};

/// Hides the cursor, which would blink in pictures; says `R` on the serial port, then for each key: reads it (BIOS call 16h), writes it to the screen (10h) and to the port.
const ECHO: [u8; 29] = [
    0xb4, 0x01, 0xb9, 0x00, 0x20, 0xcd, 0x10, // mov ah, 1; mov cx, 2000h; int 10h
    0xba, 0xf8, 0x03, 0xb0, b'R', 0xee, // mov dx, 3f8h; mov al, 'R'; out dx, al
    0x30, 0xe4, 0xcd, 0x16, // again: xor ah, ah; int 16h
    0xb4, 0x0e, 0x31, 0xdb, 0xcd, 0x10, // mov ah, 0eh; xor bx, bx; int 10h
    0xba, 0xf8, 0x03, 0xee, // mov dx, 3f8h; out dx, al
    0xeb, 0xf0, // jmp again
];

/// A service with the guest, booted.
pub struct Echo {
    pub service: Service,
    console: UnixStream,
}

impl Echo {
    pub fn boot() -> Self {
        let service = Service::start().unwrap();
        let disk = service.directory().join("echo.img");
        let mut sector = vec![0; 1 << 20];
        sector[..ECHO.len()].copy_from_slice(&ECHO);
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(&disk, sector).unwrap();
        service.ok(&["vm", "create", "e", "--memory", "64M", "--disk", disk.to_str().unwrap()]).unwrap();
        service.ok(&["vm", "start", "e"]).unwrap();
        let mut echo = Self { console: connect(&service), service };
        // Whether somebody listened when it said that it is ready, nobody knows; so it begins once more, and only that counts.
        echo.ok("vm pause e");
        echo.forgets();
        echo.ok("vm reset e");
        echo.ok("vm resume e");
        echo.hears("R");
        echo
    }

    /// Passes over what the guest, which stands still, has said so far.
    fn forgets(&mut self) {
        self.console.set_nonblocking(true).unwrap();
        let error = loop {
            match self.console.read(&mut [0; 64]) {
                Ok(said) => assert!(said > 0, "the console has been closed"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        self.console.set_nonblocking(false).unwrap();
    }

    pub fn ok(&self, line: &str) -> String {
        self.service.ok(&super::words(line)).unwrap()
    }

    /// Waits until the guest has said all of this, and maybe other things between.
    #[track_caller]
    pub fn hears(&mut self, expected: &str) {
        for wanted in expected.bytes() {
            loop {
                let mut byte = [0];
                self.console.read_exact(&mut byte).unwrap();
                if byte[0] == wanted {
                    break;
                }
            }
        }
    }

    /// Reads what the guest says next, which must be this.
    #[track_caller]
    pub fn hears_exactly(&mut self, expected: &str) {
        let mut said = vec![0; expected.len()];
        self.console.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), expected);
    }

    /// The picture that a screenshot command writes.
    pub fn picture(&self, command: &str) -> Vec<u8> {
        let file = self.file();
        self.ok(&format!("{command} {}", file.display()));
        let picture = std::fs::read(file).unwrap();
        assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
        picture
    }

    fn file(&self) -> PathBuf {
        self.service.directory().join("screen.png")
    }
}

fn connect(service: &Service) -> UnixStream {
    let machine = service.json(&["vm", "show", "e"]).unwrap();
    let port = machine["devices"]["serial_ports"][0].as_str().unwrap();
    let stream = UnixStream::connect(port).unwrap();
    stream.set_read_timeout(Some(BOOT)).unwrap();
    stream
}

#[test]
fn a_screen_is_seen_kept_and_refused_when_there_is_none() {
    let echo = Echo::boot();
    let live = echo.picture("vm screenshot e");
    assert_eq!(live[16..24], [0, 0, 2, 208, 0, 0, 1, 144], "720 by 400");
    assert_eq!(echo.picture("vm screenshot e --size 80x60")[16..24], [0, 0, 0, 80, 0, 0, 0, 60]);
    echo.ok("snapshot create e shot");
    echo.ok("snapshot create e disks --disk-only");
    echo.ok("vm stop e");
    assert_eq!(echo.picture("snapshot screenshot shot"), live);
    let refused = |line: &str, words: &str| {
        let finished = echo.service.run(&super::words(line)).unwrap();
        assert!(finished.status.code() == Some(4) && finished.stderr.contains(words), "{finished:?}");
    };
    refused("vm screenshot e x.png", "'e' is off, so there is no screen");
    refused("snapshot screenshot disks x.png", "snapshot 'disks' has no memory");
    echo.ok("snapshot apply shot");
    assert_eq!(echo.picture("vm screenshot e"), live);
}

#[test]
fn what_is_typed_arrives_and_changes_the_screen() {
    let mut echo = Echo::boot();
    echo.ok("vm type e before");
    echo.hears("before");
    let before = echo.picture("vm screenshot e");
    echo.ok("snapshot create e typed");
    echo.service.ok(&["vm", "type", "e", "It's ~ \"{100%}\" <OK>", "--enter"]).unwrap();
    echo.hears("It's ~ \"{100%}\" <OK>\r");
    echo.ok("vm keys e x shift-y esc");
    echo.hears("xY\x1b");
    let after = echo.picture("vm screenshot e");
    assert_ne!(before, after);
    assert_eq!(echo.picture("snapshot screenshot typed"), before, "the snapshot's screen is of its moment");

    let paused = |echo: &Echo| echo.service.run(&super::words("vm type e lost")).unwrap();
    echo.ok("vm pause e");
    assert!(paused(&echo).stderr.contains("'e' is paused, so there is nobody to type for"));
    echo.ok("vm resume e");
    // Each of these waits for the capture's pause to be over, so none is lost.
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| echo.service.ok(&["snapshot", "create", "e", "meanwhile"]).unwrap());
        echo.ok(&format!("vm type e {}", "abcdefghij".repeat(10)));
        taking.join().unwrap();
    });
    echo.hears_exactly(&"abcdefghij".repeat(10));
}
