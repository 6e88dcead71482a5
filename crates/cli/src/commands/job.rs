//! `snapvisor job …`

use std::collections::HashMap;

use cim::op::Argument;
use serde::Serialize;
use serde_json::json;

use super::lookup::{self, zone};
use crate::args;
use crate::error::Result;
use crate::find;
use crate::model::{CaptureReport, Job, Vm};
use crate::output::Output;
use crate::session::{Called, Session, class};
use crate::show::printable;
use crate::show::table::{Align, Table};
use crate::{units, wait};

/// `RequestedState` of a job: end in order.
const TERMINATE: &str = "4";
/// The same: end at once.
const KILL: &str = "5";

/// Carries out one of the commands.
///
/// # Errors
/// When the daemon cannot be reached or refuses, or the job did not complete.
pub fn run(session: &mut Session, command: args::Job) -> Result<Output> {
    match command {
        args::Job::List => list(session),
        args::Job::Watch { job } => {
            let job = find::by_prefix(&job, lookup::jobs(session)?)?;
            let job = wait::completed(wait::until_over(session, &job.id)?)?;
            Ok(Output::new(finished(&job), json!({ "job": job })))
        }
        args::Job::Cancel { job, now } => {
            let job = find::by_prefix(&job, lookup::jobs(session)?)?;
            let target = class("Msvm_ConcreteJob").with_key("InstanceID", job.id.as_str());
            let state = if now { KILL } else { TERMINATE };
            session.invoke(target, "RequestStateChange", vec![text("RequestedState", state)])?;
            let job = wait::until_over(session, &job.id)?;
            Ok(Output::new(format!("{} {}\n", printable(&job.title), job.state), json!({ "job": job })))
        }
    }
}

fn list(session: &mut Session) -> Result<Output> {
    let jobs = lookup::jobs(session)?;
    let mut machines = if jobs.is_empty() { HashMap::new() } else { lookup::machines_of_jobs(session)? };
    let listed = jobs.into_iter().map(|job| Listed { vm: machines.remove(&job.id), job }).collect::<Vec<_>>();
    Ok(Output::new(table(&listed, &zone()), &listed))
}

/// A job with the machine it works on, if that is still there.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    job: Job,
    vm: Option<Vm>,
}

fn table(jobs: &[Listed], zone: &jiff::tz::TimeZone) -> String {
    let mut table = Table::new(&[
        ("JOB", Align::Left),
        ("SUBMITTED", Align::Left),
        ("TOOK", Align::Right),
        ("%", Align::Right),
        ("STATE", Align::Left),
        ("MACHINE", Align::Left),
        ("WHAT", Align::Left),
    ]);
    for Listed { job, vm } in jobs {
        let submitted = job.submitted.map(|time| units::moment(time.0, zone)).unwrap_or_default();
        let what = match (&job.error, job.is_over()) {
            (Some(error), _) => format!("{}: {}", job.title, error.message),
            (None, false) => format!("{}: {}", job.title, job.activity),
            (None, true) => job.title.clone(),
        };
        let took = units::duration(job.elapsed_us);
        let vm = vm.as_ref().map(|vm| vm.name.clone()).unwrap_or_default();
        table.row([job.id.clone(), submitted, took, job.percent.to_string(), job.state.to_owned(), vm, what]);
    }
    table.render()
}

/// Waits for the job of a call, if it has one and waiting is wanted, and says how it went.
pub(super) fn settle(session: &mut Session, called: &Called, wait: args::Wait, done: &str) -> Result<Output> {
    let Some(id) = &called.job else {
        return Ok(Output::new(format!("{done}\n"), json!({ "job": null })));
    };
    if wait.no_wait {
        let job = wait::job(session, id)?;
        return Ok(Output::new(format!("job {id}\n"), json!({ "job": job })));
    }
    let job = wait::completed(wait::until_over(session, id)?)?;
    let report = job.report.as_ref().map(|report| format!(": {}", describe(report))).unwrap_or_default();
    Ok(Output::new(format!("{done}{report}\n"), json!({ "job": job })))
}

/// Waits for the job of a call, if it has one; for steps of a longer command.
pub(super) fn finish(session: &mut Session, called: &Called) -> Result<Option<Job>> {
    let job = called.job.as_ref().map(|id| wait::until_over(session, id)).transpose()?;
    job.map(wait::completed).transpose()
}

/// An argument that is text.
pub(super) fn text(name: &str, value: &str) -> (String, Argument) {
    (name.to_owned(), Argument::Text(value.to_owned()))
}

fn finished(job: &Job) -> String {
    let report = job.report.as_ref().map(|report| format!(": {}", describe(report))).unwrap_or_default();
    format!("{} {} in {}{report}\n", printable(&job.title), job.state, units::duration(job.elapsed_us))
}

/// `live, guest paused for 10.9 ms, 1.2 s in all, 512 MiB`
pub(super) fn describe(report: &CaptureReport) -> String {
    let mut parts = vec![report.method.clone()];
    if report.pause_us > 0 {
        parts.push(format!("guest paused for {}", units::duration(report.pause_us)));
    }
    parts.push(format!("{} in all", units::duration(report.total_us)));
    if report.bytes > 0 {
        parts.push(units::bytes(report.bytes));
    }
    parts.extend(report.reason.as_ref().map(|reason| format!("because {reason}")));
    printable(&parts.join(", "))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::model::{JobError, Moment};

    fn job(id: &str, state: &'static str) -> Job {
        Job {
            id: id.to_owned(),
            title: "Taking Snapshot".to_owned(),
            state,
            percent: 40,
            activity: "writing memory".to_owned(),
            submitted: Some(Moment(jiff::Timestamp::UNIX_EPOCH)),
            elapsed_us: 1_200_000,
            error: None,
            report: None,
        }
    }

    #[test]
    fn jobs_are_listed() {
        let error = JobError { code: 32768, message: "the disk is full".to_owned(), hint: None };
        let failed = Job { error: Some(error), ..job("BBBB", "failed") };
        let done = Job { percent: 100, elapsed_us: 90, ..job("CCCC", "completed") };
        let vm = Vm { id: "V".to_owned(), name: "web".to_owned(), state: "running", activity: None, uptime_ms: 0 };
        let machines = [Some(vm.clone()), Some(vm), None];
        let listed = [job("AAAA", "running"), failed, done].into_iter().zip(machines);
        let listed = listed.map(|(job, vm)| Listed { job, vm }).collect::<Vec<_>>();
        expect![[r#"
            JOB   SUBMITTED             TOOK    %  STATE      MACHINE  WHAT
            AAAA  1970-01-01 00:00:00  1.2 s   40  running    web      Taking Snapshot: writing memory
            BBBB  1970-01-01 00:00:00  1.2 s   40  failed     web      Taking Snapshot: the disk is full
            CCCC  1970-01-01 00:00:00  90 µs  100  completed           Taking Snapshot
        "#]]
        .assert_eq(&table(&listed, &jiff::tz::TimeZone::UTC));
    }

    #[test]
    fn captures_are_described() {
        let report = CaptureReport {
            method: "live".to_owned(),
            pause_us: 10_900,
            total_us: 1_200_000,
            bytes: 512 << 20,
            reason: None,
        };
        expect![[r#"
            Taking Snapshot completed in 1.2 s: live, guest paused for 10.9 ms, 1.2 s in all, 512 MiB
        "#]]
        .assert_eq(&finished(&Job { report: Some(report.clone()), ..job("A", "completed") }));
        let report = CaptureReport {
            method: "disks only".to_owned(),
            pause_us: 0,
            bytes: 0,
            reason: Some("it was off".to_owned()),
            ..report
        };
        expect!["disks only, 1.2 s in all, because it was off"].assert_eq(&describe(&report));
    }
}
