//! QEMU's language: what to say to it, and what its answers and files mean.
//!
//! Nothing here does I/O. The host opens the sockets and files, starts the processes, and drives what this crate decides:
//!
//! ```text
//!   launch ─────────▶ command line ───────────────▶ host starts the process
//!   qmp::Session ◀──▶ bytes of the monitor socket ◀─▶ host
//!   save, restore, merge ─ Procedure ─▶ procedure::Run ◀─ Action/Input ─▶ host
//!   mapped_ram, qcow2 ── over a read-at trait ─────▶ host's files
//! ```
//!
//! Reading order: [`qmp`] (the wire), [`version`] (who is at the other end), [`graph`] (block nodes and their names),
//! [`launch`] (a machine as arguments), [`procedure`] (the shape of every longer conversation), [`save`], [`restore`],
//! [`merge`] (the conversations), [`mapped_ram`], [`qcow2`] and [`screen`] (the files).

pub mod graph;
pub mod launch;
pub mod mapped_ram;
pub mod merge;
pub mod procedure;
pub mod qcow2;
pub mod qmp;
pub mod restore;
pub mod save;
pub mod screen;
pub mod version;

#[cfg(test)]
mod fake;
