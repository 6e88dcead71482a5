//! What lies in files and comes from emulators: images, memory, pictures, the monitor, the store, the configuration.

use std::collections::BTreeMap;
use std::ops::Range;

use auth::users::Users;
use daemon::config::{Config, Flags, Settings, Surroundings};
use ledger::record::{self, Stored};
use ledger::state::State;
use qemu::graph::{Format, Graph};
use qemu::mapped_ram::{Image, Storage, StorageError, seal};
use qemu::qcow2::{self, BACKING_NAME_BYTES_MAX, Backing, Header};
use qemu::qmp::{Happening, ProtocolError, Session};
use qemu::save::convergence::Sample;
use qemu::screen::Picture;
use qemu::version::{Abilities, Version};

/// A monitor's bytes, in pieces of a size that the first byte tells, are what they are in one piece. Accepted if the
/// greeting is over, and nothing wrong came after it.
pub fn qmp(bytes: &[u8]) -> bool {
    let Some((size, stream)) = bytes.split_first() else { return false };
    let (whole, error) = listen([stream]);
    let (pieces, same_error) = listen(stream.chunks(usize::from(*size).max(1)));
    assert_eq!((&pieces, &same_error), (&whole, &error));
    drop(Version::from_output(&String::from_utf8_lossy(stream)));
    for happening in &whole {
        // Any answer may come to any question.
        if let Happening::Reply { result: Ok(answer), .. } = happening {
            Graph::read(answer);
            Abilities::read(answer, answer);
            Sample::read(answer);
        }
    }
    error.is_none() && whole.iter().any(|happening| matches!(happening, Happening::Ready { .. }))
}

fn listen<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Happening>, Option<ProtocolError>) {
    let mut session = Session::new();
    let error = pieces.into_iter().find_map(|piece| session.receive(piece).err());
    (std::iter::from_fn(|| session.poll()).collect(), error)
}

/// An image's header. What it says of size and backing file can be written, and reads back.
pub fn qcow2(bytes: &[u8]) -> bool {
    let Ok(header) = Header::read(bytes) else { return false };
    drop(Header::read_plain(bytes));
    let file = header.backing_file.as_deref();
    assert!(file.is_none_or(|file| file.len() <= BACKING_NAME_BYTES_MAX));
    let backing = file.map(|file| Backing { file, format: Format::Raw });
    if let Ok(image) = qcow2::empty(header.size, backing) {
        let Some((0, begin)) = image.pieces.first() else { panic!("an image begins with its header") };
        let again = Header::read(begin).unwrap_or_else(|error| panic!("what we write is a header: {error}"));
        assert_eq!(again.require_plain(), Ok(()));
        // An empty name is none.
        assert_eq!(
            (again.size, again.backing_file),
            (header.size, header.backing_file.filter(|file| !file.is_empty()))
        );
    }
    true
}

/// Bytes of a page of the target's files.
const PAGE: u64 = 4096;
/// Where their pages begin.
const PAGES: u64 = 1 << 20;
/// Bytes of the head, and of what follows the pages: more than are read of any headers.
const HEAD_BYTES_MAX: usize = 128 << 10;

/// A memory file, read and sealed both ways. The input is the file without its pages: their number in a byte, a bit for
/// each of the first 64 that says whether it was written, the length of the head in two bytes, the head, and what follows
/// the pages, behind which there is room for another block of two pages.
pub fn mapped_ram(bytes: &[u8]) -> bool {
    let Some((&[pages, ref rest @ ..], bytes)) = bytes.split_first_chunk::<11>() else { return false };
    let (written, head) = rest.split_at(8);
    let head: usize = head.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (head, tail) = bytes.split_at(head.min(bytes.len()).min(HEAD_BYTES_MAX));
    let tail = tail.get(..HEAD_BYTES_MAX).unwrap_or(tail);
    let mut memory = Sparse::default();
    let is_written = |page: u64| {
        let byte = usize::try_from(page / 8).ok().and_then(|at| written.get(at));
        byte.is_some_and(|byte| byte & (1 << (page % 8)) != 0)
    };
    memory.put(0, head);
    for page in (0..u64::from(pages)).filter(|page| is_written(*page)) {
        memory.put(PAGES + page * PAGE, &[0xaa; 4096]);
    }
    let end = PAGES + u64::from(pages) * PAGE;
    memory.put(end, tail);
    memory.length = (end + PAGES).next_multiple_of(PAGES) + 2 * PAGE;
    let is_image = Image::read(&memory).is_ok();
    for fill_bitmaps in [false, true] {
        check_seal(memory.clone(), fill_bitmaps);
    }
    is_image
}

/// After sealing, a page whose bit is clear reads as zero, and sealing once more changes nothing.
fn check_seal(mut memory: Sparse, fill_bitmaps: bool) {
    let mut sidecar = Sparse::default();
    let Ok(layout) = seal(&mut memory, &mut sidecar, fill_bitmaps) else { return };
    let image = Image::read(&memory).unwrap_or_else(|error| panic!("sealing does not touch the headers: {error}"));
    assert_eq!(image.layout().as_ref(), Ok(&layout));
    assert_eq!(memory.length, sidecar.length);
    let ram = image.ram().unwrap_or_else(|error| panic!("it was sealed by it: {error}"));
    let byte_at = |file: &Sparse, offset: u64| {
        let mut byte = [0];
        file.read_at(offset, &mut byte).map(|()| byte[0])
    };
    for page in 0..ram.pages() {
        let range = ram.pages_offset + page * ram.page_size..ram.pages_range().end;
        let is_zero = range.take(4096).step_by(512).all(|at| byte_at(&memory, at) == Ok(0));
        let bits = byte_at(&memory, ram.bitmap_offset + page / 8)
            .unwrap_or_else(|error| panic!("the bitmap is in the file: {error}"));
        let is_set = bits & (1 << (page % 8)) != 0;
        assert!(is_set || is_zero, "page {page} is not in the memory image and has bytes");
    }
    let (before, sidecar_before) = (memory.clone(), sidecar.clone());
    assert_eq!(seal(&mut memory, &mut sidecar, fill_bitmaps), Ok(layout));
    assert_eq!((memory, sidecar), (before, sidecar_before), "sealing is repeated");
}

/// A sparse file in memory: pages that were written.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sparse {
    length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    fn put(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while let Some((begin, room)) = piece(offset, bytes.len()) {
            let page = self.pages.entry(offset / PAGE).or_insert_with(|| vec![0; 4096]);
            let (now, rest) = bytes.split_at(room);
            page[begin..begin + room].copy_from_slice(now);
            (offset, bytes) = (offset + now.len() as u64, rest);
        }
        self.length = self.length.max(offset);
    }
}

/// Where in its page an offset is, and how many of some bytes fit there; `None` if there are none.
fn piece(offset: u64, bytes: usize) -> Option<(usize, usize)> {
    let begin = usize::try_from(offset % PAGE).ok()?;
    (bytes > 0).then_some((begin, bytes.min(4096 - begin)))
}

impl Storage for Sparse {
    fn length(&self) -> Result<u64, StorageError> {
        Ok(self.length)
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), StorageError> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.length) {
            return Err(StorageError("beyond the end".to_owned()));
        }
        while let Some((begin, room)) = piece(offset, buffer.len()) {
            let (now, rest) = buffer.split_at_mut(room);
            match self.pages.get(&(offset / PAGE)) {
                Some(page) => now.copy_from_slice(&page[begin..begin + room]),
                None => now.fill(0),
            }
            (offset, buffer) = (offset + room as u64, rest);
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.put(offset, bytes);
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, StorageError> {
        let Some((first, _)) = self.pages.range(from / PAGE..).next() else { return Ok(None) };
        let end = (*first..).find(|page| !self.pages.contains_key(page)).unwrap_or(u64::MAX);
        Ok(Some((first * PAGE).max(from)..(end * PAGE).min(self.length)))
    }

    fn zero(&mut self, range: Range<u64>) -> Result<(), StorageError> {
        for (number, page) in self.pages.range_mut(range.start / PAGE..range.end.div_ceil(PAGE)) {
            for (position, byte) in (number * PAGE..).zip(page) {
                *byte = if range.contains(&position) { 0 } else { *byte };
            }
        }
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> Result<(), StorageError> {
        self.pages.retain(|page, _| page * PAGE < length);
        self.length = length;
        Ok(())
    }
}

/// A picture, made smaller and larger.
pub fn screen(bytes: &[u8]) -> bool {
    let Ok(picture) = Picture::read_ppm(bytes) else { return false };
    for (width, height) in [(1, 1), (7, 3), (80, 60)] {
        let scaled = picture.scaled(width, height).unwrap_or_else(|error| panic!("a size that can be: {error}"));
        assert_eq!(scaled.to_rgb565().len(), width * height * 2);
    }
    true
}

/// Records of the store: what they make up is made up again by the records that it is stored as.
pub fn record(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let stored = |(kind, body): (&str, &str)| Stored { kind: kind.into(), id: String::new(), body: body.into() };
    let records: Vec<Stored> = text.lines().filter_map(|line| line.split_once(' ')).map(stored).collect();
    let Ok(state) = record::rebuild(0, &records) else { return false };
    state.check();
    let Some(commit) = record::difference(&State::default(), &state) else { return false };
    let stored = commit.changes.into_iter().filter_map(|change| {
        Some(Stored { kind: change.key.kind().to_owned(), id: change.key.id(), body: change.body? })
    });
    let again = record::rebuild(0, &stored.collect::<Vec<_>>())
        .unwrap_or_else(|error| panic!("what we store we can read: {error}"));
    assert_eq!(record::difference(&state, &again), None);
    true
}

/// The configuration file, and what is decided from it.
pub fn configuration(bytes: &[u8]) -> bool {
    let Some(Ok(settings)) = std::str::from_utf8(bytes).ok().map(Settings::parse) else { return false };
    let surroundings = Surroundings { root: true, ..Surroundings::default() };
    match Config::decide(Flags::default(), settings, &surroundings) {
        Ok(config) => {
            assert!([&config.data_dir, &config.run_dir, &config.socket].into_iter().all(|path| path.is_absolute()));
            true
        }
        Err(_) => false,
    }
}

/// The users file, which is the same when it is written and read.
pub fn users(bytes: &[u8]) -> bool {
    let Some(Ok(users)) = std::str::from_utf8(bytes).ok().map(Users::parse) else { return false };
    let printed = users.to_string();
    let again = Users::parse(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    assert_eq!(again.to_string(), printed);
    for user in users.iter() {
        assert_eq!(again.find(&user.name), Some(user));
    }
    true
}
