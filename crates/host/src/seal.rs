//! Seals: how the files of a snapshot are known to be as they were.
//!
//! ```text
//!   frozen ──the sealer reads all of it──▶ sealed ──before a start, before an apply──▶ as it was, or damaged
//!      ▲                                     │
//!      └──────── seal broken, durably ◀──────┘  a merge is about to change the content of the file, not of what reads through it
//! ```
//! A layer that is not the live top of its machine, and a memory image, never change but by a merge. Their seal keeps length, time of
//! the last change and inode, a digest of the part that everything else is found by (`quick`: the header and level 1 table of an image,
//! the headers and bitmaps of memory, all of its device state), and one of all content (`full`).
//!
//! Before a guest is started the quick part is compared, which costs the same whatever the size of the file. If length, time or inode
//! are others than they were, somebody has had the file in hands, and all of it is compared. What a disk changes on its own is found by
//! `snapvisor check`, which compares everything. A file without a seal is younger than the sealer's last round, and is believed.
//!
//! A seal is in a directory of its own, has a sum ([`crate::checked`]), and counts as missing when that is wrong: a damaged seal must
//! not make a good file look bad.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ledger::effect::{Image, MergeOrder};
use ledger::failure::{Failure, Kind};
use ledger::id::{LayerId, MemoryId, VmId};
use ledger::snapshot::Format;
use qemu::mapped_ram::{self, Storage};
use qemu::qcow2::{HEADER_BYTES, Header};
use qemu::save::{MEMORY_FILE, SIDECAR_FILE};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::checked;
use crate::fault;
use crate::file_storage::FileStorage;
use crate::hands::{replace_file, sync_directory_of};
use crate::image_lock::{self, Use};
use crate::layout::Layout;

/// Version of the file.
const VERSION: u32 = 1;

/// What content is compared in; a block of zeros and a hole are the same.
const BLOCK_BYTES: usize = 64 << 10;

/// Most bytes of a quick part that a header tells the place of: the bitmap of 2 TiB of memory, the level 1 table of a disk of 4 PiB.
const QUICK_BYTES_MAX: u64 = 64 << 20;

/// What is sealed: a layer, or a memory image with its device state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// A layer's file.
    Layer(LayerId, PathBuf, Format),
    /// A memory image's directory.
    Memory(MemoryId, PathBuf),
}

/// How a file must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSeal {
    path: PathBuf,
    length: u64,
    /// Time of the last change, nanoseconds since 1970.
    modified: i128,
    inode: u64,
    quick: String,
    full: String,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    version: u32,
    files: Vec<FileSeal>,
}

/// How much of a file is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The part by which all else is found; everything, if the file looks as if somebody had changed it.
    Quick,
    /// Everything.
    Full,
}

/// A file that is not as it was sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is gone.
    #[error("{0} is missing")]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is longer or shorter.
    #[error("{path} has {found} bytes, and had {sealed} when it was sealed")]
    Length {
        /// Which file.
        path: PathBuf,
        /// Now.
        found: u64,
        /// Then.
        sealed: u64,
    },
    /// Its content is another one.
    #[error("{path} is damaged: {what} is not what it was when it was sealed")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
    },
}

/// The seals of all machines. Clones are the same.
#[derive(Clone, Debug)]
pub struct Seals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    /// For each machine, how often its seals were broken, twice: odd while a merge is under way.
    turns: Mutex<HashMap<VmId, u64>>,
}

/// A merge is under way: nothing of the machine is sealed until this is dropped.
#[derive(Debug)]
pub struct Broken {
    seals: Seals,
    vm: VmId,
}

impl Drop for Broken {
    fn drop(&mut self) {
        *self.seals.turns().entry(self.vm).or_default() += 1;
    }
}

impl Sealed {
    /// An image of a chain.
    pub fn of(image: &Image) -> Self {
        Sealed::Layer(image.layer, image.path.clone(), image.format)
    }

    /// Its files.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Sealed::Layer(_, path, _) => vec![path.clone()],
            Sealed::Memory(_, directory) => [MEMORY_FILE, SIDECAR_FILE].map(|name| directory.join(name)).to_vec(),
        }
    }

    fn name(&self) -> String {
        match self {
            Sealed::Layer(id, ..) => format!("{id}.seal"),
            Sealed::Memory(id, _) => format!("{id}.seal"),
        }
    }

    /// The parts of a file that everything else is found by, and what they are called.
    fn quick(&self, file: &FileStorage, path: &Path) -> io::Result<Vec<Range<u64>>> {
        let length = file.length().map_err(io::Error::other)?;
        let parts = match self {
            Sealed::Layer(_, _, Format::Raw) => Vec::new(),
            Sealed::Layer(_, _, Format::Qcow2) => {
                let mut bytes =
                    vec![0; usize::try_from(length).map_or(HEADER_BYTES, |length| length.min(HEADER_BYTES))];
                file.read_at(0, &mut bytes).map_err(io::Error::other)?;
                let level1 = Header::read(&bytes).map(|header| header.level1).unwrap_or_default();
                vec![0..bytes.len() as u64, bounded(level1)]
            }
            Sealed::Memory(..) if path.ends_with(SIDECAR_FILE) => Vec::from([whole(length)]),
            Sealed::Memory(..) => {
                let end = mapped_ram::Image::read(file).and_then(|image| image.layout()).map(|layout| layout.offset);
                vec![bounded(0..end.unwrap_or(HEADER_BYTES as u64))]
            }
        };
        let within = |part: Range<u64>| part.start.min(length)..part.end.min(length);
        Ok(parts.into_iter().map(within).collect())
    }
}

impl Seals {
    /// For the machines of a data directory.
    pub fn new(layout: Layout) -> Self {
        Self(Arc::new(Inner { layout, turns: Mutex::default() }))
    }

    /// A merge is about to change files: their seals go, durably. Blocks.
    ///
    /// # Errors
    /// When a seal cannot be removed; then the merge must not begin.
    pub fn break_for(&self, vm: VmId, order: &MergeOrder) -> Result<Broken, Failure> {
        let mut turns = self.turns();
        let turn = turns.entry(vm).or_default();
        if *turn % 2 == 1 {
            return Err(Failure::new(Kind::InUse, format!("another merge of machine {vm} is under way")));
        }
        *turn += 1;
        let broken = Broken { seals: self.clone(), vm };
        let directory = self.0.layout.seals(vm);
        drop(turns);
        // Headers above the two are rewritten as well.
        let images = [&order.upper, &order.lower].into_iter().chain(&order.children).chain(&order.above);
        for image in images {
            remove(&directory.join(Sealed::of(image).name()))?;
        }
        sync(&directory)?;
        Ok(broken)
    }

    /// Compares files with their seals; one without is believed to be as it was, but must be there. For a job that has the machine to
    /// itself: what somebody had in hands, and is the same, gets its seal anew. Blocks.
    ///
    /// # Errors
    /// Names the first file that is not as it was.
    pub fn verify(&self, vm: VmId, things: &[Sealed], depth: Depth) -> Result<(), Damage> {
        for thing in things {
            match self.compare(vm, thing, depth)? {
                Some([sealed, found]) if sealed != found => {
                    if let Err(error) = self.write(vm, thing, found) {
                        tracing::warn!(?thing, %error, "a seal could not be renewed");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The same for one, changing nothing: the one who asks may be another process than the daemon, which may begin a merge meanwhile.
    /// Whether it has a seal.
    ///
    /// # Errors
    /// When it is not as it was.
    pub fn verify_one(&self, vm: VmId, thing: &Sealed, depth: Depth) -> Result<bool, Damage> {
        self.compare(vm, thing, depth).map(|found| found.is_some())
    }

    /// The seal of something, and what it would be if it were sealed now.
    fn compare(&self, vm: VmId, thing: &Sealed, depth: Depth) -> Result<Option<[Vec<FileSeal>; 2]>, Damage> {
        for path in thing.files() {
            match fs::metadata(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Damage::Missing(path)),
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
        let Some(sealed) = self.read(vm, thing) else { return Ok(None) };
        let found = sealed.iter().map(|seal| seal.compare(thing, depth)).collect::<Result<_, _>>()?;
        Ok(Some([sealed, found]))
    }

    /// Removes the seal of something that is to be changed with nobody else at work, durably. Blocks.
    ///
    /// # Errors
    /// When it cannot be removed; then nothing must be changed.
    pub fn forget(&self, vm: VmId, thing: &Sealed) -> Result<(), Failure> {
        let directory = self.0.layout.seals(vm);
        remove(&directory.join(thing.name()))?;
        sync(&directory)
    }

    /// Whether something has a seal.
    pub fn has(&self, vm: VmId, thing: &Sealed) -> bool {
        self.read(vm, thing).is_some()
    }

    /// Reads all of something that is frozen and seals it, unless a merge comes between. `pause` is called again and again, and may take its
    /// time. Blocks. Whether it is sealed now.
    ///
    /// # Errors
    /// When a file cannot be read or the seal not written.
    pub fn seal(&self, vm: VmId, thing: &Sealed, pause: &dyn Fn()) -> io::Result<bool> {
        let before = self.turn(vm);
        if before % 2 == 1 {
            return Ok(false);
        }
        let mut files = Vec::new();
        for path in thing.files() {
            match FileSeal::take(thing, &path, pause)? {
                Some(seal) => files.push(seal),
                None => return Ok(false),
            }
        }
        // Held while it is written: a merge that is about to begin waits, and removes it again.
        let turns = self.turns();
        if turns.get(&vm).copied().unwrap_or_default() != before {
            return Ok(false);
        }
        self.write(vm, thing, files)?;
        drop(turns);
        Ok(true)
    }

    /// Removes the seals of all that is not in `known`. Blocks.
    pub fn tidy(&self, vm: VmId, known: &[Sealed]) {
        let directory = self.0.layout.seals(vm);
        let names: Vec<String> = known.iter().map(Sealed::name).collect();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(|name| names.iter().any(|known| known == name)) {
                // Looked at again with the next change; nobody asks for it meanwhile.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn read(&self, vm: VmId, thing: &Sealed) -> Option<Vec<FileSeal>> {
        let path = self.0.layout.seals(vm).join(thing.name());
        let text = fs::read_to_string(&path).ok()?;
        let seal = checked::read(text.trim_end()).and_then(|text| serde_json::from_str::<Seal>(text).ok());
        let seal = seal.filter(|seal| seal.version == VERSION);
        if seal.is_none() {
            tracing::warn!(path = %path.display(), "is damaged; the file it is of is sealed anew");
        }
        seal.map(|seal| seal.files)
    }

    fn write(&self, vm: VmId, thing: &Sealed, files: Vec<FileSeal>) -> io::Result<()> {
        let path = self.0.layout.seals(vm).join(thing.name());
        self.0.layout.create_passage(&self.0.layout.seals(vm)).map_err(io::Error::other)?;
        let text = checked::line(&serde_json::to_string(&Seal { version: VERSION, files })?);
        replace_file(&path, text.as_bytes())?;
        sync_directory_of(&path)
    }

    fn turn(&self, vm: VmId) -> u64 {
        self.turns().get(&vm).copied().unwrap_or_default()
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<VmId, u64>> {
        // Nothing is done under the lock that could panic half-way.
        self.0.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileSeal {
    /// `None` if somebody writes to it: what is written is not frozen, whatever the record says.
    fn take(thing: &Sealed, path: &Path, pause: &dyn Fn()) -> io::Result<Option<Self>> {
        let meta = fs::metadata(path)?;
        if image_lock::used_by_others(meta.dev(), meta.ino())? == Use::Written {
            return Ok(None);
        }
        let file = FileStorage::read_only(path)?;
        Ok(Some(Self {
            path: path.to_owned(),
            length: meta.len(),
            modified: modified(&meta),
            inode: meta.ino(),
            quick: digest(&file, &thing.quick(&file, path)?, pause)?,
            full: digest(&file, &[whole(meta.len())], pause)?,
        }))
    }

    /// The same seal with the times of now: others if somebody has had the file in hands, and then all of it was compared.
    fn compare(&self, thing: &Sealed, depth: Depth) -> Result<Self, Damage> {
        let path = &self.path;
        let meta = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if meta.len() != self.length {
            return Err(Damage::Length { path: path.clone(), found: meta.len(), sealed: self.length });
        }
        // As it was before it was read: what is changed meanwhile is noticed the next time.
        let now = Self { modified: modified(&meta), inode: meta.ino(), ..self.clone() };
        let touched = now != *self;
        let file = FileStorage::read_only(path).map_err(|error| unreadable(path, &error))?;
        let same = |parts: &[Range<u64>], sealed: &str| {
            let found = digest(&file, parts, &|| ()).map_err(|error| unreadable(path, &error))?;
            Ok(found == sealed)
        };
        let quick = thing.quick(&file, path).map_err(|error| unreadable(path, &error))?;
        if !same(&quick, &self.quick)? {
            return Err(Damage::Content { path: path.clone(), what: "its header or its table" });
        }
        if (touched || depth == Depth::Full) && !same(&[whole(self.length)], &self.full)? {
            return Err(Damage::Content { path: path.clone(), what: "its content" });
        }
        Ok(now)
    }
}

/// A digest of the blocks that are not zero, each with its number: the same whatever is a hole.
fn digest(file: &FileStorage, parts: &[Range<u64>], pause: &dyn Fn()) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BLOCK_BYTES];
    for part in parts {
        let mut from = part.start;
        while from < part.end {
            let Some(data) = file.next_data(from).map_err(io::Error::other)? else { break };
            let mut at = data.start.max(from) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            let end = data.end.min(part.end);
            while at < end {
                pause();
                let wanted = usize::try_from(part.end - at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
                let block = buffer.get_mut(..wanted).unwrap_or_default();
                file.read_at(at, block).map_err(io::Error::other)?;
                if block.iter().any(|byte| *byte != 0) {
                    context.update(&at.to_be_bytes());
                    context.update(block);
                }
                at += wanted as u64;
            }
            file.forget_cached(from..at);
            from = at.max(data.end.min(part.end)).max(from + 1);
        }
    }
    Ok(checked::hex(context.finish().as_ref()))
}

fn whole(length: u64) -> Range<u64> {
    0..length
}

fn bounded(part: Range<u64>) -> Range<u64> {
    part.start..part.end.min(part.start.saturating_add(QUICK_BYTES_MAX))
}

fn modified(meta: &fs::Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

fn unreadable(path: &Path, error: &io::Error) -> Damage {
    Damage::Unreadable { path: path.to_owned(), reason: error.to_string() }
}

/// Brings the removal of seals to stable storage; where there is no directory there are none.
fn sync(directory: &Path) -> Result<(), Failure> {
    match sync_directory_of(&directory.join("all")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault::file("sync", directory, &error)),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault::file("remove", path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::effect::MergeDirection;
    use qemu::qcow2;
    use std::os::unix::fs::FileExt;
    use uuid::Uuid;

    const VM: VmId = VmId(Uuid::from_u128(1));

    struct Place {
        root: tempfile::TempDir,
        seals: Seals,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let layout =
                Layout::new(&root.path().join("data"), &root.path().join("run"), crate::account::Accounts::Own)
                    .unwrap();
            layout.create().unwrap();
            layout.create_vm(VM).unwrap();
            Self { root, seals: Seals::new(layout) }
        }

        fn path(&self) -> PathBuf {
            self.root.path().join("layer.qcow2")
        }

        /// A layer with its tables at the beginning and content a little further on.
        fn layer(&self) -> Sealed {
            let image = qcow2::empty(1 << 30, None).unwrap();
            let file = fs::File::create(self.path()).unwrap();
            crate::disk::write_image(&file, &image).unwrap();
            file.set_len(image.length + (1 << 20)).unwrap();
            file.write_all_at(&[7; 5000], image.length + 70_000).unwrap();
            Sealed::Layer(LayerId(Uuid::from_u128(2)), self.path(), Format::Qcow2)
        }

        fn verify(&self, thing: &Sealed, depth: Depth) -> String {
            let found = self.seals.verify_one(VM, thing, depth);
            let text = found.map_or_else(|damage| damage.to_string(), |sealed| format!("sealed: {sealed}"));
            text.replace(&self.root.path().display().to_string(), "DIR")
        }

        /// Changes a byte of the file.
        fn flip(&self, offset: u64) {
            let file = fs::OpenOptions::new().read(true).write(true).open(self.path()).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        }

        /// Puts the time of the last change back, as a disk does that changes bits on its own.
        fn hide(&self, before: &fs::Metadata) {
            let file = fs::OpenOptions::new().write(true).open(self.path()).unwrap();
            file.set_modified(before.modified().unwrap()).unwrap();
        }
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let check = |offset: u64, hidden: bool, quick: &str, full: &str| {
            let place = Place::new();
            let thing = place.layer();
            assert_eq!(place.verify(&thing, Depth::Full), "sealed: false");
            assert!(place.seals.seal(VM, &thing, &|| ()).unwrap());
            assert_eq!(place.verify(&thing, Depth::Full), "sealed: true");
            let before = fs::metadata(place.path()).unwrap();
            place.flip(offset);
            if hidden {
                place.hide(&before);
            }
            assert_eq!(place.verify(&thing, Depth::Quick), quick, "offset {offset}");
            assert_eq!(place.verify(&thing, Depth::Full), full, "offset {offset}");
        };
        let header = "DIR/layer.qcow2 is damaged: its header or its table is not what it was when it was sealed";
        let content = "DIR/layer.qcow2 is damaged: its content is not what it was when it was sealed";
        check(8, true, header, header);
        check(3 * 65536 + 3, true, header, header);
        check((4 << 16) + 72_000, false, content, content);
        check((4 << 16) + 72_000, true, "sealed: true", content);
    }

    #[test]
    fn a_file_that_was_copied_is_as_good_and_a_short_or_missing_one_is_named() {
        let place = Place::new();
        let thing = place.layer();
        assert!(place.seals.seal(VM, &thing, &|| ()).unwrap());
        let copy = place.root.path().join("copy");
        fs::copy(place.path(), &copy).unwrap();
        fs::rename(&copy, place.path()).unwrap();
        let sealed = place.seals.read(VM, &thing).unwrap();
        assert_eq!(place.verify(&thing, Depth::Quick), "sealed: true");
        assert_eq!(place.seals.read(VM, &thing).unwrap(), sealed, "a mere look changes nothing");
        place.seals.verify(VM, std::slice::from_ref(&thing), Depth::Quick).unwrap();
        // It was read once; from now on it is not looked at again.
        let seal = place.seals.read(VM, &thing).unwrap();
        assert_eq!(seal[0].inode, fs::metadata(place.path()).unwrap().ino());
        fs::OpenOptions::new().write(true).open(place.path()).unwrap().set_len(1 << 16).unwrap();
        assert_eq!(
            place.verify(&thing, Depth::Quick),
            "DIR/layer.qcow2 has 65536 bytes, and had 1310720 when it was sealed"
        );
        fs::remove_file(place.path()).unwrap();
        assert_eq!(place.verify(&thing, Depth::Quick), "DIR/layer.qcow2 is missing");
    }

    #[test]
    fn a_damaged_seal_makes_no_good_file_look_bad() {
        let place = Place::new();
        let thing = place.layer();
        assert!(place.seals.seal(VM, &thing, &|| ()).unwrap());
        let path = place.seals.0.layout.seals(VM).join(thing.name());
        let mut text = fs::read(&path).unwrap();
        text[40] ^= 1;
        fs::write(&path, text).unwrap();
        assert_eq!(place.verify(&thing, Depth::Full), "sealed: false");
    }

    #[test]
    fn nothing_is_sealed_while_it_is_merged() {
        let place = Place::new();
        let thing = place.layer();
        let image = Image {
            layer: LayerId(Uuid::from_u128(2)),
            path: place.path(),
            format: Format::Qcow2,
            size: 1 << 30,
            private: true,
        };
        let order = MergeOrder {
            slot: None,
            above: Vec::new(),
            upper: image.clone(),
            lower: image,
            below: Vec::new(),
            children: Vec::new(),
            direction: MergeDirection::Up,
        };
        assert!(place.seals.seal(VM, &thing, &|| ()).unwrap());
        let broken = place.seals.break_for(VM, &order).unwrap();
        assert!(!place.seals.has(VM, &thing), "the seal is broken before the merge begins");
        assert!(!place.seals.seal(VM, &thing, &|| ()).unwrap());
        assert!(place.seals.break_for(VM, &order).is_err());
        drop(broken);
        // One that begins while the file is read makes what was read worthless.
        let begun = std::cell::RefCell::new(None);
        let interrupted = place.seals.seal(VM, &thing, &|| {
            begun.borrow_mut().get_or_insert_with(|| place.seals.break_for(VM, &order).unwrap());
        });
        assert!(!interrupted.unwrap());
        drop(begun);
        assert!(place.seals.seal(VM, &thing, &|| ()).unwrap());
    }
}
