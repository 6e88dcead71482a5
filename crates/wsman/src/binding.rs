//! Instances in XML (DSP0230, WS-CIM), both ways.
//!
//! On the way out every scalar property appears exactly once, a null one as `xsi:nil`: virsh fails on a missing one. An array is its element
//! repeated, and a null or empty one is nothing at all: virsh crashes on a nil element where it expects none. The prefix of the class
//! is `p`, literally.
//!
//! On the way in nothing has a type, so an element becomes a [`cim::op::Argument`] by its shape alone.

use crate::epr::{self, Resource, Style};
use crate::fault::Fault;
use crate::ns;
use crate::soap::says_yes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cim::class::Property;
use cim::embedded::EmbeddedInstance;
use cim::op::{Argument, MethodResult, Row};
use cim::xml::{Element, Writer};
use cim::{CimType, DateTime, Instance, Value};

/// Writes an instance as the element of its class.
pub(crate) fn write_instance(w: &mut Writer, row: &Row, style: Style) {
    let class = &row.instance.class().name;
    let namespace = row.path.namespace.as_deref().unwrap_or_default();
    w.element(&format!("p:{class}"), |w| {
        declare(w, &style.class_uri(namespace, class));
        w.attribute("xsi:type", &format!("p:{class}_Type"));
        write_properties(w, &row.instance, "p", namespace, style);
    });
}

/// Writes the chosen properties as a fragment: no class, no namespace, in alphabetical order, as Windows does.
pub(crate) fn write_projection(w: &mut Writer, row: &Row, names: &[String], style: Style) {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort();
    let namespace = row.path.namespace.as_deref().unwrap_or_default();
    w.element("w:XmlFragment", |w| {
        w.attribute("xmlns:xsi", ns::XSI);
        w.attribute("xmlns:cim", ns::WSCIM_COMMON);
        for name in names {
            match (row.instance.class().property(name), system_property(row, name)) {
                (Some(property), _) => {
                    write_property(w, &property.name, property, row.instance.get(name), "", namespace, style)
                }
                (None, Some(text)) => w.leaf(name, &text),
                // A row of another class of the family may lack a property; nothing is its honest value.
                (None, None) => {}
            }
        }
    });
}

/// Writes one property as a fragment; false if the class has none of this name.
pub(crate) fn write_fragment(w: &mut Writer, row: &Row, name: &str, text_only: bool, style: Style) -> bool {
    let Some(property) = row.instance.class().property(name) else { return false };
    let namespace = row.path.namespace.as_deref().unwrap_or_default();
    w.element("w:XmlFragment", |w| {
        if text_only {
            w.text(&row.instance.get(name).map(Value::to_string).unwrap_or_default());
        } else {
            declare(w, &style.class_uri(namespace, &row.instance.class().name));
            let element = format!("p:{}", property.name);
            write_property(w, &element, property, row.instance.get(name), "p", namespace, style);
        }
    });
    true
}

/// Writes what a method gave back: references before everything else, since virsh takes the first InstanceID it meets for the result,
/// the job after them for the same reason, and the return value last. An embedded instance becomes an element here whatever its declared
/// type, because virt-who and os-win read summaries so; a method that promises text gives a string.
pub(crate) fn write_outputs(
    w: &mut Writer,
    method: &str,
    result: &MethodResult,
    uri: &str,
    style: Style,
    namespace: &str,
) {
    w.element(&format!("p:{method}_OUTPUT"), |w| {
        declare(w, uri);
        let mut outputs: Vec<_> = result.outputs.iter().collect();
        outputs.sort_by_key(|(name, value)| (cim::case::eq(name, "Job"), !holds_reference(value.as_ref())));
        for (name, value) in outputs {
            let Some(value) = value else { continue };
            write_values(w, &format!("p:{name}"), value, "p", namespace, style);
        }
        w.shown("p:ReturnValue", result.return_value);
    });
}

fn holds_reference(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Reference(_)) => true,
        Some(Value::Array(elements)) => elements.iter().any(|element| matches!(element, Value::Reference(_))),
        _ => false,
    }
}

fn declare(w: &mut Writer, uri: &str) {
    w.attribute("xmlns:p", uri);
    w.attribute("xmlns:xsi", ns::XSI);
    w.attribute("xmlns:cim", ns::WSCIM_COMMON);
}

fn write_properties(w: &mut Writer, instance: &Instance, prefix: &str, namespace: &str, style: Style) {
    // One buffer for the names of all elements: there are a hundred in an instance, and thousands of instances in a page.
    let mut element = format!("{prefix}:");
    for (property, value) in instance.properties() {
        element.truncate(prefix.len() + 1);
        element.push_str(&property.name);
        write_property(w, &element, property, value, prefix, namespace, style);
    }
}

fn write_property(
    w: &mut Writer,
    element: &str,
    property: &Property,
    value: Option<&Value>,
    prefix: &str,
    namespace: &str,
    style: Style,
) {
    match value {
        None if property.data_type.is_array => {}
        None => w.element(element, |w| w.attribute("xsi:nil", "true")),
        // Declared as a string, an embedded instance is a string; declared as an object, it is an element.
        Some(value) if property.data_type.cim_type == CimType::String => write_texts(w, element, value),
        Some(value) => write_values(w, element, value, prefix, namespace, style),
    }
}

fn write_texts(w: &mut Writer, element: &str, value: &Value) {
    match value {
        Value::Array(elements) => elements.iter().for_each(|one| write_texts(w, element, one)),
        Value::Object(instance) => w.leaf(element, &cim::embedded::to_cim_xml(instance)),
        Value::String(text) => w.leaf(element, text),
        scalar => w.shown(element, scalar),
    }
}

fn write_values(w: &mut Writer, element: &str, value: &Value, prefix: &str, namespace: &str, style: Style) {
    match value {
        Value::Octets(_) | Value::Array(_) if is_octets(value) => {
            w.leaf(element, &BASE64.encode(value.to_octets().unwrap_or_default()));
        }
        Value::Array(elements) => {
            elements.iter().for_each(|one| write_values(w, element, one, prefix, namespace, style))
        }
        Value::DateTime(time @ DateTime::Timestamp(_)) => {
            w.element(element, |w| w.leaf("cim:Datetime", &time.to_xml()))
        }
        Value::DateTime(time @ DateTime::Interval(_)) => w.element(element, |w| w.leaf("cim:Interval", &time.to_xml())),
        Value::Reference(path) => w.element(element, |w| epr::write(w, path, style)),
        Value::Object(instance) => {
            let class = &instance.class().name;
            let inner = format!("{prefix}1");
            w.element(element, |w| {
                w.attribute(&format!("xmlns:{inner}"), &style.class_uri(namespace, class));
                w.attribute("xsi:type", &format!("{inner}:{class}_Type"));
                write_properties(w, instance, &inner, namespace, style);
            });
        }
        scalar => w.shown(element, scalar),
    }
}

/// Whether a value is an array of uint8, which travels as one base64 text; an empty one is nothing.
fn is_octets(value: &Value) -> bool {
    value.cim_type() == Some(CimType::UInt8)
}

/// The properties every object has without declaring them.
fn system_property(row: &Row, name: &str) -> Option<String> {
    let path = &row.path;
    match name.to_ascii_uppercase().as_str() {
        "__CLASS" => Some(path.class.clone()),
        "__PATH" => Some(path.to_string()),
        "__RELPATH" => Some(path.relative().to_string()),
        "__NAMESPACE" => Some(path.namespace.clone().unwrap_or_default()),
        "__SERVER" => Some(path.host.clone().unwrap_or_default()),
        _ => None,
    }
}

/// Reads an element whose type nobody knows yet. `namespace` is where references lead that do not say.
pub(crate) fn read_argument(element: &Element, namespace: &str) -> Result<Argument, Fault> {
    // Some MI clients bind the prefix `xsi` to XML Schema itself.
    if says_yes(element.attribute(ns::XSI, "nil").or_else(|| element.attribute(ns::XSD, "nil"))) {
        return Ok(Argument::Null);
    }
    if let Some(reference) = element.child(ns::ADDRESSING, "EndpointReference") {
        return Ok(Argument::Reference(epr::read(reference, namespace)?));
    }
    if epr::is_content(element) {
        return Ok(Argument::Reference(epr::read(element, namespace)?));
    }
    let mut children = element.elements();
    match (children.next(), children.next()) {
        (None, _) => Ok(Argument::Text(element.text().into_owned())),
        (Some(only), None) if *only.namespace == *ns::WSCIM_COMMON => Ok(Argument::Text(innermost_text(only))),
        (Some(only), None) if is_instance_element(only) && type_of(element).is_none() => {
            Ok(Argument::Instance(read_instance(only, &only.name, namespace)?))
        }
        (Some(first), _) => {
            let class = type_of(element).or_else(|| Resource::parse(&first.namespace)?.class).unwrap_or_default();
            Ok(Argument::Instance(read_instance(element, &class, namespace)?))
        }
    }
}

/// The text of a datetime, which some clients wrap twice (`cim:CIM_DateTime` around `cim:Datetime`).
fn innermost_text(element: &Element) -> String {
    match element.elements().next() {
        Some(inner) => innermost_text(inner),
        None => element.trimmed_text(),
    }
}

/// Reads the children of an element as properties of an instance.
pub(crate) fn read_instance(element: &Element, class: &str, namespace: &str) -> Result<EmbeddedInstance, Fault> {
    let properties = element
        .elements()
        .map(|property| Ok((property.name.clone(), read_argument(property, namespace)?)))
        .collect::<Result<_, Fault>>()?;
    Ok(EmbeddedInstance { class: class.to_owned(), properties })
}

/// The class that `xsi:type="p:Class_Type"` names.
fn type_of(element: &Element) -> Option<String> {
    let qname = element.attribute(ns::XSI, "type").or_else(|| element.attribute(ns::XSD, "type"))?;
    let local = qname.rsplit(':').next().unwrap_or(qname).trim();
    local.strip_suffix("_Type").map(str::to_owned)
}

/// Whether an element is an instance named after its class, rather than a property: it has properties itself, or its namespace says so.
fn is_instance_element(element: &Element) -> bool {
    let named_after_class = Resource::parse(&element.namespace)
        .and_then(|resource| resource.class)
        .is_some_and(|class| cim::case::eq(&class, &element.name));
    named_after_class || (element.elements().next().is_some() && !epr::is_content(element))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// Reads the content of a parameter `P`; `p` is bound to a service's class, `m` to a machine's, `n` to the namespace alone.
    fn check(parameter: &str, expected: Expect) {
        let base = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/toys";
        let xml = format!(
            "<r xmlns:p='{base}/Toy_Service' xmlns:m='{base}/Toy_Machine' xmlns:n='{base}' xmlns:xsi='{}' xmlns:cim='{}' \
             xmlns:a='{}' xmlns:w='{}'>{parameter}</r>",
            ns::XSI,
            ns::WSCIM_COMMON,
            ns::ADDRESSING,
            ns::WSMAN
        );
        let root = cim::xml::parse(&xml).unwrap();
        let argument = read_argument(root.elements().next().unwrap(), "root/toys");
        expected.assert_eq(&argument.map_or_else(|fault| fault.reason, |argument| show(&argument)));
    }

    fn show(argument: &Argument) -> String {
        match argument {
            Argument::Null => "null".to_owned(),
            Argument::Text(text) => format!("{text:?}"),
            Argument::Reference(target) => format!("reference {}", target.to_path()),
            Argument::Instance(instance) => {
                let properties = instance.properties.iter().map(|(name, value)| format!(" {name}={}", show(value)));
                format!("{}{{{} }}", instance.class, properties.collect::<String>())
            }
        }
    }

    /// Holds: WIRE-E5-2, WIRE-I2-2
    #[test]
    fn scalars() {
        check("<p:P/>", expect![[r#""""#]]);
        check("<p:P xsi:nil='true'/>", expect!["null"]);
        check("<p:P xsi:nil='false'>x</p:P>", expect![[r#""x""#]]);
        check("<p:P> 1 &lt; 2 <![CDATA[<b/>]]></p:P>", expect![[r#"" 1 < 2 <b/>""#]]);
        check("<p:P><cim:Datetime>2025-01-02T03:04:05Z</cim:Datetime></p:P>", expect![[r#""2025-01-02T03:04:05Z""#]]);
        check("<p:P><cim:Interval> PT5M </cim:Interval></p:P>", expect![[r#""PT5M""#]]);
        check(
            "<p:P><cim:CIM_DateTime><cim:Datetime>2025-01-02T03:04:05Z</cim:Datetime></cim:CIM_DateTime></p:P>",
            expect![[r#""2025-01-02T03:04:05Z""#]],
        );
    }

    /// Holds: WIRE-I3-1, WIRE-I5-2
    #[test]
    fn instances() {
        check("<p:P><m:Toy_Machine><m:Name>a</m:Name></m:Toy_Machine></p:P>", expect![[r#"Toy_Machine{ Name="a" }"#]]);
        check(
            "<p:P><n:Toy_Machine><n:Name>a</n:Name><n:State/></n:Toy_Machine></p:P>",
            expect![[r#"Toy_Machine{ Name="a" State="" }"#]],
        );
        check("<p:P xsi:type='m:Toy_Machine_Type'><m:Name>a</m:Name></p:P>", expect![[r#"Toy_Machine{ Name="a" }"#]]);
        check("<p:P><m:Name>a</m:Name></p:P>", expect![[r#"Toy_Machine{ Name="a" }"#]]);
        check(
            "<p:P><m:Name>a</m:Name><m:Roles>1</m:Roles><m:Roles>2</m:Roles></p:P>",
            expect![[r#"Toy_Machine{ Name="a" Roles="1" Roles="2" }"#]],
        );
        check(
            "<p:P xsi:type='m:Toy_Machine_Type'><m:S xsi:type='m:Toy_Set_Type'><m:X>1</m:X></m:S></p:P>",
            expect![[r#"Toy_Machine{ S=Toy_Set{ X="1" } }"#]],
        );
    }

    /// Holds: WIRE-I4-1
    #[test]
    fn references() {
        let uri = "<w:ResourceURI>http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Toy</w:ResourceURI>";
        let set = "<w:SelectorSet><w:Selector Name='K'>v</w:Selector></w:SelectorSet>";
        let content = format!("<a:ReferenceParameters>{uri}{set}</a:ReferenceParameters>");
        check(&format!("<p:P><a:Address>x</a:Address>{content}</p:P>"), expect![[r#"reference root\toys:Toy.K="v""#]]);
        check(&format!("<p:P>{content}</p:P>"), expect![[r#"reference root\toys:Toy.K="v""#]]);
        check(
            &format!("<p:P><a:EndpointReference>{content}</a:EndpointReference></p:P>"),
            expect![[r#"reference root\toys:Toy.K="v""#]],
        );
        check(
            &format!("<p:P><m:Toy_Link><m:Other>{content}</m:Other></m:Toy_Link></p:P>"),
            expect![[r#"Toy_Link{ Other=reference root\toys:Toy.K="v" }"#]],
        );
        check(
            &format!("<p:P><a:ReferenceParameters>{set}</a:ReferenceParameters></p:P>"),
            expect!["the endpoint reference in P has no w:ResourceURI"],
        );
        check("<p:P><a:EndpointReference/></p:P>", expect!["EndpointReference holds no a:ReferenceParameters"]);
        let selector = |inner: &str| {
            format!(
                "<a:EndpointReference><a:ReferenceParameters>{uri}<w:SelectorSet><w:Selector Name='K'>{inner}</w:Selector>\
                 </w:SelectorSet></a:ReferenceParameters></a:EndpointReference>"
            )
        };
        let deep = (0..4).fold("v".to_owned(), |inner, _| selector(&inner));
        check(
            &format!("<p:P>{deep}</p:P>"),
            expect![[r#"reference root\toys:Toy.K="Toy.K=\"Toy.K=\\\"Toy.K=\\\\\\\"v\\\\\\\"\\\"\"""#]],
        );
        check(&format!("<p:P>{}</p:P>", selector(&deep)), expect!["endpoint references are nested too deep"]);
    }
}
