//! Damaged requests: whatever arrives, the machine answers with an envelope and goes on.
//!
//! The damage is pseudo-random from a fixed seed, so a failure is the same every time; the message names request and round.

use crate::toy::{Lab, corpus_dir};
use wsman::client::{self, Request};

/// Rounds per request of the corpus: a few thousand in all, which an unoptimized build does in about a second.
const ROUNDS: u64 = 200;

/// A xorshift generator: enough to spread damage, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound.max(1)
    }
}

/// Damage that leaves it XML most of the time: a leaf element goes, comes twice, gets other content or another name.
fn damage_meaning(bytes: &mut Vec<u8>, random: &mut Random) {
    let leaves = leaves(bytes);
    let Some(&(start, inner, inner_end, end)) = leaves.get(random.below(leaves.len())) else { return };
    match random.below(6) {
        0 => drop(bytes.drain(start..end)),
        1 => {
            let leaf = bytes[start..end].to_vec();
            bytes.splice(end..end, leaf);
        }
        2 => {
            let (_, other, other_end, _) = leaves[random.below(leaves.len())];
            let text = bytes[other..other_end].to_vec();
            bytes.splice(inner..inner_end, text);
        }
        3 => drop(bytes.splice(inner..inner_end, b"18446744073709551616".iter().copied())),
        4 => drop(bytes.drain(inner..inner_end)),
        _ => {
            let leaf = bytes[start..end].to_vec();
            let around = [&bytes[start..inner], &leaf, &bytes[inner_end..end]].concat();
            bytes.splice(start..end, around);
        }
    }
}

/// Start of the tag, of the content, end of the content and of the closing tag, for every element that holds only text.
fn leaves(bytes: &[u8]) -> Vec<(usize, usize, usize, usize)> {
    let find = |from: usize, wanted: u8| bytes.iter().skip(from).position(|b| *b == wanted).map(|i| from + i);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = find(at, b'<') {
        let Some(inner) = find(start, b'>').map(|i| i + 1) else { break };
        let Some(inner_end) = find(inner, b'<') else { break };
        let opens = bytes.get(start + 1).is_some_and(u8::is_ascii_alphabetic) && bytes.get(inner - 2) != Some(&b'/');
        if opens && bytes.get(inner_end + 1) == Some(&b'/') {
            let Some(end) = find(inner_end, b'>') else { break };
            found.push((start, inner, inner_end, end + 1));
        }
        at = inner;
    }
    found
}

/// Damage anywhere, which the XML reader sees first.
fn damage_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let end = (at + random.below(60)).min(bytes.len());
    match random.below(5) {
        0 => bytes[at] = u8::try_from(random.below(256)).unwrap_or(0),
        1 => drop(bytes.drain(at..end)),
        2 => bytes.truncate(at),
        3 => {
            let piece = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => bytes[at..end].fill(b'9'),
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        damage_meaning(bytes, random);
    }
    if random.below(4) == 0 {
        damage_bytes(bytes, random);
    }
}

/// Holds: WIRE-A2-1
#[test]
fn damaged_requests_are_answered() {
    let mut requests: Vec<_> = std::fs::read_dir(corpus_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    requests.sort();
    assert!(requests.len() >= 17, "the corpus has lost files");
    let mut lab = Lab::new();
    let mut random = Random(0x5EED_CAFE);
    let (mut accepted, mut refused) = (0, 0);
    for path in requests {
        let original = std::fs::read(&path).unwrap();
        for round in 0..ROUNDS {
            let mut bytes = original.clone();
            damage(&mut bytes, &mut random);
            let (_, reply) = lab.exchange("application/soap+xml", &bytes);
            // Damage may have made it UTF-16; the reply is then too.
            let (text, _) = wsman::encoding::decode(reply.content_type, &reply.body).unwrap();
            let root = cim::xml::parse(&text).unwrap_or_else(|error| panic!("{path:?} round {round}: {error}\n{text}"));
            assert_eq!(root.name, "Envelope");
            match reply.status {
                200 => accepted += 1,
                500 => refused += 1,
                other => panic!("{path:?} round {round}: status {other}"),
            }
        }
    }
    assert!(
        accepted > 300 && refused > 300,
        "damage is neither always fatal nor always harmless: {accepted} {refused}"
    );
}

#[test]
fn damaged_replies_are_errors_at_most() {
    let request =
        Request::Enumerate { namespace: "root/x".to_owned(), wql: "SELECT * FROM Toy_Machine".to_owned(), page: 9 };
    let (_, reply) = Lab::new().exchange("", crate::toy::corpus("openwsman-enumerate-optimized").as_bytes());
    let mut random = Random(0xFEED_BEEF);
    let mut read = 0;
    for _ in 0..4 * ROUNDS {
        let mut bytes = reply.body.clone();
        damage(&mut bytes, &mut random);
        read += usize::from(client::read(&request, 200, "application/soap+xml", &bytes).is_ok());
    }
    assert!(read > 100, "only {read} replies could still be read");
}
