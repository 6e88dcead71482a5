//! Headers of qcow2 images: what an image says of itself, and the bytes of an empty overlay.
//!
//! Reading the header ourselves means that no image is ever probed by a process that could open what it names. Writing it
//! means that a new overlay costs one small write instead of a process. Source: QEMU `docs/interop/qcow2.txt`.

use std::ops::Range;

use crate::graph::Format;

/// Bytes that hold every header we accept: QEMU keeps header, extensions and backing name in the first cluster of 64 KiB, and
/// reads a backing name of at most 1023 bytes.
pub const HEADER_BYTES: usize = 64 << 10;
/// Longest backing file name, as in QEMU.
pub const BACKING_NAME_BYTES_MAX: usize = 1023;

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// File it lies on, as written: relative to the image's directory.
    pub backing_file: Option<String>,
    /// Format of the backing file, as written.
    pub backing_format: Option<String>,
    /// Internal snapshots.
    pub snapshots: u32,
    /// Whether content is encrypted.
    pub encrypted: bool,
    /// Features without which it must not be opened.
    pub incompatible: u64,
    /// Whether its reference counts are written late (compatible feature bit 0): an emulator that is killed leaves them stale.
    pub lazy: bool,
    /// Where the level 1 table lies in the file. Not checked: a damaged header may name any place.
    pub level1: Range<u64>,
}

/// Incompatible feature: reference counts may be stale.
pub const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
/// Incompatible feature: metadata is damaged.
pub const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
/// Incompatible feature: guest data is in another file.
pub const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// Incompatible feature: another compression than zlib.
pub const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
/// Incompatible feature: extended L2 entries.
pub const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Qcow2Error {
    /// It begins otherwise.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// Too old or too new.
    #[error("qcow2 version {version} is not supported, only 2 and 3 are")]
    Version {
        /// The version.
        version: u32,
    },
    /// The header contradicts itself.
    #[error("the qcow2 header is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// It names something we do not do.
    #[error("the qcow2 image {what}, which is not supported")]
    Unsupported {
        /// What it does.
        what: &'static str,
    },
    /// The backing name is longer than the format allows.
    #[error("the backing file name is longer than {BACKING_NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// Sizes are whole sectors.
    #[error("a disk of {size} bytes cannot be made: the size must be a multiple of 512, and at most 2 PiB")]
    Size {
        /// The size.
        size: u64,
    },
}

impl Header {
    /// Reads a header from the beginning of an image, [`HEADER_BYTES`] or the whole file if shorter.
    pub fn read(bytes: &[u8]) -> Result<Self, Qcow2Error> {
        if bytes.get(..4) != Some(MAGIC) {
            return Err(Qcow2Error::NotQcow2);
        }
        let version = u32_at(bytes, 4)?;
        if !(2..=3).contains(&version) {
            return Err(Qcow2Error::Version { version });
        }
        let cluster_bits = u32_at(bytes, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Qcow2Error::Damaged { what: "impossible cluster size" });
        }
        let (incompatible, compatible, length) = match version {
            2 => (0, 0, HEADER_LENGTH_V2),
            _ => (u64_at(bytes, 72)?, u64_at(bytes, 80)?, u32_at(bytes, 100)?),
        };
        Ok(Self {
            version,
            size: u64_at(bytes, 24)?,
            cluster_size: 1 << cluster_bits,
            backing_file: read_backing_file(bytes)?,
            backing_format: read_backing_format(bytes, length)?,
            snapshots: u32_at(bytes, 60)?,
            encrypted: u32_at(bytes, 32)? != 0,
            incompatible,
            lazy: compatible & 1 != 0,
            level1: read_level1(bytes)?,
        })
    }

    /// The same, of an image that may be opened.
    ///
    /// # Errors
    /// As of [`Header::read`] and [`Header::require_plain`].
    pub fn read_plain(bytes: &[u8]) -> Result<Self, Qcow2Error> {
        let header = Self::read(bytes)?;
        header.require_plain()?;
        Ok(header)
    }

    /// Whether its reference counts may be stale.
    pub fn is_dirty(&self) -> bool {
        self.incompatible & INCOMPATIBLE_DIRTY != 0
    }

    /// Refuses images whose content is not all in this file and its backing file, or whose state only a repair can tell.
    pub fn require_plain(&self) -> Result<(), Qcow2Error> {
        let refuse = |what| Err(Qcow2Error::Unsupported { what });
        if self.encrypted {
            return refuse("is encrypted");
        }
        if self.snapshots > 0 {
            return refuse("has internal snapshots");
        }
        if self.incompatible & INCOMPATIBLE_DATA_FILE != 0 {
            return refuse("keeps its data in another file");
        }
        if self.incompatible & INCOMPATIBLE_CORRUPT != 0 {
            return refuse("is marked as corrupt");
        }
        // QEMU repairs it when it opens it for writing, but not when it opens it for reading and writes to it later, as it does to
        // what lies below a merge: then it gives clusters away that are in use (tried with 10.0.2).
        if self.is_dirty() {
            return refuse("was not closed in order, so that its reference counts may be stale");
        }
        let known = INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2;
        if self.incompatible & !known != 0 {
            return refuse("needs a feature unknown to us");
        }
        Ok(())
    }
}

/// A new image: what to write where in an empty file. Everything else is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// Offset and bytes.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Length of the file.
    pub length: u64,
}

/// What a new image lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing<'a> {
    /// As it is to be written into the header: absolute, or relative to the image's directory.
    pub file: &'a str,
    /// Its format.
    pub format: Format,
}

/// An empty version 3 image of 64 KiB clusters. `size` is the size of the disk in bytes.
///
/// Four things, one after the other: header, reference count table, its only block, level 1 table of zeros.
pub fn empty(size: u64, backing: Option<Backing<'_>>) -> Result<NewImage, Qcow2Error> {
    if !size.is_multiple_of(SECTOR_BYTES) || size > SIZE_MAX {
        return Err(Qcow2Error::Size { size });
    }
    let level1_entries = size.div_ceil(CLUSTER_BYTES * (CLUSTER_BYTES / 8)).max(1);
    let level1_clusters = (level1_entries * 8).div_ceil(CLUSTER_BYTES);
    let clusters = 3 + level1_clusters;
    let counts = (0..clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
    let level1_entries = u32::try_from(level1_entries).map_err(|_| Qcow2Error::Size { size })?;
    let pieces = vec![
        (0, header_bytes(size, level1_entries, backing)?),
        (CLUSTER_BYTES, (2 * CLUSTER_BYTES).to_be_bytes().to_vec()),
        (2 * CLUSTER_BYTES, counts),
    ];
    Ok(NewImage { pieces, length: clusters * CLUSTER_BYTES })
}

const MAGIC: &[u8] = b"QFI\xfb";
const HEADER_LENGTH_V2: u32 = 72;
const HEADER_LENGTH_V3: u32 = 104;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Extensions lie in the first cluster, eight bytes at least each.
const EXTENSIONS_MAX: usize = HEADER_BYTES / 8;
const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
const SECTOR_BYTES: u64 = 512;
/// What a level 1 table of 32 MiB, QEMU's limit, can address. Its reference counts fit into one block.
const SIZE_MAX: u64 = 1 << 51;

fn header_bytes(size: u64, level1_entries: u32, backing: Option<Backing<'_>>) -> Result<Vec<u8>, Qcow2Error> {
    let mut extensions = Vec::new();
    if let Some(Backing { format, .. }) = backing {
        let name = format.driver().as_bytes();
        extensions.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
        extensions.extend(u32::try_from(name.len()).unwrap_or_default().to_be_bytes());
        extensions.extend(name);
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend(EXTENSION_END.to_be_bytes());
    extensions.extend(0u32.to_be_bytes());
    let name = backing.map_or("", |backing| backing.file).as_bytes();
    if name.len() > BACKING_NAME_BYTES_MAX {
        return Err(Qcow2Error::NameTooLong);
    }
    let name_length = u32::try_from(name.len()).map_err(|_| Qcow2Error::NameTooLong)?;
    let name_offset = if name.is_empty() { 0 } else { u64::from(HEADER_LENGTH_V3) + extensions.len() as u64 };
    let mut bytes = MAGIC.to_vec();
    bytes.extend(3u32.to_be_bytes());
    bytes.extend(name_offset.to_be_bytes());
    bytes.extend(name_length.to_be_bytes());
    bytes.extend(CLUSTER_BITS.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes.extend(0u32.to_be_bytes()); // no encryption
    bytes.extend(level1_entries.to_be_bytes());
    bytes.extend((3 * CLUSTER_BYTES).to_be_bytes()); // level 1 table
    bytes.extend(CLUSTER_BYTES.to_be_bytes()); // reference count table
    bytes.extend(1u32.to_be_bytes()); // of one cluster
    bytes.extend([0; 12]); // no snapshots
    bytes.extend([0; 24]); // no features
    bytes.extend(4u32.to_be_bytes()); // reference counts of 2^4 bits
    bytes.extend(HEADER_LENGTH_V3.to_be_bytes());
    bytes.extend(extensions);
    bytes.extend(name);
    Ok(bytes)
}

fn read_level1(bytes: &[u8]) -> Result<Range<u64>, Qcow2Error> {
    let (entries, offset) = (u32_at(bytes, 36)?, u64_at(bytes, 40)?);
    Ok(offset..offset.saturating_add(u64::from(entries) * 8))
}

fn read_backing_file(bytes: &[u8]) -> Result<Option<String>, Qcow2Error> {
    let offset = u64_at(bytes, 8)?;
    if offset == 0 {
        return Ok(None);
    }
    let length = usize::try_from(u32_at(bytes, 16)?).unwrap_or(usize::MAX);
    if length > BACKING_NAME_BYTES_MAX {
        return Err(Qcow2Error::NameTooLong);
    }
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    text_at(bytes, start, length).map(Some)
}

fn read_backing_format(bytes: &[u8], header_length: u32) -> Result<Option<String>, Qcow2Error> {
    let mut offset = usize::try_from(header_length).unwrap_or(usize::MAX);
    for _ in 0..EXTENSIONS_MAX {
        let kind = u32_at(bytes, offset)?;
        let length = usize::try_from(u32_at(bytes, offset.saturating_add(4))?).unwrap_or(usize::MAX);
        let data = offset.saturating_add(8);
        match kind {
            EXTENSION_END => return Ok(None),
            EXTENSION_BACKING_FORMAT => return text_at(bytes, data, length).map(Some),
            _ => offset = data.saturating_add(length.min(HEADER_BYTES).next_multiple_of(8)),
        }
    }
    Err(Qcow2Error::Damaged { what: "too many extensions" })
}

fn text_at(bytes: &[u8], start: usize, length: usize) -> Result<String, Qcow2Error> {
    let text = bytes.get(start..start.saturating_add(length)).ok_or(CUT_OFF)?;
    String::from_utf8(text.to_vec()).map_err(|_| Qcow2Error::Damaged { what: "a name is no text" })
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, Qcow2Error> {
    let field = bytes.get(offset..).and_then(<[u8]>::first_chunk).ok_or(CUT_OFF)?;
    Ok(u32::from_be_bytes(*field))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, Qcow2Error> {
    let field = bytes.get(offset..).and_then(<[u8]>::first_chunk).ok_or(CUT_OFF)?;
    Ok(u64::from_be_bytes(*field))
}

const CUT_OFF: Qcow2Error = Qcow2Error::Damaged { what: "it reaches beyond the first 64 KiB or the end of the file" };

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(size: u64) -> Vec<u8> {
        let image = empty(size, Some(Backing { file: "/disks/base,1.raw", format: Format::Raw })).unwrap();
        image.pieces.into_iter().next().unwrap().1
    }

    #[test]
    fn what_is_written_is_read() {
        let header = Header::read(&overlay(1 << 30)).unwrap();
        assert_eq!(header.backing_file.as_deref(), Some("/disks/base,1.raw"));
        assert_eq!(header.backing_format.as_deref(), Some("raw"));
        assert_eq!((header.version, header.size, header.cluster_size), (3, 1 << 30, 65536));
        assert_eq!(header.level1, 3 * 65536..3 * 65536 + 2 * 8);
        assert_eq!(header.require_plain(), Ok(()));
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(empty(513, None), Err(Qcow2Error::Size { size: 513 }));
        assert_eq!(empty(SIZE_MAX + 512, None), Err(Qcow2Error::Size { size: SIZE_MAX + 512 }));
        let largest = empty(SIZE_MAX, None).unwrap();
        assert!(largest.pieces[2].1.len() as u64 <= CLUSTER_BYTES, "one reference count block must do");
        let name = "x".repeat(BACKING_NAME_BYTES_MAX + 1);
        assert_eq!(empty(512, Some(Backing { file: &name, format: Format::Raw })), Err(Qcow2Error::NameTooLong));
    }

    /// Changes the bytes at an offset.
    fn check(offset: usize, bytes: &[u8], expected: &str) {
        let mut image = overlay(1 << 20);
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
        let result = Header::read(&image).and_then(|header| header.require_plain());
        assert_eq!(result.map_or_else(|error| error.to_string(), |()| "fine".into()), expected);
    }

    #[test]
    fn strange_images_are_refused() {
        check(0, b"QFJ", "not a qcow2 image");
        check(4, &9u32.to_be_bytes(), "qcow2 version 9 is not supported, only 2 and 3 are");
        check(20, &30u32.to_be_bytes(), "the qcow2 header is damaged: impossible cluster size");
        check(32, &1u32.to_be_bytes(), "the qcow2 image is encrypted, which is not supported");
        check(60, &1u32.to_be_bytes(), "the qcow2 image has internal snapshots, which is not supported");
        check(72, &4u64.to_be_bytes(), "the qcow2 image keeps its data in another file, which is not supported");
        check(72, &2u64.to_be_bytes(), "the qcow2 image is marked as corrupt, which is not supported");
        check(72, &(1u64 << 40).to_be_bytes(), "the qcow2 image needs a feature unknown to us, which is not supported");
        let stale = "was not closed in order, so that its reference counts may be stale";
        check(72, &1u64.to_be_bytes(), &format!("the qcow2 image {stale}, which is not supported"));
        check(72, &8u64.to_be_bytes(), "fine");
        check(16, &5000u32.to_be_bytes(), "the backing file name is longer than 1023 bytes");
        check(8, &u64::MAX.to_be_bytes(), &CUT_OFF.to_string());
    }

    #[test]
    fn a_header_cut_or_changed_anywhere_never_panics() {
        let image = overlay(1 << 20);
        for length in 0..image.len() {
            assert!(Header::read(&image[..length]).is_err(), "cut to {length}");
        }
        for position in 0..image.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut image = image.clone();
                image[position] = value;
                drop(Header::read(&image));
            }
        }
    }
}
