//! Questions: what is asked of a machine or a file without anything to remember.
//!
//! ```text
//!   ask ──▶ [a place in the machine's queue] ──▶ a task of its own ──▶ answer
//!                 └ all taken: busy                    └ too late: the caller goes, the task ends in order
//! ```

use std::sync::Arc;
use std::time::Duration;

use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use ledger::question::{Answer, Question, Screen, Size};
use qemu::screen::Picture;
use tokio::time::Instant;

use crate::executor::{Bench, Executor};
use crate::fault;
use crate::machines::Running;
use crate::{images, keyboard, screen};

/// Questions that one machine has at a time. Answers take some milliseconds, so more than that are not patient people.
pub(crate) const QUESTIONS_MAX: usize = 8;

/// How much longer than its patience a caller waits, so that an answer can say itself how far it came.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Executor {
    /// Asks, and waits no longer than `patience`. Asking begins with the call, so that several questions can be under way.
    ///
    /// # Errors
    /// When there is no answer: the machine has no process, is busy for too long, or cannot be asked this.
    pub fn ask(
        &self,
        question: Question,
        patience: Duration,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send + use<> {
        // In a task of its own: what has begun with the emulator is brought to its end even if nobody waits for it.
        let deadline = Instant::now() + patience;
        let asking = tokio::spawn(answer(self.bench(), question, deadline));
        async move {
            match tokio::time::timeout_at(deadline + LAST_WORDS, asking).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => Err(fault::task(&error)),
                Err(_) => Err(Failure::new(Kind::InUse, "the machine is busy and did not answer in time")
                    .hint("try again when what it works on has ended")),
            }
        }
    }
}

async fn answer(bench: Arc<Bench>, question: Question, deadline: Instant) -> Result<Answer, Failure> {
    match question {
        Question::Screen { screen: Screen::Live(vm), size } => {
            let running = reach(&bench, vm).await?;
            let _place = place(&running)?;
            let picture = screen::look(&running.monitor).await?;
            blocking(move || picture_of(&picture, size)).await
        }
        Question::Screen { screen: Screen::Kept(directory), size } => {
            blocking(move || picture_of(&screen::kept(&directory)?, size)).await
        }
        Question::Type { vm, strokes } => {
            let running = reach(&bench, vm).await?;
            let _place = place(&running)?;
            keyboard::type_keys(&running, strokes, deadline).await.map(|()| Answer::Done)
        }
        Question::Image(path) => blocking(move || images::facts(&bench, &path).map(Answer::Image)).await,
        Question::IsPressed { vm, key } => Ok(Answer::Pressed(reach(&bench, vm).await?.pressed.contains(key))),
    }
}

async fn reach(bench: &Bench, vm: VmId) -> Result<Arc<Running>, Failure> {
    let found = bench.machines.find(vm).await.map_err(|error| fault::monitor("reach the machine", &error))?;
    found.ok_or_else(|| fault::no_process(vm))
}

/// One of the places in the queue of a machine, given back when the returned value is dropped.
fn place(running: &Running) -> Result<tokio::sync::SemaphorePermit<'_>, Failure> {
    running.questions.try_acquire().map_err(|_| {
        Failure::new(Kind::InUse, format!("{QUESTIONS_MAX} others ask the same machine already"))
            .hint("try again in a moment")
    })
}

fn picture_of(picture: &Picture, Size { width, height }: Size) -> Result<Answer, Failure> {
    let scaled = picture.scaled(width.into(), height.into());
    let scaled = scaled.map_err(|error| Failure::new(Kind::InvalidParameter, error.to_string()))?;
    Ok(Answer::Picture(scaled.to_rgb565()))
}

/// Runs what computes or reads files where it may block.
async fn blocking(work: impl FnOnce() -> Result<Answer, Failure> + Send + 'static) -> Result<Answer, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| fault::task(&error))?
}
