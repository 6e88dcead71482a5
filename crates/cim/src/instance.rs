//! Instances: the values of a class's properties.

use std::fmt;
use std::sync::Arc;

use crate::class::{Class, Property};
use crate::{Error, ObjectPath, Status, Value};

/// An instance of a class: a value or NULL for each of its properties, in the order of the class.
#[derive(Clone)]
pub struct Instance {
    class: Arc<Class>,
    values: Vec<Option<Value>>,
}

impl Instance {
    /// An instance with every property NULL.
    pub fn new(class: &Arc<Class>) -> Self {
        Self { class: Arc::clone(class), values: vec![None; class.properties().len()] }
    }

    /// An instance with every property at the default its declaration gives, or NULL.
    pub fn with_defaults(class: &Arc<Class>) -> Self {
        Self { class: Arc::clone(class), values: class.properties().iter().map(|p| p.default.clone()).collect() }
    }

    /// The instance with a property set; for our own code, which knows the class it fills.
    ///
    /// # Panics
    /// If the class has no such property or the value has another type. That is a mistake in the caller, not in any
    /// input, and every test that builds the instance finds it.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let set = self.set(name, Some(value.into()));
        assert!(set.is_ok(), "our own code fills class {} wrongly: {set:?}", self.class.name);
        self
    }

    /// The instance with a property set if there is a value, else left as it is; panics as [`Instance::with`] does.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Sets a property, or makes it NULL.
    ///
    /// # Errors
    /// [`Status::NoSuchProperty`], or [`Status::TypeMismatch`] if the value does not have the declared type.
    pub fn set(&mut self, name: &str, value: Option<Value>) -> Result<(), Error> {
        let position = self.class.position(name).ok_or_else(|| {
            Error::new(Status::NoSuchProperty, format!("class {} has no property {name}", self.class.name))
        })?;
        let property = &self.class.properties()[position];
        if let Some(value) = value.as_ref().filter(|value| !property.data_type.accepts(value)) {
            let message =
                format!("property {}.{} is {}, not {value:?}", self.class.name, property.name, property.data_type);
            return Err(Error::new(Status::TypeMismatch, message));
        }
        self.values[position] = value;
        Ok(())
    }

    /// The instance with a value for each property that is NULL and for which `value` has one; panics as [`Instance::with`] does.
    #[must_use]
    pub fn with_nulls_filled(mut self, value: impl Fn(&Property) -> Option<Value>) -> Self {
        for (property, place) in self.class.properties().iter().zip(&mut self.values) {
            if place.is_none() {
                *place = value(property);
                let fits = place.as_ref().is_none_or(|value| property.data_type.accepts(value));
                assert!(fits, "our own code fills {}.{} wrongly: {place:?}", self.class.name, property.name);
            }
        }
        self
    }

    /// The class.
    pub fn class(&self) -> &Arc<Class> {
        &self.class
    }

    /// The value of a property; `None` if it is NULL or the class has no such property.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.at(self.class.position(name)?)
    }

    /// The value of the property at this position of the class; `None` if it is NULL.
    pub fn at(&self, position: usize) -> Option<&Value> {
        self.values.get(position)?.as_ref()
    }

    /// The text of a string property.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// The number of an integer property that is not negative.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(Value::as_u64)
    }

    /// The value of a boolean property.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    /// Every property with its value, in the order of the class.
    pub fn properties(&self) -> impl Iterator<Item = (&Property, Option<&Value>)> {
        self.class.properties().iter().zip(self.values.iter().map(Option::as_ref))
    }

    /// The path of the instance, from its keys. A key that is NULL is left out; a class without keys has a singleton.
    pub fn path(&self, host: &str, namespace: &str) -> ObjectPath {
        let keys = self.class.keys().filter_map(|key| Some((key.name.clone(), self.get(&key.name)?.clone())));
        let path = ObjectPath::new(self.class.name.clone()).with_host(host).with_namespace(namespace);
        ObjectPath { keys: keys.collect(), is_singleton: self.class.keys().next().is_none(), ..path }
    }

    /// The instance with only its keys; the rest becomes NULL.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        for (property, value) in self.class.properties().iter().zip(&mut self.values) {
            if !property.is_key {
                *value = None;
            }
        }
        self
    }
}

impl PartialEq for Instance {
    /// Instances are equal if class name and all values are.
    fn eq(&self, other: &Self) -> bool {
        self.class.name == other.class.name && self.values == other.values
    }
}

impl fmt::Debug for Instance {
    /// The class and what is not NULL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct(&self.class.name);
        for (property, value) in self.properties() {
            if let Some(value) = value {
                debug.field(&property.name, value);
            }
        }
        debug.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Schema, mof};

    fn schema() -> Schema {
        let classes = r#"
            class A { [Key] string Name; [Key] uint16 Slot; boolean On = true; uint8 List[]; [EmbeddedInstance("B")] string Inner; };
            class B { string Text; };"#;
        Schema::new("root/v2", mof::parse_classes(classes).unwrap()).unwrap()
    }

    fn new(class: &str) -> Instance {
        Instance::new(schema().class(class).unwrap())
    }

    /// Holds: WIRE-E9-1
    #[test]
    fn values_are_checked_against_the_class() {
        fn check(name: &str, value: impl Into<Value>, expected: Result<(), Status>) {
            let value = value.into();
            let mut instance = new("A");
            assert_eq!(
                instance.set(name, Some(value.clone())).map_err(|error| error.status),
                expected,
                "{name} = {value:?}"
            );
            assert_eq!(instance.get(name).is_some(), expected.is_ok());
        }
        check("NAME", "x", Ok(()));
        check("Slot", 5u16, Ok(()));
        check("Slot", 5u32, Err(Status::TypeMismatch));
        check("Slot", [5u16], Err(Status::TypeMismatch));
        check("List", [5u8], Ok(()));
        check("List", Vec::<u8>::new(), Ok(()));
        check("List", 5u8, Err(Status::TypeMismatch));
        check("List", Value::Array(vec![5u8.into(), "x".into()]), Err(Status::TypeMismatch));
        check("List", Value::Array(vec![[5u8].into()]), Err(Status::TypeMismatch));
        check("Inner", new("B"), Ok(()));
        check("Inner", "text of one", Ok(()));
        check("Name", new("B"), Err(Status::TypeMismatch));
        check("Nothing", "x", Err(Status::NoSuchProperty));
    }

    #[test]
    #[should_panic(expected = "our own code fills class A wrongly")]
    fn our_own_mistakes_stop() {
        let _ = new("A").with("Slot", "five");
    }

    #[test]
    fn paths_are_made_of_keys() {
        let a = new("A").with("Name", "a\\b").with("Slot", 2u16).with("On", true);
        assert_eq!(a.path("H", "root/v2").to_string(), r#"\\H\root\v2:A.Name="a\\b",Slot=2"#);
        assert_eq!(new("A").with("Slot", 2u16).path("H", "root/v2").relative().to_string(), "A.Slot=2");
        assert_eq!(new("B").path("H", "root/v2").relative().to_string(), "B=@");
        assert_eq!(a.clone().keys_only().get("On"), None);
        assert!(a.clone().keys_only().path("H", "n").same_object(&a.path("h", "N")));
    }

    #[test]
    fn defaults_and_nulls() {
        let class = Arc::clone(schema().class("A").unwrap());
        assert_eq!(Instance::new(&class).flag("On"), None);
        assert_eq!(Instance::with_defaults(&class).flag("on"), Some(true));
        let mut a = Instance::with_defaults(&class).with_some("Name", None::<&str>).with_some("Slot", Some(7u16));
        assert_eq!((a.text("Name"), a.number("slot")), (None, Some(7)));
        assert_eq!(a.set("slot", None), Ok(()));
        assert_eq!(a.number("slot"), None);
        assert_eq!(a.properties().count(), 5, "every property is there, NULL or not");
    }
}
