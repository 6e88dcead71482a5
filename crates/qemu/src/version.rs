//! Which QEMU this is and what it can do.
//!
//! Versions decide only whether we talk to a QEMU at all; what it can do is asked of it ([`Abilities`]), because
//! distributions backport and disable.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A version of QEMU.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
}

/// The oldest QEMU we can serve: `mapped-ram` came with 9.0.
pub const OLDEST: Version = Version { major: 9, minor: 0, micro: 0 };

/// Why a QEMU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Before [`OLDEST`].
    #[error("QEMU {found} is too old: 9.0 or later is needed to save memory (mapped-ram)")]
    TooOld {
        /// What was found.
        found: Version,
    },
    /// Not QEMU's `--version`.
    #[error("cannot read a QEMU version from \"{text}\"")]
    Unreadable {
        /// The first line.
        text: String,
    },
}

impl Version {
    /// From the member `QMP` of a greeting.
    pub fn from_greeting(greeting: &Value) -> Option<Self> {
        let qemu = greeting.get("version")?.get("qemu")?;
        let part = |name| qemu.get(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        Some(Self { major: part("major")?, minor: part("minor")?, micro: part("micro")? })
    }

    /// From the output of `qemu-system-x86_64 --version`.
    pub fn from_output(output: &str) -> Result<Self, VersionError> {
        let line = output.lines().next().unwrap_or_default();
        let unreadable = || VersionError::Unreadable { text: line.chars().take(120).collect() };
        let (_, rest) = line.split_once(" version ").ok_or_else(unreadable)?;
        let numbers = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse::<u32>);
        let mut part = || parts.next().and_then(Result::ok);
        let (Some(major), Some(minor)) = (part(), part()) else { return Err(unreadable()) };
        Ok(Self { major, minor, micro: part().unwrap_or(0) })
    }

    /// Refuses what is too old.
    pub fn require(&self) -> Result<(), VersionError> {
        if *self < OLDEST { Err(VersionError::TooOld { found: self.clone() }) } else { Ok(()) }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// What a running QEMU says it can do when it saves memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    capabilities: BTreeSet<String>,
    parameters: BTreeSet<String>,
}

impl Abilities {
    /// From the answers to `query-migrate-capabilities` and `query-migrate-parameters`.
    pub fn read(capabilities: &Value, parameters: &Value) -> Self {
        let names = capabilities.as_array().into_iter().flatten();
        let names = names.filter_map(|entry| Some(entry.get("capability")?.as_str()?.to_owned()));
        let members = parameters.as_object().into_iter().flat_map(|object| object.keys().cloned());
        Self { capabilities: names.collect(), parameters: members.collect() }
    }

    /// Whether there is a migration capability of this name.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.contains(capability)
    }

    /// Whether there is a migration parameter of this name.
    pub fn has_parameter(&self, parameter: &str) -> bool {
        self.parameters.contains(parameter)
    }

    /// All capability names.
    pub fn capabilities(&self) -> impl Iterator<Item = &str> {
        self.capabilities.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(output: &str, expected: &str) {
        let shown = match Version::from_output(output).and_then(|version| version.require().map(|()| version)) {
            Ok(version) => version.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{output}");
    }

    #[test]
    fn versions() {
        check("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds)\nCopyright", "10.0.2");
        check("qemu-img version 9.1", "9.1.0");
        check("qemu-storage-daemon version 9.0.50-rc1", "9.0.50");
        check(
            "QEMU emulator version 8.2.2 (x)",
            "QEMU 8.2.2 is too old: 9.0 or later is needed to save memory (mapped-ram)",
        );
        check("bash: command not found", "cannot read a QEMU version from \"bash: command not found\"");
        check("x version 99999999999.1", "cannot read a QEMU version from \"x version 99999999999.1\"");
        check("", "cannot read a QEMU version from \"\"");
    }

    #[test]
    fn abilities_are_what_is_listed() {
        let capabilities = json!([{ "capability": "mapped-ram", "state": false }, { "odd": 1 }, 7]);
        let abilities = Abilities::read(&capabilities, &json!({ "direct-io": false }));
        assert!(abilities.can("mapped-ram") && !abilities.can("multifd"));
        assert!(abilities.has_parameter("direct-io") && !abilities.has_parameter("mode"));
        assert_eq!(Abilities::read(&json!(null), &json!(3)), Abilities::default());
    }
}
