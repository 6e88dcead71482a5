//! The recorded inputs of every target, each of them damaged in ways that a fixed seed decides, and inputs far beyond any
//! bound. What fails here names the file; `cargo run -p fuzz -- TARGET FILE` plays it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports, in its helpers too")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fuzz::{TARGETS, Target};
use sim::random::Random;

/// Damaged copies of each recorded input. All targets together take a few seconds without optimisation.
const COPIES: usize = 12;
/// Eight times the longest request.
const BOMB_BYTES: usize = 4 << 20;

/// The recorded inputs of a target, by name.
fn corpus(target: &Target) -> BTreeMap<PathBuf, Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let files = entries.map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs an input and says which it was if that fails.
fn run(target: &Target, input: &[u8], origin: &dyn std::fmt::Display) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).unwrap_or_else(|_| {
        let start = &input[..input.len().min(400)];
        panic!("target {}, {origin}: {} bytes, {}", target.name, input.len(), start.escape_ascii())
    })
}

#[test]
fn recorded_inputs_are_accepted_and_refused() {
    for target in TARGETS {
        let mut accepted = 0;
        let corpus = corpus(target);
        for (path, input) in &corpus {
            let is_accepted = run(target, input, &path.display());
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!(is_accepted && name.starts_with("bad-")), "{name} of {} was accepted", target.name);
            assert!(input.len() <= target.bytes_max, "{name} of {} is too long to be changed", target.name);
            accepted += usize::from(is_accepted);
        }
        assert!(accepted > 0, "{}: a corpus of which nothing is accepted tries little", target.name);
        assert!(accepted < corpus.len(), "{}: nothing is refused", target.name);
    }
}

#[test]
fn every_corpus_has_a_target() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(fuzz::target(&name).is_some(), "there is no target {name}");
    }
}

/// Cuts, turns bits, overwrites, doubles a piece, or splices in one of another input.
fn damaged(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(3) {
        let (at, span) = (random.below(bytes.len() + 1), random.below(40));
        let piece = |bytes: &[u8], at: usize| bytes[at..(at + span).min(bytes.len())].to_vec();
        match random.below(5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = [0, 0x7f, 0x80, 0xff, b'<', b'"', b'\\', b'9'][random.below(8)],
            3 => drop(bytes.splice(at..at, piece(&bytes.clone(), at))),
            _ => drop(bytes.splice(at..at, piece(other, random.below(other.len() + 1)))),
        }
    }
    bytes
}

#[test]
fn damaged_inputs_end_well() {
    let mut random = Random::new(0x5eed);
    for target in TARGETS {
        let corpus = corpus(target);
        let inputs: Vec<&Vec<u8>> = corpus.values().collect();
        for (path, input) in &corpus {
            for copy in 0..COPIES {
                let other = random.below(inputs.len());
                let damaged = damaged(input, inputs[other], &mut random);
                run(target, &damaged, &format_args!("copy {copy} of {}", path.display()));
            }
        }
    }
}

/// Nothing that is this long, or nested this deep, is accepted by anybody; and refusing it is no work.
#[test]
fn bombs_are_refused() {
    let beginnings: [&[u8]; 24] = [
        b"<a>",
        b"<a b='",
        b"<INSTANCE CLASSNAME='A'><PROPERTY NAME='P'><VALUE.OBJECT>",
        b"&lt;",
        b"<!--",
        b"select * from X where (",
        b"select * from X where not ",
        b"(",
        b"{",
        b"[",
        b"\"",
        b"\\",
        b"instance of A { N = ",
        b"instance of A {[Q(",
        b"[Q({",
        b"\\\\H\\r:A.B=\"",
        b"{\"a\":",
        b"a = [",
        b"a.",
        b"\x30\x83\xff\xff\xff",
        b"\x60\x82\xff\xff",
        b"NTLMSSP\0",
        b"Negotiate ",
        b"9",
    ];
    for beginning in beginnings {
        let bomb = beginning.repeat(BOMB_BYTES / beginning.len());
        for target in TARGETS {
            let is_accepted = run(target, &bomb, &"a bomb");
            assert!(!is_accepted, "{} accepts {}…", target.name, beginning.escape_ascii());
        }
    }
}
