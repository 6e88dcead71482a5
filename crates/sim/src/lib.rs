//! The service in a fake world: real decisions, invented hardware, one seed.
//!
//! ```text
//!   clients ──envelopes──▶ service: wsman, hyperv, ledger ──effects──▶ hands ──steps──▶ world: files, emulators
//!      ▲                       │            │ commits                    │                 │
//!      └──────replies──────────┘            ▼                            └───outcomes──▶ back to the service
//!                                         store
//!   run: picks who moves next, and what goes wrong      model: what every snapshot and every disk must contain
//! ```
//!
//! Nothing here waits or reads a clock. A [`run::Run`] makes one small move at a time: a client asks, a guest writes, one step of
//! one effect is carried out, an outcome arrives, a daemon dies, the power fails. Which one is drawn from the seed, so a seed and a
//! version of the program give the same history every time, down to the last byte.
//!
//! What is real: the protocol machine, the namespace, admission, jobs, recovery, tidying. What is invented: [`files`] (a file system
//! that forgets what was not synced), [`emulator`] (guests, block jobs, memory), [`hands`] (the steps of each effect, in the order
//! in which crate `host` takes them), [`store`]. The invented parts are harsher than real ones wherever a choice had to be made.
//!
//! Reading order: [`run`], [`faults`], [`hands`], [`model`].

pub mod clients;
pub mod emulator;
pub mod every;
pub mod faults;
pub mod files;
pub mod hands;
pub mod images;
pub mod model;
pub mod orders;
pub mod random;
mod recovery;
pub mod run;
pub mod service;
pub mod store;
pub mod tree;
pub mod world;
