//! Runs the real driver against the model world and a store in memory, with faults at chosen points.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::PathBuf;

use ledger::driver::{Driver, Released};
use ledger::effect::{Control, Effect, EffectId};
use ledger::event::{EffectFailure, Event, MachineChange};
use ledger::failure::{Failure, Kind};
use ledger::id::{JobId, SnapshotId, VmId};
use ledger::job::{Job, JobState, Stage};
use ledger::layers::next_tidy;
use ledger::paths::Paths;
use ledger::record::{Commit, StoreError, Stored};
use ledger::request::{Reply, Request};
use ledger::state::Timestamp;
use ledger::vm::Power;

use super::coverage::Seen;
use super::world::{Content, World};

/// One thing that goes wrong. Numbers count effects or commits from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Around an effect.
    Effect(usize, EffectFault),
    /// Around a commit.
    Commit(usize, CommitFault),
}

/// What goes wrong around an effect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EffectFault {
    /// It fails without having done anything.
    Fails,
    /// It is done, but reported as failed.
    FailsLate,
    /// The same, and what the guest does then is heard of before that or after it.
    Unanswered { heard_first: bool },
    /// It is carried out twice.
    Twice,
    /// The daemon dies after it, before its outcome is heard.
    DaemonDies,
    /// The machines' processes die together with the daemon after it.
    PowerFails,
    /// The machines' processes die before it or after it, and the daemon hears of it before the effect's outcome or
    /// after it.
    MachinesDie { after: bool, heard_first: bool },
    /// The job is cancelled as it starts; it obeys.
    Cancelled,
}

/// What goes wrong around a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CommitFault {
    /// The daemon dies before it.
    DaemonDiesBefore,
    /// The daemon dies after it, before its effects start.
    DaemonDiesAfter,
    /// The store cannot write.
    StoreFails,
}

/// Effects and commits by number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    pub effects: Range<usize>,
    pub commits: Range<usize>,
}

/// What a snapshot must contain: each disk's content, and memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    pub disks: Vec<Content>,
    pub memory: Option<u32>,
}

/// The daemon's stand-in. A clone goes its own way from here.
#[derive(Clone)]
pub struct Rig {
    pub world: World,
    /// What goes wrong in this run. Each strikes once at most.
    pub faults: Vec<Fault>,
    pub effects: usize,
    pub commits: usize,
    /// What followed the first fault until everything was at rest again: what was undone, or done again.
    pub aftermath: Option<Span>,
    /// What users were told of jobs that failed.
    pub told: BTreeSet<String>,
    /// Kinds of jobs and stages that were on record.
    pub seen: Seen,
    /// Reference: what each snapshot that was reported complete must contain.
    pub promised: BTreeMap<SnapshotId, Moment>,
    driver: Driver,
    stored: BTreeMap<(String, String), String>,
    revision: u64,
    now: u64,
    queue: VecDeque<(EffectId, Effect)>,
    crashed: bool,
    /// Effects and commits when the first fault had struck, until everything is at rest again.
    struck: Option<(usize, usize)>,
}

const ROOT: &str = "/data";

impl Rig {
    pub fn new(faults: &[Fault]) -> Self {
        let driver = Driver::load(0, &[], Paths::new(ROOT)).expect("nothing stored, nothing damaged");
        Self {
            world: World::default(),
            faults: faults.to_vec(),
            effects: 0,
            commits: 0,
            aftermath: None,
            told: BTreeSet::new(),
            seen: Seen::default(),
            promised: BTreeMap::new(),
            driver,
            stored: BTreeMap::new(),
            revision: 0,
            now: 1_700_000_000_000_000,
            queue: VecDeque::new(),
            crashed: false,
            struck: None,
        }
    }

    pub fn state(&self) -> &ledger::state::State {
        self.driver.state()
    }

    /// Asks, and carries out everything that follows. Returns the reply, if the daemon lived to give it.
    pub fn ask(&mut self, request: Request) -> Option<Reply> {
        let seed = u128::from(self.now) << 40 | self.commits as u128;
        let reply = self.feed(Event::Request { id: 1, request, seed });
        self.run();
        reply
    }

    /// Asks, and leaves everything that follows undone until the next call of [`Rig::finish`].
    pub fn begin(&mut self, request: Request) -> Option<Reply> {
        let seed = u128::from(self.now) << 40 | self.commits as u128;
        self.feed(Event::Request { id: 1, request, seed })
    }

    /// Carries out what was begun.
    pub fn finish(&mut self) {
        self.run();
    }

    /// Changes the stored records and lets the daemon begin anew: a state that no request leads to.
    pub fn rewrite(&mut self, from: &str, to: &str) {
        let changed = self.stored.values_mut().filter(|body| body.contains(from));
        let count = changed.map(|body| *body = body.replace(from, to)).count();
        assert!(count > 0, "nothing stored contains {from}");
        self.restart();
        self.run();
    }

    /// The daemon is ended in order and started again.
    pub fn start_again(&mut self) {
        self.restart();
        self.run();
    }

    /// The guest of `vm` shuts down by itself.
    pub fn guest_exits(&mut self, vm: VmId) {
        if self.world.processes.remove(&vm).is_some() {
            self.feed(Event::Machine { vm, change: MachineChange::Gone });
            self.run();
        }
    }

    /// The daemon hears what the guest or the emulator did, whatever else is under way.
    pub fn hear(&mut self, vm: VmId, change: MachineChange) {
        self.feed(Event::Machine { vm, change });
    }

    /// Time goes on, by more than anything waits for.
    pub fn tick(&mut self) {
        self.wait(1_000);
    }

    /// Somebody sets the clock back by this many seconds.
    pub fn set_clock_back(&mut self, seconds: u64) {
        self.now -= seconds * 1_000_000;
    }

    /// Time goes on by this many seconds.
    pub fn wait(&mut self, seconds: u64) {
        self.now += seconds * 1_000_000;
        self.feed(Event::Tick);
        self.run();
    }

    /// Until nothing is in flight, restarting the daemon whenever it dies.
    fn run(&mut self) {
        for _ in 0..10_000 {
            if self.crashed {
                self.restart();
            } else if let Some((id, effect)) = self.queue.pop_front() {
                self.perform(id, &effect);
            } else {
                self.at_rest();
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.state().jobs);
    }

    fn at_rest(&mut self) {
        if let (Some((effects, commits)), None) = (self.struck, &self.aftermath) {
            self.aftermath = Some(Span { effects: effects..self.effects, commits: commits..self.commits });
        }
    }

    fn strikes(&mut self, fault: Option<Fault>) {
        if fault.is_some() && self.struck.is_none() {
            self.struck = Some((self.effects, self.commits));
        }
    }

    fn perform(&mut self, id: EffectId, effect: &Effect) {
        let number = self.effects;
        self.effects += 1;
        let struck = self.faults.iter().copied().find(|fault| matches!(fault, Fault::Effect(at, _) if *at == number));
        self.strikes(struck);
        let Some(Fault::Effect(_, fault)) = struck else {
            let outcome = self.world.perform(effect);
            self.feed(Event::Outcome { effect: id, outcome });
            return;
        };
        let outcome = match fault {
            EffectFault::MachinesDie { after, heard_first } => {
                return self.perform_and_die(id, effect, after, heard_first);
            }
            EffectFault::Unanswered { heard_first } => {
                let outcome = self.fail_late(effect);
                return self.tell(news_of(effect), Event::Outcome { effect: id, outcome }, heard_first);
            }
            EffectFault::Fails => Err(self.fail_early(effect)),
            EffectFault::FailsLate => self.fail_late(effect),
            EffectFault::Cancelled => {
                self.feed(Event::Request { id: 2, request: Request::CancelJob { job: id.job, kill: false }, seed: 0 });
                Err(EffectFailure::from(Failure::new(Kind::Cancelled, "cancelled")))
            }
            EffectFault::Twice => {
                if !matches!(effect, Effect::Capture { .. } | Effect::Save { .. }) {
                    let _ = self.world.perform(effect);
                }
                self.world.perform(effect)
            }
            EffectFault::DaemonDies | EffectFault::PowerFails => {
                let _ = self.world.perform(effect);
                if fault == EffectFault::PowerFails {
                    self.world.processes.clear();
                }
                self.crashed = true;
                return;
            }
        };
        self.feed(Event::Outcome { effect: id, outcome });
        // The host watches processes apart from effects: one that ended is noticed whatever the effect said.
        if let (Effect::Control { vm, action: Control::Quit }, EffectFault::FailsLate) = (effect, fault) {
            self.feed(Event::Machine { vm: *vm, change: MachineChange::Gone });
        }
    }

    fn perform_and_die(&mut self, id: EffectId, effect: &Effect, after: bool, heard_first: bool) {
        let early = if after { Vec::new() } else { self.kill_processes() };
        let outcome = self.world.perform(effect);
        let dead = [early, self.kill_processes()].concat();
        let news = dead.into_iter().map(|vm| (vm, MachineChange::Gone)).collect();
        self.tell(news, Event::Outcome { effect: id, outcome }, heard_first);
    }

    fn tell(&mut self, news: Vec<(VmId, MachineChange)>, outcome: Event, heard_first: bool) {
        let news: Vec<Event> = news.into_iter().map(|(vm, change)| Event::Machine { vm, change }).collect();
        let outcome = vec![outcome];
        let events = if heard_first { [news, outcome].concat() } else { [outcome, news].concat() };
        for event in events {
            self.feed(event);
        }
    }

    fn kill_processes(&mut self) -> Vec<VmId> {
        std::mem::take(&mut self.world.processes).into_keys().collect()
    }

    /// Does nothing and says it failed. If an earlier attempt has switched the live top already, the host ends the process: its
    /// guest must not run on while the record names the other file.
    fn fail_early(&mut self, effect: &Effect) -> EffectFailure {
        let mut failure = Failure::new(Kind::Failed, "injected");
        if let Effect::Merge { vm, order, live: true } = effect
            && let (Some(process), Some(slot)) = (self.world.processes.get(vm), order.slot)
            && order.above.is_empty()
            && process.tops.get(&slot) == Some(&order.lower.path)
        {
            self.world.processes.remove(vm);
            failure.kind = Kind::MachineGone;
        }
        failure.into()
    }

    /// Does it and says it failed, as honestly as the host would: a capture tells whether the disks are switched, and
    /// has let the guest run; whatever else stopped the guest has let it run again.
    fn fail_late(&mut self, effect: &Effect) -> Result<ledger::event::Outcome, EffectFailure> {
        let done = self.world.perform(effect).is_ok();
        let switched = done && matches!(effect, Effect::Capture { .. });
        if let Effect::Merge { vm, order, live: true } = effect {
            // A host that cannot say it succeeded has not switched the live top: put it back before the guest runs.
            if let (Some(process), Some(slot)) = (self.world.processes.get_mut(vm), order.slot) {
                if order.above.is_empty() && process.tops.get(&slot) == Some(&order.lower.path) {
                    process.tops.insert(slot, order.upper.path.clone());
                }
                process.running = true;
            }
        }
        // Whoever has let a guest run and says it failed has had no answer.
        let resumed = matches!(effect, Effect::Control { action: Control::Resume, .. });
        let kind = if resumed { Kind::Timeout } else { Kind::Failed };
        Err(EffectFailure { failure: Failure::new(kind, "injected late"), switched })
    }

    fn feed(&mut self, event: Event) -> Option<Reply> {
        self.now += 1;
        let step = self.driver.handle(event, Timestamp(self.now));
        let released = match &step.commit {
            None => self.driver.confirm(step),
            Some(commit) => {
                let number = self.commits;
                let strikes = |fault: &Fault| matches!(fault, Fault::Commit(at, _) if *at == number);
                let struck = self.faults.iter().copied().find(strikes);
                self.commits += 1;
                self.strikes(struck);
                let fault =
                    struck.and_then(|fault| if let Fault::Commit(_, fault) = fault { Some(fault) } else { None });
                match fault {
                    Some(CommitFault::DaemonDiesBefore) => {
                        self.crashed = true;
                        return None;
                    }
                    Some(CommitFault::StoreFails) => {
                        let released = self.driver.refuse(step, &StoreError::Failed("injected".into()));
                        let reply = self.release(released);
                        // Facts are recorded with the next event.
                        self.feed(Event::Tick);
                        return reply;
                    }
                    Some(CommitFault::DaemonDiesAfter) | None => self.store(commit),
                }
                let released = self.driver.confirm(step);
                if fault.is_some() {
                    self.crashed = true;
                    return None;
                }
                released
            }
        };
        self.release(released)
    }

    fn release(&mut self, released: Released) -> Option<Reply> {
        self.listen();
        self.queue.extend(released.effects);
        released.replies.into_iter().map(|(_, reply)| reply).next()
    }

    /// Notes what is on record.
    fn listen(&mut self) {
        let state = self.driver.state();
        self.seen.note(state);
        let failures = state.jobs.values().filter_map(|job| match &job.state {
            JobState::Failed(failure) => Some(failure.full_text()),
            _ => None,
        });
        self.told.extend(failures);
    }

    fn store(&mut self, commit: &Commit) {
        assert_eq!(commit.expected_revision, self.revision, "commits follow one another");
        self.revision += 1;
        for change in &commit.changes {
            let key = (change.key.kind().to_owned(), change.key.id());
            match &change.body {
                Some(body) => self.stored.insert(key, body.clone()),
                None => self.stored.remove(&key),
            };
        }
    }

    fn restart(&mut self) {
        self.crashed = false;
        self.queue.clear();
        let stored = |((kind, id), body): (&(String, String), &String)| Stored {
            kind: kind.clone(),
            id: id.clone(),
            body: body.clone(),
        };
        let records: Vec<Stored> = self.stored.iter().map(stored).collect();
        self.driver = Driver::load(self.revision, &records, Paths::new(ROOT)).expect("what was stored can be loaded");
        self.listen();
        for vm in self.driver.to_observe() {
            let found = self.world.observe(vm);
            self.feed(Event::Observed { vm, found });
        }
    }

    /// The content of the live state: disks in slot order, and memory of the process or of the saved image.
    pub fn live(&self, vm: VmId) -> Moment {
        let machine = &self.state().vms[&vm];
        let disks = machine.settings.layers().iter().map(|(_, layer)| self.world.read(&self.path(*layer))).collect();
        let process = self.world.processes.get(&vm).map(|process| process.memory);
        let saved = machine.saved.map(|id| self.world.memories[&self.state().memories[&id].path]);
        Moment { disks, memory: process.or(saved) }
    }

    fn path(&self, layer: ledger::id::LayerId) -> PathBuf {
        self.state().layers[&layer].path.clone()
    }

    /// Whether one of the faults of this run is such a one.
    fn had(&self, such: impl Fn(EffectFault) -> bool) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::Effect(_, fault) if such(*fault)))
    }

    /// Everything that must hold at rest.
    pub fn check(&self, vm: VmId, context: &str) {
        let state = self.state();
        assert_eq!(state.check(), Vec::<String>::new(), "{context}");
        let hangs = |job: &Job| job.state == JobState::Running && job.stage != Stage::AwaitingShutdown;
        let unfinished: Vec<JobId> = state.jobs.values().filter(|job| hangs(job)).map(|job| job.id).collect();
        assert_eq!(unfinished, [], "{context}: {:?}", state.jobs);
        // A merge that waits to be taken up again may have rewritten headers already; content is checked all the same.
        let settled = next_tidy(state, vm).is_none();
        for layer in state.layers.values().filter(|_| settled) {
            let parent = layer.parent.map(|parent| self.path(parent));
            assert_eq!(
                self.world.files.get(&layer.path).map(|file| file.backing.clone()),
                Some(parent),
                "{context}: header"
            );
        }
        for snapshot in state.snapshots_of(vm) {
            let disks =
                snapshot.settings.layers().iter().map(|(_, layer)| self.world.read(&self.path(*layer))).collect();
            let memory = snapshot.memory.map(|id| self.world.memories[&state.memories[&id].path]);
            for layer in snapshot.settings.layers().iter().flat_map(|(_, top)| state.chain(*top)) {
                let unsynced = self.world.unsynced.contains(&layer.path);
                assert!(!unsynced, "{context}: {} rests on {}", snapshot.name, layer.path.display());
            }
            // An attempt to write a text that fails is not repeated; content is what must be right even so.
            let written = !self.had(|fault| matches!(fault, EffectFault::Fails | EffectFault::Cancelled));
            if let Some(files) = snapshot.memory.and_then(|id| self.world.descriptions.get(&state.memories[&id].path)) {
                let missing = files.iter().find(|file| !self.world.files.contains_key(*file));
                assert!(missing.is_none() || !written, "{context}: the text of {} names {missing:?}", snapshot.name);
            }
            if let Some(promised) = self.promised.get(&snapshot.id) {
                assert_eq!(&Moment { disks, memory }, promised, "{context}: {}", snapshot.name);
            }
        }
        let mut garbage: Vec<&PathBuf> = state.vms.values().flat_map(|vm| &vm.garbage).collect();
        let named = |path: &&PathBuf| {
            path.ancestors().any(|dir| self.told.iter().any(|text| text.contains(&format!("'{}'", dir.display()))))
        };
        garbage.extend(self.world.files.keys().chain(self.world.memories.keys()).filter(named));
        let known: Vec<&PathBuf> = state.layers.values().map(|layer| &layer.path).chain(garbage.clone()).collect();
        let leaked: Vec<_> =
            self.world.files.keys().filter(|path| path.starts_with(ROOT) && !known.contains(path)).collect();
        assert_eq!(leaked, Vec::<&PathBuf>::new(), "{context}: files nobody needs");
        let known: Vec<&PathBuf> = state.memories.values().map(|memory| &memory.path).chain(garbage).collect();
        let leaked: Vec<_> = self.world.memories.keys().filter(|path| !known.contains(path)).collect();
        assert_eq!(leaked, Vec::<&PathBuf>::new(), "{context}: memory nobody needs");
        if let (Some(machine), Some(process)) = (state.vms.get(&vm), self.world.processes.get(&vm)) {
            let unsettled = self.faults.len() > 2;
            for (slot, layer) in machine.settings.layers() {
                let below = state.layers[&layer].parent.filter(|_| unsettled).map(|parent| self.path(parent));
                let top = &process.tops[&slot];
                assert!(*top == self.path(layer) || Some(top) == below.as_ref(), "{context}: the live top: {top:?}");
            }
            // Who is told that an order failed cannot know that it was carried out, nor whether a guest runs that could not be
            // told to run on: then it counts as paused.
            let told = !self.had(|fault| fault == EffectFault::FailsLate);
            let undone = self.faults.len() < 2 || !self.had(|fault| fault == EffectFault::Fails);
            let fits = match machine.power {
                Power::Running => process.running,
                Power::Paused => !process.running || !undone,
                _ => !process.running,
            };
            assert!(fits || !told, "{context}: {:?}", machine.power);
        }
        // A start that could be neither completed nor undone may have left a process, or not.
        let power = state.vms.get(&vm).map_or(Power::Off, |vm| vm.power);
        let unknown = power == Power::Starting && self.faults.len() > 1;
        let process = self.world.processes.contains_key(&vm);
        assert!(unknown || power.has_process() == process, "{context}: {power:?}, process: {process}");
    }
}

/// What is heard of an order to a machine that was obeyed.
fn news_of(effect: &Effect) -> Vec<(VmId, MachineChange)> {
    let Effect::Control { vm, action } = effect else { return Vec::new() };
    let change = match action {
        Control::Pause => MachineChange::Stopped,
        Control::Resume => MachineChange::Running,
        Control::Quit => MachineChange::Gone,
        Control::Reset | Control::PowerButton => return Vec::new(),
    };
    vec![(*vm, change)]
}
