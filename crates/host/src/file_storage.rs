//! A file as crate `qemu` reads and writes it: at offsets, with holes.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use qemu::mapped_ram::{Storage, StorageError};
use qemu::procedure::HostFailure;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// Zeroes written at once where holes cannot be made.
const ZERO_CHUNK: usize = 1 << 20;

/// A file open for reading and writing.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
}

impl FileStorage {
    /// Opens `path`, making it if told so.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, create: bool) -> Result<Self, HostFailure> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false).mode(0o600);
        let file =
            options.open(path).map_err(|error| HostFailure(format!("could not open {}: {error}", path.display())))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens `path` to be looked at.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn read_only(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: File::open(path)?, path: path.to_owned() })
    }

    /// Lets the system use the memory that a range is cached in for something else: it was read once and will not be soon.
    pub fn forget_cached(&self, range: Range<u64>) {
        let length = std::num::NonZeroU64::new(range.end.saturating_sub(range.start));
        // Advice; a file system that does not take it is none the worse.
        let _ = rustix::fs::fadvise(&self.file, range.start, length, rustix::fs::Advice::DontNeed);
    }

    fn failed(&self, what: &str, error: impl Into<std::io::Error>) -> StorageError {
        StorageError(format!("could not {what} {}: {}", self.path.display(), error.into()))
    }

    fn write_zeroes(&mut self, range: Range<u64>) -> Result<(), StorageError> {
        let zeroes = vec![0; ZERO_CHUNK];
        let mut offset = range.start;
        while offset < range.end {
            let count = usize::try_from(range.end - offset).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
            self.write_at(offset, zeroes.get(..count).unwrap_or_default())?;
            offset += count as u64;
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn length(&self) -> Result<u64, StorageError> {
        self.file.metadata().map(|meta| meta.len()).map_err(|error| self.failed("examine", error))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.file.read_exact_at(buffer, offset).map_err(|error| self.failed("read", error))
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write_all_at(bytes, offset).map_err(|error| self.failed("write", error))
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, StorageError> {
        // ENXIO: nothing but hole, or the end, from here on (lseek(2)).
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(self.failed("look for data in", error)),
        };
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))
            .map_err(|error| self.failed("look for holes in", error))?;
        Ok(Some(start..end))
    }

    fn zero(&mut self, range: Range<u64>) -> Result<(), StorageError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, range.start, range.end.saturating_sub(range.start)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => self.write_zeroes(range),
            Err(error) => Err(self.failed("make a hole in", error)),
        }
    }

    fn set_length(&mut self, length: u64) -> Result<(), StorageError> {
        self.file.set_len(length).map_err(|error| self.failed("resize", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_seen_and_made() {
        const MIB: u64 = 1 << 20;
        let root = tempfile::tempdir().unwrap();
        let mut file = FileStorage::open(&root.path().join("f"), true).unwrap();
        file.set_length(8 * MIB).unwrap();
        assert_eq!(file.next_data(0).unwrap(), None);
        file.write_at(2 * MIB, &[7; 4096]).unwrap();
        file.write_at(4 * MIB, &[7; 4096]).unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some(2 * MIB..2 * MIB + 4096));
        file.zero(2 * MIB..2 * MIB + 4096).unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some(4 * MIB..4 * MIB + 4096));
        file.write_zeroes(4 * MIB..4 * MIB + 4096).unwrap();
        let mut read = [1; 4096];
        file.read_at(4 * MIB, &mut read).unwrap();
        assert_eq!(read, [0; 4096]);
        assert!(file.read_at(8 * MIB, &mut read).is_err());
        assert_eq!(file.length().unwrap(), 8 * MIB);
    }
}
