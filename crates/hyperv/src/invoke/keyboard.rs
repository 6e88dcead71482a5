//! `Msvm_Keyboard`: keys typed into a running guest.

use ledger::admission::power_text;
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use ledger::question::{Key, Question, Stroke};
use ledger::vm::Power;

use super::{Call, Reaction, invalid};
use crate::inquiry::Inquiry;
use crate::keys;

/// Longest text of one call, in characters. Guests take some fifty in a second, and the caller waits.
const TEXT_CHARS_MAX: usize = 1000;
/// Most bytes of scan codes in one call: as many keys.
const SCAN_CODES_MAX: usize = 4 * TEXT_CHARS_MAX;

pub fn invoke(call: &Call, vm: VmId) -> Result<Reaction, Failure> {
    let strokes = match call.method.name.as_str() {
        "TypeKey" => keys::type_keys(vec![key(call)?]).to_vec(),
        "PressKey" => vec![Stroke::Press(vec![key(call)?])],
        "ReleaseKey" => vec![Stroke::Release(vec![key(call)?])],
        "TypeCtrlAltDel" => keys::type_keys(keys::CTRL_ALT_DEL.to_vec()).to_vec(),
        "TypeText" => text(call)?,
        "TypeScancodes" => scan_codes(call)?,
        "IsKeyPressed" => {
            let question = Question::IsPressed { vm, key: key(call)? };
            require_running(call, vm)?;
            return Ok(Reaction::Ask(Inquiry::key_state(question)));
        }
        _ => return Ok(call.not_supported()),
    };
    require_running(call, vm)?;
    Ok(Reaction::Ask(Inquiry::typed(Question::Type { vm, strokes })))
}

fn key(call: &Call) -> Result<Key, Failure> {
    let code = call.number("keyCode").ok_or_else(|| invalid("keyCode is missing"))?;
    let key = u32::try_from(code).ok().and_then(keys::virtual_key);
    key.ok_or_else(|| {
        invalid(format!("keyCode {code} is no key of a PC keyboard"))
            .hint("use a virtual-key code, such as 65 for A or 13 for enter, or TypeScancodes")
    })
}

fn text(call: &Call) -> Result<Vec<Stroke>, Failure> {
    let text = call.text("asciiText").filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| invalid("asciiText is missing"))?;
    let count = text.chars().count();
    if count > TEXT_CHARS_MAX {
        return Err(
            invalid(format!("the text has {count} characters, and may have {TEXT_CHARS_MAX}")).hint("send it in parts")
        );
    }
    keys::type_text(text).map_err(|character| {
        invalid(format!("the character {character:?} is not on a US keyboard"))
            .hint("TypeScancodes presses any key, whatever the guest's keyboard layout makes of it")
    })
}

fn scan_codes(call: &Call) -> Result<Vec<Stroke>, Failure> {
    let bytes = call.arguments.get("Scancodes").and_then(cim::Value::to_octets).unwrap_or_default();
    if bytes.is_empty() || bytes.len() > SCAN_CODES_MAX {
        return Err(invalid(format!("there are {} scan codes; send 1 to {SCAN_CODES_MAX} bytes", bytes.len())));
    }
    keys::read_scan_codes(&bytes).map_err(|at| {
        invalid(format!("byte {at} of the scan codes begins no code of a keyboard"))
            .hint("use scan code set 1: a press, the same with bit 7 for its release, e0h before extended keys")
    })
}

fn require_running(call: &Call, vm: VmId) -> Result<(), Failure> {
    let vm = call.view.state.vms.get(&vm).ok_or_else(|| Failure::new(Kind::NotFound, "the machine is gone"))?;
    if vm.power == Power::Running {
        return Ok(());
    }
    let text = format!("'{}' is {}, so there is nobody to type for", vm.name, power_text(vm.power));
    Err(Failure::new(Kind::InvalidState, text).hint("start or resume it first"))
}
