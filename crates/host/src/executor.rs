//! Effects in, outcomes out: one attempt per effect, each a task of its own.
//!
//! ```text
//!   start(id, effect) ──▶ attempt ──▶ Event::Progress … ──▶ Event::Outcome, exactly one
//!   cancel(id) ─────────────┘ the attempt undoes what it did and ends as cancelled, or ends well if it is too late
//! ```
//! The attempts of one daemon end with it; what a half-done one leaves behind is what the ledger's recovery asks for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ledger::effect::{Effect, EffectId};
use ledger::event::{EffectFailure, Event, MachineChange, Observation, Outcome};
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use tokio::sync::{mpsc, watch};

use crate::backing::Rules;
use crate::cancel::{self, Cancel, Canceller};
use crate::capability::Tools;
use crate::cgroup::Groups;
use crate::layout::Layout;
use crate::machines::Machines;
use crate::seal::Seals;
use crate::{control, disk, images, inspect, launch, merge, moment};

/// What the executor works with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where things are.
    pub layout: Layout,
    /// The programs to be used, and what they can do.
    pub tools: Tools,
    /// Where machines' processes are limited.
    pub groups: Groups,
    /// Where backing files may be besides the directories of their images.
    pub image_directories: Vec<PathBuf>,
}

/// Carries out effects. Clones are the same executor.
#[derive(Clone, Debug)]
pub struct Executor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bench: Arc<Bench>,
    attempts: Mutex<HashMap<EffectId, Canceller>>,
    /// Attempts under way, for [`Executor::idle`].
    count: watch::Sender<usize>,
}

/// What every attempt may use.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) setup: Setup,
    pub(crate) machines: Machines,
    pub(crate) seals: Seals,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

/// One try at one effect.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) bench: Arc<Bench>,
    pub(crate) id: EffectId,
    pub(crate) cancel: Cancel,
}

/// How an attempt ends.
pub(crate) type Ending = Result<Outcome, EffectFailure>;

impl Executor {
    /// An executor that reports to `events`. Needs a running tokio runtime.
    pub fn new(setup: Setup, events: mpsc::UnboundedSender<Event>) -> Self {
        let machines = Machines::new(setup.layout.clone(), events.clone());
        let seals = Seals::new(setup.layout.clone());
        Self(Arc::new(Inner {
            bench: Arc::new(Bench { setup, machines, seals, events }),
            attempts: Mutex::new(HashMap::new()),
            count: watch::Sender::new(0),
        }))
    }

    /// Begins to carry out an effect. Its outcome comes as an event, whatever happens.
    pub fn start(&self, id: EffectId, effect: Effect) {
        let (canceller, cancel) = cancel::pair();
        self.attempts().insert(id, canceller);
        self.0.count.send_modify(|count| *count += 1);
        let attempt = Attempt { bench: Arc::clone(&self.0.bench), id, cancel };
        let this = self.clone();
        tokio::spawn(async move {
            tracing::debug!(job = %id.job, number = id.number, ?effect, "effect begins");
            // In a task of its own, so that even a bug in it ends in an outcome and not in a job that never ends.
            let outcome = match tokio::spawn(attempt.clone().run(effect)).await {
                Ok(outcome) => outcome,
                Err(error) => Err(Failure::new(Kind::Failed, format!("a bug in the host part: {error}")).into()),
            };
            tracing::debug!(job = %id.job, number = id.number, ?outcome, "effect ended");
            this.attempts().remove(&id);
            // Nobody listens only if the daemon is going down; the next one asks again.
            let _ = attempt.bench.events.send(Event::Outcome { effect: id, outcome });
            this.0.count.send_modify(|count| *count -= 1);
        });
    }

    /// Asks an effect to end early. It still ends with an outcome; one that has ended or is unknown is left alone.
    pub fn cancel(&self, id: EffectId) {
        if let Some(canceller) = self.attempts().get(&id) {
            canceller.cancel();
        }
    }

    /// What there is of a machine, for [`Event::Observed`] at the start of the daemon. A process that can be talked to
    /// is watched from now on.
    pub async fn observe(&self, vm: VmId) -> Observation {
        self.0.bench.machines.observe(vm).await
    }

    /// Returns when no effect is under way. Machines go on running.
    pub async fn idle(&self) {
        // The sender is ours, so the channel cannot end.
        let _ = self.0.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Whether no effect is under way.
    pub fn is_idle(&self) -> bool {
        *self.0.count.borrow() == 0
    }

    /// The seals of frozen files.
    pub fn seals(&self) -> &Seals {
        &self.0.bench.seals
    }

    pub(crate) fn bench(&self) -> Arc<Bench> {
        Arc::clone(&self.0.bench)
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, HashMap<EffectId, Canceller>> {
        // Nothing is done under the lock that could panic half-way.
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bench {
    pub(crate) fn rules(&self) -> Rules {
        Rules::new(&self.setup.layout, &self.setup.image_directories)
    }
}

impl Attempt {
    async fn run(self, effect: Effect) -> Ending {
        if self.cancel.is_requested() && !is_cleanup(&effect) {
            return Err(Failure::new(Kind::Cancelled, "cancelled before it began").into());
        }
        match effect {
            Effect::PrepareVm { vm, nvram } => disk::prepare_vm(&self, vm, nvram).await,
            Effect::InspectImage { path, format } => inspect::inspect(&self, path, format).await,
            Effect::CreateOverlays { vm, overlays, ground, foundation } => {
                disk::create_overlays(&self, vm, overlays, ground, foundation).await
            }
            Effect::Capture { spec, overlays, memory, resume } => {
                moment::capture(&self, spec, overlays, memory, resume).await
            }
            Effect::AbortCapture { vm, overlays, resume } => moment::abort(&self, vm, overlays, resume).await,
            Effect::Save { spec, memory } => moment::save(&self, spec, memory).await,
            Effect::Launch { spec, memory } => launch::launch(&self, spec, memory).await,
            Effect::Control { vm, action } => control::control(&self, vm, action).await,
            Effect::Measure { images } => disk::measure(images).await,
            Effect::Merge { vm, order, live } => merge::merge(&self, vm, order, live).await,
            Effect::Describe { moments } => moment::describe(&self, moments).await,
            Effect::LocateImages { work } => images::locate(&self, work).await,
            Effect::WorkOnImage { work, draft } => images::work(&self, work, draft).await,
            Effect::RemoveImage { path } => images::remove(path).await,
            Effect::Delete { paths } => disk::delete(&self, paths).await,
        }
    }

    /// Reports how far the attempt is.
    pub(crate) fn progress(&self, done: u64, total: u64, activity: &str) {
        let activity = activity.to_owned();
        let _ = self.bench.events.send(Event::Progress { effect: self.id, done, total, activity });
    }

    /// Passes on news of a machine.
    pub(crate) fn tell(&self, vm: VmId, change: MachineChange) {
        let _ = self.bench.events.send(Event::Machine { vm, change });
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.bench.setup.layout
    }

    pub(crate) fn tools(&self) -> &Tools {
        &self.bench.setup.tools
    }

    /// Which files images may lie on.
    pub(crate) fn rules(&self) -> Rules {
        self.bench.rules()
    }

    pub(crate) fn machines(&self) -> &Machines {
        &self.bench.machines
    }
}

/// Effects that bring things in order again; they are carried out even if somebody has lost interest.
fn is_cleanup(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::AbortCapture { .. } | Effect::Delete { .. } | Effect::RemoveImage { .. } | Effect::Control { .. }
    )
}
