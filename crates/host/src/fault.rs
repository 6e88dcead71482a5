//! Failures in the ledger's terms: what kind they are, and what the user can do.

use std::io;
use std::path::Path;

use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use qemu::procedure::{CommandError, HostFailure};
use rustix::io::Errno;

use crate::account::AccessError;
use crate::layout::LayoutError;
use crate::process::{SpawnError, StartError};
use crate::qmp_socket::MonitorError;
use crate::seal::Damage;

/// The failure of doing `what` (such as "write") with `path`.
pub fn file(what: &str, path: &Path, error: &io::Error) -> Failure {
    let kind = kind_of(error);
    let failure = Failure::new(kind, format!("could not {what} {}: {error}", path.display()));
    match kind {
        Kind::NoSpace => failure.hint("free some space on that file system, then try again"),
        Kind::NotFound => failure.hint("check the path"),
        _ if error.kind() == io::ErrorKind::PermissionDenied => {
            failure.hint("check the owner and the mode of the file and of the directories above it")
        }
        _ => failure,
    }
}

/// A file is not as it was, so `what` cannot be.
pub fn damage(what: &str, damage: &Damage) -> Failure {
    Failure::new(Kind::Failed, format!("{what}: {damage}")).hint(
        "put the file back from a backup, or apply another snapshot; `snapvisor check` on the host lists what else it concerns",
    )
}

/// What kind of failure an operating system error is.
pub fn kind_of(error: &io::Error) -> Kind {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Kind::NoSpace,
        Some(Errno::NOMEM) => Kind::OutOfMemory,
        Some(Errno::NOENT | Errno::NOTDIR) => Kind::NotFound,
        Some(Errno::BUSY | Errno::TXTBSY | Errno::AGAIN) => Kind::InUse,
        _ => Kind::Failed,
    }
}

/// The kind of failure in words that QEMU wrote: it passes on the texts of the C library.
pub fn kind_of_words(words: &str) -> Kind {
    let table = [
        ("No space left on device", Kind::NoSpace),
        ("Disk quota exceeded", Kind::NoSpace),
        ("Cannot allocate memory", Kind::OutOfMemory),
        ("cannot set up guest memory", Kind::OutOfMemory),
        ("Failed to get \"write\" lock", Kind::InUse),
        ("Failed to get shared \"write\" lock", Kind::InUse),
        ("Is another process using the image", Kind::InUse),
    ];
    table.iter().find(|(text, _)| words.contains(text)).map_or(Kind::Failed, |(_, kind)| *kind)
}

/// A machine without a process was to do something.
pub fn no_process(vm: VmId) -> Failure {
    Failure::new(Kind::MachineGone, format!("the process of machine {vm} is gone")).hint("start the machine again")
}

/// A blocking task that did not come back: the runtime is going down, or the task has a bug.
pub fn task(error: &tokio::task::JoinError) -> Failure {
    Failure::new(Kind::Failed, format!("a task of the host part ended early: {error}"))
}

/// A monitor's failure while doing `what`, such as "stop the guest".
pub fn monitor(what: &str, error: &MonitorError) -> Failure {
    let kind = match error {
        MonitorError::Refused { refusal, .. } => kind_of_words(&refusal.desc),
        MonitorError::Lost => return lost(what),
        MonitorError::Timeout { .. } => Kind::Timeout,
        MonitorError::Unknown { .. } | MonitorError::Connect { .. } | MonitorError::Handshake { .. } => Kind::Failed,
    };
    let failure = Failure::new(kind, format!("could not {what}: {error}"));
    match error {
        MonitorError::Unknown { .. } => {
            failure.hint("if the service has too many files open, raise LimitNOFILE; then try again")
        }
        _ => failure,
    }
}

/// A command of a procedure failed.
pub fn command(what: &str, error: &CommandError) -> Failure {
    let kind = match error {
        CommandError::Refused { refusal, .. } => kind_of_words(&refusal.desc),
        CommandError::Lost { .. } => return lost(what),
    };
    Failure::new(kind, format!("could not {what}: {error}"))
}

/// The machine's process ended while `what` was being done.
fn lost(what: &str) -> Failure {
    Failure::new(Kind::MachineGone, format!("could not {what}: the machine's process ended in the middle"))
        .hint("start the machine again")
}

/// The host's own part of a procedure failed.
pub fn host_part(what: &str, error: &HostFailure) -> Failure {
    Failure::new(kind_of_words(&error.0), format!("could not {what}: {error}"))
}

/// `what` did not come to talk to us.
pub fn start(what: &str, error: &StartError) -> Failure {
    match error {
        StartError::Spawn(error) => spawn(what, error),
        StartError::Connect(error) => {
            let text = format!("{what} did not start: {error}");
            Failure::new(kind_of_words(&text), text)
        }
    }
}

/// The process of `what` could not be started, or ended at once.
fn spawn(what: &str, error: &SpawnError) -> Failure {
    let kind = match error {
        SpawnError::Socket { source, .. }
        | SpawnError::Log { source, .. }
        | SpawnError::Execute { source, .. }
        | SpawnError::Record { source } => kind_of(source),
        SpawnError::Ended(gone) => kind_of_words(&gone.last_words),
    };
    // A program that is not there is not what `NotFound` means to clients: the object they named is there.
    let kind = if kind == Kind::NotFound { Kind::Failed } else { kind };
    let text = match error {
        SpawnError::Ended(gone) => format!("{what} ended as soon as it was started: {gone}"),
        _ => error.to_string(),
    };
    Failure::new(kind, text)
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        let kind = match &error {
            LayoutError::Io { source, .. } => kind_of(source),
            LayoutError::NotAbsolute(_) | LayoutError::TooLong { .. } => Kind::InvalidParameter,
            LayoutError::Access(error) => return error.into(),
            LayoutError::NoIdLeft(_) => Kind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<&AccessError> for Failure {
    fn from(error: &AccessError) -> Self {
        let kind = match error {
            AccessError::Io { source, .. } => kind_of(source),
            AccessError::NoPassage { .. } | AccessError::NotReadable { .. } | AccessError::NotWritable { .. } => {
                Kind::Failed
            }
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        Self::from(&error)
    }
}
