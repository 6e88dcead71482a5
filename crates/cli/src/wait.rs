//! Waiting for a job, with a progress bar where somebody looks.
//!
//! Follows the job's events, and looks at the job when there is one. A server that does not let them be followed is asked
//! again and again: after 5 ms and then more and more rarely, at last ten times a second. Ctrl-C ends the waiting and not
//! the job.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Kind, Result};
use crate::model::Job;
use crate::session::{Session, class, wql_quoted};
use crate::show::printable;

/// First pause between two questions.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause between two questions.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long one request waits for events; Ctrl-C is noticed after no more than that.
const PATIENCE: Duration = Duration::from_millis(500);
/// Jobs that end sooner get no bar: it would only flicker.
const BAR_AFTER: Duration = Duration::from_millis(300);

/// The job as it is now.
///
/// # Errors
/// When the daemon cannot be reached, or has forgotten the job.
pub fn job(session: &mut Session, id: &str) -> Result<Job> {
    let bag = session.get(class("Msvm_ConcreteJob").with_key("InstanceID", id))?;
    bag.as_ref().and_then(Job::read).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("there is no job {id}"))
            .hint("finished jobs are forgotten after some minutes; see `snapvisor job list`")
    })
}

/// Waits until the job has ended and gives it back as it ended, well or badly.
///
/// # Errors
/// When the daemon cannot be reached, or the user does not want to wait any longer.
pub fn until_over(session: &mut Session, id: &str) -> Result<Job> {
    let interrupted = Interrupt::watch();
    let mut bar = Bar::new();
    let mut news = News::Unasked;
    let result = loop {
        let job = job(session, id)?;
        if job.is_over() {
            break Ok(job);
        }
        bar.show(&job);
        if interrupted.is_set() {
            break Err(Error::new(Kind::Failed, format!("not waiting any longer; job {id} goes on"))
                .hint(format!("`snapvisor job watch {id}` waits for it"))
                .hint(format!("`snapvisor job cancel {id}` ends it")));
        }
        news = news.wait(session, id)?;
    };
    bar.clear();
    if let News::Followed(context) = news {
        session.unsubscribe(context);
    }
    result
}

/// How we hear of the job.
enum News {
    /// Nobody has been asked yet.
    Unasked,
    /// By its events.
    Followed(String),
    /// By asking again after a pause, because the server has no events for us.
    Polled(Duration),
}

impl News {
    /// Returns when there may be something new. Right after subscribing there may be: what came before was not followed.
    fn wait(self, session: &mut Session, id: &str) -> Result<Self> {
        let asked = match &self {
            Self::Unasked => session.subscribe(&query(id)).map(Self::Followed),
            Self::Followed(context) => session.events(context, PATIENCE).map(|_| self),
            Self::Polled(pause) => {
                std::thread::sleep(*pause);
                Ok(Self::Polled((*pause * 3 / 2).min(PAUSE_MAX)))
            }
        };
        match asked {
            // A refusal is an answer: this server is there, and has to be asked in the old way.
            Err(error) if error.kind != Kind::Unreachable => Ok(Self::Polled(PAUSE_MIN)),
            other => other,
        }
    }
}

fn query(id: &str) -> String {
    let id = wql_quoted(id);
    format!(
        "SELECT * FROM __InstanceModificationEvent WITHIN 0.1 WHERE TargetInstance ISA 'Msvm_ConcreteJob' \
         AND TargetInstance.InstanceID = '{id}'"
    )
}

/// The job as a result: an error if it did not complete.
///
/// # Errors
/// The job's own error.
pub fn completed(job: Job) -> Result<Job> {
    if job.state == "completed" {
        return Ok(job);
    }
    match &job.error {
        Some(error) => {
            let failed = Error::new(Kind::Failed, error.message.clone());
            Err(error.hint.iter().fold(failed, Error::hint))
        }
        None => Err(Error::new(Kind::Failed, format!("{} was cancelled", job.title.to_lowercase()))),
    }
}

/// A progress bar on a terminal, nothing elsewhere.
struct Bar {
    bar: Option<ProgressBar>,
    since: std::time::Instant,
}

impl Bar {
    fn new() -> Self {
        Self { bar: None, since: std::time::Instant::now() }
    }

    fn show(&mut self, job: &Job) {
        if self.bar.is_none() && self.since.elapsed() >= BAR_AFTER && std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3} % {wide_msg}");
            let style = style.expect("a constant template").progress_chars("=> ");
            self.bar = Some(ProgressBar::new(100).with_style(style).with_prefix(printable(&job.title)));
        }
        if let Some(bar) = &self.bar {
            bar.set_message(printable(&job.activity));
            bar.set_position(job.percent);
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Whether Ctrl-C was pressed. The handler stays for the rest of the process, which ends soon after.
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn watch() -> Self {
        let pressed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&pressed);
        // Without a handler Ctrl-C ends us at once, which does no harm: the job is the daemon's.
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() {
            std::thread::spawn(move || {
                let waited = runtime.block_on(tokio::signal::ctrl_c());
                seen.store(waited.is_ok(), Ordering::Relaxed);
            });
        }
        Self(pressed)
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
