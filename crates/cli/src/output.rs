//! What a command has to say, as text for people and as one JSON document for programs.

use serde::Serialize;
use serde_json::Value;

/// The result of a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// For people: whole lines.
    pub text: String,
    /// For programs.
    pub json: Value,
}

impl Output {
    /// A result in both forms.
    pub fn new(text: impl Into<String>, json: impl Serialize) -> Self {
        let json = serde_json::to_value(json).expect("our own types have string keys and finite numbers");
        Self { text: text.into(), json }
    }

    /// The form that was asked for.
    pub fn render(&self, json: bool) -> String {
        match json {
            true => format!("{:#}\n", self.json),
            false => self.text.clone(),
        }
    }
}
