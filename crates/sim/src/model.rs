//! What must be true: kept apart from the service, fed with what really happened.
//!
//! ```text
//!   guest writes ──▶ Live: what each disk must read           power cut ──▶ each block one of the values since its last flush
//!   a capture's switch, or the commit for a machine that is off ──▶ promise: what the snapshot must contain, for ever
//!   an apply's commit ──▶ Live is the promise of that snapshot
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ledger::id::{LayerId, SnapshotId, VmId};
use ledger::job::{Job, JobKind, JobState};
use ledger::layers::next_tidy;
use ledger::snapshot::Layer;
use ledger::state::State;
use ledger::vm::{Power, Slot, Vm};

use crate::files::{Content, TORN};
use crate::images::Images;
use crate::service::ROOT;
use crate::world::{Moment, World, memory_file};

/// The values that a block may have; the last is what was written last.
type Candidates = BTreeMap<u8, Vec<u32>>;

/// What a machine's disks must read.
#[derive(Clone, Debug, Default)]
struct Live {
    disks: BTreeMap<Slot, Candidates>,
    /// The power failed: any of the candidates may have survived.
    uncertain: bool,
}

/// The reference.
#[derive(Clone, Debug, Default)]
pub struct Model {
    live: BTreeMap<VmId, Live>,
    /// What each snapshot must contain.
    pub promised: BTreeMap<SnapshotId, Moment>,
    /// Image files of nobody.
    pub images: Images,
    /// Images that users own: never ours to remove.
    pub users: BTreeSet<PathBuf>,
    /// What users were told of jobs that failed.
    told: BTreeSet<String>,
}

impl Live {
    fn exactly(disks: &BTreeMap<Slot, Content>) -> Self {
        let one = |content: &Content| content.iter().map(|(block, value)| (*block, vec![*value])).collect();
        Self { disks: disks.iter().map(|(slot, content)| (*slot, one(content))).collect(), uncertain: false }
    }

    fn latest(&self) -> BTreeMap<Slot, Content> {
        let last = |disk: &Candidates| disk.iter().filter_map(|(b, values)| Some((*b, *values.last()?))).collect();
        self.disks.iter().map(|(slot, disk)| (*slot, last(disk))).collect()
    }

    /// Whether content is one of those possible.
    fn allows(&self, disks: &BTreeMap<Slot, Content>) -> bool {
        if !self.uncertain {
            return &self.latest() == disks;
        }
        let none = Content::new();
        self.disks.iter().all(|(slot, candidates)| {
            let content = disks.get(slot).unwrap_or(&none);
            // Zero stands for a block that was never written.
            candidates.iter().all(|(block, values)| {
                let value = content.get(block).unwrap_or(&0);
                // What was being overwritten may be torn.
                values.contains(value) || values.len() > 1 && *value == TORN
            }) && content.keys().all(|block| candidates.contains_key(block))
        })
    }
}

impl Model {
    /// The guest of a machine wrote a block of every disk.
    pub fn guest_wrote(&mut self, vm: VmId, slots: impl Iterator<Item = Slot>, block: u8, value: u32) {
        let live = self.live.entry(vm).or_default();
        for slot in slots {
            live.disks.entry(slot).or_default().entry(block).or_insert_with(|| vec![0]).push(value);
        }
    }

    /// The guest flushed all its disks.
    pub fn guest_flushed(&mut self, vm: VmId) {
        for disk in self.live.entry(vm).or_default().disks.values_mut() {
            disk.values_mut().for_each(|values| *values = values.last().copied().into_iter().collect());
        }
    }

    /// The power failed.
    pub fn power_cut(&mut self, state: &State, world: &World) {
        self.live.values_mut().for_each(|live| live.uncertain = true);
        self.images.power_cut(state, world);
    }

    /// A commit is durable: learns what it promises, and checks what it takes away.
    pub fn committed(&mut self, before: &State, after: &State, world: &mut World) {
        for snapshot in after.snapshots.values().filter(|snapshot| !before.snapshots.contains_key(&snapshot.id)) {
            let captured = after
                .jobs_of(snapshot.vm)
                .find(|job| job.snapshot == Some(snapshot.id) && job.kind == JobKind::CreateSnapshot)
                .and_then(|job| world.captured.get(&job.id).cloned());
            let moment = captured.unwrap_or_else(|| self.moment_at_rest(snapshot.vm, before, world));
            let memory = moment.memory.filter(|_| snapshot.memory.is_some());
            self.promised.insert(snapshot.id, Moment { disks: moment.disks, memory });
        }
        for snapshot in after.snapshots.values().filter(|snapshot| snapshot.memory.is_none()) {
            let cleared = at_work(before, after, snapshot.vm, |kind| kind == JobKind::ClearSnapshotState);
            if let Some(promise) = self.promised.get_mut(&snapshot.id)
                && promise.memory.is_some()
            {
                if !cleared && before.snapshots.get(&snapshot.id).is_some_and(|known| known.memory.is_some()) {
                    world.break_promise(format!("the memory of snapshot {} was forgotten", snapshot.name));
                }
                promise.memory = None;
            }
        }
        for snapshot in before.snapshots.values().filter(|snapshot| !after.snapshots.contains_key(&snapshot.id)) {
            let destroys = |kind| matches!(kind, JobKind::DestroySnapshot | JobKind::DestroyVm);
            if !at_work(before, after, snapshot.vm, destroys) {
                world.break_promise(format!("snapshot {} went away, and nobody asked for it", snapshot.name));
            }
            self.promised.remove(&snapshot.id);
        }
        for vm in after.vms.values() {
            self.applied(before, vm, after);
            self.plugged(vm, after, world);
        }
        self.images.committed(before, after, world);
        self.told.extend(after.jobs.values().filter_map(|job| match &job.state {
            JobState::Failed(failure) => Some(failure.full_text()),
            _ => None,
        }));
    }

    /// An apply changes the live layers in one commit, later than that which it begins with: in this one something before it may have
    /// been recorded that could not be earlier.
    fn applied(&mut self, before: &State, vm: &Vm, after: &State) {
        let applies = after.active_job(vm.id).filter(|job| job.kind == JobKind::ApplySnapshot);
        let applies = applies.filter(|job| before.jobs.contains_key(&job.id));
        let changed = before.vms.get(&vm.id).is_some_and(|before| before.settings.layers() != vm.settings.layers());
        if let (Some(job), true) = (applies, changed)
            && let Some(promise) = job.snapshot.and_then(|id| self.promised.get(&id))
        {
            self.live.insert(vm.id, Live::exactly(&promise.disks));
        }
    }

    /// Disks that were put into a machine or taken out of it.
    fn plugged(&mut self, vm: &Vm, after: &State, world: &World) {
        let layers = vm.settings.layers();
        let live = self.live.entry(vm.id).or_default();
        live.disks.retain(|slot, _| layers.iter().any(|(known, _)| known == slot));
        let new: Vec<_> = layers.into_iter().filter(|(slot, _)| !live.disks.contains_key(slot)).collect();
        if let Ok(disks) = read_layers(&new, after, world) {
            live.disks.extend(Live::exactly(&disks).disks);
        }
    }

    /// What a machine without a process holds.
    fn moment_at_rest(&mut self, vm: VmId, state: &State, world: &World) -> Moment {
        let disks = match state.vms.get(&vm).map(|vm| read_layers(&vm.settings.layers(), state, world)) {
            // After a power cut only the disk itself knows what has survived.
            Some(Ok(disks)) if self.live.get(&vm).is_none_or(|live| live.uncertain) => disks,
            _ => self.live.get(&vm).map(Live::latest).unwrap_or_default(),
        };
        let memory = state.vms.get(&vm).and_then(|vm| vm.saved).and_then(|id| state.memories.get(&id));
        let memory = memory.and_then(|memory| world.memories.get(&memory_file(&memory.path))?.memory.clone());
        Moment { disks, memory }
    }

    /// Every snapshot can be applied: checked at any time, whatever is going on.
    pub fn check_snapshots(&mut self, state: &State, world: &mut World, when: &str) {
        self.images.check(world, when);
        for snapshot in state.snapshots.values() {
            let Some(promise) = self.promised.get(&snapshot.id) else { continue };
            let name = &snapshot.name;
            match read_layers(&snapshot.settings.layers(), state, world) {
                Err(text) => world.break_promise(format!("{when}: the disks of {name} cannot be read: {text}")),
                Ok(disks) if !same(&disks, &promise.disks) => {
                    world.break_promise(format!("{when}: the disks of {name} hold {disks:?}, not {:?}", promise.disks));
                }
                Ok(_) => {}
            }
            let Some(memory) = snapshot.memory.and_then(|id| state.memories.get(&id)) else { continue };
            match world.files.chain(&memory_file(&memory.path)) {
                Err(text) => world.break_promise(format!("{when}: the memory of {name} cannot be read: {text}")),
                Ok(chain) if Some(&world.files.read(&chain)) != promise.memory.as_ref() => {
                    let (found, expected) = (world.files.read(&chain), &promise.memory);
                    world.break_promise(format!("{when}: the memory of {name} holds {found:?}, not {expected:?}"));
                }
                Ok(_) => {}
            }
        }
    }

    /// After a power cut, what has survived is what counts from then on: found out as soon as no job of before is left, or when the
    /// machine is about to be started; in any case before the guest can write again.
    pub fn settle(&mut self, state: &State, world: &mut World, starting: Option<VmId>) {
        for vm in state.vms.values() {
            let uncertain = self.live.get(&vm.id).is_some_and(|live| live.uncertain);
            if uncertain && (state.active_job(vm.id).is_none() || starting == Some(vm.id)) {
                self.check_disks(vm, state, world, "after a power cut");
            }
        }
    }

    /// The live disks of a machine.
    fn check_disks(&mut self, vm: &Vm, state: &State, world: &mut World, when: &str) {
        let found = match world.emulators.get(&vm.id) {
            Some(emulator) => Ok(emulator.disks(&world.files)),
            None => read_layers(&vm.settings.layers(), state, world),
        };
        let live = self.live.entry(vm.id).or_default();
        match found {
            Err(text) => world.break_promise(format!("{when}: the disks of {} cannot be read: {text}", vm.name)),
            Ok(disks) if live.allows(&without_empty(&disks, live)) => {
                if live.uncertain {
                    *live = Live::exactly(&disks);
                }
            }
            Ok(disks) => {
                let expected = live.disks.clone();
                world.break_promise(format!("{when}: the disks of {} hold {disks:?}, not {expected:?}", vm.name));
            }
        }
    }

    /// A machine without an unfinished job: its disks, and whether it does what is on record.
    pub fn check_live(&mut self, vm: &Vm, state: &State, world: &mut World, when: &str) {
        self.check_disks(vm, state, world, when);
        let running = world.emulators.get(&vm.id).map(|emulator| (emulator.running, emulator.held));
        let fits = match vm.power {
            Power::Running => running == Some((true, false)),
            Power::Paused => running.is_some_and(|(running, _)| !running || world.doubtful.contains(&vm.id)),
            Power::Off | Power::Saved => running.is_none(),
            // A start that could be neither completed nor undone.
            Power::Starting => world.doubtful.contains(&vm.id),
            Power::Saving | Power::Stopping => false,
        };
        if !fits {
            world.break_promise(format!(
                "{when}: {} is on record as {:?}, the process is {running:?}",
                vm.name, vm.power
            ));
        }
    }

    /// At the very end: nothing hangs, nothing is left that nobody needs.
    pub fn check_rest(&self, state: &State, world: &mut World) {
        let broken = state.check();
        broken.into_iter().for_each(|text| world.break_promise(format!("at rest: {text}")));
        let hangs = |job: &&std::sync::Arc<Job>| job.state == JobState::Running;
        let hanging: Vec<String> = state.jobs.values().filter(hangs).map(|job| format!("{:?}", job.stage)).collect();
        hanging.into_iter().for_each(|job| world.break_promise(format!("at rest: a job stands still at {job}")));
        let layers = state.layers.values().map(|layer| layer.path.clone());
        let memories = state.memories.values().map(|memory| memory_file(&memory.path));
        let known: BTreeSet<_> = layers.chain(memories).collect();
        let garbage: Vec<_> = state.vms.values().flat_map(|vm| &vm.garbage).collect();
        let told: Vec<String> = self.told.iter().cloned().collect();
        self.images.check_rest(&told, world);
        for path in self.users.iter().filter(|path| world.files.open(path).is_none()).cloned().collect::<Vec<_>>() {
            world.break_promise(format!("at rest: the user's image {} is gone", path.display()));
        }
        for path in world.files.below(std::path::Path::new(ROOT)) {
            let named =
                path.ancestors().any(|dir| told.iter().any(|text| text.contains(&format!("'{}'", dir.display()))));
            if !known.contains(&path) && !named && !garbage.iter().any(|garbage| path.starts_with(garbage)) {
                world.break_promise(format!("at rest: nobody needs {}", path.display()));
            }
        }
    }
}

/// What one reads through the headers of the files that the record names.
///
/// # Errors
/// When a file is missing or damaged.
pub fn read_layers(
    layers: &[(Slot, LayerId)],
    state: &State,
    world: &World,
) -> Result<BTreeMap<Slot, Content>, String> {
    let read = |(slot, layer): &(Slot, LayerId)| {
        let layer = state.layers.get(layer).ok_or("a layer is not on record")?;
        Ok((*slot, read_layer(layer, state, world)?))
    };
    layers.iter().map(read).collect()
}

/// Through the headers; by the record if a header was torn by a power cut while a merge rewrote it, until that merge is taken up.
fn read_layer(layer: &Layer, state: &State, world: &World) -> Result<Content, String> {
    let torn = match world.files.chain(&layer.path) {
        Ok(chain) => return Ok(world.files.read(&chain)),
        Err(text) => text,
    };
    let unsettled = state.active_job(layer.vm).is_some() || next_tidy(state, layer.vm).is_some();
    let chain = state.chain(layer.id);
    let open = |layer: &std::sync::Arc<Layer>| {
        let inode = world.files.open(&layer.path)?;
        world.files.data(inode).whole.then_some(inode)
    };
    let inodes: Option<Vec<_>> = chain.into_iter().map(open).collect();
    inodes.filter(|_| unsettled).map(|inodes| world.files.read(&inodes)).ok_or(torn)
}

/// The files that snapshots need, and which snapshot.
pub fn needed(state: &State) -> impl Iterator<Item = (PathBuf, String)> {
    state.snapshots.values().flat_map(|snapshot| {
        let layers = snapshot.settings.layers().into_iter().flat_map(|(_, layer)| state.chain(layer));
        let memory = snapshot.memory.and_then(|id| state.memories.get(&id));
        let files = layers.map(|layer| layer.path.clone()).chain(memory.map(|memory| memory_file(&memory.path)));
        files.map(|path| (path, format!("snapshot {}", snapshot.name)))
    })
}

/// Whether a job of such a kind did what this commit records; it may have ended with it.
fn at_work(before: &State, after: &State, vm: VmId, kind: impl Fn(JobKind) -> bool) -> bool {
    let was_over = |job: &Job| before.jobs.get(&job.id).is_some_and(|job| job.state.is_final());
    after.jobs_of(vm).any(|job| kind(job.kind) && !was_over(job))
}

/// Disks without content are as good as disks nobody has heard of.
fn without_empty(disks: &BTreeMap<Slot, Content>, live: &Live) -> BTreeMap<Slot, Content> {
    let known = |slot: &Slot, content: &Content| !content.is_empty() || live.disks.contains_key(slot);
    disks.iter().filter(|(slot, content)| known(slot, content)).map(|(slot, c)| (*slot, c.clone())).collect()
}

fn same(a: &BTreeMap<Slot, Content>, b: &BTreeMap<Slot, Content>) -> bool {
    let filled = |disks: &BTreeMap<Slot, Content>| -> BTreeMap<Slot, Content> {
        disks
            .iter()
            .filter(|(_, content)| !content.is_empty())
            .map(|(slot, content)| (*slot, content.clone()))
            .collect()
    };
    filled(a) == filled(b)
}
