//! The reference model: what must be there, told without any knowledge of how the service works.
//!
//! A [`World`] is a machine and its snapshots at rest. An operation leads from one through a few others to the last; an
//! operation that is cut off may leave any of them behind, and nothing else. Where several are possible, all are kept as
//! candidates until something that is seen of the machine rules them out; when none is left, the service has lost or mixed
//! up something.

use std::collections::BTreeMap;

/// Memory written to disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Which image: one may belong to several snapshots and to the machine.
    pub image: u64,
    /// The mark in it.
    pub mark: Option<String>,
}

/// What the machine is doing, and what it knows by heart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// Off.
    Off,
    /// Memory waits on disk.
    Saved(Saved),
    /// The guest runs, with a mark in memory unless it has only just booted.
    Running(Option<String>),
    /// The guest stands still.
    Paused(Option<String>),
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// With memory, unless it is of disks only.
    pub memory: Option<Saved>,
    /// The mark on both disks.
    pub disks: String,
    /// Name of the one it is based on.
    pub parent: Option<String>,
}

/// Everything there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// State of the machine.
    pub power: Power,
    /// The mark on both of its disks.
    pub disks: String,
    /// Name of the snapshot that the machine is based on.
    pub parent: Option<String>,
    /// By name.
    pub snapshots: BTreeMap<String, Snapshot>,
}

/// What can be asked of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A snapshot of that name. `image` will be its memory.
    Create {
        /// What it will be called.
        name: String,
        /// Without memory.
        disk_only: bool,
        /// What its memory will be.
        image: u64,
    },
    /// Back to a snapshot, turned off first if need be.
    Apply {
        /// Which one.
        name: String,
        /// The guest runs afterwards.
        start: bool,
    },
    /// One snapshot goes.
    Delete {
        /// Which one.
        name: String,
    },
    /// One and its descendants go.
    DeleteTree {
        /// Which one.
        name: String,
    },
    /// A snapshot loses its memory.
    ClearState {
        /// Which one.
        name: String,
    },
    /// Memory is saved as `image`, the machine goes off.
    Save {
        /// What it will be.
        image: u64,
    },
    /// The machine runs, from whatever state.
    Start,
    /// The guest stands still.
    Pause,
    /// The plug is pulled, or saved memory forgotten.
    Stop,
}

/// What the service tells about a world, for comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// `off`, `saved`, `running` or `paused`.
    pub power: String,
    /// Name of the snapshot that the machine is based on.
    pub parent: Option<String>,
    /// By name: the one it is based on, and whether it has memory.
    pub snapshots: BTreeMap<String, (Option<String>, bool)>,
}

impl Power {
    /// The service's word.
    pub fn word(&self) -> &'static str {
        match self {
            Power::Off => "off",
            Power::Saved(_) => "saved",
            Power::Running(_) => "running",
            Power::Paused(_) => "paused",
        }
    }

    /// Whether there is a QEMU.
    pub fn has_process(&self) -> bool {
        matches!(self, Power::Running(_) | Power::Paused(_))
    }
}

impl World {
    /// What the service should tell.
    pub fn outline(&self) -> Outline {
        let tell = |(name, snapshot): (&String, &Snapshot)| {
            (name.clone(), (snapshot.parent.clone(), snapshot.memory.is_some()))
        };
        Outline {
            power: self.power.word().to_owned(),
            parent: self.parent.clone(),
            snapshots: self.snapshots.iter().map(tell).collect(),
        }
    }

    /// The same after QEMU was killed: what was in memory only is gone.
    pub fn unplugged(&self) -> Self {
        let power = if self.power.has_process() { Power::Off } else { self.power.clone() };
        Self { power, ..self.clone() }
    }

    /// Every world that `operation` may leave when it is cut off, in order: the first is this one, the last is its success.
    pub fn steps(&self, operation: &Operation) -> Vec<Self> {
        let mut steps = vec![self.clone()];
        match operation {
            Operation::Apply { name, start } => {
                if self.power.has_process() {
                    steps.push(self.unplugged());
                }
                let applied = self.applied(name);
                steps.push(applied.clone());
                if *start {
                    steps.push(applied.started());
                }
            }
            Operation::Create { name, disk_only, image } => steps.push(self.created(name, *disk_only, *image)),
            Operation::Delete { name } => steps.push(self.without(std::slice::from_ref(name))),
            Operation::DeleteTree { name } => steps.push(self.without(&self.family(name))),
            Operation::ClearState { name } => {
                let mut cleared = self.clone();
                cleared.snapshots.entry(name.clone()).and_modify(|snapshot| snapshot.memory = None);
                steps.push(cleared);
            }
            Operation::Save { image } => {
                let mark = match &self.power {
                    Power::Running(mark) | Power::Paused(mark) => mark.clone(),
                    Power::Off | Power::Saved(_) => None,
                };
                steps.push(Self { power: Power::Saved(Saved { image: *image, mark }), ..self.clone() });
            }
            Operation::Start => steps.push(self.started()),
            Operation::Pause => {
                let power = match &self.power {
                    Power::Running(mark) => Power::Paused(mark.clone()),
                    other => other.clone(),
                };
                steps.push(Self { power, ..self.clone() });
            }
            Operation::Stop => steps.push(Self { power: Power::Off, ..self.clone() }),
        }
        steps
    }

    /// A snapshot and all that descend from it.
    pub fn family(&self, name: &str) -> Vec<String> {
        let mut family = vec![name.to_owned()];
        let mut next = 0;
        while let Some(parent) = family.get(next).cloned() {
            let children = self.snapshots.iter().filter(|(_, one)| one.parent.as_ref() == Some(&parent));
            family.extend(children.map(|(child, _)| child.clone()));
            next += 1;
        }
        family
    }

    /// How many memory images there must be on disk.
    pub fn images(&self) -> usize {
        let own = match &self.power {
            Power::Saved(saved) => Some(saved.image),
            _ => None,
        };
        let kept = self.snapshots.values().filter_map(|snapshot| Some(snapshot.memory.as_ref()?.image));
        kept.chain(own).collect::<std::collections::BTreeSet<_>>().len()
    }

    fn created(&self, name: &str, disk_only: bool, image: u64) -> Self {
        let memory = match &self.power {
            _ if disk_only => None,
            Power::Off => None,
            Power::Saved(saved) => Some(saved.clone()),
            Power::Running(mark) | Power::Paused(mark) => Some(Saved { image, mark: mark.clone() }),
        };
        let snapshot = Snapshot { memory, disks: self.disks.clone(), parent: self.parent.clone() };
        let mut after = self.clone();
        after.snapshots.insert(name.to_owned(), snapshot);
        after.parent = Some(name.to_owned());
        after
    }

    fn applied(&self, name: &str) -> Self {
        let Some(snapshot) = self.snapshots.get(name) else { return self.clone() };
        Self {
            power: snapshot.memory.clone().map_or(Power::Off, Power::Saved),
            disks: snapshot.disks.clone(),
            parent: Some(name.to_owned()),
            snapshots: self.snapshots.clone(),
        }
    }

    fn started(&self) -> Self {
        let power = match &self.power {
            Power::Off => Power::Running(None),
            Power::Saved(saved) => Power::Running(saved.mark.clone()),
            Power::Running(mark) | Power::Paused(mark) => Power::Running(mark.clone()),
        };
        Self { power, ..self.clone() }
    }

    /// Without some snapshots; what was based on them is then based on the nearest one that stays.
    fn without(&self, gone: &[String]) -> Self {
        let heir = |mut parent: Option<String>| {
            while let Some(name) = parent.clone().filter(|name| gone.contains(name)) {
                parent = self.snapshots.get(&name).and_then(|snapshot| snapshot.parent.clone());
            }
            parent
        };
        let mut after = self.clone();
        after.snapshots.retain(|name, _| !gone.contains(name));
        for snapshot in after.snapshots.values_mut() {
            snapshot.parent = heir(snapshot.parent.take());
        }
        after.parent = heir(after.parent);
        after
    }
}

impl Operation {
    /// The command line for it.
    pub fn arguments(&self, vm: &str) -> Vec<String> {
        let mut words: Vec<&str> = match self {
            Operation::Create { name, .. } => vec!["snapshot", "create", vm, name],
            Operation::Apply { name, .. } => vec!["snapshot", "apply", name, "--vm", vm, "--force"],
            Operation::Delete { name } => vec!["snapshot", "delete", name, "--vm", vm],
            Operation::DeleteTree { name } => vec!["snapshot", "delete", name, "--vm", vm, "--tree"],
            Operation::ClearState { name } => vec!["snapshot", "clear-state", name, "--vm", vm],
            Operation::Save { .. } => vec!["vm", "save", vm],
            Operation::Start => vec!["vm", "start", vm],
            Operation::Pause => vec!["vm", "pause", vm],
            Operation::Stop => vec!["vm", "stop", vm],
        };
        match self {
            Operation::Create { disk_only: true, .. } => words.push("--disk-only"),
            Operation::Apply { start: true, .. } => words.push("--start"),
            _ => {}
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// The operation in a word or two, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Operation::Create { .. } => "create",
            Operation::Apply { .. } => "apply",
            Operation::Delete { .. } => "delete",
            Operation::DeleteTree { .. } => "delete tree",
            Operation::ClearState { .. } => "clear state",
            Operation::Save { .. } => "save",
            Operation::Start => "start",
            Operation::Pause => "pause",
            Operation::Stop => "stop",
        }
    }

    /// Whether the command may return while its job goes on.
    pub fn may_go_unattended(&self) -> bool {
        !matches!(self, Operation::Apply { start: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        text.to_owned()
    }

    fn last(world: &World, operation: &Operation) -> World {
        world.steps(operation).pop().unwrap()
    }

    fn create(world: &World, snapshot: &str, image: u64) -> World {
        last(world, &Operation::Create { name: name(snapshot), disk_only: false, image })
    }

    fn fresh() -> World {
        World { power: Power::Running(Some(name("m"))), disks: name("m"), parent: None, snapshots: BTreeMap::new() }
    }

    #[test]
    fn descendants_of_what_is_deleted_move_up() {
        let chain = create(&create(&create(&fresh(), "a", 1), "b", 2), "c", 3);
        let middle = last(&chain, &Operation::Delete { name: name("b") });
        assert_eq!(middle.snapshots["c"].parent, Some(name("a")));
        assert_eq!(middle.images(), 2);
        let tree = last(&chain, &Operation::DeleteTree { name: name("b") });
        assert_eq!(tree.snapshots.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(tree.parent, Some(name("a")));
    }

    #[test]
    fn an_apply_that_is_cut_off_leaves_one_of_four() {
        let mut world = create(&fresh(), "a", 1);
        world.disks = name("later");
        let steps = world.steps(&Operation::Apply { name: name("a"), start: true });
        let seen: Vec<_> = steps.iter().map(|step| (step.power.word(), step.disks.as_str())).collect();
        assert_eq!(seen, [("running", "later"), ("off", "later"), ("saved", "m"), ("running", "m")]);
    }

    #[test]
    fn a_snapshot_of_a_saved_machine_shares_its_memory() {
        let saved = last(&fresh(), &Operation::Save { image: 5 });
        let both = create(&saved, "a", 6);
        assert_eq!(both.images(), 1);
        assert_eq!(last(&both, &Operation::Stop).images(), 1);
        assert_eq!(last(&both, &Operation::ClearState { name: name("a") }).images(), 1);
        assert_eq!(both.unplugged(), both);
    }
}
