//! What a procedure asks of the host: files opened, synced, sealed, removed, and `qemu-img`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use qemu::mapped_ram;
use qemu::procedure::{FileKey, HostFailure, HostReply, HostRequest, HostResult};

use crate::account::{self, Account};
use crate::disk;
use crate::file_storage::FileStorage;

/// Carries out host requests; knows the files that are kept open between them.
#[derive(Debug)]
pub struct Hands {
    /// Whom the machine's files belong to.
    account: Option<Account>,
    qemu_img: PathBuf,
    kept: Mutex<BTreeMap<FileKey, Arc<OwnedFd>>>,
}

impl Hands {
    /// With no file open.
    pub fn new(account: Option<Account>, qemu_img: PathBuf) -> Arc<Self> {
        Arc::new(Self { account, qemu_img, kept: Mutex::new(BTreeMap::new()) })
    }

    /// Descriptors of kept files, in the order asked.
    ///
    /// # Errors
    /// When one of them is not open.
    pub fn descriptors(&self, files: &[FileKey]) -> Result<Vec<Arc<OwnedFd>>, HostFailure> {
        let kept = self.kept();
        let find = |file| kept.get(file).cloned().ok_or_else(|| HostFailure(format!("{file:?} is not open")));
        files.iter().map(find).collect()
    }

    /// Does what is asked, in a blocking thread.
    ///
    /// # Errors
    /// When the system refuses, in words that name the file.
    pub async fn carry_out(self: Arc<Self>, request: HostRequest) -> HostResult {
        if let HostRequest::QemuImg { arguments } = request {
            return self.run_qemu_img(&arguments).await;
        }
        match tokio::task::spawn_blocking(move || self.carry_out_blocking(request)).await {
            Ok(result) => result,
            Err(error) => Err(HostFailure(format!("a file task ended early: {error}"))),
        }
    }

    fn carry_out_blocking(&self, request: HostRequest) -> HostResult {
        match request {
            HostRequest::Open { file, path } => {
                let opened = self.open(&path).map_err(|error| failure("open", &path, &error))?;
                self.kept().insert(file, Arc::new(opened.into()));
            }
            HostRequest::Close { file } => {
                let closed = self.kept().remove(&file);
                // Out of the lock: the last close of a large file can take its time.
                drop(closed);
            }
            HostRequest::Sync { paths } => {
                for path in &paths {
                    sync_file(path).map_err(|error| failure("sync", path, &error))?;
                }
            }
            HostRequest::Seal { memory, sidecar, fill_bitmaps } => return self.seal(&memory, &sidecar, fill_bitmaps),
            HostRequest::MeasureRoom { from, into } => {
                let room = disk::room_to_merge(&from, &into);
                return room.map_err(|error| failure("measure", &into.path, &error));
            }
            HostRequest::QemuImg { .. } => return Err(HostFailure("qemu-img runs as a process of its own".to_owned())),
        }
        Ok(HostReply::Done)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // The emulator maps it when the machine is restored, with its own rights.
        account::hand_over(path, self.account)?;
        Ok(file)
    }

    async fn run_qemu_img(&self, arguments: &[String]) -> HostResult {
        let mut command = tokio::process::Command::new(&self.qemu_img);
        command.args(arguments).stdin(Stdio::null()).current_dir("/").kill_on_drop(true);
        // It reads what guests wrote, as the emulator does.
        account::run_as(command.as_std_mut(), self.account);
        let output = command.output().await.map_err(|error| failure("run", &self.qemu_img, &error))?;
        if output.status.success() {
            return Ok(HostReply::Done);
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " / ");
        Err(HostFailure(format!("qemu-img {}: {words}", arguments.first().map_or("", String::as_str))))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<FileKey, Arc<OwnedFd>>> {
        // Nothing is done under the lock that could panic half-way.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hands {
    fn seal(&self, memory: &Path, sidecar: &Path, fill_bitmaps: bool) -> HostResult {
        let mut memory_file = FileStorage::open(memory, false)?;
        let mut sidecar_file = FileStorage::open(sidecar, true)?;
        let layout = mapped_ram::seal(&mut memory_file, &mut sidecar_file, fill_bitmaps)
            .map_err(|error| HostFailure(format!("{}: {error}", memory.display())))?;
        let mut bytes = 0;
        for path in [memory, sidecar] {
            sync_file(path).map_err(|error| failure("sync", path, &error))?;
            account::hand_over(path, self.account).map_err(|error| failure("hand over", path, &error))?;
            make_read_only(path).map_err(|error| failure("protect", path, &error))?;
            bytes += allocated(path).map_err(|error| failure("measure", path, &error))?;
        }
        Ok(HostReply::Sealed { layout, bytes })
    }
}

/// Brings a file's content and its directory entry to stable storage.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_data()?;
    sync_directory_of(path)
}

/// Brings the directory entry of `path` to stable storage.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Puts a whole new file in the place of `path`, beside the old one first, so that there is a whole one at any time.
/// Its directory is not synchronised.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    io::Write::write_all(&mut file, content)?;
    file.sync_data()?;
    fs::rename(draft, path)
}

/// Bytes a file takes on disk.
pub fn allocated(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    // st_blocks counts units of 512 bytes whatever the file system's block size (stat(2)).
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// Closes a finished file to writing, ours too.
fn make_read_only(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o400))
}

fn failure(what: &str, path: &Path, error: &io::Error) -> HostFailure {
    HostFailure(format!("could not {what} {}: {error}", path.display()))
}
