//! Creating, applying and removing snapshots: what each records, and when.
//!
//! ```text
//! create   overlays ─▶ (capture) ─▶ record: snapshot, frozen layers, new tops
//! apply    overlays ─▶ record: settings, new tops, saved memory ─▶ tidy
//! destroy  record: object gone, children re-parented ─▶ tidy
//! ```

use super::Turn;
use crate::admission::{find_snapshot, find_vm};
use crate::effect::MergeDirection;
use crate::event::CaptureReport;
use crate::failure::Failure;
use crate::id::{IdSource, JobId, LayerId, MemoryId, SnapshotId, VmId};
use crate::job::{JobKind, JobState, PlannedOverlay, PlannedSnapshot, Stage};
use crate::request::{Contents, Reply};
use crate::snapshot::{Layer, Memory, Purpose, Snapshot};
use crate::spec;
use crate::state::Timestamp;
use crate::vm::{Power, Settings};

impl Turn<'_> {
    pub(super) fn begin_create_snapshot(
        &mut self,
        vm: VmId,
        name: &str,
        contents: Contents,
        purpose: Purpose,
        ids: &mut IdSource,
    ) -> Result<Reply, Failure> {
        let machine = find_vm(&self.state, vm)?;
        let (power, settings) = (machine.power, machine.settings.clone());
        let job = self.create_job(ids, vm, JobKind::CreateSnapshot);
        let id = SnapshotId(ids.next_uuid());
        let with_memory = contents == Contents::Full && power.has_process();
        let plan = PlannedSnapshot {
            id,
            name: name.to_owned(),
            purpose,
            overlays: plan_overlays(&settings, ids),
            memory: with_memory.then(|| MemoryId(ids.next_uuid())),
            keep_saved: contents == Contents::Full && power == Power::Saved,
            power,
        };
        self.enter(job, Stage::PreparingSnapshot(plan));
        Ok(Reply::Job(job))
    }

    /// Overlays are ready. A machine without a process needs no more: its moment is now.
    pub(super) fn snapshot_prepared(&mut self, job: JobId, vm: VmId, plan: PlannedSnapshot) {
        if plan.power.has_process() {
            // The guest may have been stopped since it was asked for, or been found to run: it goes back to what it does now.
            let now = self.state.vms.get(&vm).map(|vm| vm.power);
            let power = now.filter(|now| matches!(now, Power::Running | Power::Paused)).unwrap_or(plan.power);
            self.enter(job, Stage::Capturing(PlannedSnapshot { power, ..plan }));
        } else {
            self.record_snapshot(job, vm, &plan, self.now, None);
        }
    }

    /// The moment is taken and on stable storage: the snapshot exists from here on.
    pub(super) fn record_snapshot(
        &mut self,
        job: JobId,
        vm: VmId,
        plan: &PlannedSnapshot,
        moment: Timestamp,
        captured: Option<(&CaptureReport, &str)>,
    ) {
        let Some(machine) = self.state.vms.get(&vm).cloned() else { return };
        if let (Some(id), Some((report, description))) = (plan.memory, captured) {
            let (path, machine) = (self.paths.memory(vm, id), description.to_owned());
            self.state.put_memory(Memory { id, vm, path, bytes: report.bytes, machine });
        }
        let memory = if plan.keep_saved { machine.saved } else { plan.memory };
        self.state.put_snapshot(Snapshot {
            id: plan.id,
            vm,
            name: plan.name.clone(),
            notes: String::new(),
            created: moment,
            parent: machine.parent,
            purpose: plan.purpose,
            settings: machine.settings.clone(),
            snapshot_kind: machine.snapshot_kind,
            memory,
        });
        self.adopt_overlays(vm, &plan.overlays, None);
        let now = self.now;
        self.state.update_vm(vm, |vm| {
            vm.parent = Some(plan.id);
            vm.configuration_changed = now;
        });
        self.state.update_job(job, |job| {
            job.snapshot = Some(plan.id);
            job.report = captured.map(|(report, _)| report.clone());
        });
        self.end(job, JobState::Completed);
    }

    /// Makes planned overlays the live tops. `merging` is which way they must be merged away again, if they must.
    fn adopt_overlays(&mut self, vm: VmId, overlays: &[PlannedOverlay], merging: Option<MergeDirection>) {
        for plan in overlays {
            if let Some(layer) = spec::planned_layer(&self.state, self.paths, plan) {
                self.state.put_layer(Layer { merging, ..layer });
                self.state.update_vm(vm, |vm| vm.settings.set_layer(plan.slot, plan.layer));
            }
        }
    }

    /// A capture did not come off. If the disks were switched, or perhaps were, the new tops are live and stay; a merge follows. Only
    /// one downwards is right for a process that still writes to the layers below as well: then it writes to what is on record.
    pub(super) fn capture_undone(
        &mut self,
        job: JobId,
        vm: VmId,
        plan: &PlannedSnapshot,
        switched: bool,
        end: JobState,
    ) {
        let mut paths: Vec<_> = plan.memory.map(|memory| self.paths.memory(vm, memory)).into_iter().collect();
        if switched {
            self.adopt_overlays(vm, &plan.overlays, Some(MergeDirection::Down));
        } else {
            paths.extend(plan.overlays.iter().map(|overlay| self.paths.layer(vm, overlay.layer)));
        }
        self.enter(job, Stage::Deleting { paths, end });
    }

    pub(super) fn begin_apply_snapshot(&mut self, snapshot: SnapshotId, ids: &mut IdSource) -> Result<Reply, Failure> {
        let (snapshot, vm) = find_snapshot(&self.state, snapshot)?;
        let (id, vm, settings) = (snapshot.id, vm.id, snapshot.settings.clone());
        let job = self.create_job(ids, vm, JobKind::ApplySnapshot);
        self.state.update_job(job, |job| job.snapshot = Some(id));
        let overlays = plan_overlays(&settings, ids);
        // Drawn now and kept with the plan, so that the guest sees a new generation even if the apply is repeated.
        let generation_id = ids.next_uuid();
        self.enter(job, Stage::PreparingApply { overlays, generation_id });
        Ok(Reply::Job(job))
    }

    /// Overlays are ready: the machine becomes what the snapshot says, in one commit; what it had is then idle.
    pub(super) fn record_apply(
        &mut self,
        job: JobId,
        vm: VmId,
        overlays: &[PlannedOverlay],
        generation_id: uuid::Uuid,
    ) {
        let snapshot = self.state.jobs.get(&job).and_then(|job| self.state.snapshots.get(&job.snapshot?)).cloned();
        let Some(snapshot) = snapshot else { return };
        let now = self.now;
        self.state.update_vm(vm, |vm| {
            vm.settings = snapshot.settings.clone();
            vm.saved = snapshot.memory;
            vm.parent = Some(snapshot.id);
            vm.last_applied = Some(snapshot.id);
            vm.generation_id = generation_id;
            vm.configuration_changed = now;
        });
        self.adopt_overlays(vm, overlays, None);
        self.set_power(vm, if snapshot.memory.is_some() { Power::Saved } else { Power::Off });
        self.tidy_without_merges(job, JobState::Completed);
    }

    /// Removes a snapshot, or it and its descendants, from the record; their files follow.
    pub(super) fn begin_destroy_snapshots(
        &mut self,
        top: SnapshotId,
        subtree: bool,
        ids: &mut IdSource,
    ) -> Result<Reply, Failure> {
        let (snapshot, vm) = find_snapshot(&self.state, top)?;
        let (vm, heir) = (vm.id, snapshot.parent);
        let goes = |id: SnapshotId| if subtree { self.state.descends_from(Some(id), top) } else { id == top };
        let (gone, kept): (Vec<_>, Vec<_>) =
            self.state.snapshots_of(vm).map(|snapshot| (snapshot.id, snapshot.parent)).partition(|(id, _)| goes(*id));
        let orphans: Vec<_> = kept
            .into_iter()
            .filter(|(_, parent)| gone.iter().any(|(id, _)| Some(*id) == *parent))
            .map(|(id, _)| id)
            .collect();
        let is_gone = |id: Option<SnapshotId>| gone.iter().any(|(known, _)| Some(*known) == id);

        let job = self.create_job(ids, vm, JobKind::DestroySnapshot);
        self.state.update_job(job, |job| job.snapshot = Some(top));
        let now = self.now;
        for (id, _) in &gone {
            self.state.remove_snapshot(*id);
        }
        for orphan in orphans {
            self.state.update_snapshot(orphan, |snapshot| snapshot.parent = heir);
        }
        self.state.update_vm(vm, |vm| {
            if is_gone(vm.parent) {
                vm.parent = heir;
            }
            if is_gone(vm.last_applied) {
                vm.last_applied = None;
            }
            vm.configuration_changed = now;
        });
        self.tidy(job);
        Ok(Reply::Job(job))
    }
}

/// One new overlay on every layer of `settings`.
fn plan_overlays(settings: &Settings, ids: &mut IdSource) -> Vec<PlannedOverlay> {
    let overlay = |(slot, parent)| PlannedOverlay { slot, layer: LayerId(ids.next_uuid()), parent };
    settings.layers().into_iter().map(overlay).collect()
}
