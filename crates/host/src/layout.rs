//! Where things are: the data directory, which survives a reboot, and the run directory, which need not.
//!
//! ```text
//! <data>/snapvisor.sqlite          what exists                        (crate::store_sqlite)
//! <data>/revision                  how far the store has been, should an older copy of it be put back
//! <data>/reserve                   space for the store when there is no other
//! <data>/lock                      held by the one daemon that may write
//! <data>/set-aside/                what a repair moved out of the way, by the time it did
//! <data>/vms/<VM>/                 its group is the machine's user id (crate::account)
//! <data>/vms/<VM>/disks/           layers; the ledger chooses the names
//! <data>/vms/<VM>/memory/          saved memory, one directory each
//! <data>/vms/<VM>/lent.json        whose images the machine has       (crate::lent)
//! <data>/vms/<VM>/seals/           how frozen files must be           (crate::seal)
//! <data>/vms/<VM>/inventory.jsonl  what the machine consists of       (crate::inventory)
//! <run>/<VM>/qmp                   the machine's monitor, a UNIX socket
//! <run>/<VM>/process.json          which process it is                (crate::identity)
//! <run>/<VM>/build.json            how it was built                   (crate::machines)
//! <run>/<VM>/log                   what the process printed
//! <run>/<VM>/serial/com1, com2     the guest's serial ports, UNIX sockets made by the emulator
//! <run>/<VM>/merge.*               the same of a storage daemon that merges layers of a machine that is off
//! ```
//! Directories are closed to everybody but us. When the emulator runs under an account of its own, it owns the files that
//! it opens and may pass through the directories, but not list or change them: an emulator that its guest has taken over
//! could otherwise put a link where we are about to write or to change an owner. Only `serial` is its own, and so tells whom
//! the machine's process runs as, also to a daemon that was configured otherwise since.
//!
//! | what | owner | mode |
//! | --- | --- | --- |
//! | data and run directory, `vms`, `<VM>`, `disks`, `memory` and those in it | the daemon | 0711 for root, else 0700 |
//! | database, records, seals, logs, texts beside saved memory | the daemon | 0600 |
//! | monitor sockets | the daemon | 0700 |
//! | layers, a user's image that a machine has | the machine | 0600 |
//! | finished memory images | the machine | 0400 |
//! | `serial` | the machine | 0700 |

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ledger::id::VmId;

use crate::account::{AccessError, Account, Accounts, IdRange, check_passage};

/// Longest path of a UNIX socket in bytes: `sun_path` has 108, and QEMU wants the terminating zero.
const SOCKET_PATH_MAX: usize = 107;

/// Length of `/<VM GUID>/` plus the longest socket name below it, `serial/com1`.
const BELOW_RUN: usize = 1 + 36 + 1 + SERIAL_DIRECTORY.len() + 5;

const SERIAL_DIRECTORY: &str = "serial";
const QMP_SOCKET: &str = "qmp";
const MERGE_SOCKET: &str = "merge.qmp";

/// The data and run directories.
#[derive(Clone, Debug)]
pub struct Layout {
    data: PathBuf,
    run: PathBuf,
    accounts: Accounts,
    /// Held while an id is chosen, so that two machines do not choose the same.
    choosing: Arc<Mutex<()>>,
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
    /// It, or what is in it, is out of an account's reach.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// There are more machines than user ids.
    #[error("every user id of {0} belongs to a machine: widen user_ids in the configuration, and restart the service")]
    NoIdLeft(IdRange),
}

impl Layout {
    /// Checks the two paths; touches nothing. `accounts` says whom emulator processes run as.
    ///
    /// # Errors
    /// When a path is relative, or `run` is too long for socket names.
    pub fn new(data: &Path, run: &Path, accounts: Accounts) -> Result<Self, LayoutError> {
        for path in [data, run] {
            if !path.is_absolute() {
                return Err(LayoutError::NotAbsolute(path.to_owned()));
            }
        }
        let (have, max) = (run.as_os_str().as_bytes().len(), SOCKET_PATH_MAX - BELOW_RUN);
        if have > max {
            return Err(LayoutError::TooLong { path: run.to_owned(), have, max });
        }
        Ok(Self { data: data.to_owned(), run: run.to_owned(), accounts, choosing: Arc::default() })
    }

    /// Makes the directories that are there whatever machines exist.
    ///
    /// # Errors
    /// When they cannot be made, or the emulator's account could not reach them.
    pub fn create(&self) -> Result<(), LayoutError> {
        for path in [&self.data, &self.vms(), &self.run] {
            self.create_passage(path)?;
        }
        if let Some(account) = self.common_account() {
            for path in [&self.vms(), &self.run] {
                check_passage(path, account)?;
            }
        }
        Ok(())
    }

    /// Makes the directories of a machine, which may be running. Keeps what is there.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn create_vm(&self, vm: VmId) -> Result<(), LayoutError> {
        let root = self.vm(vm);
        for path in [&root, &root.join("disks"), &root.join("memory"), &self.run_vm(vm)] {
            self.create_passage(path)?;
        }
        Ok(())
    }

    /// The same for a machine without a process, whose account is settled with it: the one on record, or a new one. Whatever
    /// it is to open must be handed over to that account, because it may have been another one before.
    ///
    /// # Errors
    /// When they cannot be made, or no id is left.
    pub fn settle_vm(&self, vm: VmId) -> Result<Option<Account>, LayoutError> {
        self.create_vm(vm)?;
        let account = match self.accounts {
            Accounts::Each { ids, .. } => Some(self.choose_account(vm, ids)?),
            Accounts::Own | Accounts::One(_) => self.accounts.common(),
        };
        let serial = self.run_vm(vm).join(SERIAL_DIRECTORY);
        make_directory(&serial, 0o700)?;
        let owner = account.map_or_else(|| rustix::process::geteuid().as_raw(), |account| account.uid);
        let group = account.map_or_else(|| rustix::process::getegid().as_raw(), |account| account.gid);
        change_owner(&serial, Some(owner), Some(group))?;
        Ok(account)
    }

    /// Makes a directory that the emulator may pass through and nobody else may touch.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_passage(&self, path: &Path) -> Result<(), LayoutError> {
        make_directory(path, self.passage_mode())
    }

    /// Whom the process of a machine runs as, or would if it were started now; `None` for ourselves.
    pub fn account_of(&self, vm: VmId) -> Option<Account> {
        if let Ok(serial) = fs::metadata(self.run_vm(vm).join(SERIAL_DIRECTORY)) {
            let account = Account { uid: serial.uid(), gid: serial.gid() };
            return (account.uid != rustix::process::geteuid().as_raw()).then_some(account);
        }
        let recorded = fs::metadata(self.vm(vm)).ok().and_then(|meta| self.accounts.recorded(meta.gid()));
        recorded.or_else(|| self.common_account())
    }

    /// Whom processes run as that belong to no machine, if not as ourselves.
    pub fn common_account(&self) -> Option<Account> {
        self.accounts.common()
    }

    /// Whether a user id is one that emulators run under.
    pub fn is_emulators(&self, uid: u32) -> bool {
        self.accounts.is_machines(uid) || self.common_account().is_some_and(|account| account.uid == uid)
    }

    /// The account on record for a machine, which is put on record if there is none.
    fn choose_account(&self, vm: VmId, ids: IdRange) -> Result<Account, LayoutError> {
        // Nothing is done under the lock that could panic half-way.
        let _alone = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let root = self.vm(vm);
        let io_error = |source| LayoutError::Io { path: root.clone(), source };
        let recorded = |meta: &fs::Metadata| self.accounts.recorded(meta.gid());
        if let Some(account) = recorded(&fs::metadata(&root).map_err(io_error)?) {
            return Ok(account);
        }
        let vms = self.vms();
        let others = fs::read_dir(&vms).map_err(|source| LayoutError::Io { path: vms.clone(), source })?;
        let taken: BTreeSet<u32> = others.flatten().filter_map(|other| Some(other.metadata().ok()?.gid())).collect();
        let id = ids.choose(vm, &taken).ok_or(LayoutError::NoIdLeft(ids))?;
        change_owner(&root, None, Some(id))?;
        // On stable storage before any file is given to it.
        fs::File::open(&root).and_then(|directory| directory.sync_all()).map_err(io_error)?;
        recorded(&fs::metadata(&root).map_err(io_error)?).ok_or(LayoutError::NoIdLeft(ids))
    }

    /// Whom emulator processes run as.
    pub fn accounts(&self) -> Accounts {
        self.accounts
    }

    /// The root that the ledger chooses paths of layers and memories under.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The root of sockets and records of processes.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The store's file.
    pub fn database(&self) -> PathBuf {
        self.data.join("snapvisor.sqlite")
    }

    /// The revision that the store has been at.
    pub fn revision(&self) -> PathBuf {
        self.data.join("revision")
    }

    /// The file whose space is the store's when there is no other.
    pub fn reserve(&self) -> PathBuf {
        self.data.join("reserve")
    }

    /// Where repairs put what nobody refers to.
    pub fn set_aside(&self) -> PathBuf {
        self.data.join("set-aside")
    }

    /// What a machine consists of, for the day when the store is lost.
    pub fn inventory(&self, vm: VmId) -> PathBuf {
        self.vm(vm).join("inventory.jsonl")
    }

    /// Seals of a machine's frozen files.
    pub fn seals(&self, vm: VmId) -> PathBuf {
        self.vm(vm).join("seals")
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

    /// The machine whose directory `path` is.
    pub fn vm_of(&self, path: &Path) -> Option<VmId> {
        let name = path.strip_prefix(self.vms()).ok()?.to_str()?;
        name.parse().ok().map(VmId)
    }

    /// Whose images a machine has.
    pub fn lent(&self, vm: VmId) -> PathBuf {
        self.vm(vm).join("lent.json")
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

    /// Others may pass through our directories, and not list them, if there is somebody else who must.
    fn passage_mode(&self) -> u32 {
        if self.accounts == Accounts::Own { 0o700 } else { 0o711 }
    }
}

/// Makes a directory and those above it that are missing, which get the same mode whatever our umask is.
fn make_directory(path: &Path, mode: u32) -> Result<(), LayoutError> {
    let made = path.ancestors().skip(1).take_while(|above| !above.exists()).chain([path]).collect::<Vec<_>>();
    let set_mode = |path: &&Path| fs::set_permissions(path, Permissions::from_mode(mode));
    let make = || fs::create_dir_all(path).and_then(|()| made.iter().try_for_each(set_mode));
    make().map_err(|source| LayoutError::Io { path: path.to_owned(), source })
}

fn change_owner(path: &Path, user: Option<u32>, group: Option<u32>) -> Result<(), LayoutError> {
    std::os::unix::fs::chown(path, user, group).map_err(|source| LayoutError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_cannot_work_are_refused_before_anything_is_made() {
        let check = |data: &str, run: &str, expected: &str| {
            let found = Layout::new(Path::new(data), Path::new(run), Accounts::Own).map(|_| "fine".to_owned());
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
    fn a_machine_keeps_its_account_and_shares_it_with_none() {
        // Only root can change accounts.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o711)).unwrap();
        let common = Account { uid: 65_530, gid: 65_530 };
        let each = |ids: &str, group| Accounts::Each { common, ids: ids.parse().unwrap(), group };
        let layout = |accounts| Layout::new(&root.path().join("data"), &root.path().join("run"), accounts).unwrap();
        let uid = |account: Option<Account>| account.map(|account| (account.uid, account.gid));
        let [first, second, third] = [0, 2, 5].map(|number| VmId(uuid::Uuid::from_u128(number)));

        let one = layout(Accounts::One(common));
        one.create().unwrap();
        assert_eq!(uid(one.settle_vm(first).unwrap()), Some((65_530, 65_530)));
        let own = layout(each("3000000-3000001", Some(36)));
        assert_eq!(uid(own.account_of(first)), Some((65_530, 65_530)), "as it was started by the daemon before");
        assert_eq!(uid(own.settle_vm(first).unwrap()), Some((3_000_000, 36)));
        assert_eq!(uid(own.settle_vm(second).unwrap()), Some((3_000_001, 36)), "the first choice is taken");
        assert_eq!(uid(own.account_of(second)), Some((3_000_001, 36)));
        let refused = own.settle_vm(third).unwrap_err().to_string();
        assert!(refused.starts_with("every user id of 3000000-3000001 belongs to a machine"), "{refused}");

        // A reboot takes the run directory, and nothing of a machine's account with it.
        fs::remove_dir_all(root.path().join("run")).unwrap();
        let wider = layout(each("3000000-3000099", None));
        assert_eq!(uid(wider.account_of(second)), Some((3_000_001, 3_000_001)));
        assert_eq!(uid(wider.settle_vm(second).unwrap()), Some((3_000_001, 3_000_001)));
        for path in [wider.vm(second), wider.vm(second).join("disks"), wider.run_vm(second)] {
            let meta = fs::metadata(&path).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o711), "{}", path.display());
        }
    }

    #[test]
    fn directories_are_closed_and_repeating_keeps_them() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(&root.path().join("data"), &root.path().join("run"), Accounts::Own).unwrap();
        let vm = VmId(uuid::Uuid::from_u128(7));
        for _ in 0..2 {
            layout.create().unwrap();
            layout.create_vm(vm).unwrap();
            fs::write(layout.vm(vm).join("disks/kept"), b"x").unwrap();
        }
        for path in [layout.data().to_owned(), layout.vms(), layout.vm(vm).join("disks"), layout.run_vm(vm)] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700, "{}", path.display());
        }
        assert_eq!(layout.com1(vm).as_os_str().len() - layout.run().as_os_str().len(), BELOW_RUN);
    }
}
