//! What machines do on their own.

use super::Turn;
use crate::event::MachineChange;
use crate::id::VmId;
use crate::job::{JobState, Stage};
use crate::vm::Power;

impl Turn<'_> {
    /// The guest or the emulator changed something without being asked.
    pub(super) fn machine_changed(&mut self, vm: VmId, change: MachineChange) {
        let Some(machine) = self.state.vms.get(&vm).cloned() else { return };
        self.note_for_return(vm, change);
        let begun = self.state.active_job(vm).is_some_and(|job| job.stage == Stage::LettingRun);
        let power = match (change, machine.power) {
            // Off and saved machines have no process to lose; a launch tells its own end.
            (MachineChange::Gone, Power::Off | Power::Saved) => return,
            (MachineChange::Gone, Power::Starting) if !begun && self.state.active_job(vm).is_some() => return,
            (MachineChange::Gone, Power::Starting) if !begun && machine.saved.is_some() => Power::Saved,
            // Memory is on record: the process was only waiting to be told to quit.
            (MachineChange::Gone, Power::Saving) if machine.saved.is_some() => Power::Saved,
            (MachineChange::Gone, _) => Power::Off,
            (MachineChange::Stopped, Power::Running) => Power::Paused,
            (MachineChange::Running, Power::Paused) => Power::Running,
            (MachineChange::Stopped | MachineChange::Running, _) => return,
        };
        if change == MachineChange::Gone && begun {
            // The guest may have run and written: the memory it was started from is of the past, whatever the job says later.
            self.state.update_vm(vm, |vm| vm.saved = None);
        }
        self.set_power(vm, power);
        let waiting = self.state.active_job(vm).filter(|job| job.stage == Stage::AwaitingShutdown).map(|job| job.id);
        if let (Some(job), Power::Off) = (waiting, power) {
            self.end(job, JobState::Completed);
        }
    }

    /// An order is under way: should it fail, or its answer not come in time, the machine is what was heard of it last. Of an order that was
    /// obeyed all the same that may be heard before the failure, or after it.
    fn note_for_return(&mut self, vm: VmId, change: MachineChange) {
        let found = match change {
            MachineChange::Stopped => Power::Paused,
            MachineChange::Running => Power::Running,
            // That the machine is off stands whatever the order comes to.
            MachineChange::Gone => return,
        };
        let Some(job) = self.state.active_job(vm).map(|job| job.id) else { return };
        self.state.update_job(job, |job| {
            if let Stage::Controlling { power, .. } | Stage::ResumingAfterMerge { power, .. } = &mut job.stage {
                *power = found;
            }
        });
    }
}
