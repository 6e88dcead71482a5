//! Whether another process has an image open, by the locks that QEMU takes.
//!
//! QEMU marks what it does with an image by byte-range locks: byte `100 + p` is locked by who uses permission `p`, byte
//! `200 + p` by who does not share it; write is permission 1 (QEMU `block/file-posix.c`, `RAW_LOCK_PERM_BASE`). We only
//! ask whether those bytes are locked, and lock nothing ourselves.

use std::fs::File;
use std::io;

use rustix::process::{Flock, FlockOffsetType, FlockType};

/// Byte locked by who writes.
const WRITER_BYTE: u64 = 101;

/// Byte locked by who wants nobody to write.
const NO_WRITERS_BYTE: u64 = 201;

/// How others use an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nobody that says so.
    Free,
    /// Somebody relies on it not changing, as the base of a running machine.
    Read,
    /// Somebody writes to it.
    Written,
}

/// Looks at the locks of an open file.
///
/// # Errors
/// When the file system has no locks.
pub fn used_by_others(file: &File) -> io::Result<Use> {
    if is_locked(file, WRITER_BYTE)? {
        return Ok(Use::Written);
    }
    Ok(if is_locked(file, NO_WRITERS_BYTE)? { Use::Read } else { Use::Free })
}

fn is_locked(file: &File, byte: u64) -> io::Result<bool> {
    let wanted =
        Flock { start: byte, length: 1, pid: None, typ: FlockType::WriteLock, offset_type: FlockOffsetType::Set };
    // The answer is the lock in the way, or none. QEMU's are of the kind that belongs to an open file, which the
    // older question sees just as well.
    Ok(rustix::process::fcntl_getlk(file, &wanted)?.is_some_and(|lock| lock.typ != FlockType::Unlocked))
}
