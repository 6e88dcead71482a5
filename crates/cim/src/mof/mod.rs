//! MOF, the text form of classes and instances (DSP0004 annex A, with what WMI adds).
//!
//! [`parse_classes`] reads class declarations with qualifiers; the classes of a namespace are MOF files read at start.
//! [`parse_instance`] reads one `instance of …`, which some clients send as an embedded instance. Pragmas are skipped;
//! qualifier declarations, aliases and flavours have no meaning here: the first two are refused, the last is read over.

mod lexer;
mod parser;
mod printer;

pub use parser::{parse_classes, parse_instance};
pub use printer::{print_class, print_instance};

/// A text that is not MOF, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MOF line {line}, column {column}: {reason}")]
pub struct MofError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub reason: String,
}
