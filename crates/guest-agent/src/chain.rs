//! The proof that memory and both disks are one moment.
//!
//! A thread counts and writes each number to a block on disk 0 and then to one on disk 1, past the page cache. Before
//! each write it reads both blocks back and compares them with what memory remembers as last written. If a snapshot
//! took memory and a disk at different moments, even one write apart, the first comparison after the restore fails,
//! and the count of mismatches can never go back to zero.
//!
//! States: idle, running, or failed by an I/O error, whose text `status` shows.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Answer, disks};

/// Bytes of a block: the alignment that every disk of the lab accepts for direct I/O.
const BLOCK: usize = 4096;
/// `open(2)` flags of Linux on x86-64; std passes flags on but does not name them.
const O_DIRECT: i32 = 0o40000;
/// As above: a write returns when data and metadata are on the medium.
const O_SYNC: i32 = 0o4_010_000;

/// The thread and what it has seen.
#[derive(Default)]
pub struct Chain {
    /// A copy that the thread leaves here after each round; it works on its own, so that nobody waits for a disk.
    published: Arc<Mutex<Links>>,
    running: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What memory says about the disks.
#[derive(Clone, Default)]
struct Links {
    number: u64,
    written: [u64; 2],
    /// Rounds since `start`.
    iterations: u64,
    mismatches: u64,
    /// The first mismatch or the I/O error that ended the run, for the person who has to find the cause.
    remark: Option<String>,
}

/// A place that holds one number; `read` answers `None` for a torn block.
trait Block {
    fn read(&mut self) -> io::Result<Option<u64>>;
    fn write(&mut self, number: u64) -> io::Result<()>;
}

impl Chain {
    /// `start`, `stop` or `status`.
    pub fn command(&mut self, word: &str) -> Answer {
        match word {
            "start" => self.start(),
            "stop" => {
                self.stop();
                Ok(self.status())
            }
            "status" => Ok(self.status()),
            other => Err(format!("chain knows start, stop and status, not {other:?}")),
        }
    }

    /// Ends the run after the round it is in.
    pub fn stop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed on the console and shows as a chain that no longer moves.
            let _ = thread.join();
        }
    }

    fn start(&mut self) -> Answer {
        self.stop();
        let mut blocks = Vec::new();
        for mount in disks::MOUNTS {
            disks::require_mounted(mount)?;
            let path = Path::new(mount).join("chain");
            let block = RawBlock::create(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
            blocks.push(block);
        }
        let mut blocks: [RawBlock; 2] = blocks.try_into().map_err(|_| "two disks make a chain".to_owned())?;
        *lock(&self.published) = Links::default();
        self.running.store(true, Ordering::Relaxed);
        let (published, running) = (Arc::clone(&self.published), Arc::clone(&self.running));
        self.thread = Some(std::thread::spawn(move || {
            let mut links = Links::default();
            while running.load(Ordering::Relaxed) {
                if let Err(error) = links.round(&mut blocks) {
                    links.remark = Some(format!("ended by: {error}"));
                    running.store(false, Ordering::Relaxed);
                }
                lock(&published).clone_from(&links);
            }
        }));
        Ok(String::new())
    }

    fn status(&self) -> String {
        let links = lock(&self.published);
        format!(
            "n={} mismatches={} iterations={} running={}{}",
            links.number,
            links.mismatches,
            links.iterations,
            self.running.load(Ordering::Relaxed),
            links.remark.as_ref().map(|remark| format!(" remark={remark}")).unwrap_or_default()
        )
    }
}

impl Links {
    /// The next number onto both disks, each write preceded by the comparison.
    fn round(&mut self, blocks: &mut [impl Block; 2]) -> io::Result<()> {
        self.number += 1;
        for disk in 0..2 {
            self.compare(blocks)?;
            blocks[disk].write(self.number)?;
            self.written[disk] = self.number;
        }
        self.iterations += 1;
        Ok(())
    }

    fn compare(&mut self, blocks: &mut [impl Block; 2]) -> io::Result<()> {
        for (disk, block) in blocks.iter_mut().enumerate() {
            let (held, expected) = (block.read()?, self.written[disk]);
            if held != Some(expected) {
                self.mismatches += 1;
                let number = self.number;
                self.remark
                    .get_or_insert_with(|| format!("disk {disk} held {held:?}, not {expected}, before {number}"));
            }
        }
        Ok(())
    }
}

fn lock(links: &Mutex<Links>) -> MutexGuard<'_, Links> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One block of a file, read and written past the page cache.
struct RawBlock {
    file: File,
    buffer: Box<Aligned>,
}

/// Direct I/O wants memory aligned as the disk is.
#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

impl RawBlock {
    fn create(path: &Path) -> io::Result<Self> {
        // Allocated and durable before the first round, so that a round moves data and no file system structures.
        let plain = File::create(path)?;
        plain.write_all_at(&[0; BLOCK], 0)?;
        plain.sync_all()?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(O_DIRECT | O_SYNC).open(path)?;
        Ok(Self { file, buffer: Box::new(Aligned([0; BLOCK])) })
    }
}

impl Block for RawBlock {
    fn read(&mut self) -> io::Result<Option<u64>> {
        self.file.read_exact_at(&mut self.buffer.0, 0)?;
        let (words, _) = self.buffer.0.as_chunks::<8>();
        let first = words[0];
        Ok(words.iter().all(|word| *word == first).then(|| u64::from_le_bytes(first)))
    }

    fn write(&mut self, number: u64) -> io::Result<()> {
        let (words, _) = self.buffer.0.as_chunks_mut::<8>();
        words.fill(number.to_le_bytes());
        self.file.write_all_at(&self.buffer.0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Memory(Option<u64>);

    impl Block for Memory {
        fn read(&mut self) -> io::Result<Option<u64>> {
            Ok(self.0)
        }
        fn write(&mut self, number: u64) -> io::Result<()> {
            self.0 = Some(number);
            Ok(())
        }
    }

    /// Runs three rounds, lets `meddle` change the disks as a bad restore would, and runs one more.
    #[track_caller]
    fn check(meddle: fn(&mut [Memory; 2]), mismatches: u64, remark: Option<&str>) {
        let mut links = Links::default();
        let mut disks = [Memory(Some(0)), Memory(Some(0))];
        for _ in 0..3 {
            links.round(&mut disks).unwrap();
        }
        meddle(&mut disks);
        links.round(&mut disks).unwrap();
        assert_eq!((links.number, links.mismatches, links.remark.as_deref()), (4, mismatches, remark));
    }

    #[test]
    fn one_moment_has_no_mismatch() {
        check(|_| (), 0, None);
    }

    #[test]
    fn a_disk_one_write_behind_or_ahead_is_seen() {
        // Disk 0 is overwritten after the first comparison, so it is wrong once; disk 1 stays wrong for both.
        check(|disks| disks[0].0 = Some(2), 1, Some("disk 0 held Some(2), not 3, before 4"));
        check(|disks| disks[1].0 = Some(4), 2, Some("disk 1 held Some(4), not 3, before 4"));
        check(|disks| disks[1].0 = None, 2, Some("disk 1 held None, not 3, before 4"));
    }
}
