//! `Msvm_ConcreteJob`: a job, running or ended.
//!
//! Clients show `Caption`, `JobStatus` and `PercentComplete` as a progress bar and `ErrorDescription` when it failed, so
//! the first three are never NULL and the last one is the whole story.

use cim::{DateTime, Instance};
use ledger::event::CaptureReport;
use ledger::failure::Failure;
use ledger::job::{Job, JobKind, JobState};

use super::blank;
use crate::codes;
use crate::object::Object;
use crate::view::{View, datetime};

/// A job.
pub fn job(view: &View, job: &Job) -> Instance {
    let end = if job.state.is_final() { job.changed } else { view.now };
    let caption = caption(job.kind);
    let failure = match &job.state {
        JobState::Failed(failure) => Some(failure),
        _ => None,
    };
    let instance = blank(view, "Msvm_ConcreteJob")
        .with("InstanceID", Object::Job(job.id).id(&view.host.name))
        .with("Caption", caption)
        .with("Description", caption)
        .with("ElementName", caption)
        .with("Name", caption)
        .with("InstallDate", datetime(job.submitted))
        .with("TimeSubmitted", datetime(job.submitted))
        .with("StartTime", datetime(job.submitted))
        .with("ElapsedTime", DateTime::from_interval_micros(end.micros_since(job.submitted)))
        .with("TimeOfLastStateChange", datetime(job.changed))
        .with("JobState", codes::job_state(&job.state))
        .with("JobStatus", job_status(job))
        .with("JobType", codes::job_type(job.kind))
        .with("JobRunTimes", 1u32)
        .with("LocalOrUtcTime", 2u16)
        .with("PercentComplete", u16::from(job.percent.min(100)))
        .with("DeleteOnCompletion", true)
        .with("Cancellable", job.cancellable());
    match failure {
        Some(failure) => failed(instance, failure),
        None => instance.with("ErrorCode", 0u16).with("OperationalStatus", [2u16]).with("StatusDescriptions", ["OK"]),
    }
}

fn failed(instance: Instance, failure: &Failure) -> Instance {
    let code = u16::try_from(codes::error_code(failure.kind)).unwrap_or(u16::MAX);
    instance
        .with("ErrorCode", code)
        .with("ErrorDescription", failure.full_text())
        .with("ErrorSummaryDescription", summary(failure))
        .with("OperationalStatus", [6u16])
        .with("StatusDescriptions", ["Error"])
}

/// The failure on one line: clients put it into a status bar. The last words of an emulator may be many lines.
fn summary(failure: &Failure) -> &str {
    failure.message.lines().next().unwrap_or_default()
}

/// What it is at, or how it ended.
fn job_status(job: &Job) -> String {
    match &job.state {
        JobState::Running if job.activity.is_empty() => "Running".to_owned(),
        JobState::Running => job.activity.clone(),
        JobState::Completed => job.report.as_ref().map_or("Completed".to_owned(), completed),
        JobState::Failed(failure) => format!("Failed: {}", summary(failure)),
        JobState::Terminated => "Terminated".to_owned(),
        JobState::Killed => "Killed".to_owned(),
    }
}

/// What a capture cost: fields behind the word that clients know, the free text last. The command line takes it apart.
fn completed(report: &CaptureReport) -> String {
    let CaptureReport { method, reason, pause_us, total_us, bytes } = report;
    let reason = reason.as_ref().map(|reason| format!("; reason: {reason}")).unwrap_or_default();
    format!("Completed; method: {method}; pause: {pause_us} us; total: {total_us} us; size: {bytes} bytes{reason}")
}

/// What it does, for people.
fn caption(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Define => "Creating Virtual Machine",
        JobKind::Modify => "Modifying Virtual Machine",
        JobKind::DestroyVm => "Removing Virtual Machine",
        JobKind::Start => "Starting Virtual Machine",
        JobKind::Restore => "Restoring Virtual Machine",
        JobKind::TurnOff => "Turning Off Virtual Machine",
        JobKind::Save => "Saving Virtual Machine",
        JobKind::Shutdown => "Shutting Down Virtual Machine",
        JobKind::Pause => "Pausing Virtual Machine",
        JobKind::Resume => "Resuming Virtual Machine",
        JobKind::Reset => "Resetting Virtual Machine",
        JobKind::CreateSnapshot => "Taking Snapshot",
        JobKind::ApplySnapshot => "Applying Snapshot",
        JobKind::DestroySnapshot => "Deleting Snapshot",
        JobKind::ClearSnapshotState => "Clearing Saved State of Snapshot",
        JobKind::Merge | JobKind::MergeImages => "Merging Virtual Hard Disks",
        JobKind::CreateImage => "Creating Virtual Hard Disk",
        JobKind::ConvertImage => "Converting Virtual Hard Disk",
        JobKind::ResizeImage => "Resizing Virtual Hard Disk",
        JobKind::ValidateImage => "Validating Virtual Hard Disk",
    }
}

#[cfg(test)]
mod tests {
    use ledger::failure::Kind;

    use super::*;

    /// Holds: SNAP-8.2-4
    #[test]
    fn a_failure_is_summed_up_on_one_line() {
        let check = |message: &str, expected: &str| assert_eq!(summary(&Failure::new(Kind::Failed, message)), expected);
        check("it did not start: no memory\nreally none", "it did not start: no memory");
        check("short", "short");
        check("", "");
    }

    #[test]
    fn a_capture_tells_what_it_cost() {
        let report = CaptureReport {
            method: "live".to_owned(),
            reason: None,
            pause_us: 10_900,
            total_us: 1_200_000,
            bytes: 4096,
        };
        assert_eq!(completed(&report), "Completed; method: live; pause: 10900 us; total: 1200000 us; size: 4096 bytes");
        let report = CaptureReport { reason: Some("the guest writes; fast".to_owned()), ..report };
        assert!(completed(&report).ends_with("4096 bytes; reason: the guest writes; fast"));
    }
}
