//! Whom processes run as when the daemon is root, and what belongs to whom.
//!
//! ```text
//!   Own    everything runs as the daemon itself
//!   One    every emulator runs as one account
//!   Each   each machine has a user id of its own, from a range that nothing else uses:
//!          an emulator that its guest has taken over finds nothing of the other machines that it may open
//!          (what belongs to no machine, such as a probe or work on a lone image, runs as a common account)
//! ```
//! A machine's id is chosen once: the one that its GUID leads to, or the next that no other machine has. It is remembered as
//! the *group* of the machine's data directory (see [`crate::layout`]), which an emulator cannot change, which is lost with the
//! files it is about and not before, and which needs no place in the database.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ledger::id::VmId;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Ids that mean something else everywhere: root, nobody, and the two that mean "no change".
const TAKEN_IDS: [u32; 4] = [0, 65_534, 65_535, u32::MAX];

/// Permissions of somebody else's file that is given to an emulator: those of its owner.
const OWNER_BITS: u32 = 0o700;

/// The account that a process runs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id; the only group it is in.
    pub gid: u32,
}

/// Whom processes run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// As ourselves.
    Own,
    /// All as this one.
    One(Account),
    /// Each machine as one of its own.
    Each {
        /// For what belongs to no machine, and for machines that an older daemon started.
        common: Account,
        /// Where the user ids of machines come from.
        ids: IdRange,
        /// The group of all emulators, if they need one to open a device; else each has the group of its user id's number.
        group: Option<u32>,
    },
}

/// User and group ids, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    first: u32,
    last: u32,
}

/// Why a range of ids cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdRangeError {
    /// It is no range.
    #[error("{0:?} is no range of user ids: write the first and the last, as in \"2080374784-2080440319\"")]
    Malformed(String),
    /// It has one that belongs to somebody.
    #[error("{id} is in the range {range}, and no emulator may be that user")]
    Taken {
        /// The range.
        range: IdRange,
        /// The id.
        id: u32,
    },
}

/// Why a file is out of an account's reach.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It could not be looked at.
    #[error("could not examine {path}: {source}")]
    Io {
        /// Which file or directory.
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

impl Accounts {
    /// For what belongs to no machine.
    pub fn common(self) -> Option<Account> {
        match self {
            Accounts::Own => None,
            Accounts::One(account) | Accounts::Each { common: account, .. } => Some(account),
        }
    }

    /// One that a machine which has none yet could get: what it may do, each may.
    pub fn of_a_machine(self) -> Option<Account> {
        match self {
            Accounts::Each { ids, .. } => self.recorded(ids.last),
            Accounts::Own | Accounts::One(_) => self.common(),
        }
    }

    /// Whether a user id is that of a machine, or of all machines.
    pub fn is_machines(self, uid: u32) -> bool {
        match self {
            Accounts::Own => false,
            Accounts::One(account) => account.uid == uid,
            Accounts::Each { ids, .. } => ids.has(uid),
        }
    }

    /// Of a machine whose data directory has the group `record`; `None` in [`Accounts::Each`] if that names none.
    pub fn recorded(self, record: u32) -> Option<Account> {
        match self {
            Accounts::Each { ids, group, .. } if ids.has(record) => {
                Some(Account { uid: record, gid: group.unwrap_or(record) })
            }
            Accounts::Each { .. } => None,
            Accounts::Own | Accounts::One(_) => self.common(),
        }
    }
}

impl IdRange {
    /// Whether `id` is in it.
    pub fn has(self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }

    /// First and last.
    pub fn ends(self) -> (u32, u32) {
        (self.first, self.last)
    }

    /// The id for a machine: always the same for the same GUID, unless others have it. `None` if all are taken.
    pub fn choose(self, vm: VmId, taken: &BTreeSet<u32>) -> Option<u32> {
        let count = u128::from(self.last - self.first) + 1;
        // GUIDs are random but for a few bits, so the remainder is as evenly spread as a hash would be.
        let start = vm.0.as_u128() % count;
        let ids = (0..count).map(|step| (start + step) % count);
        // Below `count`, so the sum is at most `last`.
        let mut ids = ids.filter_map(|offset| self.first.checked_add(u32::try_from(offset).ok()?));
        ids.find(|id| !taken.contains(id))
    }
}

impl FromStr for IdRange {
    type Err = IdRangeError;

    fn from_str(text: &str) -> Result<Self, IdRangeError> {
        let malformed = || IdRangeError::Malformed(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(malformed)?;
        let number = |digits: &str| digits.trim().parse::<u32>().map_err(|_| malformed());
        let range = IdRange { first: number(first)?, last: number(last)? };
        if range.first > range.last {
            return Err(malformed());
        }
        match TAKEN_IDS.into_iter().find(|id| range.has(*id)) {
            Some(id) => Err(IdRangeError::Taken { range, id }),
            None => Ok(range),
        }
    }
}

impl std::fmt::Display for IdRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl std::fmt::Display for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Accounts::Own => write!(f, "the daemon's own"),
            Accounts::One(account) => write!(f, "{}", account.uid),
            Accounts::Each { common, ids, .. } => write!(f, "one of {ids} for each machine, else {}", common.uid),
        }
    }
}

/// Lets `command` run as `account`, if it is not to run as ourselves. The standard library drops further groups, too.
pub fn run_as(command: &mut std::process::Command, account: Option<Account>) {
    use std::os::unix::process::CommandExt;
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
}

/// Makes `account` the owner of the file at `path` and closes it to others. Its owner's own permissions stay.
///
/// # Errors
/// When the owner or the mode cannot be set, or `path` is a link or no file.
pub fn hand_over(path: &Path, account: Option<Account>) -> io::Result<()> {
    account.map_or(Ok(()), |account| give(&open_itself(path)?, account))
}

/// The same of a file somewhere in a user's directories: none of them may be a link either, or he could make one lead to where
/// we keep another machine's files.
///
/// # Errors
/// The same, and `ELOOP` if there is a link on the way.
pub fn hand_over_at(path: &Path, account: Account) -> io::Result<()> {
    give(&open_without_links(path)?, account)
}

fn give(file: &File, account: Account) -> io::Result<()> {
    let mode = file.metadata()?.mode();
    file.set_permissions(Permissions::from_mode(mode & OWNER_BITS))?;
    std::os::unix::fs::fchown(file, Some(account.uid), Some(account.gid))
}

/// Whether `account` may pass through every directory from the root to `path`, by owner, group and mode.
///
/// # Errors
/// [`AccessError::NoPassage`] naming the first one in the way.
pub fn check_passage(path: &Path, account: Account) -> Result<(), AccessError> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    for step in way {
        if !may(account, &examine(step)?, 0o1) {
            return Err(AccessError::NoPassage { path: path.to_owned(), blocker: step.to_owned(), uid: account.uid });
        }
    }
    Ok(())
}

/// Whether `account` may read the file at `path`, by owner, group and mode.
///
/// # Errors
/// [`AccessError::NotReadable`] if not.
pub fn check_readable(path: &Path, account: Account) -> Result<(), AccessError> {
    if may(account, &examine(path)?, 0o4) {
        return Ok(());
    }
    Err(AccessError::NotReadable { path: path.to_owned(), uid: account.uid })
}

/// Whether `account` may read and write the file at `path`, by owner, group and mode.
///
/// # Errors
/// [`AccessError::NotWritable`] if not.
pub fn check_writable(path: &Path, account: Account) -> Result<(), AccessError> {
    if may(account, &examine(path)?, 0o6) { Ok(()) } else { Err(AccessError::NotWritable { path: path.to_owned() }) }
}

/// Whether the mode of a file gives `account` all of `bits`, one octal digit.
pub fn may(account: Account, meta: &fs::Metadata, bits: u32) -> bool {
    let wanted = relevant_digit(meta, account) * bits;
    account.uid == 0 || meta.mode() & wanted == wanted
}

/// Opens a file or block device that is no link: whoever owns the directory could have put one there since we looked.
pub fn open_itself(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    require_image(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

/// The same with no link on the way either, where the kernel can tell (Linux 5.6).
pub fn open_without_links(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(file) => require_image(file.into()),
        // Filters of containers that are older than the call refuse it with the other error.
        Err(Errno::NOSYS | Errno::PERM) => open_itself(path),
        Err(error) => Err(error.into()),
    }
}

fn require_image(file: File) -> io::Result<File> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_block_device() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn examine(path: &Path) -> Result<fs::Metadata, AccessError> {
    fs::metadata(path).map_err(|source| AccessError::Io { path: path.to_owned(), source })
}

/// A path as one word of a command that a person may copy into a shell.
pub fn shell_word(path: &Path) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_numbers_and_nobody_elses() {
        let check = |text: &str, expected: &str| {
            let found = text.parse::<IdRange>().map(|range| format!("fine: {range}"));
            assert_eq!(found.unwrap_or_else(|error| error.to_string()), expected, "{text}");
        };
        let malformed = |text: &str| {
            check(
                text,
                &format!(
                    "{text:?} is no range of user ids: write the first and the last, as in \"2080374784-2080440319\""
                ),
            );
        };
        check("5000-5099", "fine: 5000-5099");
        check(" 7 - 7 ", "fine: 7-7");
        check("0-10", "0 is in the range 0-10, and no emulator may be that user");
        check("65000-66000", "65534 is in the range 65000-66000, and no emulator may be that user");
        check(
            "4294967000-4294967295",
            "4294967295 is in the range 4294967000-4294967295, and no emulator may be that user",
        );
        ["", "5000", "9-8", "a-b", "-1-5", "1-4294967296"].into_iter().for_each(malformed);
    }

    #[test]
    fn an_id_follows_from_the_guid_and_is_nobody_elses() {
        let range: IdRange = "1000-1003".parse().unwrap();
        let check = |guid: u128, taken: &[u32], expected: Option<u32>| {
            let taken = taken.iter().copied().collect();
            assert_eq!(range.choose(VmId(uuid::Uuid::from_u128(guid)), &taken), expected, "{guid} {taken:?}");
        };
        check(0, &[], Some(1000));
        check(6, &[], Some(1002));
        check(6, &[1000], Some(1002));
        check(6, &[1002], Some(1003));
        check(6, &[1002, 1003], Some(1000));
        check(6, &[1000, 1001, 1002, 1003], None);
        check(u128::MAX, &[7], Some(1003));
    }

    #[test]
    fn a_record_counts_where_machines_have_ids_of_their_own() {
        let common = Account { uid: 5, gid: 6 };
        let each = |group| Accounts::Each { common, ids: "1000-1003".parse().unwrap(), group };
        let check = |accounts: Accounts, record, expected: Option<(u32, u32)>| {
            assert_eq!(
                accounts.recorded(record).map(|found| (found.uid, found.gid)),
                expected,
                "{accounts:?} {record}"
            );
        };
        check(Accounts::Own, 1001, None);
        check(Accounts::One(common), 1001, Some((5, 6)));
        check(each(None), 1001, Some((1001, 1001)));
        check(each(Some(36)), 1001, Some((1001, 36)));
        check(each(None), 0, None);
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
                Err(AccessError::NoPassage { blocker, .. }) => {
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
        let check = |found: Result<(), AccessError>, expected: &str| {
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
