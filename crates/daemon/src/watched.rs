//! Files that may change while the daemon runs: the users file, the certificate and its key.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What changes whenever a file is written or replaced: device, inode, size, and times to the nanosecond. The default is
/// that of a file that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Option<[i64; 7]>);

impl Stamp {
    /// That of the file of this name now.
    pub fn of(path: &Path) -> Self {
        std::fs::metadata(path).map(|metadata| Self::from(&metadata)).unwrap_or_default()
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        // Bits are compared, not numbers.
        let bits = |number: u64| number.cast_signed();
        Self(Some([
            bits(metadata.dev()),
            bits(metadata.ino()),
            bits(metadata.size()),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ]))
    }
}
