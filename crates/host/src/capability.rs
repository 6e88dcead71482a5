//! What this host can do: which programs there are, how old they are, and what executes guest instructions.
//!
//! Looked up once at start. What is missing or too old is an error that names what to install, because a daemon that
//! fails at its first snapshot is worse than one that does not start.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use qemu::graph::DiskIo;
use qemu::launch::{self, Accelerator, Display, Platform, newest_q35};
use qemu::qmp::Command;
use qemu::version::{Version, VersionError};

use crate::account::{self, Account, Accounts, may};
use crate::layout::Layout;
use crate::process::Program;

/// Where programs are looked for, as in most systems' own PATH for root.
const PROGRAM_DIRECTORIES: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/usr/libexec", "/usr/sbin", "/bin"];

/// Firmware code and the template of its variables, as distributions name them: Debian and Ubuntu, Fedora, Arch.
const UEFI_FILES: [(&str, &str); 5] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// What the configuration may fix; everything absent is looked for.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The machine emulator.
    pub emulator: Option<PathBuf>,
    /// The image tool.
    pub qemu_img: Option<PathBuf>,
    /// The storage daemon.
    pub storage_daemon: Option<PathBuf>,
    /// UEFI code and template of the variables.
    pub uefi: Option<UefiFiles>,
    /// What executes guest instructions.
    pub accelerator: Option<Accelerator>,
    /// How disks are reached; through the page cache if absent.
    pub disk_io: Option<DiskIo>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The machine emulator.
    pub emulator: PathBuf,
    /// The image tool.
    pub qemu_img: PathBuf,
    /// The storage daemon, which merges layers of machines that are off.
    pub storage_daemon: PathBuf,
    /// Version of the emulator.
    pub version: Version,
    /// What new machines are built on.
    pub platform: Platform,
    /// Why hardware virtualisation is not used, if it is not.
    pub no_kvm: Option<String>,
    /// UEFI firmware; without it only machines with BIOS can be made.
    pub uefi: Option<UefiFiles>,
    /// How disks are reached.
    pub disk_io: DiskIo,
}

/// UEFI firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UefiFiles {
    /// The code, raw.
    pub code: PathBuf,
    /// Template of the variables, raw.
    pub variables: PathBuf,
}

/// Why this host cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// A program is not there.
    #[error("{program} was not found in {directories}: install {package}, or name its path in the configuration")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Where it was looked for.
        directories: String,
        /// Debian's package.
        package: &'static str,
    },
    /// A program does not run.
    #[error("could not run {program}: {reason}")]
    Broken {
        /// Its path.
        program: PathBuf,
        /// Why.
        reason: String,
    },
    /// A program is of no use.
    #[error("{program} cannot be used: {source}")]
    Version {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: VersionError,
    },
    /// A path from the configuration leads nowhere.
    #[error("{path} from the configuration is not a file")]
    NotThere {
        /// The path.
        path: PathBuf,
    },
}

/// How long a program may take to say its version, or an emulator its machine types.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// Hardware virtualisation.
const KVM_DEVICE: &str = "/dev/kvm";

/// CPU model without hardware virtualisation: old enough to be translated faithfully, new enough for `x86-64-v2` systems.
const CPU_TCG: &str = "Nehalem-v1";

/// CPU model with it: all that this processor has and that can be saved. Saved memory loads on the same processor only.
const CPU_KVM: &str = "host";

impl Tools {
    /// Looks for everything and asks the emulator what it can do. The directories of `layout` must be there.
    ///
    /// # Errors
    /// When a program is missing, does not run, or is too old.
    pub async fn find(wishes: &Wishes, layout: &Layout) -> Result<Self, CapabilityError> {
        let emulator = find_program(wishes.emulator.as_deref(), "qemu-system-x86_64", "qemu-system-x86")?;
        let qemu_img = qemu_img(wishes.qemu_img.as_deref())?;
        let storage_daemon = find_program(wishes.storage_daemon.as_deref(), "qemu-storage-daemon", "qemu-utils")?;
        let account = layout.common_account();
        let version = ask_version(&emulator, account).await?;
        ask_version(&qemu_img, account).await?;
        ask_version(&storage_daemon, account).await?;
        let machine_type = ask_machine_type(&emulator, layout).await?;
        let (accelerator, no_kvm) = choose_accelerator(wishes.accelerator, account);
        let cpu = match accelerator {
            Accelerator::Kvm => CPU_KVM,
            Accelerator::Tcg => CPU_TCG,
        };
        Ok(Self {
            emulator,
            qemu_img,
            storage_daemon,
            version,
            platform: Platform { machine_type, accelerator, cpu: cpu.to_owned(), display: Display::Vga },
            no_kvm,
            uefi: find_uefi(wishes.uefi.as_ref())?,
            disk_io: wishes.disk_io.unwrap_or(DiskIo::Buffered),
        })
    }
}

/// `accounts` with the group that may open `/dev/kvm`, if that group is needed and hardware virtualisation is to be used.
///
/// An account has one group here. Files of machines are closed to groups, so nothing is lost by the change.
pub fn with_kvm_group(accounts: Accounts, wish: Option<Accelerator>) -> Accounts {
    match accounts {
        Accounts::Own => accounts,
        Accounts::One(account) => Accounts::One(join_kvm_group(account, wish)),
        Accounts::Each { common, ids, .. } => {
            let joined = join_kvm_group(common, wish);
            Accounts::Each { common: joined, ids, group: (joined != common).then_some(joined.gid) }
        }
    }
}

fn join_kvm_group(account: Account, wish: Option<Accelerator>) -> Account {
    match open_kvm(Some(account)) {
        Ok(()) => account,
        Err(_) => {
            let joined = fs::metadata(KVM_DEVICE).map(|meta| Account { gid: meta.gid(), ..account });
            // The group root owns much more than this device.
            let joined = joined.ok().filter(|joined| joined.gid != 0);
            joined.filter(|joined| choose_accelerator(wish, Some(*joined)).0 == Accelerator::Kvm).unwrap_or(account)
        }
    }
}

/// The image tool, which may be needed where no daemon runs.
///
/// # Errors
/// When it is not there.
pub fn qemu_img(wish: Option<&Path>) -> Result<PathBuf, CapabilityError> {
    find_program(wish, "qemu-img", "qemu-utils")
}

fn find_program(wish: Option<&Path>, program: &'static str, package: &'static str) -> Result<PathBuf, CapabilityError> {
    if let Some(path) = wish {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            Err(CapabilityError::NotThere { path: path.to_owned() })
        };
    }
    let candidates = PROGRAM_DIRECTORIES.iter().map(|directory| Path::new(directory).join(program));
    let missing = || CapabilityError::Missing { program, directories: PROGRAM_DIRECTORIES.join(", "), package };
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(missing)
}

fn find_uefi(wish: Option<&UefiFiles>) -> Result<Option<UefiFiles>, CapabilityError> {
    if let Some(files) = wish {
        let missing = [&files.code, &files.variables].into_iter().find(|path| !path.is_file());
        return missing
            .map_or_else(|| Ok(Some(files.clone())), |path| Err(CapabilityError::NotThere { path: path.clone() }));
    }
    let candidates =
        UEFI_FILES.iter().map(|(code, variables)| UefiFiles { code: code.into(), variables: variables.into() });
    Ok(candidates.into_iter().find(|files| files.code.is_file() && files.variables.is_file()))
}

async fn ask_version(program: &Path, account: Option<Account>) -> Result<Version, CapabilityError> {
    let broken = |reason: String| CapabilityError::Broken { program: program.to_owned(), reason };
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    account::run_as(command.as_std_mut(), account);
    let output = match tokio::time::timeout(ANSWER_PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(broken(error.to_string())),
        Err(_) => return Err(broken(format!("no answer within {} s", ANSWER_PATIENCE.as_secs()))),
    };
    let wrap = |source| CapabilityError::Version { program: program.to_owned(), source };
    let version = Version::from_output(&String::from_utf8_lossy(&output.stdout)).map_err(wrap)?;
    version.require().map_err(wrap)?;
    Ok(version)
}

/// The newest versioned q35, asked of an emulator without a machine.
async fn ask_machine_type(emulator: &Path, layout: &Layout) -> Result<String, CapabilityError> {
    let broken = |reason: String| CapabilityError::Broken { program: emulator.to_owned(), reason };
    let arguments = "-machine none -nodefaults -no-user-config -display none -S \
                     -chardev socket,id=qmp,fd=0,server=on,wait=off -mon chardev=qmp,mode=control";
    let program = Program {
        path: emulator.to_owned(),
        arguments: arguments.split_ascii_whitespace().map(OsString::from).collect(),
        socket: layout.probe_qmp(),
        log: layout.probe_log(),
        identity: None,
        account: layout.common_account(),
        group: None,
    };
    let talking = program.talk(ANSWER_PATIENCE).await.map_err(|error| broken(error.to_string()))?;
    let answer = talking.monitor.execute(Command::new("query-machines"), Vec::new(), ANSWER_PATIENCE).await;
    talking.process.kill().await;
    let machines = answer.map_err(|error| broken(error.to_string()))?;
    newest_q35(&machines).ok_or_else(|| broken("it has no machine type pc-q35".to_owned()))
}

/// What executes guest instructions, and why it is not hardware, if so.
fn choose_accelerator(wish: Option<Accelerator>, account: Option<Account>) -> (Accelerator, Option<String>) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = open_kvm(account);
    let accelerator = launch::choose_accelerator(&cpuinfo, device.is_ok(), wish);
    let reason = match (accelerator, wish, device) {
        (Accelerator::Kvm, _, _) => None,
        (Accelerator::Tcg, Some(_), _) => Some("the configuration says so".to_owned()),
        // Looked at first: without it, rights to the device would not help.
        (Accelerator::Tcg, None, _) if launch::choose_accelerator(&cpuinfo, true, None) == Accelerator::Tcg => Some(
            "the processor does not show vmx or svm: enable virtualisation in the firmware or the outer hypervisor"
                .to_owned(),
        ),
        (Accelerator::Tcg, None, device) => device.err(),
    };
    (accelerator, reason)
}

fn open_kvm(account: Option<Account>) -> Result<(), String> {
    let refused = |error: io::Error| format!("{KVM_DEVICE}: {error}");
    let device = fs::OpenOptions::new().read(true).write(true).open(KVM_DEVICE).map_err(refused)?;
    let meta = device.metadata().map_err(refused)?;
    match account {
        Some(account) if !may(account, &meta, 0o6) => Err(format!(
            "user {}, whom the emulator runs as, may not open {KVM_DEVICE}: \
             run `chgrp kvm {KVM_DEVICE} && chmod g+rw {KVM_DEVICE}` and restart the service",
            account.uid
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use std::os::unix::fs::PermissionsExt;

    /// What is said of an emulator that does nothing but run `script`.
    async fn check(script: &str, expected: Expect) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(&root.path().join("data"), &root.path().join("run"), Accounts::Own).unwrap();
        layout.create().unwrap();
        let path = root.path().join("emulator");
        // Copied by another process: a file that we, or a child of another test, have open for writing cannot be run.
        let draft = root.path().join("draft");
        fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(std::process::Command::new("cp").args([&draft, &path]).status().unwrap().success());
        let wishes = Wishes { emulator: Some(path), ..Wishes::default() };
        let text = match Tools::find(&wishes, &layout).await {
            Ok(tools) => format!("fine: {}", tools.version),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&text.replace(&root.path().display().to_string(), "DIR"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_emulator_of_no_use_is_refused_at_once() {
        check(
            "echo 'QEMU emulator version 4.2.1 (Debian)'",
            expect![[
                r"DIR/emulator cannot be used: QEMU 4.2.1 is too old: 9.0 or later is needed to save memory (mapped-ram)"
            ]],
        )
        .await;
        check(
            "echo something else",
            expect![[r#"DIR/emulator cannot be used: cannot read a QEMU version from "something else""#]],
        )
        .await;
        check(
            "echo 'QEMU emulator version 10.0.2'; test $# = 1 || { echo no machines >&2; exit 1; }",
            expect![[
                r"could not run DIR/emulator: exit status: 1; its last words: QEMU emulator version 10.0.2 / no machines"
            ]],
        )
        .await;
    }

    #[test]
    fn a_path_from_the_configuration_is_not_replaced_by_another() {
        let error = find_program(Some(Path::new("/no/such")), "qemu-img", "qemu-utils").unwrap_err();
        expect!["/no/such from the configuration is not a file"].assert_eq(&error.to_string());
        let error = find_program(None, "no-such-program", "some-package").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("no-such-program was not found in /usr/local/bin, "), "{text}");
        assert!(text.ends_with(": install some-package, or name its path in the configuration"), "{text}");
    }
}
