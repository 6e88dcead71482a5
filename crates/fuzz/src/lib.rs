//! Hostile input: one pure function for each parser that sees bytes from outside, and the table of them, [`TARGETS`].
//!
//! ```text
//!   corpus/<target>/* ──┬─ tests/corpora.rs: each file, and each a little damaged      (every run of the tests)
//!                       └─ bin/fuzz.rs: libFuzzer goes on from there                   (`cargo xtask fuzz`)
//!                             └─ a finding ─▶ bin/play.rs TARGET FILE ─▶ mended ─▶ corpus/<target>/<what-it-was>
//! ```
//! A target does three things with its input. It reads it, which must neither panic nor take long. It goes on with what
//! was read as the service would: a query is evaluated, a method call answered. And it checks what must hold then: what a
//! printer writes of it reads back as the same. So a finding is a panic, a broken promise, or an input that takes too
//! long or too much memory.
//!
//! To add a target, write such a function, add it to the table, and put some inputs, good and bad, into a directory of
//! its name below `corpus`; a few words of the notation in `dictionaries` help the fuzzer. A public function of the pure
//! crates that is named as a parser and has no target is found by `tests/complete.rs`.

mod files;
mod login;
mod notation;
mod soap;
mod world;

/// A way into the service.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// What an input is, and where such bytes come from.
    pub input: &'static str,
    /// Bytes of the longest input that the fuzzer makes: enough for every rule of the notation to apply several times.
    /// What is longer than the service accepts is tried by a test.
    pub bytes_max: usize,
    /// Reads an input and goes on with it; whether it was accepted.
    ///
    /// # Panics
    /// If something does not hold.
    pub run: fn(&[u8]) -> bool,
}

/// Every target.
#[rustfmt::skip]
pub const TARGETS: &[Target] = &[
    Target { name: "envelope", input: "a SOAP request, answered from a small world", bytes_max: 16 << 10, run: soap::envelope },
    Target { name: "reply", input: "a SOAP reply, as the command line reads it", bytes_max: 8 << 10, run: soap::reply },
    Target { name: "body", input: "a media type in a line, and bytes in its character set", bytes_max: 1 << 10, run: soap::body },
    Target { name: "wql_select", input: "a WQL selection, and rows for it", bytes_max: 4 << 10, run: notation::wql_select },
    Target { name: "wql_event", input: "a WQL event query, and events for it", bytes_max: 4 << 10, run: notation::wql_event },
    Target { name: "wql_association", input: "ASSOCIATORS OF and REFERENCES OF, and rows", bytes_max: 2 << 10, run: notation::wql_association },
    Target { name: "object_path", input: "an object path", bytes_max: 2 << 10, run: notation::object_path },
    Target { name: "datetime", input: "a CIM datetime, xs:dateTime or xs:duration", bytes_max: 64, run: notation::datetime },
    Target { name: "instance_mof", input: "an embedded instance in MOF", bytes_max: 8 << 10, run: notation::instance_mof },
    Target { name: "instance_xml", input: "an embedded instance in CIM-XML", bytes_max: 8 << 10, run: notation::instance_xml },
    Target { name: "classes_mof", input: "class declarations in MOF", bytes_max: 4 << 10, run: notation::classes_mof },
    Target { name: "qmp", input: "the size of a read, then what an emulator sends", bytes_max: 4 << 10, run: files::qmp },
    Target { name: "qcow2", input: "the beginning of a disk image", bytes_max: 4 << 10, run: files::qcow2 },
    Target { name: "mapped_ram", input: "a memory file without its pages, see the target", bytes_max: 4 << 10, run: files::mapped_ram },
    Target { name: "screen", input: "a picture as an emulator writes it", bytes_max: 4 << 10, run: files::screen },
    Target { name: "record", input: "records of the state store, one a line: kind and body", bytes_max: 8 << 10, run: files::record },
    Target { name: "configuration", input: "the configuration file", bytes_max: 4 << 10, run: files::configuration },
    Target { name: "users", input: "the users file", bytes_max: 4 << 10, run: files::users },
    Target { name: "authorization", input: "Authorization headers of one connection, one a line", bytes_max: 4 << 10, run: login::authorization },
    Target { name: "spnego", input: "tokens of one handshake, each behind its length", bytes_max: 4 << 10, run: login::spnego },
    Target { name: "ntlm", input: "an NTLM message, or a part of one", bytes_max: 2 << 10, run: login::ntlm },
    Target { name: "sealed", input: "a media type in a line, and a sealed body", bytes_max: 4 << 10, run: login::sealed },
    Target { name: "certificate", input: "an X.509 certificate", bytes_max: 4 << 10, run: login::certificate },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
