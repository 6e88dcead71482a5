//! Pictures of machines and snapshots.

use cim::Value;
use cim::op::Target;
use expect_test::{Expect, expect};
use ledger::failure::{Failure, Kind};
use ledger::question::Answer;
use ledger::vm::Power;
use uuid::Uuid;

use crate::world::*;
use crate::{Inquiry, Reaction, View};

/// A machine in this state, with snapshot `A` taken while it was off and `B` while it ran.
fn world(power: Power) -> View {
    let mut state = with_snapshot();
    state.update_vm(V, |vm| vm.power = Power::Running);
    take(&mut state, 'B');
    let memory = state.snapshots[&snapshot_id('B')].memory;
    state.update_vm(V, |vm| {
        vm.power = power;
        vm.saved = memory.filter(|_| power == Power::Saved);
    });
    view(state)
}

fn thumbnail(view: &View, target: Target, width: &str, height: &str) -> Result<Reaction, cim::Error> {
    let arguments =
        vec![("TargetSystem", reference(target)), ("WidthPixels", text(width)), ("HeightPixels", text(height))];
    call(view, management_service(), "GetVirtualSystemThumbnailImage", arguments)
}

fn inquiry(reaction: Result<Reaction, cim::Error>) -> Inquiry {
    match reaction {
        Ok(Reaction::Ask(inquiry)) => inquiry,
        other => panic!("nothing to ask: {other:?}"),
    }
}

#[test]
fn a_picture_is_of_now_or_of_the_saved_moment() {
    let check = |power: Power, guid: Uuid, expected: &str| {
        assert_eq!(show(thumbnail(&world(power), vssd(guid), "80", "60")), expected);
    };
    let live = "ask Screen { screen: Live(VmId(00A0)), size: Size { width: 80, height: 60 } }";
    check(Power::Running, V.0, live);
    check(Power::Paused, V.0, live);
    let kept = r#"ask Screen { screen: Kept("/memory"), size: Size { width: 80, height: 60 } }"#;
    check(Power::Saved, V.0, kept);
    check(Power::Running, snapshot_id('B').0, kept);
    check(Power::Off, snapshot_id('B').0, kept);
    check(Power::Off, V.0, "32775: 'web' is off, so there is no screen to be seen");
    check(Power::Starting, V.0, "32775: 'web' is starting, so there is no screen to be seen");
    check(Power::Running, snapshot_id('A').0, "32775: snapshot 'A' has no memory, so there is no screen to be seen");
}

#[test]
fn a_picture_has_to_fit_into_an_answer() {
    let view = world(Power::Running);
    let check = |width: &str, height: &str, expected: Expect| {
        expected.assert_eq(&show(thumbnail(&view, vssd(V.0), width, height)));
    };
    check("0", "60", expect!["32773: WidthPixels is missing or zero: 80 by 60 is usual"]);
    check("80", "", expect!["32773: HeightPixels is missing or zero: 80 by 60 is usual"]);
    check(
        "1024",
        "768",
        expect![
            "32773: a picture of 1024 by 768 pixels does not fit into an answer: ask for at most 372000 pixels, such as 720 by 480"
        ],
    );
}

#[test]
fn answers_become_pixels_or_refusals() {
    let view = world(Power::Running);
    let check = |answer: Result<Answer, Failure>, expected: Expect| {
        let inquiry = inquiry(thumbnail(&view, vssd(V.0), "2", "1"));
        expected.assert_eq(&show_outcome(&inquiry.finish(vec![answer])));
    };
    check(Ok(Answer::Picture(vec![1, 2, 3, 4])), expect!["0 ImageData=4 bytes"]);
    check(Err(Failure::new(Kind::InUse, "busy").hint("wait")), expect!["32775: busy: wait"]);
}

#[test]
fn summaries_have_the_largest_picture_that_was_asked_for() {
    let view = world(Power::Running);
    let summaries = |asked: &[&str]| {
        let arguments = asked.iter().map(|number| ("RequestedInformation", text(*number)));
        let targets = [V.0, snapshot_id('A').0, snapshot_id('B').0].map(|guid| ("SettingData", reference(vssd(guid))));
        call(&view, management_service(), "GetSummaryInformation", arguments.chain(targets).collect())
    };
    assert!(matches!(summaries(&["1"]), Ok(Reaction::Done(_))), "nothing to ask");
    let inquiry = inquiry(summaries(&["1", "5", "6"]));
    assert_eq!(inquiry.questions.len(), 2, "snapshot A has no screen");
    let answers = vec![Err(Failure::new(Kind::InUse, "busy")), Ok(Answer::Picture(vec![7; 4]))];
    let outcome = inquiry.finish(answers);
    let summaries = outcome.result.outputs[0].1.as_ref().and_then(Value::as_array).unwrap();
    let shown = summaries.iter().map(|summary| {
        let summary = summary.as_object().unwrap();
        let text = |name: &str| summary.get(name).map_or("-".to_owned(), Value::to_string);
        ["ElementName", "ThumbnailImage", "ThumbnailImageWidth", "ThumbnailImageHeight"].map(text).join(" ")
    });
    assert_eq!(shown.collect::<Vec<_>>(), ["web - - -", "A - - -", "B 4 bytes 160 120"]);
}
