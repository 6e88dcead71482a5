//! The protocol machine tried with what clients really send, against a toy provider.
//!
//! The corpus holds one request per file, written after what each client's code sends. `server` shows what such a request means and what
//! comes back, `dialects` what may differ without a difference, `limits` what is refused, `events` how they are followed, `client` that our
//! own two ends understand each other, `mutation` that nothing that arrives panics.

#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod client;
mod dialects;
mod events;
mod limits;
mod mutation;
mod server;
mod toy;
