//! The wrong lines: what somebody could write in good faith. Each breaks a promise in a way that is not seen at once.

use super::Mutant;

const fn mutant(name: &'static str, file: &'static str, right: &'static str, wrong: &'static str) -> Mutant {
    Mutant { name, file, right, wrong }
}

/// All of them, by the part they are in.
pub(super) const MUTANTS: &[Mutant] = &[
    // The driver.
    mutant(
        "a fact that could not be recorded is forgotten",
        "ledger/src/driver.rs",
        "self.unrecorded.push_back(fact);",
        "drop(fact);",
    ),
    mutant(
        "an outcome counts for whatever the job does by now",
        "ledger/src/flow/outcome.rs",
        "if job.state.is_final() || job.effects != effect.number {",
        "if job.state.is_final() {",
    ),
    mutant(
        "a paused guest runs after a snapshot",
        "ledger/src/flow/effects.rs",
        "            memory: plan.memory.map(target),\n            resume: plan.power == Power::Running,",
        "            memory: plan.memory.map(target),\n            resume: true,",
    ),
    mutant(
        "overlays of a capture that failed before the switch go live",
        "ledger/src/flow/snapshots.rs",
        "        if switched {\n            self.adopt_overlays",
        "        if !switched {\n            self.adopt_overlays",
    ),
    mutant(
        "a guest that may have run is started from the same memory again",
        "ledger/src/flow/outcome.rs",
        "if matches!(failure.kind, Kind::MachineGone | Kind::Timeout) {",
        "if matches!(failure.kind, Kind::MachineGone) {",
    ),
    mutant(
        "the end of a guest that had just begun is forgotten",
        "ledger/src/flow/machine.rs",
        "if change == MachineChange::Gone && begun {",
        "if change == MachineChange::Stopped && begun {",
    ),
    mutant(
        "a complete save is thrown away with its process",
        "ledger/src/flow/outcome.rs",
        "if self.state.vms.get(&vm).is_some_and(|vm| vm.saved == Some(memory)) {",
        "if self.state.vms.get(&vm).is_none_or(|vm| vm.saved != Some(memory)) {",
    ),
    // Recovery.
    mutant(
        "an interrupted capture is taken again",
        "ledger/src/flow/recover.rs",
        "Stage::Capturing(plan) => self.enter(job.id, Stage::AbortingCapture { plan, end: interrupted() }),",
        "Stage::Capturing(plan) => self.enter(job.id, Stage::Capturing(plan)),",
    ),
    mutant(
        "an interrupted save is taken again",
        "ledger/src/flow/recover.rs",
        "self.enter(job.id, Stage::AbortingSave { memory, power, end: interrupted() })",
        "self.enter(job.id, Stage::Saving { memory, power })",
    ),
    mutant(
        "a guest stopped for a merge counts as paused after a restart",
        "ledger/src/flow/recover.rs",
        "Stage::Capturing(_) | Stage::AbortingCapture { .. } | Stage::Merging(_) | Stage::ResumingAfterMerge { .. }",
        "Stage::Capturing(_) | Stage::AbortingCapture { .. }",
    ),
    mutant(
        "an undo that could not be carried out counts as not switched",
        "ledger/src/flow/outcome.rs",
        "self.capture_undone(id, vm, &plan, true, end);",
        "self.capture_undone(id, vm, &plan, false, end);",
    ),
    mutant(
        "what an undo left that failed is copied up",
        "ledger/src/flow/snapshots.rs",
        "self.adopt_overlays(vm, &plan.overlays, Some(MergeDirection::Down));",
        "self.adopt_overlays(vm, &plan.overlays, Some(MergeDirection::Up));",
    ),
    mutant(
        "a snapshot brings only the layer right below it to stable storage",
        "ledger/src/flow/effects.rs",
        "overlays.iter().flat_map(|overlay| spec::chain(state, overlay.parent.layer));",
        "overlays.iter().map(|overlay| overlay.parent.clone());",
    ),
    mutant(
        "what was saved is lost when the daemon dies before the process ends",
        "ledger/src/flow/recover.rs",
        "(Observation::NoProcess, Power::Saving | Power::Saved | Power::Starting) if saved => Power::Saved,",
        "(Observation::NoProcess, Power::Saved | Power::Starting) if saved => Power::Saved,",
    ),
    // Layers and merges.
    mutant(
        "the user's image is merged away",
        "ledger/src/layers.rs",
        "if lower == Origin::Created && lower_bytes <= upper_bytes",
        "if lower_bytes <= upper_bytes",
    ),
    mutant(
        "the user's image is deleted with its layer",
        "ledger/src/flow/tidying.rs",
        "if let Some(layer) = self.state.layers.get(&id).filter(|layer| layer.origin == Origin::Created) {",
        "if let Some(layer) = self.state.layers.get(&id) {",
    ),
    mutant(
        "a base that two branches share is merged into one of them",
        "ledger/src/layers.rs",
        "[upper] => Some((*upper, layer.id)),",
        "[upper, ..] => Some((*upper, layer.id)),",
    ),
    mutant(
        "children of a merged layer stay on it",
        "ledger/src/layers.rs",
        "state.put_layer(Layer { parent: Some(lower), ..child });",
        "state.put_layer(Layer { parent: Some(upper), ..child });",
    ),
    mutant(
        "a layer forgets what is below the one merged into it",
        "ledger/src/layers.rs",
        "state.put_layer(Layer { parent: below.parent, merging: None, ..above });",
        "state.put_layer(Layer { parent: None, merging: None, ..above });",
    ),
    mutant(
        "an interrupted merge is finished the other way",
        "ledger/src/flow/tidying.rs",
        "let direction = Some(begun.unwrap_or_else(|| layers::direction(lower.origin, upper_bytes, lower_bytes)));",
        "let direction = begun.or(Some(MergeDirection::Up)).map(|_| layers::direction(lower.origin, upper_bytes, lower_bytes));",
    ),
    mutant(
        "a guest stopped for a merge is not told to run on",
        "ledger/src/flow/tidying.rs",
        "if stopped && running {",
        "if stopped && !running {",
    ),
    mutant(
        "a merge of live layers happens outside of the process",
        "ledger/src/flow/effects.rs",
        "let live = vm.power.has_process() && order.slot.is_some();",
        "let live = vm.power == Power::Paused && order.slot.is_some();",
    ),
    // Talking to QEMU.
    mutant(
        "a guest runs on although the switch may have happened",
        "qemu/src/merge.rs",
        "if (self.switched || self.completing) && self.order.switches_live_layer() {",
        "if self.switched {",
    ),
    mutant(
        "a stop for an earlier attempt is not noticed",
        "qemu/src/merge.rs",
        "self.stopped = self.switched && !may_run(&status);",
        "self.stopped = self.resumed && !may_run(&status);",
    ),
    mutant(
        "a merged layer is not brought to stable storage",
        "qemu/src/merge.rs",
        "let Some(request) = requests.pop() else { return self.sync() };",
        "let Some(request) = requests.pop() else { return finish(Ok(Merged { stopped: self.stopped })) };",
    ),
    mutant(
        "the disks switch when the guest runs again",
        "qemu/src/save/capture.rs",
        "self.switch(now, |job, _| job.continue_migration())",
        "{ self.switched = true; self.continue_migration() }",
    ),
    mutant(
        "no answer to the switch counts as not switched",
        "qemu/src/save/capture.rs",
        "self.switched = error.leaves_open();",
        "self.switched = false;",
    ),
    mutant(
        "overlays in use are dropped",
        "qemu/src/save/capture.rs",
        "if !self.switched {\n            commands.extend",
        "if self.switched {\n            commands.extend",
    ),
    mutant(
        "an aborted capture leaves the guest standing",
        "qemu/src/save/abort.rs",
        "migration::try_all(commands, now, move |now| match self.resume {",
        "migration::try_all(commands, now, move |now| match self.resume && switched {",
    ),
];
