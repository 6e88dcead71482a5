//! WQL selections: where to look, before looking.
//!
//! A selection that names its object (by a key, by `__PATH`, or by the beginning of an instance id) is answered from that
//! object alone. The condition is evaluated in any case, so looking in the right place is only ever faster.

use cim::op::{Rows, Target};
use cim::wql::{Expression, Select};
use cim::{Error, Schema, case};

use super::{Items, find, rows};
use crate::view::View;

/// Answers a selection.
///
/// # Errors
/// Unknown classes and properties, and conditions that cannot be evaluated.
pub fn enumerate(view: &View, schema: &Schema, select: &Select) -> Result<Rows, Error> {
    let filter = select.resolve(schema, &view.host.name)?;
    let mut target = Target::new(schema.namespace(), filter.class().name.clone());
    for (name, value) in filter.equalities() {
        target = target.with_key(name, value.clone());
    }
    let items = by_prefix(view, schema, select).unwrap_or_else(|| find::candidates(view, schema, &target));
    let projection = filter.projection().map(<[String]>::to_vec);
    Ok(rows(view, items, move |instance| filter.matches(instance)).with_projection(projection))
}

/// What `InstanceID LIKE 'Microsoft:<GUID>…%'` leads to: the settings of that GUID and their resources.
fn by_prefix(view: &View, schema: &Schema, select: &Select) -> Option<Items> {
    conjuncts(select.condition.as_ref()?).into_iter().find_map(|conjunct| match conjunct {
        Expression::Like { name, pattern } if case::eq(name, "InstanceID") => {
            let prefix = pattern.split(['%', '_', '[']).next().unwrap_or_default();
            find::with_id_prefix(view, schema, &select.class, prefix)
        }
        _ => None,
    })
}

/// The parts that must all hold.
fn conjuncts(condition: &Expression) -> Vec<&Expression> {
    match condition {
        Expression::And(parts) => parts.iter().flat_map(conjuncts).collect(),
        single => vec![single],
    }
}
