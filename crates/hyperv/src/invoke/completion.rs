//! From the ledger's replies to the answer of a method call.

use std::sync::Arc;

use cim::op::MethodResult;
use cim::{ObjectPath, Value};
use ledger::failure::{Failure, Kind};
use ledger::id::{JobId, VmId};
use ledger::job::JobState;
use ledger::request::Reply;
use ledger::state::State;

use crate::codes;
use crate::object::{Device, Object, Owner};
use crate::view::View;

/// How a method call ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What the wire carries.
    pub result: MethodResult,
    /// Why it was refused, in words. A return value has no room for them: they are for the log, and for a client that
    /// asks for an error instead.
    pub refusal: Option<Failure>,
}

/// Makes the answer of a method call from the replies to its requests.
#[derive(Clone, Debug)]
pub struct Completion {
    /// Whether the call answers when its jobs have ended, because clients expect the result in the answer. If a job has
    /// not ended when the caller's patience has, `finish` answers with the job as if this were `false`.
    pub wait_for_job: bool,
    namer: Namer,
    result: ResultKind,
    family: Family,
}

/// Which numbers refusals have, and what a method can say of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Nearly all methods: a job is named in the answer.
    Msvm,
    /// Methods without a job among their outputs.
    Accepted,
    /// `Msvm_ConcreteJob.RequestStateChange`.
    JobControl,
}

/// Writes paths after the view is gone.
#[derive(Clone)]
struct Namer(View);

/// The output parameter that names what came into being.
#[derive(Clone, Debug)]
enum ResultKind {
    /// Only the job.
    None,
    /// An output that stays NULL while the job runs: `ResultingSnapshot`.
    Pending(&'static str),
    /// `ResultingSystem`: the machine of the job.
    System,
    /// `ResultingResourceSettings`: these, in the order asked for; one for each request.
    Resources(Vec<Resulting>),
}

/// A resource named in the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resulting {
    /// Known before: it is changed, not created.
    Known(VmId, Device),
    /// What the request created, as this kind of device.
    Created(VmId, fn(ledger::id::DeviceId) -> Device),
}

impl Outcome {
    /// A call that is done and gives back these output parameters.
    pub fn done(outputs: Vec<(String, Option<Value>)>) -> Self {
        Self { result: MethodResult { return_value: codes::COMPLETED, outputs }, refusal: None }
    }

    /// A refusal, with the return value for its kind.
    pub fn refused(failure: Failure) -> Self {
        Self::refused_with(codes::return_value(failure.kind), failure)
    }

    /// A refusal with a return value of its own.
    pub fn refused_with(return_value: u32, failure: Failure) -> Self {
        Self { result: MethodResult { return_value, outputs: Vec::new() }, refusal: Some(failure) }
    }
}

impl Completion {
    /// Answers with the job as soon as it has started.
    pub(crate) fn job(view: &View) -> Self {
        Self { wait_for_job: false, namer: Namer(view.clone()), result: ResultKind::None, family: Family::Msvm }
    }

    /// Answers that the request was accepted.
    pub(crate) fn accepted(view: &View) -> Self {
        Self { family: Family::Accepted, ..Self::job(view) }
    }

    /// Answers as the control of jobs does.
    pub(crate) fn of_job_control(view: &View) -> Self {
        Self { family: Family::JobControl, ..Self::job(view) }
    }

    /// Answers when the jobs have ended.
    pub(crate) fn awaited(self) -> Self {
        Self { wait_for_job: true, ..self }
    }

    /// Declares an output that is NULL as long as the job runs.
    pub(crate) fn with_pending(self, output: &'static str) -> Self {
        Self { result: ResultKind::Pending(output), ..self }
    }

    /// Names the new machine.
    pub(crate) fn with_system(self) -> Self {
        Self { result: ResultKind::System, ..self }
    }

    /// Names resources, one for each request.
    pub(crate) fn with_resources(self, resources: Vec<Resulting>) -> Self {
        Self { result: ResultKind::Resources(resources), ..self }
    }

    /// The outcome, from the replies received (fewer than requests after a refusal) and the state after them.
    pub fn finish(&self, state: &Arc<State>, replies: &[Reply]) -> Outcome {
        let refusal = replies.iter().find_map(|reply| match reply {
            Reply::Refused(failure) => Some(failure.clone()),
            Reply::Job(_) | Reply::Done { .. } => None,
        });
        if let Some(failure) = refusal {
            return Outcome::refused_with(self.refusal_code(failure.kind), failure);
        }
        if self.family != Family::Msvm {
            return Outcome::done(Vec::new());
        }
        let jobs: Vec<JobId> = replies.iter().filter_map(job_of).collect();
        if !self.wait_for_job {
            return match jobs.last() {
                Some(&job) => self.started(job),
                None => Outcome::done(self.outputs(state, replies, None)),
            };
        }
        for &id in &jobs {
            match state.jobs.get(&id).map(|job| &job.state) {
                Some(JobState::Running) => return self.started(id),
                Some(ended) => {
                    if let Some(failure) = failure_of(ended) {
                        return Outcome::refused(failure);
                    }
                }
                // Forgotten already, which takes minutes after its end.
                None => {}
            }
        }
        Outcome::done(self.outputs(state, replies, None))
    }

    fn refusal_code(&self, kind: Kind) -> u32 {
        match self.family {
            Family::Msvm | Family::Accepted => codes::return_value(kind),
            Family::JobControl => codes::job_control_refusal(kind),
        }
    }

    fn started(&self, job: JobId) -> Outcome {
        let job = self.namer.path(Object::Job(job));
        let outputs = self.outputs(&self.namer.0.state, &[], Some(job));
        Outcome { result: MethodResult { return_value: codes::JOB_STARTED, outputs }, refusal: None }
    }

    /// Output parameters, the result before the job: there are clients that take the first path of an answer.
    fn outputs(&self, state: &Arc<State>, replies: &[Reply], job: Option<ObjectPath>) -> Vec<(String, Option<Value>)> {
        let mut outputs = Vec::new();
        match &self.result {
            ResultKind::None => {}
            ResultKind::Pending(name) => outputs.push(((*name).to_owned(), None)),
            ResultKind::System => {
                let job = replies.iter().find_map(job_of).and_then(|id| state.jobs.get(&id));
                let path = job.map(|job| Value::Reference(self.namer.path(Object::Vm(job.vm))));
                outputs.push(("ResultingSystem".to_owned(), path));
            }
            ResultKind::Resources(resources) => {
                let paths = resources.iter().zip(replies).filter_map(|(resource, reply)| {
                    let (vm, device) = match (*resource, reply) {
                        (Resulting::Known(vm, device), _) => (vm, device),
                        (Resulting::Created(vm, kind), Reply::Done { created: Some(id) }) => (vm, kind(*id)),
                        (Resulting::Created(..), _) => return None,
                    };
                    Some(Value::Reference(self.namer.path(Object::Resource(Owner::Vm(vm), device))))
                });
                let paths: Vec<Value> = paths.collect();
                let value = (!paths.is_empty()).then_some(Value::Array(paths));
                outputs.push(("ResultingResourceSettings".to_owned(), value));
            }
        }
        outputs.push(("Job".to_owned(), job.map(Value::Reference)));
        outputs
    }
}

impl Namer {
    fn path(&self, object: Object) -> ObjectPath {
        object.path(&self.0)
    }
}

impl std::fmt::Debug for Namer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Namer").field(&self.0.host.name).finish()
    }
}

fn job_of(reply: &Reply) -> Option<JobId> {
    match reply {
        Reply::Job(id) => Some(*id),
        Reply::Done { .. } | Reply::Refused(_) => None,
    }
}

fn failure_of(ended: &JobState) -> Option<Failure> {
    match ended {
        JobState::Running | JobState::Completed => None,
        JobState::Failed(failure) => Some(failure.clone()),
        JobState::Terminated | JobState::Killed => Some(Failure::new(Kind::Cancelled, "the job was cancelled")),
    }
}
