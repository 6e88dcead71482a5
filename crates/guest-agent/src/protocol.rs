//! The lines on the serial port.
//!
//! A request is `<id> <command> [arguments]`, an answer `<id> ok [text]` or `<id> error <text>`. The id is the
//! client's and comes back unchanged: a machine that was restored answers requests of its past, and a client can
//! only tell them from its own by the id. One answer is one line: line breaks and other control characters travel
//! escaped (`\n`, `\r`, `\t`, `\\`, `\xNN`).

use crate::Answer;

/// Longest request in bytes, line break included. Longer ones are cut into lines that are not requests.
pub const MAX_LINE: usize = 64 * 1024;

/// One request, borrowed from its line.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Chosen by the client, repeated in the answer.
    pub id: u64,
    /// The first word.
    pub command: &'a str,
    /// Everything behind the blank after the command, as it came.
    pub arguments: &'a str,
}

impl<'a> Request<'a> {
    /// Reads a line without its line break; `None` if it does not begin with an id and a command.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (id, rest) = split_word(line);
        let (command, arguments) = split_word(rest);
        let id = id.parse().ok()?;
        (!command.is_empty()).then_some(Self { id, command, arguments })
    }
}

/// The answer's line without its line break.
pub fn format_answer(id: u64, answer: &Answer) -> String {
    let (word, text) = match answer {
        Ok(text) => ("ok", text),
        Err(text) => ("error", text),
    };
    let blank = if text.is_empty() { "" } else { " " };
    format!("{id} {word}{blank}{}", escape(text))
}

/// The first word and what follows the one blank behind it.
pub fn split_word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// A whole number, or an error that says which argument it should have been.
pub fn number(text: &str, what: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{what} must be a whole number, not {text:?}"))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            control if control.is_ascii_control() => escaped.push_str(&format!("\\x{:02x}", u32::from(control))),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_an_id_a_command_and_the_rest() {
        #[track_caller]
        fn check(line: &str, expected: Option<(u64, &str, &str)>) {
            let parsed = Request::parse(line).map(|r| (r.id, r.command, r.arguments));
            assert_eq!(parsed, expected, "{line:?}");
        }
        check("7 ping", Some((7, "ping", "")));
        check("7 set key  two blanks ", Some((7, "set", "key  two blanks ")));
        check("", None);
        check("7", None);
        check("7 ", None);
        check("ping", None);
        check("-1 ping", None);
        check("99999999999999999999 ping", None);
    }

    #[test]
    fn an_answer_is_one_line() {
        assert_eq!(format_answer(1, &Ok(String::new())), "1 ok");
        assert_eq!(format_answer(2, &Ok("a\nb\\\u{1b}é".to_owned())), "2 ok a\\nb\\\\\\x1bé");
        assert_eq!(format_answer(3, &Err("no".to_owned())), "3 error no");
    }
}
