//! From the ledger's entities to the complete orders that effects carry.

use std::collections::BTreeMap;

use crate::effect::{
    Chain, Foundation, Image, MachineSpec, MemorySource, MergeDirection, MergeOrder, MomentSpec, Overlay,
};
use crate::id::{LayerId, MemoryId};
use crate::job::PlannedOverlay;
use crate::paths::Paths;
use crate::snapshot::{Format, Layer, Memory, Origin, Snapshot};
use crate::state::{State, Timestamp};
use crate::vm::{Settings, Slot, Vm};

/// How the host sees a layer.
pub fn image(layer: &Layer) -> Image {
    Image {
        layer: layer.id,
        path: layer.path.clone(),
        format: layer.format,
        size: layer.size,
        private: layer.origin != Origin::Backing,
    }
}

/// The chain under `top`, top first.
pub fn chain(state: &State, top: LayerId) -> Vec<Image> {
    state.chain(top).into_iter().map(|layer| image(layer)).collect()
}

/// The machine as the host must build it.
pub fn machine(state: &State, vm: &Vm) -> MachineSpec {
    machine_with(state, vm, &vm.settings)
}

/// What has memory and reads through `layer`, for the texts beside the memory: snapshots, and a machine that is saved, for it may become
/// a snapshot. Of several that share one memory the one with the fewest layers: the others rest on it, and may go before it does.
pub fn moments_above(state: &State, vm: &Vm, layer: LayerId) -> Vec<MomentSpec> {
    let saved = vm.saved.map(|memory| (memory, &vm.settings, vm.power_changed));
    let kept = state.snapshots_of(vm.id).filter_map(|one| Some((one.memory?, &one.settings, one.created)));
    let layers = |settings: &Settings| -> Vec<LayerId> {
        let tops = settings.layers().into_iter();
        tops.flat_map(|(_, top)| state.chain(top)).map(|link| link.id).collect()
    };
    let mut moments: BTreeMap<MemoryId, (Vec<LayerId>, &Settings, Timestamp)> = BTreeMap::new();
    for (memory, settings, moment) in kept.chain(saved) {
        let below = layers(settings);
        if moments.get(&memory).is_none_or(|(known, ..)| below.len() < known.len()) {
            moments.insert(memory, (below, settings, moment));
        }
    }
    let describe = |(memory, (below, settings, moment)): (MemoryId, (Vec<LayerId>, &Settings, Timestamp))| {
        let memory = below.contains(&layer).then(|| state.memories.get(&memory)).flatten()?;
        Some(MomentSpec { spec: machine_with(state, vm, settings), memory: memory_source(memory), moment })
    };
    moments.into_iter().filter_map(describe).collect()
}

/// What a snapshot consists of.
pub fn foundation(state: &State, snapshot: &Snapshot) -> Foundation {
    let memory = snapshot.memory.and_then(|id| state.memories.get(&id)).map(|memory| memory_source(memory));
    Foundation { chains: chains(state, &snapshot.settings), memory }
}

/// Memory to be restored.
pub fn memory_source(memory: &Memory) -> MemorySource {
    MemorySource { path: memory.path.clone(), machine: memory.machine.clone() }
}

fn chains(state: &State, settings: &Settings) -> Vec<Chain> {
    settings.layers().into_iter().map(|(slot, top)| Chain { slot, images: chain(state, top) }).collect()
}

fn machine_with(state: &State, vm: &Vm, settings: &Settings) -> MachineSpec {
    MachineSpec {
        vm: vm.id,
        name: vm.name.clone(),
        processors: settings.processors,
        memory_mib: settings.memory_mib,
        firmware: settings.firmware,
        bios_guid: settings.bios_guid,
        generation_id: vm.generation_id,
        chains: chains(state, settings),
        nics: settings.nics.clone(),
    }
}

/// The layer that a planned overlay will be. `None` if its parent is gone.
pub fn planned_layer(state: &State, paths: &Paths, plan: &PlannedOverlay) -> Option<Layer> {
    let parent = state.layers.get(&plan.parent)?;
    Some(Layer {
        id: plan.layer,
        vm: parent.vm,
        path: paths.layer(parent.vm, plan.layer),
        format: Format::Qcow2,
        parent: Some(plan.parent),
        origin: Origin::Created,
        size: parent.size,
        merging: None,
    })
}

/// Orders to create planned overlays.
pub fn overlays(state: &State, paths: &Paths, plans: &[PlannedOverlay]) -> Vec<Overlay> {
    let overlay = |plan: &PlannedOverlay| {
        let layer = planned_layer(state, paths, plan)?;
        let parent = state.layers.get(&plan.parent)?;
        Some(Overlay { slot: plan.slot, image: image(&layer), parent: image(parent) })
    };
    plans.iter().filter_map(overlay).collect()
}

/// The slot in whose active chain a layer is, and the layers above it there.
pub fn position(state: &State, vm: &Vm, layer: LayerId) -> Option<(Slot, Vec<LayerId>)> {
    vm.settings.layers().into_iter().find_map(|(slot, top)| {
        let chain = state.chain(top);
        let at = chain.iter().position(|link| link.id == layer)?;
        Some((slot, chain[..at].iter().map(|link| link.id).collect()))
    })
}

/// The order to merge two layers. `None` if one of them is gone.
pub fn merge(state: &State, vm: &Vm, upper: LayerId, lower: LayerId, direction: MergeDirection) -> Option<MergeOrder> {
    let (above_layer, below_layer) = (state.layers.get(&upper)?, state.layers.get(&lower)?);
    let (slot, above) = match position(state, vm, upper) {
        Some((slot, above)) => (Some(slot), above),
        None => (None, Vec::new()),
    };
    let images = |ids: &[LayerId]| ids.iter().filter_map(|id| state.layers.get(id)).map(|layer| image(layer)).collect();
    Some(MergeOrder {
        slot,
        above: images(&above),
        upper: image(above_layer),
        lower: image(below_layer),
        below: below_layer.parent.map(|parent| chain(state, parent)).unwrap_or_default(),
        children: state
            .layers_of(vm.id)
            .filter(|layer| layer.parent == Some(upper))
            .map(|layer| image(layer))
            .collect(),
        direction,
    })
}
