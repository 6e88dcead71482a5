//! Whether another process has an image open, by the locks that QEMU takes.
//!
//! QEMU marks what it does with an image by byte-range locks: byte `100 + p` is locked by who uses permission `p`, byte
//! `200 + p` by who does not share it; write is permission 1 (QEMU `block/file-posix.c`, `RAW_LOCK_PERM_BASE`). We read
//! them in `/proc/locks`, so we lock nothing, not even for a moment in which a starting emulator would fail.

use std::fs;
use std::io;

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

/// Looks for locks on a file, named by device and inode number.
///
/// # Errors
/// When the kernel does not show its locks.
pub fn used_by_others(device: u64, inode: u64) -> io::Result<Use> {
    Ok(read_locks(&fs::read_to_string("/proc/locks")?, device, inode))
}

fn read_locks(locks: &str, device: u64, inode: u64) -> Use {
    let ranges: Vec<(u64, u64)> = locks.lines().filter_map(|line| read_lock(line, device, inode)).collect();
    let locked = |byte: u64| ranges.iter().any(|(start, end)| (*start..=*end).contains(&byte));
    if locked(WRITER_BYTE) {
        Use::Written
    } else if locked(NO_WRITERS_BYTE) {
        Use::Read
    } else {
        Use::Free
    }
}

/// The range of a granted lock, such as `7: OFDLCK ADVISORY READ -1 fe:00:1234 100 101` (proc_locks(5)); both ends are
/// inside. Lines with an arrow are waiters. QEMU takes the older kind where the kernel lacks the one of open files.
fn read_lock(line: &str, device: u64, inode: u64) -> Option<(u64, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, class, _, _, _, file, start, end] = fields.as_slice() else { return None };
    if !matches!(*class, "OFDLCK" | "POSIX") {
        return None;
    }
    let (numbers, found_inode) = file.rsplit_once(':')?;
    let (major, minor) = numbers.split_once(':')?;
    let major = u32::from_str_radix(major, 16).ok()?;
    let minor = u32::from_str_radix(minor, 16).ok()?;
    // File systems without a device of their own may show another number here than stat does; there the inode decides.
    let anonymous = major == 0 && rustix::fs::major(device) == 0;
    let same = anonymous || rustix::fs::makedev(major, minor) == device;
    if !same || found_inode.parse() != Ok(inode) {
        return None;
    }
    let end = if *end == "EOF" { u64::MAX } else { end.parse().ok()? };
    Some((start.parse().ok()?, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_as_the_kernel_prints_them() {
        let device = rustix::fs::makedev(0xfe, 1);
        let check = |locks: &str, expected: Use| assert_eq!(read_locks(locks, device, 77), expected, "{locks}");
        check("", Use::Free);
        check("1: OFDLCK ADVISORY  READ -1 fe:01:77 100 101", Use::Written);
        check("1: OFDLCK ADVISORY  READ -1 fe:01:77 100 100\n2: OFDLCK ADVISORY  READ -1 fe:01:77 201 201", Use::Read);
        check("1: POSIX  ADVISORY  WRITE 12 fe:01:77 0 EOF", Use::Written);
        check("1: OFDLCK ADVISORY  READ -1 fe:01:78 100 101", Use::Free);
        check("1: OFDLCK ADVISORY  READ -1 fe:02:77 100 101", Use::Free);
        check("1: FLOCK  ADVISORY  WRITE 12 fe:01:77 0 EOF", Use::Free);
        check("1: -> POSIX  ADVISORY  WRITE 12 fe:01:77 0 EOF", Use::Free);
        check("nonsense: a b c d e:f:g h i", Use::Free);
    }
}
