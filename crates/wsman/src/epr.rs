//! Addresses: resource URIs, selectors and endpoint references, and the CIM targets and paths they mean.
//!
//! A class is addressed in one of two styles, and a reply uses the style of its request: Microsoft's carries the CIM namespace in the URI,
//! the DMTF's in the selector `__cimnamespace`, which is never a key. Keys arrive as text; what they mean is for the provider to say.

use crate::fault::{Fault, Kind};
use crate::ns;
use cim::op::Target;
use cim::path::{normalized_namespace, same_namespace};
use cim::xml::{Element, Writer};
use cim::{ObjectPath, Value};

/// Selectors of one set: the keys of any class and the namespace, twice over.
const MAX_SELECTORS: usize = 64;
/// References within selectors. An association's keys are references to plain instances; one more for a reference to an association.
const MAX_DEPTH: usize = 3;
/// Where a DMTF address without a namespace leads, as on Windows.
const DEFAULT_NAMESPACE: &str = r"root\cimv2";

/// How classes are spelled in URIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `http://schemas.microsoft.com/wbem/wsman/1/wmi/<namespace>/<Class>`.
    Microsoft,
    /// `http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/<Class>`.
    Dmtf,
}

impl Style {
    /// The URI of a class, which is also the XML namespace of its instances.
    pub fn class_uri(self, namespace: &str, class: &str) -> String {
        match self {
            Style::Microsoft => format!("{}{}/{class}", ns::MS_BASE, slashed(namespace)),
            Style::Dmtf => format!("{}{class}", ns::DMTF_BASE),
        }
    }
}

/// What a resource URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// How it was spelled.
    pub style: Style,
    /// The CIM namespace, if the URI says.
    pub namespace: Option<String>,
    /// The class, or `None` for all of them.
    pub class: Option<String>,
    /// Whether the declaration of the class is meant instead of its instances.
    pub is_declaration: bool,
}

impl Resource {
    /// Reads a resource URI; `None` if it is of no kind that names CIM classes.
    pub fn parse(uri: &str) -> Option<Resource> {
        let uri = uri.trim();
        let class_of = |name: &str| match name {
            "*" => Some(None),
            name if is_class_name(name) => Some(Some(name.to_owned())),
            _ => None,
        };
        if uri.eq_ignore_ascii_case(ns::DMTF_ALL) {
            return Some(Resource { style: Style::Dmtf, namespace: None, class: None, is_declaration: false });
        }
        if let Some(class) = strip_prefix_ignoring_case(uri, ns::DMTF_BASE) {
            let class = class_of(class)?;
            return Some(Resource { style: Style::Dmtf, namespace: None, class, is_declaration: false });
        }
        if let Some(class) = strip_prefix_ignoring_case(uri, ns::CLASS_BASE) {
            let class = class_of(class)?;
            return Some(Resource { style: Style::Dmtf, namespace: None, class, is_declaration: true });
        }
        let (namespace, class) = strip_prefix_ignoring_case(uri, ns::MS_BASE)?.rsplit_once('/')?;
        let namespace = Some(normalized_namespace(namespace)).filter(|namespace| !namespace.is_empty())?;
        Some(Resource {
            style: Style::Microsoft,
            namespace: Some(namespace),
            class: class_of(class)?,
            is_declaration: false,
        })
    }
}

/// The selectors of a request or reference, with the namespace taken out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selectors {
    /// The value of `__cimnamespace`.
    pub namespace: Option<String>,
    /// The others, in order.
    pub keys: Vec<(String, Value)>,
}

impl Selectors {
    /// Reads a `w:SelectorSet`.
    pub(crate) fn read(set: &Element) -> Result<Selectors, Fault> {
        read_selectors(set, 0)
    }

    /// The namespace that a URI and its selectors agree on.
    pub(crate) fn namespace_for(&self, resource: &Resource) -> Result<String, Fault> {
        match (&resource.namespace, &self.namespace) {
            (Some(uri), Some(selector)) if !same_namespace(uri, selector) => Err(Fault::new(
                Kind::InvalidSelectors,
                format!("the resource URI names namespace {uri}, the selector __cimnamespace {selector}"),
            )),
            (Some(namespace), _) => Ok(namespace.clone()),
            (None, Some(namespace)) => Ok(normalized_namespace(namespace)),
            (None, None) => Ok(DEFAULT_NAMESPACE.to_owned()),
        }
    }
}

/// Reads the content of an endpoint reference: the element that holds `a:ReferenceParameters`. The address is ignored, because a
/// reference that arrived here means this server; `namespace` is where it leads if it does not say.
pub(crate) fn read(content: &Element, namespace: &str) -> Result<Target, Fault> {
    read_nested(content, namespace, 0)
}

/// Whether an element holds the content of an endpoint reference.
pub(crate) fn is_content(element: &Element) -> bool {
    element.child(ns::ADDRESSING, "ReferenceParameters").is_some()
}

/// Writes the content of an endpoint reference. The prefixes are declared again so that the pieces can be pasted into a later request, as
/// the shell clients do.
pub(crate) fn write(w: &mut Writer, path: &ObjectPath, style: Style) {
    let namespace = path.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    w.element("a:Address", |w| {
        w.attribute("xmlns:a", ns::ADDRESSING);
        w.text(ns::ANONYMOUS);
    });
    w.element("a:ReferenceParameters", |w| {
        w.attribute("xmlns:a", ns::ADDRESSING);
        w.attribute("xmlns:w", ns::WSMAN);
        w.leaf("w:ResourceURI", &style.class_uri(namespace, &path.class));
        write_selectors(w, Some(namespace), &path.keys, style);
    });
}

/// Writes a `w:SelectorSet`: the namespace first, `Name` and `InstanceID` last. go-wsman takes the last text for the id.
pub(crate) fn write_selectors(w: &mut Writer, namespace: Option<&str>, keys: &[(String, Value)], style: Style) {
    let mut ordered: Vec<&(String, Value)> = keys.iter().collect();
    ordered.sort_by_key(|(name, _)| cim::case::eq(name, "Name") || cim::case::eq(name, "InstanceID"));
    w.element("w:SelectorSet", |w| {
        w.attribute("xmlns:w", ns::WSMAN);
        if let Some(namespace) = namespace {
            w.element("w:Selector", |w| {
                w.attribute("Name", ns::NAMESPACE_SELECTOR);
                w.text(&slashed(namespace));
            });
        }
        for (name, value) in ordered {
            w.element("w:Selector", |w| {
                w.attribute("Name", name);
                match value {
                    Value::Reference(path) => w.element("a:EndpointReference", |w| {
                        w.attribute("xmlns:a", ns::ADDRESSING);
                        write(w, path, style);
                    }),
                    scalar => w.text(&scalar.to_string()),
                }
            });
        }
    });
}

/// The namespace as URIs and selectors spell it.
pub(crate) fn slashed(namespace: &str) -> String {
    namespace.replace('\\', "/")
}

fn read_selectors(set: &Element, depth: usize) -> Result<Selectors, Fault> {
    let mut selectors = Selectors::default();
    for (count, selector) in set.children_named(ns::WSMAN, "Selector").enumerate() {
        if count >= MAX_SELECTORS {
            return Err(Fault::new(Kind::SelectorLimit, format!("there are more than {MAX_SELECTORS} selectors")));
        }
        let name = selector.attribute("", "Name").or_else(|| selector.attribute(ns::WSMAN, "Name")).unwrap_or_default();
        if name.is_empty() {
            return Err(Fault::new(Kind::InvalidSelectors, "a selector has no name"));
        }
        if cim::case::eq(name, ns::NAMESPACE_SELECTOR) {
            selectors.namespace = Some(selector.trimmed_text());
            continue;
        }
        if selectors.keys.iter().any(|(known, _)| cim::case::eq(known, name)) {
            return Err(Fault::new(Kind::InvalidSelectors, format!("selector {name} is given twice")));
        }
        let value = match selector.child(ns::ADDRESSING, "EndpointReference") {
            Some(reference) => Value::Reference(read_key(reference, depth + 1)?),
            None => Value::String(selector.trimmed_text()),
        };
        selectors.keys.push((name.to_owned(), value));
    }
    Ok(selectors)
}

/// A reference that is a key. One that names no namespace fits any: it is compared, not followed.
fn read_key(reference: &Element, depth: usize) -> Result<ObjectPath, Fault> {
    let target = read_nested(reference, "", depth)?;
    let path = target.to_path();
    Ok(ObjectPath { namespace: path.namespace.filter(|namespace| !namespace.is_empty()), ..path })
}

fn read_nested(content: &Element, namespace: &str, depth: usize) -> Result<Target, Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::new(Kind::InvalidSelectors, "endpoint references are nested too deep"));
    }
    let parameters = content
        .child(ns::ADDRESSING, "ReferenceParameters")
        .ok_or_else(|| Fault::schema(format!("{} holds no a:ReferenceParameters", content.name)))?;
    let uri = parameters
        .child(ns::WSMAN, "ResourceURI")
        .ok_or_else(|| Fault::schema(format!("the endpoint reference in {} has no w:ResourceURI", content.name)))?
        .trimmed_text();
    let resource = Resource::parse(&uri).ok_or_else(|| unknown_uri(&uri))?;
    let class = resource.class.clone().ok_or_else(|| unknown_uri(&uri))?;
    let selectors = match parameters.child(ns::WSMAN, "SelectorSet") {
        Some(set) => read_selectors(set, depth)?,
        None => Selectors::default(),
    };
    let namespace = match (&resource.namespace, &selectors.namespace) {
        (None, None) => namespace.to_owned(),
        _ => selectors.namespace_for(&resource)?,
    };
    Ok(Target { namespace, class, keys: selectors.keys })
}

/// The fault for a URI that names nothing here.
pub(crate) fn unknown_uri(uri: &str) -> Fault {
    let shown: String = uri.chars().take(200).collect();
    Fault::new(Kind::InvalidResourceUri, format!("resource URI {shown} names no class that is served here"))
}

fn is_class_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    if head.eq_ignore_ascii_case(prefix) { text.get(prefix.len()..) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// Holds: WIRE-D1-1, WIRE-D1-2, WIRE-D1-3
    #[test]
    fn uris_are_read_in_both_styles() {
        fn check(uri: &str, expected: Expect) {
            expected.assert_eq(&match Resource::parse(uri) {
                Some(r) => format!("{:?} {:?} {:?} {}", r.style, r.namespace, r.class, r.is_declaration),
                None => "none".to_owned(),
            });
        }
        let ms = ns::MS_BASE;
        check(
            &format!("{ms}root/virtualization/v2/Toy"),
            expect![[r#"Microsoft Some("root\\virtualization\\v2") Some("Toy") false"#]],
        );
        check(&format!(" {ms}root/cimv2/* "), expect![[r#"Microsoft Some("root\\cimv2") None false"#]]);
        check(
            &format!("{}root/cimv2/Toy", ms.to_uppercase()),
            expect![[r#"Microsoft Some("root\\cimv2") Some("Toy") false"#]],
        );
        check(&format!("{}Toy", ns::DMTF_BASE), expect![[r#"Dmtf None Some("Toy") false"#]]);
        check(&format!("{}*", ns::DMTF_BASE), expect!["Dmtf None None false"]);
        check(ns::DMTF_ALL, expect!["Dmtf None None false"]);
        check(&format!("{}Toy", ns::CLASS_BASE), expect![[r#"Dmtf None Some("Toy") true"#]]);
        check(&format!("{}*", ns::CLASS_BASE), expect!["Dmtf None None true"]);
        check(&format!("{ms}Toy"), expect!["none"]);
        check(&format!("{ms}/Toy"), expect!["none"]);
        check(&format!("{}Toy?x=1", ns::DMTF_BASE), expect!["none"]);
        check("http://schemas.microsoft.com/wbem/wsman/1/config", expect!["none"]);
        check("", expect!["none"]);
    }

    /// Holds: WIRE-D3-2, WIRE-E8-1
    #[test]
    fn a_written_reference_reads_back_with_the_id_last() {
        let inner = ObjectPath::new("Toy")
            .with_namespace("root/toys")
            .with_key("Name", "a")
            .with_key("Kind", 3_u16.to_string());
        let path = ObjectPath::new("Link").with_namespace("root/toys").with_key("Antecedent", Value::Reference(inner));
        for style in [Style::Microsoft, Style::Dmtf] {
            let mut w = Writer::new();
            w.element("r", |w| write(w, &path, style));
            let root = cim::xml::parse(&w.finish()).unwrap();
            let target = read(&root, "elsewhere").unwrap();
            let expected = expect![[r#"root\toys:Link.Antecedent="root\\toys:Toy.Kind=\"3\",Name=\"a\"""#]];
            expected.assert_eq(&target.to_path().to_string());
        }
    }
}
