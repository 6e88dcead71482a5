//! The power is cut, again and again, at every kind of moment of one recorded story.
//!
//! ```text
//! record: ext4 on a disk that keeps its log ◀── service, guest, operations        (story, export, medium)
//!           moments ◀── what was asked and told, and what may be true since
//! try:    choose moments ─▶ disk as the cut left it ─▶ mount ─▶ daemon ─▶ at rest ─▶ compare ─▶ next moment
//!                                                                                   └─▶ now and then: start a snapshot, or the machine
//! ```
//! Covered: what our processes, QEMU and the guest leave unsynced in the page cache, in ext4's journal and in the disk's cache; writes
//! lost, kept, out of order and torn at sectors since the last flush. Not covered: disks that break their promise about flushes, other
//! file systems than ext4 with its usual options, and the loss of the run directory's content alone, which is always empty after a cut.

pub mod export;
pub mod medium;
pub mod story;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use self::export::Export;
use self::medium::Cut;
use self::story::{AT_REST, DISK, Story, Window};
use crate::random::Random;
use crate::service::{Error, Result, Service, scratch};
use crate::torture::check;
use crate::torture::rig::{Disturbance, Rig, violation};
use crate::torture::tally::Tally;
use crate::torture::world::{Operation, Power, World};

/// From so many entries between two flushes on, much may be lost.
const WIDE: usize = 8;

/// How to go about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What all choices follow from.
    pub seed: u64,
    /// Operations that are recorded.
    pub operations: usize,
    /// How often the power is cut.
    pub cuts: usize,
    /// A guest is started after each so many cuts.
    pub start_every: usize,
}

/// What was done and found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Writes and flushes recorded, and bytes written.
    pub recorded: (usize, usize, u64),
    /// Cuts, by what was going on.
    pub cuts: BTreeMap<&'static str, u64>,
    /// Cuts right after an operation's end had been told.
    pub told: u64,
    /// Writes that no flush had followed, and those of them that were lost or torn.
    pub uncertain: (u64, u64),
    /// Snapshots whose fingerprints were compared, and that were started in a throw-away copy.
    pub compared: u64,
    /// See there.
    pub thrown_away: u64,
    /// Machines that were started.
    pub started: u64,
}

/// Records a story and cuts the power as often as planned.
///
/// # Errors
/// With the first thing that is not as it must be.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    let place = scratch()?;
    let mut story = story::record(place.path(), plan.seed, plan.operations)?;
    let flushes = story.replay.log().flushes();
    findings.recorded = (story.replay.log().now() - flushes.len(), flushes.len(), story.replay.log().written());
    let mut random = Random::of_round(plan.seed, u64::MAX);
    let begun = Instant::now();
    for (number, moment) in moments(&story, &flushes, plan.cuts, &mut random).into_iter().enumerate() {
        let cut = story.replay.cut(moment, &mut random);
        let cut = cut.map_err(|source| Error::Io { what: "making a disk after a cut".into(), source })?;
        let Some(window) = story.windows.iter().rfind(|window| window.from <= moment) else { continue };
        println!(
            "{:>5} cut at {moment} of {}, {}{}: {} writes uncertain, {} of them lost or torn ({:.0?})",
            number + 1,
            story.end,
            window.label,
            if window.told { ", told" } else { "" },
            cut.uncertain,
            cut.lost,
            begun.elapsed()
        );
        findings.count(window, &cut);
        let start = (number + 1).is_multiple_of(plan.start_every);
        let tried = try_cut(place.path(), cut, &story, window, start.then_some(number / plan.start_every), findings);
        tried.map_err(|error| violation(&format!("after a cut at moment {moment}, {}: {error}", window.label)))?;
    }
    Ok(())
}

/// Moments to cut at, rising: at every end of an operation that was told; three times within every operation, one of them when most
/// was uncertain; and for the rest at flushes, most of them within operations.
fn moments(story: &Story, flushes: &[usize], cuts: usize, random: &mut Random) -> Vec<usize> {
    let begin = story.windows.first().map_or(0, |window| window.from);
    let gaps: BTreeMap<usize, usize> = flushes.windows(2).map(|pair| (pair[1], pair[1] - pair[0])).collect();
    let (mut must, mut within) = (Vec::new(), Vec::new());
    let ends = story.windows.iter().skip(1).map(|window| window.from).chain([story.end]);
    for (window, end) in story.windows.iter().zip(ends) {
        let inside: Vec<usize> = gaps.range(window.from..end).map(|(flush, _)| *flush).collect();
        if window.told {
            must.push(window.from);
        } else if window.label != AT_REST {
            must.extend(inside.iter().max_by_key(|flush| gaps.get(flush)));
            must.extend(random.choice(&inside));
            must.extend(inside.last());
            within.extend(inside);
        }
    }
    let (begin, end) = (begin, story.end);
    let elsewhere: Vec<usize> = gaps.range(begin..end).map(|(flush, _)| *flush).collect();
    let wide: Vec<usize> = elsewhere.iter().copied().filter(|flush| gaps.get(flush) > Some(&WIDE)).collect();
    must.sort_unstable();
    must.dedup();
    while must.len() > cuts {
        let index = usize::try_from(random.below(must.len() as u64)).unwrap_or(0);
        must.remove(index);
    }
    // Bounded, in case that there are not that many flushes.
    for _ in 0..cuts * 4 {
        if must.len() >= cuts {
            break;
        }
        let among = random.weighted(&[(2, &wide), (2, &within), (1, &elsewhere)]).copied();
        must.extend(among.and_then(|among| random.choice(among)).filter(|moment| !must.contains(moment)));
    }
    must.sort_unstable();
    must
}

/// Lets the service find what a cut left, and compares. `turn` is for those after which a guest is started, counted.
fn try_cut(
    place: &Path,
    cut: Cut,
    story: &Story,
    window: &Window,
    turn: Option<usize>,
    findings: &mut Findings,
) -> Result<()> {
    let mut disk = Export::new(cut, DISK, place)?;
    disk.mount()?;
    let mut worlds: Vec<World> = window.worlds.iter().map(World::unplugged).collect();
    worlds.extend(window.resumed.iter().cloned());
    let service = Service::start_at(place)?;
    let mut rig = Rig::found(service, worlds, story.guard.clone(), story.marks)?;
    let ended = look(&mut rig, turn, findings);
    if ended.is_err() {
        rig.keep_log("powercut.log");
    }
    drop(rig);
    ended.and_then(|()| disk.end().map(drop))
}

fn look(rig: &mut Rig, turn: Option<usize>, findings: &mut Findings) -> Result<()> {
    check::files(rig)?;
    check::images(rig)?;
    check::processes(rig)?;
    findings.compared += rig.compare()?;
    let Some(turn) = turn else { return Ok(()) };
    // In the middle of a write of the guest the disks need not agree, and a boot would only be told that they do not.
    let sure = rig.worlds().windows(2).all(|pair| pair[0].disks == pair[1].disks);
    if turn.is_multiple_of(2) && sure && matches!(rig.world()?.power, Power::Off | Power::Saved(_)) {
        let mut tally = Tally::default();
        let mut random = Random::of_round(0, turn as u64);
        rig.perform(&Operation::Start, Disturbance::None, Duration::ZERO, &mut random, &mut tally)?;
        findings.started += 1;
    } else {
        findings.thrown_away += u64::from(rig.try_one(turn)?);
    }
    Ok(())
}

impl Findings {
    fn count(&mut self, window: &Window, cut: &Cut) {
        *self.cuts.entry(window.label).or_default() += 1;
        self.told += u64::from(window.told);
        self.uncertain.0 += cut.uncertain;
        self.uncertain.1 += cut.lost;
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (writes, flushes, bytes) = self.recorded;
        writeln!(f, "recorded                       {writes} writes, {flushes} flushes, {} MiB", bytes >> 20)?;
        let cuts: Vec<String> = self.cuts.iter().map(|(label, count)| format!("{count} {label}")).collect();
        writeln!(f, "cuts                           {} ({})", self.cuts.values().sum::<u64>(), cuts.join(", "))?;
        writeln!(f, "  just after an end was told   {}", self.told)?;
        let (uncertain, lost) = self.uncertain;
        writeln!(f, "writes not yet flushed         {uncertain}, {lost} of them lost or torn")?;
        writeln!(f, "fingerprints compared          {}", self.compared)?;
        writeln!(f, "started in a throw-away copy   {}", self.thrown_away)?;
        writeln!(f, "machines started               {}", self.started)
    }
}
