//! Where things are: the data directory, which survives a reboot, and the run directory, which need not.
//!
//! ```text
//! <data>/snapvisor.sqlite          what exists                        (crate::store_sqlite)
//! <data>/lock                      held by the one daemon that may write
//! <data>/vms/<VM>/disks/           layers; the ledger chooses the names
//! <data>/vms/<VM>/memory/          saved memory, one directory each
//! <run>/<VM>/qmp                   the machine's monitor, a UNIX socket
//! <run>/<VM>/process.json          which process it is                (crate::identity)
//! <run>/<VM>/build.json            how it was built                   (crate::machines)
//! <run>/<VM>/log                   what the process printed
//! <run>/<VM>/serial/com1, com2     the guest's serial ports, UNIX sockets made by the emulator
//! <run>/<VM>/merge.*               the same of a storage daemon that merges layers of a machine that is off
//! ```
//! Directories are closed to everybody but us. When the emulator runs under an account of its own, it owns the files that
//! it opens and may pass through the directories, but not list or change them: an emulator that its guest has taken over
//! could otherwise put a link where we are about to write or to change an owner. Only `serial` is its own.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ledger::id::VmId;
use rustix::fs::OFlags;

/// Longest path of a UNIX socket in bytes: `sun_path` has 108, and QEMU wants the terminating zero.
const SOCKET_PATH_MAX: usize = 107;

/// Length of `/<VM GUID>/` plus the longest socket name below it, `serial/com1`.
const BELOW_RUN: usize = 1 + 36 + 1 + SERIAL_DIRECTORY.len() + 5;

const SERIAL_DIRECTORY: &str = "serial";
const QMP_SOCKET: &str = "qmp";
const MERGE_SOCKET: &str = "merge.qmp";

/// The account that emulator processes run under when the daemon is root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id; the only group it is in.
    pub gid: u32,
}

/// The data and run directories.
#[derive(Clone, Debug)]
pub struct Layout {
    data: PathBuf,
    run: PathBuf,
    account: Option<Account>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A relative path would depend on where the daemon was started.
    #[error("{0} is not an absolute path: give the full path in the configuration")]
    NotAbsolute(PathBuf),
    /// The sockets below would have names too long for the kernel.
    #[error(
        "the run directory {path} is {have} bytes long, at most {max} are possible: choose a shorter one, such as /run/snapvisor"
    )]
    TooLong {
        /// The run directory.
        path: PathBuf,
        /// Its length.
        have: usize,
        /// What is possible.
        max: usize,
    },
    /// It could not be made or its rights could not be set.
    #[error("could not prepare {path}: {source}")]
    Io {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory above hides it from the emulator's account.
    #[error(
        "{blocker} does not let user {uid} pass, whom the emulator runs as, so {path} is out of its reach: \
         run `chmod o+x {word}`, or choose a place that others may reach", word = shell_word(blocker)
    )]
    NoPassage {
        /// The directory that must be reached.
        path: PathBuf,
        /// The one in the way.
        blocker: PathBuf,
        /// Who cannot pass.
        uid: u32,
    },
    /// A file that belongs to somebody else is closed to the emulator's account.
    #[error(
        "user {uid}, whom the emulator runs as, may not read {path}: run `chmod o+r {word}`", word = shell_word(path)
    )]
    NotReadable {
        /// The file.
        path: PathBuf,
        /// Who cannot read it.
        uid: u32,
    },
    /// A file that was given to the emulator's account is closed to it all the same.
    #[error("{path} may not be written by its owner: run `chmod u+rw {word}`", word = shell_word(path))]
    NotWritable {
        /// The file.
        path: PathBuf,
    },
}

impl Layout {
    /// Checks the two paths; touches nothing. `account` is whom emulator processes run as, if not as ourselves.
    ///
    /// # Errors
    /// When a path is relative, or `run` is too long for socket names.
    pub fn new(data: &Path, run: &Path, account: Option<Account>) -> Result<Self, LayoutError> {
        for path in [data, run] {
            if !path.is_absolute() {
                return Err(LayoutError::NotAbsolute(path.to_owned()));
            }
        }
        let (have, max) = (run.as_os_str().as_bytes().len(), SOCKET_PATH_MAX - BELOW_RUN);
        if have > max {
            return Err(LayoutError::TooLong { path: run.to_owned(), have, max });
        }
        Ok(Self { data: data.to_owned(), run: run.to_owned(), account })
    }

    /// Makes the directories that are there whatever machines exist.
    ///
    /// # Errors
    /// When they cannot be made, or the emulator's account could not reach them.
    pub fn create(&self) -> Result<(), LayoutError> {
        for path in [&self.data, &self.vms(), &self.run] {
            self.create_passage(path)?;
        }
        if let Some(account) = self.account {
            for path in [&self.vms(), &self.run] {
                check_passage(path, account)?;
            }
        }
        Ok(())
    }

    /// Makes the directories of a machine. Keeps what is there.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn create_vm(&self, vm: VmId) -> Result<(), LayoutError> {
        let root = self.vm(vm);
        for path in [&root, &root.join("disks"), &root.join("memory"), &self.run_vm(vm)] {
            self.create_passage(path)?;
        }
        make_directory(&self.run_vm(vm).join(SERIAL_DIRECTORY), 0o700, self.account)
    }

    /// Makes a directory that the emulator may pass through and nobody else may touch.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_passage(&self, path: &Path) -> Result<(), LayoutError> {
        make_directory(path, self.passage_mode(), None)
    }

    /// Whom emulator processes run as, if not as ourselves.
    pub fn account(&self) -> Option<Account> {
        self.account
    }

    /// The root that the ledger chooses paths of layers and memories under.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The store's file.
    pub fn database(&self) -> PathBuf {
        self.data.join("snapvisor.sqlite")
    }

    /// Monitor socket of an emulator that is only asked what it can do.
    pub fn probe_qmp(&self) -> PathBuf {
        self.run.join("probe.qmp")
    }

    /// What that one printed.
    pub fn probe_log(&self) -> PathBuf {
        self.run.join("probe.log")
    }

    /// The file that is locked by the daemon at work.
    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    /// The boot of the host for which machines that start with it have been started.
    pub fn started(&self) -> PathBuf {
        self.run.join("started")
    }

    /// Directory of all machines.
    pub fn vms(&self) -> PathBuf {
        self.data.join("vms")
    }

    /// Directory of one machine.
    pub fn vm(&self, vm: VmId) -> PathBuf {
        self.vms().join(vm.to_string())
    }

    /// Directory of a machine's sockets.
    pub fn run_vm(&self, vm: VmId) -> PathBuf {
        self.run.join(vm.to_string())
    }

    /// In the command line of a machine's storage daemon and in no other: the id of a device that swallows what it is given,
    /// which is the one thing that a storage daemon can have a name in. The run directory is part of it, because a copied
    /// data directory has machines of the same GUID.
    pub fn merge_mark(&self, vm: VmId) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '.' };
        let place: String = self.run.to_string_lossy().chars().map(plain).collect();
        format!("id=merge-{vm}-{place}")
    }

    /// The monitor socket of a machine.
    pub fn qmp(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join(QMP_SOCKET)
    }

    /// The monitor socket of the storage daemon that merges layers of a machine that is off.
    pub fn merge_qmp(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join(MERGE_SOCKET)
    }

    /// Which process a machine is.
    pub fn identity(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join("process.json")
    }

    /// How a machine's process was built.
    pub fn build(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join("build.json")
    }

    /// Socket of the guest's first serial port.
    pub fn com1(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join(SERIAL_DIRECTORY).join("com1")
    }

    /// Socket of the guest's second serial port.
    pub fn com2(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join(SERIAL_DIRECTORY).join("com2")
    }

    /// What a machine's process printed.
    pub fn log(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join("log")
    }

    /// Which process the storage daemon of a machine is.
    pub fn merge_identity(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join("merge.json")
    }

    /// What the storage daemon of a machine printed.
    pub fn merge_log(&self, vm: VmId) -> PathBuf {
        self.run_vm(vm).join("merge.log")
    }

    /// Gives a file to the emulator's account and closes it to others.
    ///
    /// # Errors
    /// When the owner or the mode cannot be set, or `path` is a link or no file.
    pub fn hand_over(&self, path: &Path) -> io::Result<()> {
        let file = open_itself(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        self.own_open(&file)
    }

    /// Makes the emulator's account the owner of the file at `path`, whose mode stays.
    ///
    /// # Errors
    /// When the owner cannot be set, or `path` is a link or no file.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        if self.account.is_none() {
            return Ok(());
        }
        self.own_open(&open_itself(path)?)
    }

    fn own_open(&self, file: &File) -> io::Result<()> {
        match self.account {
            Some(account) => std::os::unix::fs::fchown(file, Some(account.uid), Some(account.gid)),
            None => Ok(()),
        }
    }

    /// Others may pass through our directories, and not list them, if there is somebody else who must.
    fn passage_mode(&self) -> u32 {
        if self.account.is_some() { 0o711 } else { 0o700 }
    }
}

/// Whether `account` may pass through every directory from the root to `path`, by owner, group and mode.
///
/// # Errors
/// [`LayoutError::NoPassage`] naming the first one in the way.
pub fn check_passage(path: &Path, account: Account) -> Result<(), LayoutError> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    for step in way {
        let meta = fs::metadata(step).map_err(|source| LayoutError::Io { path: step.to_owned(), source })?;
        if !may(account, &meta, 0o1) {
            return Err(LayoutError::NoPassage { path: path.to_owned(), blocker: step.to_owned(), uid: account.uid });
        }
    }
    Ok(())
}

/// Whether `account` may read the file at `path`, by owner, group and mode.
///
/// # Errors
/// [`LayoutError::NotReadable`] if not.
pub fn check_readable(path: &Path, account: Account) -> Result<(), LayoutError> {
    let meta = fs::metadata(path).map_err(|source| LayoutError::Io { path: path.to_owned(), source })?;
    if may(account, &meta, 0o4) {
        return Ok(());
    }
    Err(LayoutError::NotReadable { path: path.to_owned(), uid: account.uid })
}

/// Whether `account` may read and write the file at `path`, by owner, group and mode.
///
/// # Errors
/// [`LayoutError::NotWritable`] if not.
pub fn check_writable(path: &Path, account: Account) -> Result<(), LayoutError> {
    let meta = fs::metadata(path).map_err(|source| LayoutError::Io { path: path.to_owned(), source })?;
    if may(account, &meta, 0o6) { Ok(()) } else { Err(LayoutError::NotWritable { path: path.to_owned() }) }
}

/// Whether the mode of a file gives `account` all of `bits`, one octal digit.
pub fn may(account: Account, meta: &fs::Metadata, bits: u32) -> bool {
    let wanted = relevant_digit(meta, account) * bits;
    account.uid == 0 || meta.mode() & wanted == wanted
}

/// A path as one word of a command that a person may copy into a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// 1 in the digit of the mode that counts for `account`.
fn relevant_digit(meta: &fs::Metadata, account: Account) -> u32 {
    if meta.uid() == account.uid {
        0o100
    } else if meta.gid() == account.gid {
        0o010
    } else {
        0o001
    }
}

/// Opens a file or block device that is no link: whoever owns the directory could have put one there since we looked.
fn open_itself(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_block_device() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn make_directory(path: &Path, mode: u32, owner: Option<Account>) -> Result<(), LayoutError> {
    let make = || {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        match owner {
            Some(account) => std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)),
            None => Ok(()),
        }
    };
    make().map_err(|source| LayoutError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_cannot_work_are_refused_before_anything_is_made() {
        let check = |data: &str, run: &str, expected: &str| {
            let found = Layout::new(Path::new(data), Path::new(run), None).map(|_| "fine".to_owned());
            assert_eq!(found.unwrap_or_else(|error| error.to_string()), expected);
        };
        let longest = format!("/{}", "r".repeat(SOCKET_PATH_MAX - BELOW_RUN - 1));
        check("/var/lib/snapvisor", "/run/snapvisor", "fine");
        check("/var/lib/snapvisor", &longest, "fine");
        check("data", "/run/snapvisor", "data is not an absolute path: give the full path in the configuration");
        check(
            "/data",
            &format!("{longest}r"),
            &format!(
                "the run directory {longest}r is 59 bytes long, at most 58 are possible: choose a shorter one, such as /run/snapvisor"
            ),
        );
    }

    #[test]
    fn directories_are_closed_and_repeating_keeps_them() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(&root.path().join("data"), &root.path().join("run"), None).unwrap();
        let vm = VmId(uuid::Uuid::from_u128(7));
        for _ in 0..2 {
            layout.create().unwrap();
            layout.create_vm(vm).unwrap();
            fs::write(layout.vm(vm).join("disks/kept"), b"x").unwrap();
        }
        for path in [layout.data().to_owned(), layout.vms(), layout.vm(vm).join("disks"), layout.run_vm(vm)] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700, "{}", path.display());
        }
        assert!(layout.com1(vm).as_os_str().len() <= SOCKET_PATH_MAX || root.path().as_os_str().len() > 54);
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("closed/inner");
        fs::create_dir_all(&inner).unwrap();
        for (mode, passes) in [(0o700, false), (0o711, true)] {
            fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(root.path().join("closed"), Permissions::from_mode(mode)).unwrap();
            let found = check_passage(&inner, Account { uid: 54_321, gid: 54_321 });
            match found {
                Ok(()) => assert!(passes),
                Err(LayoutError::NoPassage { blocker, .. }) => {
                    assert!(!passes && blocker == root.path().join("closed"));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_an_account_may_not_do_comes_with_the_command_that_mends_it() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let file = root.path().join("it's a disk.img");
        fs::write(&file, "").unwrap();
        let account = Account { uid: 54_321, gid: 54_321 };
        let check = |found: Result<(), LayoutError>, expected: &str| {
            let text = found.map_or_else(|error| error.to_string(), |()| "fine".to_owned());
            assert_eq!(text.replace(&root.path().display().to_string(), "DIR"), expected);
        };
        fs::set_permissions(&file, Permissions::from_mode(0o660)).unwrap();
        check(
            check_readable(&file, account),
            r"user 54321, whom the emulator runs as, may not read DIR/it's a disk.img: run `chmod o+r 'DIR/it'\''s a disk.img'`",
        );
        check(
            check_writable(&file, account),
            r"DIR/it's a disk.img may not be written by its owner: run `chmod u+rw 'DIR/it'\''s a disk.img'`",
        );
        fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        check(check_readable(&file, account), "fine");
        assert!(check_writable(&file, account).is_err());
        fs::set_permissions(root.path(), Permissions::from_mode(0o750)).unwrap();
        check(
            check_passage(root.path(), account),
            "DIR does not let user 54321 pass, whom the emulator runs as, so DIR is out of its reach: \
             run `chmod o+x DIR`, or choose a place that others may reach",
        );
    }
}
