//! A disk that remembers every write and every flush, and the disk that a power cut would have left of it.
//!
//! ```text
//!   write, write, flush, write, write, write │ cut
//!   └────── certain ───┘ └── each kept, torn or lost ┘
//! ```
//! A disk with a cache promises one thing: what was written before a flush is there once the flush has been answered. Of what was
//! written since, any part may be there, in any order, cut at any sector.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::random::Random;

/// Bytes that are written whole or not at all.
const SECTOR: usize = 512;
/// What is kept in memory of a cut disk, as a unit.
const BLOCK: usize = 4096;

/// What lies behind an exported disk.
pub trait Medium: Send + 'static {
    /// Reads; what was never written is zero.
    ///
    /// # Errors
    /// When the file behind it cannot be read.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes.
    ///
    /// # Errors
    /// When the file behind it cannot be written.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Everything written so far is to be safe.
    fn flush(&mut self);
}

/// One thing that happened to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Write { offset: u64, length: usize, at: u64 },
    Flush,
}

/// Everything that happened to a disk, in order.
#[derive(Debug)]
pub struct Log {
    entries: Vec<Entry>,
    /// The bytes of all writes, one after the other.
    bytes: File,
    length: u64,
}

impl Log {
    /// How much has happened so far: a moment of the disk.
    pub fn now(&self) -> usize {
        self.entries.len()
    }

    /// How many flushes there are.
    pub fn flushes(&self) -> Vec<usize> {
        let flushes = self.entries.iter().enumerate().filter(|(_, entry)| **entry == Entry::Flush);
        flushes.map(|(index, _)| index).collect()
    }

    /// Bytes written, in all.
    pub fn written(&self) -> u64 {
        self.length
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes.write_all_at(bytes, self.length)?;
        self.entries.push(Entry::Write { offset, length: bytes.len(), at: self.length });
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn bytes(&self, length: usize, at: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.bytes.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

/// A disk that works, and keeps its log.
#[derive(Debug)]
pub struct Recorder {
    now: File,
    log: Log,
}

impl Recorder {
    /// An empty disk of `size` bytes.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    pub fn new(size: u64) -> io::Result<Self> {
        let now = tempfile::tempfile()?;
        now.set_len(size)?;
        Ok(Self { now, log: Log { entries: Vec::new(), bytes: tempfile::tempfile()?, length: 0 } })
    }

    /// What happened so far.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The log alone, when the disk is not needed any more.
    ///
    /// # Errors
    /// When there is no room for a temporary file.
    pub fn into_replay(self) -> io::Result<Replay> {
        let certain = tempfile::tempfile()?;
        certain.set_len(self.now.metadata()?.len())?;
        Ok(Replay { log: self.log, certain, applied: 0 })
    }
}

impl Medium for Recorder {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.now.read_exact_at(bytes, offset)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.log.write(offset, bytes)?;
        self.now.write_all_at(bytes, offset)
    }

    fn flush(&mut self) {
        self.log.entries.push(Entry::Flush);
    }
}

/// A log from which disks are made as they were left.
#[derive(Debug)]
pub struct Replay {
    log: Log,
    /// What is certain, up to the entry `applied`.
    certain: File,
    applied: usize,
}

impl Replay {
    /// What happened.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The disk as a cut after `moment` entries leaves it; `random` decides about what is not certain. Moments must not fall.
    ///
    /// # Errors
    /// When a temporary file cannot be read or written, or `moment` is before an earlier one.
    pub fn cut(&mut self, moment: usize, random: &mut Random) -> io::Result<Cut> {
        let happened = self.log.entries.get(..moment).ok_or(io::ErrorKind::InvalidInput)?;
        let certain = happened.iter().rposition(|entry| *entry == Entry::Flush).unwrap_or(0);
        let since = happened.get(certain..).unwrap_or_default().to_vec();
        let new = happened.get(self.applied..certain).unwrap_or_default().to_vec();
        for entry in new {
            if let Entry::Write { offset, length, at } = entry {
                self.certain.write_all_at(&self.log.bytes(length, at)?, offset)?;
            }
        }
        self.applied = self.applied.max(certain);
        let mut cut = Cut { certain: self.certain.try_clone()?, changes: HashMap::new(), uncertain: 0, lost: 0 };
        let fate = Fate::draw(random);
        for entry in since {
            if let Entry::Write { offset, length, at } = entry {
                cut.uncertain += 1;
                fate.deal(&mut cut, offset, &self.log.bytes(length, at)?, random)?;
            }
        }
        Ok(cut)
    }
}

/// What becomes of writes that no flush has followed.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    Mixed,
}

impl Fate {
    fn draw(random: &mut Random) -> Self {
        let kinds = [(2, Fate::Lost), (1, Fate::Kept), (5, Fate::Mixed)];
        random.weighted(&kinds).copied().unwrap_or(Fate::Mixed)
    }

    fn deal(self, cut: &mut Cut, offset: u64, bytes: &[u8], random: &mut Random) -> io::Result<()> {
        let kept = match self {
            Fate::Lost => false,
            Fate::Kept => true,
            Fate::Mixed => random.chance(50),
        };
        if kept && !(matches!(self, Fate::Mixed) && random.chance(25)) {
            return cut.write(offset, bytes);
        }
        cut.lost += 1;
        if kept {
            // Torn: some of its sectors, or some of its pages.
            let unit = if random.chance(50) { SECTOR } else { BLOCK };
            for (index, part) in bytes.chunks(unit).enumerate() {
                if random.chance(50) {
                    cut.write(offset + (index * unit) as u64, part)?;
                }
            }
        }
        Ok(())
    }
}

/// A disk after a power cut. What is written to it is kept in memory and goes with it.
#[derive(Debug)]
pub struct Cut {
    certain: File,
    changes: HashMap<u64, Box<[u8; BLOCK]>>,
    /// Writes since the last flush.
    pub uncertain: u64,
    /// Those of them that are lost or torn.
    pub lost: u64,
}

impl Cut {
    /// Calls `visit` with each block that the range touches, the place in it, and the place in the range.
    fn blocks(
        offset: u64,
        length: usize,
        mut visit: impl FnMut(u64, usize, usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let place = offset + done as u64;
            let within = usize::try_from(place % BLOCK as u64).map_err(io::Error::other)?;
            let size = (BLOCK - within).min(length - done);
            visit(place - place % BLOCK as u64, within, done, size)?;
            done += size;
        }
        Ok(())
    }
}

impl Medium for Cut {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.certain.read_exact_at(bytes, offset)?;
        let changes = &self.changes;
        Self::blocks(offset, bytes.len(), |block, within, done, size| {
            if let Some(changed) = changes.get(&block) {
                bytes[done..done + size].copy_from_slice(&changed[within..within + size]);
            }
            Ok(())
        })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Self { certain, changes, .. } = self;
        Self::blocks(offset, bytes.len(), |block, within, done, size| {
            let changed = match changes.entry(block) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => {
                    let mut before = Box::new([0; BLOCK]);
                    certain.read_exact_at(before.as_mut_slice(), block)?;
                    new.insert(before)
                }
            };
            changed[within..within + size].copy_from_slice(&bytes[done..done + size]);
            Ok(())
        })
    }

    fn flush(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes numbered sectors: `w5` writes sector 5, `f` flushes.
    fn recorded(script: &str) -> Replay {
        let mut disk = Recorder::new(64 * SECTOR as u64).unwrap();
        for (index, word) in script.split(' ').enumerate() {
            match word.strip_prefix('w') {
                Some(sector) => {
                    let offset = sector.parse::<u64>().unwrap() * SECTOR as u64;
                    disk.write(offset, &[u8::try_from(index).unwrap() + 1; SECTOR]).unwrap();
                }
                None => disk.flush(),
            }
        }
        disk.into_replay().unwrap()
    }

    fn sectors(cut: &mut Cut) -> Vec<u8> {
        let mut bytes = vec![0; 64 * SECTOR];
        cut.read(0, &mut bytes).unwrap();
        bytes.chunks(SECTOR).map(|sector| sector[0]).take(8).collect()
    }

    #[test]
    fn what_was_flushed_is_there_and_of_the_rest_anything_may_be() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..200 {
            let mut replay = recorded("w0 w1 f w1 w2 f w3");
            let mut random = Random::of_round(seed, 0);
            let seen = sectors(&mut replay.cut(2, &mut random).unwrap());
            assert!(matches!(seen[0], 0 | 1) && matches!(seen[1], 0 | 2), "{seen:?}");
            let seen = sectors(&mut replay.cut(5, &mut random).unwrap());
            assert_eq!((seen[0], seen[3]), (1, 0), "{seen:?}");
            assert!(matches!(seen[1], 2 | 4) && matches!(seen[2], 0 | 5), "{seen:?}");
            let seen = sectors(&mut replay.cut(7, &mut random).unwrap());
            assert_eq!(seen[..3], [1, 4, 5], "{seen:?}");
            if seen[3] == 7 { kept += 1 } else { lost += 1 }
        }
        assert!(kept > 20 && lost > 20, "both happen: {kept} and {lost}");
    }

    #[test]
    fn what_is_written_after_the_cut_goes_with_it() {
        let mut replay = recorded("w0 f w1 f");
        let mut random = Random::of_round(1, 1);
        let mut first = replay.cut(2, &mut random).unwrap();
        first.write(SECTOR as u64 / 2, &[9; SECTOR]).unwrap();
        let mut bytes = [0; 2 * SECTOR];
        first.read(0, &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[SECTOR / 2], bytes[SECTOR], bytes[SECTOR * 3 / 2]), (1, 9, 9, 0));
        assert_eq!(sectors(&mut replay.cut(4, &mut random).unwrap())[..3], [1, 3, 0]);
    }
}
