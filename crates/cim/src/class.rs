//! Classes: what instances consist of and which methods they offer.
//!
//! A [`Declaration`] is a class as MOF declares it, with its own members only. [`crate::Schema`] turns declarations into
//! [`Class`]es, which have all members, inherited ones first, so that nobody has to climb the tree again.

use std::fmt;

use crate::case::{self, NameIndex};
use crate::{CimType, Value};

/// A class as it is declared: without inherited members.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration {
    /// The name in its canonical case.
    pub name: String,
    /// The class it inherits from.
    pub superclass: Option<String>,
    /// Qualifiers of the class.
    pub qualifiers: Qualifiers,
    /// Properties declared or overridden here.
    pub properties: Vec<Property>,
    /// Methods declared or overridden here.
    pub methods: Vec<Method>,
}

/// A class of a schema: with inherited members, in the order from the topmost class down.
#[derive(Debug, Clone)]
pub struct Class {
    /// The name in its canonical case.
    pub name: String,
    /// The class it inherits from.
    pub superclass: Option<String>,
    /// All classes it inherits from, nearest first.
    pub ancestors: Vec<String>,
    /// Whether it has no instances of its own.
    pub is_abstract: bool,
    /// Whether its instances connect others by references.
    pub is_association: bool,
    /// Qualifiers of the class itself.
    pub qualifiers: Qualifiers,
    properties: Vec<Property>,
    methods: Vec<Method>,
    keys: Vec<usize>,
    property_index: NameIndex,
    method_index: NameIndex,
}

/// A property of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// The name in its canonical case.
    pub name: String,
    /// What values it takes.
    pub data_type: DataType,
    /// Whether it is part of the instance's path.
    pub is_key: bool,
    /// The value an instance has if nobody says otherwise.
    pub default: Option<Value>,
    /// The class that declared it first.
    pub origin: String,
    /// Its qualifiers, inherited ones included.
    pub qualifiers: Qualifiers,
}

/// The type of a property, a parameter or a return value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataType {
    /// The type of the value, or of the elements of the array.
    pub cim_type: CimType,
    /// Whether it is an array.
    pub is_array: bool,
    /// For a `REF`, the class it refers to.
    pub reference_class: Option<String>,
    /// For an embedded instance, its class or a superclass of it; empty when it may be any (EmbeddedObject).
    pub embedded_class: Option<String>,
}

/// A method of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct Method {
    /// The name in its canonical case.
    pub name: String,
    /// The type of the return value; `None` for void.
    pub returns: Option<CimType>,
    /// Parameters in the declared order.
    pub parameters: Vec<Parameter>,
    /// The class that declared it first.
    pub origin: String,
    /// Its qualifiers, with those of a method it overrides.
    pub qualifiers: Qualifiers,
}

/// A parameter of a method.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// The name in its canonical case.
    pub name: String,
    /// What values it takes.
    pub data_type: DataType,
    /// Whether the caller passes it.
    pub is_in: bool,
    /// Whether the method gives it back.
    pub is_out: bool,
    /// Its qualifiers.
    pub qualifiers: Qualifiers,
}

/// A remark on a class, a member or a parameter, such as `Key` or `ValueMap {…}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Qualifier {
    /// The name.
    pub name: String,
    /// Its value; a qualifier without one is `true`.
    pub value: Value,
}

/// The qualifiers of one thing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Qualifiers(pub Vec<Qualifier>);

impl DataType {
    /// A scalar of this type.
    pub fn scalar(cim_type: CimType) -> Self {
        Self { cim_type, is_array: false, reference_class: None, embedded_class: None }
    }

    /// An array of this type.
    pub fn array(cim_type: CimType) -> Self {
        Self { is_array: true, ..Self::scalar(cim_type) }
    }

    /// Whether a value has this type: widths must agree, and a string that is declared as an embedded instance may be
    /// either the text or the object.
    pub fn accepts(&self, value: &Value) -> bool {
        match value {
            Value::Array(elements) => self.is_array && elements.iter().all(|element| self.accepts_scalar(element)),
            Value::Octets(_) => self.is_array && self.cim_type == CimType::UInt8,
            scalar => !self.is_array && self.accepts_scalar(scalar),
        }
    }

    /// Whether values are embedded instances.
    pub fn is_embedded(&self) -> bool {
        self.embedded_class.is_some() || self.cim_type == CimType::Object
    }

    fn accepts_scalar(&self, value: &Value) -> bool {
        let actual = if matches!(value, Value::Array(_)) { None } else { value.cim_type() };
        actual == Some(self.cim_type) || (actual == Some(CimType::Object) && self.is_embedded())
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reference_class {
            Some(class) => write!(f, "{class} REF")?,
            None => write!(f, "{}", self.cim_type)?,
        }
        f.write_str(if self.is_array { "[]" } else { "" })
    }
}

impl Qualifiers {
    /// The value of a qualifier.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|q| case::eq(&q.name, name)).map(|q| &q.value)
    }

    /// Whether a boolean qualifier is there and true.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The text of a string qualifier.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// The texts of a qualifier that is an array of strings; empty if it is not there.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).and_then(Value::as_array).unwrap_or_default().iter().filter_map(Value::as_str)
    }

    /// The pairs of `ValueMap` and `Values`: what a number means. A missing `ValueMap` counts from zero (DSP0004).
    pub fn value_map(&self) -> Vec<(String, &str)> {
        let labels = self.texts("Values");
        if self.get("ValueMap").is_some() {
            self.texts("ValueMap").map(str::to_owned).zip(labels).collect()
        } else {
            labels.enumerate().map(|(i, label)| (i.to_string(), label)).collect()
        }
    }

    /// Adds those of an overridden member that this one does not say itself.
    pub(crate) fn inherit(&mut self, inherited: &Self) {
        for qualifier in &inherited.0 {
            if self.get(&qualifier.name).is_none() {
                self.0.push(qualifier.clone());
            }
        }
    }
}

impl Method {
    /// A parameter by name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| case::eq(&p.name, name))
    }

    /// The parameters a caller passes, in the declared order.
    pub fn inputs(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|p| p.is_in)
    }

    /// The parameters the method gives back, in the declared order.
    pub fn outputs(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|p| p.is_out)
    }
}

impl Class {
    /// Puts a class together from its declaration and its complete superclass.
    pub(crate) fn complete(declaration: Declaration, superclass: Option<&Class>) -> Self {
        let mut properties = superclass.map(|c| c.properties.clone()).unwrap_or_default();
        for own in declaration.properties {
            match properties.iter_mut().find(|p| case::eq(&p.name, &own.name)) {
                Some(inherited) => inherited.override_with(own),
                None => properties.push(own),
            }
        }
        let mut methods = superclass.map(|c| c.methods.clone()).unwrap_or_default();
        for own in declaration.methods {
            match methods.iter_mut().find(|m| case::eq(&m.name, &own.name)) {
                Some(inherited) => inherited.override_with(own),
                None => methods.push(own),
            }
        }
        let ancestors = superclass.map(|c| std::iter::once(&c.name).chain(&c.ancestors).cloned().collect());
        Self {
            superclass: superclass.map(|c| c.name.clone()),
            ancestors: ancestors.unwrap_or_default(),
            is_abstract: declaration.qualifiers.flag("Abstract"),
            is_association: declaration.qualifiers.flag("Association") || superclass.is_some_and(|c| c.is_association),
            keys: (0..properties.len()).filter(|&i| properties[i].is_key).collect(),
            property_index: NameIndex::new(properties.iter().map(|p| p.name.as_str())),
            method_index: NameIndex::new(methods.iter().map(|m| m.name.as_str())),
            name: declaration.name,
            qualifiers: declaration.qualifiers,
            properties,
            methods,
        }
    }

    /// All properties, inherited ones first.
    pub fn properties(&self) -> &[Property] {
        &self.properties
    }

    /// All methods, inherited ones first.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// A property by name.
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.properties.get(self.position(name)?)
    }

    /// A method by name.
    pub fn method(&self, name: &str) -> Option<&Method> {
        let position = self.method_index.find(name, |i| self.methods[i].name.as_str())?;
        self.methods.get(position)
    }

    /// The properties that make up the path of an instance.
    pub fn keys(&self) -> impl Iterator<Item = &Property> {
        self.keys.iter().filter_map(|&i| self.properties.get(i))
    }

    /// Whether this class is the named one or inherits from it.
    pub fn is_a(&self, class: &str) -> bool {
        case::eq(&self.name, class) || self.ancestors.iter().any(|ancestor| case::eq(ancestor, class))
    }

    /// The position of a property in [`Class::properties`].
    pub fn position(&self, property: &str) -> Option<usize> {
        self.property_index.find(property, |i| self.properties[i].name.as_str())
    }
}

impl Property {
    fn override_with(&mut self, own: Self) {
        let inherited = std::mem::replace(self, own);
        self.qualifiers.inherit(&inherited.qualifiers);
        self.is_key |= inherited.is_key;
        self.origin = inherited.origin;
        self.default = self.default.take().or(inherited.default);
        let (own, inherited) = (&mut self.data_type, inherited.data_type);
        own.embedded_class = own.embedded_class.take().or(inherited.embedded_class);
    }
}

impl Method {
    fn override_with(&mut self, own: Self) {
        let inherited = std::mem::replace(self, own);
        self.qualifiers.inherit(&inherited.qualifiers);
        self.origin = inherited.origin;
    }
}
