//! What the commands do, one module for each noun.

pub mod console;
pub mod create;
pub mod disk;
pub mod events;
pub mod generate;
pub mod job;
pub mod keyboard;
pub mod screen;
pub mod snapshot;
pub mod vm;

mod lookup;
