//! The notations of CIM: queries, paths, times, instances and classes.

use std::time::Duration;

use cim::embedded::{self, EmbeddedInstance};
use cim::op::{Operation, Query as Question};
use cim::wql::{self, Query};
use cim::{DateTime, Instance, ObjectPath, Schema, limit, mof};
use hyperv::{Reaction, Subscription};

use crate::world::{self, HOST, NAMESPACE};

/// Rows that are looked at of one answer.
const ROWS: usize = 200;

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn schema() -> &'static Schema {
    world::view().namespaces.virtualization()
}

/// A selection: resolved, evaluated over an instance, and over the world.
pub fn wql_select(bytes: &[u8]) -> bool {
    let Some(Ok(Query::Select(select))) = text(bytes).map(wql::parse) else { return false };
    if let Ok(filter) = select.resolve(schema(), HOST) {
        let instance = Instance::with_defaults(filter.class());
        filter.matches(&instance);
        assert!(filter.key_equalities().len() <= filter.equalities().len());
    }
    enumerate(Question::Select(select));
    true
}

/// An event query: resolved, and evaluated over what happens in the world.
pub fn wql_event(bytes: &[u8]) -> bool {
    let Some(Ok(Query::Select(select))) = text(bytes).map(wql::parse) else { return false };
    let Ok(mut subscription) = Subscription::new(world::view(), NAMESPACE, &select) else { return false };
    let later = world::later();
    subscription.take(&later, Duration::ZERO);
    // Nothing else happens, so the second look finds what the first left over, and the third nothing.
    let due = subscription.due().unwrap_or_default();
    subscription.take(&later, due);
    assert!(subscription.take(&later, due + Duration::from_secs(100_000)).is_empty(), "events end");
    true
}

/// A query by association, evaluated over the world.
pub fn wql_association(bytes: &[u8]) -> bool {
    match text(bytes).map(wql::parse) {
        Some(Ok(query @ (Query::Associators(_) | Query::References(_)))) => {
            enumerate(Question::from_wql(query, NAMESPACE));
            true
        }
        _ => false,
    }
}

fn enumerate(query: Question) {
    let operation = Operation::Enumerate { namespace: NAMESPACE.to_owned(), query };
    if let Ok(Reaction::Read(cim::op::Answer::Rows(rows))) = hyperv::answer(world::view(), operation) {
        for row in rows.take(ROWS).flatten() {
            let path = row.path.to_string();
            let again = ObjectPath::parse(&path).unwrap_or_else(|error| panic!("the path of a row is one: {error}"));
            assert!(again.same_object(&row.path), "{path}");
        }
    }
}

/// An object path, which is the same when it is printed and read.
pub fn object_path(bytes: &[u8]) -> bool {
    let Some(Ok(path)) = text(bytes).map(ObjectPath::parse) else { return false };
    let printed = path.to_string();
    // Escapes make it longer, and the longest there may be cannot be written any more.
    if printed.len() <= limit::PATH_BYTES {
        let again = ObjectPath::parse(&printed);
        assert_eq!(again.as_ref(), Ok(&path), "{printed}");
        assert!(path.keys.is_empty() || path.same_object(&path.relative()), "{printed}");
    }
    true
}

/// A point in time or an interval, which is the same when it is printed, in either notation, and read.
pub fn datetime(bytes: &[u8]) -> bool {
    let Some(Ok(value)) = text(bytes).map(DateTime::parse) else { return false };
    assert_eq!(value.to_string().len(), 25);
    assert_eq!(DateTime::parse(&value.to_string()), Ok(value));
    assert_eq!(DateTime::parse(&value.to_xml()), Ok(value));
    true
}

/// An instance in MOF.
pub fn instance_mof(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes).filter(|text| !text.trim_start().starts_with('<')) else { return false };
    instance(mof::parse_instance(text).ok())
}

/// An instance in CIM-XML.
pub fn instance_xml(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes).filter(|text| text.trim_start().starts_with('<')) else { return false };
    instance(embedded::parse(text).ok())
}

/// What fits a class says the same when it is written, in either notation, and read.
fn instance(read: Option<EmbeddedInstance>) -> bool {
    let Some(read) = read else { return false };
    let Ok(typed) = read.typed(schema()) else { return true };
    for print in [embedded::to_cim_xml, mof::print_instance] {
        let printed = print(&typed);
        // Escapes make it longer, and the longest there may be cannot be written any more.
        if printed.len() > limit::EMBEDDED_BYTES {
            continue;
        }
        let again = embedded::parse(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
        let again = again.typed(schema()).unwrap_or_else(|error| panic!("{error}: {printed}"));
        assert_eq!(print(&again), printed);
    }
    true
}

/// Class declarations, which are the same when they are printed and read.
pub fn classes_mof(bytes: &[u8]) -> bool {
    let Some(Ok(classes)) = text(bytes).map(mof::parse_classes) else { return false };
    let printed: String = classes.iter().map(mof::print_class).collect();
    let again = mof::parse_classes(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let again: String = again.iter().map(mof::print_class).collect();
    assert_eq!(again, printed);
    drop(Schema::new("root/x", classes));
    true
}
