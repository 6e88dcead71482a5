//! One history: who moves next, and what goes wrong.
//!
//! ```text
//!   set up machines ──▶ trouble: moves and faults at random ──▶ heal: no more faults, everything comes to rest
//!                                                                  └─▶ every snapshot is applied, started, compared
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ledger::effect::{Effect, EffectId};
use ledger::event::{Event, MachineChange};
use ledger::failure::Kind;
use ledger::id::VmId;
use ledger::job::JobKind;
use ledger::record::Store as _;
use ledger::request::{Definition, PowerTarget, Request};
use ledger::state::State;
use ledger::vm::{Firmware, Power, SnapshotKind};

use crate::clients::Client;
use crate::files::Write;
use crate::hands::Attempt;
use crate::model::Model;
use crate::random::Random;
use crate::service::{Death, Service, Surroundings};
use crate::store::{FakeStore, Mood};
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
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Answers that clients heard.
    pub answers: u64,
    /// The last moves, for whoever looks for the reason.
    pub trace: Vec<String>,
}

/// A history under way.
pub struct Run {
    random: Random,
    plan: Plan,
    world: World,
    model: Model,
    store: FakeStore,
    service: Service,
    surroundings: Surroundings,
    clients: Vec<Client>,
    attempts: BTreeMap<EffectId, Attempt>,
    /// Effects already carried out once that are to be carried out again.
    again: BTreeSet<EffectId>,
    now: u64,
    value: u32,
    healing: bool,
    findings: Findings,
}

impl Default for Plan {
    fn default() -> Self {
        Self { machines: 2, clients: 3, moves: 1500, trouble: 12 }
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
            now: 1_700_000_000_000_000,
            value: 0,
            healing: true,
            findings: Findings::default(),
        };
        run.set_up();
        run.healing = false;
        for _ in 0..run.plan.moves {
            run.advance();
            if !run.world.broken.is_empty() {
                return run.end();
            }
        }
        run.healing = true;
        run.finish();
        run.end()
    }

    fn end(mut self) -> Findings {
        self.findings.broken = self.world.broken;
        self.findings.answers = self.clients.iter().map(|client| client.answers).sum();
        self.findings
    }

    fn note(&mut self, text: String) {
        const TRACE_MAX: usize = 400;
        const LINE_MAX: usize = 600;
        let text: String = text.chars().take(LINE_MAX).collect();
        if self.findings.trace.len() == TRACE_MAX {
            self.findings.trace.remove(0);
        }
        self.findings.trace.push(text);
    }

    /// Machines with two disks each, one of them with UEFI variables, too.
    fn set_up(&mut self) {
        for number in 0..self.plan.machines {
            let firmware = if number % 2 == 0 { Firmware::Uefi } else { Firmware::Bios };
            self.request(Request::DefineVm(Definition {
                name: format!("m{number}"),
                notes: String::new(),
                processors: 1,
                memory_mib: 64,
                firmware,
                bios_guid: None,
                snapshot_kind: SnapshotKind::Standard,
            }));
            self.rest();
            let state = self.service.state().clone();
            let Some(vm) = state.vms.values().find(|vm| vm.name == format!("m{number}")) else { continue };
            for address in 0..2 {
                let path = PathBuf::from(format!("/user/{number}-{address}.qcow2"));
                let inode = self.world.files.create(&path);
                self.world.files.write(inode, Write::Header(None));
                self.world.files.sync(inode);
                self.world.files.sync_directory(std::path::Path::new("/user"));
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
        if !self.healing && self.random.permille(self.plan.trouble) {
            return self.fault();
        }
        match self.random.below(100) {
            0..35 => self.step_an_attempt(None),
            35..70 => self.take_an_event(None),
            70..85 => self.guests(),
            85..95 if !self.healing => self.a_client_asks(),
            95..97 => self.service.inbox.push_back(Event::Tick),
            97..99 => self.check("meanwhile"),
            _ => self.step_an_attempt(None),
        }
        self.deliver();
    }

    fn take_an_event(&mut self, death: Option<Death>) {
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

    fn turn(&mut self, event: Event, death: Option<Death>) {
        let before = self.service.state().clone();
        self.note(format!("event {event:?}"));
        let alive = self.service.turn(event, &mut self.store, self.now, death);
        if !alive {
            self.learn_from_store(&before);
            return self.restart("daemon died in a turn");
        }
        let after = self.service.state().clone();
        self.model.committed(&before, &after, &mut self.world);
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
            self.model.committed(before, &after, &mut self.world);
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
        use ledger::effect::Control;
        let kind = self.service.state().jobs.get(&id.job).map(|job| job.kind);
        let ends = matches!(effect, Effect::Control { action: Control::Quit, .. });
        let may = matches!(kind, Some(JobKind::TurnOff | JobKind::Save | JobKind::Start | JobKind::Restore));
        if ends && !may {
            self.world.break_promise(format!("a guest is ended by {kind:?}"));
        }
    }

    fn step_an_attempt(&mut self, fails: Option<Kind>) {
        let ids: Vec<EffectId> = self.attempts.keys().copied().collect();
        let Some(id) = self.random.pick(&ids).copied() else { return };
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if let Some(outcome) = attempt.advance(&mut self.world, fails) {
            let effect = attempt.effect.clone();
            if self.again.remove(&id) {
                self.attempts.insert(id, Attempt::new(id, effect, &self.world));
                return;
            }
            self.attempts.remove(&id);
            self.note(format!("end {id:?} {outcome:?}"));
            self.service.inbox.push_back(Event::Outcome { effect: id, outcome });
        }
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

    fn emulator_ends(&mut self, vm: VmId) {
        self.world.pressed.remove(&vm);
        if self.world.emulators.remove(&vm).is_some() {
            self.note(format!("{vm} ends"));
            self.service.inbox.push_back(Event::Machine { vm, change: MachineChange::Gone });
        }
    }

    fn a_client_asks(&mut self) {
        let at = self.random.below(self.clients.len());
        if self.clients[at].asked.is_some() {
            return;
        }
        let state = self.service.state().clone();
        let envelope = self.clients[at].ask(&state, &mut self.random);
        self.note(format!("client {at} asks {:?}", self.clients[at].asked));
        let entropy = self.random.entropy();
        self.service.ask(at, &envelope, self.now, entropy);
    }

    fn deliver(&mut self) {
        for (client, reply) in std::mem::take(&mut self.service.replies) {
            if let Err(text) = self.clients[client].hear(reply.status, reply.content_type, &reply.body) {
                self.world.break_promise(format!("client {client}: {text}"));
            }
        }
    }

    /// Something goes wrong.
    fn fault(&mut self) {
        let (name, at): (&'static str, String) = match self.random.below(9) {
            0 | 1 => ("daemon dies", self.whereabouts()),
            2 => ("daemon dies before a commit", self.next_event()),
            3 => ("daemon dies after a commit", self.next_event()),
            4 => ("emulator dies", self.whereabouts()),
            5 => ("power fails", self.whereabouts()),
            6 => ("a step fails", self.whereabouts()),
            7 => ("the store fails", self.next_event()),
            _ => ("an effect is done twice", self.whereabouts()),
        };
        *self.findings.faults.entry(name).or_default() += 1;
        self.findings.points.insert(format!("{name}: {at}"));
        self.note(format!("FAULT {name} at {at}"));
        match name {
            "daemon dies" => self.restart(name),
            "daemon dies before a commit" => self.take_an_event(Some(Death::BeforeCommit)),
            "daemon dies after a commit" => self.take_an_event(Some(Death::AfterCommit)),
            "emulator dies" => {
                let all: Vec<VmId> = self.world.emulators.keys().copied().collect();
                if let Some(vm) = self.random.pick(&all).copied() {
                    self.emulator_ends(vm);
                }
            }
            "power fails" => {
                self.world.emulators.clear();
                self.world.pressed.clear();
                self.attempts.clear();
                self.world.files.power_cut(&mut self.random);
                self.model.power_cut();
                self.restart(name);
            }
            "a step fails" => {
                let kind = if self.random.permille(500) { Kind::Failed } else { Kind::NoSpace };
                self.step_an_attempt(Some(kind));
            }
            "the store fails" => {
                self.store.mood = Mood::Fails;
                self.take_an_event(None);
                self.store.mood = Mood::Well;
            }
            _ => {
                let may = |attempt: &&Attempt| !matches!(attempt.effect, Effect::Capture { .. } | Effect::Save { .. });
                let ids: Vec<EffectId> = self.attempts.values().filter(may).map(|attempt| attempt.id).collect();
                self.again.extend(self.random.pick(&ids).copied());
            }
        }
    }

    /// What is being done, and how far it is.
    fn whereabouts(&mut self) -> String {
        let all: Vec<(EffectId, String)> = self.attempts.values().map(|attempt| (attempt.id, attempt.at())).collect();
        let state = self.service.state().clone();
        let place = |(id, step): &(EffectId, String)| {
            let job = state.jobs.get(&id.job);
            format!("{:?} {} {step}", job.map(|job| job.kind), job.map(|job| word(&job.stage)).unwrap_or_default())
        };
        all.iter().map(place).next().unwrap_or_else(|| "rest".to_owned())
    }

    fn next_event(&mut self) -> String {
        let state = self.service.state().clone();
        match self.service.inbox.front() {
            None => "rest".to_owned(),
            Some(Event::Outcome { effect, outcome }) => {
                let stage = state.jobs.get(&effect.job).map(|job| word(&job.stage)).unwrap_or_default();
                format!("outcome of {stage}, {}", if outcome.is_ok() { "well" } else { "badly" })
            }
            Some(Event::Request { request, .. }) => format!("request {}", word(request)),
            Some(other) => word(other),
        }
    }

    /// The daemon is gone; a new one looks at what there is.
    fn restart(&mut self, why: &str) {
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
        self.clients.iter_mut().for_each(Client::hang_up);
        match Service::start(&mut self.store, &self.surroundings) {
            Ok(service) => self.service = service,
            Err(error) => return self.world.break_promise(format!("{why}: the next daemon does not start: {error}")),
        }
        let state = self.service.state().clone();
        self.model.check_snapshots(&state, &mut self.world, why);
        for vm in self.service.to_observe() {
            let found = self.world.observe(vm);
            self.turn(Event::Observed { vm, found }, None);
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
                return;
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
        self.now += 3_600_000_000;
        self.service.inbox.push_back(Event::Tick);
        self.rest();
        self.check("at rest");
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

/// The first word of how something prints.
fn word(thing: &impl std::fmt::Debug) -> String {
    format!("{thing:?}").split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}
