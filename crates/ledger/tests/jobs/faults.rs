//! Where faults strike, and how often.
//!
//! ```text
//!   one fault     at each effect, at each commit of a scenario
//!   two faults    the first at each effect, or a death of the daemon at each commit; the second at each effect and each commit until the
//!                 first is undone or made up for
//!   three faults  a death of the daemon, an undo that fails, and a failure of what comes after it
//! ```

use super::rig::{CommitFault, EffectFault, Fault, Rig, Span};
use super::{Do, SCENARIOS, Scene, parse};
use CommitFault::{DaemonDiesAfter, DaemonDiesBefore, StoreFails};
use EffectFault::{Cancelled, DaemonDies, Fails, FailsLate, MachinesDie, Twice};

/// A scenario that was played without faults, to be gone into again from before any of its actions.
pub struct Course {
    name: &'static str,
    script: Vec<Do>,
    /// As it was before each action.
    scenes: Vec<Scene>,
    /// All effects and commits.
    pub points: Span,
}

impl Course {
    /// Every scenario.
    pub fn all() -> impl Iterator<Item = Self> {
        SCENARIOS.iter().map(|(name, script)| Self::new(name, script))
    }

    fn new(name: &'static str, script: &'static str) -> Self {
        let script = parse(script);
        let mut scene = Scene::new(&[]);
        let mut scenes = Vec::new();
        for action in &script {
            scenes.push(scene.clone());
            scene.run(std::slice::from_ref(action), name);
        }
        let points = Span { effects: 0..scene.rig.effects, commits: 0..scene.rig.commits };
        assert!(points.effects.end > 4 && points.commits.end > 4, "{name} has points to try");
        Self { name, script, scenes, points }
    }

    /// Plays it with some faults. What must hold, holds, or this panics.
    pub fn play(&self, faults: &[Fault]) -> Rig {
        let before = |scene: &Scene| {
            faults.iter().all(|fault| match fault {
                Fault::Effect(at, _) => *at >= scene.rig.effects,
                Fault::Commit(at, _) => *at >= scene.rig.commits,
            })
        };
        let (at, mut scene) = match self.scenes.iter().rposition(before) {
            Some(at) => (at, self.scenes[at].clone()),
            None => (0, Scene::new(faults)),
        };
        scene.rig.faults = faults.to_vec();
        scene.run(&self.script[at..], &format!("{}, {faults:?}", self.name));
        scene.rig
    }
}

pub fn every_effect(fault: EffectFault) {
    for course in Course::all() {
        for at in course.points.effects.clone() {
            course.play(&[Fault::Effect(at, fault)]);
        }
    }
}

pub fn every_commit(fault: CommitFault) {
    for course in Course::all() {
        for at in course.points.commits.clone() {
            course.play(&[Fault::Commit(at, fault)]);
        }
    }
}

/// Effects and commits after a first fault that a second one strikes at. No undo is longer than three; what follows is a job's usual
/// course again.
const AFTERMATH: usize = 4;

/// After a first fault at each effect, a second one at each effect and each commit until all is at rest again. Runs grow with the
/// square of what a job does, so no more kinds meet than lead to ways of their own.
fn every_pair(first: EffectFault, effects: &[EffectFault], commits: &[CommitFault]) {
    after_each(|points| points.effects.clone().map(|at| Fault::Effect(at, first)).collect(), effects, commits);
}

fn after_each(firsts: impl Fn(&Span) -> Vec<Fault>, effects: &[EffectFault], commits: &[CommitFault]) {
    let mut pairs = 0;
    for course in Course::all() {
        for first in firsts(&course.points) {
            let Some(aftermath) = course.play(&[first]).aftermath else { continue };
            let effects = aftermath
                .effects
                .take(AFTERMATH)
                .flat_map(|at| effects.iter().map(move |fault| Fault::Effect(at, *fault)));
            let commits = aftermath
                .commits
                .take(AFTERMATH)
                .flat_map(|at| commits.iter().map(move |fault| Fault::Commit(at, *fault)));
            for second in effects.chain(commits) {
                course.play(&[first, second]);
                pairs += 1;
            }
        }
    }
    assert!(pairs > 1000, "{pairs} pairs of faults");
}

/// Machines that die, as a second fault.
const MACHINES_DIE: EffectFault = MachinesDie { after: true, heard_first: false };

#[test]
fn a_failure_whose_undo_is_disturbed() {
    let effects = [Fails, FailsLate, Twice, DaemonDies, MACHINES_DIE];
    every_pair(Fails, &effects, &[DaemonDiesBefore, DaemonDiesAfter, StoreFails]);
}

#[test]
fn a_failure_after_the_work_whose_undo_is_disturbed() {
    every_pair(FailsLate, &[Fails, FailsLate, Twice, DaemonDies], &[DaemonDiesBefore, DaemonDiesAfter]);
}

#[test]
fn a_cancel_whose_undo_is_disturbed() {
    every_pair(Cancelled, &[Fails, DaemonDies], &[DaemonDiesAfter]);
}

#[test]
fn a_death_of_the_daemon_whose_recovery_is_disturbed() {
    every_pair(DaemonDies, &[Fails, FailsLate, Twice, MACHINES_DIE], &[DaemonDiesAfter, StoreFails]);
}

/// Between a commit and what follows from it nothing of that has happened, which no death after an effect leads to.
#[test]
fn a_death_of_the_daemon_at_a_commit_whose_recovery_is_disturbed() {
    let firsts = |points: &Span| points.commits.clone().map(|at| Fault::Commit(at, DaemonDiesAfter)).collect();
    after_each(firsts, &[Fails, FailsLate, MACHINES_DIE], &[DaemonDiesAfter, StoreFails]);
}

/// An undo that fails leaves it open which layer the process writes to, and a merge settles that. Here this fails, too.
#[test]
fn a_failed_undo_that_is_not_settled() {
    let mut triples = 0;
    for course in Course::all() {
        for at in course.points.commits.clone() {
            let first = Fault::Commit(at, DaemonDiesAfter);
            let Some(undo) = course.play(&[first]).aftermath.and_then(|aftermath| aftermath.effects.min()) else {
                continue;
            };
            for at in undo + 1..=undo + AFTERMATH {
                course.play(&[first, Fault::Effect(undo, Fails), Fault::Effect(at, Fails)]);
                triples += 1;
            }
        }
    }
    assert!(triples > 1000, "{triples} triples of faults");
}

#[test]
fn a_death_of_the_machines_whose_aftermath_is_disturbed() {
    every_pair(MachinesDie { after: false, heard_first: false }, &[Fails, DaemonDies], &[DaemonDiesAfter]);
}
