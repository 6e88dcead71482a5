//! The server program: brings the parts together and keeps them going.
//!
//! ```text
//!   config ─▶ telemetry ─▶ store locked ─▶ doors bound ─▶ machines observed ─▶ doors open ─▶ ready
//!                                                                                  │ SIGTERM, SIGINT
//!   machines go on running ◀─ pump stopped ◀─ effects at rest ◀─ doors shut ◀──────┘
//! ```
//! Reading order: [`config`], [`door`], [`listen`], [`guest`] and [`http`] (who comes in), [`service`] (envelopes), [`pump`] (the loop).

pub mod accounts;
pub mod admin;
pub mod audit;
pub mod care;
pub mod config;
pub mod door;
pub mod facts;
pub mod following;
pub mod guest;
mod hashers;
pub mod http;
pub mod listen;
pub mod peer;
pub mod places;
pub mod pump;
pub mod rights;
pub mod run;
pub mod service;
mod sock_diag;
pub mod startup;
pub mod telemetry;
pub mod tls;
mod trail;
pub mod users_file;
pub mod watched;

mod world;

pub use config::{Config, Flags};
pub use run::{RunError, serve};

/// Fresh random bytes from the kernel.
fn entropy<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Fails only where there is no such system call, and then every identity would be guessable: stop.
    getrandom::fill(&mut bytes).expect("the kernel has a random source");
    bytes
}
