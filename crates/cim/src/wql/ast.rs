//! Queries as they are written.

use std::fmt;

use crate::ObjectPath;

/// One query.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// `SELECT … FROM …`.
    Select(Select),
    /// `ASSOCIATORS OF {…}`: what is connected with an instance.
    Associators(Associators),
    /// `REFERENCES OF {…}`: the connections themselves.
    References(References),
}

/// `SELECT … FROM class [WITHIN seconds] [WHERE …]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    /// Which properties are wanted.
    pub projection: Projection,
    /// The class, as written.
    pub class: String,
    /// The polling interval of an event query, in seconds.
    pub within_seconds: Option<f64>,
    /// The condition; `None` selects every instance.
    pub condition: Option<Expression>,
}

/// The properties a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// `*`.
    All,
    /// Names as written; those of event queries may be dotted (`TargetInstance.Name`).
    Names(Vec<String>),
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// All hold.
    And(Vec<Expression>),
    /// At least one holds.
    Or(Vec<Expression>),
    /// It does not hold.
    Not(Box<Expression>),
    /// A comparison.
    Compare {
        /// Left side.
        left: Operand,
        /// How they compare.
        comparison: Comparison,
        /// Right side.
        right: Operand,
    },
    /// `name LIKE 'pattern'`.
    Like {
        /// The property.
        name: String,
        /// The pattern, unescaped: `%`, `_` and `[…]` are special.
        pattern: String,
    },
    /// `name IS NULL`.
    IsNull {
        /// The property.
        name: String,
    },
    /// `name ISA 'class'`.
    Isa {
        /// The property that holds an instance, or `__THIS`.
        name: String,
        /// The class.
        class: String,
    },
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A property, possibly dotted, or one of `__CLASS`, `__PATH`, `__RELPATH`, `__SERVER`, `__NAMESPACE`.
    Name(String),
    /// A literal.
    Literal(Literal),
}

/// A literal.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the literal of its name")]
pub enum Literal {
    String(String),
    Integer(i128),
    Real(f64),
    Boolean(bool),
    Null,
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the operator of its name")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// `ASSOCIATORS OF {source} [WHERE …]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Associators {
    /// The instance whose associates are wanted; its keys may be incomplete.
    pub source: ObjectPath,
    /// Only through associations of this class or classes below it.
    pub association_class: Option<String>,
    /// Only instances of this class or classes below it.
    pub result_class: Option<String>,
    /// Only where the source has this role (the name of the REF that points to it).
    pub role: Option<String>,
    /// Only where the result has this role.
    pub result_role: Option<String>,
    /// Only the keys of the results are wanted.
    pub keys_only: bool,
    /// The classes of the results are wanted instead of the results.
    pub class_definitions_only: bool,
}

/// `REFERENCES OF {source} [WHERE …]`.
#[derive(Debug, Clone, PartialEq)]
pub struct References {
    /// The instance whose connections are wanted; its keys may be incomplete.
    pub source: ObjectPath,
    /// Only associations of this class or classes below it.
    pub result_class: Option<String>,
    /// Only where the source has this role.
    pub role: Option<String>,
    /// Only the keys of the results are wanted.
    pub keys_only: bool,
    /// The classes of the results are wanted instead of the results.
    pub class_definitions_only: bool,
}

impl fmt::Display for Literal {
    /// The literal as it may stand in a query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => write!(f, "{text:?}"),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Real(real) => write!(f, "{real}"),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::Null => f.write_str("NULL"),
        }
    }
}
