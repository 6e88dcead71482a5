//! Tap interfaces: whether the emulator can use one, found out before it is started.
//!
//! The emulator opens `/dev/net/tun` itself and asks for the interface by name. For an account without privileges the
//! interface must exist, its user must be the account or nobody, and its group the account's or none (`tun_not_capable` in the
//! kernel's `drivers/net/tun.c`). What it says otherwise is "Operation not permitted", whatever is wrong.
//!
//! Where each machine has an account of its own, so must its interfaces, and no other machine can take them. The number is in
//! the advice here, and is the group of the machine's data directory.

use std::fs;
use std::path::Path;

use ledger::failure::{Failure, Kind};

use crate::account::{Account, may};

const TUN_DEVICE: &str = "/dev/net/tun";

/// Where the kernel shows network interfaces; those of the tun driver have files `owner` and `group`.
const INTERFACES: &str = "/sys/class/net";

/// Whether an emulator that runs as `account` can use the tap interface `name`.
///
/// # Errors
/// When it cannot, with the command that mends it.
pub fn check(name: &str, account: Account) -> Result<(), Failure> {
    check_interface(Path::new(INTERFACES), name, account)?;
    match fs::metadata(TUN_DEVICE) {
        Ok(meta) if !may(account, &meta, 0o6) => {
            let text = format!("user {}, whom the emulator runs as, may not open {TUN_DEVICE}", account.uid);
            Err(Failure::new(Kind::Failed, text).hint(format!("run `chmod o+rw {TUN_DEVICE}`")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(crate::fault::file("examine", Path::new(TUN_DEVICE), &error)),
    }
}

fn check_interface(interfaces: &Path, name: &str, account: Account) -> Result<(), Failure> {
    let make = format!("`ip tuntap add dev {name} mode tap user {}`", account.uid);
    // -1 is nobody.
    let id = |file| {
        fs::read_to_string(interfaces.join(name).join(file)).ok().and_then(|text| text.trim().parse::<i64>().ok())
    };
    let Some(owner) = id("owner") else {
        return Err(Failure::new(Kind::Failed, format!("this host has no tap interface {name}"))
            .hint(format!("run {make} and attach it to a bridge, or connect the adapter to something else")));
    };
    let group = id("group").unwrap_or(-1);
    let text = if owner >= 0 && owner != i64::from(account.uid) {
        format!("the tap interface {name} belongs to user {owner}, and the emulator runs as user {}", account.uid)
    } else if group >= 0 && group != i64::from(account.gid) {
        format!("the tap interface {name} belongs to group {group}, and the emulator runs in group {}", account.gid)
    } else {
        return Ok(());
    };
    Err(Failure::new(Kind::Failed, text).hint(format!("run `ip tuntap del dev {name} mode tap`, then {make}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[test]
    fn an_interface_must_be_there_and_open() {
        let root = tempfile::tempdir().unwrap();
        let ids = |owner, group| Some((owner, group));
        for (name, ids) in [
            ("mine", ids("1000", "-1")),
            ("ours", ids("-1", "1001")),
            ("open", ids("-1", "-1")),
            ("theirs", ids("7", "-1")),
            ("grouped", ids("1000", "8")),
            ("eth0", None),
        ] {
            let directory = root.path().join(name);
            fs::create_dir(&directory).unwrap();
            if let Some((owner, group)) = ids {
                fs::write(directory.join("owner"), format!("{owner}\n")).unwrap();
                fs::write(directory.join("group"), format!("{group}\n")).unwrap();
            }
        }
        let check = |name, expected: Expect| {
            let found = check_interface(root.path(), name, Account { uid: 1000, gid: 1001 });
            expected.assert_eq(&found.map_or_else(|failure| failure.full_text(), |()| "fine".to_owned()));
        };
        check("mine", expect!["fine"]);
        check("ours", expect!["fine"]);
        check("open", expect!["fine"]);
        check(
            "grouped",
            expect![
                "the tap interface grouped belongs to group 8, and the emulator runs in group 1001: run `ip tuntap del dev grouped mode tap`, then `ip tuntap add dev grouped mode tap user 1000`"
            ],
        );
        check(
            "theirs",
            expect![
                "the tap interface theirs belongs to user 7, and the emulator runs as user 1000: run `ip tuntap del dev theirs mode tap`, then `ip tuntap add dev theirs mode tap user 1000`"
            ],
        );
        check(
            "eth0",
            expect![
                "this host has no tap interface eth0: run `ip tuntap add dev eth0 mode tap user 1000` and attach it to a bridge, or connect the adapter to something else"
            ],
        );
        check(
            "none",
            expect![
                "this host has no tap interface none: run `ip tuntap add dev none mode tap user 1000` and attach it to a bridge, or connect the adapter to something else"
            ],
        );
    }
}
