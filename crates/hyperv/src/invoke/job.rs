//! `Msvm_ConcreteJob`: why it failed, and asking it to end.

use cim::{DateTime, Value, embedded};
use ledger::failure::{Failure, Kind};
use ledger::id::JobId;
use ledger::job::JobState;
use ledger::request::Request;

use super::{Call, Completion, Outcome, Reaction};
use crate::class::error;
use crate::codes;
use crate::object::Object;

pub fn invoke(call: &Call, id: JobId) -> Result<Reaction, Failure> {
    let found = call.view.state.jobs.get(&id);
    let job = found.ok_or_else(|| Failure::new(Kind::NotFound, format!("job {id} has been removed")))?;
    match call.method.name.as_str() {
        "GetError" => {
            let text = error_text(call, id, &job.state).map(Value::from);
            Ok(Reaction::Done(Outcome::done(vec![("Error".to_owned(), text)])))
        }
        "GetErrorEx" => {
            let texts = error_text(call, id, &job.state).map(|text| Value::from(vec![text]));
            Ok(Reaction::Done(Outcome::done(vec![("Errors".to_owned(), texts)])))
        }
        "RequestStateChange" => Ok(request_state_change(call, id, job.state.is_final())),
        _ => Ok(call.not_supported()),
    }
}

/// The failure as a string that holds a `Msvm_Error`; `None` if there is none.
fn error_text(call: &Call, id: JobId, state: &JobState) -> Option<String> {
    match state {
        JobState::Failed(failure) => Some(embedded::to_cim_xml(&error(call.view, failure, Object::Job(id)))),
        JobState::Running | JobState::Completed | JobState::Terminated | JobState::Killed => None,
    }
}

fn request_state_change(call: &Call, job: JobId, is_final: bool) -> Reaction {
    let refused = |code, kind, text: &str| Reaction::Done(Outcome::refused_with(code, Failure::new(kind, text)));
    let kill = match call.number("RequestedState") {
        Some(4) => false,
        Some(5) => true,
        Some(2 | 3 | 6) => {
            let text = "a job cannot be started, suspended or serviced";
            return refused(codes::JOB_NOT_SUPPORTED, Kind::NotSupported, text);
        }
        _ => {
            let text = "RequestedState must be 4 (terminate) or 5 (kill)";
            return refused(codes::JOB_INVALID_PARAMETER, Kind::InvalidParameter, text);
        }
    };
    let timeout = call.arguments.get("TimeoutPeriod").and_then(Value::as_datetime);
    if timeout.is_some_and(|timeout| timeout != DateTime::from_interval_micros(0)) {
        let text = "a time limit for the end of a job is not supported";
        return refused(codes::JOB_TIMEOUT_NOT_SUPPORTED, Kind::NotSupported, text);
    }
    if is_final {
        return refused(codes::JOB_INVALID_TRANSITION, Kind::InvalidState, "the job has ended already");
    }
    let completion = Completion::of_job_control(call.view);
    Reaction::Submit(super::Submission { requests: vec![Request::CancelJob { job, kill }], completion })
}
