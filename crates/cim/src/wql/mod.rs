//! WQL, WMI's query language, in three steps with three types.
//!
//! ```text
//!   text --parse--> Query --Select::resolve(schema, host)--> Filter --matches(instance)--> bool
//! ```
//!
//! A [`Query`] is what the text says, with names as they were written. A [`Filter`] cannot hold a name the class does not
//! have: every property is a position, every literal has the property's type, every LIKE is compiled. So evaluation has
//! no errors, and what it costs is known before the first row.
//!
//! A selection from an event class becomes an [`EventFilter`] in the same way, see [`event`].
//!
//! Two rules are WMI's rather than SQL's. Text compares without regard to case. A comparison with a NULL property does
//! not hold, whatever the operator, and `NOT` of it holds: there is no third truth value.

mod ast;
pub mod event;
mod filter;
mod lexer;
mod like;
mod parser;
mod resolve;

pub use ast::{Associators, Comparison, Expression, Literal, Operand, Projection, Query, References, Select};
pub use event::EventFilter;
pub use filter::Filter;
pub use parser::{WqlError, parse};
