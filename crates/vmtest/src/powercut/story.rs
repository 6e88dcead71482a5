//! A service on a disk that is recorded: what was done, and what may be left of it after a cut at any moment.

use std::path::Path;

use super::export::Export;
use super::medium::{Recorder, Replay};
use crate::random::Random;
use crate::service::{Error, Result, Service};
use crate::torture::guard::Guard;
use crate::torture::rig::Rig;
use crate::torture::tally::Tally;
use crate::torture::world::{Operation, Power, World};

/// What the recorded disk holds, bytes: what a dozen snapshots need.
pub const DISK: u64 = 6 << 30;

/// What goes on when nothing does that was asked for.
pub const AT_REST: &str = "at rest";

/// From one moment of the disk on until the next window, these worlds are possible.
#[derive(Debug, Clone)]
pub struct Window {
    /// The first moment.
    pub from: usize,
    /// Before the power is cut. Whoever ran does not run after it.
    pub worlds: Vec<World>,
    /// What was going on.
    pub label: &'static str,
    /// An operation's end has just been told.
    pub told: bool,
    /// Possible after the power was cut, besides: a start that was under way is on record, and is taken up again.
    pub resumed: Vec<World>,
}

/// What happened.
pub struct Story {
    /// The disk.
    pub replay: Replay,
    /// In order; the first begins when the guest has booted.
    pub windows: Vec<Window>,
    /// After this nothing counts.
    pub end: usize,
    /// Fingerprints of every snapshot that there has been.
    pub guard: Guard,
    /// How many marks the guest has made.
    pub marks: u64,
}

/// Boots a guest on a new disk mounted at `place`, does `operations` operations to it, and cuts the power.
///
/// # Errors
/// When something fails even though the power is there.
pub fn record(place: &Path, seed: u64, operations: usize) -> Result<Story> {
    let recorder = Recorder::new(DISK).map_err(|source| Error::Io { what: "making a disk".into(), source })?;
    let mut disk = Export::new(recorder, DISK, place)?;
    disk.format()?;
    disk.mount()?;
    let rig = Rig::boot_on(Service::start_at(place)?)?;
    let mut author = Author { disk: &disk, rig, windows: Vec::new(), tally: Tally::default() };
    author.write(seed, operations)?;
    let Author { rig, windows, .. } = author;
    let end = disk.medium().log().now();
    let (guard, marks) = rig.memories();
    drop(rig);
    let replay = disk.end()?.into_replay();
    let replay = replay.map_err(|source| Error::Io { what: "keeping the disk's log".into(), source })?;
    Ok(Story { replay, windows, end, guard, marks })
}

/// Who does it and takes notes.
struct Author<'a> {
    disk: &'a Export<Recorder>,
    rig: Rig,
    windows: Vec<Window>,
    tally: Tally,
}

impl Author<'_> {
    fn write(&mut self, seed: u64, operations: usize) -> Result<()> {
        self.note(self.rig.worlds().to_vec(), AT_REST);
        for number in 0..operations {
            let mut random = Random::of_round(seed, number as u64);
            self.change(&mut random)?;
            let operation = script(self.rig.world()?, number, &mut random);
            println!("{number:>5} {operation:?}");
            self.perform(&operation)?;
        }
        Ok(())
    }

    /// The guest makes a new mark. Until it has said so, either may be on the disks.
    fn change(&mut self, random: &mut Random) -> Result<()> {
        let old = self.rig.worlds().to_vec();
        let new = self.marked(&old);
        self.note([old, new].concat(), "guest writes");
        self.rig.change(random)?;
        self.note(self.rig.worlds().to_vec(), AT_REST);
        Ok(())
    }

    fn perform(&mut self, operation: &Operation) -> Result<()> {
        let before = self.rig.worlds().to_vec();
        let steps: Vec<World> = before.iter().flat_map(|world| world.steps(operation)).collect();
        let after: Vec<World> = before.iter().filter_map(|world| world.steps(operation).pop()).collect();
        let doing = self.window(steps, operation.kind());
        self.windows.push(Window { resumed: resumed(operation, &after), ..doing });
        self.rig.ask(operation)?;
        // A guest that has just booted will make a mark of its own.
        let booted = after.iter().any(|world| world.power == Power::Running(None));
        let marked = if booted { self.marked(&after) } else { Vec::new() };
        let done = self.window([after, marked].concat(), operation.kind());
        self.windows.push(Window { told: true, ..done });
        self.rig.arrive(operation)?;
        self.rig.guard(false, &mut self.tally)?;
        self.note(self.rig.worlds().to_vec(), AT_REST);
        Ok(())
    }

    fn marked(&self, worlds: &[World]) -> Vec<World> {
        running(worlds).map(|world| World { disks: self.rig.next_mark(), ..world.clone() }).collect()
    }

    fn note(&mut self, worlds: Vec<World>, label: &'static str) {
        let window = self.window(worlds, label);
        self.windows.push(window);
    }

    /// One that begins now, in which no end was told and no start is under way.
    fn window(&self, worlds: Vec<World>, label: &'static str) -> Window {
        Window { from: self.disk.medium().log().now(), worlds, label, told: false, resumed: Vec::new() }
    }
}

/// The worlds in which a start that is taken up again ends, of those that its operation leads to.
fn resumed(operation: &Operation, after: &[World]) -> Vec<World> {
    match operation {
        Operation::Start | Operation::Apply { start: true, .. } => running(after).cloned().collect(),
        _ => Vec::new(),
    }
}

fn running(worlds: &[World]) -> impl Iterator<Item = &World> {
    worlds.iter().filter(|world| matches!(world.power, Power::Running(_)))
}

/// What is done as the `number`th: first a bit of everything, then what comes.
fn script(world: &World, number: usize, random: &mut Random) -> Operation {
    let image = number as u64;
    let create = |disk_only| Operation::Create { name: format!("s{number}"), disk_only, image };
    let first = world.snapshots.keys().next().cloned();
    let last = world.snapshots.keys().last().cloned();
    let planned = match number {
        0 | 2 | 6 => Some(create(false)),
        1 => Some(create(true)),
        3 | 7 => first.map(|name| Operation::Delete { name }),
        4 => last.map(|name| Operation::Apply { name, start: true }),
        5 => Some(Operation::Save { image }),
        8 => last.map(|name| Operation::Delete { name }),
        _ => None,
    };
    planned.unwrap_or_else(|| crate::torture::choose(world, image, random))
}
