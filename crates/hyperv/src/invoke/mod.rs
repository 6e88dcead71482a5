//! Methods: from a call to requests of the ledger, and from its replies to return values.

mod completion;

pub use completion::{Completion, Outcome};

use cim::Error;
use cim::op::{Answer, Argument, Target};
use ledger::request::Request;

use crate::view::View;

/// What an operation leads to.
#[derive(Debug)]
pub enum Reaction {
    /// The answer to a read.
    Read(Answer),
    /// A method call that is answered already: refused, or without effect.
    Done(Outcome),
    /// A method call that the ledger has to decide on.
    Submit(Submission),
}

/// Requests that carry out a method call.
#[derive(Debug)]
pub struct Submission {
    /// To be submitted one after the other; a refusal ends the sequence. With [`Completion::wait_for_job`], a job is
    /// waited for before the next request, and one that did not complete ends the sequence.
    pub requests: Vec<Request>,
    /// Makes the outcome from the replies.
    pub completion: Completion,
}

/// Carries a method call as far as it goes without changing anything.
///
/// # Errors
/// Calls that WMI itself refuses: no such class, instance or method, arguments that do not fit the declaration.
pub fn invoke(
    view: &View,
    target: &Target,
    method: &str,
    arguments: Vec<(String, Argument)>,
) -> Result<Reaction, Error> {
    let _ = (view, arguments);
    Err(Error::method_not_found(&target.class, method))
}
