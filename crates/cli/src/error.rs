//! What the user reads when something did not work, and what a script gets as exit status.
//!
//! Every error is one line that says what happened to what, then hints that say what to do. Where a failure comes from
//! the daemon, its text is passed on unchanged: the daemon knows best.

use std::fmt;

/// The nature of a failure, which is the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something did not work.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such machine, snapshot or job.
    NotFound = 3,
    /// The object's state does not allow it.
    Refused = 4,
    /// The daemon cannot be reached.
    Unreachable = 5,
}

impl Kind {
    /// The word that stands for it in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Usage => "usage",
            Kind::NotFound => "not-found",
            Kind::Refused => "refused",
            Kind::Unreachable => "unreachable",
        }
    }
}

/// An error with advice.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Decides the exit status.
    pub kind: Kind,
    /// What happened, to what.
    pub message: String,
    /// What the user can do next.
    pub hints: Vec<String>,
}

impl Error {
    /// An error without hints.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new() }
    }

    /// The same error with one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// As text for people, several lines. `colour` makes the first word stand out.
    pub fn render(&self, colour: bool) -> String {
        let mut text =
            format!("{}: {}\n", crate::show::style::red("error", colour), crate::show::printable(&self.message));
        for hint in &self.hints {
            text += &format!("{}: {}\n", crate::show::style::bold("hint", colour), crate::show::printable(hint));
        }
        text
    }

    /// As a JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": { "kind": self.kind.name(), "message": self.message, "hints": self.hints }
        })
    }
}

/// Output that could not be written: the reader has gone away, or the disk is full.
impl From<fmt::Error> for Error {
    fn from(_: fmt::Error) -> Self {
        Error::new(Kind::Failed, "the output could not be put together")
    }
}

/// What every command returns.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn errors_read_well_and_parse_well() {
        let error = Error::new(Kind::NotFound, "no machine is named web\u{1b}[2J").hint("did you mean web1?");
        expect![[r#"
            error: no machine is named web\u{1b}[2J
            hint: did you mean web1?
        "#]]
        .assert_eq(&error.render(false));
        expect![[r#"{"error":{"hints":["did you mean web1?"],"kind":"not-found","message":"no machine is named web\u001b[2J"}}"#]]
            .assert_eq(&error.json().to_string());
    }
}
