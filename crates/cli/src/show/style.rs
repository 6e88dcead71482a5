//! Colour, sparingly: only on terminals, and never if `NO_COLOR` is set (<https://no-color.org>).

use std::io::IsTerminal;

/// Whether a stream may be coloured.
pub fn wanted(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Red and bold: errors.
pub fn red(text: &str, on: bool) -> String {
    paint(text, "1;31", on)
}

/// Bold: what the eye should find first.
pub fn bold(text: &str, on: bool) -> String {
    paint(text, "1", on)
}

fn paint(text: &str, code: &str, on: bool) -> String {
    if on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}
