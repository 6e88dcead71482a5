//! A medium as a block device with a file system on it.
//!
//! ```text
//!   ext4 ──▶ loop device ──▶ disk.img in a file system of our own (FUSE) ──▶ Medium
//!     a flush of the journal or of fsync ──▶ REQ_OP_FLUSH ──▶ fsync of disk.img ──▶ Medium::flush
//! ```
//! Needs root, `/dev/fuse` and a free loop device.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};

use super::medium::Medium;
use crate::service::{Error, Result, scratch, wait_for};
use crate::tool::run;

/// Name of the one file.
const IMAGE: &str = "disk.img";
const IMAGE_INODE: INodeNo = INodeNo(2);
/// How long attributes hold, which never change.
const FOREVER: Duration = Duration::from_secs(3600);
/// How long processes that were killed may keep the file system busy.
const BUSY: Duration = Duration::from_secs(20);

/// A medium, exported; taken down when dropped.
pub struct Export<M: Medium> {
    medium: Arc<Mutex<M>>,
    session: Option<BackgroundSession>,
    device: Option<String>,
    mounted: bool,
    /// Where the file system of our own is mounted.
    below: tempfile::TempDir,
    /// Where the disk's file system is mounted.
    place: PathBuf,
}

impl<M: Medium> Export<M> {
    /// Exports `medium`, which holds `size` bytes, as a block device.
    ///
    /// # Errors
    /// When this system cannot do that.
    pub fn new(medium: M, size: u64, place: &Path) -> Result<Self> {
        let medium = Arc::new(Mutex::new(medium));
        let below = scratch()?;
        let disk = Disk { medium: Arc::clone(&medium), size };
        let session = fuser::spawn_mount(disk, below.path(), &Config::default());
        let session =
            session.map_err(|source| Error::Io { what: "mounting a file system of our own".into(), source })?;
        let place = place.to_owned();
        let mut export = Self { medium, session: Some(session), device: None, mounted: false, below, place };
        let image = export.below.path().join(IMAGE).display().to_string();
        export.device = Some(run("losetup", &["--find", "--show", "--direct-io=off", &image])?);
        Ok(export)
    }

    /// Makes a file system: small, and with nothing left to be done later.
    ///
    /// # Errors
    /// When that fails.
    pub fn format(&self) -> Result<()> {
        let options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-N", "4096", "-J", "size=16", "-E", options, self.device()?]).map(drop)
    }

    /// Mounts it; what its journal holds is carried out.
    ///
    /// # Errors
    /// When the file system is damaged.
    pub fn mount(&mut self) -> Result<()> {
        let place = self.place.display().to_string();
        run("mount", &["-t", "ext4", "-o", "noatime", self.device()?, &place])?;
        self.mounted = true;
        Ok(())
    }

    /// The medium.
    pub fn medium(&self) -> MutexGuard<'_, M> {
        lock(&self.medium)
    }

    /// Takes all down again and gives the medium back.
    ///
    /// # Errors
    /// When somebody still uses it.
    pub fn end(mut self) -> Result<M> {
        self.take_down()?;
        let medium = Arc::clone(&self.medium);
        drop(self);
        let medium = Arc::into_inner(medium).ok_or_else(|| Error::Other("the disk is still exported".into()))?;
        Ok(medium.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn device(&self) -> Result<&str> {
        self.device.as_deref().ok_or_else(|| Error::Other("there is no loop device".into()))
    }

    fn take_down(&mut self) -> Result<()> {
        let mut left = Ok(());
        if std::mem::take(&mut self.mounted) {
            left = leave(&self.place);
        }
        if let Some(device) = self.device.take() {
            run("losetup", &["--detach", &device])?;
        }
        if let Some(session) = self.session.take() {
            // The loop device lets go of the file a moment after it was told to.
            leave(self.below.path())?;
            session.join().map_err(|source| Error::Io { what: "ending a file system of our own".into(), source })?;
        }
        left
    }
}

/// Unmounts what is mounted on `place`. If somebody does not let go of it, it is only hidden, and that is an error.
fn leave(place: &Path) -> Result<()> {
    let place = place.display().to_string();
    let left = wait_for("a file system to be left", BUSY, || Ok(run("umount", &[&place]).ok()));
    if left.is_err() {
        run("umount", &["--lazy", &place])?;
    }
    left.map(drop)
}

impl<M: Medium> Drop for Export<M> {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("a disk could not be taken down: {error}");
        }
    }
}

/// Whether this system lets us export disks; if not, why.
///
/// # Errors
/// What is missing, in words.
pub fn possible() -> std::result::Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can mount file systems".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(device)
            .map_err(|error| format!("{device} cannot be used: {error}"))?;
    }
    Ok(())
}

fn lock<M>(medium: &Mutex<M>) -> MutexGuard<'_, M> {
    medium.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file system with one file.
struct Disk<M> {
    medium: Arc<Mutex<M>>,
    size: u64,
}

impl<M> Disk<M> {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, perm, size) = if inode == IMAGE_INODE {
            (FileType::RegularFile, 0o600, self.size)
        } else {
            (FileType::Directory, 0o700, 0)
        };
        let then = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: then,
            mtime: then,
            ctime: then,
            crtime: then,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl<M: Medium> Filesystem for Disk<M> {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == IMAGE {
            reply.entry(&FOREVER, &self.attributes(IMAGE_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = u64::from(size).min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        match lock(&self.medium).read(offset, &mut bytes) {
            Ok(()) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.medium).write(offset, bytes) {
            Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.medium).flush();
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::medium::Recorder;
    use super::*;
    use crate::random::Random;

    const SIZE: u64 = 256 << 20;

    /// The whole tower, and the one promise it must keep: what was synced is there after any later cut.
    #[test]
    fn a_file_that_was_synced_survives_a_cut_and_one_that_was_not_may_not() {
        if let Err(why) = possible() {
            eprintln!("skipped: {why}");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let mut disk = Export::new(Recorder::new(SIZE).unwrap(), SIZE, place.path()).unwrap();
        disk.format().unwrap();
        disk.mount().unwrap();
        std::fs::write(place.path().join("loose"), "loose").unwrap();
        let mut file = std::fs::File::create(place.path().join("safe")).unwrap();
        file.write_all(b"safe").unwrap();
        file.sync_all().unwrap();
        drop(file);
        std::fs::File::open(place.path()).unwrap().sync_all().unwrap();
        let synced = disk.medium().log().now();
        std::fs::remove_file(place.path().join("loose")).unwrap();
        std::fs::write(place.path().join("late"), "late").unwrap();
        let mut replay = disk.end().unwrap().into_replay().unwrap();
        let end = replay.log().now();
        assert!(end > synced && replay.log().flushes().iter().any(|flush| *flush < synced));
        for moment in [synced, synced + (end - synced) / 2, end] {
            let cut = replay.cut(moment, &mut Random::of_round(1, moment as u64)).unwrap();
            let mut disk = Export::new(cut, SIZE, place.path()).unwrap();
            disk.mount().unwrap();
            assert_eq!(std::fs::read_to_string(place.path().join("safe")).unwrap(), "safe", "after {moment} of {end}");
            let late = std::fs::read_to_string(place.path().join("late")).unwrap_or_default();
            assert!(moment > synced || late.is_empty(), "nothing is there before it was written");
            disk.end().unwrap();
        }
        assert!(!place.path().join("safe").exists());
    }
}
