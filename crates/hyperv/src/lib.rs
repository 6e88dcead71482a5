//! Hyper-V's WMI namespace `root\virtualization\v2` over the ledger's state, and the host as `root\cimv2` shows it.
//!
//! ```text
//!   Operation ──▶ answer ──▶ Answer                          reads, refusals, calls without effect
//!                   │
//!                   └──────▶ Submission { requests, completion }
//!                                 │  the daemon submits the requests, in order
//!                                 ▼
//!                            completion.finish(state, replies) ──▶ Outcome
//!                   └──────▶ Inquiry { questions } ── the daemon asks the host ──▶ finish(answers) ──▶ Outcome
//! ```
//!
//! This crate knows no XML and no QEMU. A [`View`] is all it sees: the schema, the host's name and the like, one immutable
//! [`ledger::state::State`], and what time it is. Rows are made one by one while a client pulls them, from the state of
//! the moment the enumeration began.
//!
//! Reading order: [`object`] (what can be named, and how), [`class`] (one file for each class: which property says
//! what), [`assoc`] (which objects are connected), [`read`] (queries), [`invoke`] (methods), [`inquiry`] (those that ask
//! the world), [`role`] (who may call them), [`events`] (subscriptions), [`codes`] (the numbers).

pub mod assoc;
mod cimv2;
pub mod class;
pub mod codes;
pub mod events;
pub mod inquiry;
pub mod invoke;
mod keys;
pub mod object;
pub mod read;
pub mod role;
pub mod schema;
pub mod view;

mod part;
mod pool;
mod switch;
mod world;

use cim::Error;
use cim::op::{Answer, Operation};

pub use events::Subscription;
pub use inquiry::Inquiry;
pub use invoke::{Completion, Outcome, Reaction, Submission};
pub use role::Role;
pub use schema::Namespaces;
pub use view::{Host, View};

/// Answers an operation, or says which requests it takes.
///
/// # Errors
/// What WMI itself refuses: unknown namespaces, classes, instances, methods and arguments, and queries that cannot be
/// read. A refusal by the service is no error but an [`Outcome`] with its return value.
pub fn answer(view: &View, operation: Operation) -> Result<Reaction, Error> {
    let read = |answer| Ok(Reaction::Read(answer));
    match operation {
        Operation::Get { target } => read(Answer::Instance(Box::new(read::get(view, &target)?))),
        Operation::Enumerate { namespace, query } => read(Answer::Rows(read::enumerate(view, &namespace, query)?)),
        Operation::Subscribe { namespace, query } => {
            Ok(Reaction::Follow(Box::new(Subscription::new(view, &namespace, &query)?)))
        }
        Operation::GetClass { namespace, class } => {
            let schema = view.schema(&namespace)?;
            let found = schema.class(&class).ok_or_else(|| Error::invalid_class(&class))?;
            read(Answer::Class(found.clone()))
        }
        Operation::Invoke { target, method, arguments } => invoke::invoke(view, &target, &method, arguments),
    }
}
