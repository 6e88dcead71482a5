//! Machines, snapshots and jobs as this program shows them, read from the instances the daemon sends.
//!
//! The field names here are those of `--json`, and stay.

use cim::{DateTime, ObjectPath};
use serde::{Serialize, Serializer};
use wsman::client::Bag;

/// Prefix of the `InstanceID` of settings.
const PREFIX: &str = "Microsoft:";
/// Prefix of `VirtualSystemType` of all snapshots.
const SNAPSHOT_TYPE: &str = "Microsoft:Hyper-V:Snapshot";

/// A moment; in JSON as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub jiff::Timestamp);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// GUID.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Word for what it is doing.
    pub state: &'static str,
    /// What is being done to it, if anything.
    pub activity: Option<String>,
    /// Milliseconds since the guest began to run.
    pub uptime_ms: u64,
}

/// What a machine is set to, or was at the moment of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// GUID: the machine's for its own settings, else the snapshot's.
    pub id: String,
    /// The machine's GUID.
    pub vm: String,
    /// Name of the machine or of the snapshot.
    pub name: String,
    /// Free text.
    pub notes: String,
    /// When the machine was defined, or the snapshot taken.
    pub created: Option<Moment>,
    /// GUID of the snapshot it is based on.
    pub parent: Option<String>,
    /// Whether it comes with memory.
    pub has_memory: bool,
    /// Bytes of that memory on disk, if that has been asked for.
    pub memory_bytes: Option<u64>,
    /// `bios` or `uefi`.
    pub firmware: &'static str,
    /// What snapshots of the machine contain.
    pub snapshot_kind: &'static str,
    /// What it belongs to; tells which of the lists it stands in.
    #[serde(skip)]
    pub role: Role,
}

/// What settings belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A machine, as it is now.
    Machine,
    /// A snapshot.
    Snapshot,
    /// A snapshot that a backup program took.
    Backup,
}

/// Long work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Job {
    /// GUID.
    pub id: String,
    /// What it does, in words.
    pub title: String,
    /// `running`, `completed`, `failed`, `terminated` or `killed`.
    pub state: &'static str,
    /// 0 to 100.
    pub percent: u64,
    /// What it is at.
    pub activity: String,
    /// When it was accepted.
    pub submitted: Option<Moment>,
    /// How long it has taken so far, microseconds.
    pub elapsed_us: u64,
    /// Why it failed.
    pub error: Option<JobError>,
    /// What a capture did.
    pub report: Option<CaptureReport>,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobError {
    /// Return value of the 327xx kind.
    pub code: u64,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What a capture did, from the end of the job's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaptureReport {
    /// The way taken.
    pub method: String,
    /// How long the guest stood still, microseconds.
    pub pause_us: u64,
    /// Whole time, microseconds.
    pub total_us: u64,
    /// Bytes on disk of the memory files.
    pub bytes: u64,
    /// Why not a better way, if so.
    pub reason: Option<String>,
}

impl Vm {
    /// From an `Msvm_ComputerSystem`; `None` for the host itself.
    pub fn read(bag: &Bag) -> Option<Self> {
        let id = bag.text("Name")?;
        uuid::Uuid::try_parse(id).ok()?;
        let busy = bag.number("OperationalStatus").is_some_and(|status| status != 2);
        Some(Self {
            id: id.to_owned(),
            name: bag.text("ElementName").unwrap_or_default().to_owned(),
            state: enabled_state(bag.number("EnabledState").unwrap_or_default()),
            activity: busy.then(|| bag.texts("StatusDescriptions").last().unwrap_or("busy").to_owned()),
            uptime_ms: bag.number("OnTimeInMilliseconds").unwrap_or_default(),
        })
    }

    /// Whether a guest is in memory, running or not.
    pub fn is_on(&self) -> bool {
        !matches!(self.state, "off" | "saved")
    }
}

impl Settings {
    /// From an `Msvm_VirtualSystemSettingData`.
    pub fn read(bag: &Bag) -> Option<Self> {
        let id = bag.text("InstanceID")?.strip_prefix(PREFIX)?.to_owned();
        let kind = bag.text("VirtualSystemType").unwrap_or_default();
        let role = match kind.strip_prefix(SNAPSHOT_TYPE) {
            None => Role::Machine,
            Some(":Recovery") => Role::Backup,
            Some(_) => Role::Snapshot,
        };
        let uefi = bag.text("VirtualSystemSubType").is_some_and(|subtype| subtype.ends_with(":2"));
        Some(Self {
            id,
            vm: bag.text("VirtualSystemIdentifier")?.to_owned(),
            name: bag.text("ElementName").unwrap_or_default().to_owned(),
            notes: bag.texts("Notes").collect::<Vec<_>>().join("\n"),
            created: bag.text("CreationTime").and_then(moment),
            parent: bag.text("Parent").and_then(id_in_path),
            has_memory: bag.flag("IsSaved").unwrap_or_default(),
            memory_bytes: None,
            firmware: if uefi { "uefi" } else { "bios" },
            snapshot_kind: snapshot_kind(bag.number("UserSnapshotType").unwrap_or_default()),
            role,
        })
    }
}

impl Job {
    /// From an `Msvm_ConcreteJob`.
    pub fn read(bag: &Bag) -> Option<Self> {
        let code = bag.number("ErrorCode").unwrap_or_default();
        let description = bag.text("ErrorDescription").unwrap_or_default();
        let summary = bag.text("ErrorSummaryDescription").unwrap_or(description);
        let hint = description.strip_prefix(summary).map(|rest| rest.trim_start_matches([':', ' ']));
        let error = JobError {
            code,
            message: summary.to_owned(),
            hint: hint.filter(|hint| !hint.is_empty()).map(str::to_owned),
        };
        let status = bag.text("JobStatus").unwrap_or_default();
        Some(Self {
            id: bag.text("InstanceID")?.to_owned(),
            title: bag.text("Caption").unwrap_or("Job").to_owned(),
            state: job_state(bag.number("JobState").unwrap_or_default()),
            percent: bag.number("PercentComplete").unwrap_or_default().min(100),
            activity: status.split("; ").next().unwrap_or_default().to_owned(),
            submitted: bag.text("TimeSubmitted").and_then(moment),
            elapsed_us: bag.text("ElapsedTime").and_then(interval).unwrap_or_default(),
            error: (code != 0).then_some(error),
            report: CaptureReport::read(status),
        })
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.state != "running"
    }
}

impl CaptureReport {
    /// From a status such as `Completed; method: live; pause: 10900 us; total: 1200000 us; size: 536870912 bytes`, with
    /// `; reason: …` behind it if there is one, which may contain anything.
    fn read(status: &str) -> Option<Self> {
        let (status, reason) = match status.split_once("; reason: ") {
            Some((status, reason)) => (status, Some(reason.to_owned())),
            None => (status, None),
        };
        let field = |name: &str| status.split("; ").find_map(|part| part.strip_prefix(name)?.strip_prefix(": "));
        let number = |name, unit: &str| field(name)?.strip_suffix(unit)?.trim_end().parse().ok();
        Some(Self {
            method: field("method")?.to_owned(),
            pause_us: number("pause", "us")?,
            total_us: number("total", "us")?,
            bytes: number("size", "bytes")?,
            reason,
        })
    }
}

fn enabled_state(number: u64) -> &'static str {
    match number {
        2 => "running",
        3 => "off",
        4 => "stopping",
        6 => "saved",
        9 => "paused",
        10 => "starting",
        32773 => "saving",
        32776 => "pausing",
        32777 => "resuming",
        _ => "unknown",
    }
}

fn snapshot_kind(number: u64) -> &'static str {
    match number {
        2 => "disabled",
        3 => "production",
        4 => "production-only",
        5 => "standard",
        _ => "unknown",
    }
}

fn job_state(number: u64) -> &'static str {
    match number {
        7 | 32768 => "completed",
        8 => "terminated",
        9 => "killed",
        10 | 11 => "failed",
        _ => "running",
    }
}

fn moment(text: &str) -> Option<Moment> {
    match DateTime::parse(text).ok()? {
        DateTime::Timestamp(stamp) => jiff::Timestamp::from_microsecond(stamp.unix_micros()).ok().map(Moment),
        DateTime::Interval(_) => None,
    }
}

fn interval(text: &str) -> Option<u64> {
    match DateTime::parse(text).ok()? {
        DateTime::Interval(interval) => Some(interval.micros()),
        DateTime::Timestamp(_) => None,
    }
}

/// The GUID of the settings that an object path names.
pub fn id_in_path(path: &str) -> Option<String> {
    let path = ObjectPath::parse(path).ok()?;
    Some(path.key("InstanceID")?.as_str()?.strip_prefix(PREFIX)?.to_owned())
}

/// The `InstanceID` of settings.
pub fn instance_id(id: &str) -> String {
    format!("{PREFIX}{id}")
}

#[cfg(test)]
mod tests {
    use cim::op::Argument;
    use expect_test::{Expect, expect};

    use super::*;

    fn bag(properties: &str) -> Bag {
        let pairs = properties.lines().filter_map(|line| line.trim().split_once('='));
        let properties = pairs.map(|(name, value)| (name.to_owned(), Argument::Text(value.to_owned()))).collect();
        Bag(cim::embedded::EmbeddedInstance { class: "X".to_owned(), properties })
    }

    fn check(value: Option<impl Serialize>, expected: Expect) {
        expected.assert_eq(&serde_json::to_string_pretty(&value).unwrap());
    }

    #[test]
    fn machines_are_read() {
        let text = "Name=0A1B2C3D-0000-4000-8000-00000000ABCD\nElementName=web\nEnabledState=2\nOperationalStatus=11
            OperationalStatus=32768\nStatusDescriptions=In service\nStatusDescriptions=Creating snapshot\nOnTimeInMilliseconds=5";
        check(
            Vm::read(&bag(text)),
            expect![[r#"
            {
              "id": "0A1B2C3D-0000-4000-8000-00000000ABCD",
              "name": "web",
              "state": "running",
              "activity": "Creating snapshot",
              "uptime_ms": 5
            }"#]],
        );
        check(Vm::read(&bag("Name=host\nElementName=host\nEnabledState=2")), expect!["null"]);
    }

    #[test]
    fn settings_are_read() {
        let text = r#"InstanceID=Microsoft:11111111-0000-4000-8000-00000000ABCD
            VirtualSystemIdentifier=0A1B2C3D-0000-4000-8000-00000000ABCD
            VirtualSystemType=Microsoft:Hyper-V:Snapshot:Realized
            VirtualSystemSubType=Microsoft:Hyper-V:SubType:2
            ElementName=before
            CreationTime=2026-11-22T18:27:43.5Z
            Parent=\\HOST\root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:22222222-0000-4000-8000-00000000ABCD"
            IsSaved=true
            UserSnapshotType=5"#;
        check(
            Settings::read(&bag(text)),
            expect![[r#"
                {
                  "id": "11111111-0000-4000-8000-00000000ABCD",
                  "vm": "0A1B2C3D-0000-4000-8000-00000000ABCD",
                  "name": "before",
                  "notes": "",
                  "created": "2026-11-22T18:27:43.5Z",
                  "parent": "22222222-0000-4000-8000-00000000ABCD",
                  "has_memory": true,
                  "memory_bytes": null,
                  "firmware": "uefi",
                  "snapshot_kind": "standard"
                }"#]],
        );
    }

    #[test]
    fn jobs_are_read() {
        let failed =
            "InstanceID=J\nCaption=Taking Snapshot\nJobState=10\nJobStatus=Failed: disk full\nPercentComplete=40
            ErrorCode=32768\nErrorDescription=the disk is full: make room\nErrorSummaryDescription=the disk is full
            ElapsedTime=00000000000001.500000:000";
        check(
            Job::read(&bag(failed)),
            expect![[r#"
            {
              "id": "J",
              "title": "Taking Snapshot",
              "state": "failed",
              "percent": 40,
              "activity": "Failed: disk full",
              "submitted": null,
              "elapsed_us": 1500000,
              "error": {
                "code": 32768,
                "message": "the disk is full",
                "hint": "make room"
              },
              "report": null
            }"#]],
        );
        let done = "InstanceID=J\nJobState=7\nPercentComplete=100\nErrorCode=0
            JobStatus=Completed; method: disks only; pause: 2100 us; total: 90000 us; size: 0 bytes; reason: a; b: c";
        check(
            Job::read(&bag(done)),
            expect![[r#"
            {
              "id": "J",
              "title": "Job",
              "state": "completed",
              "percent": 100,
              "activity": "Completed",
              "submitted": null,
              "elapsed_us": 0,
              "error": null,
              "report": {
                "method": "disks only",
                "pause_us": 2100,
                "total_us": 90000,
                "bytes": 0,
                "reason": "a; b: c"
              }
            }"#]],
        );
    }
}
