//! The numbers of the namespace: what a [`Kind`] of failure, a job's kind and its state are on the wire.
//!
//! Methods of this namespace use one of two families of return values. Refusals are always given in the family of
//! Hyper-V's own (327xx): it is what hosts return, and the other family, CIM's, reserves these numbers for vendors.
//! CIM's `1` remains for methods that have no other way to say that they are not supported.

use cim::Status;
use cim::class::Method;
use ledger::failure::Kind;
use ledger::job::{Job, JobKind, JobState, Stage};

/// Done.
pub const COMPLETED: u32 = 0;
/// Accepted; a job does it.
pub const JOB_STARTED: u32 = 4096;
/// Not supported, in CIM's family.
pub const CIM_NOT_SUPPORTED: u32 = 1;
/// Something failed.
pub const FAILED: u32 = 32768;
/// The caller may not.
pub const ACCESS_DENIED: u32 = 32769;
/// Not supported.
pub const NOT_SUPPORTED: u32 = 32770;
/// It took too long.
pub const TIMEOUT: u32 = 32772;
/// A parameter is wrong, or names what does not exist.
pub const INVALID_PARAMETER: u32 = 32773;
/// Somebody else uses it.
pub const IN_USE: u32 = 32774;
/// Not in this state.
pub const INVALID_STATE: u32 = 32775;
/// A parameter has the wrong type.
pub const INCORRECT_DATA_TYPE: u32 = 32776;
/// The machine is not there any more.
pub const NOT_AVAILABLE: u32 = 32777;
/// No memory.
pub const OUT_OF_MEMORY: u32 = 32778;

/// `Msvm_ConcreteJob.RequestStateChange`: the job does not support this change.
pub const JOB_NOT_SUPPORTED: u32 = 1;
/// The same: it did not work.
pub const JOB_FAILED: u32 = 4;
/// The same: the number names no change.
pub const JOB_INVALID_PARAMETER: u32 = 5;
/// The same: the job has ended.
pub const JOB_INVALID_TRANSITION: u32 = 4097;
/// The same: no time limit can be given.
pub const JOB_TIMEOUT_NOT_SUPPORTED: u32 = 4098;

/// The return value of a call that is refused. A machine that is busy is one in the wrong state: clients know that they
/// may try again after 32775.
pub fn return_value(kind: Kind) -> u32 {
    match kind {
        Kind::InUse => INVALID_STATE,
        other => error_code(other),
    }
}

/// `ErrorCode` of a job that failed.
pub fn error_code(kind: Kind) -> u32 {
    match kind {
        Kind::InvalidParameter | Kind::NotFound => INVALID_PARAMETER,
        Kind::InvalidState => INVALID_STATE,
        Kind::InUse => IN_USE,
        Kind::NotSupported => NOT_SUPPORTED,
        Kind::AccessDenied => ACCESS_DENIED,
        Kind::OutOfMemory => OUT_OF_MEMORY,
        Kind::Timeout => TIMEOUT,
        Kind::MachineGone => NOT_AVAILABLE,
        Kind::LimitReached | Kind::NoSpace | Kind::Cancelled | Kind::Interrupted | Kind::Failed => FAILED,
    }
}

/// The return value when `Msvm_ConcreteJob.RequestStateChange` is refused: this method has numbers of its own.
pub fn job_control_refusal(kind: Kind) -> u32 {
    match kind {
        Kind::InvalidParameter => JOB_INVALID_PARAMETER,
        Kind::NotSupported => JOB_NOT_SUPPORTED,
        Kind::InvalidState | Kind::NotFound => JOB_INVALID_TRANSITION,
        _ => JOB_FAILED,
    }
}

/// The failure as an error of WMI, for clients that want words instead of a return value.
pub fn status(kind: Kind) -> Status {
    match kind {
        Kind::InvalidParameter => Status::InvalidParameter,
        Kind::NotFound => Status::NotFound,
        Kind::NotSupported => Status::NotSupported,
        Kind::AccessDenied => Status::AccessDenied,
        Kind::LimitReached => Status::LimitsExceeded,
        Kind::InvalidState
        | Kind::InUse
        | Kind::NoSpace
        | Kind::OutOfMemory
        | Kind::Timeout
        | Kind::MachineGone
        | Kind::Cancelled
        | Kind::Interrupted
        | Kind::Failed => Status::Failed,
    }
}

/// How a method says that it is not supported: in the family its own declaration lists. Those that list nothing are
/// CIM's own.
pub fn not_supported(method: &Method) -> u32 {
    let numbers: Vec<&str> = method.qualifiers.texts("ValueMap").collect();
    let is_cim = !numbers.contains(&"32770") && (numbers.is_empty() || numbers.contains(&"1"));
    if is_cim { CIM_NOT_SUPPORTED } else { NOT_SUPPORTED }
}

/// `JobType`.
pub fn job_type(kind: JobKind) -> u16 {
    match kind {
        JobKind::Define => 1,
        JobKind::Modify => 2,
        JobKind::DestroyVm => 3,
        JobKind::Start => 12,
        JobKind::TurnOff => 13,
        JobKind::Save => 14,
        JobKind::Restore => 15,
        JobKind::Shutdown => 16,
        JobKind::Pause => 26,
        JobKind::Resume => 27,
        JobKind::Reset => 28,
        JobKind::Merge | JobKind::MergeImages => 50,
        JobKind::CreateSnapshot => 70,
        JobKind::ApplySnapshot => 71,
        JobKind::DestroySnapshot => 72,
        JobKind::ClearSnapshotState => 73,
        // Windows shows these as instances of another class with numbers of its own; this one has none for them.
        JobKind::CreateImage | JobKind::ConvertImage | JobKind::ResizeImage | JobKind::ValidateImage => 0,
    }
}

/// `JobState`. Scripts in the field wait only while it is 4, so nothing else is shown before the end.
pub fn job_state(state: &JobState) -> u16 {
    match state {
        JobState::Running => 4,
        JobState::Completed => 7,
        JobState::Terminated => 8,
        JobState::Killed => 9,
        JobState::Failed(_) => 10,
    }
}

/// What a machine is busy with, as `OperationalStatus[1]` and its description; `None` for work that has no number.
pub fn operation(job: &Job) -> Option<(u16, &'static str)> {
    if matches!(job.stage, Stage::Measuring(_) | Stage::Merging(_) | Stage::ResumingAfterMerge { .. }) {
        return Some((32772, "Merging disks"));
    }
    match job.kind {
        JobKind::CreateSnapshot => Some((32768, "Creating snapshot")),
        JobKind::ApplySnapshot => Some((32769, "Applying snapshot")),
        JobKind::DestroySnapshot => Some((32770, "Deleting snapshot")),
        JobKind::Merge => Some((32772, "Merging disks")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// Holds: SNAP-4.1-4
    #[test]
    fn each_kind_of_failure_has_its_numbers() {
        use Kind::{
            AccessDenied, Cancelled, Failed, InUse, Interrupted, InvalidParameter, InvalidState, LimitReached,
            MachineGone, NoSpace, NotFound, NotSupported, OutOfMemory, Timeout,
        };
        let all = [
            InvalidParameter,
            NotFound,
            InvalidState,
            InUse,
            LimitReached,
            NotSupported,
            AccessDenied,
            NoSpace,
            OutOfMemory,
            Timeout,
            MachineGone,
            Cancelled,
            Interrupted,
            Failed,
        ];
        let show = |kind| {
            let numbers = [return_value(kind), error_code(kind), job_control_refusal(kind)];
            format!("{kind:?} {numbers:?} {}", status(kind))
        };
        expect![[r#"
            InvalidParameter [32773, 32773, 5] WBEM_E_INVALID_PARAMETER
            NotFound [32773, 32773, 4097] WBEM_E_NOT_FOUND
            InvalidState [32775, 32775, 4097] WBEM_E_FAILED
            InUse [32775, 32774, 4] WBEM_E_FAILED
            LimitReached [32768, 32768, 4] WBEM_E_QUOTA_VIOLATION
            NotSupported [32770, 32770, 1] WBEM_E_NOT_SUPPORTED
            AccessDenied [32769, 32769, 4] WBEM_E_ACCESS_DENIED
            NoSpace [32768, 32768, 4] WBEM_E_FAILED
            OutOfMemory [32778, 32778, 4] WBEM_E_FAILED
            Timeout [32772, 32772, 4] WBEM_E_FAILED
            MachineGone [32777, 32777, 4] WBEM_E_FAILED
            Cancelled [32768, 32768, 4] WBEM_E_FAILED
            Interrupted [32768, 32768, 4] WBEM_E_FAILED
            Failed [32768, 32768, 4] WBEM_E_FAILED"#]]
        .assert_eq(&all.map(show).join("\n"));
    }
}
