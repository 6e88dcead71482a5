//! Effects, one step at a time.
//!
//! Each effect becomes a list of [`Step`]s in the order in which crate `host` and the procedures of crate `qemu` do things: what is
//! written when, what is synced before what, when the guest stands still. Between any two steps the daemon may die, the emulator may
//! die, the power may fail; any step may fail. What a failed attempt undoes itself is a list of steps, too.
//!
//! ```text
//!   Attempt ──step──▶ … ──▶ ended well            a step fails, or the attempt is cancelled in time
//!                                                     └─▶ undo steps ──▶ ended badly
//! ```

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use ledger::effect::{Control, Effect, EffectId, Image, MachineSpec, MergeDirection, MergeOrder, Overlay};
use ledger::event::{CaptureReport, EffectFailure, InspectedImage, MachineChange, Outcome};
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use ledger::snapshot::Format;
use ledger::state::Timestamp;

use crate::emulator::Emulator;
use crate::files::{Content, Inode, Write};
use crate::images;
use crate::world::{Moment, World, memory_file};

/// Virtual size of every disk; content has one-byte block numbers, so it does not matter.
const DISK_BYTES: u64 = 1 << 20;

/// Passes over memory before the guest is stopped.
const PASSES: usize = 2;

/// One thing an effect does. A crash falls between two of them.
#[derive(Clone, Debug)]
pub enum Step {
    /// Make an image file on top of another.
    Create(PathBuf, Option<PathBuf>),
    /// Make an empty file that is no image yet.
    Reserve(PathBuf),
    /// Bring a file's content to stable storage.
    Sync(PathBuf),
    /// Bring the names in a file's directory to stable storage.
    SyncNames(PathBuf),
    /// Give a file another name.
    Rename(PathBuf, PathBuf),
    /// Take away a file, or all files of a directory.
    Remove(PathBuf),
    /// The machine must have a process.
    Require(VmId),
    /// The process must have what lies above the layers that are to be merged.
    Find(VmId, Box<MergeOrder>),
    /// Write the guest's memory to a file while it may run.
    Pass(VmId, PathBuf),
    /// The guest stands still.
    Hold(VmId),
    /// Write what has changed since the last pass, with the disks' state of the same moment.
    LastPass(VmId, PathBuf),
    /// Take the moment: new tops for all disks.
    Switch(VmId, Vec<Overlay>),
    /// The guest may run again, if it did.
    Release(VmId, bool),
    /// Frozen files to stable storage.
    SyncFrozen(VmId, Vec<Overlay>),
    /// Start a process.
    Spawn(Box<MachineSpec>),
    /// Load a memory image into it.
    Load(VmId, PathBuf),
    /// End a process that did not start properly.
    Kill(VmId),
    /// An order to the process.
    Control(VmId, Control),
    /// Copy one block that the upper file has into the lower one.
    CopyDown(Box<MergeOrder>, u8),
    /// Copy one block that only the lower file has into the upper one.
    CopyUp(Box<MergeOrder>, u8),
    /// Copy what the guest has written meanwhile; it stands still.
    CopyRest(Box<MergeOrder>),
    /// The process uses the file that is left.
    Pivot(VmId, Box<MergeOrder>),
    /// The header of a file names another one behind it.
    Rebase(PathBuf, Option<PathBuf>),
    /// Make an image of a file by its header, which comes last where the file must not count before it is whole.
    Format(PathBuf, Option<PathBuf>),
    /// Write one block.
    Put(PathBuf, u8, u32),
    /// Write one block of an image of nobody into the one below.
    MergeImages(PathBuf, PathBuf, u8),
    /// Give a file a second name, which must be free.
    Link(PathBuf, PathBuf),
}

/// How far an effect has come.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which one.
    pub id: EffectId,
    /// The order.
    pub effect: Effect,
    /// What is still to be done.
    pub steps: VecDeque<Step>,
    /// Somebody wants it to end.
    pub cancelled: bool,
    /// It is being undone; this is how it will end.
    failure: Option<EffectFailure>,
    /// The disks are switched.
    switched: bool,
    /// The guest ran before it was held.
    was_running: bool,
}

impl Attempt {
    /// Plans an effect.
    pub fn new(id: EffectId, effect: Effect, world: &World) -> Self {
        let steps = plan(&effect, world).into();
        Self { id, effect, steps, cancelled: false, failure: None, switched: false, was_running: false }
    }

    /// The step that comes next, in a word; for counting crash points.
    pub fn at(&self) -> String {
        let text = self.steps.front().map_or_else(|| "End".to_owned(), |step| format!("{step:?}"));
        text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    }

    /// Does one step. The outcome when none is left.
    pub fn advance(&mut self, world: &mut World, fails: Option<Kind>) -> Option<Result<Outcome, EffectFailure>> {
        if self.cancelled && self.failure.is_none() && self.stoppable() {
            self.give_up(Failure::new(Kind::Cancelled, "cancelled"), world);
            return None;
        }
        let Some(step) = self.steps.pop_front() else {
            return Some(match self.failure.take() {
                Some(failure) => Err(failure),
                None => self.conclude(world),
            });
        };
        let undoing = self.failure.is_some();
        let result = match fails.filter(|_| !undoing) {
            // Done, but nobody has heard of it: what the guest does then is news.
            Some(Kind::Timeout) => self.perform(&step, world).and_then(|()| {
                if let Step::Control(vm, control) = step {
                    world.news.extend(late_news(vm, control));
                }
                Err(Failure::new(Kind::Timeout, format!("{step:?} was not heard of in time")))
            }),
            Some(kind) => Err(Failure::new(kind, format!("{step:?} was made to fail"))),
            None => self.perform(&step, world),
        };
        if let Err(failure) = result
            && !undoing
        {
            self.give_up(failure, world);
        }
        None
    }

    /// All of it is to be done once more, and how it ended is not told: what the machine did then is news all the same.
    pub fn again(&self, well: bool, world: &mut World) -> Self {
        if let Effect::Control { vm, action } = self.effect
            && well
        {
            world.news.extend(late_news(vm, action));
        }
        Self::new(self.id, self.effect.clone(), world)
    }

    /// What the emulator does of this on its own when the daemon has died: a block job runs on.
    pub fn orphan_step(&mut self, world: &mut World) -> bool {
        let ours = matches!(&self.effect, Effect::Merge { live: true, .. }) && self.failure.is_none();
        let next = self.steps.front().cloned();
        match next {
            Some(step @ (Step::CopyDown(..) | Step::CopyUp(..))) if ours => {
                self.steps.pop_front();
                self.perform(&step, world).is_ok()
            }
            // A job that need not be told to complete does so by itself.
            Some(step @ Step::Pivot(..)) if ours && !self.is_top() => {
                self.steps.pop_front();
                self.perform(&step, world).is_ok()
            }
            _ => false,
        }
    }

    fn is_top(&self) -> bool {
        match &self.effect {
            Effect::Merge { order, .. } => is_top(order),
            _ => false,
        }
    }

    fn stoppable(&self) -> bool {
        match &self.effect {
            Effect::Capture { .. } | Effect::Save { .. } => !self.switched && !self.steps.is_empty(),
            Effect::Merge { live: true, .. } => self.steps.iter().any(|step| matches!(step, Step::Pivot(..))),
            Effect::Merge { .. } => self.steps.iter().any(|step| matches!(step, Step::CopyDown(..) | Step::CopyUp(..))),
            Effect::Launch { .. } | Effect::CreateOverlays { .. } | Effect::WorkOnImage { .. } => {
                !self.steps.is_empty()
            }
            _ => false,
        }
    }

    /// Turns to undoing what was done.
    fn give_up(&mut self, failure: Failure, world: &mut World) {
        let mut undo = VecDeque::new();
        let mut failure = EffectFailure { failure, switched: self.switched };
        match &self.effect {
            Effect::Capture { spec, memory, resume, overlays } => {
                undo.extend(memory.iter().map(|memory| Step::Remove(memory.path.clone())));
                // Nobody can ask a process that is gone.
                failure.switched |= !world.emulators.contains_key(&spec.vm);
                undo.extend(settle_below(overlays).filter(|_| failure.switched));
                undo.push_back(Step::Release(spec.vm, *resume));
            }
            Effect::Save { spec, memory } => {
                undo.push_back(Step::Remove(memory.path.clone()));
                undo.push_back(Step::Release(spec.vm, self.was_running));
            }
            Effect::Launch { spec, .. } => undo.push_back(Step::Kill(spec.vm)),
            Effect::Merge { vm, order, live: true } => {
                let emulator = world.emulators.get(vm);
                let stack = order.slot.and_then(|slot| emulator?.stacks.get(&slot));
                let pivoted = stack.is_some_and(|stack| !stack.paths.contains(&order.upper.path));
                let switches = is_top(order) && order.direction == MergeDirection::Down;
                if switches && (pivoted || emulator.is_none()) {
                    // The record names the other file, whichever attempt did it: a guest that ran on would make it wrong.
                    undo.push_back(Step::Kill(*vm));
                    failure.failure.kind = Kind::MachineGone;
                } else if self.was_running {
                    undo.push_back(Step::Release(*vm, true));
                } else if switches {
                    stands_still(world, *vm);
                }
            }
            Effect::Control { vm, action: Control::Resume } | Effect::AbortCapture { vm, .. } => {
                // Nobody holds it any more: it stands still from now on as one that its user has paused, or runs.
                world.emulators.get_mut(vm).into_iter().for_each(|emulator| emulator.held = false);
            }
            _ => {}
        }
        self.failure = Some(failure);
        self.steps = undo;
    }

    fn perform(&mut self, step: &Step, world: &mut World) -> Result<(), Failure> {
        match step {
            Step::Create(path, backing) => {
                let inode = world.files.create(path);
                world.files.write(inode, Write::Header(backing.clone()));
            }
            Step::Reserve(path) => {
                world.files.create(path);
            }
            Step::Sync(path) => {
                let inode = open(world, path)?;
                world.files.sync(inode);
            }
            Step::SyncNames(path) => world.files.sync_directory(path.parent().unwrap_or(path)),
            Step::Rename(from, to) => world.files.rename(from, to),
            Step::Remove(path) => {
                world.files.remove(path);
                world.files.below(path).iter().for_each(|file| world.files.remove(file));
            }
            Step::Rebase(path, backing) => {
                let inode = open(world, path)?;
                world.files.write_for_merge(inode, Write::Header(backing.clone()));
            }
            Step::Format(path, backing) => {
                let inode = open(world, path)?;
                world.files.write(inode, Write::Header(backing.clone()));
            }
            Step::Put(path, block, value) => {
                let inode = open(world, path)?;
                world.files.write(inode, Write::Block(*block, *value));
            }
            Step::MergeImages(from, to, block) => copy(world, from, to, *block, true)?,
            Step::Link(from, to) => {
                if !world.files.link(from, to) {
                    return Err(Failure::new(Kind::InvalidParameter, format!("{} exists already", to.display())));
                }
            }
            Step::CopyDown(order, block) => copy(world, &order.upper.path, &order.lower.path, *block, true)?,
            Step::CopyUp(order, block) => copy(world, &order.lower.path, &order.upper.path, *block, false)?,
            Step::CopyRest(order) => {
                for block in own_blocks(world, &order.upper.path).into_keys() {
                    copy(world, &order.upper.path, &order.lower.path, block, true)?;
                }
            }
            Step::Spawn(spec) => self.spawn(spec, world)?,
            guest => self.perform_on_guest(guest, world)?,
        }
        Ok(())
    }

    fn perform_on_guest(&mut self, step: &Step, world: &mut World) -> Result<(), Failure> {
        let gone = || Failure::new(Kind::MachineGone, "the machine's process is gone");
        match step {
            Step::Require(vm) => {
                // One that stands still for an earlier attempt of the same would run.
                let emulator = world.emulators.get(vm).ok_or_else(gone)?;
                self.was_running = emulator.running || emulator.held;
            }
            Step::Pass(vm, path) | Step::LastPass(vm, path) => {
                let emulator = world.emulators.get(vm).ok_or_else(gone)?;
                let memory = emulator.memory.clone();
                let disks = emulator.disks(&world.files);
                let inode = world.files.open(path).ok_or_else(|| Failure::new(Kind::Failed, "no memory file"))?;
                let held = world.files.data(inode).blocks;
                for (block, value) in memory.iter().filter(|(block, value)| held.get(block) != Some(*value)) {
                    world.files.write(inode, Write::Block(*block, *value));
                }
                if matches!(step, Step::LastPass(..)) {
                    world.memories.insert(path.clone(), Moment { disks, memory: Some(memory) });
                }
            }
            Step::Hold(vm) => {
                let emulator = world.emulators.get_mut(vm).ok_or_else(gone)?;
                self.was_running = emulator.running || emulator.held;
                emulator.running = false;
                // One that somebody has paused does not go on afterwards.
                emulator.held = self.was_running;
            }
            Step::Switch(vm, overlays) => {
                world.emulators.get(vm).ok_or_else(gone)?;
                world.switch(*vm, self.id.job, overlays).map_err(|text| Failure::new(Kind::Failed, text))?;
                self.switched = true;
            }
            Step::Release(vm, run) => {
                let emulator = world.emulators.get_mut(vm).ok_or_else(gone)?;
                emulator.running = *run;
                emulator.held = false;
            }
            Step::SyncFrozen(vm, overlays) => {
                let emulator = world.emulators.get(vm).ok_or_else(gone)?;
                let frozen: Vec<_> =
                    overlays.iter().filter_map(|o| emulator.stacks.get(&o.slot)?.inodes.get(1).copied()).collect();
                frozen.into_iter().for_each(|inode| world.files.sync(inode));
            }
            Step::Load(vm, path) => {
                let chain = world.files.chain(path).map_err(|text| Failure::new(Kind::Failed, text))?;
                let memory = world.files.read(&chain);
                let emulator = world.emulators.get_mut(vm).ok_or_else(gone)?;
                emulator.memory = memory;
                emulator.begun = true;
            }
            Step::Find(vm, order) => find(world, *vm, order)?,
            Step::Kill(vm) => {
                world.emulators.remove(vm);
            }
            Step::Control(vm, control) => order(world, *vm, *control)?,
            Step::Pivot(vm, order) => {
                let (stays, goes) = match order.direction {
                    MergeDirection::Down => (&order.lower.path, &order.upper.path),
                    MergeDirection::Up => (&order.upper.path, &order.lower.path),
                };
                pivot(world, *vm, order, stays, goes)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn spawn(&mut self, spec: &MachineSpec, world: &mut World) -> Result<(), Failure> {
        if world.emulators.get(&spec.vm).is_some_and(|known| known.begun || self.steps.is_empty()) {
            // One that is ready is adopted.
            self.steps.clear();
            return Ok(());
        }
        let stacks = world.open_stacks(spec).map_err(|text| {
            world.broken.push(format!("{} cannot be started: {text}", spec.name));
            Failure::new(Kind::Failed, text)
        })?;
        let emulator = Emulator { stacks, memory: Content::new(), running: false, begun: false, held: false };
        world.emulators.insert(spec.vm, emulator);
        Ok(())
    }

    fn conclude(&self, world: &World) -> Result<Outcome, EffectFailure> {
        let machine = "model".to_owned();
        match &self.effect {
            Effect::Capture { memory, .. } => {
                let machine = memory.as_ref().map(|_| machine).unwrap_or_default();
                Ok(Outcome::Captured { moment: Timestamp(1), report: CaptureReport::default(), machine })
            }
            Effect::Save { .. } => Ok(Outcome::Saved { report: CaptureReport::default(), machine }),
            Effect::AbortCapture { vm, overlays, .. } => Ok(match world.emulators.get(vm) {
                None => Outcome::Aborted { switched: !overlays.is_empty(), alive: false },
                Some(emulator) => {
                    let is_top = |overlay: &Overlay| {
                        emulator.stacks.get(&overlay.slot).and_then(|s| s.paths.first()) == Some(&overlay.image.path)
                    };
                    Outcome::Aborted { switched: overlays.iter().any(is_top), alive: true }
                }
            }),
            Effect::Measure { images } => {
                let bytes = images.iter().map(|image| own_blocks(world, &image.path).len() as u64).collect();
                Ok(Outcome::Measured { bytes })
            }
            Effect::InspectImage { path, .. } => inspect(world, path),
            Effect::LocateImages { work } => images::locate(work, world).map_err(EffectFailure::from),
            Effect::Merge { order, live, .. } => {
                let stops = *live && is_top(order) && order.direction == MergeDirection::Down;
                Ok(Outcome::Merged { stopped: stops && self.was_running })
            }
            _ => Ok(Outcome::Done),
        }
    }
}

/// The steps of an effect.
fn plan(effect: &Effect, world: &World) -> Vec<Step> {
    match effect {
        Effect::PrepareVm { nvram, .. } => nvram.iter().flat_map(|image| prepare(&image.path, world)).collect(),
        Effect::CreateOverlays { overlays, ground, .. } => {
            let sync = |path: &PathBuf| [Step::Sync(path.clone()), Step::SyncNames(path.clone())];
            ground.iter().flat_map(sync).chain(overlays.iter().flat_map(create_overlay)).collect()
        }
        Effect::Capture { spec, overlays, memory, resume } => {
            let memory = memory.as_ref().map(|memory| memory_file(&memory.path));
            let mut steps = vec![Step::Require(spec.vm)];
            steps.extend(memory.iter().cloned().map(Step::Reserve));
            steps.extend(memory.iter().flat_map(|path| std::iter::repeat_n(Step::Pass(spec.vm, path.clone()), PASSES)));
            steps.push(Step::Hold(spec.vm));
            steps.extend(memory.iter().map(|path| Step::LastPass(spec.vm, path.clone())));
            steps.push(Step::Switch(spec.vm, overlays.clone()));
            steps.push(Step::Release(spec.vm, *resume));
            steps.push(Step::SyncFrozen(spec.vm, overlays.clone()));
            steps.extend(memory.iter().flat_map(|path| seal(path)));
            steps
        }
        Effect::AbortCapture { vm, resume, .. } if world.emulators.contains_key(vm) => {
            vec![Step::Release(*vm, *resume)]
        }
        Effect::AbortCapture { overlays, .. } => settle_below(overlays).collect(),
        Effect::Save { spec, memory } => {
            let path = memory_file(&memory.path);
            let mut steps =
                vec![Step::Require(spec.vm), Step::Reserve(path.clone()), Step::Pass(spec.vm, path.clone())];
            steps.extend([Step::Hold(spec.vm), Step::LastPass(spec.vm, path.clone())]);
            steps.extend(seal(&path));
            steps
        }
        Effect::Launch { spec, memory } => {
            let load = memory.as_ref().map(|source| Step::Load(spec.vm, memory_file(&source.path)));
            std::iter::once(Step::Spawn(Box::new(spec.clone()))).chain(load).collect()
        }
        Effect::Control { vm, action } => vec![Step::Control(*vm, *action)],
        Effect::Merge { vm, order, live } => merge(*vm, order, *live, world),
        Effect::Delete { paths } => {
            let files = paths.iter().flat_map(|path| {
                let below = world.files.below(path);
                below.into_iter().chain([path.clone()])
            });
            files.flat_map(|path| [Step::Remove(path.clone()), Step::SyncNames(path)]).collect()
        }
        Effect::RemoveImage { path } => vec![Step::Remove(path.clone()), Step::SyncNames(path.clone())],
        Effect::WorkOnImage { work, draft } => images::plan(work, draft.as_deref(), world),
        Effect::LocateImages { .. } => Vec::new(),
        Effect::InspectImage { .. } | Effect::Measure { .. } | Effect::Describe { .. } => Vec::new(),
    }
}

/// The layers below overlays that count as switched, to stable storage.
fn settle_below(overlays: &[Overlay]) -> impl Iterator<Item = Step> {
    overlays.iter().map(|overlay| Step::Sync(overlay.parent.path.clone()))
}

fn prepare(path: &Path, world: &World) -> Vec<Step> {
    if world.files.open(path).is_some() {
        // An earlier attempt may have ended before its name was on stable storage.
        return vec![Step::SyncNames(path.to_owned())];
    }
    let draft = path.with_extension("draft");
    let (path, named) = (path.to_owned(), path.to_owned());
    vec![
        Step::Create(draft.clone(), None),
        Step::Sync(draft.clone()),
        Step::Rename(draft, path),
        Step::SyncNames(named),
    ]
}

fn create_overlay(overlay: &Overlay) -> Vec<Step> {
    let (path, parent) = (&overlay.image.path, &overlay.parent.path);
    vec![
        Step::Remove(path.clone()),
        Step::Create(path.clone(), Some(parent.clone())),
        Step::Sync(path.clone()),
        Step::SyncNames(path.clone()),
    ]
}

/// The memory image is whole.
fn seal(path: &Path) -> [Step; 3] {
    [Step::Format(path.to_owned(), None), Step::Sync(path.to_owned()), Step::SyncNames(path.to_owned())]
}

fn merge(vm: VmId, order: &MergeOrder, live: bool, world: &World) -> Vec<Step> {
    let boxed = || Box::new(order.clone());
    let (upper, lower) = (&order.upper.path, &order.lower.path);
    let mut steps: Vec<Step> = Vec::new();
    if live {
        steps.extend([Step::Require(vm), Step::Find(vm, boxed())]);
    }
    let behind = order.below.first().map(|image| image.path.clone());
    let leaving = if order.direction == MergeDirection::Down { upper } else { lower };
    let stack = order.slot.and_then(|slot| world.emulators.get(&vm)?.stacks.get(&slot));
    let pivoted = live && stack.is_some_and(|stack| !stack.paths.contains(leaving));
    match order.direction {
        // An earlier attempt came this far; copying again would bring back what has been written over since.
        MergeDirection::Up if pivoted => steps.extend([Step::Rebase(upper.clone(), behind), Step::Sync(upper.clone())]),
        MergeDirection::Down if pivoted => steps.extend(finish_down(order)),
        MergeDirection::Up => {
            let missing = own_blocks(world, lower).into_keys().filter(|b| !own_blocks(world, upper).contains_key(b));
            steps.extend(missing.map(|block| Step::CopyUp(boxed(), block)));
            steps.push(Step::Sync(upper.clone()));
            steps.extend(live.then(|| Step::Pivot(vm, boxed())));
            steps.extend([Step::Rebase(upper.clone(), behind), Step::Sync(upper.clone())]);
        }
        MergeDirection::Down => {
            steps.extend(own_blocks(world, upper).into_keys().map(|block| Step::CopyDown(boxed(), block)));
            if live && is_top(order) {
                steps.extend([Step::Hold(vm), Step::CopyRest(boxed())]);
            }
            steps.push(Step::Sync(lower.clone()));
            steps.extend(live.then(|| Step::Pivot(vm, boxed())));
            steps.extend(finish_down(order));
        }
    }
    steps
}

/// Children's headers name the layer that is left.
fn finish_down(order: &MergeOrder) -> Vec<Step> {
    let lower = &order.lower.path;
    let rebase = |path: &PathBuf| [Step::Rebase(path.clone(), Some(lower.clone())), Step::Sync(path.clone())];
    order.children.iter().flat_map(|child| rebase(&child.path)).chain([Step::Sync(lower.clone())]).collect()
}

/// The upper layer is the live top.
fn is_top(order: &MergeOrder) -> bool {
    order.above.is_empty() && order.slot.is_some()
}

fn open(world: &World, path: &Path) -> Result<Inode, Failure> {
    let missing = || Failure::new(Kind::Failed, format!("{} is missing", path.display()));
    world.files.open(path).ok_or_else(missing)
}

pub(crate) fn own_blocks(world: &World, path: &Path) -> Content {
    world.files.open(path).map(|inode| world.files.data(inode).blocks).unwrap_or_default()
}

/// Copies one block; `over` says whether it replaces what is there.
fn copy(world: &mut World, from: &Path, to: &Path, block: u8, over: bool) -> Result<(), Failure> {
    let value = own_blocks(world, from).get(&block).copied();
    open(world, from)?;
    let target = open(world, to)?;
    if let Some(value) = value.filter(|_| over || !own_blocks(world, to).contains_key(&block)) {
        world.files.write_for_merge(target, Write::Block(block, value));
    }
    Ok(())
}

/// A process whose layers are others than the record says refuses to begin.
fn find(world: &World, vm: VmId, order: &MergeOrder) -> Result<(), Failure> {
    let stack = order.slot.and_then(|slot| world.emulators.get(&vm)?.stacks.get(&slot));
    let known = |image: &Image| stack.is_none_or(|stack| stack.paths.contains(&image.path));
    let stays = if order.direction == MergeDirection::Up { &order.upper } else { &order.lower };
    let unknown = order.above.iter().chain([stays]).find(|image| !known(image));
    unknown.map_or(Ok(()), |image| Err(Failure::new(Kind::Failed, format!("{} is not open", image.path.display()))))
}

fn pivot(world: &mut World, vm: VmId, order: &MergeOrder, stays: &Path, goes: &PathBuf) -> Result<(), Failure> {
    let emulator = world.emulators.get_mut(&vm).ok_or_else(|| Failure::new(Kind::MachineGone, "gone"))?;
    let Some(slot) = order.slot else { return Ok(()) };
    let Some(stack) = emulator.stacks.get_mut(&slot) else { return Ok(()) };
    if !stack.paths.iter().any(|path| path == stays) {
        return Err(Failure::new(Kind::Failed, format!("{} is not open", stays.display())));
    }
    stack.drop_file(goes);
    // The emulator keeps the header of the file above true, so that its chain can be opened again.
    let above = order.above.last().map(|image| image.path.clone());
    if let (Some(above), MergeDirection::Down) = (above, order.direction)
        && let Some(inode) = world.files.open(&above)
    {
        world.files.write_for_merge(inode, Write::Header(Some(stays.to_owned())));
    }
    Ok(())
}

fn order(world: &mut World, vm: VmId, control: Control) -> Result<(), Failure> {
    if control == Control::Quit {
        world.emulators.remove(&vm);
        world.pressed.remove(&vm);
        return Ok(());
    }
    let gone = || Failure::new(Kind::MachineGone, "the machine's process is gone");
    let emulator = world.emulators.get_mut(&vm).ok_or_else(gone)?;
    match control {
        Control::Pause => emulator.running = false,
        Control::Resume => {
            emulator.running = true;
            emulator.begun = true;
            emulator.held = false;
        }
        Control::Reset => emulator.memory.clear(),
        Control::PowerButton => {
            world.pressed.insert(vm);
        }
        Control::Quit => {}
    }
    Ok(())
}

/// A merge failed before it had looked at the guest, which may stand still since an earlier attempt: the host looks then, and tells.
fn stands_still(world: &mut World, vm: VmId) {
    if let Some(emulator) = world.emulators.get_mut(&vm).filter(|emulator| !emulator.running) {
        emulator.held = false;
        world.news.push((vm, MachineChange::Stopped));
    }
}

/// What is heard of an order's effect when its answer is not.
fn late_news(vm: VmId, control: Control) -> Option<(VmId, MachineChange)> {
    let change = match control {
        Control::Pause => MachineChange::Stopped,
        Control::Resume => MachineChange::Running,
        Control::Quit => MachineChange::Gone,
        Control::Reset | Control::PowerButton => return None,
    };
    Some((vm, change))
}

fn inspect(world: &World, path: &Path) -> Result<Outcome, EffectFailure> {
    let missing = |text: String| EffectFailure::from(Failure::new(Kind::NotFound, text));
    let mut chain = Vec::new();
    let mut next = Some(path.to_owned());
    world.files.chain(path).map_err(missing)?;
    while let Some(path) = next {
        next = world.files.open(&path).and_then(|inode| world.files.data(inode).backing);
        chain.push(InspectedImage { path, format: Format::Qcow2, size: DISK_BYTES });
    }
    Ok(Outcome::Inspected { chain })
}
