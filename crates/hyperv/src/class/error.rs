//! `Msvm_Error`: why a job failed, as `GetError` and `GetErrorEx` give it. Never an instance that can be queried.

use cim::Instance;
use ledger::failure::{Failure, Kind};

use super::blank;
use crate::codes;
use crate::object::Object;
use crate::view::View;

/// The failure of `source`.
pub fn error(view: &View, failure: &Failure, source: Object) -> Instance {
    let actions = failure.hint.iter().map(String::as_str).collect::<Vec<_>>();
    let (error_type, cause) = error_type(failure.kind);
    blank(view, "Msvm_Error")
        .with("CIMStatusCode", codes::status(failure.kind).cim_code())
        .with("CIMStatusCodeDescription", codes::status(failure.kind).wmi_name())
        .with("Message", failure.full_text())
        .with("MessageID", codes::error_code(failure.kind).to_string())
        .with("OwningEntity", "Snapvisor")
        .with("ErrorType", error_type)
        .with("ProbableCause", cause)
        .with("PerceivedSeverity", 4u16)
        .with("RecommendedActions", actions)
        .with("ErrorSource", source.path(view).to_string())
        .with("ErrorSourceFormat", 2u16)
}

/// `ErrorType` (4 software, 9 unavailable resource, 10 unsupported operation) and `ProbableCause` (33 out of memory,
/// 47 software, 50 storage capacity, 111 timeout).
fn error_type(kind: Kind) -> (u16, u16) {
    match kind {
        Kind::NoSpace => (9, 50),
        Kind::OutOfMemory => (9, 33),
        Kind::NotSupported => (10, 47),
        Kind::Timeout => (4, 111),
        _ => (4, 47),
    }
}
