//! The waist of the system: the CIM object model, its notations, and the operations every front end speaks.
//!
//! ```text
//!   notations                     model                          operations
//!   mof  embedded  xml  wql  ->   value datetime path       ->   op (Operation, Answer)
//!                                 class schema instance          status (Error)
//! ```
//!
//! Front ends turn bytes into an [`op::Operation`] and an [`op::Answer`] back into bytes. The provider answers operations
//! over a [`schema::Schema`] and has never heard of bytes. Everything here is a function of its arguments: no clock, no
//! files, no sockets, no randomness. What is read from outside is bounded by [`limit`] and never panics.
//!
//! Names (classes, properties, methods, hosts, namespaces) compare without regard to case everywhere, as DSP0004 demands;
//! [`case`] is the one place that knows how.

pub mod case;
pub mod class;
pub mod datetime;
pub mod embedded;
mod hostile_input;
pub mod instance;
pub mod limit;
pub mod mof;
pub mod op;
pub mod path;
pub mod schema;
pub mod status;
pub mod value;
pub mod wql;
pub mod xml;

pub use class::Class;
pub use datetime::DateTime;
pub use instance::Instance;
pub use path::ObjectPath;
pub use schema::Schema;
pub use status::{Error, Status};
pub use value::{CimType, Value};
