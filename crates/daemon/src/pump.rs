//! The one task that owns the driver and the store.
//!
//! ```text
//!  Handle::submit ──requests──▶┐                      ┌─▶ effects ──▶ Executor
//!  Executor ───────events─────▶├─▶ driver ─▶ store ─▶ driver ─▶ replies ──▶ Handle::submit
//!  clock ──────────ticks──────▶┘  handle     commit   confirm └─▶ State ────▶ Handle::state
//! ```
//! One event at a time: decided, made durable on a thread that may block, written down beside the machine's files, then published, and
//! only then effects begin and callers are answered. So a caller who has a reply finds what it speaks of in the state.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use host::executor::Executor;
use host::inventory::Keeper;
use ledger::driver::{Driver, Released, Step};
use ledger::event::{Event, Observation, RequestId};
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use ledger::record::{RecordError, Store, StoreError};
use ledger::request::{Reply, Request};
use ledger::state::State;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::telemetry;

/// Requests that wait while the store writes. More callers than that wait to be taken in.
const REQUESTS_WAITING_MAX: usize = 64;
/// Machines looked at at the same time at start; each takes two descriptors.
const OBSERVED_AT_ONCE_MAX: usize = 64;
/// How often finished jobs are looked through and facts recorded that could not be before.
const TICK_SECONDS: u64 = 10;

/// Why the pump did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it holds cannot be understood.
    #[error("the state store cannot be used: {0}")]
    Record(#[from] RecordError),
}

/// What callers hold. Clones reach the same pump.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Submitted>,
    state: watch::Receiver<Arc<State>>,
}

#[derive(Debug)]
struct Submitted {
    request: Request,
    reply: oneshot::Sender<Reply>,
}

impl Handle {
    /// Asks for something and waits until it is decided and durable.
    pub async fn submit(&self, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        let stopping =
            || Reply::Refused(Failure::new(Kind::Failed, "the daemon is stopping").hint("try again when it runs"));
        if self.requests.send(Submitted { request, reply }).await.is_err() {
            return stopping();
        }
        answer.await.unwrap_or_else(|_| stopping())
    }

    /// What exists now.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    /// The states from now on, of which only the latest is kept.
    pub fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    /// The first state, from now on, of which `done` is true. Waits for ever if there is none: give it a time limit.
    pub async fn wait_for(&self, mut done: impl FnMut(&State) -> bool + Send) -> Arc<State> {
        let mut state = self.state.clone();
        let found = state.wait_for(|state| done(state)).await.map(|state| Arc::clone(&state)).ok();
        match found {
            Some(state) => state,
            // The pump has stopped and nothing will change any more.
            None => std::future::pending().await,
        }
    }
}

/// The pump, not yet running.
pub struct Pump<S> {
    driver: Driver,
    store: S,
    inventories: Keeper,
    executor: Executor,
    events: mpsc::UnboundedReceiver<Event>,
    requests: mpsc::Receiver<Submitted>,
    waiting: HashMap<RequestId, oneshot::Sender<Reply>>,
    next_request: RequestId,
    state: watch::Sender<Arc<State>>,
}

impl<S: Store + 'static> Pump<S> {
    /// Reads the store, looks at every machine, and takes up the jobs that were interrupted.
    ///
    /// # Errors
    /// When the store cannot be read or what it holds cannot be understood.
    pub async fn start(
        mut store: S,
        inventories: Keeper,
        paths: ledger::paths::Paths,
        executor: Executor,
        events: mpsc::UnboundedReceiver<Event>,
    ) -> Result<(Self, Handle), StartError> {
        let driver = {
            let (revision, records) = store.load()?;
            Driver::load(revision, &records, paths)?
        };
        let (requests, incoming) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (state, readers) = watch::channel(Arc::new(driver.state().clone()));
        let mut pump = Self {
            driver,
            store,
            inventories,
            executor,
            events,
            requests: incoming,
            waiting: HashMap::new(),
            next_request: 0,
            state,
        };
        for (vm, found) in observe(&pump.executor, pump.driver.to_observe()).await {
            pump = pump.turn(Event::Observed { vm, found }).await;
        }
        Ok((pump, Handle { requests, state: readers }))
    }

    /// Runs until every [`Handle`] is gone, or `stop` becomes true. Facts that have arrived by then are still recorded.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(TICK_SECONDS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                // Facts about the world go before new wishes, and both before the clock.
                biased;
                Some(event) = self.events.recv() => event,
                _ = stop.wait_for(|stop| *stop) => break,
                submitted = self.requests.recv() => match submitted {
                    Some(submitted) => self.admit(submitted),
                    None => break,
                },
                _ = ticks.tick() => Event::Tick,
            };
            self = self.turn(event).await;
        }
    }

    /// Gives a request what it needs to become an event.
    fn admit(&mut self, submitted: Submitted) -> Event {
        let id = self.next_request;
        self.next_request += 1;
        tracing::debug!(id, request = ?submitted.request, "request");
        self.waiting.insert(id, submitted.reply);
        let seed = u128::from_ne_bytes(crate::entropy());
        Event::Request { id, request: submitted.request, seed }
    }

    /// One event, from decision to release.
    async fn turn(self, event: Event) -> Self {
        let asked = match &event {
            Event::Request { request, .. } => format!("{request:?}"),
            _ => String::new(),
        };
        let step = self.driver.handle(event, host::now());
        let (mut this, step, durable) = self.commit(step).await;
        let released = match durable {
            Ok(()) => this.driver.confirm(step),
            Err(error) => {
                tracing::error!(%error, "nothing was recorded");
                this.driver.refuse(step, &error)
            }
        };
        this.publish();
        this.release(released, &asked);
        this
    }

    /// Makes the step durable. Takes the whole pump along, because the store must not be touched meanwhile.
    async fn commit(mut self, step: Step) -> (Self, Step, Result<(), StoreError>) {
        if step.commit.is_none() {
            return (self, step, Ok(()));
        }
        let task = tokio::task::spawn_blocking(move || {
            let durable = step.commit.as_ref().map_or(Ok(()), |commit| self.store.commit(commit));
            if durable.is_ok() {
                self.inventories.keep(self.driver.state(), step.next());
            }
            (self, step, durable)
        });
        match task.await {
            Ok(done) => done,
            // The store and the driver went down with the thread; the service restarts us and the store tells.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Lets readers see the new state. Not compared with the old one: that would cost more than the few pointers of a copy.
    fn publish(&self) {
        let now = Arc::new(self.driver.state().clone());
        let before = self.state.send_replace(Arc::clone(&now));
        if before.revision != now.revision {
            telemetry::jobs_between(&before, &now);
        }
    }

    fn release(&mut self, released: Released, asked: &str) {
        for (id, reply) in released.replies {
            if let Reply::Refused(failure) = &reply {
                telemetry::refused(asked, failure);
            }
            if let Some(waiting) = self.waiting.remove(&id) {
                // A caller who has gone away needs no answer; what was decided holds.
                let _ = waiting.send(reply);
            }
        }
        for id in released.cancels {
            self.executor.cancel(id);
        }
        for (id, effect) in released.effects {
            self.executor.start(id, effect);
        }
    }
}

/// Looks at all machines, many at a time: one whose process does not answer must not hold up thousands that have none.
async fn observe(executor: &Executor, vms: BTreeSet<VmId>) -> Vec<(VmId, Observation)> {
    let total = vms.len();
    let places = Arc::new(Semaphore::new(OBSERVED_AT_ONCE_MAX));
    let mut looks = JoinSet::new();
    for vm in vms {
        let (executor, places) = (executor.clone(), Arc::clone(&places));
        looks.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            (vm, executor.observe(vm).await)
        });
    }
    let mut observed = looks.join_all().await;
    // The order in which machines answer is chance; the order in which the driver hears of them is not.
    observed.sort_by_key(|(vm, _)| *vm);
    let alive: Vec<_> = observed.iter().filter(|(_, found)| *found != Observation::NoProcess).collect();
    for (vm, found) in &alive {
        tracing::info!(%vm, ?found, "machine observed");
    }
    tracing::info!(machines = total, processes = alive.len(), "machines observed");
    observed
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use ledger::id::JobId;
    use ledger::job::JobState;
    use ledger::request::Definition;
    use ledger::vm::{Firmware, SnapshotKind};

    use super::*;
    use crate::world::{MemoryStore, World};

    fn define(name: &str) -> Request {
        Request::DefineVm(Definition {
            name: name.to_owned(),
            notes: String::new(),
            processors: 1,
            memory_mib: 128,
            firmware: Firmware::Bios,
            bios_guid: None,
            snapshot_kind: SnapshotKind::Standard,
        })
    }

    fn job(reply: Reply) -> JobId {
        match reply {
            Reply::Job(job) => job,
            other => panic!("{other:?}"),
        }
    }

    async fn end_of(handle: &Handle, job: JobId) -> JobState {
        let state = handle.wait_for(|state| state.jobs.get(&job).is_some_and(|job| job.state.is_final())).await;
        state.jobs[&job].state.clone()
    }

    #[tokio::test]
    async fn what_is_answered_is_published_and_survives() {
        let store = MemoryStore::default();
        let world = World::start(store.clone()).await;
        let id = job(world.handle.submit(define("web")).await);
        assert!(world.handle.state().jobs.contains_key(&id), "a caller finds what the reply speaks of");
        assert_eq!(end_of(&world.handle, id).await, JobState::Completed);
        let before = world.handle.state();
        let vm = before.vms.values().next().unwrap().id;
        let (data, run) = (world.directory.path().join("data"), world.directory.path().join("run"));
        let layout = host::layout::Layout::new(&data, &run, host::account::Accounts::Own).unwrap();
        let described = host::inventory::read(&layout.inventory(vm)).unwrap();
        assert_eq!(Some(described.inventory.records), ledger::inventory::of(&before, vm).map(|it| it.records));
        world.end().await;

        let world = World::start(store).await;
        let after = world.handle.state();
        assert_eq!((after.revision, &after.vms), (before.revision, &before.vms));
        world.end().await;
    }

    #[tokio::test]
    async fn a_store_that_fails_refuses_and_nothing_changes() {
        let store = MemoryStore::default();
        let world = World::start(store.clone()).await;
        store.broken.store(true, Ordering::SeqCst);
        let before = world.handle.state();
        let Reply::Refused(failure) = world.handle.submit(define("web")).await else { panic!("accepted") };
        assert!(failure.message.contains("on fire"), "{failure}");
        assert_eq!(*world.handle.state(), *before);

        store.broken.store(false, Ordering::SeqCst);
        let id = job(world.handle.submit(define("web")).await);
        assert_eq!(end_of(&world.handle, id).await, JobState::Completed);
        world.end().await;
    }

    #[tokio::test]
    async fn requests_after_the_end_are_refused() {
        let world = World::start(MemoryStore::default()).await;
        let handle = world.handle.clone();
        world.end().await;
        let Reply::Refused(failure) = handle.submit(define("web")).await else { panic!("accepted") };
        assert_eq!(failure.message, "the daemon is stopping");
    }
}
