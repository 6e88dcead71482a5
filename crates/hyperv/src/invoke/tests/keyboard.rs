//! Keys typed into machines.

use cim::op::{Argument, Target};
use expect_test::{Expect, expect};
use ledger::question::Answer;
use ledger::vm::Power;

use crate::schema::VIRTUALIZATION;
use crate::world::*;
use crate::{Reaction, View};

fn world(power: Power) -> View {
    let mut state = one_vm();
    state.update_vm(V, |vm| vm.power = power);
    view(state)
}

fn type_into(view: &View, method: &str, arguments: Vec<(&str, Argument)>) -> Result<Reaction, cim::Error> {
    let keyboard = Target::new(VIRTUALIZATION, "Msvm_Keyboard").with_key("SystemName", V.to_string());
    call(view, keyboard, method, arguments)
}

fn check(method: &str, arguments: Vec<(&str, Argument)>, expected: Expect) {
    expected.assert_eq(&show(type_into(&world(Power::Running), method, arguments)));
}

#[test]
fn every_way_to_type_becomes_presses_and_releases() {
    let a = expect!["ask Type { vm: VmId(00A0), strokes: [Press([Key(30)]), Release([Key(30)])] }"];
    check("TypeKey", vec![("keyCode", text("65"))], a);
    check(
        "PressKey",
        vec![("keyCode", text("65"))],
        expect!["ask Type { vm: VmId(00A0), strokes: [Press([Key(30)])] }"],
    );
    check(
        "ReleaseKey",
        vec![("keyCode", text("65"))],
        expect!["ask Type { vm: VmId(00A0), strokes: [Release([Key(30)])] }"],
    );
    check(
        "TypeText",
        vec![("asciiText", text("A"))],
        expect!["ask Type { vm: VmId(00A0), strokes: [Press([Key(42), Key(30)]), Release([Key(30), Key(42)])] }"],
    );
    check(
        "TypeCtrlAltDel",
        vec![],
        expect![
            "ask Type { vm: VmId(00A0), strokes: [Press([Key(29), Key(56), Key(211)]), Release([Key(211), Key(56), Key(29)])] }"
        ],
    );
    let bytes = expect!["ask Type { vm: VmId(00A0), strokes: [Press([Key(30)]), Release([Key(30)])] }"];
    check("TypeScancodes", vec![("Scancodes", text("Hp4="))], bytes);
    let numbers = expect!["ask Type { vm: VmId(00A0), strokes: [Press([Key(30)]), Release([Key(30)])] }"];
    check("TypeScancodes", vec![("Scancodes", text("30")), ("Scancodes", text("158"))], numbers);
    check("IsKeyPressed", vec![("keyCode", text("16"))], expect!["ask IsPressed { vm: VmId(00A0), key: Key(42) }"]);
}

#[test]
fn what_cannot_be_typed_is_refused() {
    check(
        "TypeKey",
        vec![("keyCode", text("7"))],
        expect![
            "32773: keyCode 7 is no key of a PC keyboard: use a virtual-key code, such as 65 for A or 13 for enter, or TypeScancodes"
        ],
    );
    check("TypeKey", vec![], expect!["32773: keyCode is missing"]);
    check("TypeText", vec![("asciiText", text(""))], expect!["32773: asciiText is missing"]);
    check(
        "TypeText",
        vec![("asciiText", text("caf\u{e9}"))],
        expect![
            "32773: the character 'é' is not on a US keyboard: TypeScancodes presses any key, whatever the guest's keyboard layout makes of it"
        ],
    );
    check(
        "TypeText",
        vec![("asciiText", text("x".repeat(1001)))],
        expect!["32773: the text has 1001 characters, and may have 1000: send it in parts"],
    );
    check(
        "TypeScancodes",
        vec![("Scancodes", text("0"))],
        expect![
            "32773: byte 0 of the scan codes begins no code of a keyboard: use scan code set 1: a press, the same with bit 7 for its release, e0h before extended keys"
        ],
    );
    check("TypeScancodes", vec![], expect!["32773: there are 0 scan codes; send 1 to 4000 bytes"]);
    check("Reset", vec![], expect!["1: Reset is not supported by Msvm_Keyboard"]);
}

#[test]
fn only_a_running_guest_is_typed_for() {
    let check = |power: Power, expected: &str| {
        assert_eq!(show(type_into(&world(power), "TypeCtrlAltDel", vec![])), expected);
    };
    check(Power::Off, "32775: 'web' is off, so there is nobody to type for: start or resume it first");
    check(Power::Saved, "32775: 'web' is saved, so there is nobody to type for: start or resume it first");
    check(Power::Paused, "32775: 'web' is paused, so there is nobody to type for: start or resume it first");
}

#[test]
fn answers_say_whether_a_key_is_down() {
    let asked = |method: &str, answer: Answer| {
        let arguments = if method == "IsKeyPressed" { vec![("keyCode", text("65"))] } else { vec![] };
        match type_into(&world(Power::Running), method, arguments) {
            Ok(Reaction::Ask(inquiry)) => show_outcome(&inquiry.finish(vec![Ok(answer)])),
            other => panic!("nothing to ask: {other:?}"),
        }
    };
    assert_eq!(asked("IsKeyPressed", Answer::Pressed(true)), "0 keyState=true");
    assert_eq!(asked("TypeCtrlAltDel", Answer::Done), "0");
}
