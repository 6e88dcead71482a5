//! The sealer: reads what is frozen and has no seal, when nothing else is to be done.
//!
//! ```text
//!   a state is published ──▶ machines whose frozen files may be others ──▶ one file at a time, at half speed ──▶ sealed
//!                                                                             └─ waits while any effect is under way
//! ```
//! It changes nothing but seals, so that it may be ended at any moment, and begins with all machines when the daemon starts.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::id::VmId;
use ledger::inventory;
use ledger::state::State;
use tokio::sync::watch;

use crate::executor::Executor;
use crate::seal::Sealed;

/// For how long it reads before it lets others have the disk for as long.
const SLICE: Duration = Duration::from_millis(20);

/// Between two looks whether effects are under way.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Runs until no more states come.
pub async fn run(executor: Executor, mut states: watch::Receiver<Arc<State>>) {
    let mut before = Arc::new(State::default());
    let mut waiting: BTreeSet<VmId> = BTreeSet::new();
    loop {
        let now = Arc::clone(&states.borrow_and_update());
        waiting.extend(inventory::changed(&before, &now));
        waiting.extend(now.changed_jobs(&before).iter().flat_map(|change| change.versions()).map(|job| job.vm));
        before = Arc::clone(&now);
        while let Some(vm) = waiting.pop_first() {
            let (executor, state) = (executor.clone(), Arc::clone(&now));
            let work = tokio::task::spawn_blocking(move || seal_machine(&executor, &state, vm));
            // A thread that panicked has said so in the log; the machine's turn comes again with its next change.
            if !work.await.unwrap_or(true) {
                break;
            }
            if states.has_changed().unwrap_or(false) {
                break;
            }
        }
        if waiting.is_empty() && states.changed().await.is_err() {
            return;
        }
    }
}

/// What of a machine is frozen: all layers but its live tops, and all memory images. Nothing while a job or a left-over merge may change
/// it.
pub fn frozen(state: &State, vm: VmId) -> Vec<Sealed> {
    let Some(machine) = state.vms.get(&vm) else { return Vec::new() };
    let merging = state.layers_of(vm).any(|layer| layer.merging.is_some());
    if merging || state.active_job(vm).is_some() {
        return Vec::new();
    }
    let live: BTreeSet<_> = machine.settings.layers().into_iter().map(|(_, layer)| layer).collect();
    let layers = state.layers_of(vm).filter(|layer| !live.contains(&layer.id));
    let layers = layers.map(|layer| Sealed::Layer(layer.id, layer.path.clone(), layer.format));
    layers.chain(state.memories_of(vm).map(|memory| Sealed::Memory(memory.id, memory.path.clone()))).collect()
}

/// Whether it came to the end.
fn seal_machine(executor: &Executor, state: &State, vm: VmId) -> bool {
    let things = frozen(state, vm);
    if things.is_empty() {
        return true;
    }
    let seals = executor.seals();
    let pace = Pace::new(executor);
    seals.tidy(vm, &things);
    for thing in things.iter().filter(|thing| !seals.has(vm, thing)) {
        match seals.seal(vm, thing, &|| pace.keep()) {
            Ok(true) => tracing::debug!(%vm, ?thing, "sealed"),
            Ok(false) => return false,
            // It was deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%vm, ?thing, %error, "could not be sealed"),
        }
    }
    true
}

/// Half of the time for others, and all of it when there is work.
struct Pace<'a> {
    executor: &'a Executor,
    since: std::cell::Cell<Instant>,
}

impl<'a> Pace<'a> {
    fn new(executor: &'a Executor) -> Self {
        Self { executor, since: std::cell::Cell::new(Instant::now()) }
    }

    fn keep(&self) {
        let worked = self.since.get().elapsed();
        if worked >= SLICE {
            std::thread::sleep(worked.min(SLICE * 2));
            self.since.set(Instant::now());
        }
        while !self.executor.is_idle() {
            std::thread::sleep(LOOK_AGAIN);
            self.since.set(Instant::now());
        }
    }
}
