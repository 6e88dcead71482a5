//! WS-Management (DSP0226, DSP0227, MS-WSMV) as a deterministic machine, both ends.
//!
//! ```text
//!             bytes in                                              bytes out
//!                │                                                      ▲
//!   encoding ─▶ soap ─▶ request ─▶ cim::op::Operation ─▶ (provider) ─▶ reply ─▶ soap ─▶ encoding
//!                │         │ epr, binding                     binding, epr │
//!                └─ fault ─┴──── enumeration, subscription ◀──────────────-┘
//! ```
//!
//! [`server`] turns a request into an operation and the answer into a reply; between the two the caller does what takes time.
//! [`client`] is its mirror, for the command line. Neither opens a socket, reads a clock or makes a random number: time and entropy are
//! arguments, so every exchange can be repeated in a test. What a class means is unknown here: nothing in this crate names Hyper-V.
//!
//! Everything that arrives is bounded before it is believed: bytes, depth, elements and attributes by [`cim::limit`], headers, selectors
//! and enumerations by the constants beside their readers.

mod binding;
mod class_xml;
pub mod client;
pub mod encoding;
pub mod enumeration;
pub mod epr;
pub mod fault;
pub mod ns;
mod reply;
mod request;
pub mod server;
mod soap;
pub mod subscription;

pub use server::{Continuation, HttpReply, Identity, Incoming, Moment, Progress, Pull, Server, Step};
