//! Everything outside the service, and what the model knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ledger::effect::{MachineSpec, Overlay};
use ledger::event::{MachineChange, Observation};
use ledger::id::{JobId, VmId};
use ledger::vm::Slot;

use crate::emulator::{Emulator, Stack};
use crate::files::{Content, Files};

/// One moment of a machine: what a snapshot must contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Each disk.
    pub disks: BTreeMap<Slot, Content>,
    /// Memory, if it is part of the moment.
    pub memory: Option<Content>,
}

/// Files, processes, and a record of what really happened that nobody in the service can see.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The file system.
    pub files: Files,
    /// Running processes.
    pub emulators: BTreeMap<VmId, Emulator>,
    /// The moments that captures took, by the job on whose behalf.
    pub captured: BTreeMap<JobId, Moment>,
    /// What each memory image was written with: memory, and the disks of the same moment.
    pub memories: BTreeMap<PathBuf, Moment>,
    /// Guests that were asked to shut down and have not yet.
    pub pressed: BTreeSet<VmId>,
    /// What machines did when the answer to an order had been waited for too long, and in what state a failed merge left them.
    pub news: Vec<(VmId, MachineChange)>,
    /// Machines that could not be told to run on, or to end: nobody knows whether they did.
    pub doubtful: BTreeSet<VmId>,
    /// Promises broken so far, in words.
    pub broken: Vec<String>,
}

/// The file in a memory image's directory.
pub fn memory_file(directory: &Path) -> PathBuf {
    directory.join("memory")
}

impl World {
    /// What a restarted daemon finds of a machine.
    pub fn observe(&self, vm: VmId) -> Observation {
        match self.emulators.get(&vm) {
            None => Observation::NoProcess,
            Some(process) if process.running => Observation::Running,
            Some(process) if process.begun => Observation::Stopped,
            Some(_) => Observation::Unusable,
        }
    }

    /// Notes a broken promise.
    pub fn break_promise(&mut self, what: impl Into<String>) {
        self.broken.push(what.into());
    }

    /// The files of a machine as the host gives them to an emulator: the whole chain from the record, whatever the headers say, which
    /// an interrupted merge may have rewritten already.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn open_stacks(&self, spec: &MachineSpec) -> Result<BTreeMap<Slot, Stack>, String> {
        let open = |path: &PathBuf| {
            let inode = self.files.open(path).ok_or_else(|| format!("{} is missing", path.display()))?;
            let whole = self.files.data(inode).whole;
            whole.then_some(inode).ok_or_else(|| format!("{} is not a whole image", path.display()))
        };
        let stack = |chain: &ledger::effect::Chain| {
            let paths: Vec<PathBuf> = chain.images.iter().map(|image| image.path.clone()).collect();
            let inodes = paths.iter().map(open).collect::<Result<_, _>>()?;
            Ok((chain.slot, Stack { paths, inodes }))
        };
        spec.chains.iter().map(stack).collect()
    }

    /// Takes the moment of a process and puts new tops on its stacks.
    ///
    /// # Errors
    /// When an overlay cannot be opened; then nothing is switched.
    pub fn switch(&mut self, vm: VmId, job: JobId, overlays: &[Overlay]) -> Result<(), String> {
        let open = |overlay: &Overlay| self.files.open(&overlay.image.path).map(|inode| (overlay.clone(), inode));
        let opened: Option<Vec<_>> = overlays.iter().map(open).collect();
        let opened = opened.ok_or("an overlay is missing")?;
        let Some(emulator) = self.emulators.get_mut(&vm) else { return Err("the process is gone".to_owned()) };
        let lies_on_top = |overlay: &Overlay| {
            emulator.stacks.get(&overlay.slot).is_none_or(|stack| stack.paths.first() == Some(&overlay.parent.path))
        };
        if !overlays.iter().all(lies_on_top) {
            return Err("the process does not write to what is to be frozen".to_owned());
        }
        let moment = Moment { disks: emulator.disks(&self.files), memory: Some(emulator.memory.clone()) };
        for (overlay, inode) in opened {
            if let Some(stack) = emulator.stacks.get_mut(&overlay.slot) {
                // QEMU flushes a node before it puts another on top (external_snapshot_action in blockdev.c, 10.0).
                stack.inodes.first().into_iter().for_each(|top| self.files.sync(*top));
                stack.push(overlay.image.path, inode);
            }
        }
        self.captured.insert(job, moment);
        Ok(())
    }
}
