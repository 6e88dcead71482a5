//! Which disk layers are needed, and what to do with those that are not.
//!
//! A layer is needed by a snapshot that names it, by a machine that writes to it, or by a layer on top of it. Nothing of
//! this is stored; it is computed from the references, so it cannot disagree with them.
//!
//! | references by snapshot or machine | layers on top | what happens |
//! | --- | --- | --- |
//! | some | any | stays |
//! | none | 0 | deleted ([`Tidy::Drop`]) |
//! | none | 1 | merged with that one ([`Tidy::Merge`]) |
//! | none | 2 or more | stays as a shared base, until branches go |
//!
//! A backing file of the user's image is never touched, whoever else may need it is not ours to know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::effect::MergeDirection;
use crate::id::{LayerId, VmId};
use crate::snapshot::{Layer, Origin};
use crate::state::State;

/// One step towards having only needed layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tidy {
    /// Nobody needs it.
    Drop(LayerId),
    /// Only `upper` needs `lower`.
    Merge {
        /// The layer above.
        upper: LayerId,
        /// The layer below, not needed for itself.
        lower: LayerId,
    },
}

/// The next step for a machine, or `None` if all its layers are needed. Drops come first: they may make merges needless. Then a merge
/// that has begun before.
pub fn next_tidy(state: &State, vm: VmId) -> Option<Tidy> {
    let named = named_layers(state, vm);
    let mut children: BTreeMap<LayerId, Vec<LayerId>> = BTreeMap::new();
    for layer in state.layers_of(vm) {
        if let Some(parent) = layer.parent {
            children.entry(parent).or_default().push(layer.id);
        }
    }
    let idle = || state.layers_of(vm).filter(|layer| !named.contains(&layer.id));
    let on_top = |layer: &Layer| children.get(&layer.id).map_or(&[][..], Vec::as_slice);
    if let Some(layer) = idle().find(|layer| on_top(layer).is_empty()) {
        return Some(Tidy::Drop(layer.id));
    }
    let pair = |layer: &Arc<Layer>| match on_top(layer) {
        [upper] => Some((*upper, layer.id)),
        _ => None,
    };
    let pairs = || idle().filter(|layer| layer.origin != Origin::Backing).filter_map(pair);
    let begun = |(upper, _): &(LayerId, LayerId)| state.layers.get(upper).is_some_and(|upper| upper.merging.is_some());
    let begun: Vec<_> = pairs().filter(begun).collect();
    // The lowest one: of those above it a process may not have the layers yet.
    let lowest = begun.iter().find(|(_, lower)| !begun.iter().any(|(upper, _)| upper == lower)).copied();
    let (upper, lower) = lowest.or_else(|| pairs().next())?;
    Some(Tidy::Merge { upper, lower })
}

/// Layers that the machine or one of its snapshots names.
fn named_layers(state: &State, vm: VmId) -> BTreeSet<LayerId> {
    let active = state.vms.get(&vm).map(|vm| vm.settings.layers()).unwrap_or_default();
    let frozen = state.snapshots_of(vm).flat_map(|snapshot| snapshot.settings.layers());
    active.into_iter().chain(frozen).map(|(_, layer)| layer).collect()
}

/// Which way a merge copies less. `upper_bytes` and `lower_bytes` are what the files hold.
///
/// The user's own image is always merged into: its owner expects the machine's disk in the file he gave.
pub fn direction(lower: Origin, upper_bytes: u64, lower_bytes: u64) -> MergeDirection {
    if lower == Origin::Created && lower_bytes <= upper_bytes { MergeDirection::Up } else { MergeDirection::Down }
}

/// Records that `upper` and `lower` are now one, and returns the layer whose file has become needless.
pub fn merged(state: &mut State, upper: LayerId, lower: LayerId, direction: MergeDirection) -> Option<Layer> {
    let (above, below) = (Layer::clone(state.layers.get(&upper)?), Layer::clone(state.layers.get(&lower)?));
    match direction {
        MergeDirection::Up => {
            state.remove_layer(lower);
            state.put_layer(Layer { parent: below.parent, merging: None, ..above });
            Some(below)
        }
        MergeDirection::Down => {
            let children: Vec<Layer> = state
                .layers_of(above.vm)
                .filter(|layer| layer.parent == Some(upper))
                .map(|layer| Layer::clone(layer))
                .collect();
            for child in children {
                state.put_layer(Layer { parent: Some(lower), ..child });
            }
            let snapshots: Vec<_> = state.snapshots_of(above.vm).map(|snapshot| snapshot.id).collect();
            for snapshot in snapshots {
                let names_upper = state
                    .snapshots
                    .get(&snapshot)
                    .is_some_and(|s| s.settings.layers().iter().any(|(_, l)| *l == upper));
                if names_upper {
                    state.update_snapshot(snapshot, |snapshot| snapshot.settings.replace_layer(upper, lower));
                }
            }
            state.update_vm(above.vm, |vm| vm.settings.replace_layer(upper, lower));
            state.remove_layer(upper);
            Some(above)
        }
    }
}
