//! The instance part of CIM-XML (DSP0201), as its DTD and as WMI's DTD have it.

use super::{EmbeddedError, EmbeddedInstance};
use crate::class::Property;
use crate::op::Argument;
use crate::path::normalized_namespace;
use crate::xml::{Element, Writer};
use crate::{Instance, ObjectPath, Value, limit};

/// Elements that may stand around an instance.
const WRAPPERS: [&str; 11] = [
    "CIM",
    "DECLARATION",
    "DECLGROUP",
    "DECLGROUP.WITHNAME",
    "DECLGROUP.WITHPATH",
    "VALUE.OBJECT",
    "VALUE.NAMEDINSTANCE",
    "VALUE.NAMEDOBJECT",
    "VALUE.OBJECTWITHPATH",
    "VALUE.OBJECTWITHLOCALPATH",
    "VALUE.INSTANCEWITHPATH",
];

/// Reads the instance in a document.
pub(super) fn read(root: &Element) -> Result<EmbeddedInstance, EmbeddedError> {
    read_instance(unwrapped(root)?, 0)
}

/// The INSTANCE element, whatever stands around it.
fn unwrapped(mut element: &Element) -> Result<&Element, EmbeddedError> {
    while element.name != "INSTANCE" {
        let is_way_down = |name: &str| name == "INSTANCE" || WRAPPERS.contains(&name);
        let inner = element.elements().find(|inner| is_way_down(&inner.name));
        element = inner.filter(|_| is_way_down(&element.name)).ok_or_else(|| wrong("there is no INSTANCE element"))?;
    }
    Ok(element)
}

fn read_instance(instance: &Element, depth: usize) -> Result<EmbeddedInstance, EmbeddedError> {
    if depth >= limit::EMBEDDED_DEPTH {
        return Err(wrong(format!("instances are nested deeper than {}", limit::EMBEDDED_DEPTH)));
    }
    let class = required(instance, "CLASSNAME")?.to_owned();
    let mut properties = Vec::new();
    for property in instance.elements().filter(|element| element.name.starts_with("PROPERTY")) {
        let name = required(property, "NAME")?;
        let mut values = Vec::new();
        for value in property.elements().filter(|element| element.name != "QUALIFIER") {
            read_value(value, depth, &mut values)?;
        }
        // An array that is there and empty says as little as a property without a value.
        if values.is_empty() {
            values.push(Argument::Null);
        }
        properties.extend(values.into_iter().map(|value| (name.to_owned(), value)));
    }
    Ok(EmbeddedInstance { class, properties })
}

/// Reads one VALUE… element, which may hold several values.
fn read_value(value: &Element, depth: usize, values: &mut Vec<Argument>) -> Result<(), EmbeddedError> {
    match value.name.as_str() {
        "VALUE" => values.push(Argument::Text(value.text().into_owned())),
        "VALUE.NULL" => values.push(Argument::Null),
        "VALUE.ARRAY" | "VALUE.REFARRAY" | "VALUE.OBJECTARRAY" => {
            for element in value.elements() {
                read_value(element, depth + 1, values)?;
            }
        }
        "VALUE.REFERENCE" => values.push(Argument::Text(reference_text(value, depth)?)),
        "VALUE.OBJECT" | "VALUE.NAMEDINSTANCE" | "INSTANCE" => {
            values.push(Argument::Instance(read_instance(unwrapped(value)?, depth + 1)?));
        }
        other => return Err(wrong(format!("{other} is no value"))),
    }
    Ok(())
}

/// The path in a VALUE.REFERENCE, which WMI's older writers put there as text.
fn reference_text(reference: &Element, depth: usize) -> Result<String, EmbeddedError> {
    match reference.elements().next() {
        None => Ok(reference.trimmed_text()),
        Some(path) => Ok(read_path(path, depth)?.to_string()),
    }
}

fn read_path(element: &Element, depth: usize) -> Result<ObjectPath, EmbeddedError> {
    if depth >= limit::EMBEDDED_DEPTH {
        return Err(wrong("references are nested too deeply"));
    }
    match element.name.as_str() {
        "INSTANCENAME" | "CLASSNAME" => read_name(element, depth),
        "INSTANCEPATH" | "LOCALINSTANCEPATH" | "CLASSPATH" | "LOCALCLASSPATH" => {
            let is_name = |inner: &&Element| matches!(inner.name.as_str(), "INSTANCENAME" | "CLASSNAME");
            let name = element.elements().find(is_name).ok_or_else(|| wrong("a path has no INSTANCENAME"))?;
            let full = element.child_any_namespace("NAMESPACEPATH");
            let local = full.unwrap_or(element).child_any_namespace("LOCALNAMESPACEPATH");
            let host = full.and_then(|path| path.child_any_namespace("HOST")).map(Element::trimmed_text);
            let steps = local.into_iter().flat_map(Element::elements).filter_map(|step| step.attribute("", "NAME"));
            let namespace = normalized_namespace(&steps.collect::<Vec<_>>().join("\\"));
            let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
            Ok(ObjectPath { host, namespace, ..read_name(name, depth)? })
        }
        other => Err(wrong(format!("{other} is no path"))),
    }
}

fn read_name(element: &Element, depth: usize) -> Result<ObjectPath, EmbeddedError> {
    if element.name == "CLASSNAME" {
        return Ok(ObjectPath::new(required(element, "NAME")?));
    }
    let mut path = ObjectPath::new(required(element, "CLASSNAME")?);
    for inner in element.elements() {
        // A single key may stand without a KEYBINDING, and then has no name.
        let (name, value) = match inner.name.as_str() {
            "KEYBINDING" => {
                (required(inner, "NAME")?, inner.elements().next().ok_or_else(|| wrong("a KEYBINDING is empty"))?)
            }
            _ => ("", inner),
        };
        path.keys.push((name.to_owned(), read_key(value, depth)?));
        if path.keys.len() > limit::PATH_KEYS {
            return Err(wrong("a path has too many keys"));
        }
    }
    Ok(path)
}

fn read_key(value: &Element, depth: usize) -> Result<Value, EmbeddedError> {
    match value.name.as_str() {
        "KEYVALUE" => Ok(Value::String(value.text().into_owned())),
        "VALUE.REFERENCE" => {
            let path = value.elements().next().ok_or_else(|| wrong("a VALUE.REFERENCE is empty"))?;
            Ok(Value::Reference(read_path(path, depth + 1)?))
        }
        other => Err(wrong(format!("{other} is no key"))),
    }
}

fn required<'a>(element: &'a Element, attribute: &str) -> Result<&'a str, EmbeddedError> {
    element.attribute("", attribute).ok_or_else(|| wrong(format!("{} has no attribute {attribute}", element.name)))
}

fn wrong(reason: impl Into<String>) -> EmbeddedError {
    EmbeddedError::Structure { reason: reason.into() }
}

/// Writes an INSTANCE element.
pub(super) fn write_instance(w: &mut Writer, instance: &Instance) {
    w.element("INSTANCE", |w| {
        w.attribute("CLASSNAME", &instance.class().name);
        for (property, value) in instance.properties() {
            write_property(w, property, value);
        }
    });
}

fn write_property(w: &mut Writer, property: &Property, value: Option<&Value>) {
    let data_type = &property.data_type;
    let element = match (&data_type.reference_class, data_type.is_array) {
        (Some(_), false) => "PROPERTY.REFERENCE",
        (Some(_), true) => "PROPERTY.REFARRAY",
        (None, true) => "PROPERTY.ARRAY",
        (None, false) => "PROPERTY",
    };
    w.element(element, |w| {
        w.attribute("NAME", &property.name);
        match &data_type.reference_class {
            Some(class) => w.attribute("REFERENCECLASS", class),
            // An object is written as text, which is what `string` and the attribute after it say.
            None if data_type.is_embedded() => {
                w.attribute("TYPE", "string");
                w.attribute("EmbeddedObject", "instance");
            }
            None => w.attribute("TYPE", data_type.cim_type.name()),
        }
        match value {
            None => {}
            Some(Value::Array(elements)) => {
                let array = if data_type.reference_class.is_some() { "VALUE.REFARRAY" } else { "VALUE.ARRAY" };
                w.element(array, |w| elements.iter().for_each(|element| write_scalar(w, element)));
            }
            Some(Value::Octets(bytes)) => {
                w.element("VALUE.ARRAY", |w| bytes.iter().for_each(|byte| w.leaf("VALUE", &byte.to_string())));
            }
            Some(scalar) => write_scalar(w, scalar),
        }
    });
}

fn write_scalar(w: &mut Writer, value: &Value) {
    match value {
        Value::Reference(path) => w.element("VALUE.REFERENCE", |w| write_path(w, path)),
        Value::Object(instance) => w.leaf("VALUE", &super::to_cim_xml(instance)),
        scalar => w.leaf("VALUE", &scalar.to_string()),
    }
}

fn write_path(w: &mut Writer, path: &ObjectPath) {
    let local = |w: &mut Writer, namespace: &str| {
        w.element("LOCALNAMESPACEPATH", |w| {
            for step in namespace.split(['\\', '/']) {
                w.element("NAMESPACE", |w| w.attribute("NAME", step));
            }
        });
    };
    match (&path.host, &path.namespace) {
        (Some(host), Some(namespace)) => w.element("INSTANCEPATH", |w| {
            w.element("NAMESPACEPATH", |w| {
                w.leaf("HOST", host);
                local(w, namespace);
            });
            write_name(w, path);
        }),
        (None, Some(namespace)) => w.element("LOCALINSTANCEPATH", |w| {
            local(w, namespace);
            write_name(w, path);
        }),
        (_, None) => write_name(w, path),
    }
}

fn write_name(w: &mut Writer, path: &ObjectPath) {
    w.element("INSTANCENAME", |w| {
        w.attribute("CLASSNAME", &path.class);
        for (name, value) in &path.keys {
            w.element("KEYBINDING", |w| {
                w.attribute("NAME", name);
                write_key(w, value);
            });
        }
    });
}

fn write_key(w: &mut Writer, value: &Value) {
    if let Value::Reference(path) = value {
        w.element("VALUE.REFERENCE", |w| write_path(w, path));
        return;
    }
    w.element("KEYVALUE", |w| {
        let value_type = match value {
            Value::Bool(_) => "boolean",
            number if number.as_integer().is_some() => "numeric",
            _ => "string",
        };
        w.attribute("VALUETYPE", value_type);
        w.text(&value.to_string());
    });
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use crate::embedded::{parse, to_cim_xml};
    use crate::{Instance, ObjectPath, Schema, mof};

    fn check(text: &str, expected: Expect) {
        let shown = match parse(text) {
            Ok(instance) => {
                let properties = instance.properties.iter().map(|(name, value)| format!("{name}: {value:?}\n"));
                format!("{}\n{}", instance.class, properties.collect::<String>())
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    /// Holds: SNAP-1-10, WIRE-I5-1
    #[test]
    fn instances_of_all_clients_are_read() {
        check(
            r#"<?xml version="1.0" encoding="utf-16"?>
            <CIM CIMVERSION="2.0" DTDVERSION="2.0"><DECLARATION><DECLGROUP><VALUE.OBJECT><INSTANCE CLASSNAME="A">
              <QUALIFIER NAME="dynamic" TYPE="boolean"><VALUE>TRUE</VALUE></QUALIFIER>
              <PROPERTY NAME="P" CLASSORIGIN="B" TYPE="string"><QUALIFIER NAME="key" TYPE="boolean"/><VALUE> a &amp; b </VALUE></PROPERTY>
              <PROPERTY NAME="N" TYPE="uint16"></PROPERTY>
              <PROPERTY.ARRAY NAME="L" TYPE="string"><VALUE.ARRAY><VALUE>x</VALUE><VALUE/></VALUE.ARRAY></PROPERTY.ARRAY>
              <PROPERTY.ARRAY NAME="E" TYPE="string"/>
            </INSTANCE></VALUE.OBJECT></DECLGROUP></DECLARATION></CIM>"#,
            expect![[r#"
                A
                P: Text(" a & b ")
                N: Null
                L: Text("x")
                L: Text("")
                E: Null
            "#]],
        );
        check(
            r#"<VALUE.NAMEDINSTANCE><INSTANCENAME CLASSNAME="A"/><INSTANCE CLASSNAME="A">
              <PROPERTY.OBJECT NAME="O"><VALUE.OBJECT><INSTANCE CLASSNAME="B"><PROPERTY NAME="K"><VALUE>1</VALUE></PROPERTY></INSTANCE></VALUE.OBJECT></PROPERTY.OBJECT>
              <PROPERTY.REFERENCE NAME="R"><VALUE.REFERENCE><INSTANCEPATH><NAMESPACEPATH><HOST>H</HOST><LOCALNAMESPACEPATH>
                <NAMESPACE NAME="root"/><NAMESPACE NAME="v2"/></LOCALNAMESPACEPATH></NAMESPACEPATH><INSTANCENAME CLASSNAME="C">
                <KEYBINDING NAME="K"><KEYVALUE VALUETYPE="string">a\b</KEYVALUE></KEYBINDING></INSTANCENAME></INSTANCEPATH></VALUE.REFERENCE></PROPERTY.REFERENCE>
              <PROPERTY.REFERENCE NAME="T"><VALUE.REFERENCE>C.K="1"</VALUE.REFERENCE></PROPERTY.REFERENCE>
            </INSTANCE></VALUE.NAMEDINSTANCE>"#,
            expect![[r#"
                A
                O: Instance(EmbeddedInstance { class: "B", properties: [("K", Text("1"))] })
                R: Text("\\\\H\\root\\v2:C.K=\"a\\\\b\"")
                T: Text("C.K=\"1\"")
            "#]],
        );
        check(
            "<![CDATA[<INSTANCE CLASSNAME='A'/>]]>",
            expect!["the XML document is malformed at byte 0: there is text outside of the outermost element"],
        );
        check(
            "  <INSTANCE CLASSNAME='A'/> ",
            expect![[r#"
            A
        "#]],
        );
    }

    #[test]
    fn other_documents_are_refused() {
        check("<INSTANCE/>", expect!["the embedded instance is wrong: INSTANCE has no attribute CLASSNAME"]);
        check("<CIM/>", expect!["the embedded instance is wrong: there is no INSTANCE element"]);
        check(
            "<METHOD><INSTANCE CLASSNAME='A'/></METHOD>",
            expect!["the embedded instance is wrong: there is no INSTANCE element"],
        );
        check(
            "<INSTANCE CLASSNAME='A'><PROPERTY/></INSTANCE>",
            expect!["the embedded instance is wrong: PROPERTY has no attribute NAME"],
        );
        check(
            "<INSTANCE CLASSNAME='A'><PROPERTY NAME='P'><x/></PROPERTY></INSTANCE>",
            expect!["the embedded instance is wrong: x is no value"],
        );
        check("", expect!["MOF line 1, column 1: expected instance, found the end of the text"]);
    }

    #[test]
    fn what_is_written_reads_back() {
        let classes = r#"class A { [Key] string K; uint16 N[]; boolean B; A REF R; [EmbeddedInstance("A")] string O; A REF L[]; };"#;
        let schema = Schema::new("root", mof::parse_classes(classes).unwrap()).unwrap();
        let a = || Instance::new(schema.class("A").unwrap()).with("K", "<k>");
        let path = ObjectPath::new("A").with_namespace("root/v2").with_key("K", "x\\y").with_host("H");
        let instance =
            a().with("N", vec![1u16, 2]).with("B", true).with("R", path.clone()).with("O", a()).with("L", vec![path]);
        let text = to_cim_xml(&instance);
        assert_eq!(parse(&text).unwrap().typed(&schema), Ok(instance));
        expect![[r#"
            <INSTANCE CLASSNAME="A">
            <PROPERTY NAME="K" TYPE="string">
            <VALUE>&lt;k&gt;</VALUE>
            </PROPERTY>
            <PROPERTY.ARRAY NAME="N" TYPE="uint16">
            <VALUE.ARRAY>
            <VALUE>1</VALUE>
            <VALUE>2</VALUE>
            </VALUE.ARRAY>
            </PROPERTY.ARRAY>
            <PROPERTY NAME="B" TYPE="boolean">
            <VALUE>true</VALUE>
            </PROPERTY>
            <PROPERTY.REFERENCE NAME="R" REFERENCECLASS="A">
            <VALUE.REFERENCE>
            <INSTANCEPATH>
            <NAMESPACEPATH>
            <HOST>H</HOST>
            <LOCALNAMESPACEPATH>
            <NAMESPACE NAME="root"/>
            <NAMESPACE NAME="v2"/>
            </LOCALNAMESPACEPATH>
            </NAMESPACEPATH>
            <INSTANCENAME CLASSNAME="A">
            <KEYBINDING NAME="K">
            <KEYVALUE VALUETYPE="string">x\y</KEYVALUE>
            </KEYBINDING>
            </INSTANCENAME>
            </INSTANCEPATH>
            </VALUE.REFERENCE>
            </PROPERTY.REFERENCE>
            <PROPERTY NAME="O" TYPE="string" EmbeddedObject="instance">
            <VALUE>&lt;INSTANCE CLASSNAME="A"&gt;&lt;PROPERTY NAME="K" TYPE="string"&gt;&lt;VALUE&gt;&amp;lt;k&amp;gt;&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY.ARRAY NAME="N" TYPE="uint16"/&gt;&lt;PROPERTY NAME="B" TYPE="boolean"/&gt;&lt;PROPERTY.REFERENCE NAME="R" REFERENCECLASS="A"/&gt;&lt;PROPERTY NAME="O" TYPE="string" EmbeddedObject="instance"/&gt;&lt;PROPERTY.REFARRAY NAME="L" REFERENCECLASS="A"/&gt;&lt;/INSTANCE&gt;</VALUE>
            </PROPERTY>
            <PROPERTY.REFARRAY NAME="L" REFERENCECLASS="A">
            <VALUE.REFARRAY>
            <VALUE.REFERENCE>
            <INSTANCEPATH>
            <NAMESPACEPATH>
            <HOST>H</HOST>
            <LOCALNAMESPACEPATH>
            <NAMESPACE NAME="root"/>
            <NAMESPACE NAME="v2"/>
            </LOCALNAMESPACEPATH>
            </NAMESPACEPATH>
            <INSTANCENAME CLASSNAME="A">
            <KEYBINDING NAME="K">
            <KEYVALUE VALUETYPE="string">x\y</KEYVALUE>
            </KEYBINDING>
            </INSTANCENAME>
            </INSTANCEPATH>
            </VALUE.REFERENCE>
            </VALUE.REFARRAY>
            </PROPERTY.REFARRAY>
            </INSTANCE>"#]].assert_eq(&text.replace("><", ">\n<"));
    }
}
