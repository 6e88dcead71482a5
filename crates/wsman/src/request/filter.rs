//! The filter of an enumeration: WQL, associations, or selectors.

use crate::epr::{self, Resource, Selectors};
use crate::fault::{Fault, Kind};
use crate::ns;
use cim::op::{Detail, Query};
use cim::wql;
use cim::xml::Element;

/// Reads the filter of an `n:Enumerate`; `None` if it has none.
pub(super) fn read(body: &Element, resource: &Resource, namespace: &str) -> Result<Option<Query>, Fault> {
    let Some(filter) = body.child(ns::WSMAN, "Filter").or_else(|| body.child(ns::ENUMERATION, "Filter")) else {
        return Ok(None);
    };
    let dialect = filter.attribute("", "Dialect").unwrap_or_default().trim();
    let is = |known: &str| dialect.eq_ignore_ascii_case(known);
    let query = if is(ns::DIALECT_WQL) {
        let parsed = wql::parse(filter.text().trim()).map_err(|error| cim::Error::invalid_query(error.to_string()))?;
        Query::from_wql(parsed, namespace)
    } else if is(ns::DIALECT_ASSOCIATION) {
        association(filter, namespace)?
    } else if is(ns::DIALECT_SELECTOR) {
        selectors(filter, resource)?
    } else {
        return Err(Fault::new(Kind::FilterDialect, format!("filter dialect {dialect:?} is not supported; use WQL")));
    };
    Ok(Some(query))
}

fn association(filter: &Element, namespace: &str) -> Result<Query, Fault> {
    let missing = |what: &str| Fault::new(Kind::CannotProcessFilter, format!("the association filter has no {what}"));
    let instances = filter.child(ns::CIM_BINDING, "AssociatedInstances");
    let connections = filter.child(ns::CIM_BINDING, "AssociationInstances");
    let wanted = instances.or(connections).ok_or_else(|| missing("AssociatedInstances or AssociationInstances"))?;
    let object = wanted.child(ns::CIM_BINDING, "Object").ok_or_else(|| missing("Object"))?;
    // Some clients put the whole reference into Object, most only its content.
    let content = object.child(ns::ADDRESSING, "EndpointReference").unwrap_or(object);
    let source = epr::read(content, namespace)?;
    let text =
        |name: &str| wanted.child(ns::CIM_BINDING, name).map(Element::trimmed_text).filter(|text| !text.is_empty());
    let (result_class, role) = (text("ResultClassName"), text("Role"));
    Ok(match instances {
        Some(_) => Query::Associators {
            source,
            association_class: text("AssociationClassName"),
            result_class,
            role,
            result_role: text("ResultRole"),
            detail: Detail::Instance,
        },
        None => Query::References { source, result_class, role, detail: Detail::Instance },
    })
}

fn selectors(filter: &Element, resource: &Resource) -> Result<Query, Fault> {
    let class = resource.class.clone().ok_or_else(|| {
        Fault::new(Kind::FilterRequired, "a selector filter works on one class, the resource URI names all")
    })?;
    let set = filter
        .child(ns::WSMAN, "SelectorSet")
        .ok_or_else(|| Fault::new(Kind::CannotProcessFilter, "the selector filter has no SelectorSet"))?;
    Ok(Query::Selectors { class, keys: Selectors::read(set)?.keys })
}
