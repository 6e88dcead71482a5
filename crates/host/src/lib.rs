//! Hands: carries out the ledger's effects with processes and files, and keeps the store.
//!
//! Nothing is decided here. [`executor::Executor`] takes an effect, tries it once, and reports how it went as a
//! [`ledger::event::Event`]; what QEMU is to be told comes from crate `qemu` as a procedure, which [`drive`] runs over a
//! [`qmp_socket::Monitor`]. A failure says what happened to what and what can be done about it.
//!
//! ```text
//!   effects ──▶ executor ──┬─▶ launch, moment, merge, control ──▶ drive ──▶ qmp_socket ──▶ QEMU
//!                   ▲      ├─▶ disk, inspect, manifest ────────────▶ files
//!   questions ──────│──────├─▶ ask ─▶ screen, keyboard ─▶ QEMU, files
//!   outcomes ◀──────┘      └─▶ machines (live connections) ──▶ process, identity
//! ```
//!
//! Reading order: [`layout`] (where things are), [`store_sqlite`], [`identity`] and [`process`] (processes that outlive
//! us), [`qmp_socket`] and [`drive`] (talking), [`machines`] (who is alive), [`executor`] (what is done),
//! [`capability`] (what this host can do).

pub mod account;
pub mod capability;
pub mod cgroup;
pub mod check;
pub mod drive;
pub mod executor;
pub mod identity;
pub mod inventory;
pub mod layout;
pub mod machines;
pub mod process;
pub mod qmp_socket;
pub mod seal;
pub mod sealer;
pub mod store_sqlite;

mod ask;
mod backing;
mod cancel;
mod checked;
mod control;
mod disk;
mod fault;
mod file_storage;
mod hands;
mod headers;
mod image_lock;
mod images;
mod inspect;
mod keyboard;
mod launch;
mod lent;
mod manifest;
mod merge;
mod moment;
mod screen;
mod spec;
mod tap;

/// The host's clock: microseconds since 1970-01-01T00:00:00Z.
pub fn now() -> ledger::state::Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    ledger::state::Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
