//! A file system that forgets.
//!
//! ```text
//!   write ──▶ unsynced ──sync──▶ durable                 content of a file
//!   create, remove, rename ──▶ pending ──sync_directory──▶ durable        names
//!   power cut: of the unsynced writes any subset stays, some of them torn; of the pending names of each directory the first few
//! ```
//! What is overwritten in place may be torn: a block reads as [`TORN`], a header names a file that does not exist. What is new
//! appears whole or not at all, and what is overwritten with the same stays as it is: each half of it is.
//!
//! Files that a snapshot needs are [guarded](Files::guard): every write to one that is not a merge's, and every end of one, is noted.
//! An open file is its [`Inode`]; a name that goes away or to another file does not disturb whoever has it open. Content is a map
//! from block to value, and a header that names the file behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::random::Random;

/// What a disk or a memory holds; a block that is not there reads as what is below it.
pub type Content = BTreeMap<u8, u32>;

/// What a block reads as that was half overwritten.
pub const TORN: u32 = u32::MAX;

/// What a header names that was half overwritten.
const TORN_NAME: &str = "/half-written";

/// Most files behind one another; more is a circle.
const CHAIN_MAX: usize = 200;

/// Identity of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode(u64);

/// What is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// The header is whole. Without it the file is not an image.
    pub whole: bool,
    /// Read through to this one.
    pub backing: Option<PathBuf>,
    /// Own content.
    pub blocks: Content,
}

/// One write: what a power cut keeps or loses as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The header: the file is an image on top of another one, or of nothing.
    Header(Option<PathBuf>),
    /// One block.
    Block(u8, u32),
}

#[derive(Clone, Debug, Default)]
struct Node {
    now: Data,
    durable: Data,
    unsynced: Vec<Write>,
}

/// A change of a directory.
#[derive(Clone, Debug)]
enum Naming {
    Link(PathBuf, Inode),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// The file system.
#[derive(Clone, Debug, Default)]
pub struct Files {
    nodes: BTreeMap<Inode, Node>,
    names: BTreeMap<PathBuf, Inode>,
    durable_names: BTreeMap<PathBuf, Inode>,
    pending: Vec<Naming>,
    next: u64,
    /// Files that a snapshot needs, and which.
    guarded: BTreeMap<Inode, String>,
    /// What was done to guarded files that must not be, in words.
    violations: Vec<String>,
}

impl Data {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Header(backing) => {
                self.whole = true;
                self.backing.clone_from(backing);
            }
            Write::Block(block, value) => {
                self.blocks.insert(*block, *value);
            }
        }
    }

    /// What of a write is there after the power failed under it.
    fn tear(&mut self, write: &Write) {
        match write {
            Write::Header(backing) if self.whole && self.backing != *backing => self.backing = Some(TORN_NAME.into()),
            Write::Block(block, value) if self.blocks.get(block).is_some_and(|old| old != value) => {
                self.blocks.insert(*block, TORN);
            }
            Write::Header(_) | Write::Block(..) => {}
        }
    }
}

impl Files {
    /// From now on these files, and no others, are needed by a snapshot: by which is told.
    pub fn guard(&mut self, needed: impl Iterator<Item = (PathBuf, String)>) {
        let names = &self.names;
        self.guarded = needed.filter_map(|(path, by)| Some((*names.get(&path)?, by))).collect();
    }

    /// What was done to guarded files since the last call.
    pub fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    fn note_harm(&mut self, inode: Option<Inode>, what: impl FnOnce() -> String) {
        if let Some(by) = inode.and_then(|inode| self.guarded.get(&inode)) {
            self.violations.push(format!("{}, which {by} needs", what()));
        }
    }

    /// A new empty file in the place of whatever was there.
    pub fn create(&mut self, path: &Path) -> Inode {
        self.note_harm(self.open(path), || format!("a new file takes the place of {}", path.display()));
        let inode = Inode(self.next);
        self.next += 1;
        self.nodes.insert(inode, Node::default());
        self.change(Naming::Link(path.to_owned(), inode));
        inode
    }

    /// An image that has been there for long: nothing of it can be lost.
    pub fn place(&mut self, path: &Path, backing: Option<PathBuf>, blocks: &[(u8, u32)]) -> Inode {
        let inode = self.create(path);
        self.write(inode, Write::Header(backing));
        blocks.iter().for_each(|(block, value)| self.write(inode, Write::Block(*block, *value)));
        self.sync(inode);
        self.sync_directory(path.parent().unwrap_or(path));
        inode
    }

    /// The file of this name.
    pub fn open(&self, path: &Path) -> Option<Inode> {
        self.names.get(path).copied()
    }

    /// Takes a name away, if it is there.
    pub fn remove(&mut self, path: &Path) {
        if self.names.contains_key(path) {
            self.note_harm(self.open(path), || format!("{} is removed", path.display()));
            self.change(Naming::Unlink(path.to_owned()));
        }
    }

    /// Gives a file another name, in the same directory.
    pub fn rename(&mut self, from: &Path, to: &Path) {
        self.note_harm(self.open(to), || format!("{} is taken by another file", to.display()));
        self.change(Naming::Rename(from.to_owned(), to.to_owned()));
    }

    /// Gives a file a second name. `false` if that is taken, or there is no such file.
    pub fn link(&mut self, from: &Path, to: &Path) -> bool {
        match self.open(from) {
            Some(inode) if !self.names.contains_key(to) => {
                self.change(Naming::Link(to.to_owned(), inode));
                true
            }
            _ => false,
        }
    }

    /// How many names a file has.
    pub fn names_of(&self, inode: Inode) -> usize {
        self.names.values().filter(|known| **known == inode).count()
    }

    /// Every name below a directory.
    pub fn below(&self, directory: &Path) -> Vec<PathBuf> {
        self.names.keys().filter(|path| path.starts_with(directory)).cloned().collect()
    }

    /// Writes to an open file.
    pub fn write(&mut self, inode: Inode, write: Write) {
        self.note_harm(Some(inode), || format!("{write:?} is written to {inode:?}"));
        self.write_for_merge(inode, write);
    }

    /// The same on behalf of a merge, which may write to what a snapshot needs: it leaves what is read there the same.
    pub fn write_for_merge(&mut self, inode: Inode, write: Write) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.now.apply(&write);
            node.unsynced.push(write);
        }
    }

    /// What is in an open file.
    pub fn data(&self, inode: Inode) -> Data {
        self.nodes.get(&inode).map(|node| node.now.clone()).unwrap_or_default()
    }

    /// Brings the content of an open file to stable storage.
    pub fn sync(&mut self, inode: Inode) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.durable = node.now.clone();
            node.unsynced.clear();
        }
    }

    /// Brings the names in a directory to stable storage. A directory in it that was removed took its files along.
    pub fn sync_directory(&mut self, directory: &Path) {
        let pending = std::mem::take(&mut self.pending);
        for naming in pending {
            let removed = match &naming {
                Naming::Unlink(path) if path.starts_with(directory) => Some(path),
                _ => None,
            };
            removed.into_iter().for_each(|path| self.forget(path));
            if naming.directory() == Some(directory) || removed.is_some() {
                naming.apply(&mut self.durable_names);
            } else {
                self.pending.push(naming);
            }
        }
    }

    /// A name is gone for good: how it came about, perhaps from another one, does not matter any more.
    fn forget(&mut self, removed: &Path) {
        let mut name = removed.to_owned();
        let leads_to = |naming: &Naming, name: &Path| match naming {
            Naming::Link(to, _) | Naming::Rename(_, to) => to == name,
            Naming::Unlink(_) => false,
        };
        while let Some(at) = self.pending.iter().rposition(|naming| leads_to(naming, &name)) {
            let Naming::Rename(from, _) = self.pending.remove(at) else { break };
            name = from;
        }
        self.durable_names.remove(&name);
    }

    /// Time has passed: all names are on stable storage.
    pub fn settle_names(&mut self) {
        self.pending.clear();
        self.durable_names.clone_from(&self.names);
    }

    /// The files behind a name, by the headers; itself first.
    ///
    /// # Errors
    /// When a file is missing, has no whole header, or the files go round in a circle.
    pub fn chain(&self, path: &Path) -> Result<Vec<Inode>, String> {
        let mut chain = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let inode = self.open(&path).ok_or_else(|| format!("{} is missing", path.display()))?;
            let data = self.data(inode);
            if !data.whole {
                return Err(format!("{} is not a whole image", path.display()));
            }
            if chain.len() > CHAIN_MAX {
                return Err(format!("{} lies upon itself", path.display()));
            }
            chain.push(inode);
            next = data.backing;
        }
        Ok(chain)
    }

    /// What one reads through files that lie on one another, the top first.
    pub fn read(&self, chain: &[Inode]) -> Content {
        let mut content = Content::new();
        for inode in chain.iter().rev() {
            content.extend(self.data(*inode).blocks);
        }
        content
    }

    /// The power fails: what is not on stable storage stays or goes as chance has it.
    pub fn power_cut(&mut self, random: &mut Random) {
        let directories: BTreeSet<PathBuf> =
            self.pending.iter().filter_map(|naming| naming.directory().map(Path::to_owned)).collect();
        let pending = std::mem::take(&mut self.pending);
        for directory in directories {
            // A directory's changes reach the disk in order: file systems in use journal them.
            let changes: Vec<&Naming> =
                pending.iter().filter(|naming| naming.directory() == Some(directory.as_path())).collect();
            let kept = random.below(changes.len() + 1);
            changes.into_iter().take(kept).for_each(|naming| naming.apply(&mut self.durable_names));
        }
        self.names.clone_from(&self.durable_names);
        let named: BTreeSet<Inode> = self.names.values().copied().collect();
        self.nodes.retain(|inode, _| named.contains(inode));
        for node in self.nodes.values_mut() {
            for write in std::mem::take(&mut node.unsynced) {
                match random.below(20) {
                    0..9 => node.durable.apply(&write),
                    9..18 => {}
                    _ => node.durable.tear(&write),
                }
            }
            node.now = node.durable.clone();
        }
    }

    fn change(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending.push(naming);
    }
}

impl Naming {
    fn directory(&self) -> Option<&Path> {
        match self {
            Naming::Link(path, _) | Naming::Unlink(path) | Naming::Rename(_, path) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Inode>) {
        match self {
            Naming::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Naming::Unlink(path) => {
                names.remove(path);
            }
            Naming::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of two blocks on stable storage, then one more block and a second file that are not.
    fn half_synced() -> Files {
        let mut files = Files::default();
        let a = files.place(Path::new("/d/a"), None, &[(0, 1), (1, 1)]);
        files.write(a, Write::Block(0, 2));
        files.create(Path::new("/d/b"));
        files
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_may_go() {
        let (mut lost, mut kept, mut torn, mut named) = (0, 0, 0, 0);
        for seed in 0..64 {
            let mut files = half_synced();
            files.power_cut(&mut Random::new(seed));
            let chain = files.chain(Path::new("/d/a")).unwrap();
            let content = files.read(&chain);
            assert_eq!(content.get(&1), Some(&1), "synced");
            match content.get(&0) {
                Some(1) => lost += 1,
                Some(2) => kept += 1,
                Some(&TORN) => torn += 1,
                other => panic!("{other:?}"),
            }
            named += usize::from(files.open(Path::new("/d/b")).is_some());
        }
        assert!(lost > 0 && kept > 0 && torn > 0 && (1..64).contains(&named), "{lost} {kept} {torn} {named}");
    }

    #[test]
    fn what_was_in_a_removed_directory_does_not_come_back() {
        let (draft, path) = (Path::new("/d/vm/draft"), Path::new("/d/vm/file"));
        for (seed, early) in (0..64).flat_map(|seed| [(seed, false), (seed, true)]) {
            let mut files = Files::default();
            files.create(draft);
            if early {
                files.sync_directory(Path::new("/d/vm"));
            }
            files.rename(draft, path);
            files.remove(path);
            files.sync_directory(Path::new("/d"));
            files.power_cut(&mut Random::new(seed));
            assert_eq!(files.below(Path::new("/d")), Vec::<PathBuf>::new());
        }
    }

    /// A merge that is taken up again writes the same once more, perhaps under snapshots that name the lower file already.
    #[test]
    fn the_same_written_again_is_not_torn() {
        for seed in 0..64 {
            let mut files = half_synced();
            let a = files.open(Path::new("/d/a")).unwrap();
            files.sync(a);
            let before = files.data(a);
            files.write(a, Write::Block(0, 2));
            files.write(a, Write::Header(None));
            files.power_cut(&mut Random::new(seed));
            assert_eq!(files.data(a), before);
        }
    }

    #[test]
    fn what_a_snapshot_needs_is_written_by_merges_only() {
        let mut files = half_synced();
        files.guard([("/d/a".into(), "S".to_owned())].into_iter());
        let (a, b) = (files.open(Path::new("/d/a")).unwrap(), files.open(Path::new("/d/b")).unwrap());
        files.write(b, Write::Block(0, 5));
        files.write_for_merge(a, Write::Block(0, 5));
        assert_eq!(files.take_violations(), Vec::<String>::new());
        files.write(a, Write::Block(0, 5));
        files.remove(Path::new("/d/a"));
        assert_eq!(
            files.take_violations(),
            ["Block(0, 5) is written to Inode(0), which S needs", "/d/a is removed, which S needs"]
        );
        files.guard([("/d/b".into(), "S".to_owned())].into_iter());
        files.create(Path::new("/d/c"));
        files.rename(Path::new("/d/c"), Path::new("/d/b"));
        assert_eq!(files.take_violations(), ["/d/b is taken by another file, which S needs"]);
    }

    #[test]
    fn damage_is_named() {
        let check = |files: &Files, expected: &str| assert_eq!(files.chain(Path::new("/d/b")).unwrap_err(), expected);
        let mut files = half_synced();
        check(&files, "/d/b is not a whole image");
        let b = files.open(Path::new("/d/b")).unwrap();
        files.write(b, Write::Header(Some("/d/c".into())));
        check(&files, "/d/c is missing");
        files.write(b, Write::Header(Some("/d/b".into())));
        check(&files, "/d/b lies upon itself");
    }
}
