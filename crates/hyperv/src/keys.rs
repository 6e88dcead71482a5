//! Keys: from the virtual-key codes, characters and scan codes that clients send to places on a PC keyboard.
//!
//! | method | what it is given |
//! | --- | --- |
//! | `TypeKey`, `PressKey`, `ReleaseKey`, `IsKeyPressed` | a virtual-key code of Windows (`winuser.h`) |
//! | `TypeText` | characters of a US keyboard, which is the layout that `Msvm_Keyboard.Layout` names |
//! | `TypeScancodes` | bytes of a PC keyboard, scan code set 1: prefixes, presses and releases |

use ledger::question::{Key, Stroke};

/// Left shift.
pub const SHIFT: Key = Key(0x2a);
/// Ctrl, Alt and Del as the method of that name presses them.
pub const CTRL_ALT_DEL: [Key; 3] = [Key(0x1d), Key(0x38), Key(0xd3)];
/// The key Pause, which has a code of its own among the extended ones.
const PAUSE: Key = Key(0xc6);

/// Set in scan codes that follow the prefix [`EXTENDED`].
const EXTENDED_BIT: u8 = 0x80;
/// First byte of the codes of keys that older keyboards did not have.
const EXTENDED: u8 = 0xe0;
/// What Pause sends; it has no release of its own.
const PAUSE_CODES: [u8; 6] = [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5];

/// Rows of keys whose scan codes follow one another: the first code, the characters, and those with shift.
const ROWS: [(u8, &str, &str); 5] = [
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", ""),
];

/// Virtual-key codes of keys that stand for no character, and their scan codes.
const SPECIAL: [(u32, u8); 53] = [
    (0x08, 0x0e), // backspace
    (0x09, 0x0f), // tab
    (0x0d, 0x1c), // enter
    (0x10, 0x2a), // shift
    (0x11, 0x1d), // ctrl
    (0x12, 0x38), // alt
    (0x13, PAUSE.0),
    (0x14, 0x3a), // caps lock
    (0x1b, 0x01), // esc
    (0x21, 0xc9), // page up
    (0x22, 0xd1), // page down
    (0x23, 0xcf), // end
    (0x24, 0xc7), // home
    (0x25, 0xcb), // left
    (0x26, 0xc8), // up
    (0x27, 0xcd), // right
    (0x28, 0xd0), // down
    (0x2c, 0xb7), // print screen
    (0x2d, 0xd2), // insert
    (0x2e, 0xd3), // delete
    (0x5b, 0xdb), // left Windows key
    (0x5c, 0xdc), // right Windows key
    (0x5d, 0xdd), // menu
    (0x60, 0x52), // keypad 0 to 9
    (0x61, 0x4f),
    (0x62, 0x50),
    (0x63, 0x51),
    (0x64, 0x4b),
    (0x65, 0x4c),
    (0x66, 0x4d),
    (0x67, 0x47),
    (0x68, 0x48),
    (0x69, 0x49),
    (0x6a, 0x37), // keypad * + - . /
    (0x6b, 0x4e),
    (0x6d, 0x4a),
    (0x6e, 0x53),
    (0x6f, 0xb5),
    (0x7a, 0x57), // F11
    (0x7b, 0x58), // F12
    (0x90, 0x45), // num lock
    (0x91, 0x46), // scroll lock
    (0xa0, 0x2a), // left and right shift, ctrl, alt
    (0xa1, 0x36),
    (0xa2, 0x1d),
    (0xa3, 0x9d),
    (0xa4, 0x38),
    (0xa5, 0xb8),
    (0xba, 0x27), // ; and : on a US keyboard
    (0xbb, 0x0d), // = and +
    (0xbc, 0x33), // , and <
    (0xbd, 0x0c), // - and _
    (0xe2, 0x56), // the key beside left shift that US keyboards lack
];
/// The same of the remaining punctuation.
const PUNCTUATION: [(u32, char); 7] =
    [(0xbe, '.'), (0xbf, '/'), (0xc0, '`'), (0xdb, '['), (0xdc, '\\'), (0xdd, ']'), (0xde, '\'')];

/// The key of a virtual-key code.
pub fn virtual_key(code: u32) -> Option<Key> {
    let special = SPECIAL.iter().find(|(known, _)| *known == code).map(|(_, scan)| Key(*scan));
    let punctuation = PUNCTUATION.iter().find(|(known, _)| *known == code).map(|(_, character)| *character);
    // Letters and digits have the code of their character.
    let named = char::from_u32(code).filter(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == ' ');
    let character = punctuation.or(named.map(|c| c.to_ascii_lowercase()));
    let function = (0x70..=0x79).contains(&code).then(|| u8::try_from(code - 0x70 + 0x3b).ok()).flatten().map(Key);
    special.or(function).or_else(|| key_of(character?).map(|(key, _)| key))
}

/// The key that a character is on, and whether it takes shift.
fn key_of(character: char) -> Option<(Key, bool)> {
    let within = |(first, plain, shifted): &(u8, &str, &str)| {
        let at = |row: &str| row.chars().position(|c| c == character).and_then(|at| u8::try_from(at).ok());
        at(plain).map(|at| (Key(first + at), false)).or(at(shifted).map(|at| (Key(first + at), true)))
    };
    let control = match character {
        '\n' => Some(0x1c),
        '\t' => Some(0x0f),
        '\u{8}' => Some(0x0e),
        '\u{1b}' => Some(0x01),
        _ => None,
    };
    control.map(|code| (Key(code), false)).or_else(|| ROWS.iter().find_map(within))
}

/// How a text is typed. The end of a line may be one character or two.
///
/// # Errors
/// The first character that is on no key.
pub fn type_text(text: &str) -> Result<Vec<Stroke>, char> {
    let mut strokes = Vec::new();
    for character in text.replace("\r\n", "\n").replace('\r', "\n").chars() {
        let (key, shift) = key_of(character).ok_or(character)?;
        let keys = if shift { vec![SHIFT, key] } else { vec![key] };
        strokes.extend(type_keys(keys));
    }
    Ok(strokes)
}

/// Presses keys in this order, and releases them in the other.
pub fn type_keys(keys: Vec<Key>) -> [Stroke; 2] {
    let released = keys.iter().rev().copied().collect();
    [Stroke::Press(keys), Stroke::Release(released)]
}

/// What the bytes of a keyboard say.
///
/// # Errors
/// Position of the first byte that is no part of a scan code.
pub fn read_scan_codes(bytes: &[u8]) -> Result<Vec<Stroke>, usize> {
    let mut strokes = Vec::new();
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let wrong = bytes.len() - rest.len();
        if let Some(after) = rest.strip_prefix(&PAUSE_CODES) {
            strokes.extend(type_keys(vec![PAUSE]));
            rest = after;
            continue;
        }
        let (code, prefix, after) = match first {
            EXTENDED => {
                let (&code, after) = after.split_first().ok_or(wrong)?;
                (code, EXTENDED_BIT, after)
            }
            code => (code, 0, after),
        };
        rest = after;
        match code & !EXTENDED_BIT {
            // 0 and 7Fh upwards are what a keyboard says of itself, and e0h, e1h cannot follow one another.
            0 | 0x60..=0x7f => return Err(wrong),
            // Shifts that keyboards put around some extended keys for programs of the eighties.
            0x2a | 0x36 if prefix != 0 => {}
            place if code & EXTENDED_BIT == 0 => strokes.push(Stroke::Press(vec![Key(place | prefix)])),
            place => strokes.push(Stroke::Release(vec![Key(place | prefix)])),
        }
    }
    Ok(strokes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(strokes: &[Stroke]) -> String {
        let show = |stroke: &Stroke| {
            let (sign, keys) = match stroke {
                Stroke::Press(keys) => ('+', keys),
                Stroke::Release(keys) => ('-', keys),
            };
            keys.iter().map(|key| format!("{sign}{:02x}", key.0)).collect::<String>()
        };
        strokes.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn characters_are_typed_as_on_a_us_keyboard() {
        let check = |text: &str, expected: &str| assert_eq!(show(&type_text(text).unwrap()), expected, "{text:?}");
        check("a", "+1e -1e");
        check("A", "+2a+1e -1e-2a");
        check("~|? ", "+2a+29 -29-2a +2a+2b -2b-2a +2a+35 -35-2a +39 -39");
        check("1\r\n\t", "+02 -02 +1c -1c +0f -0f");
        for character in ' '..='~' {
            assert!(key_of(character).is_some(), "{character}");
        }
        assert_eq!(type_text("aé"), Err('é'));
        assert_eq!(type_text("\0"), Err('\0'));
    }

    #[test]
    fn virtual_keys_have_their_places() {
        let check = |code: u32, expected: u8| assert_eq!(virtual_key(code), Some(Key(expected)), "{code:02x}");
        check(0x41, 0x1e);
        check(0x5a, 0x2c);
        check(0x30, 0x0b);
        check(0x20, 0x39);
        check(0x70, 0x3b);
        check(0x79, 0x44);
        check(0x7b, 0x58);
        check(0x2e, 0xd3);
        check(0xbf, 0x35);
        check(0xdc, 0x2b);
        for code in [0, 0x07, 0x3a, 0x61 + 0x100, 0x7c, u32::MAX] {
            assert_eq!(virtual_key(code), None, "{code:02x}");
        }
    }

    #[test]
    fn bytes_of_a_keyboard_are_understood() {
        let check = |bytes: &[u8], expected: Result<&str, usize>| {
            let read = read_scan_codes(bytes).map(|strokes| show(&strokes));
            assert_eq!(read.as_deref().map_err(|at| *at), expected, "{bytes:02x?}");
        };
        check(&[], Ok(""));
        check(&[0x1e, 0x9e], Ok("+1e -1e"));
        check(&[0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d], Ok("+1d +38 +d3 -d3 -38 -1d"));
        check(&[0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa], Ok("+b7 -b7"));
        check(&PAUSE_CODES, Ok("+c6 -c6"));
        check(&[0x1e, 0xe0], Err(1));
        check(&[0x1e, 0x00], Err(1));
        check(&[0xff], Err(0));
        check(&[0xe1, 0x1d], Err(0));
        check(&[0xe0, 0xe0, 0x1e], Err(0));
    }
}
