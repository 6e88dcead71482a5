//! Typing into a guest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cim::op::Target;
use serde_json::json;

use super::job::text;
use super::lookup;
use crate::error::{Error, Kind, Result};
use crate::model::Vm;
use crate::output::Output;
use crate::session::{Session, class};
use crate::show::printable;

/// First byte of the scan codes of keys that are marked so below.
const EXTENDED: u8 = 0xe0;
/// Set in the code of a release.
const RELEASE: u8 = 0x80;

/// Keys by name: scan code of set 1, and whether the prefix [`EXTENDED`] goes before it.
const NAMES: [(&str, u8, bool); 31] = [
    ("esc", 0x01, false),
    ("backspace", 0x0e, false),
    ("tab", 0x0f, false),
    ("enter", 0x1c, false),
    ("space", 0x39, false),
    ("ctrl", 0x1d, false),
    ("shift", 0x2a, false),
    ("alt", 0x38, false),
    ("altgr", 0x38, true),
    ("meta", 0x5b, true),
    ("menu", 0x5d, true),
    ("capslock", 0x3a, false),
    ("numlock", 0x45, false),
    ("scrolllock", 0x46, false),
    ("print", 0x37, true),
    ("insert", 0x52, true),
    ("del", 0x53, true),
    ("delete", 0x53, true),
    ("home", 0x47, true),
    ("end", 0x4f, true),
    ("pageup", 0x49, true),
    ("pagedown", 0x51, true),
    ("up", 0x48, true),
    ("down", 0x50, true),
    ("left", 0x4b, true),
    ("right", 0x4d, true),
    ("minus", 0x0c, false),
    ("f11", 0x57, false),
    ("f12", 0x58, false),
    ("comma", 0x33, false),
    ("period", 0x34, false),
];
/// Rows of keys whose codes follow one another.
const ROWS: [(u8, &str); 4] = [(0x02, "1234567890"), (0x10, "qwertyuiop"), (0x1e, "asdfghjkl"), (0x2c, "zxcvbnm")];

/// Types a text, followed by the enter key if that is wanted.
///
/// # Errors
/// When the daemon cannot be reached or refuses.
pub fn type_text(session: &mut Session, typed: &str, line: &str, enter: bool) -> Result<Output> {
    let vm = lookup::vm(session, typed)?;
    let line = if enter { format!("{line}\n") } else { line.to_owned() };
    session.invoke(keyboard(&vm), "TypeText", vec![text("asciiText", &line)])?;
    Ok(done(&vm, line.chars().count(), "characters"))
}

/// Presses keys or chords such as `ctrl-alt-del`, one after the other.
///
/// # Errors
/// When a key has no name here, or the daemon cannot be reached or refuses.
pub fn press(session: &mut Session, typed: &str, chords: &[String]) -> Result<Output> {
    let codes = chords.iter().map(|chord| codes(chord)).collect::<Result<Vec<_>>>()?.concat();
    let vm = lookup::vm(session, typed)?;
    session.invoke(keyboard(&vm), "TypeScancodes", vec![text("Scancodes", &BASE64.encode(codes))])?;
    Ok(done(&vm, chords.len(), "keys"))
}

fn keyboard(vm: &Vm) -> Target {
    class("Msvm_Keyboard").with_key("SystemName", vm.id.clone())
}

fn done(vm: &Vm, count: usize, what: &str) -> Output {
    let text = format!("{count} {what} typed into {}\n", printable(&vm.name));
    Output::new(text, json!({ "vm": { "id": vm.id, "name": vm.name }, "typed": count }))
}

/// Scan codes of a chord: its keys go down in this order and come up in the other.
fn codes(chord: &str) -> Result<Vec<u8>> {
    let keys = chord.split('-').map(key).collect::<Option<Vec<_>>>().ok_or_else(|| {
        // F11 and F12 have names of their own, since their codes do not follow those of the others.
        let names = NAMES.iter().map(|(name, ..)| *name).filter(|name| !matches!(*name, "f11" | "f12"));
        let names: Vec<&str> = names.collect();
        Error::new(Kind::Usage, format!("{chord} is no key, and no keys with - between them"))
            .hint(format!("keys are letters, digits, f1 to f12 and {}", names.join(", ")))
    })?;
    let bytes = |(code, extended): &(u8, bool), bit: u8| {
        extended.then_some(EXTENDED).into_iter().chain([code | bit]).collect::<Vec<u8>>()
    };
    let down = keys.iter().flat_map(|key| bytes(key, 0));
    let up = keys.iter().rev().flat_map(|key| bytes(key, RELEASE));
    Ok(down.chain(up).collect())
}

fn key(name: &str) -> Option<(u8, bool)> {
    let name = name.to_ascii_lowercase();
    let named = NAMES.iter().find(|(known, ..)| *known == name).map(|(_, code, extended)| (*code, *extended));
    let in_row = |(first, row): &(u8, &str)| Some(first + u8::try_from(row.find(&name)?).ok()?);
    let single = ROWS.iter().filter(|_| name.len() == 1).find_map(in_row);
    let function = name.strip_prefix('f').and_then(|number| number.parse::<u8>().ok());
    let function = function.filter(|number| (1..=10).contains(number)).map(|number| 0x3a + number);
    named.or_else(|| single.or(function).map(|code| (code, false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chords_become_scan_codes() {
        let check = |chord: &str, expected: &[u8]| assert_eq!(codes(chord).unwrap(), expected, "{chord}");
        check("a", &[0x1e, 0x9e]);
        check("0", &[0x0b, 0x8b]);
        check("F10", &[0x44, 0xc4]);
        check("f12", &[0x58, 0xd8]);
        check("Ctrl-Alt-Del", &[0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]);
        for wrong in ["", "-", "ab", "f13", "f0", "ctrl-", "é"] {
            assert!(codes(wrong).is_err(), "{wrong}");
        }
    }
}
