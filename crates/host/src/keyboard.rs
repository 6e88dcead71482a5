//! The keyboard: keys sent to a guest at the speed of somebody who types fast.
//!
//! Emulated keyboards hold sixteen bytes, and drop keys while a guest stands still; so there is a moment between strokes,
//! and strokes wait while the guest may be stopped for a capture or a merge.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ledger::failure::{Failure, Kind};
use ledger::question::{Key, Stroke};
use qemu::qmp::Command;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::drive::COMMAND_PATIENCE;
use crate::fault;
use crate::machines::{GuestState, Running};

/// Between two strokes: two of them a character, so fifty characters in a second.
const STROKE_PAUSE: Duration = Duration::from_millis(10);

/// Between two looks whether a guest that stands still runs again.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The keys that are down because we pressed them.
#[derive(Debug, Default)]
pub struct Pressed(Mutex<BTreeSet<Key>>);

impl Pressed {
    /// Whether this key is down.
    pub fn contains(&self, key: Key) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&key)
    }

    fn note(&self, stroke: &Stroke) {
        let mut pressed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match stroke {
            Stroke::Press(keys) => pressed.extend(keys),
            Stroke::Release(keys) => pressed.retain(|key| !keys.contains(key)),
        }
    }
}

/// Types. Nothing is pressed after `deadline`, but what is down comes up again.
///
/// # Errors
/// When the emulator does not take a key, or the guest does not run; says how far the typing came.
pub async fn type_keys(running: &Running, strokes: Vec<Stroke>, deadline: Instant) -> Result<(), Failure> {
    let count = strokes.len();
    for (done, stroke) in strokes.into_iter().enumerate() {
        let late = Instant::now() >= deadline && matches!(stroke, Stroke::Press(_));
        if late || !send(running, &stroke, deadline).await? {
            let text = format!("the guest does not take keys: {done} of {count} presses and releases were sent");
            return Err(Failure::new(Kind::InUse, text).hint("try again with the rest when the machine is not busy"));
        }
        tokio::time::sleep(STROKE_PAUSE).await;
    }
    Ok(())
}

/// Sends one stroke to a guest that runs. Whether that came about in time.
async fn send(running: &Running, stroke: &Stroke, deadline: Instant) -> Result<bool, Failure> {
    loop {
        let floor = running.monitor.floor().await;
        let state = running.guest_state().await.map_err(|error| fault::monitor("ask for the guest's state", &error))?;
        if state == GuestState::Running {
            let command = Command::new("input-send-event").arg("events", events(stroke));
            let sent = running.monitor.execute(command, Vec::new(), COMMAND_PATIENCE).await;
            sent.map_err(|error| fault::monitor("type a key", &error))?;
            running.pressed.note(stroke);
            return Ok(true);
        }
        drop(floor);
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// QEMU's `InputEvent`s. A key's number is what we call it, too (`qapi/ui.json`, `KeyValue`).
fn events(stroke: &Stroke) -> Value {
    let (down, keys) = match stroke {
        Stroke::Press(keys) => (true, keys),
        Stroke::Release(keys) => (false, keys),
    };
    let event =
        |key: &Key| json!({ "type": "key", "data": { "down": down, "key": { "type": "number", "data": key.0 } } });
    keys.iter().map(event).collect()
}
