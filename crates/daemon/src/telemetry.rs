//! What the daemon tells the person who runs it: one line on standard error for each thing worth knowing, once.
//!
//! Levels: `error` something is broken and somebody has to act; `warn` a request or a job did not work; `info` the life
//! of the daemon, its machines and jobs; `debug` every request and effect.

use ledger::failure::Failure;
use ledger::job::{Job, JobState};
use ledger::state::State;
use tracing_subscriber::EnvFilter;

/// The filter cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the log filter {filter:?} is wrong: {reason}; expected something like info or debug,host=trace")]
pub struct FilterError {
    filter: String,
    reason: String,
}

/// Begins to log to standard error. Does nothing if logging has begun, as in tests.
///
/// # Errors
/// When the filter cannot be understood.
pub fn init(filter: &str) -> Result<(), FilterError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| FilterError { filter: filter.to_owned(), reason: error.to_string() })?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).try_init();
    Ok(())
}

/// A request was refused.
pub fn refused(request: &str, failure: &Failure) {
    tracing::warn!(request, kind = ?failure.kind, hint = failure.hint.as_deref(), "refused: {failure}");
}

/// Tells of every job that has begun or ended between two states.
pub fn jobs_between(before: &State, after: &State) {
    use imbl::ordmap::DiffItem;
    for item in before.jobs.diff(&after.jobs) {
        match item {
            DiffItem::Add(_, job) => {
                tracing::info!(job = %job.id, vm = %job.vm, kind = ?job.kind, "job begins");
                ended(job);
            }
            DiffItem::Update { old: (_, old), new: (_, job) } if !old.state.is_final() => ended(job),
            DiffItem::Update { .. } | DiffItem::Remove(..) => {}
        }
    }
}

fn ended(job: &Job) {
    let elapsed_ms = job.changed.micros_since(job.submitted) / 1000;
    match &job.state {
        JobState::Running => {}
        JobState::Failed(failure) => {
            let (kind, hint) = (failure.kind, failure.hint.as_deref());
            tracing::warn!(job = %job.id, vm = %job.vm, elapsed_ms, ?kind, hint, "{:?} failed: {failure}", job.kind);
        }
        state => {
            let report = job.report.as_ref();
            let (method, pause_us) =
                (report.map(|report| report.method.as_str()), report.map(|report| report.pause_us));
            tracing::info!(job = %job.id, vm = %job.vm, elapsed_ms, method, pause_us, "{:?} {state:?}", job.kind);
        }
    }
}
