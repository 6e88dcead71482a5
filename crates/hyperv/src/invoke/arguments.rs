//! What arguments mean: references to objects of the expected kind, and embedded instances.

use cim::op::Target;
use cim::{Instance, ObjectPath, Value};
use ledger::failure::{Failure, Kind};
use ledger::id::{SnapshotId, VmId};

use super::{Call, invalid};
use crate::object::{Object, Owner};
use crate::read::find::find_object;

impl Call<'_> {
    /// The machine a reference names.
    pub fn vm(&self, parameter: &str) -> Result<VmId, Failure> {
        match self.object_of(parameter)? {
            Object::Vm(id) => Ok(id),
            Object::Host => Err(invalid(format!("{parameter} is the host")).hint("name a virtual machine")),
            other => Err(invalid(format!("{parameter} is a {}, not a virtual machine", other.class()))),
        }
    }

    /// The snapshot a reference names.
    pub fn snapshot(&self, parameter: &str) -> Result<SnapshotId, Failure> {
        match self.object_of(parameter)? {
            Object::Settings(Owner::Snapshot(id)) => Ok(id),
            Object::Settings(Owner::Vm(_)) => {
                Err(invalid(format!("{parameter} is the current settings of a virtual machine, not a snapshot"))
                    .hint("a snapshot's VirtualSystemType begins with Microsoft:Hyper-V:Snapshot"))
            }
            other => Err(invalid(format!("{parameter} is a {}, not a snapshot", other.class()))),
        }
    }

    /// The machine whose current settings a reference names. Settings of snapshots cannot be changed.
    pub fn current_settings(&self, parameter: &str) -> Result<VmId, Failure> {
        match self.object_of(parameter)? {
            Object::Settings(Owner::Vm(id)) => Ok(id),
            Object::Settings(Owner::Snapshot(_)) => Err(of_snapshot()),
            other => Err(invalid(format!("{parameter} is a {}, not settings of a virtual machine", other.class()))),
        }
    }

    /// The machine or snapshot whose settings a reference names.
    pub fn settings(&self, parameter: &str) -> Result<Owner, Failure> {
        match self.object_of(parameter)? {
            Object::Settings(owner) => Ok(owner),
            other => Err(invalid(format!("{parameter} is a {}, not settings", other.class()))),
        }
    }

    /// The object a reference names.
    fn object_of(&self, parameter: &str) -> Result<Object, Failure> {
        match self.arguments.get(parameter) {
            Some(Value::Reference(path)) => self.resolve(parameter, path.clone()),
            _ => Err(invalid(format!("{parameter} is missing"))),
        }
    }

    /// The object a path names.
    pub fn resolve(&self, what: &str, path: ObjectPath) -> Result<Object, Failure> {
        find_object(self.view, &Target::from_path(path, self.namespace))
            .map_err(|error| Failure::new(Kind::NotFound, format!("{what} names nothing: {error}")))
    }

    /// The object that a string property of an embedded instance names.
    pub fn resolve_text(&self, instance: &Instance, property: &str) -> Result<Object, Failure> {
        let text = instance.text(property).filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| invalid(format!("{property} is missing in {}", instance.class().name)))?;
        let path =
            ObjectPath::parse(text).map_err(|error| invalid(format!("{property} is no object path: {error}")))?;
        self.resolve(property, path)
    }

    /// The objects in an array of references.
    pub fn objects(&self, parameter: &str) -> Result<Vec<Object>, Failure> {
        let paths = self.arguments.get(parameter).and_then(Value::as_array).unwrap_or_default();
        let resolved = paths.iter().filter_map(Value::as_reference).map(|path| self.resolve(parameter, path.clone()));
        let objects: Vec<Object> = resolved.collect::<Result<_, _>>()?;
        if objects.is_empty() { Err(invalid(format!("{parameter} is empty"))) } else { Ok(objects) }
    }

    /// An embedded instance; `None` if it is NULL.
    pub fn instance(&self, parameter: &str) -> Option<&Instance> {
        self.arguments.get(parameter).and_then(Value::as_object)
    }

    /// The embedded instances of an array.
    pub fn instances(&self, parameter: &str) -> Vec<&Instance> {
        let elements = self.arguments.get(parameter).and_then(Value::as_array).unwrap_or_default();
        elements.iter().filter_map(Value::as_object).collect()
    }

    /// A text; `None` if it is NULL.
    pub fn text(&self, parameter: &str) -> Option<&str> {
        self.arguments.get(parameter).and_then(Value::as_str)
    }

    /// A number; `None` if it is NULL.
    pub fn number(&self, parameter: &str) -> Option<u64> {
        self.arguments.get(parameter).and_then(Value::as_u64)
    }
}

/// The refusal to change what a snapshot stores.
pub(super) fn of_snapshot() -> Failure {
    invalid("the settings of a snapshot cannot be changed")
        .hint("only its name and notes can, with ModifySystemSettings")
}

/// The elements of an array property, as texts.
pub(super) fn texts<'a>(instance: &'a Instance, property: &str) -> Vec<&'a str> {
    let elements = instance.get(property).and_then(Value::as_array).unwrap_or_default();
    elements.iter().filter_map(Value::as_str).collect()
}
