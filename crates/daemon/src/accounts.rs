//! Users and groups: the accounts that emulator processes run under, and the group that may use the Unix socket.
//!
//! ```text
//!   the daemon is not root ───────────▶ its own account
//!   user = "root" ────────────────────▶ root, because somebody asked for it
//!   user = NAME ──────────────────────▶ that one, from /etc/passwd, for all machines
//!   user_ids = FIRST-LAST ────────────▶ one of these for each machine
//!   nothing configured ─┬─────────────▶ the same with a range that nobody else has
//!                       ├─ a user namespace that lacks it ──▶ the common account for all machines, with a warning
//!                       └─ or lacks that, too ──────────────▶ the daemon's own, with a warning
//! ```
//! Guests are not to be trusted and emulators have bugs, so root is never the default, and what one machine's emulator may open is
//! closed to the others'. `nobody` would do for a machine, but shares its files with every other program that was given to it.
//!
//! The *common account* is for what belongs to no machine: an emulator that is only asked what it can do, and work on images that
//! no machine has. It is `snapvisor` if there is such a user, else a number.

use host::account::{Account, Accounts, IdRange, IdRangeError};

/// The common account, if it exists.
const USUAL_NAME: &str = "snapvisor";

/// The common account if there is no such user. Debian reserves 65000 to 65533 (Debian Policy 9.2.2), systemd gives up to
/// 65519 to services (its UIDS-GIDS), so nothing hands this one out; and it exists in containers that map 65536 ids.
const NUMBERED: Account = Account { uid: 65_530, gid: 65_530 };

/// User ids of machines, `0x7C000000` to `0x7C00FFFF`. systemd's containers end at 1879048191, its ids for images of others begin
/// at 2147352576, and it leaves what is between unused (its UIDS-GIDS); directory services take ids there up to 2000200000
/// (sssd's `ldap_idmap_range_max`). Above 2147483647 old programs and file systems take ids for negative.
const USUAL_IDS: &str = "2080374784-2080440319";

/// Why an account cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccountError {
    /// There is none of this name.
    #[error(
        "there is no user {0} in /etc/passwd: create the account, or name another one as user in the configuration"
    )]
    Unknown(String),
    /// There is no group of this name.
    #[error("there is no group {0} in /etc/group: create it, or name another one as group in the configuration")]
    UnknownGroup(String),
    /// What should be a range of ids is none.
    #[error("user_ids: {0}")]
    Ids(#[from] IdRangeError),
    /// One account for all and one for each cannot both be.
    #[error(
        "user gives all machines one account and user_ids gives each its own: leave one of them out of the configuration"
    )]
    Both,
    /// A user of this host has an id from the range.
    #[error("user {name} in /etc/passwd has id {id}, which is in user_ids: choose another range")]
    InUse {
        /// The user.
        name: String,
        /// Its id.
        id: u32,
    },
    /// The ids do not exist here.
    #[error("this user namespace has not all of user_ids: map them into it, or choose a range that it has")]
    NotMapped,
    /// The common account does not exist here.
    #[error(
        "this user namespace has no user {0}, whom the work on images is for: map it, or create a user {USUAL_NAME} with an \
         id that it has"
    )]
    CommonNotMapped(u32),
    /// Only root can change accounts.
    #[error("the emulator can run as {0} only if the daemon is root: leave user out of the configuration")]
    NotRoot(String),
    /// The same.
    #[error(
        "each machine can have a user id of its own only if the daemon is root: leave user_ids out of the configuration"
    )]
    NotRootForIds,
}

/// Whom emulator processes run as; `name` and `ids` as configured.
///
/// # Errors
/// When there is no such user or range, or the daemon is not root and could not change to it.
pub fn emulators(name: Option<&str>, ids: Option<&str>, root: bool) -> Result<Accounts, AccountError> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let passwd = read("/etc/passwd");
    let found = choose(name, ids, root, &passwd)?;
    let namespace = Namespace { users: read("/proc/self/uid_map"), groups: read("/proc/self/gid_map") };
    if name.is_some() {
        return Ok(found);
    }
    let possible = namespace.limit(found);
    if possible == found {
        return Ok(found);
    }
    match (possible, found.common()) {
        (Accounts::One(_), _) if ids.is_some() => return Err(AccountError::NotMapped),
        (Accounts::One(_), _) => tracing::warn!(
            "this user namespace has not the user ids {USUAL_IDS}, so all machines run under one account: map them \
             into it, or set user_ids to a range that it has, to keep machines from each other"
        ),
        (_, Some(common)) if ids.is_some() => return Err(AccountError::CommonNotMapped(common.uid)),
        _ => tracing::warn!(
            "this user namespace has but few users, so emulators run as the daemon's own: map more ids into it"
        ),
    }
    Ok(possible)
}

/// The id of the group `name`.
///
/// # Errors
/// When there is no such group.
pub fn find_group(name: &str) -> Result<u32, AccountError> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    group_id(name, &groups).ok_or_else(|| AccountError::UnknownGroup(name.to_owned()))
}

fn choose(name: Option<&str>, ids: Option<&str>, root: bool, passwd: &str) -> Result<Accounts, AccountError> {
    match (name, ids) {
        (Some(_), Some(_)) => Err(AccountError::Both),
        (None, None) if !root => Ok(Accounts::Own),
        (Some(name), _) if !root => Err(AccountError::NotRoot(name.to_owned())),
        (None, Some(_)) if !root => Err(AccountError::NotRootForIds),
        (Some(name), None) => {
            let account = account(name, passwd).ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
            Ok(if account.uid == 0 { Accounts::Own } else { Accounts::One(account) })
        }
        (None, ids) => {
            let common = account(USUAL_NAME, passwd).unwrap_or(NUMBERED);
            let ids: IdRange = ids.unwrap_or(USUAL_IDS).parse()?;
            match users_in(ids, common, passwd) {
                Some((name, id)) => Err(AccountError::InUse { name, id }),
                None => Ok(Accounts::Each { common, ids, group: None }),
            }
        }
    }
}

/// A user whose id is in the range, or the common account if it is.
fn users_in(ids: IdRange, common: Account, passwd: &str) -> Option<(String, u32)> {
    let users = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    });
    users.chain([("of the image tools".to_owned(), common.uid)]).find(|(_, id)| ids.has(*id))
}

/// The ids that exist for this process (user_namespaces(7)).
struct Namespace {
    users: String,
    groups: String,
}

impl Namespace {
    /// As many different accounts as there can be.
    fn limit(&self, accounts: Accounts) -> Accounts {
        match accounts {
            Accounts::Each { common, ids, .. } if self.has(common) && self.has_all(ids) => accounts,
            Accounts::Each { common, .. } | Accounts::One(common) if self.has(common) => Accounts::One(common),
            _ => Accounts::Own,
        }
    }

    fn has_all(&self, ids: IdRange) -> bool {
        let (first, last) = ids.ends();
        [&self.users, &self.groups].into_iter().all(|map| maps(map, first, last))
    }

    fn has(&self, account: Account) -> bool {
        maps(&self.users, account.uid, account.uid) && maps(&self.groups, account.gid, account.gid)
    }
}

/// Whether one line `inside outside count` covers all ids. Without any line, on a kernel without namespaces, all ids exist.
fn maps(map: &str, first: u32, last: u32) -> bool {
    let covers = |line: &str| {
        let fields: Vec<u64> = line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
        let [inside, _, count] = fields[..] else { return false };
        let mapped = inside..inside.saturating_add(count);
        mapped.contains(&first.into()) && mapped.contains(&last.into())
    };
    map.trim().is_empty() || map.lines().any(covers)
}

fn group_id(name: &str, groups: &str) -> Option<u32> {
    row(groups, name)?.get(2)?.parse().ok()
}

fn account(name: &str, passwd: &str) -> Option<Account> {
    // name:password:uid:gid:…
    let user = row(passwd, name)?;
    Some(Account { uid: user.get(2)?.parse().ok()?, gid: user.get(3)?.parse().ok()? })
}

fn row<'a>(table: &'a str, name: &str) -> Option<Vec<&'a str>> {
    table.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|row| row.first() == Some(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nqemu:x:107:108::/:/bin/false\nbroken:x\n";

    #[test]
    fn root_is_never_the_default() {
        let check = |name: Option<&str>, ids: Option<&str>, root, passwd: &str, expected: &str| {
            let found = match choose(name, ids, root, passwd) {
                Ok(Accounts::Own) => "own".to_owned(),
                Ok(Accounts::One(account)) => format!("one {}:{}", account.uid, account.gid),
                Ok(Accounts::Each { common, ids, .. }) => format!("each {ids}, common {}:{}", common.uid, common.gid),
                Err(error) => error.to_string().split(':').next().unwrap_or_default().to_owned(),
            };
            assert_eq!(found, expected, "{name:?} {ids:?} {root}");
        };
        let with_usual = format!("{PASSWD}snapvisor:x:120:121::/:/bin/false\n");
        check(None, None, true, PASSWD, "each 2080374784-2080440319, common 65530:65530");
        check(None, None, true, "", "each 2080374784-2080440319, common 65530:65530");
        check(None, None, true, &with_usual, "each 2080374784-2080440319, common 120:121");
        check(None, Some("5000-5099"), true, PASSWD, "each 5000-5099, common 65530:65530");
        check(None, Some("100-5099"), true, PASSWD, "user qemu in /etc/passwd has id 107, which is in user_ids");
        check(
            None,
            Some("65000-65531"),
            true,
            PASSWD,
            "user of the image tools in /etc/passwd has id 65530, which is in user_ids",
        );
        check(None, Some("0-9"), true, PASSWD, "user_ids");
        check(Some("qemu"), None, true, &with_usual, "one 107:108");
        check(Some("root"), None, true, PASSWD, "own");
        check(None, None, false, &with_usual, "own");
        check(Some("broken"), None, true, PASSWD, "there is no user broken in /etc/passwd");
        check(Some("nobody-here"), None, true, PASSWD, "there is no user nobody-here in /etc/passwd");
        check(Some("qemu"), None, false, PASSWD, "the emulator can run as qemu only if the daemon is root");
        check(
            None,
            Some("5000-5099"),
            false,
            PASSWD,
            "each machine can have a user id of its own only if the daemon is root",
        );
        check(
            Some("qemu"),
            Some("5000-5099"),
            true,
            PASSWD,
            "user gives all machines one account and user_ids gives each its own",
        );
    }

    #[test]
    fn a_namespace_may_lack_accounts() {
        let each = choose(None, None, true, PASSWD).unwrap();
        let check = |map: &str, expected: Accounts| {
            let namespace = Namespace { users: map.to_owned(), groups: map.to_owned() };
            assert_eq!(namespace.limit(each), expected, "{map}");
        };
        check("         0          0 4294967295\n", each);
        check("", each);
        check("         0     100000      65536\n", Accounts::One(NUMBERED));
        check("         0       1000          1\n     65530     100000          1\n", Accounts::One(NUMBERED));
        check("         0       1000          1\n", Accounts::Own);
        check("0 100000 65536\n2080374784 200000 65535\n", Accounts::One(NUMBERED));
        check("0 100000 65536\n2080374784 200000 65536\n", each);
    }

    #[test]
    fn groups_are_found() {
        assert_eq!(group_id("kvm", "kvm:x:36:a,b"), Some(36));
        assert_eq!(group_id("kvm", "kvm:x"), None);
    }
}
