//! The service and its one guest: operations done to them, with and without a disturbance, and what is seen of them after.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::guard::{self, Guard};
use super::tally::Tally;
use super::world::{Operation, Outline, Power, Snapshot, World};
use crate::agent::Agent;
use crate::random::Random;
use crate::records;
use crate::service::{BOOT, Error, Result, Service, kill_process, processes, wait_for};

/// Name of the machine.
pub const VM: &str = "g";
/// How long whatever is unfinished may take to come to an end.
const SETTLING: Duration = Duration::from_secs(120);
/// How long the chain may take for a few rounds.
pub const CHAIN: Duration = Duration::from_secs(60);
/// Between the first kill of the daemon and the second, from its successor being ready on.
const RECOVERING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(300));
/// Memory that the guest fills after a boot, MiB: a capture must take long enough to be hit.
const FILLED_MIB: u32 = 64;
/// From which the pages are computed.
pub const PAGES: u64 = 41;

/// What is done to the service in the middle of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing: the operation must succeed.
    None,
    /// The job is cancelled.
    Cancel,
    /// The daemon is killed.
    Daemon,
    /// The daemon is killed, and its successor again while it picks up the pieces.
    DaemonTwice,
    /// The machine's QEMU is killed, or if there is none, the storage daemon that merges its layers.
    Emulator,
    /// Both are.
    Both,
}

impl Disturbance {
    fn hits_emulator(self) -> bool {
        matches!(self, Disturbance::Emulator | Disturbance::Both)
    }
}

/// What is killed when there is no process.
const NOTHING: &str = "nothing";

/// When something is killed.
#[derive(Debug, Clone)]
pub enum When {
    /// So long after the operation was begun.
    After(Duration),
    /// As soon as the job is seen to be at this, see [`records::activity`].
    In(String),
}

/// How an operation went in the middle of which something was killed.
#[derive(Debug)]
pub struct Interrupted {
    /// The program, or that there was none.
    pub killed: &'static str,
    /// What the client said if it did not succeed.
    pub told: Option<String>,
}

/// A guest, as it is told from another one.
struct Guest {
    pid: u32,
    /// Where its chain was.
    number: u64,
}

/// The service, the guest's agent, and what both may be like now.
pub struct Rig {
    /// The service.
    pub service: Service,
    agent: Agent,
    /// GUID of the machine.
    pub guid: String,
    /// All worlds that nothing seen so far has ruled out; never empty.
    candidates: Vec<World>,
    marks: u64,
    guard: Guard,
}

impl Rig {
    /// Starts a service and boots a guest that runs the chain.
    ///
    /// # Errors
    /// If that does not work.
    pub fn boot() -> Result<Self> {
        Self::boot_on(Service::start()?)
    }

    /// The same, on a service that has no machine yet.
    ///
    /// # Errors
    /// If that does not work.
    pub fn boot_on(service: Service) -> Result<Self> {
        let agent = service.boot(VM, &["--memory", "256M"])?;
        let guid = service.json(&["vm", "show", VM])?["id"].as_str().unwrap_or_default().to_owned();
        let mut rig = Self { service, agent, guid, candidates: Vec::new(), marks: 0, guard: Guard::default() };
        rig.furnish()?;
        let disks = rig.mark()?;
        let power = Power::Running(Some(disks.clone()));
        rig.candidates = vec![World { power, disks, parent: None, snapshots: BTreeMap::new() }];
        Ok(rig)
    }

    /// A service that was started on what another one left, where all of `candidates` are possible. Waits until all is at
    /// rest, and compares.
    ///
    /// # Errors
    /// If what is found is none of them.
    pub fn found(service: Service, candidates: Vec<World>, guard: Guard, marks: u64) -> Result<Self> {
        let guid = service.json(&["vm", "show", VM])?["id"].as_str().unwrap_or_default().to_owned();
        let agent = service.agent(VM)?;
        let mut rig = Self { service, agent, guid, candidates: Vec::new(), marks, guard };
        rig.settle()?;
        rig.recognize(candidates)?;
        Ok(rig)
    }

    /// What is known of the snapshots, and how many marks were made: for [`Rig::found`].
    pub fn memories(&self) -> (Guard, u64) {
        (self.guard.clone(), self.marks)
    }

    /// All worlds that are possible.
    pub fn worlds(&self) -> &[World] {
        &self.candidates
    }

    /// The mark that is made next.
    pub fn next_mark(&self) -> String {
        format!("m{}", self.marks + 1)
    }

    /// The first of the worlds that are possible; the others differ from it in marks only.
    ///
    /// # Errors
    /// Never while there is one, which is always.
    pub fn world(&self) -> Result<&World> {
        self.candidates.first().ok_or_else(|| violation("no world is left"))
    }

    /// Does `operation`, disturbs it after `delay`, waits until all is at rest, and compares.
    ///
    /// # Errors
    /// If what is found is not among what may be.
    pub fn perform(
        &mut self,
        operation: &Operation,
        disturbance: Disturbance,
        delay: Duration,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<()> {
        tally.operation(operation);
        let before = self.guest_that_stays(operation, disturbance)?;
        if disturbance == Disturbance::None {
            self.ask(operation)?;
        } else {
            let mut arguments = operation.arguments(VM);
            if operation.may_go_unattended() && random.chance(50) {
                arguments.push("--no-wait".to_owned());
            }
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let client = self.service.client(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut client = client.map_err(|source| Error::Io { what: "starting a client".into(), source })?;
            std::thread::sleep(delay);
            self.disturb(disturbance, random, tally)?;
            // How it ends is nobody's business: it was disturbed.
            let _ = client.wait();
        }
        self.settle()?;
        self.recognize(self.possible(operation, disturbance))?;
        if let Some(before) = before {
            self.expect_same_guest(&before)?;
            tally.survived += u64::from(matches!(disturbance, Disturbance::Daemon | Disturbance::DaemonTwice));
        }
        self.greet()
    }

    /// Asks for an operation and waits for its end.
    ///
    /// # Errors
    /// If it fails.
    pub fn ask(&self, operation: &Operation) -> Result<()> {
        let arguments = operation.arguments(VM);
        self.service.ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// After an operation that was asked for: waits until all is at rest, and compares.
    ///
    /// # Errors
    /// If what is found is not what the operation leads to.
    pub fn arrive(&mut self, operation: &Operation) -> Result<()> {
        self.settle()?;
        self.recognize(self.possible(operation, Disturbance::None))?;
        self.greet()
    }

    /// Does an operation in peace. Gives what its jobs were at, one after the other, and how long it took.
    ///
    /// # Errors
    /// If it does not succeed.
    pub fn watch(&mut self, operation: &Operation, tally: &mut Tally) -> Result<(Vec<String>, Duration)> {
        tally.operation(operation);
        let mut client = self.begin(operation)?;
        let begun = Instant::now();
        let mut seen: Vec<String> = Vec::new();
        while client.try_wait().ok().flatten().is_none() {
            let activity = self.activity();
            if activity.as_ref().is_some_and(|activity| activity != records::AT_REST && !seen.contains(activity)) {
                seen.extend(activity);
            }
        }
        let duration = begun.elapsed();
        self.arrive(operation)?;
        Ok((seen, duration))
    }

    /// Does an operation and kills QEMU, or the storage daemon, in the middle of it; then waits until all is at rest, and
    /// compares.
    ///
    /// # Errors
    /// If what is found is not among what may be.
    pub fn kill_during(&mut self, operation: &Operation, when: &When, tally: &mut Tally) -> Result<Interrupted> {
        tally.operation(operation);
        let mut client = self.begin(operation)?;
        match when {
            When::After(delay) => std::thread::sleep(*delay),
            // Without a pause, for stages can be short; one that is missed is met again at another moment.
            When::In(stage) => {
                while client.try_wait().ok().flatten().is_none() && self.activity().as_ref() != Some(stage) {}
            }
        }
        let mut killed = self.kill_emulator(tally)?;
        // The process that a stage starts comes a moment after the stage.
        while let When::In(stage) = when
            && killed == NOTHING
            && self.activity().as_ref() == Some(stage)
        {
            killed = self.kill_emulator(tally)?;
        }
        wait_for("the client to end", SETTLING, || Ok(client.try_wait().ok().flatten()))?;
        let ended = client.wait_with_output();
        let ended = ended.map_err(|source| Error::Io { what: "waiting for a client".into(), source })?;
        self.settle()?;
        self.recognize(self.possible(operation, Disturbance::Emulator))?;
        self.greet()?;
        let told = (!ended.status.success()).then(|| String::from_utf8_lossy(&ended.stderr).trim().to_owned());
        Ok(Interrupted { killed, told })
    }

    fn begin(&self, operation: &Operation) -> Result<std::process::Child> {
        let arguments = operation.arguments(VM);
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let client = self.service.client(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        client.map_err(|source| Error::Io { what: "starting a client".into(), source })
    }

    /// What the job is at, if a moment is caught at which the daemon does not write.
    fn activity(&self) -> Option<String> {
        records::read(&self.service.data()).ok().map(|state| records::activity(&state))
    }

    /// Keeps those of the possible worlds that look like what the service tells.
    fn recognize(&mut self, possible: Vec<World>) -> Result<()> {
        let seen = self.outline()?;
        let (mut fitting, others): (Vec<World>, Vec<World>) =
            possible.into_iter().partition(|world| world.outline() == seen);
        if fitting.is_empty() {
            let expected: Vec<_> = others.iter().map(World::outline).collect();
            return Err(violation(&format!("found {seen:#?}\nexpected one of {expected:#?}")));
        }
        fitting.dedup();
        self.candidates = fitting;
        Ok(())
    }

    /// The guest that must still be there after `operation`, if one must.
    fn guest_that_stays(&mut self, operation: &Operation, disturbance: Disturbance) -> Result<Option<Guest>> {
        if disturbance.hits_emulator() || !guard::keeps_guest(&self.candidates, operation) {
            return Ok(None);
        }
        let number = self.agent.chain_status()?.number;
        Ok(self.service.qemu_pid(&self.guid)?.map(|pid| Guest { pid, number }))
    }

    /// The guest must be the one that it was, in the process that it was in, and its chain further than it was.
    fn expect_same_guest(&mut self, before: &Guest) -> Result<()> {
        let pid = self.service.qemu_pid(&self.guid)?;
        if pid != Some(before.pid) {
            return Err(violation(&format!("the guest ran in process {}, now in {pid:?}", before.pid)));
        }
        if matches!(self.world()?.power, Power::Running(_)) {
            let number = self.agent.chain_status()?.number;
            if number < before.number {
                return Err(violation(&format!("the chain was at {}, now at {number}", before.number)));
            }
        }
        Ok(())
    }

    /// After a kill compares the fingerprints of what is known. Takes those of what is new, and after a kill starts one snapshot
    /// in a throw-away copy.
    ///
    /// # Errors
    /// When a snapshot is not what it was.
    pub fn guard(&mut self, killed: bool, tally: &mut Tally) -> Result<()> {
        let state = records::read(&self.service.data())?;
        if killed {
            tally.compared += self.guard.compare(&state)?;
        }
        self.guard.learn(&state)?;
        if killed {
            let turn = usize::try_from(tally.thrown_away).unwrap_or(0);
            tally.thrown_away += u64::from(guard::try_one(&state, &self.candidates, turn)?);
        }
        Ok(())
    }

    /// Compares every snapshot that is known with what it was. Gives how many these are.
    ///
    /// # Errors
    /// When one has changed, or cannot be read.
    pub fn compare(&self) -> Result<u64> {
        self.guard.compare(&records::read(&self.service.data())?)
    }

    /// Starts one snapshot that has memory in a throw-away copy, another one each `turn`. Whether there was one.
    ///
    /// # Errors
    /// When the guest is not who it must be.
    pub fn try_one(&self, turn: usize) -> Result<bool> {
        guard::try_one(&records::read(&self.service.data())?, &self.candidates, turn)
    }

    /// Every world that the operation may leave behind.
    fn possible(&self, operation: &Operation, disturbance: Disturbance) -> Vec<World> {
        let steps = self.candidates.iter().flat_map(|world| {
            let steps = world.steps(operation);
            let skipped = if disturbance == Disturbance::None { steps.len().saturating_sub(1) } else { 0 };
            steps.into_iter().skip(skipped)
        });
        let mut possible: Vec<World> = steps.collect();
        if disturbance.hits_emulator() {
            let unplugged: Vec<World> = possible.iter().map(World::unplugged).collect();
            possible.extend(unplugged);
        }
        possible
    }

    fn disturb(&mut self, disturbance: Disturbance, random: &mut Random, tally: &mut Tally) -> Result<()> {
        match disturbance {
            Disturbance::None => return Ok(()),
            Disturbance::Cancel => return self.cancel(random),
            Disturbance::Daemon => self.kill_daemon(tally)?,
            Disturbance::DaemonTwice => {
                self.kill_daemon(tally)?;
                self.restart(tally)?;
                std::thread::sleep(random.duration(RECOVERING.0, RECOVERING.1));
                self.kill_daemon(tally)?;
            }
            Disturbance::Emulator => return self.kill_emulator(tally).map(drop),
            Disturbance::Both if random.chance(50) => {
                self.kill_daemon(tally)?;
                self.kill_emulator(tally)?;
            }
            Disturbance::Both => {
                self.kill_emulator(tally)?;
                self.kill_daemon(tally)?;
            }
        }
        self.restart(tally)
    }

    fn kill_daemon(&mut self, tally: &mut Tally) -> Result<()> {
        self.service.kill();
        tally.kill("daemon", &records::activity(&records::read(&self.service.data())?));
        Ok(())
    }

    fn restart(&mut self, tally: &mut Tally) -> Result<()> {
        tally.restarts += 1;
        self.service.restart()
    }

    fn cancel(&self, random: &mut Random) -> Result<()> {
        let jobs = self.service.json(&["job", "list"])?;
        let running = jobs.as_array().into_iter().flatten().find(|job| job["state"] == "running");
        if let Some(id) = running.and_then(|job| job["id"].as_str()) {
            let now: &[&str] = if random.chance(50) { &["--now"] } else { &[] };
            // Refused if the job has ended meanwhile, or cannot be ended at this point.
            self.service.run(&[&["job", "cancel", id], now].concat())?;
        }
        Ok(())
    }

    /// Kills QEMU or, without one, the storage daemon. Tells which.
    fn kill_emulator(&self, tally: &mut Tally) -> Result<&'static str> {
        // Copied before and read after, so that the kill comes soon; torn if the daemon writes at that moment.
        let copy = records::Copy::of(&self.service.data())?;
        let (killed, pids) = match processes("qemu-system", &self.guid)? {
            emulators if emulators.is_empty() => ("storage daemon", processes("qemu-storage-daemon", &self.guid)?),
            emulators => ("QEMU", emulators),
        };
        let Some(pid) = pids.first() else { return Ok(NOTHING) };
        kill_process(*pid)?;
        let activity = copy.read().map_or_else(|_| "unknown".to_owned(), |state| records::activity(&state));
        tally.kill(killed, &activity);
        Ok(killed)
    }

    /// Waits until no job is unfinished.
    fn settle(&self) -> Result<()> {
        wait_for("all jobs to end", SETTLING, || {
            let jobs = self.service.json(&["job", "list"])?;
            Ok(jobs.as_array().is_some_and(|jobs| jobs.iter().all(|job| job["state"] != "running")).then_some(()))
        })?;
        wait_for("the machine to be in a state of rest", SETTLING, || {
            let machine = self.service.json(&["vm", "show", VM])?;
            // Of a QEMU that was killed the daemon hears a moment later.
            let alive = self.service.qemu_pid(&self.guid)?.is_some();
            let rests = match machine["state"].as_str().unwrap_or_default() {
                "off" | "saved" => !alive,
                "running" | "paused" => alive,
                _ => false,
            };
            Ok(rests.then_some(()))
        })
    }

    /// What the service tells.
    fn outline(&self) -> Result<Outline> {
        let machine = self.service.json(&["vm", "show", VM])?;
        let listed = self.service.json(&["snapshot", "list", VM])?;
        let listed: Vec<&Value> = listed["snapshots"].as_array().into_iter().flatten().collect();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let name_of = |id: &Value| {
            let id = id.as_str()?;
            // An id that is not in the list is told as it is, and will not be what is expected.
            let known = listed.iter().find(|one| one["id"] == id).and_then(|one| text(&one["name"]));
            Some(known.unwrap_or_else(|| id.to_owned()))
        };
        let snapshots = listed
            .iter()
            .filter_map(|one| Some((text(&one["name"])?, (name_of(&one["parent"]), one["has_memory"].as_bool()?))));
        Ok(Outline {
            power: text(&machine["state"]).unwrap_or_default(),
            parent: name_of(&machine["parent_snapshot"]),
            snapshots: snapshots.collect(),
        })
    }

    /// Asks a guest that runs who it is, and makes it ready for the next round.
    fn greet(&mut self) -> Result<()> {
        if !matches!(self.world()?.power, Power::Running(_)) {
            return Ok(());
        }
        self.agent.disconnect();
        self.agent.wait_ready(BOOT)?;
        let memory = self.agent.request_or_none("get mark")?;
        let disks = [self.agent.request_or_none("read 0 mark")?, self.agent.request_or_none("read 1 mark")?];
        let is_it = |world: &World| {
            let disks = disks.iter().all(|mark| mark.as_ref() == Some(&world.disks));
            disks && matches!(&world.power, Power::Running(mark) if *mark == memory)
        };
        let fitting: Vec<World> = self.candidates.iter().filter(|world| is_it(world)).cloned().collect();
        if fitting.is_empty() {
            let expected: Vec<_> = self.candidates.iter().map(|world| (&world.power, &world.disks)).collect();
            return Err(violation(&format!("the guest holds {memory:?} and {disks:?}, not one of {expected:?}")));
        }
        self.candidates = fitting;
        if memory.is_none() {
            self.furnish()?;
            let mark = self.mark()?;
            self.remember(&mark);
        }
        let wrong = self.agent.wrong_pages(PAGES)?;
        if wrong > 0 {
            return Err(violation(&format!("{wrong} pages of the guest's memory are not as they were")));
        }
        self.chain_moves()
    }

    /// Gives a guest that runs something new to lose.
    ///
    /// # Errors
    /// If the guest does not answer.
    pub fn change(&mut self, random: &mut Random) -> Result<()> {
        if !matches!(self.world()?.power, Power::Running(_)) {
            return Ok(());
        }
        if random.chance(40) {
            let (disk, mib) = (random.below(2), random.below(40) + 1);
            self.write_bulk(disk, mib)?;
        }
        self.new_mark()
    }

    /// The same, with so many MiB of content on the first disk.
    ///
    /// # Errors
    /// If the guest does not answer.
    pub fn write(&mut self, mib: u64) -> Result<()> {
        self.write_bulk(0, mib)?;
        self.new_mark()
    }

    fn write_bulk(&mut self, disk: u64, mib: u64) -> Result<()> {
        let request = format!("sh dd if=/dev/urandom of=/disk{disk}/bulk bs=1M count={mib} conv=fsync");
        self.agent.request(&request).map(drop).map_err(Error::from)
    }

    fn new_mark(&mut self) -> Result<()> {
        let mark = self.mark()?;
        self.remember(&mark);
        Ok(())
    }

    fn remember(&mut self, mark: &str) {
        for world in &mut self.candidates {
            world.power = Power::Running(Some(mark.to_owned()));
            mark.clone_into(&mut world.disks);
        }
    }

    /// What a guest is given after a boot: memory that it knows by heart, and a chain that runs.
    fn furnish(&mut self) -> Result<()> {
        self.agent.request(&format!("fill {FILLED_MIB} {PAGES}"))?;
        self.agent.request("dirty 20")?;
        self.agent.request("chain start")?;
        Ok(())
    }

    fn mark(&mut self) -> Result<String> {
        let mark = self.next_mark();
        self.marks += 1;
        self.agent.request(&format!("set mark {mark}"))?;
        for disk in [0, 1] {
            self.agent.request(&format!("write {disk} mark {mark}"))?;
        }
        Ok(mark)
    }

    /// Waits until the chain has gone on a little, and that it has found nothing wrong.
    fn chain_moves(&mut self) -> Result<()> {
        let wrong = match self.agent.await_chain(4, CHAIN)? {
            Some(status) if status.mismatches == 0 => return Ok(()),
            Some(_) => "memory and disks are not of one moment",
            None => "the chain stands still",
        };
        // In the agent's words, which may tell why.
        let status = self.agent.request("chain status")?;
        Err(violation(&format!("{wrong}: {status}")))
    }

    /// Leaves the daemon's log behind for whoever looks into a failure, and says where.
    pub fn keep_log(&self, name: &str) {
        let log = std::env::temp_dir().join(name);
        match std::fs::write(&log, self.service.log()) {
            Ok(()) => eprintln!("the daemon's log is in {}", log.display()),
            Err(error) => eprintln!("the daemon's log could not be kept: {error}"),
        }
    }

    /// Names of the snapshots that there must be.
    ///
    /// # Errors
    /// See [`Rig::world`].
    pub fn snapshots(&self) -> Result<&BTreeMap<String, Snapshot>> {
        Ok(&self.world()?.snapshots)
    }
}

/// Something is not as it must be.
pub fn violation(text: &str) -> Error {
    Error::Other(text.to_owned())
}
