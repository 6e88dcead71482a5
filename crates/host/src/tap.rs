//! Tap interfaces: whether the emulator can use one, found out before it is started.
//!
//! The emulator opens `/dev/net/tun` itself and asks for the interface by name. For an account without privileges the
//! interface must exist and belong to it or to nobody (`tun_not_capable` in the kernel's `drivers/net/tun.c`). What it
//! says otherwise is "Operation not permitted", whatever is wrong.

use std::fs;
use std::path::Path;

use ledger::failure::{Failure, Kind};

use crate::layout::{Account, may};

const TUN_DEVICE: &str = "/dev/net/tun";

/// Where the kernel shows network interfaces; those of the tun driver have a file `owner`.
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
    let Ok(owner) = fs::read_to_string(interfaces.join(name).join("owner")) else {
        return Err(Failure::new(Kind::Failed, format!("this host has no tap interface {name}"))
            .hint(format!("run {make} and attach it to a bridge, or connect the adapter to something else")));
    };
    // -1 is nobody.
    match owner.trim().parse::<i64>() {
        Ok(owner) if owner >= 0 && owner != i64::from(account.uid) => {
            let text = format!(
                "the tap interface {name} belongs to user {owner}, and the emulator runs as user {}",
                account.uid
            );
            Err(Failure::new(Kind::Failed, text).hint(format!("run `ip tuntap del dev {name} mode tap`, then {make}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[test]
    fn an_interface_must_be_there_and_open() {
        let root = tempfile::tempdir().unwrap();
        for (name, owner) in [("mine", Some("1000")), ("open", Some("-1")), ("theirs", Some("7")), ("eth0", None)] {
            let directory = root.path().join(name);
            fs::create_dir(&directory).unwrap();
            if let Some(owner) = owner {
                fs::write(directory.join("owner"), format!("{owner}\n")).unwrap();
            }
        }
        let check = |name, expected: Expect| {
            let found = check_interface(root.path(), name, Account { uid: 1000, gid: 1000 });
            expected.assert_eq(&found.map_or_else(|failure| failure.full_text(), |()| "fine".to_owned()));
        };
        check("mine", expect!["fine"]);
        check("open", expect!["fine"]);
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
