//! Users and groups: the account that emulator processes run under, and the group that may use the Unix socket.
//!
//! ```text
//!   the daemon is not root ───────────▶ its own account
//!   user = "root" ────────────────────▶ root, because somebody asked for it
//!   user = NAME ──────────────────────▶ that one, from /etc/passwd
//!   nothing configured ─┬─ `snapvisor` is in /etc/passwd ──▶ that one
//!                       ├─ else ──▶ a number that nobody else has
//!                       └─ a user namespace that lacks it ──▶ the daemon's own, with a warning
//! ```
//! Guests are not to be trusted and emulators have bugs, so root is never the default. `nobody` would do for a machine,
//! but shares its files with every other program that was given to it.

use host::layout::Account;

/// The account that is used if it exists and no other is configured.
const USUAL_NAME: &str = "snapvisor";

/// User and group if there is no such account. Debian reserves 65000 to 65533 (Debian Policy 9.2.2), systemd gives up to
/// 65519 to services (its UIDS-GIDS), so nothing hands this one out; and it exists in containers that map 65536 ids.
const NUMBERED: Account = Account { uid: 65_530, gid: 65_530 };

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
    /// Only root can change accounts.
    #[error("the emulator can run as {0} only if the daemon is root: leave user out of the configuration")]
    NotRoot(String),
}

/// Whom emulator processes run as; `None` for the daemon's own account.
///
/// # Errors
/// When there is no such user, or the daemon is not root and could not change to it.
pub fn emulator(name: Option<&str>, root: bool) -> Result<Option<Account>, AccountError> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let found = choose(name, root, &read("/etc/passwd"))?;
    let namespace = Namespace { users: read("/proc/self/uid_map"), groups: read("/proc/self/gid_map") };
    match found {
        Some(account) if name.is_none() && !namespace.has(account) => {
            tracing::warn!(
                "this user namespace has no user {}, so emulators run as the daemon's own; map more ids into it",
                account.uid
            );
            Ok(None)
        }
        found => Ok(found),
    }
}

/// The id of the group `name`.
///
/// # Errors
/// When there is no such group.
pub fn find_group(name: &str) -> Result<u32, AccountError> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    group_id(name, &groups).ok_or_else(|| AccountError::UnknownGroup(name.to_owned()))
}

fn choose(name: Option<&str>, root: bool, passwd: &str) -> Result<Option<Account>, AccountError> {
    match name {
        None if !root => Ok(None),
        None => Ok(Some(account(USUAL_NAME, passwd).unwrap_or(NUMBERED))),
        Some(name) if !root => Err(AccountError::NotRoot(name.to_owned())),
        Some(name) => {
            let account = account(name, passwd).ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
            Ok((account.uid != 0).then_some(account))
        }
    }
}

/// The ids that exist for this process (user_namespaces(7)).
struct Namespace {
    users: String,
    groups: String,
}

impl Namespace {
    fn has(&self, account: Account) -> bool {
        maps(&self.users, account.uid) && maps(&self.groups, account.gid)
    }
}

/// Whether a line `first outside count` covers `id`. Without any line, on a kernel without namespaces, all ids exist.
fn maps(map: &str, id: u32) -> bool {
    let covers = |line: &str| {
        let fields: Vec<u64> = line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
        matches!(fields[..], [first, _, count] if (first..first.saturating_add(count)).contains(&id.into()))
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
        let check = |name: Option<&str>, root, passwd: &str, expected: Result<Option<(u32, u32)>, &str>| {
            let found = choose(name, root, passwd).map(|found| found.map(|account| (account.uid, account.gid)));
            let found = found.map_err(|error| error.to_string().split(':').next().unwrap_or_default().to_owned());
            assert_eq!(found, expected.map_err(str::to_owned), "{name:?} {root}");
        };
        let with_usual = format!("{PASSWD}snapvisor:x:120:121::/:/bin/false\n");
        check(None, true, PASSWD, Ok(Some((65_530, 65_530))));
        check(None, true, "", Ok(Some((65_530, 65_530))));
        check(None, true, &with_usual, Ok(Some((120, 121))));
        check(Some("qemu"), true, &with_usual, Ok(Some((107, 108))));
        check(Some("root"), true, PASSWD, Ok(None));
        check(None, false, &with_usual, Ok(None));
        check(Some("broken"), true, PASSWD, Err("there is no user broken in /etc/passwd"));
        check(Some("nobody-here"), true, PASSWD, Err("there is no user nobody-here in /etc/passwd"));
        check(Some("qemu"), false, PASSWD, Err("the emulator can run as qemu only if the daemon is root"));
    }

    #[test]
    fn a_namespace_may_lack_the_account() {
        let check = |map: &str, expected| assert_eq!(maps(map, NUMBERED.uid), expected, "{map}");
        check("         0          0 4294967295\n", true);
        check("         0     100000      65536\n", true);
        check("         0       1000          1\n", false);
        check("         0       1000          1\n     65530     100000          1\n", true);
        check("", true);
    }

    #[test]
    fn groups_are_found() {
        assert_eq!(group_id("kvm", "kvm:x:36:a,b"), Some(36));
        assert_eq!(group_id("kvm", "kvm:x"), None);
    }
}
