//! WQL, WMI's query language, in three steps with three types.
//!
//! ```text
//!   text --parse--> Query --resolve(schema)--> Filter --matches(instance)--> bool
//! ```
//!
//! A [`Query`] is what the text says, with names as they were written. Resolving gives a plan in which every name is a property of
//! the class, so that evaluation cannot meet an unknown one.

mod ast;

pub use ast::{Associators, Comparison, Expression, Literal, Operand, Projection, Query, References, Select};
