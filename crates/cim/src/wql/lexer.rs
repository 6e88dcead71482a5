//! From text to tokens.

use super::WqlError;

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'a> {
    /// A keyword or a name, possibly dotted.
    Word(&'a str),
    Number(&'a str),
    Text(String),
    Symbol(&'a str),
    /// What stands between braces, as written.
    Braced(&'a str),
    End,
}

/// Longer symbols first, so that `<=` is not read as `<` and `=`.
const SYMBOLS: [&str; 11] = ["!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "*"];

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next token and where it begins.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'a>), WqlError> {
        self.take(char::is_whitespace);
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok((start, Token::End)) };
        let token = match first {
            '\'' | '"' => self.quoted(first)?,
            '{' => self.braced()?,
            c if c.is_alphabetic() || c == '_' => {
                Token::Word(self.take(|c| c.is_alphanumeric() || matches!(c, '_' | '.')))
            }
            c if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => Token::Number(self.number()),
            _ => {
                let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
                let symbol =
                    symbol.ok_or(WqlError::Syntax { at: start, expected: "a word, a literal or an operator" })?;
                self.at += symbol.len();
                Token::Symbol(symbol)
            }
        };
        Ok((start, token))
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

    /// A sign belongs to a number only in front and after an exponent.
    fn number(&mut self) -> &'a str {
        let rest = self.rest();
        let start = self.at;
        if rest.starts_with(['+', '-']) {
            self.at += 1;
        }
        let digits = self.take(|c| c.is_ascii_alphanumeric() || c == '.');
        let is_hex = digits.starts_with("0x") || digits.starts_with("0X");
        if !is_hex && digits.ends_with(['e', 'E']) && self.rest().starts_with(['+', '-']) {
            self.at += 1;
            self.take(|c| c.is_ascii_digit());
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// A literal. A backslash stands for itself unless a backslash or a quote follows: clients paste device ids unescaped.
    fn quoted(&mut self, quote: char) -> Result<Token<'a>, WqlError> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next_if(|(_, next)| matches!(next, '\\' | '\'' | '"')) {
                    Some((_, escaped)) => text.push(escaped),
                    None => text.push('\\'),
                },
                c if c == quote => {
                    self.at += at + 1;
                    return Ok(Token::Text(text));
                }
                c => text.push(c),
            }
        }
        Err(WqlError::Syntax { at: start, expected: "a closing quote" })
    }

    /// The text up to the closing brace; braces within quotes do not count.
    fn braced(&mut self) -> Result<Token<'a>, WqlError> {
        let start = self.at;
        let mut quote = None;
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match (quote, c) {
                (None, '}') => {
                    self.at += at + 1;
                    return Ok(Token::Braced(self.text.get(start + 1..start + at).unwrap_or_default()));
                }
                (None, '"' | '\'') => quote = Some(c),
                (Some(_), '\\') => {
                    chars.next_if(|(_, next)| matches!(next, '\\' | '\'' | '"'));
                }
                (Some(open), c) if c == open => quote = None,
                _ => {}
            }
        }
        Err(WqlError::Syntax { at: start, expected: "a closing brace" })
    }
}
