//! What an embedded instance asks to change, compared with what is there.
//!
//! A property that is absent or NULL asks for nothing. Clients often read an instance, change one property and send all
//! of it back, so properties that say what is there already ask for nothing either. Whatever is left must be a change
//! that the caller knows how to make: no change is ignored.

use cim::{Instance, Value};
use ledger::failure::Failure;

use super::invalid;

/// Names of the properties that ask for another value than the one there.
pub fn changed(current: &Instance, wanted: &Instance) -> Vec<String> {
    let asks = |(property, value): (&cim::class::Property, Option<&Value>)| {
        let differs = !is_same(current.get(&property.name), value?);
        differs.then(|| property.name.clone())
    };
    wanted.properties().filter_map(asks).collect()
}

/// Refuses every change but those of these properties.
///
/// # Errors
/// The refusal, naming what cannot be changed.
pub fn allow_only(changed: &[String], allowed: &[&str], of: &str) -> Result<(), Failure> {
    let refused: Vec<&str> = changed.iter().map(String::as_str).filter(|name| !allowed.contains(name)).collect();
    match refused.as_slice() {
        [] => Ok(()),
        names => {
            let can = if allowed.is_empty() { "nothing can".to_owned() } else { format!("{} can", allowed.join(", ")) };
            Err(invalid(format!("{} of {of} cannot be changed", names.join(", "))).hint(format!("here {can}")))
        }
    }
}

/// Whether a value says what is there. NULL is what an empty text or array says, and `false` and zero say nothing new
/// about a property that does not exist here.
fn is_same(current: Option<&Value>, wanted: &Value) -> bool {
    match (current, wanted) {
        (None, Value::String(text)) => text.is_empty(),
        (None, Value::Array(elements)) => elements.is_empty(),
        (None, Value::Bool(value)) => !value,
        (None, number) => number.as_integer() == Some(0),
        (Some(Value::DateTime(a)), Value::DateTime(b)) => is_same_time(*a, *b),
        (Some(Value::Array(a)), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(Some(a), b))
        }
        (Some(Value::String(a)), Value::String(b)) => a == b || cim::case::eq(a, b) && is_path_or_id(a),
        (Some(a), b) => a.same_key(b),
    }
}

/// Moments are the same whatever their offset, and clients round to seconds.
fn is_same_time(a: cim::DateTime, b: cim::DateTime) -> bool {
    use cim::DateTime::{Interval, Timestamp};
    match (a, b) {
        (Timestamp(a), Timestamp(b)) => a.unix_micros() / 1_000_000 == b.unix_micros() / 1_000_000,
        (Interval(_), Interval(_)) => a == b,
        _ => false,
    }
}

/// Names of objects compare without regard to case, names given by people do not.
fn is_path_or_id(text: &str) -> bool {
    text.contains(':') || uuid::Uuid::try_parse(text).is_ok()
}
