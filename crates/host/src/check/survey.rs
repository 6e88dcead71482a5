//! Looks at everything once. What is seen is judged in [`super::findings`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ledger::effect::MemorySource;
use ledger::id::{LayerId, MemoryId, VmId};
use ledger::record::{StoreError, rebuild};
use ledger::snapshot::{Format, Layer, Memory};
use ledger::state::State;
use qemu::mapped_ram;
use qemu::qcow2::Header;
use qemu::save::MEMORY_FILE;
use serde_json::json;

use super::findings::{self, Finding};
use super::repair::as_owner;
use super::users::{User, Users};
use crate::file_storage::FileStorage;
use crate::hands::allocated;
use crate::headers;
use crate::identity::{Handle, Identity};
use crate::inventory::{self, InventoryError};
use crate::layout::Layout;
use crate::manifest;
use crate::seal::{Damage, Depth, Sealed, Seals};
use crate::spec::SavedMachine;
use crate::store_sqlite::{SqliteStore, read_mark};

/// How often a machine is looked at that changes meanwhile.
const LOOKS_MAX: usize = 3;

/// `qemu-img check`: clusters are allocated that nobody uses. Space is lost, not data.
const LEAKED_CLUSTERS: i32 = 3;

/// What is known of the store.
#[derive(Clone, Debug)]
pub enum StoreFact {
    /// There is none.
    Missing,
    /// It cannot be read.
    Unreadable(String),
    /// It was read.
    Read(Box<State>),
}

/// What is known of a machine's inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InventoryFact {
    /// There is none.
    Missing,
    /// It cannot be read.
    Unreadable(String),
    /// It was read.
    Read {
        /// Revision at which it was written.
        revision: u64,
        /// Records that are damaged.
        lost: usize,
        /// It says what the store says.
        same: bool,
    },
}

/// What an image's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderFact {
    /// Virtual size in bytes.
    pub size: u64,
    /// The file it lies on, made absolute.
    pub backing: Option<PathBuf>,
    /// It is one that we would not attach.
    pub refused: Option<String>,
}

/// What is known of a file of a snapshot or a machine.
#[derive(Clone, Debug, Default)]
pub struct FileFact {
    /// Compared with its seal; `None` if it has none.
    pub sealed: Option<Result<(), Damage>>,
    /// Why it is of no use, whatever a seal says.
    pub broken: Option<Damage>,
    /// Who has it open.
    pub users: Vec<User>,
    /// Of an image that is not raw.
    pub header: Option<HeaderFact>,
    /// What `qemu-img check` says, if it was asked and is not content.
    pub image_check: Option<String>,
}

/// What is known of a machine.
#[derive(Clone, Debug)]
pub struct MachineFacts {
    /// Its inventory.
    pub inventory: InventoryFact,
    /// Its layers.
    pub layers: BTreeMap<LayerId, FileFact>,
    /// Its memory images.
    pub memories: BTreeMap<MemoryId, FileFact>,
    /// Memory images without the texts that tell how to start them.
    pub undescribed: Vec<MemoryId>,
    /// Files and directories of layers and memory images, whoever needs them, and who has them open.
    pub entries: Vec<(PathBuf, Vec<User>)>,
    /// Its emulator, if it lives.
    pub process: Option<i32>,
    /// The storage daemon that merges its layers, if it lives.
    pub merger: Option<i32>,
}

/// Everything that was seen.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The store.
    pub store: StoreFact,
    /// The highest revision that there was.
    pub mark: Option<u64>,
    /// All machines, on record or with a directory.
    pub machines: BTreeMap<VmId, MachineFacts>,
    /// Machines that changed while they were looked at.
    pub restless: BTreeSet<VmId>,
    /// What is among the machines' directories and is none.
    pub strangers: Vec<PathBuf>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Machines on record.
    pub machines: usize,
    /// Their snapshots.
    pub snapshots: usize,
    /// Their layers.
    pub layers: usize,
    /// Their memory images.
    pub memories: usize,
    /// Files that were compared with a seal.
    pub compared: usize,
    /// Bytes that all these files take.
    pub bytes: u64,
}

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Report {
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// How much was looked at.
    pub counts: Counts,
}

/// Checks a data directory. `qemu_img` is asked about images too, if it is given. Blocks, for as long as it takes to read everything if
/// that is asked for.
pub fn check(layout: &Layout, depth: Depth, qemu_img: Option<&Path>) -> Report {
    let survey = survey(layout, depth, qemu_img);
    Report { findings: findings::judge(layout, &survey), counts: count(&survey) }
}

/// Looks at everything.
pub fn survey(layout: &Layout, depth: Depth, qemu_img: Option<&Path>) -> Survey {
    let directories = inventory::machine_directories(layout);
    let mut entries: BTreeMap<VmId, Vec<PathBuf>> =
        directories.into_iter().map(|vm| (vm, machine_entries(layout, vm))).collect();
    let store = look_at_store(layout);
    let empty = State::default();
    let state = if let StoreFact::Read(state) = &store { &**state } else { &empty };
    let mut look = Look { layout, depth, qemu_img, seals: Seals::new(layout.clone()), users: Users::look() };
    let known: BTreeSet<VmId> = state.vms.keys().copied().chain(entries.keys().copied()).collect();
    let machines = known.into_iter().map(|vm| {
        let facts = look.machine(state, vm, entries.remove(&vm).unwrap_or_default());
        (vm, facts)
    });
    let mut survey = Survey {
        machines: machines.collect(),
        mark: read_mark(layout),
        restless: BTreeSet::new(),
        strangers: strangers(layout),
        store,
    };
    look_again(&mut look, &mut survey);
    survey
}

/// What changed while it was looked at is looked at again, and left to another time if it does not come to rest.
fn look_again(look: &mut Look<'_>, survey: &mut Survey) {
    for turn in 0..LOOKS_MAX {
        let StoreFact::Read(before) = &survey.store else { return };
        let StoreFact::Read(now) = look_at_store(look.layout) else { return };
        let mut changed = ledger::inventory::changed(before, &now);
        changed.extend(now.changed_jobs(before).iter().flat_map(|change| change.versions()).map(|job| job.vm));
        if changed.is_empty() {
            survey.restless.clear();
            return;
        }
        // Processes have come and gone since.
        look.users = Users::look();
        for vm in &changed {
            let facts = look.machine(&now, *vm, machine_entries(look.layout, *vm));
            if now.vms.contains_key(vm) || !facts.entries.is_empty() {
                survey.machines.insert(*vm, facts);
            } else {
                survey.machines.remove(vm);
            }
        }
        survey.store = StoreFact::Read(now);
        survey.restless = if turn + 1 == LOOKS_MAX { changed } else { BTreeSet::new() };
    }
}

struct Look<'a> {
    layout: &'a Layout,
    depth: Depth,
    qemu_img: Option<&'a Path>,
    seals: Seals,
    users: Users,
}

impl Look<'_> {
    fn machine(&self, state: &State, vm: VmId, entries: Vec<PathBuf>) -> MachineFacts {
        let memories: Vec<_> = state.memories_of(vm).cloned().collect();
        let described = |memory: &Memory| manifest::FILES.iter().all(|name| memory.path.join(name).exists());
        let undescribed = memories.iter().filter(|it| it.path.exists() && !described(it)).map(|it| it.id).collect();
        MachineFacts {
            inventory: self.inventory(state, vm),
            layers: state.layers_of(vm).map(|layer| (layer.id, self.layer(vm, layer))).collect(),
            memories: memories.iter().map(|memory| (memory.id, self.memory(vm, memory))).collect(),
            undescribed,
            entries: entries.into_iter().map(|path| (path.clone(), self.users.of(&path).to_vec())).collect(),
            process: alive(&self.layout.identity(vm)),
            merger: alive(&self.layout.merge_identity(vm)),
        }
    }

    fn inventory(&self, state: &State, vm: VmId) -> InventoryFact {
        match inventory::read(&self.layout.inventory(vm)) {
            Ok(found) => InventoryFact::Read {
                revision: found.inventory.revision,
                lost: found.lost,
                same: ledger::inventory::of(state, vm).is_some_and(|it| findings::same(&it, &found.inventory)),
            },
            Err(InventoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                InventoryFact::Missing
            }
            Err(error) => InventoryFact::Unreadable(error.to_string()),
        }
    }

    fn layer(&self, vm: VmId, layer: &Layer) -> FileFact {
        let thing = Sealed::Layer(layer.id, layer.path.clone(), layer.format);
        let mut fact = self.file(vm, &thing);
        if fact.broken.is_some() {
            return fact;
        }
        match (layer.format, header_of(&layer.path)) {
            (Format::Raw, _) => {}
            (Format::Qcow2, Ok(header)) => fact.header = Some(header),
            (Format::Qcow2, Err(damage)) => fact.broken = Some(damage),
        }
        let written = fact.users.iter().any(|user| user.writes);
        let plain = fact.broken.is_none() && fact.header.as_ref().is_some_and(|header| header.refused.is_none());
        if let (Some(qemu_img), true, false) = (self.qemu_img, plain, written) {
            fact.image_check = image_check(qemu_img, &layer.path);
        }
        fact
    }

    fn memory(&self, vm: VmId, memory: &Memory) -> FileFact {
        let mut fact = self.file(vm, &Sealed::Memory(memory.id, memory.path.clone()));
        if fact.broken.is_none() && !matches!(fact.sealed, Some(Err(_))) {
            fact.broken = damage_of_memory(memory);
        }
        fact
    }

    fn file(&self, vm: VmId, thing: &Sealed) -> FileFact {
        let mut fact = FileFact::default();
        for path in thing.files() {
            fact.users.extend(self.users.of(&path).iter().cloned());
        }
        match self.seals.verify_one(vm, thing, self.depth) {
            Ok(true) => fact.sealed = Some(Ok(())),
            Ok(false) => {}
            Err(damage @ (Damage::Missing(_) | Damage::Unreadable { .. })) => fact.broken = Some(damage),
            Err(damage) => fact.sealed = Some(Err(damage)),
        }
        fact
    }
}

fn look_at_store(layout: &Layout) -> StoreFact {
    let understood = |(revision, records): (u64, Vec<_>)| {
        rebuild(revision, &records).map(|state| StoreFact::Read(Box::new(state))).map_err(|error| error.to_string())
    };
    match SqliteStore::look(layout) {
        Ok(None) => StoreFact::Missing,
        Ok(Some(found)) => understood(found).unwrap_or_else(StoreFact::Unreadable),
        Err(StoreError::Failed(reason)) => StoreFact::Unreadable(reason),
        Err(error) => StoreFact::Unreadable(error.to_string()),
    }
}

/// The process that a machine, or its storage daemon, is.
pub fn alive(identity: &Path) -> Option<i32> {
    let handle = Handle::open(Identity::load(identity).ok()??).ok()?;
    Some(handle.identity().pid)
}

/// What lies in the directories of layers and memory images.
pub fn machine_entries(layout: &Layout, vm: VmId) -> Vec<PathBuf> {
    let directories = ["disks", "memory"].map(|name| layout.vm(vm).join(name));
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    entries.map(|entry| entry.path()).collect()
}

fn strangers(layout: &Layout) -> Vec<PathBuf> {
    let entries = fs::read_dir(layout.vms()).into_iter().flatten().flatten();
    let is_machine = |name: &str| name.parse::<VmId>().is_ok_and(|vm| vm.to_string() == name);
    entries.filter(|entry| !entry.file_name().to_str().is_some_and(is_machine)).map(|entry| entry.path()).collect()
}

/// The header of an image, its backing file made absolute.
///
/// # Errors
/// When it is no image.
pub fn header_of(path: &Path) -> Result<HeaderFact, Damage> {
    let unreadable = |reason: String| Damage::Unreadable { path: path.to_owned(), reason };
    let head = File::open(path).and_then(headers::head_of).map_err(|error| unreadable(error.to_string()))?;
    let header = Header::read(&head).map_err(|error| unreadable(error.to_string()))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    Ok(HeaderFact {
        size: header.size,
        backing: header.backing_file.as_ref().map(|name| directory.join(name)),
        refused: header.require_plain().err().map(|error| error.to_string()),
    })
}

/// Whether the memory file is one of the machine that the record describes.
fn damage_of_memory(memory: &Memory) -> Option<Damage> {
    let path = memory.path.join(MEMORY_FILE);
    let unreadable = |reason: String| Damage::Unreadable { path: path.clone(), reason };
    let source = MemorySource { path: memory.path.clone(), machine: memory.machine.clone() };
    let saved = match SavedMachine::decode(&source) {
        Ok(saved) => saved,
        Err(failure) => return Some(unreadable(failure.message)),
    };
    let found = FileStorage::read_only(&path).map_err(|error| error.to_string()).and_then(|file| {
        mapped_ram::Image::read(&file).and_then(|image| image.layout()).map_err(|error| error.to_string())
    });
    match found {
        Err(reason) => Some(unreadable(reason)),
        Ok(layout) if layout != saved.layout => Some(unreadable("its memory lies elsewhere than on record".to_owned())),
        Ok(_) => None,
    }
}

/// What QEMU's own check says of an image; as the file's owner, and without what the
/// header names, which may be any file.
fn image_check(qemu_img: &Path, path: &Path) -> Option<String> {
    let alone = json!({ "driver": "qcow2", "backing": null, "file": { "driver": "file", "filename": path } });
    let output = as_owner(qemu_img, path).ok()?.args(["check", "-q", "-U", &format!("json:{alone}")]).output().ok()?;
    if output.status.success() || output.status.code() == Some(LEAKED_CLUSTERS) {
        return None;
    }
    let words = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&words).trim().replace('\n', " / "))
}

fn count(survey: &Survey) -> Counts {
    let facts = || survey.machines.values().flat_map(|it| it.layers.values().chain(it.memories.values()));
    let mut counts = Counts { compared: facts().filter(|fact| fact.sealed.is_some()).count(), ..Counts::default() };
    if let StoreFact::Read(state) = &survey.store {
        counts.machines = state.vms.len();
        counts.snapshots = state.snapshots.len();
        counts.layers = state.layers.len();
        counts.memories = state.memories.len();
        let layers = state.layers.values().filter_map(|layer| allocated(&layer.path).ok());
        counts.bytes = layers.sum::<u64>() + state.memories.values().map(|memory| memory.bytes).sum::<u64>();
    }
    counts
}
