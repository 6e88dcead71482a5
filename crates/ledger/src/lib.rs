//! What exists, what is promised, and the only place that decides what happens next.
//!
//! The ledger is pure: it touches no clock, file, socket or process. Everything that can change it arrives as an
//! [`event::Event`]; everything it wants done in the world leaves as an [`effect::Effect`]; and what must survive a
//! power cut leaves as a [`record::Commit`] that the store confirms *before* any effect of the same step is released.
//!
//! ```text
//!   request, outcome, observation            commit (durable)             effects
//!  ───────────────────────────────▶ driver ─────────────────▶ store ──confirm──▶ host
//!                 ▲                    │ publish                                  │
//!                 │                    ▼                                          │
//!                 │               State (readers hold it, immutable)              │
//!                 └───────────────────────── outcomes ────────────────────────────┘
//! ```
//!
//! Reading order: [`state`] (virtual machines, snapshots, layers, memory images, jobs and the invariants between them),
//! [`request`] (what may be asked), [`admission`] (who may do it now), [`job`] (how long work proceeds, step by step),
//! [`layers`] (which disk layers may go and how), [`driver`] (the loop's body and what it does after a restart).
//! [`image_file`] is about files that belong to no machine. [`question`] has what is asked of the world without anything to remember, and does not pass through the driver.

pub mod admission;
pub mod changes;
pub mod driver;
pub mod effect;
pub mod event;
pub mod failure;
pub mod id;
pub mod image_file;
pub mod inventory;
pub mod job;
pub mod layers;
pub mod paths;
pub mod question;
pub mod record;
pub mod request;
pub mod snapshot;
pub mod spec;
pub mod state;
pub mod vm;

mod flow;
