//! What the audit log tells of method calls: who called what, on which objects, and what came of it.
//!
//! Calls that change nothing leave no trace: there are many, a client that waits for a job makes ten each second.

use cim::op::{Argument, Operation, Target};
use hyperv::Outcome;
use ledger::failure::Kind;
use ledger::id::JobId;
use ledger::state::State;

use crate::audit::{Audit, Record};
use crate::guest::Asker;

/// Objects that are named; a call has one or two, a list of resources some more.
const OBJECTS_MAX: usize = 16;

/// A call that is under way; other operations leave no trace.
#[derive(Debug)]
pub struct Trail {
    record: Option<Record>,
    /// Whether the method only tells.
    reads: bool,
}

impl Trail {
    /// What is known before the call.
    pub fn begin(asker: &Asker, operation: &Operation) -> Self {
        let Operation::Invoke { target, method, arguments } = operation else {
            return Self { record: None, reads: true };
        };
        let reads = hyperv::role::needed(&target.class, method) == hyperv::Role::Read;
        let mut objects: Vec<String> = if target.keys.is_empty() { Vec::new() } else { vec![path(target)] };
        let references = arguments.iter().filter_map(|(_, argument)| match argument {
            Argument::Reference(target) => Some(path(target)),
            _ => None,
        });
        objects.extend(references.take(OBJECTS_MAX));
        let record = Record {
            source: Some(asker.source.clone()),
            user: Some(asker.principal.clone()),
            role: Some(asker.role.name()),
            scheme: Some(asker.scheme),
            protection: Some(asker.protection),
            method: Some(format!("{}.{method}", target.class)),
            objects,
            ..Record::default()
        };
        Self { record: Some(record), reads }
    }

    /// The call was refused as a whole.
    pub fn failed(&self, audit: &Audit, error: &cim::Error) {
        let Some(record) = &self.record else { return };
        let event = if error.status == cim::Status::AccessDenied { "authorization" } else { "method" };
        audit.tell(Record { event, outcome: "refused", reason: Some(error.to_string()), ..record.clone() });
    }

    /// The call has an answer, and began `job`.
    pub fn ended(self, audit: &Audit, outcome: &Outcome, job: Option<JobId>, state: &State) {
        let Some(record) = self.record.filter(|_| !self.reads || outcome.refusal.is_some()) else { return };
        let is_denied = outcome.refusal.as_ref().is_some_and(|failure| failure.kind == Kind::AccessDenied);
        let told = match (&outcome.refusal, job) {
            (Some(_), _) => "refused",
            (None, Some(_)) => "job",
            (None, None) => "done",
        };
        audit.tell(Record {
            event: if is_denied { "authorization" } else { "method" },
            outcome: told,
            return_value: Some(outcome.result.return_value),
            vm: job.and_then(|job| state.jobs.get(&job)).map(|job| job.vm.to_string()),
            job: job.map(|job| job.to_string()),
            reason: outcome.refusal.as_ref().map(ToString::to_string),
            ..record
        });
    }
}

fn path(target: &Target) -> String {
    target.to_path().to_string()
}
