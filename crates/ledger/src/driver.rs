//! The loop's body: events in; commits, then effects and replies out.
//!
//! The caller owns the loop, the clock, the store and the hands. One turn is:
//!
//! ```text
//! step = driver.handle(event, now)
//! match step.commit {            // nothing has been published or started yet
//!     Some(commit) => match store.commit(&commit) {
//!         Ok(())     => driver.confirm(step),
//!         Err(error) => driver.refuse(step, &error),
//!     },
//!     None => driver.confirm(step),
//! }                              // -> effects to start, effects to cancel, replies to send
//! ```
//! So no effect starts and no reply leaves before what it rests on is durable. If the store fails, a request is refused;
//! an outcome or an observation, which is a fact about the world, is kept and goes before the next event, at the latest a tick.

use std::collections::{BTreeSet, VecDeque};

use crate::effect::{Effect, EffectId};
use crate::event::{Event, RequestId};
use crate::failure::{Failure, Kind};
use crate::flow::Turn;
use crate::id::VmId;
use crate::paths::Paths;
use crate::record::{Commit, RecordError, StoreError, Stored, difference, rebuild};
use crate::request::Reply;
use crate::state::{State, Timestamp};

/// Decides what happens next.
#[derive(Clone, Debug)]
pub struct Driver {
    paths: Paths,
    /// What readers see: the durable state, plus progress of running jobs.
    current: State,
    /// What the store holds.
    durable: State,
    /// Facts that could not be recorded yet.
    unrecorded: VecDeque<Event>,
}

/// What one event leads to, once its commit is durable.
#[derive(Debug)]
pub struct Step {
    /// To be made durable first. `None` if nothing durable changes.
    pub commit: Option<Commit>,
    event: Event,
    next: State,
    released: Released,
}

/// What may happen now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Effects to start, each as its own task.
    pub effects: Vec<(EffectId, Effect)>,
    /// Effects to end early. Their outcome is still expected.
    pub cancels: Vec<EffectId>,
    /// Answers to requests.
    pub replies: Vec<(RequestId, Reply)>,
}

impl Step {
    /// What exists once the commit is durable.
    pub fn next(&self) -> &State {
        &self.next
    }
}

impl Driver {
    /// A driver for what the store holds. `paths` says where new files go.
    ///
    /// The caller then sends one [`Event::Observed`] for each of [`Driver::to_observe`], before anything else.
    ///
    /// # Errors
    /// When records are damaged, from a newer program, or break the invariants of [`State`].
    pub fn load(revision: u64, records: &[Stored], paths: Paths) -> Result<Self, RecordError> {
        let state = rebuild(revision, records)?;
        if let Some(broken) = state.check().into_iter().next() {
            let (kind, id) = ("state".into(), revision.to_string());
            return Err(RecordError::Damaged { kind, id, reason: broken });
        }
        Ok(Self { paths, current: state.clone(), durable: state, unrecorded: VecDeque::new() })
    }

    /// What exists now. A clone is cheap and never changes.
    pub fn state(&self) -> &State {
        &self.current
    }

    /// The machines to send an [`Event::Observed`] for after loading: those on record, and those whose removal is unfinished.
    pub fn to_observe(&self) -> BTreeSet<VmId> {
        let removed = self.current.jobs.values().filter(|job| !job.state.is_final()).map(|job| job.vm);
        self.current.vms.keys().copied().chain(removed).collect()
    }

    /// Decides about one event. Nothing is changed until [`Driver::confirm`].
    #[must_use]
    pub fn handle(&self, event: Event, now: Timestamp) -> Step {
        let mut turn = Turn::new(self.current.clone(), now, &self.paths);
        // Progress is shown, but not worth a write.
        let recorded = !matches!(event, Event::Progress { .. });
        if recorded {
            self.unrecorded.iter().for_each(|event| turn.take(event));
        }
        turn.take(&event);
        let (mut next, released) = turn.finish();
        let commit = if recorded { difference(&self.durable, &next) } else { None };
        if commit.is_some() {
            next.revision = self.durable.revision + 1;
        }
        Step { commit, event, next, released }
    }

    /// The step's commit is durable, or there was none.
    pub fn confirm(&mut self, step: Step) -> Released {
        if !matches!(step.event, Event::Progress { .. }) {
            self.unrecorded.clear();
        }
        if step.commit.is_some() {
            self.durable = step.next.clone();
        }
        self.current = step.next;
        step.released
    }

    /// The step's commit could not be made durable.
    pub fn refuse(&mut self, step: Step, error: &StoreError) -> Released {
        match step.event {
            Event::Request { id, .. } => {
                let failure = Failure::new(Kind::Failed, format!("nothing was done, because {error}"))
                    .hint("look at the daemon's log and at the free space of its data directory");
                Released { replies: vec![(id, Reply::Refused(failure))], ..Released::default() }
            }
            Event::Tick | Event::Progress { .. } => Released::default(),
            fact => {
                self.unrecorded.push_back(fact);
                Released::default()
            }
        }
    }
}
