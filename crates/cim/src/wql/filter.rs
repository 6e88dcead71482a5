//! Conditions that are ready to be evaluated.

use std::cmp::Ordering;
use std::sync::Arc;

use super::ast::Comparison;
use super::like::Pattern;
use crate::{Class, DateTime, Instance, ObjectPath, Value, case};

/// A selection resolved against a schema: made by [`super::Select::resolve`].
#[derive(Debug, Clone)]
pub struct Filter {
    pub(super) class: Arc<Class>,
    pub(super) projection: Option<Vec<String>>,
    pub(super) condition: Condition,
    pub(super) host: String,
    pub(super) namespace: String,
}

/// What has to hold. Positions of properties are those of the class in FROM; in classes below it they are the same.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Always(bool),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    /// A property compared with a constant of its type.
    Constant {
        position: usize,
        comparison: Comparison,
        constant: Value,
    },
    /// A property of the one class compared with another of them.
    Properties {
        left: usize,
        comparison: Comparison,
        right: usize,
    },
    /// A property that is not NULL is like the pattern.
    Like {
        position: usize,
        pattern: Pattern,
    },
    Null {
        position: usize,
    },
    /// The instance's class compared as text, or like a pattern.
    ClassName {
        comparison: Comparison,
        name: String,
    },
    ClassLike(Pattern),
    /// The instance is the one of this path.
    Path(ObjectPath),
    /// A string property holds a path of the same object, however it is written.
    PathText {
        position: usize,
        path: ObjectPath,
    },
    /// The text of the path is like the pattern.
    PathLike {
        pattern: Pattern,
        relative: bool,
    },
    /// The instance, or the one embedded at the position, is of this class or one below it.
    Isa {
        position: Option<usize>,
        class: String,
    },
}

impl Filter {
    /// The class in FROM.
    pub fn class(&self) -> &Arc<Class> {
        &self.class
    }

    /// The properties asked for, in their canonical case and in the order of the query; `None` for all. System properties
    /// such as `__PATH` may be among them.
    pub fn projection(&self) -> Option<&[String]> {
        self.projection.as_deref()
    }

    /// Whether an instance of the class, or of one below it, is selected.
    pub fn matches(&self, instance: &Instance) -> bool {
        debug_assert!(
            instance.class().is_a(&self.class.name),
            "rows of a query are instances of the class it asks for"
        );
        self.holds(&self.condition, instance)
    }

    /// What every selected instance has in common: properties and the values they must equal (by [`Value::same_key`]).
    /// A provider looks up by them instead of looking at every instance.
    pub fn equalities(&self) -> Vec<(&str, &Value)> {
        let mut found = Vec::new();
        self.collect_equalities(&self.condition, &mut found);
        found
    }

    /// Those of [`Filter::equalities`] that are keys of the class.
    pub fn key_equalities(&self) -> Vec<(&str, &Value)> {
        let is_key = |name: &str| self.class.property(name).is_some_and(|property| property.is_key);
        self.equalities().into_iter().filter(|(name, _)| is_key(name)).collect()
    }

    fn collect_equalities<'a>(&'a self, condition: &'a Condition, found: &mut Vec<(&'a str, &'a Value)>) {
        match condition {
            Condition::And(parts) => parts.iter().for_each(|part| self.collect_equalities(part, found)),
            Condition::Constant { position, comparison: Comparison::Equal, constant } => {
                found.extend(self.class.properties().get(*position).map(|property| (property.name.as_str(), constant)));
            }
            Condition::Path(path) => found.extend(path.keys.iter().map(|(name, value)| (name.as_str(), value))),
            _ => {}
        }
    }

    fn holds(&self, condition: &Condition, instance: &Instance) -> bool {
        match condition {
            Condition::Always(holds) => *holds,
            Condition::And(parts) => parts.iter().all(|part| self.holds(part, instance)),
            Condition::Or(parts) => parts.iter().any(|part| self.holds(part, instance)),
            Condition::Not(inner) => !self.holds(inner, instance),
            Condition::Constant { position, comparison, constant } => {
                instance.at(*position).is_some_and(|value| compare(value, *comparison, constant))
            }
            Condition::Properties { left, comparison, right } => match (instance.at(*left), instance.at(*right)) {
                (Some(left), Some(right)) => compare(left, *comparison, right),
                _ => false,
            },
            Condition::Like { position, pattern } => {
                instance.at(*position).and_then(Value::as_str).is_some_and(|text| pattern.matches(text))
            }
            Condition::Null { position } => instance.at(*position).is_none(),
            Condition::ClassName { comparison, name } => {
                admits(*comparison, Some(case::cmp(&instance.class().name, name)))
            }
            Condition::ClassLike(pattern) => pattern.matches(&instance.class().name),
            Condition::Path(path) => self.path(instance).same_object(path),
            Condition::PathText { position, path } => {
                let held = instance.at(*position).and_then(Value::as_str).map(ObjectPath::parse);
                held.is_some_and(|held| held.is_ok_and(|held| held.same_object(path)))
            }
            Condition::PathLike { pattern, relative } => {
                let path = self.path(instance);
                pattern.matches(&if *relative { path.relative() } else { path }.to_string())
            }
            Condition::Isa { position: None, class } => instance.class().is_a(class),
            Condition::Isa { position: Some(position), class } => {
                instance.at(*position).and_then(Value::as_object).is_some_and(|object| object.class().is_a(class))
            }
        }
    }

    fn path(&self, instance: &Instance) -> ObjectPath {
        instance.path(&self.host, &self.namespace)
    }
}

pub(super) fn compare(left: &Value, comparison: Comparison, right: &Value) -> bool {
    // Paths have no order, and may be the same though they are not written alike.
    if let (Value::Reference(left), Value::Reference(right)) = (left, right) {
        return match comparison {
            Comparison::Equal => left.same_object(right),
            Comparison::NotEqual => !left.same_object(right),
            _ => false,
        };
    }
    admits(comparison, order(left, right))
}

/// How two values of one kind are ordered; `None` if they are of different kinds or one is not a number.
pub(super) fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(a), Value::String(b)) => Some(case::cmp(a, b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Char16(a), Value::Char16(b)) => Some(a.cmp(b)),
        (Value::DateTime(DateTime::Timestamp(a)), Value::DateTime(DateTime::Timestamp(b))) => {
            Some(a.unix_micros().cmp(&b.unix_micros()))
        }
        (Value::DateTime(DateTime::Interval(a)), Value::DateTime(DateTime::Interval(b))) => Some(a.cmp(b)),
        (a, b) => match (a.as_integer(), b.as_integer()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => real(a)?.partial_cmp(&real(b)?),
        },
    }
}

/// Integers beyond 2^53 lose digits here, which matters only against a real number.
#[expect(clippy::cast_precision_loss, reason = "compared with a real number, which has no more digits either")]
fn real(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_integer().map(|integer| integer as f64))
}

/// Values that cannot be compared are not equal, and nothing else.
pub(super) fn admits(comparison: Comparison, order: Option<Ordering>) -> bool {
    match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}
