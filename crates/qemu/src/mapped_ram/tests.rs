//! Memory files made by hand: sealing them, and damaging them at every byte.

#![expect(clippy::cast_possible_truncation, reason = "sizes here are small and ours")]

use std::collections::BTreeMap;

use super::*;

const PAGE: u64 = 4096;

/// A sparse file in memory: pages that were written.
#[derive(Clone, Default)]
struct Sparse {
    length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Storage for Sparse {
    fn length(&self) -> Result<u64, StorageError> {
        Ok(self.length)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        if offset + buffer.len() as u64 > self.length {
            return Err(StorageError("beyond the end".into()));
        }
        for (position, byte) in (offset..).zip(buffer) {
            *byte = self.pages.get(&(position / PAGE)).map_or(0, |page| page[(position % PAGE) as usize]);
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        for (position, byte) in (offset..).zip(bytes) {
            let page = self.pages.entry(position / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
            page[(position % PAGE) as usize] = *byte;
        }
        self.length = self.length.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, StorageError> {
        let Some((first, _)) = self.pages.range(from / PAGE..).next() else { return Ok(None) };
        let end = (*first..).find(|page| !self.pages.contains_key(page)).unwrap_or(u64::MAX);
        Ok(Some((first * PAGE).max(from)..(end * PAGE).min(self.length)))
    }

    fn zero(&mut self, range: Range<u64>) -> Result<(), StorageError> {
        assert!(range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE), "only whole pages are zeroed here");
        self.pages.retain(|page, _| !range.contains(&(page * PAGE)));
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> Result<(), StorageError> {
        self.pages.retain(|page, _| page * PAGE < length);
        self.length = length;
        Ok(())
    }
}

/// A file as QEMU writes it, with `pc.ram` of 70 pages and two small blocks; pages listed are written, and have their bit set if
/// the flag says so.
fn saved(pages: &[(u64, bool)]) -> Sparse {
    let mut file = Sparse::default();
    let mut head = b"QEVM".to_vec();
    head.extend(3u32.to_be_bytes());
    head.push(7);
    head.extend(11u32.to_be_bytes());
    head.extend(b"pc-q35-10.0");
    head.push(5);
    head.push(26);
    head.extend(b"configuration/capabilities");
    head.extend(1u32.to_be_bytes());
    head.extend(1u32.to_be_bytes());
    head.push(10);
    head.extend(b"mapped-ram");
    head.push(1);
    head.extend(2u32.to_be_bytes());
    head.push(3);
    head.extend(b"ram");
    head.extend(0u32.to_be_bytes());
    head.extend(4u32.to_be_bytes());
    head.extend((74 * PAGE + 4).to_be_bytes());
    file.write_at(0, &head).unwrap();
    let mut offset = head.len() as u64;
    let mut pages_offset = 1 << 20;
    for (name, count) in [("pc.ram", 70u64), ("pc.bios", 2), ("system.flash1", 2)] {
        let mut header = vec![name.len() as u8];
        header.extend(name.as_bytes());
        header.extend((count * PAGE).to_be_bytes());
        header.extend(1u32.to_be_bytes());
        header.extend(PAGE.to_be_bytes());
        let bitmap_offset = offset + header.len() as u64 + 16;
        header.extend(bitmap_offset.to_be_bytes());
        header.extend(u64::to_be_bytes(pages_offset));
        file.write_at(offset, &header).unwrap();
        let mut bitmap = vec![0u8; count.div_ceil(64) as usize * 8];
        for (page, set) in pages.iter().filter(|(page, _)| name == "pc.ram" || *page < 2) {
            file.write_at(pages_offset + page * PAGE, &[1 + *page as u8; PAGE as usize]).unwrap();
            bitmap[(page / 8) as usize] |= u8::from(*set) << (page % 8);
        }
        file.write_at(bitmap_offset, &bitmap).unwrap();
        offset = pages_offset + count * PAGE;
        pages_offset = (offset + (1 << 20)).next_multiple_of(1 << 20);
    }
    file.write_at(offset, b"devices").unwrap();
    file
}

/// Pages of `pc.ram` that have bytes, and those whose bit is set.
fn pages_of(file: &Sparse) -> (Vec<u64>, Vec<u64>) {
    let image = Image::read(file).unwrap();
    let ram = image.ram().unwrap();
    let bitmap = Bitmap::read(file, ram).unwrap();
    let first = ram.pages_offset / PAGE;
    let data = (0..ram.pages()).filter(|page| file.pages.contains_key(&(first + page))).collect();
    (data, (0..ram.pages()).filter(|page| bitmap.is_set(*page)).collect())
}

fn check(pages: &[(u64, bool)], fill: bool, expected: &[u64]) {
    let mut memory = saved(pages);
    let mut sidecar = Sparse::default();
    for round in 0..2 {
        let layout = seal(&mut memory, &mut sidecar, fill).unwrap();
        assert_eq!(layout, Layout { offset: 1 << 20, size: 70 * PAGE });
        assert_eq!(pages_of(&memory), (expected.to_vec(), expected.to_vec()), "round {round}");
        assert_eq!(pages_of(&sidecar), (vec![], vec![]), "round {round}");
    }
    assert_eq!(sidecar.length, memory.length);
    let mut tail = [0; 7];
    sidecar.read_at(sidecar.length - 7, &mut tail).unwrap();
    assert_eq!(&tail, b"devices");
    let bios = &Image::read(&sidecar).unwrap().blocks[1];
    assert_eq!(bios.name, "pc.bios");
    let bits = |file: &Sparse| Bitmap::read(file, bios).unwrap().bytes;
    assert_eq!(bits(&sidecar), bits(&memory), "the other blocks come from the sidecar");
    for file in [&memory, &sidecar] {
        let flash = &Image::read(file).unwrap().blocks[2];
        assert_eq!(Bitmap::read(file, flash).unwrap().bytes, [0; 8], "the flash comes from its image");
    }
    let mut bytes = [[0; PAGE as usize]; 2];
    sidecar.read_at(bios.pages_offset, &mut bytes[0]).unwrap();
    memory.read_at(bios.pages_offset, &mut bytes[1]).unwrap();
    assert_eq!(bytes[0], bytes[1]);
}

#[test]
fn a_page_that_was_cleared_later_is_zeroed() {
    check(&[(0, true), (1, false), (2, true), (40, false), (41, false), (69, true)], false, &[0, 2, 69]);
    check(&[(0, false), (69, false)], false, &[]);
    check(&[], false, &[]);
}

#[test]
fn a_background_snapshot_gets_its_bitmaps() {
    check(&[(0, false), (1, false), (7, false), (8, false), (69, false)], true, &[0, 1, 7, 8, 69]);
}

#[test]
fn headers_are_read() {
    let image = Image::read(&saved(&[])).unwrap();
    assert_eq!(image.machine_type, "pc-q35-10.0");
    let blocks: Vec<_> =
        image.blocks.iter().map(|block| (block.name.as_str(), block.pages(), block.pages_offset)).collect();
    assert_eq!(blocks, [("pc.ram", 70, 1 << 20), ("pc.bios", 2, 3 << 20), ("system.flash1", 2, 5 << 20)]);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = saved(&[(3, true)]);
    for length in (0..300).chain((1 << 20)..(1 << 20) + 20) {
        let mut file = whole.clone();
        file.set_length(length).unwrap();
        assert!(Image::read(&file).is_err(), "cut to {length}");
    }
}

#[test]
fn a_byte_changed_anywhere_never_panics() {
    let whole = saved(&[(3, true)]);
    for position in (0..200).chain((1 << 20) + 70 * PAGE..(1 << 20) + 70 * PAGE + 60) {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut file = whole.clone();
            file.write_at(position, &[value]).unwrap();
            if let Ok(image) = Image::read(&file) {
                assert!(image.blocks.len() <= BLOCKS_MAX);
                assert!(image.blocks.iter().all(|block| block.pages_range().end <= file.length));
            }
        }
    }
}

#[test]
fn other_files_are_told_apart() {
    let mut file = Sparse::default();
    file.write_at(0, &[0; 4096]).unwrap();
    let error = Image::read(&file).unwrap_err().to_string();
    assert_eq!(error, "the memory file is damaged or in an unknown format: it does not begin like a QEMU memory file");
}
