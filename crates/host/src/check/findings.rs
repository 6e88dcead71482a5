//! What is wrong, decided from what was seen.
//!
//! | seen | said | can be repaired |
//! | --- | --- | --- |
//! | a file of a snapshot is missing, damaged, or not what its seal says | error: names the file and every snapshot it concerns | no: from a backup only |
//! | a header names another file below than the record | error | yes, if what the record names is sound |
//! | somebody else writes to a disk, or to a frozen file | error: names the process | no: end that process |
//! | a machine's process does not write to what is on record as its disk | error | no |
//! | files that nobody refers to | warning | moved aside |
//! | an inventory is missing, behind or damaged | warning | written anew |
//! | a machine that is not on record | warning | `snapvisor recover`, or moved aside |
//! | the store is missing, damaged or an older copy | error | `snapvisor recover` |

use std::collections::BTreeSet;
use std::path::PathBuf;

use ledger::id::{LayerId, MemoryId, VmId};
use ledger::inventory::Inventory;
use ledger::snapshot::{Format, Layer, Snapshot};
use ledger::state::State;
use ledger::vm::Vm;

use super::survey::{FileFact, HeaderFact, InventoryFact, MachineFacts, StoreFact, Survey};
use super::users::User;
use crate::layout::Layout;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something cannot be used, or is in danger.
    Error,
    /// Something is not in order, and nothing is lost by it.
    Warning,
    /// Worth knowing.
    Note,
}

/// What a repair does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Write a machine's inventory anew.
    WriteInventory(VmId),
    /// Move a file or directory out of the way.
    SetAside(PathBuf),
    /// Write the name of the file below into a header.
    Rebase {
        /// Whose it is.
        vm: VmId,
        /// The layer, which has no seal afterwards until the daemon has read all of it.
        layer: LayerId,
        /// Its image.
        path: PathBuf,
        /// What it lies on by the record; `None` for nothing.
        backing: Option<(PathBuf, Format)>,
    },
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, and with what. Lower case, no full stop.
    pub text: String,
    /// Snapshots and machines that need what is damaged.
    pub concerns: Vec<String>,
    /// What to do.
    pub advice: String,
    /// What `--repair` would do.
    pub repair: Option<Repair>,
}

impl Severity {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// Judges what was seen; the worst first.
pub fn judge(layout: &Layout, survey: &Survey) -> Vec<Finding> {
    let mut findings = Findings { layout, found: Vec::new() };
    match &survey.store {
        StoreFact::Read(state) => {
            findings.store(state, survey);
            for (vm, facts) in &survey.machines {
                match state.vms.get(vm) {
                    _ if survey.restless.contains(vm) => findings.restless(*vm),
                    Some(machine) => findings.machine(state, machine, facts),
                    None if state.active_job(*vm).is_some() => {}
                    None => findings.not_on_record(*vm, facts),
                }
            }
            if is_unfit(state, survey) {
                findings.repair_nothing();
            }
        }
        StoreFact::Missing => findings.no_store(survey, None),
        StoreFact::Unreadable(reason) => findings.no_store(survey, Some(reason)),
    }
    for path in &survey.strangers {
        let text = format!("{} is among the machines' directories, and is none", path.display());
        findings.add(Severity::Warning, text, "have it moved aside with --repair, or move it elsewhere");
        findings.mend(Repair::SetAside(path.clone()));
    }
    findings.found.sort_by_key(|finding| finding.severity);
    findings.found
}

/// Whether the store does not belong to the files beside it: to go by it would put newer files aside, and overwrite what tells of them.
fn is_unfit(state: &State, survey: &Survey) -> bool {
    let newer = |facts: &MachineFacts| matches!(facts.inventory, InventoryFact::Read { revision, .. } if revision > state.revision);
    survey.mark.is_some_and(|mark| mark > state.revision)
        || survey.machines.values().any(newer)
        || !state.check().is_empty()
}

/// Whether an inventory says the same as another one; when it was written does not matter.
pub fn same(one: &Inventory, other: &Inventory) -> bool {
    let without_jobs = |inventory: &Inventory| -> Vec<_> {
        inventory.records.iter().filter(|record| record.kind != "job").cloned().collect()
    };
    one.vm == other.vm && without_jobs(one) == without_jobs(other)
}

struct Findings<'a> {
    layout: &'a Layout,
    found: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, severity: Severity, text: String, advice: impl Into<String>) {
        self.found.push(Finding { severity, text, concerns: Vec::new(), advice: advice.into(), repair: None });
    }

    /// What would mend the one added last.
    fn mend(&mut self, repair: Repair) {
        if let Some(last) = self.found.last_mut() {
            last.repair = Some(repair);
        }
    }

    /// What was to be mended waits for a store to go by.
    fn repair_nothing(&mut self) {
        for finding in self.found.iter_mut().filter(|finding| finding.repair.is_some()) {
            finding.repair = None;
            "first run `snapvisor recover`: the state store does not belong to these files"
                .clone_into(&mut finding.advice);
        }
    }

    /// Whom the one added last concerns.
    fn concern(&mut self, concerns: Vec<String>) {
        if let Some(last) = self.found.last_mut() {
            last.concerns = concerns;
        }
    }

    fn store(&mut self, state: &State, survey: &Survey) {
        for broken in state.check() {
            let text = format!("the state store contradicts itself: {broken}");
            self.add(Severity::Error, text, "put a good copy of it back, or run `snapvisor recover`");
        }
        if let Some(mark) = survey.mark.filter(|mark| *mark > state.revision) {
            let text = format!(
                "the state store is of revision {}, and {mark} has been reached before: it is an older copy",
                state.revision
            );
            self.add(Severity::Error, text, "put the newest one back, or run `snapvisor recover`");
        }
    }

    fn no_store(&mut self, survey: &Survey, reason: Option<&String>) {
        let path = self.layout.database();
        let described =
            survey.machines.values().filter(|it| matches!(it.inventory, InventoryFact::Read { .. })).count();
        let text = match reason {
            Some(reason) => format!("the state store {} cannot be used: {reason}", path.display()),
            None if survey.machines.is_empty() => return,
            None => format!("the state store {} is missing", path.display()),
        };
        let advice = format!("run `snapvisor recover`: {described} machines describe themselves");
        self.add(Severity::Error, text, advice);
    }

    fn restless(&mut self, vm: VmId) {
        let text = format!("machine {vm} changed all the time while it was looked at");
        self.add(Severity::Note, text, "check again when it is at rest");
    }

    fn not_on_record(&mut self, vm: VmId, facts: &MachineFacts) {
        let directory = self.layout.vm(vm);
        if let Some(pid) = facts.process {
            let text = format!("process {pid} is machine {vm}, which is not on record");
            self.add(Severity::Error, text, "shut its guest down, then look again");
        }
        match &facts.inventory {
            InventoryFact::Read { .. } => {
                let text = format!("{} has a machine that is not on record", directory.display());
                self.add(
                    Severity::Warning,
                    text,
                    format!("`snapvisor recover --adopt {vm}` brings it back; --repair moves it aside"),
                );
            }
            _ => {
                let text = format!("{} belongs to no machine on record", directory.display());
                self.add(Severity::Warning, text, "--repair moves it aside");
            }
        }
        if facts.process.is_none() {
            self.mend(Repair::SetAside(directory));
        }
    }

    fn machine(&mut self, state: &State, machine: &Vm, facts: &MachineFacts) {
        let busy = state.active_job(machine.id);
        for layer in state.layers_of(machine.id) {
            if let Some(fact) = facts.layers.get(&layer.id) {
                self.layer(state, machine, layer, facts, fact);
            }
        }
        for memory in state.memories_of(machine.id) {
            let Some(fact) = facts.memories.get(&memory.id) else { continue };
            let concerns = who_needs_memory(state, machine, memory.id);
            self.content(fact, &format!("memory of '{}'", machine.name), &concerns);
            let writers = fact.users.iter().filter(|user| user.writes).filter(|_| busy.is_none());
            for user in writers {
                let text = format!("{} is written by process {} ({})", memory.path.display(), user.pid, user.program);
                self.add(Severity::Error, text, "end that process; then check again with all content compared");
                self.concern(concerns.clone());
            }
        }
        if let Some(job) = busy {
            let text =
                format!("'{}' is busy ({}): whether files are left over is not looked at", machine.name, job.activity);
            return self.add(Severity::Note, text, "check again when it is at rest");
        }
        for memory in &facts.undescribed {
            let text =
                format!("memory image {memory} of '{}' lost the texts that tell how to start it alone", machine.name);
            self.add(Severity::Warning, text, "the snapshot is as good; take a new one if you need the texts");
        }
        self.live_tops(state, machine, facts);
        self.left_over(state, machine, facts);
        self.inventory(state, machine, facts);
        self.process(machine, facts);
    }

    fn layer(&mut self, state: &State, machine: &Vm, layer: &Layer, facts: &MachineFacts, fact: &FileFact) {
        let concerns = who_needs_layer(state, machine, layer.id);
        self.content(fact, &format!("disk of '{}'", machine.name), &concerns);
        self.users(state, machine, layer, facts, fact, &concerns);
        if let Some(words) = &fact.image_check {
            let text = format!("{}: QEMU's check finds it damaged: {words}", layer.path.display());
            self.add(
                Severity::Error,
                text,
                "put the file back from a backup; `qemu-img check -r` mends some kinds of damage",
            );
            self.concern(concerns.clone());
        }
        let Some(header) = fact.header.as_ref().filter(|_| fact.broken.is_none()) else { return };
        // A merge rewrites headers, and they are right before and after.
        let merging =
            state.active_job(machine.id).is_some() || state.layers_of(machine.id).any(|layer| layer.merging.is_some());
        if !merging {
            let changed = matches!(fact.sealed, Some(Err(_)));
            self.header(state, layer, header, changed, &concerns);
        }
    }

    /// `changed`: the file is not what it was when it was sealed.
    fn header(&mut self, state: &State, layer: &Layer, header: &HeaderFact, changed: bool, concerns: &[String]) {
        let path = &layer.path;
        if let Some(refused) = &header.refused {
            let text = format!("{}: {refused}", path.display());
            self.add(Severity::Error, text, "put the file back from a backup: nothing of ours writes such a header");
            self.concern(concerns.to_vec());
        }
        if header.size != layer.size {
            let text =
                format!("{} holds a disk of {} bytes, {} are on record", path.display(), header.size, layer.size);
            self.add(Severity::Error, text, "put the file back from a backup, or resize it back with qemu-img");
            self.concern(concerns.to_vec());
        }
        let parent = layer.parent.and_then(|parent| state.layers.get(&parent));
        let wanted = parent.map(|parent| parent.path.clone());
        if header.backing != wanted {
            let name =
                |path: &Option<PathBuf>| path.as_ref().map_or("nothing".to_owned(), |path| path.display().to_string());
            let text = format!(
                "{} lies on {} by its header, and on {} by the record",
                path.display(),
                name(&header.backing),
                name(&wanted)
            );
            // A header is no proof of sound content where more may have been changed, and QEMU would open what a strange one names.
            let sound = !changed && header.refused.is_none() && parent.is_none_or(|parent| parent.path.exists());
            let advice = match sound {
                true => {
                    "the record is what the service goes by; --repair writes it into the header, which is for other programs"
                }
                false => "the record is what the service goes by; put the file back from a backup",
            };
            self.add(Severity::Error, text, advice);
            self.concern(concerns.to_vec());
            if sound {
                let backing = parent.map(|parent| (parent.path.clone(), parent.format));
                self.mend(Repair::Rebase { vm: layer.vm, layer: layer.id, path: path.clone(), backing });
            }
        }
    }

    /// Other processes than the machine's own at its files.
    fn users(
        &mut self,
        state: &State,
        machine: &Vm,
        layer: &Layer,
        facts: &MachineFacts,
        fact: &FileFact,
        concerns: &[String],
    ) {
        let live = machine.settings.layers().iter().any(|(_, top)| *top == layer.id);
        let is_own = |pid: i32| facts.process == Some(pid) || facts.merger == Some(pid);
        for user in fact.users.iter().filter(|user| user.writes && !is_own(user.pid)) {
            let what = if live { "the live disk" } else { "a disk that snapshots rest on" };
            let text = format!(
                "{} ({what} of '{}') is open for writing in process {} ({})",
                layer.path.display(),
                machine.name,
                user.pid,
                user.program
            );
            self.add(Severity::Error, text, "end that process before the machine is started; then check again");
            self.concern(concerns.to_vec());
        }
        let own_writes = fact.users.iter().any(|user| user.writes && is_own(user.pid));
        let quiet = state.active_job(machine.id).is_none() && !live && own_writes;
        // QEMU keeps the descriptor of a former top open for writing and does not use it.
        if quiet && matches!(fact.sealed, Some(Err(_))) {
            let text = format!("{} is changed by the machine's own process", layer.path.display());
            self.add(Severity::Error, text, "please report this: it must not happen");
        }
    }

    /// Damage, whoever did it.
    fn content(&mut self, fact: &FileFact, what: &str, concerns: &[String]) {
        let sealed = fact.sealed.as_ref().and_then(|sealed| sealed.as_ref().err());
        for damage in fact.broken.iter().chain(sealed) {
            let advice = if concerns.is_empty() {
                "nothing needs it any more; it goes with the next snapshot that is removed"
            } else {
                "put the file back from a backup; else delete the snapshots it concerns: all others can be used"
            };
            self.add(Severity::Error, format!("{damage} ({what})"), advice);
            self.concern(concerns.to_vec());
        }
    }

    /// The machine's own process must have open for writing what is on record as live, and no less.
    fn live_tops(&mut self, state: &State, machine: &Vm, facts: &MachineFacts) {
        let Some(pid) = facts.process else { return };
        let writes = |fact: &FileFact| fact.users.iter().any(|user| user.pid == pid && user.writes);
        // Of a process of another user nothing can be seen.
        if !facts.layers.values().any(writes) {
            return;
        }
        let live = machine.settings.layers().into_iter().filter_map(|(_, top)| state.layers.get(&top));
        for layer in live.filter(|layer| !facts.layers.get(&layer.id).is_some_and(writes)) {
            let text = format!(
                "process {pid} is '{}' and does not write to {}, which is on record as its live disk",
                machine.name,
                layer.path.display()
            );
            let advice = "shut the guest down from inside and do not start it again; then `snapvisor check` tells more";
            self.add(Severity::Error, text, advice);
        }
    }

    fn left_over(&mut self, state: &State, machine: &Vm, facts: &MachineFacts) {
        let layers = state.layers_of(machine.id).map(|layer| layer.path.clone());
        let memories = state.memories_of(machine.id).map(|memory| memory.path.clone());
        let known: BTreeSet<PathBuf> = layers.chain(memories).chain(machine.garbage.iter().cloned()).collect();
        // What was deleted since it was listed is not there any more.
        let unknown = |(path, _): &&(PathBuf, Vec<User>)| !known.contains(path) && path.symlink_metadata().is_ok();
        for (path, users) in facts.entries.iter().filter(unknown) {
            let text =
                format!("{} is in the directory of '{}', and nothing refers to it", path.display(), machine.name);
            match users.first() {
                None => {
                    self.add(Severity::Warning, text, "--repair moves it aside");
                    self.mend(Repair::SetAside(path.clone()));
                }
                Some(user) => {
                    let text = format!("{text}; process {} ({}) has it open", user.pid, user.program);
                    self.add(Severity::Error, text, "end that process first: a guest's own in order, from inside");
                }
            }
        }
    }

    fn inventory(&mut self, state: &State, machine: &Vm, facts: &MachineFacts) {
        let text = match &facts.inventory {
            InventoryFact::Read { lost: 0, same: true, .. } => return,
            InventoryFact::Read { revision, .. } if *revision > state.revision => {
                let text = format!(
                    "the inventory of '{}' is of revision {revision}, and the state store of {}: it is an older copy",
                    machine.name, state.revision
                );
                return self.add(Severity::Error, text, "put the newest one back, or run `snapvisor recover`");
            }
            InventoryFact::Read { lost, same: true, .. } => format!("has {lost} damaged records"),
            InventoryFact::Read { lost: 0, revision, .. } => {
                format!("is of revision {revision} and says something else")
            }
            InventoryFact::Read { lost, .. } => format!("says something else and has {lost} damaged records"),
            InventoryFact::Missing => "is missing".to_owned(),
            InventoryFact::Unreadable(reason) => format!("cannot be used: {reason}"),
        };
        let text = format!("the inventory of '{}' {text}", machine.name);
        self.add(Severity::Warning, text, "the daemon writes it anew when it starts, and so does --repair");
        self.mend(Repair::WriteInventory(machine.id));
    }

    fn process(&mut self, machine: &Vm, facts: &MachineFacts) {
        let text = match (machine.power.has_process(), facts.process) {
            (true, None) => format!("'{}' is on record as running, and its process is gone", machine.name),
            (false, Some(pid)) => format!("'{}' is on record as being off, and process {pid} is it", machine.name),
            _ => return,
        };
        self.add(Severity::Note, text, "a daemon that starts sets this right");
    }
}

/// Snapshots that read through a layer, and the machine if its live disk does.
fn who_needs_layer(state: &State, machine: &Vm, layer: LayerId) -> Vec<String> {
    let reads = |top: LayerId| state.chain(top).iter().any(|link| link.id == layer);
    let through = |snapshot: &Snapshot| snapshot.settings.layers().iter().any(|(_, top)| reads(*top));
    let live = machine.settings.layers().iter().any(|(_, top)| reads(*top));
    let live = live.then(|| format!("the present state of '{}'", machine.name));
    snapshots(state, machine, through).into_iter().chain(live).collect()
}

fn who_needs_memory(state: &State, machine: &Vm, memory: MemoryId) -> Vec<String> {
    let saved = (machine.saved == Some(memory)).then(|| format!("the saved state of '{}'", machine.name));
    snapshots(state, machine, |snapshot| snapshot.memory == Some(memory)).into_iter().chain(saved).collect()
}

/// Those of a machine's snapshots, the oldest first, in words.
fn snapshots(state: &State, machine: &Vm, which: impl Fn(&Snapshot) -> bool) -> Vec<String> {
    let mut found: Vec<_> = state.snapshots_of(machine.id).filter(|snapshot| which(snapshot)).collect();
    found.sort_by_key(|snapshot| snapshot.created);
    found.into_iter().map(|snapshot| format!("snapshot '{}'", snapshot.name)).collect()
}
