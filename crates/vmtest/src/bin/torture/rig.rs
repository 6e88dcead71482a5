//! The service and its one guest: operations done to them, with and without a disturbance, and what is seen of them after.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmtest::agent::{self, Agent};
use vmtest::service::{BOOT, Error, Result, Service, wait_for};

use crate::random::Random;
use crate::world::{Operation, Outline, Power, Snapshot, World};

/// Name of the machine.
pub const VM: &str = "g";
/// How long whatever is unfinished may take to come to an end.
const SETTLING: Duration = Duration::from_secs(120);
/// How long the chain may take for a few rounds.
const CHAIN: Duration = Duration::from_secs(60);
/// Between the first kill of the daemon and the second, from its successor being ready on.
const RECOVERING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(300));
/// Memory that the guest fills after a boot, MiB: a capture must take long enough to be hit.
const FILLED_MIB: u32 = 64;
/// From which the pages are computed.
const PAGES: u64 = 41;

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
    /// The machine's QEMU is killed.
    Emulator,
    /// Both are.
    Both,
}

impl Disturbance {
    /// How many processes it kills.
    pub fn kills(self) -> u32 {
        match self {
            Disturbance::None | Disturbance::Cancel => 0,
            Disturbance::Daemon | Disturbance::Emulator => 1,
            Disturbance::DaemonTwice | Disturbance::Both => 2,
        }
    }

    fn hits_emulator(self) -> bool {
        matches!(self, Disturbance::Emulator | Disturbance::Both)
    }
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
}

impl Rig {
    /// Starts a service and boots a guest that runs the chain.
    ///
    /// # Errors
    /// If that does not work.
    pub fn boot() -> Result<Self> {
        let service = Service::start()?;
        let agent = service.boot(VM, &["--memory", "256M"])?;
        let guid = service.json(&["vm", "show", VM])?["id"].as_str().unwrap_or_default().to_owned();
        let mut rig = Self { service, agent, guid, candidates: Vec::new(), marks: 0 };
        rig.furnish()?;
        let disks = rig.mark()?;
        let power = Power::Running(Some(disks.clone()));
        rig.candidates = vec![World { power, disks, parent: None, snapshots: BTreeMap::new() }];
        Ok(rig)
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
    ) -> Result<()> {
        let mut arguments = operation.arguments(VM);
        if disturbance != Disturbance::None && operation.may_go_unattended() && random.chance(50) {
            arguments.push("--no-wait".to_owned());
        }
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if disturbance == Disturbance::None {
            self.service.ok(&words)?;
        } else {
            let client = self.service.client(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut client = client.map_err(|source| Error::Io { what: "starting a client".into(), source })?;
            std::thread::sleep(delay);
            self.disturb(disturbance, random)?;
            // How it ends is nobody's business: it was disturbed.
            let _ = client.wait();
        }
        self.settle()?;
        let mut possible = self.possible(operation, disturbance);
        let seen = self.outline()?;
        possible.retain(|world| world.outline() == seen);
        if possible.is_empty() {
            let expected: Vec<_> = self.possible(operation, disturbance).iter().map(World::outline).collect();
            return Err(violation(&format!("found {seen:#?}\nexpected one of {expected:#?}")));
        }
        possible.dedup();
        self.candidates = possible;
        self.greet()
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

    fn disturb(&mut self, disturbance: Disturbance, random: &mut Random) -> Result<()> {
        match disturbance {
            Disturbance::None => {}
            Disturbance::Cancel => self.cancel(random)?,
            Disturbance::Daemon => self.service.kill(),
            Disturbance::DaemonTwice => {
                self.service.kill();
                self.service.restart()?;
                std::thread::sleep(random.duration(RECOVERING.0, RECOVERING.1));
                self.service.kill();
            }
            Disturbance::Emulator => self.kill_emulator()?,
            Disturbance::Both if random.chance(50) => {
                self.service.kill();
                self.kill_emulator()?;
            }
            Disturbance::Both => {
                self.kill_emulator()?;
                self.service.kill();
            }
        }
        if disturbance.kills() > 0 && disturbance != Disturbance::Emulator {
            self.service.restart()?;
        }
        Ok(())
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

    fn kill_emulator(&self) -> Result<()> {
        if let Some(pid) = self.service.qemu_pid(&self.guid)? {
            let kill = std::process::Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            kill.map_err(|source| Error::Io { what: "killing QEMU".into(), source })?;
        }
        Ok(())
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
        let memory = self.ask("get mark")?;
        let disks = [self.ask("read 0 mark")?, self.ask("read 1 mark")?];
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
            self.agent.request(&format!("sh dd if=/dev/urandom of=/disk{disk}/bulk bs=1M count={mib} conv=fsync"))?;
        }
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
        self.marks += 1;
        let mark = format!("m{}", self.marks);
        self.agent.request(&format!("set mark {mark}"))?;
        for disk in [0, 1] {
            self.agent.request(&format!("write {disk} mark {mark}"))?;
        }
        Ok(mark)
    }

    /// A mark, or that there is none.
    fn ask(&mut self, request: &str) -> Result<Option<String>> {
        match self.agent.request(request) {
            Ok(text) => Ok(Some(text)),
            Err(agent::Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the chain has gone on a little, and that it has found nothing wrong.
    fn chain_moves(&mut self) -> Result<()> {
        let begin = self.agent.chain_status()?;
        let end = Instant::now() + CHAIN;
        loop {
            let now = self.agent.chain_status()?;
            if now.mismatches > 0 {
                let status = self.agent.request("chain status")?;
                return Err(violation(&format!("memory and disks are not of one moment: {status}")));
            }
            if now.number > begin.number + 3 {
                return Ok(());
            }
            if Instant::now() > end {
                let status = self.agent.request("chain status")?;
                return Err(violation(&format!("the chain stands still: {status}")));
            }
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
