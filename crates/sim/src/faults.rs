//! What can go wrong, where it can strike, and how it does.
//!
//! A fault takes the place of a move. In a history with trouble, which one and when is drawn; in one that is gone through move by
//! move ([`crate::every`]) there is exactly one, at a given move. Either way the history goes on from there as chance has it.

use ledger::effect::{Effect, EffectId};
use ledger::event::Event;
use ledger::failure::Kind;
use ledger::id::VmId;

use crate::hands::Attempt;
use crate::run::{Move, Run};
use crate::service::Death;
use crate::store::Mood;

/// Longest time that a clock jumps by, in microseconds: two days.
const JUMP_MAX_US: u64 = 2 * 86_400_000_000;

/// Most moves that an outcome comes late by.
const DELAY_MAX: usize = 120;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The daemon dies between two steps of what is being done.
    DaemonDies,
    /// The daemon dies before what it has decided is durable.
    DaemonDiesBeforeCommit,
    /// The daemon dies when it is durable and nobody has heard of it.
    DaemonDiesAfterCommit,
    /// A machine's process dies.
    EmulatorDies,
    /// The power fails: all processes die, and what was not synced is lost in part.
    PowerFails,
    /// A step fails without having done anything.
    StepFails,
    /// A step finds no space.
    NoSpace,
    /// A step gets no memory.
    OutOfMemory,
    /// A step is done, but nobody hears of it in time.
    TimesOut,
    /// The store cannot write.
    StoreFails,
    /// The daemon dies and its store is gone; an administrator recovers what the machines say of themselves.
    StoreLost,
    /// All of an effect is done once more before its outcome is told.
    DoneTwice,
    /// An outcome is overtaken by what happens after it.
    OutcomeLate,
    /// An outcome comes a second time, later.
    OutcomeTwice,
    /// The clock is set back by up to two days.
    ClockBack,
    /// The clock is set forward by up to two days.
    ClockForward,
}

impl Fault {
    /// Each of them, by the name it has on command lines and in counts.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::DaemonDies, "daemon-dies"),
        (Self::DaemonDiesBeforeCommit, "daemon-dies-before-commit"),
        (Self::DaemonDiesAfterCommit, "daemon-dies-after-commit"),
        (Self::EmulatorDies, "emulator-dies"),
        (Self::PowerFails, "power-fails"),
        (Self::StepFails, "step-fails"),
        (Self::NoSpace, "no-space"),
        (Self::OutOfMemory, "out-of-memory"),
        (Self::TimesOut, "times-out"),
        (Self::StoreFails, "store-fails"),
        (Self::StoreLost, "store-lost"),
        (Self::DoneTwice, "done-twice"),
        (Self::OutcomeLate, "outcome-late"),
        (Self::OutcomeTwice, "outcome-twice"),
        (Self::ClockBack, "clock-back"),
        (Self::ClockForward, "clock-forward"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(fault, _)| *fault == self).map_or("", |(_, name)| name)
    }

    /// The fault of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(fault, _)| *fault)
    }

    /// Whether it makes a difference in the place of such a move.
    pub fn strikes(self, at: Move) -> bool {
        match self {
            Self::DaemonDies
            | Self::EmulatorDies
            | Self::StepFails
            | Self::NoSpace
            | Self::OutOfMemory
            | Self::TimesOut
            | Self::StoreLost
            | Self::DoneTwice => at == Move::Step,
            Self::PowerFails => matches!(at, Move::Step | Move::Guest),
            Self::DaemonDiesBeforeCommit
            | Self::DaemonDiesAfterCommit
            | Self::StoreFails
            | Self::ClockBack
            | Self::ClockForward => matches!(at, Move::Event | Move::Outcome),
            Self::OutcomeLate | Self::OutcomeTwice => at == Move::Outcome,
        }
    }
}

impl Run {
    /// Something goes wrong.
    pub(crate) fn strike(&mut self, fault: Fault) {
        // What takes the place of a step strikes what is being done, anything else what is heard next.
        let at = if fault.strikes(Move::Step) { self.whereabouts() } else { self.next_event() };
        let name = fault.name();
        *self.findings.faults.entry(name).or_default() += 1;
        self.findings.points.insert(format!("{name}: {at}"));
        self.note(format!("FAULT {name} at {at}"));
        match fault {
            Fault::DaemonDies => self.restart(name),
            Fault::DaemonDiesBeforeCommit => self.take_an_event(Some(Death::BeforeCommit)),
            Fault::DaemonDiesAfterCommit => self.take_an_event(Some(Death::AfterCommit)),
            Fault::EmulatorDies => self.an_emulator_dies(),
            Fault::PowerFails => self.power_fails(),
            Fault::StepFails => self.step_an_attempt(Some(Kind::Failed)),
            Fault::NoSpace => self.step_an_attempt(Some(Kind::NoSpace)),
            Fault::OutOfMemory => self.step_an_attempt(Some(Kind::OutOfMemory)),
            Fault::TimesOut => self.step_an_attempt(Some(Kind::Timeout)),
            Fault::StoreFails => {
                self.store.mood = Mood::Fails;
                self.take_an_event(None);
                self.store.mood = Mood::Well;
                // A fact that could not be recorded is kept until something else happens; the clock sees to it.
                self.service.inbox.push_back(Event::Tick);
            }
            Fault::StoreLost => self.store_is_lost(),
            Fault::DoneTwice => self.an_effect_is_done_twice(),
            Fault::OutcomeLate | Fault::OutcomeTwice => self.an_outcome_is_late(fault == Fault::OutcomeTwice),
            Fault::ClockBack => self.now = self.now.saturating_sub(self.random.bits() % JUMP_MAX_US),
            Fault::ClockForward => self.now += self.random.bits() % JUMP_MAX_US,
        }
    }

    fn an_emulator_dies(&mut self) {
        let all: Vec<VmId> = self.world.emulators.keys().copied().collect();
        if let Some(vm) = self.random.pick(&all).copied() {
            self.emulator_ends(vm);
        }
    }

    fn power_fails(&mut self) {
        self.world.emulators.clear();
        self.world.pressed.clear();
        self.attempts.clear();
        self.world.files.power_cut(&mut self.random);
        let state = self.service.state().clone();
        self.model.power_cut(&state, &self.world);
        self.restart(Fault::PowerFails.name());
    }

    fn an_effect_is_done_twice(&mut self) {
        let may = |attempt: &&Attempt| !matches!(attempt.effect, Effect::Capture { .. } | Effect::Save { .. });
        let ids: Vec<EffectId> = self.attempts.values().filter(may).map(|attempt| attempt.id).collect();
        self.again.extend(self.random.pick(&ids).copied());
    }

    fn an_outcome_is_late(&mut self, in_time_too: bool) {
        let is_outcome = |event: &Event| matches!(event, Event::Outcome { .. });
        let Some(at) = self.service.inbox.iter().position(is_outcome) else { return };
        let due = self.moves + 1 + self.random.below(DELAY_MAX);
        let event = if in_time_too { self.service.inbox.get(at).cloned() } else { self.service.inbox.remove(at) };
        self.late.extend(event.map(|event| (due, event)));
    }

    /// What is being done, and how far it is.
    fn whereabouts(&self) -> String {
        let state = self.service.state();
        let place = |attempt: &Attempt| {
            let job = state.jobs.get(&attempt.id.job);
            let stage = job.map(|job| word(&job.stage)).unwrap_or_default();
            format!("{:?} {stage} {}", job.map(|job| job.kind), attempt.at())
        };
        self.attempts.values().next().map_or_else(|| "rest".to_owned(), place)
    }

    fn next_event(&self) -> String {
        match self.service.inbox.front() {
            None => "rest".to_owned(),
            Some(Event::Outcome { effect, outcome }) => {
                let job = self.service.state().jobs.get(&effect.job);
                let stage = job.map(|job| word(&job.stage)).unwrap_or_default();
                format!("outcome of {stage}, {}", if outcome.is_ok() { "well" } else { "badly" })
            }
            Some(Event::Request { request, .. }) => format!("request {}", word(request)),
            Some(other) => word(other),
        }
    }
}

/// The first word of how something prints.
fn word(thing: &impl std::fmt::Debug) -> String {
    format!("{thing:?}").split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_and_strikes_somewhere() {
        let moves = [Move::Step, Move::Event, Move::Outcome, Move::Guest];
        for (fault, name) in Fault::ALL {
            assert_eq!((Fault::of_name(name), fault.name()), (Some(fault), name));
            assert!(moves.iter().any(|at| fault.strikes(*at)), "{name}");
        }
        assert_eq!(Fault::of_name("rain"), None);
    }
}
