//! The tree a document is read into.

use std::borrow::Cow;
use std::sync::Arc;

/// An element with everything in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    /// The namespace; empty for none.
    pub namespace: Arc<str>,
    /// The local name.
    pub name: String,
    /// The attributes, without namespace declarations.
    pub attributes: Vec<Attribute>,
    /// Elements and text, in order. Blanks between elements are left out.
    pub children: Vec<Node>,
    pub(super) scope: Arc<Scope>,
}

/// An attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// The namespace; empty for none, which is the rule for attributes without a prefix.
    pub namespace: Arc<str>,
    /// The local name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// What an element contains.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text, with references resolved and CDATA sections joined.
    Text(String),
}

/// The prefixes declared at an element, and those around it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    pub(super) outer: Option<Arc<Scope>>,
    /// Prefix and namespace; the empty prefix is the default namespace.
    pub(super) declared: Vec<(String, Arc<str>)>,
}

impl Scope {
    /// The namespace a prefix stands for; the empty prefix is the default namespace, which may be none.
    pub fn namespace(&self, prefix: &str) -> Option<&Arc<str>> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if let Some((_, namespace)) = here.declared.iter().find(|(p, _)| p == prefix) {
                return Some(namespace);
            }
            scope = here.outer.as_deref();
        }
        None
    }
}

impl Element {
    /// Whether this is the named element.
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.name == name && *self.namespace == *namespace
    }

    /// The elements directly within, in order.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The elements of this name directly within.
    pub fn children_named<'a>(&'a self, namespace: &'a str, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.elements().filter(move |element| element.is(namespace, name))
    }

    /// The first element of this name directly within.
    pub fn child(&self, namespace: &str, name: &str) -> Option<&Element> {
        self.elements().find(|element| element.is(namespace, name))
    }

    /// The first element with this local name directly within, whatever its namespace.
    pub fn child_any_namespace(&self, name: &str) -> Option<&Element> {
        self.elements().find(|element| element.name == name)
    }

    /// The text directly within; elements between pieces of text are left out.
    pub fn text(&self) -> Cow<'_, str> {
        match self.children.as_slice() {
            [] => Cow::Borrowed(""),
            [Node::Text(text)] => Cow::Borrowed(text),
            nodes => {
                let pieces = nodes
                    .iter()
                    .filter_map(|node| if let Node::Text(text) = node { Some(text.as_str()) } else { None });
                Cow::Owned(pieces.collect())
            }
        }
    }

    /// The text directly within, without blanks around it.
    pub fn trimmed_text(&self) -> String {
        self.text().trim().to_owned()
    }

    /// The value of an attribute.
    pub fn attribute(&self, namespace: &str, name: &str) -> Option<&str> {
        self.attributes.iter().find(|a| a.name == name && *a.namespace == *namespace).map(|a| a.value.as_str())
    }

    /// Namespace and local name of a QName in content, such as the value of `xsi:type`; `None` if its prefix is not
    /// declared here. A name without a prefix is in the default namespace.
    pub fn resolve<'a>(&'a self, qname: &'a str) -> Option<(&'a str, &'a str)> {
        let qname = qname.trim();
        match qname.split_once(':') {
            Some((prefix, local)) => Some((self.scope.namespace(prefix)?, local)),
            None => Some((self.scope.namespace("").map_or("", |namespace| namespace), qname)),
        }
    }

    /// The prefixes that are declared at this element and around it.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}
