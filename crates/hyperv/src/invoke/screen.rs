//! Pictures of machines: `GetVirtualSystemThumbnailImage`, and the thumbnails among the summaries.
//!
//! | settings of | picture |
//! | --- | --- |
//! | a machine with a process | of its screen now |
//! | a saved machine | of its screen when it was saved |
//! | a snapshot with memory | of the screen at its moment |
//! | anything else | none: 32775 |

use cim::Value;
use ledger::admission::power_text;
use ledger::failure::{Failure, Kind};
use ledger::id::MemoryId;
use ledger::question::{Question, Screen, Size};
use ledger::state::State;
use ledger::vm::Power;

use super::{Call, Reaction, invalid};
use crate::class;
use crate::inquiry::{Inquiry, Thumbnail};
use crate::object::{Object, Owner};

/// Most pixels of a picture. Two bytes each in base64 are 992,000 bytes, just below the largest envelope that clients take.
const PIXELS_MAX: u32 = 372_000;

/// Numbers of `RequestedInformation` that stand for pictures, and the size of each.
const THUMBNAILS: [(u64, u16, u16); 3] = [(5, 80, 60), (6, 160, 120), (7, 320, 240)];

pub fn thumbnail_image(call: &Call) -> Result<Reaction, Failure> {
    let owner = call.settings("TargetSystem")?;
    let pixels = |parameter: &str| {
        let number = call.number(parameter).and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
        number.ok_or_else(|| invalid(format!("{parameter} is missing or zero")).hint("80 by 60 is usual"))
    };
    let size = Size { width: pixels("WidthPixels")?, height: pixels("HeightPixels")? };
    if u32::from(size.width) * u32::from(size.height) > PIXELS_MAX {
        let text = format!("a picture of {} by {} pixels does not fit into an answer", size.width, size.height);
        return Err(invalid(text).hint(format!("ask for at most {PIXELS_MAX} pixels, such as 720 by 480")));
    }
    let screen = screen(&call.view.state, owner)?;
    Ok(Reaction::Ask(Inquiry::image_data(Question::Screen { screen, size })))
}

/// One summary for each element of `SettingData`, or for each machine if there is none.
pub fn summaries(call: &Call) -> Reaction {
    let elements = |parameter| call.arguments.get(parameter).and_then(Value::as_array).unwrap_or_default();
    let asked: Vec<u64> = elements("RequestedInformation").iter().filter_map(Value::as_u64).collect();
    let owner_of = |path: &Value| match call.resolve("SettingData", path.as_reference()?.clone()) {
        Ok(Object::Settings(owner)) => Some(owner),
        _ => None,
    };
    let state = &call.view.state;
    let owners: Vec<Option<Owner>> = match elements("SettingData") {
        [] => state.vms.keys().map(|&id| Some(Owner::Vm(id))).collect(),
        paths => paths.iter().map(owner_of).collect(),
    };
    let summaries = owners.iter().map(|owner| class::summary(call.view, *owner, &asked)).collect();
    // There is room for one picture only: the largest of those asked for.
    let wanted = THUMBNAILS.iter().rev().find(|(number, ..)| asked.contains(number));
    let pictures = wanted.map_or_else(Vec::new, |&(_, width, height)| {
        let of = |(summary, owner): (usize, &Option<Owner>)| {
            let screen = screen(state, (*owner)?).ok()?;
            let question = Question::Screen { screen, size: Size { width, height } };
            Some((question, Thumbnail { summary, width, height }))
        };
        owners.iter().enumerate().filter_map(of).collect()
    });
    let inquiry = Inquiry::summaries(summaries, pictures);
    if inquiry.questions.is_empty() { Reaction::Done(inquiry.finish(Vec::new())) } else { Reaction::Ask(inquiry) }
}

/// Where the screen of a machine or a snapshot is to be seen.
fn screen(state: &State, owner: Owner) -> Result<Screen, Failure> {
    let kept = |memory: Option<MemoryId>| memory.and_then(|id| state.memories.get(&id));
    let (memory, what) = match owner {
        Owner::Vm(id) => {
            let vm = state.vms.get(&id).ok_or_else(|| Failure::new(Kind::NotFound, "the machine is gone"))?;
            if matches!(vm.power, Power::Running | Power::Paused | Power::Saving | Power::Stopping) {
                return Ok(Screen::Live(id));
            }
            (kept(vm.saved), format!("'{}' is {}", vm.name, power_text(vm.power)))
        }
        Owner::Snapshot(id) => {
            let snapshot = state.snapshots.get(&id);
            let snapshot = snapshot.ok_or_else(|| Failure::new(Kind::NotFound, "the snapshot is gone"))?;
            (kept(snapshot.memory), format!("snapshot '{}' has no memory", snapshot.name))
        }
    };
    let none = || Failure::new(Kind::InvalidState, format!("{what}, so there is no screen to be seen"));
    memory.map(|memory| Screen::Kept(memory.path.clone())).ok_or_else(none)
}
