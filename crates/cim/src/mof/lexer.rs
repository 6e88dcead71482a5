//! From text to tokens.

use std::borrow::Cow;

use super::MofError;

/// A token. Names and numbers point into the text; strings do if they need no unescaping.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'a> {
    Name(&'a str),
    Number(&'a str),
    Text(Cow<'a, str>),
    Char(char),
    Symbol(char),
    End,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Where the token began that was read last.
    pub(super) token_start: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at, token_start: at }
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>, MofError> {
        self.skip_blanks()?;
        self.token_start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        match first {
            '"' => self.quoted('"').map(Token::Text),
            '\'' => {
                let text = self.quoted('\'')?;
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => Ok(Token::Char(c)),
                    _ => Err(self.wrong("a character literal holds exactly one character")),
                }
            }
            c if c.is_alphabetic() || c == '_' => Ok(Token::Name(self.take(|c| c.is_alphanumeric() || c == '_'))),
            c if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => {
                Ok(Token::Number(self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))))
            }
            symbol => {
                self.at += symbol.len_utf8();
                Ok(Token::Symbol(symbol))
            }
        }
    }

    /// An error at the token that was read last.
    pub(super) fn wrong(&self, reason: impl Into<String>) -> MofError {
        let before = self.text.get(..self.token_start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        MofError { line: before.matches('\n').count() + 1, column, reason: reason.into() }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// Skips blanks, comments, and pragmas, which fill their line.
    fn skip_blanks(&mut self) -> Result<(), MofError> {
        loop {
            self.take(char::is_whitespace);
            if self.rest().starts_with("//") || self.rest().starts_with('#') {
                self.take(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                self.token_start = self.at;
                let end = self.rest().find("*/").ok_or_else(|| self.wrong("the comment does not end"))?;
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Cow<'a, str>, MofError> {
        self.at += quote.len_utf8();
        let plain = self.take(|c| c != quote && c != '\\' && c != '\n');
        if self.rest().starts_with(quote) {
            self.at += quote.len_utf8();
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next().filter(|c| *c != '\n') else {
                return Err(self.wrong("the text does not end on its line"));
            };
            self.at += c.len_utf8();
            match c {
                '\\' => text.push(self.escaped()?),
                c if c == quote => return Ok(Cow::Owned(text)),
                c => text.push(c),
            }
        }
    }

    /// The character an escape stands for; the backslash is read already.
    fn escaped(&mut self) -> Result<char, MofError> {
        let c = self.rest().chars().next().unwrap_or('\n');
        self.at += if c == '\n' { 0 } else { c.len_utf8() };
        match c {
            'b' => Ok('\u{8}'),
            't' => Ok('\t'),
            'n' => Ok('\n'),
            'f' => Ok('\u{c}'),
            'r' => Ok('\r'),
            '"' | '\'' | '\\' => Ok(c),
            'x' | 'X' => {
                let rest = self.rest();
                let digits = rest.bytes().take(4).take_while(u8::is_ascii_hexdigit).count();
                let hex = rest.get(..digits).unwrap_or_default();
                self.at += digits;
                let unit = u32::from_str_radix(hex, 16).map_err(|_| self.wrong("\\x needs hexadecimal digits"))?;
                Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
            }
            _ => Err(self.wrong("a backslash in a text needs one of b t n f r x \" ' \\ after it")),
        }
    }
}
