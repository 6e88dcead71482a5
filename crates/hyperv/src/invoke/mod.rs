//! Methods: from a call to requests of the ledger, and from its replies to return values.
//!
//! Checks come in a fixed order: the caller may call this, the call fits the declaration (an error of WMI otherwise), references resolve, objects
//! are of the right kind, embedded settings make sense. Whether the machine is in the right state and not busy is the
//! ledger's to say. All of these refusals are return values with words beside them, see [`Outcome`].

mod arguments;
mod changes;
mod completion;
mod computer_system;
mod image_service;
mod job;
mod keyboard;
mod management_service;
mod resources;
mod screen;
mod snapshot_service;
#[cfg(test)]
mod tests;

pub use completion::{Completion, Outcome};

use cim::Error;
use cim::class::Method;
use cim::op::{Answer, Argument, Arguments, Target, bind_arguments};
use ledger::failure::{Failure, Kind};
use ledger::request::Request;

use crate::codes;
use crate::inquiry::Inquiry;
use crate::object::{Object, Part};
use crate::read::find::{find_object, has_instances};
use crate::read::{is_virtualization, known};
use crate::view::View;

/// What an operation leads to.
#[derive(Debug)]
pub enum Reaction {
    /// The answer to a read.
    Read(Answer),
    /// A subscription, which will ask for the present state whenever it is asked for events.
    Follow(Box<crate::events::Subscription>),
    /// A method call that is answered already: refused, or without effect.
    Done(Outcome),
    /// A method call that the world has to answer.
    Ask(Inquiry),
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

/// A method call whose arguments have their types.
pub(crate) struct Call<'a> {
    pub view: &'a View,
    /// The namespace of the call, for paths that do not say theirs.
    pub namespace: &'a str,
    /// What it is called on.
    pub object: Object,
    pub method: &'a Method,
    pub arguments: Arguments,
}

/// Carries a method call as far as it goes without changing anything.
///
/// # Errors
/// Calls that WMI itself refuses: no such class, instance or method, arguments that do not fit the declaration. A class
/// that never has instances here is no error: its methods are not supported.
pub fn invoke(
    view: &View,
    target: &Target,
    method: &str,
    arguments: Vec<(String, Argument)>,
) -> Result<Reaction, Error> {
    let schema = view.schema(&target.namespace)?;
    let asked = known(schema, &target.class)?;
    let declared = schema.family(&asked.name).find_map(|class| class.method(method));
    let declared = asked.method(method).or(declared).ok_or_else(|| Error::method_not_found(&asked.name, method))?;
    if is_virtualization(schema) && !has_instances(schema, &asked.name) {
        return Ok(not_supported(&asked.name, declared));
    }
    let object = find_object(view, target)?;
    let class = known(schema, object.class())?;
    let method = class.method(method).ok_or_else(|| Error::method_not_found(&class.name, method))?;
    if let Some(denied) = crate::role::denial(view.role, &class.name, method)? {
        return Ok(denied);
    }
    let arguments = bind_arguments(schema, method, arguments)?;
    let call = Call { view, namespace: &target.namespace, object, method, arguments };
    let reaction = match object {
        Object::SnapshotService => snapshot_service::invoke(&call),
        Object::ManagementService => management_service::invoke(&call),
        Object::ImageService => image_service::invoke(&call),
        Object::Host | Object::Vm(_) => computer_system::invoke(&call),
        Object::Part(vm, Part::Keyboard) => keyboard::invoke(&call, vm),
        Object::Part(vm, Part::Shutdown) => computer_system::invoke_shutdown(&call, vm),
        Object::Job(job) => job::invoke(&call, job),
        Object::Settings(_)
        | Object::Summary(_)
        | Object::Export(_)
        | Object::Resource(..)
        | Object::Part(..)
        | Object::Switch(_)
        | Object::SwitchService
        | Object::Pool(_)
        | Object::Allocation(_)
        | Object::Definition(..) => Ok(call.not_supported()),
    };
    Ok(reaction.unwrap_or_else(|failure| Reaction::Done(Outcome::refused(failure))))
}

impl Call<'_> {
    /// The answer to a method that is declared and does nothing here.
    fn not_supported(&self) -> Reaction {
        not_supported(self.object.class(), self.method)
    }

    /// Requests whose outcome `completion` knows.
    fn submit(&self, requests: Vec<Request>, completion: Completion) -> Result<Reaction, Failure> {
        Ok(Reaction::Submit(Submission { requests, completion }))
    }

    /// One request that starts a job.
    fn start(&self, request: Request) -> Result<Reaction, Failure> {
        self.submit(vec![request], Completion::job(self.view))
    }
}

fn not_supported(class: &str, method: &Method) -> Reaction {
    let text = format!("{} is not supported by {class}", method.name);
    let failure = Failure::new(Kind::NotSupported, text);
    Reaction::Done(Outcome::refused_with(codes::not_supported(method), failure))
}

/// A refusal because of a parameter.
pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Kind::InvalidParameter, message)
}

/// A refusal because there is no such feature.
pub(crate) fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(Kind::NotSupported, message)
}
