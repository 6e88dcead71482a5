//! Towards having only needed files: the loop that ends most jobs, see [`crate::layers`].
//!
//! ```text
//! tidy ─▶ drop all idle layers and memories from the record ─▶ Deleting ─▶ tidy
//!      ─▶ one layer needed only by another ─▶ Measuring ─▶ Merging ─▶ (ResumingAfterMerge)
//!          ─▶ (Describing) ─▶ Deleting ─▶ tidy
//!      ─▶ nothing left: the job completes
//! ```

use std::path::PathBuf;

use super::Turn;
use crate::effect::MergeDirection;
use crate::failure::Failure;
use crate::id::{IdSource, JobId, LayerId, VmId};
use crate::job::{JobKind, JobState, PlannedMerge, Stage};
use crate::layers::{self, Tidy};
use crate::snapshot::{Layer, Origin};
use crate::spec;
use crate::vm::Power;

impl Turn<'_> {
    /// The next step of tidying, or the end of the job.
    pub(super) fn tidy(&mut self, job: JobId) {
        let Some(vm) = self.state.jobs.get(&job).map(|job| job.vm) else { return };
        let paths = self.drop_idle(vm);
        if !paths.is_empty() {
            self.enter(job, Stage::Deleting { paths, end: JobState::Completed });
        } else if let Some(Tidy::Merge { upper, lower }) = layers::next_tidy(&self.state, vm) {
            self.enter(job, Stage::Measuring(PlannedMerge { upper, lower, direction: None }));
        } else {
            self.end(job, JobState::Completed);
        }
    }

    /// Deletes what is idle and ends the job: for apply and start, which must not wait for a merge.
    pub(super) fn tidy_without_merges(&mut self, job: JobId, end: JobState) {
        let Some(vm) = self.state.jobs.get(&job).map(|job| job.vm) else { return };
        let paths = self.drop_idle(vm);
        if paths.is_empty() {
            self.end(job, end);
        } else {
            self.enter(job, Stage::Deleting { paths, end });
        }
    }

    /// Takes idle layers and memories off the record; returns the files that were made for them.
    fn drop_idle(&mut self, vm: VmId) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        self.state.update_vm(vm, |vm| paths.append(&mut vm.garbage));
        while let Some(Tidy::Drop(id)) = layers::next_tidy(&self.state, vm) {
            if let Some(layer) = self.state.layers.get(&id).filter(|layer| layer.origin == Origin::Created) {
                paths.push(layer.path.clone());
            }
            self.state.remove_layer(id);
        }
        let saved = self.state.vms.get(&vm).and_then(|vm| vm.saved);
        let needed: Vec<_> = self.state.snapshots_of(vm).filter_map(|snapshot| snapshot.memory).chain(saved).collect();
        let idle: Vec<_> = self.state.memories_of(vm).filter(|memory| !needed.contains(&memory.id)).cloned().collect();
        for memory in idle {
            paths.push(memory.path.clone());
            self.state.remove_memory(memory.id);
        }
        paths
    }

    pub(super) fn measured(&mut self, job: JobId, plan: PlannedMerge, bytes: &[u64]) {
        let Some(lower) = self.state.layers.get(&plan.lower) else { return };
        let (upper_bytes, lower_bytes) =
            (bytes.first().copied().unwrap_or(0), bytes.get(1).copied().unwrap_or(u64::MAX));
        let begun = self.state.layers.get(&plan.upper).and_then(|upper| upper.merging);
        let direction = Some(begun.unwrap_or_else(|| layers::direction(lower.origin, upper_bytes, lower_bytes)));
        if let Some(upper) = self.state.layers.get(&plan.upper) {
            let upper = Layer::clone(upper);
            self.state.put_layer(Layer { merging: direction, ..upper });
        }
        self.enter(job, Stage::Merging(PlannedMerge { direction, ..plan }));
    }

    /// Two layers are one. If the guest was stopped for it, it runs again only now that this is on record.
    pub(super) fn merge_done(&mut self, job: JobId, vm: VmId, plan: PlannedMerge, stopped: bool) {
        let direction = plan.direction.unwrap_or(MergeDirection::Up);
        let survivor = if direction == MergeDirection::Up { plan.upper } else { plan.lower };
        let needless = layers::merged(&mut self.state, plan.upper, plan.lower, direction);
        let paths =
            needless.filter(|layer| layer.origin == Origin::Created).map(|layer| layer.path).into_iter().collect();
        let running = self.state.vms.get(&vm).is_some_and(|vm| vm.power == Power::Running);
        if stopped && running {
            self.enter(job, Stage::ResumingAfterMerge { survivor, paths, power: Power::Paused });
        } else {
            self.describe(job, vm, survivor, paths);
        }
    }

    /// Brings the texts beside memory images up to date before the files they name go away.
    pub(super) fn describe(&mut self, job: JobId, vm: VmId, survivor: LayerId, paths: Vec<PathBuf>) {
        let Some(machine) = self.state.vms.get(&vm) else { return };
        if spec::moments_above(&self.state, machine, survivor).is_empty() {
            self.enter(job, Stage::Deleting { paths, end: JobState::Completed });
        } else {
            self.enter(job, Stage::Describing { survivor, paths });
        }
    }

    /// Files could not be deleted. That harms nobody, the record is what counts; they are tried again another time.
    /// Only what a removed machine leaves has nobody left to try, and its user is told.
    pub(super) fn not_deleted(&mut self, job: JobId, vm: VmId, paths: Vec<PathBuf>, end: JobState, failure: &Failure) {
        if self.state.vms.contains_key(&vm) {
            self.state.update_vm(vm, |vm| vm.garbage.extend(paths));
            return self.end(job, end);
        }
        let names: Vec<String> = paths.iter().map(|path| format!("'{}'", path.display())).collect();
        let left = format!("could not delete {}: {failure}", names.join(", "));
        let (kind, text) = match end {
            JobState::Failed(first) => (first.kind, format!("{}, and {left}", first.message)),
            _ => (failure.kind, left),
        };
        let failure = Failure::new(kind, text).hint("the machine is no longer on record; delete these by hand");
        self.end(job, JobState::Failed(failure));
    }

    /// Files are gone.
    pub(super) fn deleted(&mut self, job: JobId, vm: VmId, end: JobState) {
        let kind = self.state.jobs.get(&job).map(|job| job.kind);
        let merges = matches!(kind, Some(JobKind::DestroySnapshot | JobKind::Merge));
        if end == JobState::Completed && merges {
            return self.tidy(job);
        }
        let failed_capture = end != JobState::Completed && kind == Some(JobKind::CreateSnapshot);
        self.end(job, end);
        if failed_capture {
            self.begin_merge(vm);
        }
    }

    /// Starts a job of its own for what an earlier one left over, if it left anything.
    pub(super) fn begin_merge(&mut self, vm: VmId) {
        let garbage = self.state.vms.get(&vm).is_some_and(|vm| !vm.garbage.is_empty());
        let left_over = garbage || layers::next_tidy(&self.state, vm).is_some();
        if left_over && self.state.active_job(vm).is_none() {
            // No request, hence no seed: the machine and the moment are as good, nobody guesses job ids to any gain.
            let seed = vm.0.as_u128() ^ (u128::from(self.now.0) << 64) ^ u128::from(self.state.revision);
            let job = self.create_job(&mut IdSource::new(seed), vm, JobKind::Merge);
            self.tidy(job);
        }
    }
}
