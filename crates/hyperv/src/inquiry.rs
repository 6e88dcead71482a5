//! Calls that are answered by the world and change nothing in the ledger: what to ask, and what the answers mean.

use cim::{Instance, Value};
use ledger::failure::Failure;
use ledger::question::{Answer, ImageFacts, Question};

use crate::invoke::Outcome;
use crate::view::View;

/// Questions that carry out a method call.
pub struct Inquiry {
    /// To be asked, all at once if that is handy.
    pub questions: Vec<Question>,
    meaning: Meaning,
}

/// What becomes of the answers.
enum Meaning {
    /// `ImageData`: the only answer is its pixels.
    ImageData,
    /// `keyState`: whether a key is down.
    KeyState,
    /// An instance that describes an image file.
    Image { output: &'static str, view: Box<View>, describe: fn(&View, &ImageFacts) -> Instance },
    /// Nothing but that it is done.
    Typed,
    /// `SummaryInformation`: pictures that belong into some of the summaries, in the order of the questions.
    Summaries { summaries: Vec<Instance>, pictures: Vec<Thumbnail> },
}

/// A place for a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thumbnail {
    /// Which of the summaries.
    pub summary: usize,
    /// Pixels of a row.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl Inquiry {
    /// One picture, as `GetVirtualSystemThumbnailImage` gives it.
    pub(crate) fn image_data(question: Question) -> Self {
        Self { questions: vec![question], meaning: Meaning::ImageData }
    }

    /// Whether a key is down, as `IsKeyPressed` says it.
    pub(crate) fn key_state(question: Question) -> Self {
        Self { questions: vec![question], meaning: Meaning::KeyState }
    }

    /// A description of an image file, as the output of this name.
    pub(crate) fn image(
        question: Question,
        output: &'static str,
        view: &View,
        describe: fn(&View, &ImageFacts) -> Instance,
    ) -> Self {
        let view = Box::new(view.clone());
        Self { questions: vec![question], meaning: Meaning::Image { output, view, describe } }
    }

    /// Keys to be typed.
    pub(crate) fn typed(question: Question) -> Self {
        Self { questions: vec![question], meaning: Meaning::Typed }
    }

    /// Pictures for summaries; each question with the place of its answer.
    pub(crate) fn summaries(summaries: Vec<Instance>, asked: Vec<(Question, Thumbnail)>) -> Self {
        let (questions, pictures) = asked.into_iter().unzip();
        Self { questions, meaning: Meaning::Summaries { summaries, pictures } }
    }

    /// The outcome, from one answer for each question, in their order.
    pub fn finish(self, answers: Vec<Result<Answer, Failure>>) -> Outcome {
        match self.meaning {
            Meaning::ImageData => one("ImageData", answers),
            Meaning::KeyState => one("keyState", answers),
            Meaning::Image { output, view, describe } => match answers.into_iter().next() {
                Some(Ok(Answer::Image(facts))) => {
                    Outcome::done(vec![(output.to_owned(), Some(describe(&view, &facts).into()))])
                }
                Some(Err(failure)) => Outcome::refused(failure),
                _ => Outcome::done(Vec::new()),
            },
            Meaning::Typed => match answers.into_iter().next() {
                Some(Err(failure)) => Outcome::refused(failure),
                _ => Outcome::done(Vec::new()),
            },
            Meaning::Summaries { mut summaries, pictures } => {
                for (Thumbnail { summary, width, height }, answer) in pictures.into_iter().zip(answers) {
                    // A summary without its picture is of use; a call that fails because one machine is busy is not.
                    let (Some(summary), Ok(Answer::Picture(pixels))) = (summaries.get_mut(summary), answer) else {
                        continue;
                    };
                    *summary = std::mem::replace(summary, Instance::new(summary.class()))
                        .with("ThumbnailImage", Value::Octets(pixels))
                        .with("ThumbnailImageWidth", width)
                        .with("ThumbnailImageHeight", height);
                }
                let summaries = summaries.into_iter().map(Value::from).collect();
                Outcome::done(vec![("SummaryInformation".to_owned(), Some(Value::Array(summaries)))])
            }
        }
    }
}

/// The outcome of a call with one output, which is the only answer.
fn one(output: &str, answers: Vec<Result<Answer, Failure>>) -> Outcome {
    let value = match answers.into_iter().next() {
        Some(Ok(Answer::Picture(pixels))) => Some(Value::Octets(pixels)),
        Some(Ok(Answer::Pressed(pressed))) => Some(Value::Bool(pressed)),
        Some(Ok(Answer::Done | Answer::Image(_))) | None => None,
        Some(Err(failure)) => return Outcome::refused(failure),
    };
    Outcome::done(vec![(output.to_owned(), value)])
}

impl std::fmt::Debug for Inquiry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Inquiry").field(&self.questions).finish()
    }
}
