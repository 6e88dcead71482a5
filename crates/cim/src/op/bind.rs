//! From the arguments of a call, as they arrived, to values of the declared types.
//!
//! The same rules serve the properties of embedded instances, because the same clients write both.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::class::{DataType, Method};
use crate::embedded::{self, EmbeddedInstance};
use crate::op::Argument;
use crate::{CimType, Error, Instance, ObjectPath, Schema, Status, Value, case, limit};

/// The input parameters of a method call, in the declared order.
#[derive(Debug, Clone, PartialEq)]
pub struct Arguments(pub Vec<(String, Option<Value>)>);

impl Arguments {
    /// The value of a parameter; `None` if it is NULL, was left out, or is not declared.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| case::eq(n, name)).and_then(|(_, value)| value.as_ref())
    }
}

/// Types the arguments of a call against the method's declaration. What was left out is NULL.
///
/// Numbers must be in range and may have blanks around them; an empty text is NULL for everything but strings. References
/// may be object paths, embedded instances may be text in any notation of [`crate::embedded`]; an embedded instance for a
/// reference stands for the instance with its keys.
///
/// # Errors
/// [`Status::InvalidMethodParameters`] if an argument is not declared as input or does not fit its type.
pub fn bind_arguments(
    schema: &Schema,
    method: &Method,
    arguments: Vec<(String, Argument)>,
) -> Result<Arguments, Error> {
    let mut given: Vec<Vec<Argument>> = vec![Vec::new(); method.parameters.len()];
    for (name, argument) in arguments {
        let position = method.parameters.iter().position(|p| case::eq(&p.name, &name));
        match position.map(|at| (&method.parameters[at], &mut given[at])) {
            Some((parameter, values)) if parameter.is_in => values.push(argument),
            // Clients that fill in a form for the whole signature leave outputs empty.
            Some(_) if argument == Argument::Null => {}
            _ => return Err(Error::invalid_arguments(format!("method {} has no input parameter {name}", method.name))),
        }
    }
    let inputs = method.parameters.iter().zip(given).filter(|(parameter, _)| parameter.is_in);
    let typed = inputs.map(|(parameter, values)| match typed(schema, &parameter.data_type, values, 0) {
        Ok(value) => Ok((parameter.name.clone(), value)),
        Err(error) => {
            let message = format!("parameter {} of method {}: {error}", parameter.name, method.name);
            Err(Error::invalid_arguments(message))
        }
    });
    Ok(Arguments(typed.collect::<Result<_, _>>()?))
}

impl EmbeddedInstance {
    /// The instance as one of a schema. What is not there, or there without a value, is NULL; properties the class does
    /// not have are ignored, because clients send system properties along.
    ///
    /// # Errors
    /// [`Status::InvalidClass`] for a class the schema does not have, [`Status::TypeMismatch`] for a value that does not
    /// fit its property.
    pub fn typed(self, schema: &Schema) -> Result<Instance, Error> {
        typed_instance(schema, self, 0)
    }
}

fn typed_instance(schema: &Schema, embedded: EmbeddedInstance, depth: usize) -> Result<Instance, Error> {
    if depth >= limit::EMBEDDED_DEPTH {
        return Err(mismatch(format!("instances are nested deeper than {}", limit::EMBEDDED_DEPTH)));
    }
    let class = schema.class(&embedded.class).ok_or_else(|| Error::invalid_class(&embedded.class))?;
    let mut given: Vec<Vec<Argument>> = vec![Vec::new(); class.properties().len()];
    for (name, value) in embedded.properties {
        if let Some(at) = class.position(&name) {
            given[at].push(value);
        }
    }
    let mut instance = Instance::new(class);
    for (property, values) in class.properties().iter().zip(given) {
        let value = typed(schema, &property.data_type, values, depth + 1)
            .map_err(|error| mismatch(format!("property {}.{}: {error}", class.name, property.name)))?;
        instance.set(&property.name, value)?;
    }
    Ok(instance)
}

/// The value that one or, for an array, several arguments stand for.
fn typed(schema: &Schema, data_type: &DataType, given: Vec<Argument>, depth: usize) -> Result<Option<Value>, Error> {
    if given.len() > limit::ARRAY_ELEMENTS {
        return Err(mismatch(format!("there are more than {} elements", limit::ARRAY_ELEMENTS)));
    }
    if given.len() > 1 && !data_type.is_array {
        return Err(mismatch(format!("there are {} values, but only one is expected", given.len())));
    }
    if let [Argument::Text(text)] = given.as_slice()
        && let Some(bytes) = packed_bytes(data_type, text)
    {
        return bytes.map(Some);
    }
    let many = given.len() > 1;
    let mut values = Vec::with_capacity(given.len());
    for argument in given {
        match typed_scalar(schema, data_type, argument, depth)? {
            Some(value) => values.push(value),
            None if many => return Err(mismatch("an element of the array is NULL".to_owned())),
            None => return Ok(None),
        }
    }
    Ok(match values.len() {
        0 => None,
        _ if data_type.is_array => Some(Value::Array(values)),
        _ => values.pop(),
    })
}

/// An array of bytes as protocols pack it: one base64 text (DSP0227 calls for it). Numbers below 256 are too short to be one.
fn packed_bytes(data_type: &DataType, text: &str) -> Option<Result<Value, Error>> {
    if !data_type.is_array || data_type.cim_type != CimType::UInt8 {
        return None;
    }
    let packed: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(&packed).ok().filter(|bytes| !bytes.is_empty())?;
    if bytes.len() > limit::ARRAY_ELEMENTS {
        return Some(Err(mismatch(format!("there are more than {} elements", limit::ARRAY_ELEMENTS))));
    }
    Some(Ok(Value::Array(bytes.into_iter().map(Value::U8).collect())))
}

fn typed_scalar(
    schema: &Schema,
    data_type: &DataType,
    argument: Argument,
    depth: usize,
) -> Result<Option<Value>, Error> {
    let value = match argument {
        Argument::Null => return Ok(None),
        Argument::Text(text) if text.trim().is_empty() && !is_plain_string(data_type) => return Ok(None),
        Argument::Text(text) if data_type.is_embedded() => {
            let embedded = embedded::parse(&text).map_err(|error| mismatch(error.to_string()))?;
            embedded_value(schema, data_type, embedded, depth)?
        }
        Argument::Instance(embedded) if data_type.is_embedded() => embedded_value(schema, data_type, embedded, depth)?,
        Argument::Text(text) => {
            let value = Value::parse(data_type.cim_type, &text).map_err(|error| mismatch(error.to_string()))?;
            if let Value::Reference(path) = &value {
                check_reference(schema, data_type, path)?;
            }
            value
        }
        Argument::Reference(target) if data_type.cim_type == CimType::Reference => {
            reference_value(schema, data_type, target.to_path())?
        }
        Argument::Instance(embedded) if data_type.cim_type == CimType::Reference => {
            reference_value(schema, data_type, path_of(schema, embedded)?)?
        }
        Argument::Reference(_) => return Err(mismatch(format!("a reference is given where {data_type} is expected"))),
        Argument::Instance(_) => return Err(mismatch(format!("an instance is given where {data_type} is expected"))),
    };
    Ok(Some(value))
}

fn is_plain_string(data_type: &DataType) -> bool {
    data_type.cim_type == CimType::String && !data_type.is_embedded()
}

fn embedded_value(
    schema: &Schema,
    data_type: &DataType,
    embedded: EmbeddedInstance,
    depth: usize,
) -> Result<Value, Error> {
    let instance = typed_instance(schema, embedded, depth)?;
    check_class(schema, data_type.embedded_class.as_deref(), &instance.class().name)?;
    Ok(instance.into())
}

fn reference_value(schema: &Schema, data_type: &DataType, path: ObjectPath) -> Result<Value, Error> {
    check_reference(schema, data_type, &path)?;
    Ok(path.into())
}

fn check_reference(schema: &Schema, data_type: &DataType, path: &ObjectPath) -> Result<(), Error> {
    if schema.class(&path.class).is_none() {
        return Err(Error::invalid_class(&path.class));
    }
    // A path may name a superclass of what it means; the provider finds the instance.
    match &data_type.reference_class {
        Some(expected) if schema.is_a(expected, &path.class) => Ok(()),
        expected => check_class(schema, expected.as_deref(), &path.class),
    }
}

/// Declarations may name a class outside of the schema; nothing can be said about those.
fn check_class(schema: &Schema, expected: Option<&str>, actual: &str) -> Result<(), Error> {
    match expected {
        Some(expected) if schema.class(expected).is_some() && !schema.is_a(actual, expected) => {
            Err(mismatch(format!("{actual} is not a {expected}")))
        }
        _ => Ok(()),
    }
}

/// The path of the instance an embedded one stands for.
fn path_of(schema: &Schema, embedded: EmbeddedInstance) -> Result<ObjectPath, Error> {
    let class = schema.class(&embedded.class).ok_or_else(|| Error::invalid_class(&embedded.class))?;
    let mut path = ObjectPath::new(class.name.clone());
    for (name, value) in embedded.properties {
        let Some(key) = class.property(&name).filter(|property| property.is_key) else { continue };
        match value {
            Argument::Text(text) => path = path.with_key(key.name.clone(), text),
            Argument::Reference(target) => path = path.with_key(key.name.clone(), target.to_path()),
            Argument::Null => {}
            Argument::Instance(_) => return Err(mismatch(format!("key {} holds an instance", key.name))),
        }
    }
    Ok(path)
}

fn mismatch(message: String) -> Error {
    Error::new(Status::TypeMismatch, message)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::mof;
    use crate::op::Target;

    fn schema() -> Schema {
        let classes = r#"
            class System { [Key] string Name; [Key] string Creator; string Caption; };
            class Settings { [Key] string InstanceID; uint16 Size; string Notes[]; [EmbeddedInstance("Settings")] string Inner; };
            class MoreSettings : Settings { boolean Extra; };
            class SubSystem : System {};
            class Service {
                uint32 Run(
                    [In] SubSystem REF Target, [In, Out] string Name, [In] uint8 Level, [In] boolean Force,
                    [In] uint16 Wanted[], [In] uint8 Bytes[], [In] datetime At, [In, EmbeddedInstance("Settings")] string Setting,
                    [In, EmbeddedInstance("Settings")] string All[], [In(false), Out] System REF Job);
            };"#;
        Schema::new("root/test", mof::parse_classes(classes).unwrap()).unwrap()
    }

    fn text(name: &str, text: &str) -> (String, Argument) {
        (name.to_owned(), Argument::Text(text.to_owned()))
    }

    /// Shows what is not NULL, or the error.
    fn check<const N: usize>(arguments: [(String, Argument); N], expected: Expect) {
        let schema = schema();
        let method = schema.class("service").and_then(|class| class.method("run")).unwrap();
        let shown = match bind_arguments(&schema, method, arguments.to_vec()) {
            Ok(bound) => {
                assert_eq!(bound.0.len(), method.inputs().count());
                let set = bound.0.iter().filter_map(|(name, value)| Some(format!("{name} = {:?}\n", value.as_ref()?)));
                set.collect()
            }
            Err(error) => format!("{}: {error}", error.status),
        };
        expected.assert_eq(&shown);
    }

    /// Holds: WIRE-I2-2, WIRE-I2-3, WIRE-I3-1, WIRE-I3-2
    #[test]
    fn scalars_and_arrays() {
        check([], expect![]);
        check(
            [text("name", ""), text("LEVEL", " 7 "), text("Force", "FALSE")],
            expect![[r#"
            Name = String("")
            Level = U8(7)
            Force = Bool(false)
        "#]],
        );
        check(
            [text("Wanted", "1"), text("Wanted", "2")],
            expect![[r#"
            Wanted = Array([U16(1), U16(2)])
        "#]],
        );
        check(
            [text("Wanted", "1"), text("Level", ""), text("At", "PT5S")],
            expect![[r#"
            Wanted = Array([U16(1)])
            At = DateTime(Interval(Interval { micros: 5000000 }))
        "#]],
        );
        check([("Name".into(), Argument::Null), ("Job".into(), Argument::Null)], expect![]);
        check(
            [text("Level", "256")],
            expect![[
                r#"WBEM_E_INVALID_METHOD_PARAMETERS: parameter Level of method Run: "256" is not a value of type uint8"#
            ]],
        );
        check(
            [text("Level", "1"), text("Level", "2")],
            expect![
                "WBEM_E_INVALID_METHOD_PARAMETERS: parameter Level of method Run: there are 2 values, but only one is expected"
            ],
        );
        check(
            [text("Wanted", "1"), ("Wanted".into(), Argument::Null)],
            expect![
                "WBEM_E_INVALID_METHOD_PARAMETERS: parameter Wanted of method Run: an element of the array is NULL"
            ],
        );
        check([text("Job", "x")], expect!["WBEM_E_INVALID_METHOD_PARAMETERS: method Run has no input parameter Job"]);
        check([text("Nmae", "x")], expect!["WBEM_E_INVALID_METHOD_PARAMETERS: method Run has no input parameter Nmae"]);
    }

    /// Holds: SNAP-1-8, WIRE-I4-1
    /// Holds: WIRE-E6-2
    #[test]
    fn bytes_come_packed_or_one_by_one() {
        check(
            [text("Bytes", "AQL/")],
            expect![[r#"
            Bytes = Array([U8(1), U8(2), U8(255)])
        "#]],
        );
        check(
            [text("Bytes", " AQ== ")],
            expect![[r#"
            Bytes = Array([U8(1)])
        "#]],
        );
        check(
            [text("Bytes", "7"), text("Bytes", "8")],
            expect![[r#"
            Bytes = Array([U8(7), U8(8)])
        "#]],
        );
        check(
            [text("Bytes", "255")],
            expect![[r#"
            Bytes = Array([U8(255)])
        "#]],
        );
        check(
            [text("Bytes", "256")],
            expect![[
                r#"WBEM_E_INVALID_METHOD_PARAMETERS: parameter Bytes of method Run: "256" is not a value of type uint8"#
            ]],
        );
        check(
            [text("Bytes", "AQL/"), text("Bytes", "8")],
            expect![[
                r#"WBEM_E_INVALID_METHOD_PARAMETERS: parameter Bytes of method Run: "AQL/" is not a value of type uint8"#
            ]],
        );
        check(
            [text("Wanted", "AQL/")],
            expect![[
                r#"WBEM_E_INVALID_METHOD_PARAMETERS: parameter Wanted of method Run: "AQL/" is not a value of type uint16"#
            ]],
        );
        check([text("Bytes", "")], expect![""]);
        check(
            [text("Bytes", &"AAAA".repeat(2_000))],
            expect![
                "WBEM_E_INVALID_METHOD_PARAMETERS: parameter Bytes of method Run: there are more than 4096 elements"
            ],
        );
    }

    #[test]
    fn references() {
        let by_epr = Target::new("root/test", "system").with_key("Name", "x");
        check(
            [("Target".into(), Argument::Reference(by_epr))],
            expect![[r#"
            Target = Reference(ObjectPath { host: None, namespace: Some("root\\test"), class: "system", keys: [("Name", String("x"))], is_singleton: false })
        "#]],
        );
        check(
            [text("Target", r#"\\HOST\root\test:System.Name="a\\b""#)],
            expect![[r#"
            Target = Reference(ObjectPath { host: Some("HOST"), namespace: Some("root\\test"), class: "System", keys: [("Name", String("a\\b"))], is_singleton: false })
        "#]],
        );
        let by_keys =
            EmbeddedInstance { class: "SYSTEM".into(), properties: vec![text("name", "x"), text("Caption", "no key")] };
        check(
            [("Target".into(), Argument::Instance(by_keys))],
            expect![[r#"
            Target = Reference(ObjectPath { host: None, namespace: None, class: "System", keys: [("Name", String("x"))], is_singleton: false })
        "#]],
        );
        check(
            [text("Target", "Settings.InstanceID=\"x\"")],
            expect!["WBEM_E_INVALID_METHOD_PARAMETERS: parameter Target of method Run: Settings is not a SubSystem"],
        );
        check(
            [text("Target", "Nothing.Name=\"x\"")],
            expect![
                "WBEM_E_INVALID_METHOD_PARAMETERS: parameter Target of method Run: there is no class Nothing in this namespace"
            ],
        );
        check(
            [text("Target", "<INSTANCE CLASSNAME=\"System\"/>")],
            expect![[
                r#"WBEM_E_INVALID_METHOD_PARAMETERS: parameter Target of method Run: "<INSTANCE CLASSNAME=\"System\"/>" is not a value of type reference"#
            ]],
        );
        check(
            [("Name".into(), Argument::Reference(Target::new("n", "System")))],
            expect![
                "WBEM_E_INVALID_METHOD_PARAMETERS: parameter Name of method Run: a reference is given where string is expected"
            ],
        );
    }

    /// Holds: WIRE-I5-3
    #[test]
    fn embedded_instances() {
        let xml = r#"<INSTANCE CLASSNAME="moresettings"><PROPERTY NAME="EXTRA"><VALUE>True</VALUE></PROPERTY>
            <PROPERTY NAME="__PATH"><VALUE>x</VALUE></PROPERTY><PROPERTY NAME="Size"/></INSTANCE>"#;
        check(
            [text("Setting", xml)],
            expect![[r#"
            Setting = Object(MoreSettings { Extra: Bool(true) })
        "#]],
        );
        check(
            [text("All", xml), text("All", "instance of Settings { Size = 5; Notes = {\"a\"}; };")],
            expect![[r#"
            All = Array([Object(MoreSettings { Extra: Bool(true) }), Object(Settings { Size: U16(5), Notes: Array([String("a")]) })])
        "#]],
        );
        check(
            [text("Setting", "instance of Settings { Inner = instance of Settings { Size = 1; }; };")],
            expect![[r#"
            Setting = Object(Settings { Inner: Object(Settings { Size: U16(1) }) })
        "#]],
        );
        check([text("Setting", "")], expect![]);
        check(
            [text("Setting", "instance of Settings { Size = -5; };")],
            expect![[
                r#"WBEM_E_INVALID_METHOD_PARAMETERS: parameter Setting of method Run: property Settings.Size: "-5" is not a value of type uint16"#
            ]],
        );
        check(
            [text("Setting", "instance of System { Name = \"x\"; };")],
            expect!["WBEM_E_INVALID_METHOD_PARAMETERS: parameter Setting of method Run: System is not a Settings"],
        );
        check(
            [text("Setting", "instance of Nothing {};")],
            expect![
                "WBEM_E_INVALID_METHOD_PARAMETERS: parameter Setting of method Run: there is no class Nothing in this namespace"
            ],
        );
        check(
            [text("Setting", "<a/>")],
            expect![
                "WBEM_E_INVALID_METHOD_PARAMETERS: parameter Setting of method Run: the embedded instance is wrong: there is no INSTANCE element"
            ],
        );
    }

    #[test]
    fn text_within_text_within_text_ends() {
        let mut nested = "instance of Settings {};".to_owned();
        for _ in 0..10 {
            let mut w = crate::xml::Writer::new();
            w.element("INSTANCE", |w| {
                w.attribute("CLASSNAME", "Settings");
                w.element("PROPERTY", |w| {
                    w.attribute("NAME", "Inner");
                    w.leaf("VALUE", &nested);
                });
            });
            nested = w.finish();
        }
        let error = embedded::parse(&nested).unwrap().typed(&schema()).unwrap_err();
        assert!(error.message.ends_with("instances are nested deeper than 8"), "{error}");
    }
}
