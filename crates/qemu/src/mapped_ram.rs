//! QEMU's mapped-ram migration file: where the pages are, and how to make a saved file ready to be mapped.
//!
//! ```text
//!   "QEVM" 3 │ configuration │ section 1 "ram": for each block: header, bitmap ┄┄ pages (1 MiB aligned) │ … │ devices │ end
//! ```
//!
//! A page is in the file if its bit in the block's bitmap is set; else it is zero. Loaded by QEMU the file is right as it is.
//! *Mapped* as guest memory it is read without the bitmap, so [`seal`] makes both say the same:
//!
//! * a live save may write a page, and find it zero in a later pass: it clears the bit and leaves the old bytes. These are
//!   zeroed, else the mapped guest would see memory it had cleared. It happens: a guest that filled and cleared 200 MiB of
//!   files in memory left up to 67 MiB of such pages in one save;
//! * a background snapshot writes the device state before the pages and never the bitmaps. They are filled: every page in a
//!   data extent was written, and every page in a hole is zero.
//!
//! * the flash of UEFI variables is memory to QEMU, but neither are writes to it noticed nor is it protected (tried with 10.0.2): a live
//!   save may keep what was there before the moment, a background snapshot what came after. Its bits are cleared, and what
//!   QEMU has read from the image stays, which is of the moment.
//!
//! Then comes the *sidecar*: a sparse file that is the stream without the pages of [`RAM`](crate::launch::RAM) and with
//! that block's bitmap all zero, so that loading it fills in everything but the mapped memory. QEMU never zeroes pages
//! whose bit is clear when it loads with `-incoming` (as of 10.2 it does so for `loadvm` only, where RAM may be used).
//!
//! Integers are big-endian, bitmaps little-endian by bytes. Sources: QEMU `migration/ram.c` and `migration/savevm.c`,
//! `docs/devel/migration/mapped-ram.rst`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::launch::RAM;

/// Block of the flash that holds UEFI variables: the second one of the machine, `pflash1`.
const FLASH: &str = "system.flash1";

/// Most bytes of headers read. A machine type name and a few capability names take some hundred bytes.
pub const HEADER_BYTES_MAX: u64 = 64 << 10;
/// Most RAM blocks. A machine of ours has below ten; QEMU knows no limit.
pub const BLOCKS_MAX: usize = 256;
/// Largest block: 52-bit physical addresses, and room to add offsets without overflow.
pub const BLOCK_BYTES_MAX: u64 = 1 << 52;
/// Bytes moved at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A random-access file. The host implements it over a real one.
pub trait Storage {
    /// Length in bytes.
    fn length(&self) -> Result<u64, StorageError>;
    /// Fills the buffer from `offset`; bytes beyond the end are an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError>;
    /// Writes all bytes at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;
    /// The first range at or after `from` that is not a hole (`SEEK_DATA`, `SEEK_HOLE`); `None` if there is none. File systems
    /// without holes answer with all that is left.
    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, StorageError>;
    /// Makes a range read as zero, if possible by a hole.
    fn zero(&mut self, range: Range<u64>) -> Result<(), StorageError>;
    /// Cuts or extends the file; what is added is a hole.
    fn set_length(&mut self, length: u64) -> Result<(), StorageError>;
}

/// A file could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(pub String);

/// Why a memory file is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFileError {
    /// The file could not be read or written.
    #[error("cannot access the memory file: {0}")]
    Storage(#[from] StorageError),
    /// Damaged, or written by something else.
    #[error("the memory file is damaged or in an unknown format: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// Whole, but without the block we map.
    #[error("the memory file has no RAM block {RAM}")]
    NoRam,
}

/// Where guest memory lies in a saved file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Offset of the pages of `pc.ram` in the memory file, a multiple of 1 MiB.
    pub offset: u64,
    /// Bytes of `pc.ram`.
    pub size: u64,
}

/// One RAM block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Such as `pc.ram`.
    pub name: String,
    /// Bytes of memory.
    pub length: u64,
    /// Bytes of a page, a power of two.
    pub page_size: u64,
    /// Where its bitmap begins.
    pub bitmap_offset: u64,
    /// Where its pages begin.
    pub pages_offset: u64,
}

/// The parts of a memory file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Machine type that wrote it.
    pub machine_type: String,
    /// RAM blocks in file order.
    pub blocks: Vec<Block>,
}

impl Block {
    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.length.div_ceil(self.page_size)
    }

    /// Bytes of its bitmap: whole 64-bit words.
    pub fn bitmap_length(&self) -> u64 {
        self.pages().div_ceil(64) * 8
    }

    /// Where its bitmap lies.
    pub fn bitmap_range(&self) -> Range<u64> {
        self.bitmap_offset..self.bitmap_offset + self.bitmap_length()
    }

    /// Where its pages lie.
    pub fn pages_range(&self) -> Range<u64> {
        self.pages_offset..self.pages_offset + self.length
    }
}

impl Image {
    /// Reads the headers. Damaged files give an error, never a panic, and cost at most [`HEADER_BYTES_MAX`].
    pub fn read(file: &impl Storage) -> Result<Self, MemoryFileError> {
        let mut reader = Reader { file, offset: 0, length: file.length()?, left: HEADER_BYTES_MAX };
        let machine_type = read_preamble(&mut reader)?;
        let blocks = read_blocks(&mut reader)?;
        Ok(Self { machine_type, blocks })
    }

    /// The block of guest memory.
    pub fn ram(&self) -> Result<&Block, MemoryFileError> {
        self.blocks.iter().find(|block| block.name == RAM).ok_or(MemoryFileError::NoRam)
    }

    /// Where guest memory lies.
    pub fn layout(&self) -> Result<Layout, MemoryFileError> {
        self.ram().map(|ram| Layout { offset: ram.pages_offset, size: ram.length })
    }
}

/// Makes a saved file ready: bitmaps and pages say the same, and the sidecar is written. `fill_bitmaps` says that a background
/// snapshot wrote it. Neither file is synchronised. Repeating it is harmless.
pub fn seal<S: Storage>(memory: &mut S, sidecar: &mut S, fill_bitmaps: bool) -> Result<Layout, MemoryFileError> {
    let image = Image::read(memory)?;
    let layout = image.layout()?;
    if fill_bitmaps {
        for block in &image.blocks {
            fill_bitmap(memory, block)?;
        }
    } else {
        zero_stale_pages(memory, image.ram()?)?;
    }
    if let Some(flash) = image.blocks.iter().find(|block| block.name == FLASH) {
        memory.write_at(flash.bitmap_offset, &vec![0; Bitmap::read(memory, flash)?.bytes.len()])?;
    }
    write_sidecar(memory, sidecar, image.ram()?)?;
    Ok(layout)
}

/// Sets the bits of all pages that lie in data extents.
fn fill_bitmap(memory: &mut impl Storage, block: &Block) -> Result<(), MemoryFileError> {
    let mut bitmap = Bitmap::read(memory, block)?;
    let pages = block.pages_range();
    let mut from = pages.start;
    while let Some(data) = data_within(memory, from..pages.end)? {
        let first = (data.start - pages.start) / block.page_size;
        let end = (data.end - pages.start).div_ceil(block.page_size);
        (first..end).for_each(|page| bitmap.set(page));
        from = data.end;
    }
    memory.write_at(block.bitmap_offset, &bitmap.bytes)?;
    Ok(())
}

/// Zeroes what is left of pages that a later pass found zero.
fn zero_stale_pages(memory: &mut impl Storage, block: &Block) -> Result<(), MemoryFileError> {
    let bitmap = Bitmap::read(memory, block)?;
    let pages = block.pages_range();
    let mut from = pages.start;
    while let Some(data) = data_within(memory, from..pages.end)? {
        let end = (data.end - pages.start).div_ceil(block.page_size);
        let mut page = (data.start - pages.start) / block.page_size;
        while page < end {
            let run = bitmap.clear_run(page, end);
            if run == page {
                page += 1;
                continue;
            }
            let stale = pages.start + page * block.page_size..(pages.start + run * block.page_size).min(pages.end);
            memory.zero(stale)?;
            page = run;
        }
        from = data.end;
    }
    Ok(())
}

/// The whole stream but the pages of `ram`, whose bitmap stays a hole.
fn write_sidecar<S: Storage>(memory: &S, sidecar: &mut S, ram: &Block) -> Result<(), MemoryFileError> {
    let length = memory.length()?;
    sidecar.set_length(0)?;
    sidecar.set_length(length)?;
    for part in [0..ram.bitmap_offset, ram.bitmap_range().end..ram.pages_offset, ram.pages_range().end..length] {
        let mut from = part.start;
        while let Some(data) = data_within(memory, from..part.end)? {
            copy(memory, sidecar, data.clone())?;
            from = data.end;
        }
    }
    Ok(())
}

fn copy<S: Storage>(from: &S, to: &mut S, range: Range<u64>) -> Result<(), MemoryFileError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = range.start;
    while offset < range.end {
        let wanted = usize::try_from(range.end - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let chunk = buffer.get_mut(..wanted).unwrap_or_default();
        from.read_at(offset, chunk)?;
        to.write_at(offset, chunk)?;
        offset += wanted as u64;
    }
    Ok(())
}

/// The first data in a range. Always moves on, whatever the storage answers.
fn data_within(file: &impl Storage, range: Range<u64>) -> Result<Option<Range<u64>>, MemoryFileError> {
    if range.is_empty() {
        return Ok(None);
    }
    let Some(data) = file.next_data(range.start)? else { return Ok(None) };
    let data = data.start.max(range.start)..data.end.min(range.end);
    Ok((!data.is_empty()).then_some(data))
}

/// A block's bitmap in memory: one bit for each page, so a 32768th of the block.
struct Bitmap {
    bytes: Vec<u8>,
}

impl Bitmap {
    fn read(file: &impl Storage, block: &Block) -> Result<Self, MemoryFileError> {
        let length = usize::try_from(block.bitmap_length());
        let length = length.map_err(|_| MemoryFileError::Damaged { what: "a bitmap does not fit into memory" })?;
        let mut bytes = vec![0; length];
        file.read_at(block.bitmap_offset, &mut bytes)?;
        Ok(Self { bytes })
    }

    fn set(&mut self, page: u64) {
        if let Some(byte) = usize::try_from(page / 8).ok().and_then(|index| self.bytes.get_mut(index)) {
            *byte |= 1 << (page % 8);
        }
    }

    fn is_set(&self, page: u64) -> bool {
        let byte = usize::try_from(page / 8).ok().and_then(|index| self.bytes.get(index));
        byte.is_some_and(|byte| byte & (1 << (page % 8)) != 0)
    }

    /// End of the run of clear bits that begins at `page`.
    fn clear_run(&self, page: u64, end: u64) -> u64 {
        (page..end).find(|page| self.is_set(*page)).unwrap_or(end)
    }
}

const MAGIC: &[u8; 4] = b"QEVM";
const VERSION: u32 = 3;
const SECTION_START: u8 = 0x01;
const SECTION_SUBSECTION: u8 = 0x05;
const SECTION_CONFIGURATION: u8 = 0x07;
const RAM_SECTION_VERSION: u32 = 4;
/// `RAM_SAVE_FLAG_MEM_SIZE`, in the low bits of the total.
const FLAG_MEM_SIZE: u64 = 0x04;
/// Flags live below the smallest page size.
const FLAGS_MASK: u64 = 0xfff;
const BLOCK_HEADER_VERSION: u32 = 1;
/// `MAPPED_RAM_FILE_OFFSET_ALIGNMENT`.
const PAGES_ALIGNMENT: u64 = 1 << 20;

/// Reads the header and the configuration; returns the machine type. Ends behind the type byte of the first section.
fn read_preamble<S: Storage>(reader: &mut Reader<'_, S>) -> Result<String, MemoryFileError> {
    if &reader.bytes::<4>()? != MAGIC || reader.u32()? != VERSION {
        return damaged("it does not begin like a QEMU memory file");
    }
    if reader.u8()? != SECTION_CONFIGURATION {
        return damaged("it has no machine type");
    }
    let length = reader.u32()?;
    let machine_type = reader.text(u64::from(length))?;
    loop {
        match reader.u8()? {
            SECTION_START => return Ok(machine_type),
            SECTION_SUBSECTION => skip_subsection(reader)?,
            _ => return damaged("an unknown section precedes the memory"),
        }
    }
}

/// Subsections do not tell their length, so only known ones can be skipped.
fn skip_subsection<S: Storage>(reader: &mut Reader<'_, S>) -> Result<(), MemoryFileError> {
    let length = reader.u8()?;
    let name = reader.text(u64::from(length))?;
    reader.u32()?; // version
    match name.as_str() {
        "configuration/capabilities" => {
            for _ in 0..reader.u32()? {
                let length = reader.u8()?;
                reader.text(u64::from(length))?;
            }
        }
        "configuration/target-page-bits" => drop(reader.u32()?),
        "configuration/uuid" => drop(reader.bytes::<16>()?),
        _ => return damaged("an unknown subsection precedes the memory"),
    }
    Ok(())
}

/// Reads the start section of `ram`, whose type byte is behind us.
fn read_blocks<S: Storage>(reader: &mut Reader<'_, S>) -> Result<Vec<Block>, MemoryFileError> {
    reader.u32()?; // section id
    let length = reader.u8()?;
    if reader.text(u64::from(length))? != "ram" {
        return damaged("its first section is not the memory");
    }
    reader.u32()?; // instance
    if reader.u32()? != RAM_SECTION_VERSION {
        return damaged("its memory section has an unknown version");
    }
    let total = reader.u64()?;
    if total & FLAGS_MASK != FLAG_MEM_SIZE {
        return damaged("its memory section does not begin with a size");
    }
    let mut left = total & !FLAGS_MASK;
    let mut blocks = Vec::new();
    while left > 0 {
        if blocks.len() == BLOCKS_MAX {
            return damaged("it has too many RAM blocks");
        }
        let block = read_block(reader)?;
        let Some(rest) = left.checked_sub(block.length) else { return damaged("its RAM blocks exceed its memory") };
        left = rest;
        blocks.push(block);
    }
    Ok(blocks)
}

/// Reads one block's header and goes behind its pages.
fn read_block<S: Storage>(reader: &mut Reader<'_, S>) -> Result<Block, MemoryFileError> {
    let name_length = reader.u8()?;
    let name = reader.text(u64::from(name_length))?;
    let length = reader.u64()?;
    if reader.u32()? != BLOCK_HEADER_VERSION {
        return damaged("a RAM block is not in mapped-ram format");
    }
    let [page_size, bitmap_offset, pages_offset] = [reader.u64()?, reader.u64()?, reader.u64()?];
    let block = Block { name, length, page_size, bitmap_offset, pages_offset };
    if length == 0 || length > BLOCK_BYTES_MAX || pages_offset > BLOCK_BYTES_MAX {
        return damaged("a RAM block has an impossible size");
    }
    if !page_size.is_power_of_two() || !(4096..=1 << 30).contains(&page_size) {
        return damaged("a RAM block has an impossible page size");
    }
    if bitmap_offset != reader.offset || pages_offset % PAGES_ALIGNMENT != 0 {
        return damaged("a RAM block is not where it should be");
    }
    if block.bitmap_range().end > pages_offset || block.pages_range().end > reader.length {
        return damaged("a RAM block reaches beyond its place");
    }
    reader.offset = block.pages_range().end;
    Ok(block)
}

fn damaged<T>(what: &'static str) -> Result<T, MemoryFileError> {
    Err(MemoryFileError::Damaged { what })
}

/// Reads headers forward, within bounds.
struct Reader<'a, S> {
    file: &'a S,
    offset: u64,
    length: u64,
    /// Header bytes that may still be read.
    left: u64,
}

impl<S: Storage> Reader<'_, S> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), MemoryFileError> {
        let wanted = buffer.len() as u64;
        if self.length.saturating_sub(self.offset) < wanted {
            return damaged("it ends too early");
        }
        let Some(left) = self.left.checked_sub(wanted) else { return damaged("its headers are too long") };
        self.file.read_at(self.offset, buffer)?;
        self.left = left;
        self.offset += wanted;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], MemoryFileError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, MemoryFileError> {
        self.bytes().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, MemoryFileError> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, MemoryFileError> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// Names are at most 255 bytes, also where the format leaves room for more.
    fn text(&mut self, length: u64) -> Result<String, MemoryFileError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > usize::from(u8::MAX) {
            return damaged("a name in it is too long");
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).or_else(|_| damaged("a name in it is no text"))
    }
}

#[cfg(test)]
mod tests;
