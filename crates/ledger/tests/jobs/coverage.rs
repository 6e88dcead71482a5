//! No kind of job and no stage can be forgotten: a new one does not compile until it is listed here, and a test fails until
//! a scenario leads to it.

use std::collections::BTreeSet;

use ledger::job::{JobKind, Stage};
use ledger::state::State;

use super::faults::Course;
use super::rig::{EffectFault, Fault};

/// What was on record in a run, by name.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    kinds: BTreeSet<&'static str>,
    stages: BTreeSet<&'static str>,
}

macro_rules! variants {
    ($all:ident, $name:ident, $of:ident: $($variant:ident)*) => {
        const $all: &[&str] = &[$(stringify!($variant)),*];

        fn $name(of: &$of) -> &'static str {
            match of {
                $($of::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants! { KINDS, kind, JobKind:
    Define Modify DestroyVm Start Restore TurnOff Save Shutdown Pause Resume Reset CreateSnapshot ApplySnapshot DestroySnapshot
    ClearSnapshotState Merge CreateImage ConvertImage ResizeImage MergeImages ValidateImage
}

variants! { STAGES, stage, Stage:
    PreparingVm InspectingImage PreparingSnapshot Capturing AbortingCapture PreparingApply Measuring Merging ResumingAfterMerge
    Describing Deleting Launching LettingRun AbortingLaunch Saving AbortingSave QuittingAfterSave Controlling AwaitingShutdown
    LocatingImages WorkingOnImage RemovingImage Finished
}

/// Stages that only a failure leads to.
const UNDO: &[&str] = &["AbortingCapture", "AbortingLaunch", "AbortingSave"];

impl Seen {
    /// Notes the jobs of a state.
    pub fn note(&mut self, state: &State) {
        self.kinds.extend(state.jobs.values().map(|job| kind(&job.kind)));
        self.stages.extend(state.jobs.values().map(|job| stage(&job.stage)));
    }

    fn add(&mut self, other: Seen) {
        self.kinds.extend(other.kinds);
        self.stages.extend(other.stages);
    }
}

/// The faults strike at every point of every scenario, so what occurs in one without faults has been struck everywhere.
#[test]
fn every_kind_of_job_and_every_stage_occurs_in_a_scenario() {
    let mut seen = Seen::default();
    for course in Course::all() {
        seen.add(course.play(&[]).seen);
    }
    let missing = |all: &[&'static str], seen: &BTreeSet<&str>| -> Vec<&'static str> {
        all.iter().copied().filter(|name| !seen.contains(name)).collect()
    };
    assert_eq!(missing(KINDS, &seen.kinds), Vec::<&str>::new(), "kinds of job in no scenario");
    assert_eq!(missing(STAGES, &seen.stages), UNDO, "stages in no scenario");
}

/// What is undone is undone in stages of its own, and these are struck by the second of two faults.
#[test]
fn every_stage_of_an_undo_follows_some_failure() {
    let mut seen = Seen::default();
    for course in Course::all() {
        for at in course.points.effects.clone() {
            for fault in [EffectFault::Fails, EffectFault::DaemonDies] {
                seen.add(course.play(&[Fault::Effect(at, fault)]).seen);
            }
        }
    }
    let missing: Vec<_> = UNDO.iter().filter(|name| !seen.stages.contains(*name)).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "stages that no failure leads to");
}
