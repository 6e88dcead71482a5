//! `Msvm_ComputerSystem.RequestStateChange` and `Msvm_ShutdownComponent.InitiateShutdown`.

use ledger::failure::Failure;
use ledger::id::VmId;
use ledger::request::{PowerTarget, Request};

use super::{Call, Completion, Reaction, invalid, unsupported};
use crate::object::Object;

pub fn invoke(call: &Call) -> Result<Reaction, Failure> {
    if call.method.name != "RequestStateChange" {
        return Ok(call.not_supported());
    }
    let Object::Vm(vm) = call.object else {
        return Err(unsupported("the state of the host cannot be changed").hint("name a virtual machine"));
    };
    let number = call.number("RequestedState").ok_or_else(|| invalid("RequestedState is missing"))?;
    let target = power_target(number).ok_or_else(|| {
        invalid(format!("RequestedState {number} does not exist"))
            .hint("use 2 (start), 3 (turn off), 4 (shut down), 6 (save), 9 (pause), 10 or 11 (reset)")
    })?;
    call.start(Request::SetPower { vm, target })
}

/// Methods of the component that asks the guest to shut down.
pub fn invoke_shutdown(call: &Call, vm: VmId) -> Result<Reaction, Failure> {
    if call.method.name != "InitiateShutdown" {
        return Ok(call.not_supported());
    }
    // The method has no way to name a job: accepted is all it can say.
    let request = Request::SetPower { vm, target: PowerTarget::Shutdown };
    call.submit(vec![request], Completion::accepted(call.view))
}

/// A reboot is a reset, because nobody in the guest is there to do it in order; the large numbers are those of the first
/// version of the namespace.
fn power_target(number: u64) -> Option<PowerTarget> {
    Some(match number {
        2 | 32777 => PowerTarget::Running,
        3 => PowerTarget::Off,
        4 => PowerTarget::Shutdown,
        6 | 32773 => PowerTarget::Saved,
        9 | 32776 => PowerTarget::Paused,
        10 | 11 => PowerTarget::Reset,
        _ => return None,
    })
}
