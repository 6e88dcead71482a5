//! The operations every front end speaks, and their answers.
//!
//! A front end turns bytes into an [`Operation`], the provider gives an [`Answer`] or an [`Error`], the front end turns
//! that into bytes. Neither knows more of the other than what stands here.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::embedded::EmbeddedInstance;
use crate::{Class, Error, Instance, ObjectPath, Value, case, wql};

mod bind;
mod events;

pub use bind::{Arguments, bind_arguments};
pub use events::Events;

/// An instance as a client addresses it: keys may be missing if the rest names exactly one instance, and arrive as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The namespace, as the client wrote it; compare with [`crate::path::same_namespace`].
    pub namespace: String,
    /// The class, as the client wrote it.
    pub class: String,
    /// The keys the client gave: [`Value::String`] for text, [`Value::Reference`] for a reference.
    pub keys: Vec<(String, Value)>,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// One instance.
    Get {
        /// Which.
        target: Target,
    },
    /// The instances that answer a query.
    Enumerate {
        /// The namespace it is asked in.
        namespace: String,
        /// The query.
        query: Query,
    },
    /// A method call.
    Invoke {
        /// The instance, or the class for a static method.
        target: Target,
        /// The method, in any case.
        method: String,
        /// The arguments as they arrived. An array arrives as its name repeated, once for each element.
        arguments: Vec<(String, Argument)>,
    },
    /// To be told of events from now on.
    Subscribe {
        /// The namespace.
        namespace: String,
        /// The event query.
        query: wql::Select,
    },
    /// The declaration of a class.
    GetClass {
        /// The namespace.
        namespace: String,
        /// The class.
        class: String,
    },
}

/// A question with many answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// The instances of a class.
    Class {
        /// The class.
        class: String,
        /// Whether instances of classes below it count.
        polymorphic: bool,
    },
    /// A WQL selection.
    Select(wql::Select),
    /// What is connected with an instance.
    Associators {
        /// The instance.
        source: Target,
        /// Only through associations of this class or classes below it.
        association_class: Option<String>,
        /// Only instances of this class or classes below it.
        result_class: Option<String>,
        /// Only where the source has this role, the name of the REF that points to it.
        role: Option<String>,
        /// Only where the result has this role.
        result_role: Option<String>,
        /// How much of each is wanted.
        detail: Detail,
    },
    /// The connections of an instance.
    References {
        /// The instance.
        source: Target,
        /// Only associations of this class or classes below it.
        result_class: Option<String>,
        /// Only where the source has this role.
        role: Option<String>,
        /// How much of each is wanted.
        detail: Detail,
    },
    /// The instances of a class, or of classes below it, whose properties have these values.
    Selectors {
        /// The class.
        class: String,
        /// Properties and their values as text.
        keys: Vec<(String, Value)>,
    },
}

/// How much of each answer to an association query is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The instance.
    Instance,
    /// Its keys (`KeysOnly`).
    Keys,
    /// Its class, which is told once (`ClassDefsOnly`): an instance without keys, with the defaults of the class.
    Class,
}

/// An argument of a method call before it has a type.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// NULL.
    Null,
    /// Text: a scalar, an object path, or an embedded instance in a string.
    Text(String),
    /// A reference as the protocol writes it.
    Reference(Target),
    /// An embedded instance as the protocol writes it.
    Instance(EmbeddedInstance),
}

/// What the provider answers.
#[derive(Debug)]
pub enum Answer {
    /// To [`Operation::Get`].
    Instance(Box<Row>),
    /// To [`Operation::Enumerate`].
    Rows(Rows),
    /// To [`Operation::Invoke`].
    Method(MethodResult),
    /// To [`Operation::Subscribe`].
    Events(Box<dyn Events>),
    /// To [`Operation::GetClass`].
    Class(Arc<Class>),
}

/// An instance and its path.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The complete path of the instance.
    pub path: ObjectPath,
    /// The instance.
    pub instance: Instance,
}

/// The answers to a query, made one by one as they are asked for.
pub struct Rows {
    /// The properties the query asked for, in their canonical case; `None` for all.
    pub projection: Option<Vec<String>>,
    rows: Box<dyn Iterator<Item = Result<Row, Error>> + Send>,
}

/// What a method gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodResult {
    /// The return value: 0 done, 4096 job started, others per method.
    pub return_value: u32,
    /// The output parameters in the declared order, without the return value.
    pub outputs: Vec<(String, Option<Value>)>,
}

impl Target {
    /// An instance of a class; keys can be added.
    pub fn new(namespace: impl Into<String>, class: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), class: class.into(), keys: Vec::new() }
    }

    /// The target with one more key.
    #[must_use]
    pub fn with_key(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.keys.push((name.into(), value.into()));
        self
    }

    /// The target an object path names, in `namespace` if the path does not say. The host is ignored: a request
    /// that arrived here means this host.
    pub fn from_path(path: ObjectPath, namespace: &str) -> Self {
        Self { namespace: path.namespace.unwrap_or_else(|| namespace.to_owned()), class: path.class, keys: path.keys }
    }

    /// The path this target spells, keys as they arrived.
    pub fn to_path(&self) -> ObjectPath {
        let path = ObjectPath::new(self.class.clone()).with_namespace(&self.namespace);
        ObjectPath { keys: self.keys.clone(), ..path }
    }

    /// A key as the client gave it.
    pub fn key(&self, name: &str) -> Option<&Value> {
        self.keys.iter().find(|(n, _)| case::eq(n, name)).map(|(_, value)| value)
    }

    /// Whether an instance has all the keys given here. The class is not compared: the caller chose the candidates.
    /// A key without a name (`Class="value"` in a path) is the only key of the class.
    pub fn matches(&self, instance: &Instance) -> bool {
        self.keys.iter().all(|(name, value)| {
            let name = match name.as_str() {
                "" => instance.class().keys().next().map_or("", |key| key.name.as_str()),
                name => name,
            };
            instance.get(name).is_some_and(|ours| ours.same_key(value))
        })
    }
}

impl Query {
    /// The question a WQL text asks, in a namespace.
    pub fn from_wql(query: wql::Query, namespace: &str) -> Self {
        match query {
            wql::Query::Select(select) => Self::Select(select),
            wql::Query::Associators(q) => Self::Associators {
                source: Target::from_path(q.source, namespace),
                association_class: q.association_class,
                result_class: q.result_class,
                role: q.role,
                result_role: q.result_role,
                detail: Detail::of(q.keys_only, q.class_definitions_only),
            },
            wql::Query::References(q) => Self::References {
                source: Target::from_path(q.source, namespace),
                result_class: q.result_class,
                role: q.role,
                detail: Detail::of(q.keys_only, q.class_definitions_only),
            },
        }
    }
}

impl Detail {
    /// What the two words of a query come to; a class without its keys is less than both.
    fn of(keys_only: bool, class_definitions_only: bool) -> Self {
        match (keys_only, class_definitions_only) {
            (_, true) => Detail::Class,
            (true, false) => Detail::Keys,
            (false, false) => Detail::Instance,
        }
    }
}

impl Rows {
    /// Rows with all their properties.
    pub fn new(rows: impl Iterator<Item = Result<Row, Error>> + Send + 'static) -> Self {
        Self { projection: None, rows: Box::new(rows) }
    }

    /// The rows, of which only these properties are wanted.
    #[must_use]
    pub fn with_projection(self, projection: Option<Vec<String>>) -> Self {
        Self { projection, ..self }
    }

    /// The rows, of which only this much is wanted.
    #[must_use]
    pub fn with_detail(self, detail: Detail) -> Self {
        match detail {
            Detail::Instance => self,
            Detail::Keys => Self::new(self.map(|row| row.map(|row| Row { instance: row.instance.keys_only(), ..row }))),
            Detail::Class => {
                let mut told = BTreeSet::new();
                let first = move |row: &Result<Row, Error>| {
                    row.as_ref().map_or(true, |row| told.insert(row.instance.class().name.clone()))
                };
                let class_of = |row: Row| Row {
                    path: ObjectPath { keys: Vec::new(), ..row.path },
                    instance: Instance::with_defaults(row.instance.class()),
                };
                Self::new(self.filter(first).map(move |row| row.map(class_of)))
            }
        }
    }

    /// No rows.
    pub fn empty() -> Self {
        Self::new(std::iter::empty())
    }
}

impl Iterator for Rows {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next()
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("projection", &self.projection).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Schema, mof};
    use expect_test::{Expect, expect};

    #[test]
    fn targets_match_by_the_keys_they_have() {
        fn check(target: &str, expected: bool) {
            let classes = "class A { [Key] string Name; [Key] uint16 Slot; A REF Other; };";
            let schema = Schema::new("root/v2", mof::parse_classes(classes).unwrap()).unwrap();
            let other = ObjectPath::new("A").with_key("Name", "z").with_host("H").with_namespace("root/v2");
            let a =
                Instance::new(schema.class("A").unwrap()).with("Name", "Xy").with("Slot", 2u16).with("Other", other);
            let path = ObjectPath::parse(target).unwrap();
            assert_eq!(Target::from_path(path, "root/v2").matches(&a), expected, "{target}");
        }
        check(r#"A.Name="XY",Slot="2""#, true);
        check("A.slot=2", true);
        check("A", true);
        check(r#"A="xy""#, true);
        check(r#"A="z""#, false);
        check("A.Slot=3", false);
        check(r#"A.Nothing="x""#, false);
        check(r#"A.Other="\\\\.\\root\\v2:a.name=\"Z\"""#, true);
    }

    #[test]
    fn queries_in_wql_name_their_source_in_a_namespace() {
        fn check(text: &str, namespace: &str) {
            match Query::from_wql(wql::parse(text).unwrap(), "root/v2") {
                Query::Associators { source, .. } | Query::References { source, .. } => {
                    assert_eq!(source, Target::new(namespace, "A").with_key("K", "x"));
                }
                other => panic!("{text} is no association query: {other:?}"),
            }
        }
        check("associators of {A.K='x'}", "root/v2");
        check(r"references of {\\H\root\cimv2:A.K='x'} where Role=R", r"root\cimv2");
    }

    #[test]
    fn rows_are_made_when_they_are_asked_for() {
        let mut rows = Rows::new((0..3).map(|i| Err(Error::not_found(i)))).with_projection(Some(vec!["A".to_owned()]));
        assert_eq!(rows.next().and_then(Result::err).map(|error| error.message).as_deref(), Some("0 does not exist"));
        assert_eq!((rows.by_ref().count(), rows.projection.as_deref()), (2, Some(&["A".to_owned()][..])));
        assert_eq!(Rows::empty().count(), 0);
    }

    /// Holds: WIRE-G7-2
    #[test]
    fn rows_may_be_wanted_without_what_is_no_key_or_as_classes() {
        fn check(words: &str, expected: Expect) {
            let classes = "class A { [Key] string K; uint16 N = 7; string S; }; class B : A {};";
            let schema = Schema::new("root/v2", mof::parse_classes(classes).unwrap()).unwrap();
            let row = |class: &str, key: &str| {
                let instance = Instance::with_defaults(schema.class(class).unwrap()).with("K", key).with("S", "s");
                Ok(Row { path: instance.path("H", "root/v2"), instance })
            };
            let rows = Rows::new(vec![row("A", "1"), row("A", "2"), row("B", "3")].into_iter());
            let wql = format!("associators of {{A.K='x'}} where {words}");
            let Query::Associators { detail, .. } = Query::from_wql(wql::parse(&wql).unwrap(), "root/v2") else {
                panic!("{wql} asks for associators")
            };
            let shown: Vec<_> = rows.with_detail(detail).map(|row| row.unwrap()).collect();
            let shown = shown.iter().map(|row| format!("{} {:?}", row.path.relative(), row.instance));
            expected.assert_eq(&shown.collect::<Vec<_>>().join("\n"));
        }
        check(
            "",
            expect![[r#"
            A.K="1" A { K: String("1"), N: U16(7), S: String("s") }
            A.K="2" A { K: String("2"), N: U16(7), S: String("s") }
            B.K="3" B { K: String("3"), N: U16(7), S: String("s") }"#]],
        );
        check(
            "KeysOnly",
            expect![[r#"
            A.K="1" A { K: String("1") }
            A.K="2" A { K: String("2") }
            B.K="3" B { K: String("3") }"#]],
        );
        check(
            "ClassDefsOnly",
            expect![[r#"
            A A { N: U16(7) }
            B B { N: U16(7) }"#]],
        );
        check(
            "ClassDefsOnly KeysOnly",
            expect![[r#"
            A A { N: U16(7) }
            B B { N: U16(7) }"#]],
        );
    }
}
