//! What happens when an effect ends: one handler for each stage.

use super::Turn;
use crate::effect::EffectId;
use crate::event::{EffectFailure, InspectedImage, Outcome};
use crate::failure::{Failure, Kind};
use crate::id::{DeviceId, IdSource, JobId, LayerId, MemoryId, VmId};
use crate::image_file;
use crate::job::{Job, JobKind, JobState, Stage};
use crate::request::PowerTarget;
use crate::snapshot::{Layer, Memory, Origin};
use crate::vm::{Power, Slot};

impl Turn<'_> {
    /// Works in the end of an effect. Only the effect last released counts; a late or repeated outcome is ignored.
    pub(super) fn outcome(&mut self, effect: EffectId, outcome: &Result<Outcome, EffectFailure>) {
        let Some(job) = self.state.jobs.get(&effect.job).cloned() else { return };
        if job.state.is_final() || job.effects != effect.number {
            return;
        }
        match outcome {
            Ok(outcome) => self.succeeded(&job, outcome),
            Err(failure) => self.failed(&job, failure),
        }
    }

    fn succeeded(&mut self, job: &Job, outcome: &Outcome) {
        let (id, vm) = (job.id, job.vm);
        match (job.stage.clone(), outcome) {
            (Stage::PreparingVm { vm, nvram }, Outcome::Done) => {
                nvram.into_iter().for_each(|layer| self.state.put_layer(*layer));
                self.state.put_vm(*vm);
                self.end(id, JobState::Completed);
            }
            (Stage::InspectingImage { drive, .. }, Outcome::Inspected { chain }) => {
                self.inspected(id, vm, drive, chain)
            }
            (Stage::PreparingSnapshot(plan), Outcome::Done) => self.snapshot_prepared(id, vm, plan),
            (Stage::Capturing(plan), Outcome::Captured { moment, report, machine }) => {
                self.record_snapshot(id, vm, &plan, *moment, Some((report, machine)));
            }
            (Stage::AbortingCapture { plan, end }, Outcome::Aborted { switched, alive }) => {
                self.set_process_power(vm, if *alive { plan.power } else { Power::Off });
                self.capture_undone(id, vm, &plan, *switched, end);
            }
            (Stage::PreparingApply { overlays, generation_id }, Outcome::Done) => {
                self.record_apply(id, vm, &overlays, generation_id);
            }
            (Stage::Measuring(plan), Outcome::Measured { bytes }) => self.measured(id, plan, bytes),
            (Stage::Merging(plan), Outcome::Merged { stopped }) => self.merge_done(id, vm, plan, *stopped),
            (Stage::ResumingAfterMerge { survivor, paths, .. }, Outcome::Done) => {
                self.describe(id, vm, survivor, paths)
            }
            (Stage::Describing { paths, .. }, Outcome::Done) => {
                self.enter(id, Stage::Deleting { paths, end: JobState::Completed });
            }
            (Stage::Deleting { end, .. }, Outcome::Done) => self.deleted(id, vm, end),
            (Stage::Launching, Outcome::Done) => self.enter(id, Stage::LettingRun),
            (Stage::LettingRun, Outcome::Done) => {
                self.set_process_power(vm, Power::Running);
                self.state.update_vm(vm, |vm| vm.saved = None);
                self.tidy_without_merges(id, JobState::Completed);
            }
            (Stage::AbortingLaunch { end }, Outcome::Done) => self.launch_undone(id, vm, end),
            (Stage::Saving { memory, power }, Outcome::Saved { report, machine }) => {
                let path = self.paths.memory(vm, memory);
                self.state.put_memory(Memory { id: memory, vm, path, bytes: report.bytes, machine: machine.clone() });
                self.state.update_vm(vm, |vm| vm.saved = Some(memory));
                // The news that the process has ended may have been quicker; its memory is complete all the same.
                self.set_power(vm, Power::Saving);
                self.state.update_job(id, |job| job.report = Some(report.clone()));
                self.enter(id, Stage::QuittingAfterSave { memory, power });
            }
            (Stage::QuittingAfterSave { .. }, Outcome::Done) => {
                self.set_power(vm, Power::Saved);
                self.end(id, JobState::Completed);
            }
            (Stage::AbortingSave { memory, power, end }, Outcome::Aborted { alive: true, .. }) => {
                self.save_undone(id, vm, memory, power, end);
            }
            (Stage::AbortingSave { memory, end, .. }, Outcome::Aborted { alive: false, .. }) => {
                self.process_gone_from_save(id, vm, memory, end);
            }
            (Stage::Controlling { target, .. }, Outcome::Done) => self.controlled(id, vm, target),
            (Stage::LocatingImages(_), Outcome::Located { work }) => self.images_located(id, work),
            (Stage::WorkingOnImage(work), Outcome::Done) => self.image_worked_on(id, &work),
            (Stage::RemovingImage { end, .. }, Outcome::Done) => self.end(id, end),
            (stage, outcome) => {
                debug_assert!(false, "outcome {outcome:?} does not belong to {stage:?}");
                let failure = Failure::new(Kind::Failed, "the host answered something else than was asked");
                self.failed(job, &failure.into());
            }
        }
    }

    pub(super) fn failed(&mut self, job: &Job, failure: &EffectFailure) {
        let (id, vm) = (job.id, job.vm);
        let switched = failure.switched;
        let failure = &failure.failure;
        let end = self.end_for(id, failure);
        match job.stage.clone() {
            Stage::PreparingVm { vm, .. } => self.enter(id, Stage::Deleting { paths: vec![self.paths.vm(vm.id)], end }),
            Stage::PreparingSnapshot(plan) => self.capture_undone(id, vm, &plan, false, end),
            Stage::Capturing(plan) => {
                if failure.kind == Kind::MachineGone {
                    self.set_power(vm, Power::Off);
                }
                self.capture_undone(id, vm, &plan, switched, end);
            }
            // Undo that cannot be carried out leaves the truth unknown: take what loses nothing.
            Stage::AbortingCapture { plan, end } => {
                self.set_process_power(vm, after_a_failed_undo(failure, plan.power));
                self.capture_undone(id, vm, &plan, true, end);
            }
            Stage::PreparingApply { overlays, .. } => {
                let paths = overlays.iter().map(|overlay| self.paths.layer(vm, overlay.layer)).collect();
                self.enter(id, Stage::Deleting { paths, end });
            }
            Stage::Merging(plan) if failure.kind == Kind::MachineGone => {
                // The guest shut down or crashed under the merge: go on without it.
                self.set_power(vm, Power::Off);
                self.enter(id, Stage::Merging(plan));
            }
            Stage::ResumingAfterMerge { paths, power, .. } => {
                self.set_process_power(vm, if failure.kind == Kind::MachineGone { Power::Off } else { power });
                self.enter(id, Stage::Deleting { paths, end });
            }
            // The texts are a convenience; that they name a file that is gone is no reason to keep the file.
            Stage::Describing { paths, .. } => self.enter(id, Stage::Deleting { paths, end: JobState::Completed }),
            Stage::Deleting { paths, end } => self.not_deleted(id, vm, paths, end, failure),
            Stage::Launching => self.enter(id, Stage::AbortingLaunch { end }),
            Stage::LettingRun => {
                // The guest may have run and written, unless it is certain that it has not: then its memory is of the past.
                if matches!(failure.kind, Kind::MachineGone | Kind::Timeout) {
                    self.state.update_vm(vm, |vm| vm.saved = None);
                }
                self.enter(id, Stage::AbortingLaunch { end });
            }
            // A process that cannot be ended still owns its disks: the machine stays as it is, to be started or turned off again.
            Stage::AbortingLaunch { end } => self.end(id, end),
            Stage::Saving { memory, power } => self.enter(id, Stage::AbortingSave { memory, power, end }),
            Stage::AbortingSave { memory, end, .. } if failure.kind == Kind::MachineGone || self.has_quit(vm) => {
                self.process_gone_from_save(id, vm, memory, end);
            }
            Stage::AbortingSave { memory, power, end } => {
                self.save_undone(id, vm, memory, after_a_failed_undo(failure, power), end);
            }
            Stage::QuittingAfterSave { memory, .. } if self.has_quit(vm) => {
                self.process_gone_from_save(id, vm, memory, end);
            }
            // A process that cannot be ended still owns its disks: the guest runs on in it, and the save is forgotten.
            Stage::QuittingAfterSave { memory, power } => self.enter(id, Stage::AbortingSave { memory, power, end }),
            Stage::Controlling { power, .. } => {
                self.set_process_power(vm, if failure.kind == Kind::MachineGone { Power::Off } else { power });
                self.end(id, end);
            }
            Stage::Measuring(_) | Stage::Merging(_) => self.end(id, merge_failed(job, end)),
            Stage::WorkingOnImage(work) => self.image_work_failed(id, &work, end),
            Stage::RemovingImage { path, end } => self.image_not_removed(id, &path, end, failure),
            Stage::InspectingImage { .. } | Stage::LocatingImages(_) => self.end(id, end),
            Stage::AwaitingShutdown | Stage::Finished => {}
        }
    }

    /// Puts an inspected image into its drive.
    fn inspected(&mut self, job: JobId, vm: VmId, drive: DeviceId, chain: &[InspectedImage]) {
        let refused = chain.iter().enumerate().find_map(|(depth, image)| {
            // The top one will be written, the others are only read.
            let writes = depth == 0;
            let unclaimed = image_file::require_unclaimed(&self.state, &image.path, Some(job), writes);
            unclaimed.and_then(|()| image_file::require_unused(&self.state, &image.path, writes)).err()
        });
        if let Some(failure) = refused {
            return self.end(job, JobState::Failed(failure));
        }
        let mut ids = IdSource::new(job.0.as_u128());
        let mut below = None;
        for (depth, image) in chain.iter().enumerate().rev() {
            let id = LayerId(ids.next_uuid());
            let origin = if depth == 0 { Origin::Attached } else { Origin::Backing };
            let InspectedImage { path, format, size } = image.clone();
            self.state.put_layer(Layer { id, vm, path, format, parent: below, origin, size, merging: None });
            below = Some(id);
        }
        let now = self.now;
        self.state.update_vm(vm, |vm| {
            below.into_iter().for_each(|layer| vm.settings.set_layer(Slot::Drive(drive), layer));
            vm.configuration_changed = now;
        });
        self.end(job, JobState::Completed);
    }

    fn save_undone(&mut self, job: JobId, vm: VmId, memory: MemoryId, power: Power, end: JobState) {
        self.state.update_vm(vm, |vm| vm.saved = None);
        self.state.remove_memory(memory);
        self.set_process_power(vm, power);
        self.enter(job, Stage::Deleting { paths: vec![self.paths.memory(vm, memory)], end });
    }

    /// Whether the news that a saved machine's process has ended was quicker than the outcome of what ends it.
    fn has_quit(&self, vm: VmId) -> bool {
        self.state.vms.get(&vm).is_some_and(|vm| vm.power == Power::Saved)
    }

    /// The process has ended while a save was undone. Memory that is on record is complete, and the only live state there is.
    fn process_gone_from_save(&mut self, job: JobId, vm: VmId, memory: MemoryId, end: JobState) {
        if self.state.vms.get(&vm).is_some_and(|vm| vm.saved == Some(memory)) {
            self.set_power(vm, Power::Saved);
            self.end(job, JobState::Completed);
        } else {
            self.save_undone(job, vm, memory, Power::Off, end);
        }
    }

    fn launch_undone(&mut self, job: JobId, vm: VmId, end: JobState) {
        let saved = self.state.vms.get(&vm).is_some_and(|vm| vm.saved.is_some());
        self.set_power(vm, if saved { Power::Saved } else { Power::Off });
        self.tidy_without_merges(job, end);
    }

    fn controlled(&mut self, job: JobId, vm: VmId, target: PowerTarget) {
        match target {
            PowerTarget::Shutdown => return self.enter(job, Stage::AwaitingShutdown),
            PowerTarget::Off | PowerTarget::Saved => {
                self.set_power(vm, Power::Off);
                return self.tidy_without_merges(job, JobState::Completed);
            }
            PowerTarget::Paused => self.set_process_power(vm, Power::Paused),
            PowerTarget::Running => self.set_process_power(vm, Power::Running),
            PowerTarget::Reset => {}
        }
        self.end(job, JobState::Completed);
    }
}

/// What to take a machine for whose guest was to run again, when that order failed: one that stands still can be let run by its
/// user, and one that runs all the same is not harmed by that.
fn after_a_failed_undo(failure: &Failure, before: Power) -> Power {
    match failure.kind {
        Kind::MachineGone => Power::Off,
        _ if before == Power::Running => Power::Paused,
        _ => before,
    }
}

/// The end of a job whose merge failed: the snapshot is gone all the same, and its owner should know.
fn merge_failed(job: &Job, end: JobState) -> JobState {
    match (job.kind, end) {
        (JobKind::DestroySnapshot, JobState::Failed(failure)) => {
            let text = format!("the snapshot is removed, but its disk layers could not be merged: {}", failure.message);
            let retry = "merging is tried again when the next snapshot is removed, or when the service starts";
            let hint = failure.hint.map_or_else(|| retry.to_owned(), |hint| format!("{hint}; {retry}"));
            JobState::Failed(Failure::new(failure.kind, text).hint(hint))
        }
        (_, end) => end,
    }
}
