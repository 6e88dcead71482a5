//! `ASSOCIATORS OF` and `REFERENCES OF`.

use std::collections::BTreeSet;

use cim::op::{Query, Rows};
use cim::{Error, Schema, case};

use super::find::find;
use super::{Item, known, rows};
use crate::assoc::{self, Link};
use crate::object::Object;
use crate::view::View;

/// What narrows down the connections of a source.
#[derive(Default)]
struct Wanted {
    association_class: Option<String>,
    result_class: Option<String>,
    role: Option<String>,
    result_role: Option<String>,
}

/// Answers one of the two; other queries have no answer here.
///
/// # Errors
/// A source that does not exist, and classes that do not.
pub fn enumerate(view: &View, schema: &Schema, query: Query) -> Result<Rows, Error> {
    let (source, wanted, links_wanted, detail) = match query {
        Query::Associators { source, association_class, result_class, role, result_role, detail } => {
            (source, Wanted { association_class, result_class, role, result_role }, false, detail)
        }
        Query::References { source, result_class, role, detail } => {
            (source, Wanted { association_class: result_class, role, ..Wanted::default() }, true, detail)
        }
        _ => return Ok(Rows::empty()),
    };
    for class in [&wanted.association_class, &wanted.result_class].into_iter().flatten() {
        known(schema, class)?;
    }
    let items = match find(view, &source)? {
        Item::Object(object) => connected(view, schema, object, &wanted, links_wanted),
        // Connections are not themselves connected with anything.
        Item::Link(_) => Vec::new(),
    };
    Ok(rows(view, Box::new(items.into_iter()), |_| true).with_detail(detail))
}

/// The links, or what is at their other ends, each once.
fn connected(view: &View, schema: &Schema, source: Object, wanted: &Wanted, links_wanted: bool) -> Vec<Item> {
    let fits = |wanted: &Option<String>, role: &str| wanted.as_ref().is_none_or(|wanted| case::eq(wanted, role));
    let is_a = |wanted: &Option<String>, class: &str| wanted.as_ref().is_none_or(|wanted| schema.is_a(class, wanted));
    let mut items: Vec<Item> = Vec::new();
    let mut seen = BTreeSet::new();
    let is_wanted = |association: &assoc::Association| is_a(&wanted.association_class, association.class);
    for (link, is_left) in assoc::links_of(&view.state, source, is_wanted) {
        let Link { association, left, right } = link;
        let (role, result_role, result) = match is_left {
            true => (association.left, association.right, right),
            false => (association.right, association.left, left),
        };
        let matches = is_a(&wanted.result_class, result.class())
            && fits(&wanted.role, role)
            && fits(&wanted.result_role, result_role);
        if matches && links_wanted {
            items.push(Item::Link(link));
        } else if matches && seen.insert(result) {
            items.push(Item::Object(result));
        }
    }
    items
}
