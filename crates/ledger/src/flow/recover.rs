//! After a restart of the daemon: from what was recorded and what is really there, on to a state where both agree.
//!
//! | stage of the unfinished job | what happens |
//! | --- | --- |
//! | capturing | undone: how far it came is asked, nothing is guessed |
//! | saving | undone: the guest runs on |
//! | preparing a capture of a machine that has since ended | undone |
//! | letting a guest run whose process has since ended | the guest may have run: its saved memory is forgotten |
//! | waiting for a shutdown | ends if the machine is gone |
//! | one order to the process | repeated; should it fail, the machine is what was found |
//! | all others | the effect is repeated |

use super::Turn;
use crate::event::Observation;
use crate::failure::{Failure, Kind};
use crate::id::VmId;
use crate::job::{Job, JobState, Stage};
use crate::vm::Power;

impl Turn<'_> {
    /// Works in what the host found of one machine.
    pub(super) fn recover(&mut self, vm: VmId, found: Observation) {
        let job = self.state.active_job(vm).cloned();
        if let Some(machine) = self.state.vms.get(&vm).cloned() {
            let power = observed_power(machine.power, machine.saved.is_some(), found, job.as_deref());
            self.set_power(vm, power);
            if matches!(power, Power::Running | Power::Paused) {
                // Its guest has run, so the memory it was started from is of the past.
                self.state.update_vm(vm, |vm| vm.saved = None);
            }
        }
        match job {
            Some(job) => self.recover_job(&job, found),
            None => self.begin_merge(vm),
        }
    }

    fn recover_job(&mut self, job: &Job, found: Observation) {
        let interrupted = || {
            JobState::Failed(
                Failure::new(
                    Kind::Interrupted,
                    format!("the service was restarted during '{}', which was undone", job.kind.text()),
                )
                .hint("try it again"),
            )
        };
        match job.stage.clone() {
            Stage::Capturing(plan) => self.enter(job.id, Stage::AbortingCapture { plan, end: interrupted() }),
            Stage::Saving { memory, power } => {
                self.enter(job.id, Stage::AbortingSave { memory, power, end: interrupted() })
            }
            Stage::PreparingSnapshot(plan) if plan.power.has_process() && found == Observation::NoProcess => {
                self.capture_undone(job.id, job.vm, &plan, false, interrupted());
            }
            Stage::LettingRun if found == Observation::NoProcess => {
                let text = "the machine's process ended when its guest had just begun to run";
                self.failed(job, &Failure::new(Kind::MachineGone, text).hint("start the machine again").into());
            }
            Stage::LettingRun if matches!(found, Observation::Running | Observation::Stopped) => {
                // It has run: whatever becomes of the order now, its memory is of the past.
                self.state.update_vm(job.vm, |vm| vm.saved = None);
                self.enter(job.id, Stage::LettingRun);
            }
            Stage::AwaitingShutdown if found == Observation::NoProcess => self.end(job.id, JobState::Completed),
            Stage::AwaitingShutdown => {}
            Stage::Controlling { target, power } => {
                self.enter(job.id, Stage::Controlling { target, power: power_to_return_to(power, found) });
            }
            Stage::ResumingAfterMerge { survivor, paths, power } => {
                let power = power_to_return_to(power, found);
                self.enter(job.id, Stage::ResumingAfterMerge { survivor, paths, power });
            }
            stage => self.enter(job.id, stage),
        }
    }
}

/// The power state to go on from. A stage that had stopped the guest will let it run again, so a stop is only believed
/// where no stage explains it.
fn observed_power(recorded: Power, saved: bool, found: Observation, job: Option<&Job>) -> Power {
    let explained = job.is_some_and(|job| stops_for_a_while(&job.stage));
    match (found, recorded) {
        // These jobs decide themselves what to make of the process.
        (_, Power::Starting) if job.is_some() => Power::Starting,
        (Observation::NoProcess, Power::Saving | Power::Saved | Power::Starting) if saved => Power::Saved,
        (Observation::NoProcess, _) => Power::Off,
        (_, Power::Saving | Power::Stopping) if job.is_some() => recorded,
        (Observation::Stopped, Power::Running) if explained => Power::Running,
        (Observation::Stopped, _) => Power::Paused,
        (Observation::Running, _) => Power::Running,
        (Observation::Unusable, power) => power,
    }
}

/// Should the order that is repeated fail, it is what was found that the machine goes back to.
fn power_to_return_to(known: Power, found: Observation) -> Power {
    match found {
        Observation::Running => Power::Running,
        Observation::Stopped => Power::Paused,
        Observation::NoProcess | Observation::Unusable => known,
    }
}

/// Whether the guest may stand still in this stage, and goes on when the job does.
fn stops_for_a_while(stage: &Stage) -> bool {
    matches!(
        stage,
        Stage::Capturing(_) | Stage::AbortingCapture { .. } | Stage::Merging(_) | Stage::ResumingAfterMerge { .. }
    )
}
