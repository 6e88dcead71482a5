//! Images that users have lent to machines: whose they were, so that they can be given back.
//!
//! ```text
//!   user's ──machine starts, or its layers are merged──▶ machine's ──another machine has it──▶ that one's
//!      ▲                                                     │
//!      └───────────────machine is destroyed──────────────────┘
//! ```
//! An image that is only taken out of its drive stays the machine's, because a snapshot may rest on it. Who owned an image is
//! written down before the image changes hands, beside the machine's files and nowhere else: when those are lost, an image keeps
//! the owner that it has, and root can change that.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ledger::id::VmId;
use serde::{Deserialize, Serialize};

use crate::account::{self, Account};
use crate::hands::{replace_file, sync_directory_of};
use crate::layout::Layout;

/// Longest record we read: the images of all drives that a machine can have, with the longest paths.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// Permission bits of a mode.
const PERMISSIONS: u32 = 0o777;

/// Whose an image was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lender {
    uid: u32,
    gid: u32,
    mode: u32,
}

type Record = BTreeMap<PathBuf, Lender>;

/// Records are read, changed and written by one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Makes the machine's account the owner of a user's image, and remembers who was.
///
/// # Errors
/// When the record or the owner cannot be changed; `ELOOP` if a link is on the way to the image, which is recorded by its real path.
pub fn lend(layout: &Layout, vm: VmId, image: &Path, account: Account) -> io::Result<()> {
    remember(layout, vm, image)?;
    account::hand_over_at(image, account)
}

/// Writes down whose an image is. Another machine that knows it forgets it only then: an interruption leaves two that know, and never none.
fn remember(layout: &Layout, vm: VmId, image: &Path) -> io::Result<()> {
    // Nothing is done under the lock that could panic half-way.
    let _alone = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let path = layout.lent(vm);
    let mut record = read(&path)?;
    if record.contains_key(image) {
        return Ok(());
    }
    let known = known_to_another(layout, image)?;
    let lender = match &known {
        Some(known) => known.lender.clone(),
        None => present_owner(layout, image)?,
    };
    record.insert(image.to_owned(), lender);
    write(&path, &record)?;
    known.map_or(Ok(()), |known| write(&known.path, &known.others))
}

/// Gives the images of a machine back. One that cannot be given back is left as it is; so is one that belongs to somebody else
/// by now.
pub fn give_back(layout: &Layout, vm: VmId) {
    let Some(account) = layout.account_of(vm) else { return };
    let record = read(&layout.lent(vm)).unwrap_or_else(|error| {
        tracing::warn!(%vm, %error, "the images of a machine keep its account as their owner");
        Record::new()
    });
    for (image, lender) in record {
        match return_to(&image, &lender, account) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(image = %image.display(), %error, "an image could not be given back to its owner");
            }
            _ => {}
        }
    }
}

/// An image that changes hands for a moment.
#[derive(Debug)]
pub struct Borrowed {
    image: PathBuf,
    from: Lender,
    by: Account,
}

/// Makes `account` the owner of an image that belongs to no machine. Nothing is written down: if the daemon ends before it is given
/// back, the image stays the account's.
///
/// # Errors
/// When the owner cannot be changed.
pub fn borrow(image: &Path, account: Account) -> io::Result<Borrowed> {
    let meta = fs::metadata(image)?;
    account::hand_over_at(image, account)?;
    let from = Lender { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & PERMISSIONS };
    Ok(Borrowed { image: image.to_owned(), from, by: account })
}

impl Borrowed {
    /// Gives it back.
    pub fn give_back(&self) {
        if let Err(error) = return_to(&self.image, &self.from, self.by) {
            tracing::warn!(image = %self.image.display(), %error, "an image could not be given back to its owner");
        }
    }
}

fn return_to(image: &Path, lender: &Lender, account: Account) -> io::Result<()> {
    let file = account::open_without_links(image)?;
    if file.metadata()?.uid() != account.uid {
        return Ok(());
    }
    // Never more than a plain file's: the record is ours, and still no reason to make anything run as somebody.
    file.set_permissions(Permissions::from_mode(lender.mode & PERMISSIONS))?;
    std::os::unix::fs::fchown(&file, Some(lender.uid), Some(lender.gid))
}

/// One that an account of ours owns without a record was taken by an older daemon, which kept none; then it is root's.
fn present_owner(layout: &Layout, image: &Path) -> io::Result<Lender> {
    let meta = fs::metadata(image)?;
    if layout.is_emulators(meta.uid()) {
        return Ok(Lender { uid: 0, gid: 0, mode: meta.mode() & PERMISSIONS });
    }
    Ok(Lender { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & PERMISSIONS })
}

/// What another machine remembers of an image.
struct Known {
    lender: Lender,
    /// Its record.
    path: PathBuf,
    /// What else is in it.
    others: Record,
}

fn known_to_another(layout: &Layout, image: &Path) -> io::Result<Option<Known>> {
    for vm in fs::read_dir(layout.vms())?.flatten().filter_map(|entry| layout.vm_of(&entry.path())) {
        let path = layout.lent(vm);
        let mut others = read(&path)?;
        if let Some(lender) = others.remove(image) {
            return Ok(Some(Known { lender, path, others }));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<Record> {
    let read = || -> io::Result<Record> {
        let mut text = Vec::new();
        fs::File::open(path)?.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::new()),
        Err(error) => {
            let text = format!("the record of lent images {}: {error}", path.display());
            Err(io::Error::new(error.kind(), text))
        }
        found => found,
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    replace_file(path, &serde_json::to_vec(record)?)?;
    sync_directory_of(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Accounts;

    const FIRST: VmId = VmId(uuid::Uuid::from_u128(0x7000));
    const SECOND: VmId = VmId(uuid::Uuid::from_u128(0x7001));

    #[test]
    fn an_image_comes_back_to_whom_it_was_lent_by() {
        // Only root gives files away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let common = Account { uid: 65_530, gid: 65_530 };
        let accounts = Accounts::Each { common, ids: "3000000-3000099".parse().unwrap(), group: None };
        let layout = Layout::new(&root.path().join("data"), &root.path().join("run"), accounts).unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o711)).unwrap();
        layout.create().unwrap();
        let [first, second] = [FIRST, SECOND].map(|vm| layout.settle_vm(vm).unwrap().unwrap());
        assert_ne!(first, second);

        let image = |name: &str, uid: u32, mode: u32| {
            let path = root.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&path, Some(uid), Some(100)).unwrap();
            path
        };
        let check = |path: &Path, uid: u32, mode: u32| {
            let meta = fs::metadata(path).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (uid, mode), "{}", path.display());
        };
        let kept = image("kept", 1000, 0o644);
        let moved = image("moved", 1001, 0o664);
        let old = image("old", common.uid, 0o600);
        for path in [&kept, &moved, &old] {
            lend(&layout, FIRST, path, first).unwrap();
            lend(&layout, FIRST, path, first).unwrap();
        }
        check(&kept, first.uid, 0o600);
        lend(&layout, SECOND, &moved, second).unwrap();
        check(&moved, second.uid, 0o600);
        assert_eq!(read(&layout.lent(FIRST)).unwrap().len(), 2, "one machine knows it");
        // What is no machine among the machines is nobody's record.
        fs::write(layout.vms().join("notes"), "").unwrap();

        // The owner of a directory makes it lead to where another machine's file has the same name.
        fs::create_dir(root.path().join("users")).unwrap();
        let own = image("users/disk", 1002, 0o600);
        fs::rename(root.path().join("users"), root.path().join("away")).unwrap();
        let foreign = layout.vm(SECOND).join("disks/disk");
        fs::write(&foreign, "").unwrap();
        account::hand_over(&foreign, Some(second)).unwrap();
        std::os::unix::fs::symlink(layout.vm(SECOND).join("disks"), root.path().join("users")).unwrap();
        assert_eq!(lend(&layout, FIRST, &own, first).unwrap_err().raw_os_error(), Some(40), "ELOOP");
        check(&foreign, second.uid, 0o600);

        give_back(&layout, FIRST);
        check(&foreign, second.uid, 0o600);
        check(&kept, 1000, 0o644);
        check(&moved, second.uid, 0o600);
        check(&old, 0, 0o600);
        give_back(&layout, SECOND);
        let borrowed = borrow(&moved, common).unwrap();
        check(&moved, common.uid, 0o600);
        borrowed.give_back();
        check(&moved, 1001, 0o664);
    }
}
