//! Looks whether store, files and processes agree, says what is wrong, and puts right what can be.
//!
//! ```text
//!   survey (looks at files, the store, processes) ──▶ findings (decides what is wrong; touches nothing) ──▶ people
//!                                                        └─ with `--repair`, and no daemon at work ──▶ repair
//!   recover (what is left of everything) ──▶ ledger::inventory::recover ──▶ a new store
//! ```
//! A check may run beside the daemon. Files are listed before the store is read, so that what a job makes meanwhile is never taken
//! for a left-over, and machines that changed while they were looked at are looked at again. Nothing is ever deleted by a repair: what
//! nobody refers to is moved to `set-aside` in the data directory.

mod findings;
mod recover;
mod repair;
mod survey;
mod users;

pub use findings::{Finding, Repair, Severity};
pub use recover::{Plan, plan, put_in_place};
pub use repair::repair;
pub use survey::{Counts, Report, check};
