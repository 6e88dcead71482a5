//! From the arguments of a call, as they arrived, to values of the declared types.

use crate::{Value, case};

/// The input parameters of a method call, in the declared order.
#[derive(Debug, Clone, PartialEq)]
pub struct Arguments(pub Vec<(String, Option<Value>)>);

impl Arguments {
    /// The value of a parameter; `None` if it is NULL, was left out, or is not declared.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| case::eq(n, name)).and_then(|(_, value)| value.as_ref())
    }
}
