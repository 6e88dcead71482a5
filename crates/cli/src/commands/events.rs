//! `snapvisor events`: what happens to machines, snapshots and jobs, line by line until the user has seen enough.
//!
//! One subscription for everything that is wanted. What an event holds is the thing as it is now, so a line needs no
//! further question; only which machine a job works on is asked for, when a job of one machine is wanted.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use wsman::client::Bag;

use super::lookup::{self, zone};
use crate::args;
use crate::error::Result;
use crate::model::{Job, Role, Settings, Vm};
use crate::output::Output;
use crate::session::{Session, wql_quoted};
use crate::show::printable;
use crate::units;

/// How long one request waits for events.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints events as they happen, as lines of text or as one JSON document for each.
///
/// # Errors
/// When the daemon cannot be reached, ends, or does not let events be followed.
pub fn run(session: &mut Session, command: &args::Events, json: bool) -> Result<Output> {
    let vm = command.vm.as_deref().map(|typed| lookup::vm(session, typed)).transpose()?;
    let context = session.subscribe(&query(command, vm.as_ref()))?;
    let mut machines = HashMap::new();
    loop {
        for event in session.events(&context, PATIENCE)? {
            let Some(happening) = Happening::read(&event) else { continue };
            if let (Some(vm), Thing::Job(job)) = (&vm, &happening.thing)
                && !is_of(session, &mut machines, &job.id, &vm.id)?
            {
                continue;
            }
            let line = if json { happening.json().to_string() } else { happening.line() };
            // A reader who has gone away, such as `head`, has seen enough.
            if writeln!(std::io::stdout().lock(), "{line}").is_err() {
                session.unsubscribe(context);
                return Ok(Output::default());
            }
        }
    }
}

fn query(command: &args::Events, vm: Option<&Vm>) -> String {
    let all = !command.jobs && !command.snapshots;
    let of = |property: &str| {
        let id = vm.map(|vm| wql_quoted(&vm.id));
        id.map(|id| format!(" AND TargetInstance.{property} = '{id}'")).unwrap_or_default()
    };
    let parts = [
        (all, "Msvm_ComputerSystem", of("Name")),
        (all || command.snapshots, "Msvm_VirtualSystemSettingData", of("VirtualSystemIdentifier")),
        (all || command.jobs, "Msvm_ConcreteJob", String::new()),
    ];
    let wanted = parts.into_iter().filter(|(wanted, ..)| *wanted);
    let conditions: Vec<String> = wanted.map(|(_, class, of)| format!("(TargetInstance ISA '{class}'{of})")).collect();
    format!("SELECT * FROM __InstanceOperationEvent WITHIN 0.1 WHERE {}", conditions.join(" OR "))
}

/// Whether a job works on a machine. Once known it stays so, even when the job is gone.
fn is_of(session: &mut Session, machines: &mut HashMap<String, Option<String>>, job: &str, vm: &str) -> Result<bool> {
    if !machines.contains_key(job) {
        let known = lookup::machines_of_jobs(session)?;
        machines.extend(known.into_iter().map(|(job, vm)| (job, Some(vm.id))));
        machines.entry(job.to_owned()).or_insert(None);
    }
    Ok(machines.get(job).is_some_and(|of| of.as_deref() == Some(vm)))
}

/// An event.
#[derive(Debug)]
struct Happening {
    change: &'static str,
    thing: Thing,
}

/// What it happened to.
#[derive(Debug)]
enum Thing {
    Machine(Vm),
    Settings(Settings),
    Job(Job),
}

impl Happening {
    fn read(event: &Bag) -> Option<Self> {
        let change = match event.class() {
            "__InstanceCreationEvent" => "created",
            "__InstanceModificationEvent" => "changed",
            "__InstanceDeletionEvent" => "removed",
            _ => return None,
        };
        let target = event.instance("TargetInstance")?;
        let thing = match target.class() {
            "Msvm_ComputerSystem" => Thing::Machine(Vm::read(&target)?),
            "Msvm_VirtualSystemSettingData" => Thing::Settings(Settings::read(&target)?),
            "Msvm_ConcreteJob" => Thing::Job(Job::read(&target)?),
            _ => return None,
        };
        Some(Self { change, thing })
    }

    fn what(&self) -> &'static str {
        match &self.thing {
            Thing::Machine(_) => "machine",
            Thing::Settings(settings) if settings.role == Role::Machine => "settings",
            Thing::Settings(_) => "snapshot",
            Thing::Job(_) => "job",
        }
    }

    fn line(&self) -> String {
        let now = units::moment(jiff::Timestamp::now(), &zone());
        let details = match &self.thing {
            Thing::Machine(vm) => {
                let activity = vm.activity.as_ref().map(|activity| format!(", {activity}")).unwrap_or_default();
                format!("{}: {}{activity}", vm.name, vm.state)
            }
            Thing::Settings(settings) => settings.name.clone(),
            Thing::Job(job) if job.state == "running" => format!("{}: {} % {}", job.title, job.percent, job.activity),
            Thing::Job(job) => {
                let error = job.error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
                format!("{}: {}{error}", job.title, job.state)
            }
        };
        format!("{now}  {} {}  {}", self.what(), self.change, printable(&details))
    }

    fn json(&self) -> Value {
        let thing = match &self.thing {
            Thing::Machine(vm) => json!(vm),
            Thing::Settings(settings) => json!(settings),
            Thing::Job(job) => json!(job),
        };
        json!({ "change": self.change, "what": self.what(), self.what(): thing })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn one_query_says_what_is_wanted() {
        let vm = Vm { id: "A-1".to_owned(), name: "web".to_owned(), state: "off", activity: None, uptime_ms: 0 };
        let check = |jobs, snapshots, vm: Option<&Vm>, expected: Expect| {
            let query = query(&args::Events { vm: None, jobs, snapshots }, vm);
            expected.assert_eq(query.split_once(" WHERE ").map_or("", |(_, condition)| condition));
        };
        check(true, false, None, expect!["(TargetInstance ISA 'Msvm_ConcreteJob')"]);
        check(
            false,
            true,
            Some(&vm),
            expect![
                "(TargetInstance ISA 'Msvm_VirtualSystemSettingData' AND TargetInstance.VirtualSystemIdentifier = 'A-1')"
            ],
        );
        check(
            false,
            false,
            None,
            expect![
                "(TargetInstance ISA 'Msvm_ComputerSystem') OR (TargetInstance ISA 'Msvm_VirtualSystemSettingData') OR (TargetInstance ISA 'Msvm_ConcreteJob')"
            ],
        );
    }
}
