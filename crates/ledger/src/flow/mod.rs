//! How requests become jobs and jobs proceed: one turn of the driver.
//!
//! ```text
//! begin    request  ─▶ admission ─▶ one commit, or a job in its first stage
//! outcome  effect's end ─▶ the stage's handler ─▶ next stage, undo, or the end
//! recover  observation ─▶ the stage again, or its undo
//! ```
//! A stage's effect is a function of the state and the stage ([`effects::of`]), so that it can be derived again after a
//! restart. A handler never waits: it changes the state and enters a stage.

mod begin;
mod effects;
mod images;
mod machine;
mod outcome;
mod recover;
mod snapshots;
mod tidying;

use crate::driver::Released;
use crate::effect::EffectId;
use crate::event::Event;
use crate::failure::{Failure, Kind};
use crate::id::{IdSource, JobId, VmId};
use crate::job::{Cancel, Job, JobKind, JobState, Stage};
use crate::paths::Paths;
use crate::request::Reply;
use crate::state::{State, Timestamp};
use crate::vm::Power;

/// How long a finished job stays visible, microseconds: five minutes, as `TimeBeforeRemoval` promises.
pub const JOB_RETENTION_US: u64 = 300_000_000;
/// How long a guest may take to obey its power button, microseconds. Three minutes, as desktop guests need with updates pending.
const SHUTDOWN_PATIENCE_US: u64 = 180_000_000;

/// One event being worked into a copy of the state.
pub(crate) struct Turn<'a> {
    state: State,
    now: Timestamp,
    paths: &'a Paths,
    released: Released,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(state: State, now: Timestamp, paths: &'a Paths) -> Self {
        Self { state, now, paths, released: Released::default() }
    }

    pub(crate) fn finish(self) -> (State, Released) {
        (self.state, self.released)
    }

    /// Works one event in.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Request { id, request, seed } => {
                let reply = self.begin(request, IdSource::new(*seed)).unwrap_or_else(Reply::Refused);
                self.released.replies.push((*id, reply));
            }
            Event::Outcome { effect, outcome } => self.outcome(*effect, outcome),
            Event::Progress { effect, done, total, activity } => self.progress(*effect, *done, *total, activity),
            Event::Machine { vm, change } => self.machine_changed(*vm, *change),
            Event::Observed { vm, found } => self.recover(*vm, *found),
            Event::Tick => self.tick(),
        }
    }

    /// Records a new job. It is running from the start, see [`crate::job`].
    fn create_job(&mut self, ids: &mut IdSource, vm: VmId, kind: JobKind) -> JobId {
        let id = JobId(ids.next_uuid());
        self.state.put_job(Job {
            id,
            vm,
            kind,
            state: JobState::Running,
            stage: Stage::Finished,
            percent: 0,
            activity: kind.text().to_owned(),
            snapshot: None,
            report: None,
            cancel: None,
            effects: 0,
            submitted: self.now,
            changed: self.now,
        });
        id
    }

    /// Puts a job into a stage and releases the stage's effect.
    fn enter(&mut self, job: JobId, stage: Stage) {
        self.state.update_job(job, |job| {
            job.stage = stage;
            job.effects += 1;
        });
        let Some(record) = self.state.jobs.get(&job) else { return };
        match effects::of(&self.state, self.paths, record) {
            Ok(Some(effect)) => {
                let id = EffectId { job, number: record.effects };
                self.released.effects.push((id, effect));
            }
            Ok(None) => {}
            Err(failure) => self.end(job, JobState::Failed(failure)),
        }
    }

    /// Ends a job.
    fn end(&mut self, job: JobId, end: JobState) {
        let now = self.now;
        self.state.update_job(job, |job| {
            if end == JobState::Completed {
                job.percent = 100;
            }
            job.activity = match (&end, &job.report) {
                (JobState::Completed, Some(report)) => format!("{}: done, {report}", job.kind.text()),
                (JobState::Running | JobState::Completed, _) => format!("{}: done", job.kind.text()),
                (JobState::Failed(failure), _) => format!("{} failed: {}", job.kind.text(), failure.message),
                (JobState::Terminated | JobState::Killed, _) => format!("{}: cancelled", job.kind.text()),
            };
            job.state = end;
            job.stage = Stage::Finished;
            job.changed = now;
        });
    }

    /// How a job ends when one of its effects failed: cancelled if that was asked for, else failed.
    fn end_for(&self, job: JobId, failure: &Failure) -> JobState {
        match self.state.jobs.get(&job).and_then(|job| job.cancel) {
            Some(Cancel::Terminate) if failure.kind == Kind::Cancelled => JobState::Terminated,
            Some(Cancel::Kill) if failure.kind == Kind::Cancelled => JobState::Killed,
            _ => JobState::Failed(failure.clone()),
        }
    }

    /// Changes the power state of a machine.
    fn set_power(&mut self, vm: VmId, power: Power) {
        let now = self.now;
        self.state.update_vm(vm, |vm| {
            if vm.power != power {
                vm.power = power;
                vm.power_changed = now;
            }
        });
    }

    /// Changes the power state of a machine because of what its process did. The news that the process has ended may have
    /// been quicker than the outcome of what it did last, and stands.
    fn set_process_power(&mut self, vm: VmId, power: Power) {
        if self.state.vms.get(&vm).is_some_and(|vm| vm.power != Power::Off) {
            self.set_power(vm, power);
        }
    }

    fn progress(&mut self, effect: EffectId, done: u64, total: u64, activity: &str) {
        let current =
            self.state.jobs.get(&effect.job).is_some_and(|job| job.effects == effect.number && !job.state.is_final());
        if !current {
            return;
        }
        self.state.update_job(effect.job, |job| {
            // The ends are kept for what comes before and after the effect.
            let percent = done.min(total).saturating_mul(90).checked_div(total).map_or(0, |percent| percent + 5);
            job.percent = job.percent.max(u8::try_from(percent).unwrap_or(95));
            if !activity.is_empty() {
                job.activity = activity.to_owned();
            }
        });
    }

    fn tick(&mut self) {
        self.follow_clock_back();
        let ended: Vec<JobId> = self.state.jobs.values().filter(|job| job.state.is_final()).map(|job| job.id).collect();
        for id in ended {
            if self.state.jobs.get(&id).is_some_and(|job| self.now.micros_since(job.changed) > JOB_RETENTION_US) {
                self.state.remove_job(id);
            }
        }
        let waiting = |job: &Job| job.stage == Stage::AwaitingShutdown;
        let late = |job: &Job| self.now.micros_since(job.submitted) > SHUTDOWN_PATIENCE_US;
        let deaf: Vec<JobId> =
            self.state.jobs.values().filter(|job| waiting(job) && late(job)).map(|job| job.id).collect();
        for job in deaf {
            let failure = Failure::new(Kind::Timeout, "the guest did not shut down when its power button was pressed")
                .hint("shut it down from inside, or turn it off");
            self.end(job, JobState::Failed(failure));
        }
    }
}

impl Turn<'_> {
    /// If the clock was set back, what lies ahead of it counts from now: else a job would be waited for, or remembered, for as long
    /// as the clock was wrong.
    fn follow_clock_back(&mut self) {
        let now = self.now;
        let ahead = |job: &Job| job.submitted.max(job.changed) > now;
        let ahead: Vec<JobId> = self.state.jobs.values().filter(|job| ahead(job)).map(|job| job.id).collect();
        for id in ahead {
            self.state.update_job(id, |job| {
                job.submitted = job.submitted.min(now);
                job.changed = job.changed.min(now);
            });
        }
    }
}

impl JobKind {
    /// What such a job does, for people.
    pub fn text(self) -> &'static str {
        match self {
            JobKind::Define => "Defining virtual machine",
            JobKind::Modify => "Modifying virtual machine",
            JobKind::DestroyVm => "Removing virtual machine",
            JobKind::Start => "Starting virtual machine",
            JobKind::Restore => "Restoring virtual machine",
            JobKind::TurnOff => "Turning off virtual machine",
            JobKind::Save => "Saving virtual machine",
            JobKind::Shutdown => "Shutting down virtual machine",
            JobKind::Pause => "Pausing virtual machine",
            JobKind::Resume => "Resuming virtual machine",
            JobKind::Reset => "Resetting virtual machine",
            JobKind::CreateSnapshot => "Creating snapshot",
            JobKind::ApplySnapshot => "Applying snapshot",
            JobKind::DestroySnapshot => "Deleting snapshot",
            JobKind::ClearSnapshotState => "Clearing saved state of snapshot",
            JobKind::Merge => "Merging disks",
            JobKind::CreateImage => "Creating disk image",
            JobKind::ConvertImage => "Converting disk image",
            JobKind::ResizeImage => "Enlarging disk image",
            JobKind::MergeImages => "Merging disk images",
            JobKind::ValidateImage => "Checking disk image",
        }
    }
}
