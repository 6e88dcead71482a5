//! From a selection as written to one whose names and literals fit the schema.

use std::sync::Arc;

use super::ast::{Comparison, Expression, Literal, Operand, Projection, Select};
use super::filter::{Condition, Filter, admits, order};
use super::like::Pattern;
use crate::class::Property;
use crate::{CimType, Class, Error, ObjectPath, Schema, Value, case};

/// System properties a projection may name: they come from the row's path, not from the instance.
const SYSTEM_PROPERTIES: [&str; 5] = ["__PATH", "__RELPATH", "__CLASS", "__SERVER", "__NAMESPACE"];

impl Select {
    /// Checks names and literals against a schema. `host` is what `__SERVER` means.
    ///
    /// # Errors
    /// [`crate::Status::InvalidClass`] for an unknown class, [`crate::Status::InvalidQuery`] for a property it does not
    /// have or a comparison that makes no sense.
    pub fn resolve(&self, schema: &Schema, host: &str) -> Result<Filter, Error> {
        let class = schema.class(&self.class).ok_or_else(|| Error::invalid_class(&self.class))?;
        let resolver = Resolver { class, schema, host };
        Ok(Filter {
            class: Arc::clone(class),
            projection: resolver.projection(&self.projection)?,
            condition: self.condition.as_ref().map_or(Ok(Condition::Always(true)), |c| resolver.condition(c))?,
            host: host.to_owned(),
            namespace: schema.namespace().to_owned(),
        })
    }
}

struct Resolver<'a> {
    class: &'a Class,
    schema: &'a Schema,
    host: &'a str,
}

/// What a name in a condition means.
enum Subject<'a> {
    Property(usize, &'a Property),
    ClassName,
    Path { relative: bool },
    Text(&'a str),
}

impl<'a> Resolver<'a> {
    fn projection(&self, projection: &Projection) -> Result<Option<Vec<String>>, Error> {
        let Projection::Names(names) = projection else { return Ok(None) };
        let mut resolved: Vec<String> = Vec::with_capacity(names.len());
        for name in names {
            let canonical = match SYSTEM_PROPERTIES.iter().find(|system| case::eq(system, name)) {
                Some(system) => (*system).to_owned(),
                None => self.property(name)?.1.name.clone(),
            };
            if !resolved.contains(&canonical) {
                resolved.push(canonical);
            }
        }
        Ok(Some(resolved))
    }

    fn condition(&self, expression: &Expression) -> Result<Condition, Error> {
        let all = |parts: &[Expression]| parts.iter().map(|part| self.condition(part)).collect::<Result<Vec<_>, _>>();
        Ok(match expression {
            Expression::And(parts) => Condition::And(all(parts)?),
            Expression::Or(parts) => Condition::Or(all(parts)?),
            Expression::Not(inner) => Condition::Not(Box::new(self.condition(inner)?)),
            Expression::IsNull { name } => match self.subject(name)? {
                Subject::Property(position, _) => Condition::Null { position },
                _ => Condition::Always(false),
            },
            Expression::Like { name, pattern } => self.like(name, pattern)?,
            Expression::Isa { name, class } => self.isa(name, class)?,
            Expression::Compare { left, comparison, right } => match (left, right) {
                (Operand::Name(left), Operand::Name(right)) => self.names(left, *comparison, right)?,
                (Operand::Name(name), Operand::Literal(literal)) => self.literal(name, *comparison, literal)?,
                (Operand::Literal(literal), Operand::Name(name)) => {
                    self.literal(name, mirrored(*comparison), literal)?
                }
                (Operand::Literal(_), Operand::Literal(_)) => {
                    return Err(Error::invalid_query("a comparison of the query has no property"));
                }
            },
        })
    }

    fn like(&self, name: &str, pattern: &str) -> Result<Condition, Error> {
        let pattern = Pattern::new(pattern);
        Ok(match self.subject(name)? {
            Subject::Property(position, property) => match property.data_type.cim_type {
                CimType::String if !property.data_type.is_array => Condition::Like { position, pattern },
                _ => return Err(Error::invalid_query(format!("LIKE needs a string, and property {name} is none"))),
            },
            Subject::ClassName => Condition::ClassLike(pattern),
            Subject::Path { relative } => Condition::PathLike { pattern, relative },
            Subject::Text(text) => Condition::Always(pattern.matches(text)),
        })
    }

    fn isa(&self, name: &str, class: &str) -> Result<Condition, Error> {
        let class = self.schema.class(class).ok_or_else(|| Error::invalid_class(class))?.name.clone();
        if case::eq(name, "__THIS") || case::eq(name, "__CLASS") {
            return Ok(Condition::Isa { position: None, class });
        }
        match self.property(name)? {
            (position, property) if property.data_type.is_embedded() && !property.data_type.is_array => {
                Ok(Condition::Isa { position: Some(position), class })
            }
            _ => Err(Error::invalid_query(format!("ISA needs an object, and property {name} is none"))),
        }
    }

    fn names(&self, left: &str, comparison: Comparison, right: &str) -> Result<Condition, Error> {
        match (self.subject(left)?, self.subject(right)?) {
            (Subject::Property(left, _), Subject::Property(right, _)) => {
                Ok(Condition::Properties { left, comparison, right })
            }
            (_, Subject::Text(text)) => self.literal(left, comparison, &Literal::String(text.to_owned())),
            (Subject::Text(text), _) => self.literal(right, mirrored(comparison), &Literal::String(text.to_owned())),
            _ => Err(Error::invalid_query(format!("{left} and {right} cannot be compared with each other"))),
        }
    }

    fn literal(&self, name: &str, comparison: Comparison, literal: &Literal) -> Result<Condition, Error> {
        match self.subject(name)? {
            Subject::Property(position, property) => {
                if let Some(condition) = path_in_text(position, property, comparison, literal) {
                    return Ok(condition);
                }
                let constant = typed(property, literal)?;
                Ok(Condition::Constant { position, comparison, constant })
            }
            Subject::ClassName => Ok(Condition::ClassName { comparison, name: text_of(name, literal)?.to_owned() }),
            Subject::Path { .. } => {
                let path = ObjectPath::parse(text_of(name, literal)?)
                    .map_err(|error| Error::invalid_query(error.to_string()))?;
                let path = Condition::Path(self.with_key_names(path));
                match comparison {
                    Comparison::Equal => Ok(path),
                    Comparison::NotEqual => Ok(Condition::Not(Box::new(path))),
                    _ => Err(Error::invalid_query("paths can only be equal or not")),
                }
            }
            Subject::Text(text) => {
                let other = Value::from(text_of(name, literal)?);
                Ok(Condition::Always(admits(comparison, order(&Value::from(text), &other))))
            }
        }
    }

    /// The path with the name of its only key, if it was written as `Class="value"`.
    fn with_key_names(&self, mut path: ObjectPath) -> ObjectPath {
        if let ([(name, _)], Some(class)) = (path.keys.as_mut_slice(), self.schema.class(&path.class))
            && let (true, Some(key)) = (name.is_empty(), class.keys().next())
        {
            *name = key.name.clone();
        }
        path
    }

    fn subject(&self, name: &str) -> Result<Subject<'a>, Error> {
        let found = SYSTEM_PROPERTIES.into_iter().find(|system| case::eq(system, name));
        Ok(match found {
            Some("__CLASS") => Subject::ClassName,
            Some("__PATH") => Subject::Path { relative: false },
            Some("__RELPATH") => Subject::Path { relative: true },
            Some("__SERVER") => Subject::Text(self.host),
            Some("__NAMESPACE") => Subject::Text(self.schema.namespace()),
            _ => {
                let (position, property) = self.property(name)?;
                Subject::Property(position, property)
            }
        })
    }

    fn property(&self, name: &str) -> Result<(usize, &'a Property), Error> {
        let position = self.class.position(name);
        let found = position.and_then(|at| Some((at, self.class.properties().get(at)?)));
        found.ok_or_else(|| Error::invalid_query(format!("class {} has no property {name}", self.class.name)))
    }
}

/// The condition of a string property that is compared with a whole object path: strings such as `Parent` hold paths, and
/// clients write `.` for the host or the class in another case. What begins with two backslashes and is a path is meant as one.
fn path_in_text(position: usize, property: &Property, comparison: Comparison, literal: &Literal) -> Option<Condition> {
    let Literal::String(text) = literal else { return None };
    let is_string = property.data_type.cim_type == CimType::String && !property.data_type.is_array;
    let path = ObjectPath::parse(text).ok().filter(|_| is_string && text.starts_with(r"\\"))?;
    let same = Condition::PathText { position, path };
    match comparison {
        Comparison::Equal => Some(same),
        // NULL is neither the same nor another path.
        Comparison::NotEqual => Some(Condition::And(vec![
            Condition::Not(Box::new(Condition::Null { position })),
            Condition::Not(Box::new(same)),
        ])),
        _ => None,
    }
}

/// The literal as a constant of the property's type, or of a type that compares with it.
fn typed(property: &Property, literal: &Literal) -> Result<Value, Error> {
    let cim_type = property.data_type.cim_type;
    let wrong = || {
        let (name, data_type) = (&property.name, &property.data_type);
        Error::invalid_query(format!("property {name} is {data_type} and cannot be compared with {literal}"))
    };
    if property.data_type.is_array {
        return Err(wrong());
    }
    let is_number = cim_type.is_integer() || matches!(cim_type, CimType::Real32 | CimType::Real64);
    match literal {
        // A number out of the property's range is still a number: it is just never equal.
        Literal::Integer(integer) if is_number => {
            Ok(Value::from_integer(cim_type, *integer).unwrap_or_else(|| number(*integer)))
        }
        Literal::Real(real) if is_number => Ok(Value::R64(*real)),
        Literal::String(text) if is_number => {
            let wide = [cim_type, CimType::UInt64, CimType::SInt64, CimType::Real64];
            wide.into_iter().find_map(|cim_type| Value::parse(cim_type, text).ok()).ok_or_else(wrong)
        }
        Literal::String(text) => Value::parse(cim_type, text).map_err(|_| wrong()),
        Literal::Boolean(b) if cim_type == CimType::Boolean => Ok(Value::Bool(*b)),
        Literal::Integer(integer) if matches!(cim_type, CimType::Boolean | CimType::String) => {
            Value::parse(cim_type, &integer.to_string()).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

/// A literal as the narrowest of the two wide types; the lexer reads no wider ones.
fn number(integer: i128) -> Value {
    let wide = Value::from_integer(CimType::UInt64, integer).or_else(|| Value::from_integer(CimType::SInt64, integer));
    wide.unwrap_or(Value::R64(f64::NAN))
}

fn text_of<'a>(name: &str, literal: &'a Literal) -> Result<&'a str, Error> {
    match literal {
        Literal::String(text) => Ok(text),
        _ => Err(Error::invalid_query(format!("{name} can only be compared with text"))),
    }
}

/// The comparison with its sides exchanged.
fn mirrored(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Less => Comparison::Greater,
        Comparison::LessOrEqual => Comparison::GreaterOrEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        same @ (Comparison::Equal | Comparison::NotEqual) => same,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::wql::{Query, parse};
    use crate::{Instance, mof};

    fn schema() -> Schema {
        let classes = r#"
            class Base { [Key] string Name; uint16 State; };
            class Machine : Base {
                [Key] string Creator; string Caption; uint64 Size; boolean On; datetime Since; real32 Load; uint8 List[];
                Base REF Parent; string ParentPath; [EmbeddedObject] string Inner;
            };
            class Other : Base {};"#;
        Schema::new("root/v2", mof::parse_classes(classes).unwrap()).unwrap()
    }

    fn machine(schema: &Schema) -> Instance {
        Instance::new(schema.class("Machine").unwrap())
            .with("Name", "Microsoft:AB\\0")
            .with("Creator", "Machine")
            .with("State", 300u16)
            .with("Size", u64::MAX)
            .with("On", false)
            .with("Since", crate::DateTime::parse("2025-01-02T03:04:05Z").unwrap())
            .with("Load", 0.5f32)
            .with("List", vec![1u8])
            .with("Parent", ObjectPath::parse(r#"\\HOST\root\v2:Base.Name="x""#).unwrap())
            .with("ParentPath", r#"\\HOST\root\v2:Base.Name="Microsoft:a\\b""#)
            .with("Inner", Instance::new(schema.class("Other").unwrap()))
    }

    fn filter(schema: &Schema, class: &str, condition: &str) -> Result<Filter, Error> {
        let Query::Select(select) = parse(&format!("select * from {class} where {condition}"))? else {
            panic!("the text is a selection");
        };
        select.resolve(schema, "HOST")
    }

    /// Holds: WIRE-G1-1, WIRE-G1-2, WIRE-G3-1, WIRE-G4-1
    #[test]
    fn conditions_are_evaluated() {
        fn check(condition: &str, expected: bool) {
            let schema = schema();
            let filter = filter(&schema, "Machine", condition).unwrap();
            assert_eq!(filter.matches(&machine(&schema)), expected, "{condition}");
        }
        check("name = 'MICROSOFT:ab\\0'", true);
        check(r"Name = 'Microsoft:AB\\0'", true);
        check("Name != __SERVER", true);
        check("__SERVER = 'host' and __NAMESPACE = 'ROOT\\v2'", true);
        check("Name > 'L' and Name < 'n'", true);
        check("State = 300 and State = '300' and State < 300.5 and 299 < State", true);
        check("State <> 70000 and not State = 70000 and State > -1", true);
        check("Size = 18446744073709551615 and Size > 18446744073709551614", true);
        check("Size < 0xffffffffffffffff", false);
        check("On = FALSE and On = 'false' and On = 0 and On <> true", true);
        check("Since > '20250101000000.000000+000' and Since = '2025-01-02T04:04:05+01:00'", true);
        check("Since = 'PT1S'", false);
        check("Load >= 0.5 and Load < 1", true);
        check("Caption = '' or Caption <> 'x' or Caption like '%'", false);
        check("Caption is null and Name is not null and not (List is null)", true);
        check("Name like 'Microsoft:%' and Name not like '%\\\\'", true);
        check("__CLASS = 'machine' and __CLASS like 'm%' and __CLASS <> 'Base'", true);
        check("__this isa 'Base' and __this isa Machine and not __class isa 'other'", true);
        check("Inner isa 'Base' and not Inner isa 'Machine'", true);
        check("Name = Creator", false);
        check("Creator = Creator and Name <> Creator and Caption <> Creator", false);
        check(r#"Parent = '\\\\.\\root\\v2:base.name="X"'"#, true);
        check(r#"__PATH = '\\\\host\\root\\v2:Machine.Creator="machine",Name="Microsoft:ab\\\\0"'"#, true);
        check(r#"__PATH = '\\\\other\\root\\v2:Machine.Creator="machine",Name="Microsoft:ab\\\\0"'"#, false);
        check(r#"__RELPATH = 'Machine.Creator="machine",Name="Microsoft:AB\0"'"#, true);
        check(r#"__RELPATH <> 'Machine.Creator="machine",Name="x"'"#, true);
        check("__PATH like '%host%machine.name=%' and __RELPATH like 'machine.%'", true);
    }

    /// Holds: WIRE-G4-2
    #[test]
    fn paths_in_strings_are_compared_as_paths() {
        fn check(condition: &str, expected: bool) {
            let schema = schema();
            let filter = filter(&schema, "Machine", condition).unwrap();
            assert_eq!(filter.matches(&machine(&schema)), expected, "{condition}");
        }
        check(r#"ParentPath = '\\\\HOST\\root\\v2:Base.Name="Microsoft:a\\\\b"'"#, true);
        check(r#"ParentPath = '\\\\.\\ROOT\\V2:base.NAME="microsoft:A\\\\B"'"#, true);
        check(r#"ParentPath <> '\\\\.\\root\\v2:base.Name="microsoft:a\\\\b"'"#, false);
        check(r#"ParentPath = '\\\\OTHER\\root\\v2:Base.Name="Microsoft:a\\\\b"'"#, false);
        check(r#"ParentPath <> '\\\\.\\root\\v2:Base.Name="other"'"#, true);
        check(r#"ParentPath = 'Base.Name="Microsoft:a\\\\b"'"#, false);
        check(r#"Caption = '\\\\.\\root\\v2:Base.Name="x"' or Caption <> '\\\\.\\root\\v2:Base.Name="x"'"#, false);
        check(r#"Name = '\\\\.\\root\\v2:Base.Name="x"'"#, false);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        fn check(class: &str, condition: &str, expected: Expect) {
            let error = filter(&schema(), class, condition).unwrap_err();
            expected.assert_eq(&format!("{}: {error}", error.status));
        }
        check("Nothing", "a = 1", expect!["WBEM_E_INVALID_CLASS: there is no class Nothing in this namespace"]);
        check("Base", "Size = 1", expect!["WBEM_E_INVALID_QUERY: class Base has no property Size"]);
        check(
            "Machine",
            "State = 'x'",
            expect![[r#"WBEM_E_INVALID_QUERY: property State is uint16 and cannot be compared with "x""#]],
        );
        check(
            "Machine",
            "State = true",
            expect!["WBEM_E_INVALID_QUERY: property State is uint16 and cannot be compared with true"],
        );
        check(
            "Machine",
            "List = 1",
            expect!["WBEM_E_INVALID_QUERY: property List is uint8[] and cannot be compared with 1"],
        );
        check(
            "Machine",
            "State like '3%'",
            expect!["WBEM_E_INVALID_QUERY: LIKE needs a string, and property State is none"],
        );
        check("Machine", "1 = 1", expect!["WBEM_E_INVALID_QUERY: a comparison of the query has no property"]);
        check(
            "Machine",
            "__PATH > 'Machine.Name=\"x\"'",
            expect!["WBEM_E_INVALID_QUERY: paths can only be equal or not"],
        );
        check(
            "Machine",
            "__PATH = 'no path'",
            expect!["WBEM_E_INVALID_QUERY: the object path is wrong at byte 3: expected the end of the path"],
        );
        check("Machine", "__CLASS = 5", expect!["WBEM_E_INVALID_QUERY: __CLASS can only be compared with text"]);
        check(
            "Machine",
            "__CLASS = Name",
            expect!["WBEM_E_INVALID_QUERY: __CLASS and Name cannot be compared with each other"],
        );
        check(
            "Machine",
            "Name isa 'Base'",
            expect!["WBEM_E_INVALID_QUERY: ISA needs an object, and property Name is none"],
        );
        check(
            "Machine",
            "__this isa 'Nothing'",
            expect!["WBEM_E_INVALID_CLASS: there is no class Nothing in this namespace"],
        );
        check("Machine", "Inner.Name = 'x'", expect!["WBEM_E_INVALID_QUERY: class Machine has no property Inner.Name"]);
    }

    #[test]
    fn keys_to_look_up_by_are_found() {
        fn check(condition: &str, expected: Expect) {
            let schema = schema();
            let filter = filter(&schema, "Machine", condition).unwrap();
            let show =
                |list: Vec<(&str, &Value)>| list.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ");
            expected.assert_eq(&format!("keys: {}, all: {}", show(filter.key_equalities()), show(filter.equalities())));
        }
        check(
            "name = 'x' and (State = 2 and Creator = 'y') and Size > 1",
            expect!["keys: Name=x Creator=y, all: Name=x State=2 Creator=y"],
        );
        check("Name = 'x' or Creator = 'y'", expect!["keys: , all: "]);
        check("not Name = 'x'", expect!["keys: , all: "]);
        check(r#"__PATH = 'Machine.Name="x",Creator="y"'"#, expect!["keys: Name=x Creator=y, all: Name=x Creator=y"]);
    }

    #[test]
    fn projections_are_canonical() {
        fn check(text: &str, expected: Expect) {
            let Ok(Query::Select(select)) = parse(text) else { panic!("{text} is a selection") };
            let shown = match select.resolve(&schema(), "HOST") {
                Ok(filter) => format!("{:?}", filter.projection()),
                Err(error) => error.to_string(),
            };
            expected.assert_eq(&shown);
        }
        check("select * from machine", expect!["None"]);
        check("select STATE, name, State, __path from machine", expect![[r#"Some(["State", "Name", "__PATH"])"#]]);
        check("select x from machine", expect!["class Machine has no property x"]);
    }

    /// Holds: WIRE-F2-1
    #[test]
    fn a_query_on_a_superclass_reads_subclasses() {
        let schema = schema();
        let filter = filter(&schema, "Base", "State = 300").unwrap();
        assert!(filter.matches(&machine(&schema)));
        assert!(!filter.matches(&Instance::new(schema.class("Other").unwrap())));
    }
}
