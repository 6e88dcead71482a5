//! The service in the real world: test guests, the agent inside them, fixtures and cases.
//!
//! What every test of a real guest needs is here; the cases are in `tests/`, the programs `demo`, `bench`,
//! `torture`, `powercut` and `sim` in `src/bin/`. `cargo xtask test` builds the guest first and says in `SNAPVISOR_GUEST_DIR` where it is.

pub mod agent;
pub mod fingerprint;
pub mod guest;
pub mod options;
pub mod powercut;
pub mod random;
pub mod realm;
pub mod records;
pub mod service;
pub mod throwaway;
pub mod tool;
pub mod torture;
