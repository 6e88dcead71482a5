//! Event queries: selections from the intrinsic event classes, as WMI has them.
//!
//! ```text
//!   SELECT * FROM __InstanceModificationEvent WITHIN 2
//!       WHERE TargetInstance ISA 'Machine' AND TargetInstance.State <> PreviousInstance.State
//!             └──────── scope ───────────┘     └── looked up in the class of the scope ──┘
//! ```
//!
//! An event is an instance that holds instances: what a thing is now, and for a modification what it was before. So a
//! condition is taken apart until each piece speaks of one of them, and each piece is a [`Filter`] of its own. A dotted
//! name is looked up in the class that `TargetInstance ISA` names beside it; without such a class the query would be
//! about everything that exists, which is refused.

use std::sync::Arc;
use std::time::Duration;

use super::ast::{Comparison, Expression, Operand, Projection, Select};
use super::filter::{Filter, compare};
use crate::{Class, Error, Instance, Schema, Status, case, limit};

/// The class above all events about instances.
pub const OPERATION_EVENT: &str = "__InstanceOperationEvent";
/// The property of an event that holds the instance as it is, or for a deletion as it was last.
pub const TARGET: &str = "TargetInstance";
/// The property of a modification that holds the instance as it was before.
pub const PREVIOUS: &str = "PreviousInstance";

/// An event query resolved against a schema: made by [`Select::resolve_events`].
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// What stands in FROM, and the projection; its own condition selects everything.
    event: Filter,
    within: Duration,
    condition: Condition,
}

/// Which of the instances that an event holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Target,
    Previous,
}

#[derive(Debug, Clone)]
enum Condition {
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    /// Of the event itself.
    Event(Filter),
    /// Of an instance that it holds.
    Held {
        side: Side,
        filter: Filter,
    },
    /// The class of an instance that it holds.
    Isa {
        side: Side,
        class: String,
    },
    /// A property of the one instance compared with a property of the other, both of this class.
    Across {
        class: String,
        left: (Side, usize),
        comparison: Comparison,
        right: (Side, usize),
    },
}

impl Select {
    /// Checks an event query against a schema. `host` is what `__SERVER` means.
    ///
    /// # Errors
    /// [`Status::InvalidClass`] for unknown classes, [`Status::NotEventClass`] if FROM names no event,
    /// [`Status::NotSupported`] for events that are not about instances, [`Status::InvalidQuery`] for a condition that
    /// does not say which class it is about, or that makes no sense.
    pub fn resolve_events(&self, schema: &Schema, host: &str) -> Result<EventFilter, Error> {
        let class = schema.class(&self.class).ok_or_else(|| Error::invalid_class(&self.class))?;
        if !class.is_a(OPERATION_EVENT) {
            return Err(match class.is_a("__Event") {
                true => Error::not_supported(format!(
                    "following class {}, which is not below {OPERATION_EVENT},",
                    class.name
                )),
                false => Error::new(Status::NotEventClass, format!("class {} is no event class", class.name)),
            });
        }
        let condition = self.condition.as_ref().filter(|condition| names_class(condition)).ok_or_else(|| {
            Error::invalid_query(format!("an event query needs WHERE {TARGET} ISA '<class>': it says what to follow"))
        })?;
        let resolver = Resolver { event: class, schema, host };
        let seconds = self.within_seconds.unwrap_or_default().min(limit::EVENT_INTERVAL_SECONDS);
        let within = Duration::try_from_secs_f64(seconds)
            .map_err(|_| Error::invalid_query(format!("{seconds} s is no interval for WITHIN")))?;
        let event = resolver.filter(class, None, &self.projection)?;
        Ok(EventFilter { event, within, condition: resolver.condition(condition, None)? })
    }
}

/// Whether the condition leaves only events of classes that it names.
fn names_class(expression: &Expression) -> bool {
    match expression {
        Expression::Isa { name, .. } => case::eq(name, TARGET),
        Expression::And(parts) => parts.iter().any(names_class),
        Expression::Or(parts) => parts.iter().all(names_class),
        _ => false,
    }
}

struct Resolver<'a> {
    event: &'a Class,
    schema: &'a Schema,
    host: &'a str,
}

impl<'a> Resolver<'a> {
    /// `scope` is the class that dotted names are looked up in: the one that the nearest conjunction around names.
    fn condition(&self, expression: &Expression, scope: Option<&'a Class>) -> Result<Condition, Error> {
        let all = |parts: &[Expression], scope| {
            parts.iter().map(|part| self.condition(part, scope)).collect::<Result<Vec<_>, Error>>()
        };
        Ok(match expression {
            Expression::And(parts) => Condition::And(all(parts, self.scope_of(parts)?.or(scope))?),
            Expression::Or(parts) => Condition::Or(all(parts, scope)?),
            Expression::Not(inner) => Condition::Not(Box::new(self.condition(inner, scope)?)),
            Expression::Isa { name, class } if side_of(name).is_none_or(|(_, rest)| rest.is_some()) => {
                return Err(Error::invalid_query(format!(
                    "{name} ISA '{class}': only {TARGET} and {PREVIOUS} can be ISA"
                )));
            }
            Expression::Isa { name, class } => {
                let side = side_of(name).map_or(Side::Target, |(side, _)| side);
                Condition::Isa { side, class: self.class(class)?.name.clone() }
            }
            Expression::Like { name, .. } | Expression::IsNull { name } => self.about(expression, name, scope)?,
            Expression::Compare { left, comparison, right } => match (left, right) {
                (Operand::Name(left), Operand::Name(right)) => {
                    self.names(expression, left, *comparison, right, scope)?
                }
                (Operand::Name(name), _) | (_, Operand::Name(name)) => self.about(expression, name, scope)?,
                _ => return Err(Error::invalid_query("a comparison of the query has no property")),
            },
        })
    }

    /// The class that one of these parts of a conjunction says the target is of.
    fn scope_of(&self, parts: &[Expression]) -> Result<Option<&'a Class>, Error> {
        let named = parts.iter().find_map(|part| match part {
            Expression::Isa { name, class } if case::eq(name, TARGET) => Some(class),
            _ => None,
        });
        named.map(|class| self.class(class)).transpose()
    }

    /// A piece that speaks of one name.
    fn about(&self, expression: &Expression, name: &str, scope: Option<&'a Class>) -> Result<Condition, Error> {
        match side_of(name) {
            Some((side, Some(_))) => self.held(expression, side, scope_for(name, scope)?),
            _ => Ok(Condition::Event(self.filter(self.event, Some(expression.clone()), &Projection::All)?)),
        }
    }

    fn names(
        &self,
        expression: &Expression,
        left: &str,
        comparison: Comparison,
        right: &str,
        scope: Option<&'a Class>,
    ) -> Result<Condition, Error> {
        match (side_of(left), side_of(right)) {
            (Some((left_side, Some(left_name))), Some((right_side, Some(right_name)))) if left_side != right_side => {
                let class = scope_for(left, scope)?;
                let position = |name: &str| {
                    let unknown = || Error::invalid_query(format!("class {} has no property {name}", class.name));
                    class.position(name).ok_or_else(unknown)
                };
                let (left, right) = ((left_side, position(left_name)?), (right_side, position(right_name)?));
                Ok(Condition::Across { class: class.name.clone(), left, comparison, right })
            }
            (Some((side, Some(_))), _) | (_, Some((side, Some(_)))) => {
                self.held(expression, side, scope_for(left, scope)?)
            }
            _ => self.about(expression, left, scope),
        }
    }

    /// A piece about an instance that the event holds, with the names cut down to those of its class.
    fn held(&self, expression: &Expression, side: Side, class: &'a Class) -> Result<Condition, Error> {
        Ok(Condition::Held { side, filter: self.filter(class, Some(undotted(expression)), &Projection::All)? })
    }

    fn filter(&self, class: &Class, condition: Option<Expression>, projection: &Projection) -> Result<Filter, Error> {
        let (class, projection) = (class.name.clone(), projection.clone());
        Select { projection, class, within_seconds: None, condition }.resolve(self.schema, self.host)
    }

    fn class(&self, name: &str) -> Result<&'a Class, Error> {
        self.schema.class(name).map(|class| &**class).ok_or_else(|| Error::invalid_class(name))
    }
}

fn scope_for<'a>(name: &str, scope: Option<&'a Class>) -> Result<&'a Class, Error> {
    scope.ok_or_else(|| {
        Error::invalid_query(format!("{name} has no class: say {TARGET} ISA '<class>' AND … in the same parentheses"))
    })
}

/// Which held instance a name speaks of, and which property of it, if not of the whole.
fn side_of(name: &str) -> Option<(Side, Option<&str>)> {
    let (holder, property) = match name.split_once('.') {
        Some((holder, property)) => (holder, Some(property)),
        None => (name, None),
    };
    let sides = [(TARGET, Side::Target), (PREVIOUS, Side::Previous)];
    sides.into_iter().find(|(known, _)| case::eq(known, holder)).map(|(_, side)| (side, property))
}

/// The piece without the holder in front of its names.
fn undotted(expression: &Expression) -> Expression {
    let short = |name: &str| side_of(name).and_then(|(_, property)| property).unwrap_or(name).to_owned();
    let operand = |operand: &Operand| match operand {
        Operand::Name(name) => Operand::Name(short(name)),
        Operand::Literal(literal) => Operand::Literal(literal.clone()),
    };
    match expression {
        Expression::Like { name, pattern } => Expression::Like { name: short(name), pattern: pattern.clone() },
        Expression::IsNull { name } => Expression::IsNull { name: short(name) },
        Expression::Compare { left, comparison, right } => {
            Expression::Compare { left: operand(left), comparison: *comparison, right: operand(right) }
        }
        other => other.clone(),
    }
}

impl EventFilter {
    /// The event class in FROM: events of this class and those below it are wanted.
    pub fn class(&self) -> &Arc<Class> {
        self.event.class()
    }

    /// The properties of the event asked for; `None` for all.
    pub fn projection(&self) -> Option<&[String]> {
        self.event.projection()
    }

    /// How long a change may go unreported, and how often one instance is reported at most: the interval after WITHIN,
    /// zero if there is none.
    pub fn within(&self) -> Duration {
        self.within
    }

    /// Whether events about instances of exactly this class may be selected; false is certain.
    pub fn admits(&self, class: &Class) -> bool {
        self.condition.admits(class)
    }

    /// Whether an event is selected.
    pub fn matches(&self, event: &Instance) -> bool {
        event.class().is_a(&self.class().name) && self.condition.holds(event)
    }
}

impl Condition {
    fn admits(&self, class: &Class) -> bool {
        match self {
            Condition::And(parts) => parts.iter().all(|part| part.admits(class)),
            Condition::Or(parts) => parts.iter().any(|part| part.admits(class)),
            Condition::Isa { class: wanted, .. } => class.is_a(wanted),
            _ => true,
        }
    }

    fn holds(&self, event: &Instance) -> bool {
        match self {
            Condition::And(parts) => parts.iter().all(|part| part.holds(event)),
            Condition::Or(parts) => parts.iter().any(|part| part.holds(event)),
            Condition::Not(inner) => !inner.holds(event),
            Condition::Event(filter) => event.class().is_a(&filter.class().name) && filter.matches(event),
            Condition::Isa { side, class } => held(event, *side, class).is_some(),
            Condition::Held { side, filter } => {
                held(event, *side, &filter.class().name).is_some_and(|instance| filter.matches(instance))
            }
            Condition::Across { class, left, comparison, right } => {
                let value = |(side, position): &(Side, usize)| held(event, *side, class)?.at(*position);
                matches!((value(left), value(right)), (Some(a), Some(b)) if compare(a, *comparison, b))
            }
        }
    }
}

/// The instance on this side of the event, if it is there and of the class.
fn held<'a>(event: &'a Instance, side: Side, class: &str) -> Option<&'a Instance> {
    let name = if side == Side::Target { TARGET } else { PREVIOUS };
    event.get(name)?.as_object().filter(|instance| instance.class().is_a(class))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::wql::{Query, parse};
    use crate::{Value, mof};

    fn schema() -> Schema {
        let classes = "
            class __Event { uint64 TIME_CREATED; };
            class __ExtrinsicEvent : __Event {};
            class __InstanceOperationEvent : __Event { object TargetInstance; };
            class __InstanceCreationEvent : __InstanceOperationEvent {};
            class __InstanceModificationEvent : __InstanceOperationEvent { object PreviousInstance; };
            class Job { [Key] string Name; uint16 State; uint16 Code; };
            class ConcreteJob : Job { uint16 Percent; };
            class Machine { [Key] string Name; uint16 Power; };";
        Schema::new("root/v2", mof::parse_classes(classes).unwrap()).unwrap()
    }

    fn resolve(schema: &Schema, text: &str) -> Result<EventFilter, Error> {
        let Query::Select(select) = parse(text)? else { panic!("{text} is a selection") };
        select.resolve_events(schema, "HOST")
    }

    fn job(schema: &Schema, state: u16, percent: u16) -> Instance {
        let job = Instance::new(schema.class("ConcreteJob").unwrap());
        job.with("Name", "J").with("State", state).with("Percent", percent)
    }

    /// A job that came into being, one that ended, and a machine that was turned on.
    fn events(schema: &Schema) -> [Instance; 3] {
        let event = |class: &str, target: Instance, previous: Option<Instance>| {
            let event = Instance::new(schema.class(class).unwrap()).with(TARGET, target);
            event.with("TIME_CREATED", 5u64).with_some(PREVIOUS, previous.map(Value::from))
        };
        let machine =
            |power: u16| Instance::new(schema.class("Machine").unwrap()).with("Name", "M").with("Power", power);
        let modified = "__InstanceModificationEvent";
        [
            event("__InstanceCreationEvent", job(schema, 4, 0), None),
            event(modified, job(schema, 7, 100), Some(job(schema, 4, 50))),
            event(modified, machine(2), Some(machine(3))),
        ]
    }

    #[test]
    fn conditions_choose_among_events() {
        fn check(from: &str, condition: &str, expected: Expect) {
            let schema = schema();
            let filter = resolve(&schema, &format!("select * from {from} within 1 where {condition}")).unwrap();
            let [created, ended, started] = events(&schema).map(|event| filter.matches(&event));
            let followed = ["Job", "ConcreteJob", "Machine"].map(|class| filter.admits(schema.class(class).unwrap()));
            expected.assert_eq(&format!("created {created} ended {ended} started {started} {followed:?}"));
        }
        let (any, modified) = ("__InstanceOperationEvent", "__instancemodificationevent");
        check(any, "TargetInstance ISA 'Job'", expect!["created true ended true started false [true, true, false]"]);
        check(
            any,
            "targetinstance isa \"concretejob\"",
            expect!["created true ended true started false [false, true, false]"],
        );
        check(
            modified,
            "TargetInstance ISA 'Job'",
            expect!["created false ended true started false [true, true, false]"],
        );
        check(
            any,
            "TargetInstance ISA 'Job' OR TargetInstance ISA 'Machine'",
            expect!["created true ended true started true [true, true, true]"],
        );
        check(
            any,
            "(TargetInstance.State = 4 AND TargetInstance ISA 'Job') OR (TargetInstance ISA 'Machine' AND TargetInstance.Power = 2)",
            expect!["created true ended false started true [true, true, true]"],
        );
        check(
            modified,
            "TargetInstance ISA 'Job' AND TargetInstance.State = 7 AND PreviousInstance.State <> 7",
            expect!["created false ended true started false [true, true, false]"],
        );
        check(
            any,
            "TargetInstance ISA 'Job' AND TargetInstance.State <> PreviousInstance.State",
            expect!["created false ended true started false [true, true, false]"],
        );
        check(
            any,
            "TargetInstance ISA 'ConcreteJob' AND NOT PreviousInstance.Percent < TargetInstance.Percent",
            expect!["created true ended false started false [false, true, false]"],
        );
        check(
            any,
            "TargetInstance ISA 'Job' AND (TargetInstance.Name LIKE 'j%' AND TargetInstance.Code IS NULL) AND TargetInstance.Name <> __SERVER",
            expect!["created true ended true started false [true, true, false]"],
        );
        check(
            any,
            "TargetInstance ISA 'Job' AND __CLASS = '__InstanceCreationEvent' AND TIME_CREATED > 4",
            expect!["created true ended false started false [true, true, false]"],
        );
        check(
            modified,
            "TargetInstance ISA 'Job' AND PreviousInstance ISA 'ConcreteJob' AND PreviousInstance IS NOT NULL AND TargetInstance.__CLASS = 'concreteJob'",
            expect!["created false ended true started false [false, true, false]"],
        );
        check(
            any,
            "TargetInstance ISA 'Job' AND TargetInstance.State < TargetInstance.Code",
            expect!["created false ended false started false [true, true, false]"],
        );
    }

    #[test]
    fn intervals_and_projections() {
        fn check(text: &str, expected: Expect) {
            let shown = match resolve(&schema(), text) {
                Ok(filter) => format!("{} {:?} {:?}", filter.class().name, filter.within(), filter.projection()),
                Err(error) => format!("{}: {error}", error.status),
            };
            expected.assert_eq(&shown);
        }
        let end = "where TargetInstance isa 'Job'";
        check(&format!("select * from __InstanceCreationEvent {end}"), expect!["__InstanceCreationEvent 0ns None"]);
        check(
            &format!("select TargetInstance from __InstanceCreationEvent within 0.25 {end}"),
            expect![[r#"__InstanceCreationEvent 250ms Some(["TargetInstance"])"#]],
        );
        check(
            &format!("select * from __InstanceCreationEvent within 1e300 {end}"),
            expect!["__InstanceCreationEvent 86400s None"],
        );
        check(
            &format!("select TargetInstance.Name from __InstanceCreationEvent {end}"),
            expect!["WBEM_E_INVALID_QUERY: class __InstanceCreationEvent has no property TargetInstance.Name"],
        );
    }

    fn refused(from: &str, condition: &str, expected: Expect) {
        let error = resolve(&schema(), &format!("select * from {from} {condition}")).unwrap_err();
        expected.assert_eq(&format!("{}: {error}", error.status));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let any = "__InstanceOperationEvent";
        refused("Nothing", "", expect!["WBEM_E_INVALID_CLASS: there is no class Nothing in this namespace"]);
        refused("Job", "", expect!["WBEM_E_NOT_EVENT_CLASS: class Job is no event class"]);
        refused(
            "__ExtrinsicEvent",
            "",
            expect![
                "WBEM_E_NOT_SUPPORTED: following class __ExtrinsicEvent, which is not below __InstanceOperationEvent, is not supported"
            ],
        );
        refused(
            any,
            "",
            expect![
                "WBEM_E_INVALID_QUERY: an event query needs WHERE TargetInstance ISA '<class>': it says what to follow"
            ],
        );
        refused(
            any,
            "where TargetInstance isa 'Job' or TIME_CREATED > 1",
            expect![
                "WBEM_E_INVALID_QUERY: an event query needs WHERE TargetInstance ISA '<class>': it says what to follow"
            ],
        );
        refused(
            any,
            "where not TargetInstance isa 'Job'",
            expect![
                "WBEM_E_INVALID_QUERY: an event query needs WHERE TargetInstance ISA '<class>': it says what to follow"
            ],
        );
    }

    #[test]
    fn conditions_that_make_no_sense_are_refused() {
        let any = "__InstanceOperationEvent";
        refused(
            any,
            "where TargetInstance isa 'Cat'",
            expect!["WBEM_E_INVALID_CLASS: there is no class Cat in this namespace"],
        );
        refused(
            any,
            "where TargetInstance isa 'Job' and TargetInstance.Tail = 1",
            expect!["WBEM_E_INVALID_QUERY: class Job has no property Tail"],
        );
        refused(
            any,
            "where TargetInstance isa 'Job' and TargetInstance.Tail = PreviousInstance.Name",
            expect!["WBEM_E_INVALID_QUERY: class Job has no property Tail"],
        );
        refused(
            any,
            "where TargetInstance isa 'Job' and Name = 'x'",
            expect!["WBEM_E_INVALID_QUERY: class __InstanceOperationEvent has no property Name"],
        );
        refused(
            any,
            "where TargetInstance isa 'Job' and TargetInstance.Name isa 'Job'",
            expect![
                "WBEM_E_INVALID_QUERY: TargetInstance.Name ISA 'Job': only TargetInstance and PreviousInstance can be ISA"
            ],
        );
        refused(
            any,
            "where (TargetInstance isa 'Job' or TargetInstance isa 'Machine') and TargetInstance.Name = 'x'",
            expect![
                "WBEM_E_INVALID_QUERY: TargetInstance.Name has no class: say TargetInstance ISA '<class>' AND … in the same parentheses"
            ],
        );
        refused(
            any,
            "within 1 where TargetInstance isa 'Job' and 1 = 1",
            expect!["WBEM_E_INVALID_QUERY: a comparison of the query has no property"],
        );
        refused(
            any,
            "within 1 where TargetInstance isa 'Job' group within 5",
            expect!["WBEM_E_INVALID_QUERY: the query is wrong at byte 79: expected the end of the query"],
        );
    }
}
