//! One history: who moves next, and what goes wrong.
//!
//! ```text
//!   set up machines ──▶ trouble: moves and faults at random ──▶ heal: no more faults, everything comes to rest
//!                                                                  └─▶ every snapshot is applied, started, compared
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ledger::effect::{Control, Effect, EffectId};
use ledger::event::{Event, MachineChange};
use ledger::failure::Kind;
use ledger::id::VmId;
use ledger::job::JobKind;
use ledger::record::Store as _;
use ledger::request::{PowerTarget, Request};
use ledger::state::State;
use ledger::vm::{Firmware, Power};

use crate::clients::Client;
use crate::faults::Fault;
use crate::hands::Attempt;
use crate::images;
use crate::model::{self, Model};
use crate::orders;
use crate::random::Random;
use crate::service::{Death, Service, Surroundings};
use crate::store::FakeStore;
use crate::tree;
use crate::world::World;

/// Moves until everything must have come to rest once nothing fails any more. A job has some twenty stages of some forty steps.
const REST_MOVES_MAX: usize = 200_000;

/// Blocks of a disk or of memory that guests write.
const BLOCKS: usize = 6;

/// How a history is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Machines.
    pub machines: usize,
    /// Clients.
    pub clients: usize,
    /// Moves before it is left in peace.
    pub moves: usize,
    /// How often, in a thousand moves, something goes wrong.
    pub trouble: usize,
    /// One fault at one move.
    pub strike: Option<Strike>,
}

/// One fault at one move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Which move, counted from the first after the machines are set up.
    pub at: usize,
    /// What goes wrong.
    pub fault: Fault,
}

/// Who moves next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The hands take a step of an effect.
    Step,
    /// The service works in the outcome of an effect.
    Outcome,
    /// The service works in something else that happened.
    Event,
    /// A guest writes.
    Guest,
    /// A client asks.
    Ask,
    /// Time has passed.
    Tick,
    /// Somebody looks whether all is well.
    Check,
    /// Whose turn it is has nothing to do.
    Nothing,
}

/// What a history showed.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Promises broken, in words; empty if all is well.
    pub broken: Vec<String>,
    /// Where faults struck: what was being done, how far it was, and which fault.
    pub points: BTreeSet<String>,
    /// Snapshots completed.
    pub snapshots: u64,
    /// Snapshots applied and compared at the end.
    pub applied: u64,
    /// Rows of associations that clients were told and that were compared with the record, those with a parent.
    pub children: u64,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Answers that clients heard.
    pub answers: u64,
    /// Who moved, from the first move after the machines were set up.
    pub moves: Vec<Move>,
    /// The last moves in words, for whoever looks for the reason.
    pub trace: Vec<String>,
}

/// A history under way.
pub struct Run {
    pub(crate) random: Random,
    pub(crate) plan: Plan,
    pub(crate) world: World,
    pub(crate) model: Model,
    pub(crate) store: FakeStore,
    pub(crate) service: Service,
    pub(crate) surroundings: Surroundings,
    pub(crate) clients: Vec<Client>,
    pub(crate) attempts: BTreeMap<EffectId, Attempt>,
    /// Effects already carried out once that are to be carried out again.
    pub(crate) again: BTreeSet<EffectId>,
    /// Outcomes that come late, and the moves at which they do.
    pub(crate) late: Vec<(usize, Event)>,
    /// Moves so far.
    pub(crate) moves: usize,
    /// The host's clock, microseconds since 1970.
    pub(crate) now: u64,
    pub(crate) value: u32,
    pub(crate) findings: Findings,
}

impl Default for Plan {
    fn default() -> Self {
        Self { machines: 2, clients: 3, moves: 1500, trouble: 12, strike: None }
    }
}

impl Run {
    /// Plays the history of a seed to its end.
    pub fn play(seed: u64, plan: Plan, surroundings: &Surroundings) -> Findings {
        let mut store = FakeStore::default();
        let service = Service::start(&mut store, surroundings).expect("an empty store can be loaded");
        let mut run = Self {
            random: Random::new(seed),
            clients: vec![Client::default(); plan.clients],
            plan,
            world: World::default(),
            model: Model::default(),
            store,
            service,
            surroundings: surroundings.clone(),
            attempts: BTreeMap::new(),
            again: BTreeSet::new(),
            late: Vec::new(),
            moves: 0,
            now: 1_700_000_000_000_000,
            value: 0,
            findings: Findings::default(),
        };
        run.set_up();
        for _ in 0..run.plan.moves {
            run.advance();
            if !run.world.broken.is_empty() {
                return run.end();
            }
        }
        run.finish();
        run.end()
    }

    fn end(mut self) -> Findings {
        self.findings.broken = self.world.broken;
        self.findings.answers = self.clients.iter().map(|client| client.answers).sum();
        self.findings
    }

    pub(crate) fn note(&mut self, text: String) {
        const TRACE_MAX: usize = 400;
        const LINE_MAX: usize = 600;
        let text: String = text.chars().take(LINE_MAX).collect();
        if self.findings.trace.len() == TRACE_MAX {
            self.findings.trace.remove(0);
        }
        self.findings.trace.push(text);
    }

    /// An image that a user owns.
    fn user_image(&mut self, name: &str) -> PathBuf {
        let path = PathBuf::from(format!("/user/{name}.qcow2"));
        self.world.files.place(&path, None, &[]);
        self.model.users.insert(path.clone());
        path
    }

    /// Machines with two disks each, one of them with UEFI variables, too.
    fn set_up(&mut self) {
        self.model.images = images::set_up(&mut self.world);
        (0..3).for_each(|number| drop(self.user_image(&format!("extra-{number}"))));
        for number in 0..self.plan.machines {
            let firmware = if number % 2 == 0 { Firmware::Uefi } else { Firmware::Bios };
            self.request(Request::DefineVm(orders::definition(format!("m{number}"), firmware)));
            self.rest();
            let state = self.service.state().clone();
            let Some(vm) = state.vms.values().find(|vm| vm.name == format!("m{number}")) else { continue };
            for address in 0..2 {
                let path = self.user_image(&format!("{number}-{address}"));
                let controller = vm.settings.controllers[0].id;
                self.request(Request::AddDrive { vm: vm.id, controller, address: Some(address) });
                self.rest();
                let state = self.service.state().clone();
                let drive = state.vms[&vm.id].settings.drives.iter().find(|drive| drive.disk.is_none());
                if let Some(drive) = drive.map(|drive| drive.id) {
                    self.request(Request::AttachDisk { vm: vm.id, drive, path, format: None });
                    self.rest();
                }
            }
        }
    }

    /// Asks the ledger without a client.
    fn request(&mut self, request: Request) {
        let seed = u128::from(self.random.bits()) << 64 | u128::from(self.random.bits());
        self.service.inbox.push_back(Event::Request { id: 0, request, seed });
    }

    /// One small move.
    fn advance(&mut self) {
        self.now += 1 + self.random.bits() % 2_000_000;
        let number = self.moves;
        self.moves += 1;
        self.hand_in(number);
        if self.random.permille(self.plan.trouble) {
            let (fault, _) = Fault::ALL[self.random.below(Fault::ALL.len())];
            return self.strike(fault);
        }
        let next = self.choose();
        self.findings.moves.push(next);
        match self.plan.strike.filter(|strike| strike.at == number) {
            Some(strike) => self.strike(strike.fault),
            None => self.make(next),
        }
        self.deliver();
    }

    /// Whose turn it is.
    fn choose(&mut self) -> Move {
        let next = match self.random.below(100) {
            35..70 => match self.service.inbox.front() {
                None => Move::Nothing,
                Some(Event::Outcome { .. }) => Move::Outcome,
                Some(_) => Move::Event,
            },
            70..85 => Move::Guest,
            85..95 => Move::Ask,
            95..97 => Move::Tick,
            97..99 => Move::Check,
            _ => Move::Step,
        };
        if next == Move::Step && self.attempts.is_empty() { Move::Nothing } else { next }
    }

    fn make(&mut self, next: Move) {
        match next {
            Move::Step => self.step_an_attempt(None),
            Move::Outcome | Move::Event => self.take_an_event(None),
            Move::Guest => self.guests(),
            Move::Ask => self.a_client_asks(),
            Move::Tick => self.service.inbox.push_back(Event::Tick),
            Move::Check => self.check("meanwhile"),
            Move::Nothing => {}
        }
    }

    /// Outcomes whose delay is over.
    fn hand_in(&mut self, number: usize) {
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|(due, _)| *due <= number);
        self.late = late;
        let due: Vec<(usize, Event)> = due;
        self.service.inbox.extend(due.into_iter().map(|(_, event)| event));
    }

    pub(crate) fn take_an_event(&mut self, death: Option<Death>) {
        let waiting = self.service.inbox.len();
        if waiting == 0 {
            return;
        }
        // News of different machines overtakes other news; of one effect or machine it stays in order.
        let at = if self.random.permille(200) { self.overtaking() } else { 0 };
        let Some(event) = self.service.inbox.remove(at) else { return };
        self.turn(event, death);
    }

    fn overtaking(&mut self) -> usize {
        let at = self.random.below(self.service.inbox.len());
        let is_request = matches!(self.service.inbox.get(at), Some(Event::Request { .. } | Event::Tick));
        if is_request { at } else { 0 }
    }

    pub(crate) fn turn(&mut self, event: Event, death: Option<Death>) {
        let before = self.service.state().clone();
        self.note(format!("event {event:?}"));
        let alive = self.service.turn(event, &mut self.store, self.now, death);
        if !alive {
            self.learn_from_store(&before);
            return self.restart("daemon died in a turn");
        }
        let after = self.service.state().clone();
        self.committed(&before, &after);
        for text in after.check() {
            self.world.break_promise(format!("the next daemon could not load this: {text}"));
        }
        self.model.settle(&after, &mut self.world, None);
        self.begin_effects();
    }

    /// A commit whose daemon died may be durable all the same.
    fn learn_from_store(&mut self, before: &State) {
        if let Ok((revision, records)) = self.store.load()
            && let Ok(after) = ledger::record::rebuild(revision, &records)
        {
            self.committed(before, &after);
        }
    }

    fn committed(&mut self, before: &State, after: &State) {
        self.model.committed(before, after, &mut self.world);
        if before.revision != after.revision {
            self.world.files.guard(model::needed(after));
        }
    }

    fn begin_effects(&mut self) {
        for (id, effect) in std::mem::take(&mut self.service.started) {
            self.watch_for_quit(id, &effect);
            if let Effect::Launch { spec, .. } = &effect {
                let state = self.service.state().clone();
                self.model.settle(&state, &mut self.world, Some(spec.vm));
            }
            let attempt = Attempt::new(id, effect, &self.world);
            self.note(format!("begin {id:?} {:?}", attempt.effect));
            self.attempts.insert(id, attempt);
        }
        for id in std::mem::take(&mut self.service.cancelled) {
            if let Some(attempt) = self.attempts.get_mut(&id) {
                attempt.cancelled = true;
            }
        }
    }

    /// A guest may be ended by those jobs only whose purpose it is.
    fn watch_for_quit(&mut self, id: EffectId, effect: &Effect) {
        let kind = self.service.state().jobs.get(&id.job).map(|job| job.kind);
        let ends = matches!(effect, Effect::Control { action: Control::Quit, .. });
        let may = matches!(kind, Some(JobKind::TurnOff | JobKind::Save | JobKind::Start | JobKind::Restore));
        if ends && !may {
            self.world.break_promise(format!("a guest is ended by {kind:?}"));
        }
    }

    pub(crate) fn step_an_attempt(&mut self, fails: Option<Kind>) {
        let ids: Vec<EffectId> = self.attempts.keys().copied().collect();
        let Some(id) = self.random.pick(&ids).copied() else { return };
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if let Some(outcome) = attempt.advance(&mut self.world, fails) {
            if self.again.remove(&id) {
                *attempt = attempt.again(outcome.is_ok(), &mut self.world);
                return;
            }
            let effect = attempt.effect.clone();
            self.attempts.remove(&id);
            self.doubt(&effect, outcome.is_ok());
            self.note(format!("end {id:?} {outcome:?}"));
            self.service.inbox.push_back(Event::Outcome { effect: id, outcome });
            let news = std::mem::take(&mut self.world.news);
            self.service.inbox.extend(news.into_iter().map(|(vm, change)| Event::Machine { vm, change }));
        }
    }

    /// Whether a guest runs is known again when an order that is about that goes well; a reset leaves it as it is.
    fn doubt(&mut self, effect: &Effect, well: bool) {
        let settles = |action: &Control| matches!(action, Control::Pause | Control::Resume | Control::Quit);
        match effect {
            Effect::AbortCapture { vm, resume: true, .. } | Effect::Control { vm, action: Control::Quit } if !well => {
                self.world.doubtful.insert(*vm)
            }
            Effect::AbortCapture { vm, .. } if well => self.world.doubtful.remove(vm),
            Effect::Control { vm, action } if well && settles(action) => self.world.doubtful.remove(vm),
            _ => false,
        };
    }

    fn guests(&mut self) {
        let running: Vec<VmId> =
            self.world.emulators.iter().filter(|(_, emulator)| emulator.running).map(|(vm, _)| *vm).collect();
        let Some(vm) = self.random.pick(&running).copied() else { return };
        if self.world.pressed.contains(&vm) && self.random.permille(100) {
            return self.emulator_ends(vm);
        }
        let block = u8::try_from(self.random.below(BLOCKS)).unwrap_or(0);
        self.value += 1;
        let value = self.value;
        let Some(emulator) = self.world.emulators.get_mut(&vm) else { return };
        emulator.guest_writes(&mut self.world.files, block, value);
        let slots: Vec<_> = emulator.stacks.keys().copied().collect();
        let told = format!("guest {vm} writes {value} to {block}: {:?}", emulator.stacks);
        self.model.guest_wrote(vm, slots.into_iter(), block, value);
        if self.random.permille(300) {
            emulator.guest_flushes(&mut self.world.files);
            self.model.guest_flushed(vm);
            self.note("flush".to_owned());
        }
        self.note(told);
    }

    pub(crate) fn emulator_ends(&mut self, vm: VmId) {
        self.world.pressed.remove(&vm);
        if self.world.emulators.remove(&vm).is_some() {
            self.note(format!("{vm} ends"));
            self.service.inbox.push_back(Event::Machine { vm, change: MachineChange::Gone });
        }
    }

    fn a_client_asks(&mut self) {
        if self.random.permille(200) {
            let request = orders::draw(&self.service.state().clone(), &mut self.random);
            self.note(format!("somebody asks {request:?}"));
            return self.request(request);
        }
        let at = self.random.below(self.clients.len());
        if self.clients[at].asked.is_some() {
            return;
        }
        let state = self.service.state().clone();
        let mut envelope = self.clients[at].ask(&state, &mut self.random);
        self.note(format!("client {at} asks {:?}", self.clients[at].asked));
        if self.random.permille(50) {
            envelope.truncate(self.random.below(envelope.len()));
            let waiting = self.service.inbox.len();
            let entropy = self.random.entropy();
            self.service.ask(at, &envelope, self.now, entropy);
            if self.service.inbox.len() > waiting {
                self.world.break_promise("half an envelope is taken for a request");
            }
            return;
        }
        let entropy = self.random.entropy();
        self.service.ask(at, &envelope, self.now, entropy);
    }

    fn deliver(&mut self) {
        let broken = self.world.files.take_violations().into_iter().chain(std::mem::take(&mut self.service.broken));
        self.world.broken.extend(broken);
        for (client, reply) in std::mem::take(&mut self.service.replies) {
            if let Err(text) = self.clients[client].hear(reply.status, reply.content_type, &reply.body) {
                self.world.break_promise(format!("client {client}: {text}"));
            }
        }
    }

    /// The daemon is gone, and what emulators do on their own is done.
    pub(crate) fn daemon_ends(&mut self) {
        for attempt in self.attempts.values_mut() {
            let steps = self.random.below(8);
            for _ in 0..steps {
                if !attempt.orphan_step(&mut self.world) {
                    break;
                }
            }
        }
        self.attempts.clear();
        self.again.clear();
        self.late.clear();
        self.world.news.clear();
        self.clients.iter_mut().for_each(Client::hang_up);
    }

    /// The daemon is gone; a new one looks at what there is.
    pub(crate) fn restart(&mut self, why: &str) {
        self.daemon_ends();
        match Service::start(&mut self.store, &self.surroundings) {
            Ok(service) => self.service = service,
            Err(error) => return self.world.break_promise(format!("{why}: the next daemon does not start: {error}")),
        }
        let state = self.service.state().clone();
        self.model.check_snapshots(&state, &mut self.world, why);
        let left_alone = self.left_alone();
        for vm in self.service.to_observe() {
            let found = self.world.observe(vm);
            self.turn(Event::Observed { vm, found }, None);
        }
        self.check_adopted(&left_alone, why);
    }

    /// Guests that run while a new daemon starts: it must adopt them, and take them for running. The one exception is a guest that
    /// the daemon before had stopped for the pause of a capture or of a merge: it stands still, and is not among these.
    fn left_alone(&self) -> Vec<VmId> {
        let state = self.service.state();
        let runs = |vm: &VmId| state.vms.get(vm).is_some_and(|vm| vm.power == Power::Running);
        let running = self.world.emulators.iter().filter(|(_, emulator)| emulator.running && !emulator.held);
        running.map(|(vm, _)| *vm).filter(runs).collect()
    }

    fn check_adopted(&mut self, left_alone: &[VmId], why: &str) {
        for vm in left_alone {
            let power = self.service.state().vms.get(vm).map(|vm| vm.power);
            let runs = self.world.emulators.get(vm).is_some_and(|emulator| emulator.running);
            if !runs || power != Some(Power::Running) {
                self.world.break_promise(format!("{why}: the guest of {vm} ran on, and counts as {power:?}"));
            }
        }
    }

    fn check(&mut self, when: &str) {
        let state = self.service.state().clone();
        self.model.check_snapshots(&state, &mut self.world, when);
        if !self.service.inbox.is_empty() {
            return;
        }
        for vm in state.vms.values().filter(|vm| state.active_job(vm.id).is_none()) {
            self.model.check_live(vm, &state, &mut self.world, when);
        }
    }

    /// Goes on without faults and clients until nothing moves.
    fn rest(&mut self) {
        for _ in 0..REST_MOVES_MAX {
            if self.service.inbox.is_empty() && self.attempts.is_empty() {
                self.hand_in(usize::MAX);
                if self.service.inbox.is_empty() {
                    return;
                }
            }
            self.take_an_event(None);
            self.step_an_attempt(None);
            self.deliver();
        }
        self.world.break_promise("it does not come to rest");
    }

    /// Brings everything to rest, then applies and compares every snapshot there is.
    fn finish(&mut self) {
        self.rest();
        // Shutdowns that a guest ignores end by time, leftovers are tidied by whatever comes next.
        for _ in 0..2 {
            self.service.inbox.push_back(Event::Tick);
            self.rest();
            self.now += 3_600_000_000;
        }
        self.service.inbox.push_back(Event::Tick);
        self.rest();
        self.check("at rest");
        self.check_associations();
        let state = self.service.state().clone();
        self.findings.snapshots = state.snapshots.len() as u64;
        for vm in state.vms.keys() {
            self.power(*vm, PowerTarget::Off);
            for snapshot in state.snapshots_of(*vm) {
                self.request(Request::ApplySnapshot { snapshot: snapshot.id });
                self.rest();
                self.power(*vm, PowerTarget::Running);
                self.compare(*vm, snapshot.id, &snapshot.name);
                self.power(*vm, PowerTarget::Off);
            }
        }
        self.restart("at the end");
        self.rest();
        let state = self.service.state().clone();
        self.model.check_rest(&state, &mut self.world);
        self.deliver();
    }

    /// What clients are told of snapshots, against what is on record.
    fn check_associations(&mut self) {
        let state = self.service.state().clone();
        for vm in state.vms.values() {
            for (association, expected) in tree::expected(&state, vm) {
                let question = tree::question(vm.id, association);
                let entropy = self.random.entropy();
                self.service.ask(tree::CLIENT, &question.to_envelope(tree::STAMP), self.now, entropy);
                let replies = std::mem::take(&mut self.service.replies);
                let found = replies.iter().find(|(client, _)| *client == tree::CLIENT).map(|(_, reply)| reply);
                match tree::compare(&question, found, &expected) {
                    Ok(children) => self.findings.children += children,
                    Err(text) => self.world.break_promise(format!("{association} of {}: {text}", vm.name)),
                }
            }
        }
    }

    fn power(&mut self, vm: VmId, target: PowerTarget) {
        self.request(Request::SetPower { vm, target });
        self.rest();
    }

    fn compare(&mut self, vm: VmId, snapshot: ledger::id::SnapshotId, name: &str) {
        let Some(promise) = self.model.promised.get(&snapshot).cloned() else { return };
        let power = self.service.state().vms.get(&vm).map(|vm| vm.power);
        let Some(emulator) = self.world.emulators.get(&vm).filter(|_| power == Some(Power::Running)) else {
            return self.world.break_promise(format!("{name} was applied, and the machine did not start"));
        };
        let memory = promise.memory.clone().unwrap_or_default();
        let full = |disks: std::collections::BTreeMap<ledger::vm::Slot, crate::files::Content>| {
            disks.into_iter().filter(|(_, content)| !content.is_empty()).collect::<BTreeMap<_, _>>()
        };
        if full(emulator.disks(&self.world.files)) != full(promise.disks) || emulator.memory != memory {
            self.world.break_promise(format!("{name} was applied, and the guest finds something else"));
        }
        self.findings.applied += 1;
    }
}
