//! A small model of the world: files with copy-on-write layers, processes with memory, and a guest that writes.
//!
//! It carries out effects the way the host promises to, so that what the driver decides can be checked against what every
//! snapshot must contain. Content is a map from block number to value; memory is one number.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ledger::effect::{Control, Effect, MachineSpec, MergeDirection, MergeOrder, Overlay};
use ledger::event::{CaptureReport, EffectFailure, InspectedImage, Observation, Outcome};
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use ledger::image_file::ImageWork;
use ledger::snapshot::Format;
use ledger::state::Timestamp;
use ledger::vm::Slot;

/// What a disk or a memory holds.
pub type Content = BTreeMap<u8, u32>;

/// An image file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Read through to this one.
    pub backing: Option<PathBuf>,
    /// Own content.
    pub blocks: Content,
}

/// A machine's process.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// The file each slot writes to.
    pub tops: BTreeMap<Slot, PathBuf>,
    /// Content of memory.
    pub memory: u32,
    /// Guest not stopped.
    pub running: bool,
    /// The guest has run.
    pub begun: bool,
    /// The memory image it was started from.
    pub origin: Option<PathBuf>,
}

/// Everything outside the ledger.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Image files.
    pub files: BTreeMap<PathBuf, File>,
    /// Those of them whose content a power cut may take back.
    pub unsynced: BTreeSet<PathBuf>,
    /// Memory images by directory.
    pub memories: BTreeMap<PathBuf, u32>,
    /// The image files that each memory image's text names.
    pub descriptions: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Running processes.
    pub processes: BTreeMap<VmId, Process>,
    /// Memory images that a guest has run from, with the files it wrote to. Started from again on the same files, it would
    /// find disks that its memory does not know.
    pub begun: BTreeSet<(PathBuf, Vec<PathBuf>)>,
}

impl Process {
    /// The memory image it was started from and the files it writes to.
    fn pair(&self) -> Option<(PathBuf, Vec<PathBuf>)> {
        Some((self.origin.clone()?, self.tops.values().cloned().collect()))
    }
}

impl World {
    /// What one reads through a chain of files.
    pub fn read(&self, top: &Path) -> Content {
        let Some(file) = self.files.get(top) else { panic!("{} is missing", top.display()) };
        let mut content = file.backing.as_deref().map(|backing| self.read(backing)).unwrap_or_default();
        content.extend(file.blocks.clone());
        content
    }

    /// The guest writes `value` to memory and to block `block` of every disk, if it runs.
    pub fn guest_writes(&mut self, vm: VmId, block: u8, value: u32) -> bool {
        let Some(process) = self.processes.get_mut(&vm).filter(|process| process.running) else { return false };
        process.memory = value;
        for top in process.tops.values() {
            self.files.get_mut(top).expect("a process has its files open").blocks.insert(block, value);
            self.unsynced.insert(top.clone());
        }
        true
    }

    /// What a restarted daemon would see.
    pub fn observe(&self, vm: VmId) -> Observation {
        match self.processes.get(&vm) {
            None => Observation::NoProcess,
            Some(process) if process.running => Observation::Running,
            Some(process) if process.begun => Observation::Stopped,
            Some(_) => Observation::Unusable,
        }
    }

    /// Carries an effect out.
    pub fn perform(&mut self, effect: &Effect) -> Result<Outcome, EffectFailure> {
        match effect {
            Effect::PrepareVm { nvram, .. } => {
                if let Some(image) = nvram {
                    self.files.entry(image.path.clone()).or_default();
                }
            }
            Effect::InspectImage { path, .. } => {
                if !self.files.contains_key(path) {
                    return Err(Failure::new(Kind::NotFound, "no such image").into());
                }
                let image = InspectedImage { path: path.clone(), format: Format::Qcow2, size: 1 << 20 };
                return Ok(Outcome::Inspected { chain: vec![image] });
            }
            Effect::CreateOverlays { overlays, ground, .. } => {
                self.unsynced.retain(|path| !ground.contains(path));
                for overlay in overlays {
                    self.unsynced.remove(&overlay.image.path);
                    let backing = Some(overlay.parent.path.clone());
                    self.files.insert(overlay.image.path.clone(), File { backing, blocks: Content::new() });
                }
            }
            Effect::Capture { spec, overlays, memory, resume } => {
                return self.capture(spec, overlays, memory.as_ref().map(|target| target.path.as_path()), *resume);
            }
            Effect::AbortCapture { vm, overlays, resume } => {
                let Some(process) = self.processes.get_mut(vm) else {
                    sync_below(&mut self.unsynced, overlays);
                    return Ok(Outcome::Aborted { switched: true, alive: false });
                };
                process.running = *resume;
                let switched =
                    overlays.iter().any(|overlay| process.tops.get(&overlay.slot) == Some(&overlay.image.path));
                return Ok(Outcome::Aborted { switched, alive: true });
            }
            Effect::Save { spec, memory } => return self.save(spec, &memory.path),
            Effect::Launch { spec, memory } => {
                if !self.processes.contains_key(&spec.vm) {
                    self.launch(spec, memory.as_ref().map(|source| source.path.clone()));
                }
            }
            Effect::Control { vm, action } => self.control(*vm, *action)?,
            Effect::Measure { images } => {
                let bytes = images.iter().map(|image| self.files[&image.path].blocks.len() as u64).collect();
                return Ok(Outcome::Measured { bytes });
            }
            Effect::Merge { vm, order, live } => return self.merge(*vm, order, *live),
            Effect::Describe { moments } => {
                for moment in moments {
                    self.describe(&moment.memory.path, &moment.spec);
                }
            }
            Effect::LocateImages { work } => return self.locate(work),
            Effect::WorkOnImage { work, draft } => self.work_on_image(work, draft.as_deref())?,
            Effect::RemoveImage { path } => drop(self.files.remove(path)),
            Effect::Delete { paths } => paths.iter().for_each(|path| self.delete(path)),
        }
        Ok(Outcome::Done)
    }

    fn capture(
        &mut self,
        spec: &MachineSpec,
        overlays: &[Overlay],
        memory: Option<&Path>,
        resume: bool,
    ) -> Result<Outcome, EffectFailure> {
        let process = self.processes.get_mut(&spec.vm).ok_or_else(gone)?;
        if overlays.iter().any(|overlay| process.tops.get(&overlay.slot) != Some(&overlay.parent.path)) {
            return Err(not_so());
        }
        switch(process, overlays);
        process.running = resume;
        sync_below(&mut self.unsynced, overlays);
        if let Some(target) = memory {
            self.memories.insert(target.to_owned(), process.memory);
            self.describe(target, spec);
        }
        let machine = memory.map(|_| "model".to_owned()).unwrap_or_default();
        Ok(Outcome::Captured { moment: Timestamp(1), report: CaptureReport::default(), machine })
    }

    fn save(&mut self, spec: &MachineSpec, memory: &Path) -> Result<Outcome, EffectFailure> {
        let process = self.processes.get_mut(&spec.vm).ok_or_else(gone)?;
        process.running = false;
        let before = self.memories.insert(memory.to_owned(), process.memory);
        assert_eq!(before, None, "a save is never repeated");
        self.describe(memory, spec);
        Ok(Outcome::Saved { report: CaptureReport::default(), machine: "model".into() })
    }

    fn locate(&self, work: &ImageWork) -> Result<Outcome, EffectFailure> {
        let missing = work.read().into_iter().find(|path| !self.files.contains_key(*path));
        let wrong = match work {
            ImageWork::Create { path, .. } | ImageWork::Convert { path, .. } => self.files.contains_key(path),
            ImageWork::Merge { child, parent } => {
                self.files.get(child).is_none_or(|file| file.backing.as_ref() != Some(parent))
            }
            ImageWork::Resize { path, .. } => !self.files.contains_key(path),
            ImageWork::Validate { .. } => false,
        };
        if missing.is_some() || wrong {
            return Err(Failure::new(Kind::InvalidParameter, "not what it should be").into());
        }
        Ok(Outcome::Located { work: work.clone() })
    }

    fn work_on_image(&mut self, work: &ImageWork, draft: Option<&Path>) -> Result<(), EffectFailure> {
        let made = match work {
            ImageWork::Create { path, parent, .. } => {
                Some((path, File { backing: parent.clone(), blocks: Content::new() }))
            }
            ImageWork::Convert { source, path, .. } => Some((path, File { backing: None, blocks: self.read(source) })),
            ImageWork::Merge { child, parent } => {
                let blocks = self.files[child].blocks.clone();
                self.files.get_mut(parent).expect("located").blocks.extend(blocks);
                None
            }
            ImageWork::Resize { .. } | ImageWork::Validate { .. } => None,
        };
        let (Some((path, file)), Some(draft)) = (made, draft) else { return Ok(()) };
        if self.files.contains_key(path) && !self.files.contains_key(draft) {
            return Err(Failure::new(Kind::InvalidParameter, "exists").into());
        }
        self.files.insert(draft.to_owned(), file.clone());
        self.files.insert(path.clone(), file);
        Ok(())
    }

    fn launch(&mut self, spec: &MachineSpec, origin: Option<PathBuf>) {
        let tops = spec.chains.iter().map(|chain| (chain.slot, chain.images[0].path.clone())).collect();
        let memory = origin.as_ref().map_or(0, |path| self.memories[path]);
        let process = Process { tops, memory, running: false, begun: false, origin };
        if let Some(pair) = process.pair() {
            assert!(!self.begun.contains(&pair), "the guest has run from {pair:?} before");
        }
        self.processes.insert(spec.vm, process);
    }

    fn delete(&mut self, path: &Path) {
        self.files.retain(|file, _| !file.starts_with(path));
        self.unsynced.retain(|file| !file.starts_with(path));
        self.memories.retain(|memory, _| !memory.starts_with(path));
    }

    fn describe(&mut self, memory: &Path, spec: &MachineSpec) {
        let files = spec.chains.iter().flat_map(|chain| &chain.images).map(|image| image.path.clone());
        self.descriptions.insert(memory.to_owned(), files.collect());
    }

    fn control(&mut self, vm: VmId, action: Control) -> Result<(), EffectFailure> {
        if action == Control::Quit {
            self.processes.remove(&vm);
            return Ok(());
        }
        let process = self.processes.get_mut(&vm).ok_or_else(gone)?;
        match action {
            Control::Pause => process.running = false,
            Control::Resume => {
                (process.running, process.begun) = (true, true);
                self.begun.extend(process.pair());
            }
            Control::Reset => process.memory = 0,
            Control::PowerButton | Control::Quit => {}
        }
        Ok(())
    }

    fn merge(&mut self, vm: VmId, order: &MergeOrder, live: bool) -> Result<Outcome, EffectFailure> {
        let (upper, lower) = (&order.upper.path, &order.lower.path);
        let (above, below) = (self.files[upper].clone(), self.files[lower].clone());
        // The one that grows, see there.
        self.unsynced.remove(if order.direction == MergeDirection::Up { upper } else { lower });
        let mut process = self.processes.get_mut(&vm).filter(|_| live);
        if live && process.is_none() {
            return Err(gone());
        }
        if let (Some(process), Some(slot)) = (&process, order.slot) {
            let stays = if order.direction == MergeDirection::Up { upper } else { lower };
            let below = |path: &&PathBuf| self.files[*path].backing.as_ref();
            if !std::iter::successors(process.tops.get(&slot), below).any(|path| path == stays) {
                return Err(not_so());
            }
        }
        match order.direction {
            MergeDirection::Up => {
                let file = self.files.get_mut(upper).expect("read above");
                for (block, value) in below.blocks {
                    file.blocks.entry(block).or_insert(value);
                }
                file.backing = below.backing;
                Ok(Outcome::Merged { stopped: false })
            }
            MergeDirection::Down => {
                let switched =
                    |process: &&mut Process| order.slot.is_some_and(|slot| process.tops.get(&slot) == Some(lower));
                let done_before = process.as_ref().is_some_and(switched);
                if !done_before {
                    self.files.get_mut(lower).expect("read above").blocks.extend(above.blocks);
                }
                for child in &order.children {
                    self.files.get_mut(&child.path).expect("children exist").backing = Some(lower.clone());
                }
                let is_top = order.above.is_empty() && order.slot.is_some();
                if let (Some(process), Some(slot), true) = (process.as_mut(), order.slot, is_top) {
                    process.tops.insert(slot, lower.clone());
                    process.running = false;
                    return Ok(Outcome::Merged { stopped: true });
                }
                Ok(Outcome::Merged { stopped: false })
            }
        }
    }
}

fn switch(process: &mut Process, overlays: &[Overlay]) {
    for overlay in overlays {
        process.tops.insert(overlay.slot, overlay.image.path.clone());
    }
}

/// A switch of the disks flushes them, and so does whoever finds that there may have been one.
fn sync_below(unsynced: &mut BTreeSet<PathBuf>, overlays: &[Overlay]) {
    unsynced.retain(|path| !overlays.iter().any(|overlay| overlay.parent.path == *path));
}

/// What an emulator answers who is asked for a layer that it does not have open.
fn not_so() -> EffectFailure {
    Failure::new(Kind::Failed, "the process has other layers").into()
}

fn gone() -> EffectFailure {
    EffectFailure { failure: Failure::new(Kind::MachineGone, "the process is gone"), switched: true }
}
