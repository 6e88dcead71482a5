//! Reads: one instance, the instances of a class, WQL selections, associators and references.
//!
//! ```text
//!   query ──▶ items: identities, from a key if the query gives one, else all of the class
//!               │ one by one, as the client pulls
//!               ▼
//!             rows: instances made from the state of the moment the query began, filtered
//! ```
//! Classes of the schema without instances here are known and empty; others are invalid, as WMI has it.

mod associate;
pub(crate) mod find;
mod select;
#[cfg(test)]
mod tests;

use cim::op::{Query, Row, Rows, Target};
use cim::path::same_namespace;
use cim::{Class, Error, Instance, Schema, Value};

pub use find::find;

use crate::assoc::Link;
use crate::cimv2;
use crate::class::instance;
use crate::object::Object;
use crate::schema::VIRTUALIZATION;
use crate::view::View;

/// The identity of any instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item {
    /// A thing.
    Object(Object),
    /// A connection of two things.
    Link(Link),
}

/// Identities found one by one.
pub type Items = Box<dyn Iterator<Item = Item> + Send>;

impl Item {
    /// The instance with its path; `None` if the state does not have it.
    pub fn row(self, view: &View) -> Option<Row> {
        match self {
            Item::Object(object) => Some(Row { path: object.path(view), instance: instance(view, object)? }),
            Item::Link(link) => {
                let instance = link.instance(view);
                let path = instance.path(&view.host.name, view.namespaces.virtualization().namespace());
                Some(Row { path, instance })
            }
        }
    }
}

/// One instance, whose keys may be incomplete as long as they name only one.
///
/// # Errors
/// Unknown namespace or class, no such instance, or several of them.
pub fn get(view: &View, target: &Target) -> Result<Row, Error> {
    let schema = view.schema(&target.namespace)?;
    if !is_virtualization(schema) {
        return cimv2::get(view, schema, target);
    }
    find::find_row(view, target).map(|(_, row)| row)
}

/// The answers to a query.
///
/// # Errors
/// Unknown namespaces and classes, queries that cannot be evaluated, and sources of associations that do not exist.
pub fn enumerate(view: &View, namespace: &str, query: Query) -> Result<Rows, Error> {
    let schema = view.schema(namespace)?;
    if !is_virtualization(schema) {
        return cimv2::enumerate(view, schema, query);
    }
    match query {
        Query::Class { class, polymorphic } => {
            let class = known(schema, &class)?;
            let items =
                if polymorphic { find::all(view, schema, &class.name) } else { find::exactly(view, &class.name) };
            Ok(rows(view, items, |_| true))
        }
        Query::Selectors { class, keys } => {
            let class = known(schema, &class)?;
            let target = Target { namespace: namespace.to_owned(), class: class.name.clone(), keys };
            let items = find::candidates(view, schema, &target);
            Ok(rows(view, items, move |instance| target.matches(instance)))
        }
        Query::Select(select) => select::enumerate(view, schema, &select),
        Query::Associators { .. } | Query::References { .. } => associate::enumerate(view, schema, query),
    }
}

/// Whether this crate's instances live in the schema.
pub(crate) fn is_virtualization(schema: &Schema) -> bool {
    same_namespace(schema.namespace(), VIRTUALIZATION)
}

pub(crate) fn known<'a>(schema: &'a Schema, class: &str) -> Result<&'a Class, Error> {
    schema.class(class).map(|class| &**class).ok_or_else(|| Error::invalid_class(class))
}

pub(crate) fn rows(view: &View, items: Items, wanted: impl Fn(&Instance) -> bool + Send + 'static) -> Rows {
    let view = view.clone();
    Rows::new(items.filter_map(move |item| item.row(&view)).filter(move |row| wanted(&row.instance)).map(Ok))
}

/// A value that names an object: a reference, or its text.
pub(crate) fn as_target(value: &Value, namespace: &str) -> Option<Target> {
    let path = match value {
        Value::Reference(path) => path.clone(),
        Value::String(text) => cim::ObjectPath::parse(text).ok()?,
        _ => return None,
    };
    Some(Target::from_path(path, namespace))
}
