//! Users and groups by name, from `/etc/passwd` and `/etc/group`: the account that emulator processes run under, and the
//! group that may use the Unix socket.

use host::layout::Account;

/// Group that may open `/dev/kvm` on most systems.
const KVM_GROUP: &str = "kvm";

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

/// Looks up the account `name`. Its group is `kvm` if there is such a group, else its own.
///
/// # Errors
/// When there is no such user, or the daemon is not root and could not change to it.
pub fn find(name: &str, root: bool) -> Result<Account, AccountError> {
    if !root {
        return Err(AccountError::NotRoot(name.to_owned()));
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    account(name, &read("/etc/passwd"), &read("/etc/group")).ok_or_else(|| AccountError::Unknown(name.to_owned()))
}

/// The id of the group `name`.
///
/// # Errors
/// When there is no such group.
pub fn find_group(name: &str) -> Result<u32, AccountError> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    group_id(name, &groups).ok_or_else(|| AccountError::UnknownGroup(name.to_owned()))
}

fn group_id(name: &str, groups: &str) -> Option<u32> {
    row(groups, name)?.get(2)?.parse().ok()
}

fn account(name: &str, passwd: &str, group: &str) -> Option<Account> {
    // name:password:uid:gid:… and name:password:gid:…
    let user: Vec<&str> = row(passwd, name)?;
    let kvm = group_id(KVM_GROUP, group);
    let own = || user.get(3)?.parse().ok();
    Some(Account { uid: user.get(2)?.parse().ok()?, gid: kvm.or_else(own)? })
}

fn row<'a>(table: &'a str, name: &str) -> Option<Vec<&'a str>> {
    table.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|row| row.first() == Some(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nqemu:x:107:108::/:/bin/false\nbroken:x\n";
        let check = |name, group, expected| assert_eq!(account(name, passwd, group), expected, "{name}");
        check("qemu", "kvm:x:36:\n", Some(Account { uid: 107, gid: 36 }));
        check("qemu", "", Some(Account { uid: 107, gid: 108 }));
        check("broken", "", None);
        check("nobody-here", "kvm:x:36:\n", None);
        assert_eq!(group_id("kvm", "kvm:x:36:a,b"), Some(36));
        assert_eq!(find("qemu", false), Err(AccountError::NotRoot("qemu".to_owned())));
    }
}
