//! The effect of a stage: a function of the state, so that it can be derived again after a restart.

use crate::effect::{Control, Effect, MemoryTarget};
use crate::failure::{Failure, Kind};
use crate::id::{MemoryId, VmId};
use crate::job::{Job, PlannedMerge, Stage};
use crate::paths::Paths;
use crate::request::PowerTarget;
use crate::spec;
use crate::state::State;
use crate::vm::{Power, Vm};

/// The effect of the stage `job` is in; `None` for stages that wait for the guest or are the end.
pub(super) fn of(state: &State, paths: &Paths, job: &Job) -> Result<Option<Effect>, Failure> {
    let vm = |()| machine(state, job.vm);
    let target = |memory: MemoryId| MemoryTarget { path: paths.memory(job.vm, memory) };
    let effect = match &job.stage {
        Stage::PreparingVm { vm, nvram } => Effect::PrepareVm { vm: vm.id, nvram: nvram.as_deref().map(spec::image) },
        Stage::InspectingImage { path, format, .. } => Effect::InspectImage { path: path.clone(), format: *format },
        Stage::PreparingSnapshot(plan) => {
            let overlays = spec::overlays(state, paths, &plan.overlays);
            // The whole chain: an undo that failed may have left a layer that is written as one that is frozen, see `AbortingCapture`.
            let ground = overlays.iter().flat_map(|overlay| spec::chain(state, overlay.parent.layer));
            let ground = ground.filter(|image| image.private).map(|image| image.path).collect();
            Effect::CreateOverlays { vm: job.vm, overlays, ground, foundation: None }
        }
        Stage::PreparingApply { overlays, .. } => {
            let overlays = spec::overlays(state, paths, overlays);
            let snapshot = job.snapshot.and_then(|id| state.snapshots.get(&id));
            let foundation = snapshot.map(|snapshot| spec::foundation(state, snapshot));
            // What these lie on was brought there when the snapshot was taken.
            let ground = overlays.iter().map(|overlay| overlay.parent.path.clone()).collect();
            Effect::CreateOverlays { vm: job.vm, overlays, ground, foundation }
        }
        Stage::Capturing(plan) => Effect::Capture {
            spec: spec::machine(state, vm(())?),
            overlays: spec::overlays(state, paths, &plan.overlays),
            memory: plan.memory.map(target),
            resume: plan.power == Power::Running,
        },
        Stage::AbortingCapture { plan, .. } => Effect::AbortCapture {
            vm: job.vm,
            overlays: spec::overlays(state, paths, &plan.overlays),
            resume: plan.power == Power::Running,
        },
        Stage::Measuring(plan) => measure(state, plan)?,
        Stage::Merging(plan) => merge(state, vm(())?, plan)?,
        Stage::ResumingAfterMerge { .. } | Stage::LettingRun => Effect::Control { vm: job.vm, action: Control::Resume },
        Stage::Describing { survivor, .. } => {
            Effect::Describe { moments: spec::moments_above(state, vm(())?, *survivor) }
        }
        Stage::Deleting { paths, .. } => Effect::Delete { paths: paths.clone() },
        Stage::Launching => launch(state, vm(())?),
        Stage::AbortingLaunch { .. } | Stage::QuittingAfterSave { .. } => {
            Effect::Control { vm: job.vm, action: Control::Quit }
        }
        Stage::Saving { memory, .. } => Effect::Save { spec: spec::machine(state, vm(())?), memory: target(*memory) },
        Stage::AbortingSave { power, .. } => {
            Effect::AbortCapture { vm: job.vm, overlays: Vec::new(), resume: *power == Power::Running }
        }
        Stage::Controlling { target, .. } => Effect::Control { vm: job.vm, action: control(*target) },
        Stage::LocatingImages(work) => Effect::LocateImages { work: work.clone() },
        Stage::WorkingOnImage(work) => Effect::WorkOnImage { work: work.clone(), draft: work.draft(job.id) },
        Stage::RemovingImage { path, .. } => Effect::RemoveImage { path: path.clone() },
        Stage::AwaitingShutdown | Stage::Finished => return Ok(None),
    };
    Ok(Some(effect))
}

fn machine(state: &State, id: VmId) -> Result<&Vm, Failure> {
    let found = state.vms.get(&id).map(AsRef::as_ref);
    found.ok_or_else(|| Failure::new(Kind::NotFound, format!("virtual machine {id} is gone")))
}

fn launch(state: &State, vm: &Vm) -> Effect {
    let memory = vm.saved.and_then(|id| state.memories.get(&id));
    let memory = memory.map(|memory| spec::memory_source(memory));
    Effect::Launch { spec: spec::machine(state, vm), memory }
}

fn measure(state: &State, plan: &PlannedMerge) -> Result<Effect, Failure> {
    match (state.layers.get(&plan.upper), state.layers.get(&plan.lower)) {
        (Some(upper), Some(lower)) => Ok(Effect::Measure { images: vec![spec::image(upper), spec::image(lower)] }),
        _ => Err(gone()),
    }
}

fn merge(state: &State, vm: &Vm, plan: &PlannedMerge) -> Result<Effect, Failure> {
    let direction = plan.direction.ok_or_else(|| Failure::new(Kind::Failed, "the merge was not measured"))?;
    let order = spec::merge(state, vm, plan.upper, plan.lower, direction).ok_or_else(gone)?;
    let live = vm.power.has_process() && order.slot.is_some();
    Ok(Effect::Merge { vm: vm.id, order, live })
}

fn gone() -> Failure {
    Failure::new(Kind::Failed, "a disk layer to be merged is not on record any more")
}

fn control(target: PowerTarget) -> Control {
    match target {
        PowerTarget::Running => Control::Resume,
        PowerTarget::Paused => Control::Pause,
        PowerTarget::Reset => Control::Reset,
        PowerTarget::Shutdown => Control::PowerButton,
        PowerTarget::Off | PowerTarget::Saved => Control::Quit,
    }
}
