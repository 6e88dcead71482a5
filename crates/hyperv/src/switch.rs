//! What network adapters can be connected to, and the names of it.
//!
//! A switch of Hyper-V has a GUID, in `Name`, and a name for people, in `ElementName`. Here people's name is all there is:
//! that of a network interface. So the GUID is that name in other clothes, and leads back to it.

use std::collections::BTreeSet;
use std::fmt;

use ledger::state::State;
use ledger::vm::Network;
use uuid::Uuid;

/// Name of a switch: [`SwitchName::USER`], or that of a tap interface, for which Linux has 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwitchName([u8; SwitchName::BYTES]);

/// Bits below the version of a GUID, and below its variant: RFC 9562, section 5.8, leaves all others to us.
const BELOW_VERSION: u32 = 76;
const BELOW_VARIANT: u32 = 62;
/// The part of a name that stands between version and variant.
const MIDDLE_BITS: u32 = 12;
/// The part of a name that stands below the variant.
const LOW_BITS: u32 = 60;

impl SwitchName {
    /// Longest name in bytes.
    pub const BYTES: usize = 15;
    /// The switch that stands for user-mode networking.
    pub const USER: &str = "user";

    /// `None` if the text is no name of a network interface. Interfaces differ by case, [`SwitchName::USER`] does not.
    pub fn new(text: &str) -> Option<Self> {
        let text = if text.eq_ignore_ascii_case(Self::USER) { Self::USER } else { text };
        let is_name = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b','));
        if text.is_empty() || !is_name || matches!(text, "." | "..") {
            return None;
        }
        let mut bytes = [0; Self::BYTES];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    /// The GUID that is the name: its 120 bits around version 8 and the variant of RFC 9562.
    pub fn guid(self) -> Uuid {
        let name = self.0.iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        let (low, middle, high) =
            (name & mask(LOW_BITS), name >> LOW_BITS & mask(MIDDLE_BITS), name >> (LOW_BITS + MIDDLE_BITS));
        Uuid::from_u128(
            high << (BELOW_VERSION + 4) | 8 << BELOW_VERSION | middle << (BELOW_VARIANT + 2) | 2 << BELOW_VARIANT | low,
        )
    }

    /// The name that is this GUID; `None` if it is none of ours.
    pub fn of_guid(guid: Uuid) -> Option<Self> {
        let bits = guid.as_u128();
        let (low, middle) = (bits & mask(LOW_BITS), bits >> (BELOW_VARIANT + 2) & mask(MIDDLE_BITS));
        let name = (bits >> (BELOW_VERSION + 4)) << (LOW_BITS + MIDDLE_BITS) | middle << LOW_BITS | low;
        let [_, bytes @ ..] = name.to_be_bytes();
        let found = Self::new(Self(bytes).text())?;
        (found.guid() == guid).then_some(found)
    }

    /// The switch of a network; `None` if it is none.
    pub fn of(network: &Network) -> Option<Self> {
        match network {
            Network::Unconnected => None,
            Network::User => Self::new(Self::USER),
            Network::Tap(name) => Self::new(name),
        }
    }

    /// The network behind the switch.
    pub fn network(self) -> Network {
        match self.text() {
            Self::USER => Network::User,
            name => Network::Tap(name.to_owned()),
        }
    }

    /// Every switch that is known: the one for user-mode networking, and the interfaces that machines or snapshots use.
    /// An interface that nobody uses yet can be named all the same.
    pub fn all(state: &State) -> BTreeSet<Self> {
        let live = state.vms.values().flat_map(|vm| &vm.settings.nics);
        let kept = state.snapshots.values().flat_map(|snapshot| &snapshot.settings.nics);
        live.chain(kept).filter_map(|nic| Self::of(&nic.network)).chain(Self::new(Self::USER)).collect()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default().trim_end_matches('\0')
    }
}

impl fmt::Display for SwitchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for SwitchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SwitchName({self})")
    }
}

fn mask(bits: u32) -> u128 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guid_of_a_switch_leads_back_to_its_name() {
        for name in ["user", "tap0", "a", "fifteen-letters", "~~~~~~~~~~~~~~~"] {
            let guid = SwitchName::new(name).unwrap().guid();
            assert_eq!(SwitchName::of_guid(guid).unwrap().to_string(), name);
            assert_eq!((guid.get_version_num(), guid.get_variant()), (8, uuid::Variant::RFC4122));
        }
        assert_ne!(SwitchName::new("tap0").unwrap().guid(), SwitchName::new("tap1").unwrap().guid());
    }

    #[test]
    fn other_guids_are_no_switches() {
        let user = SwitchName::new("user").unwrap().guid().as_u128();
        // No name, a name with a slash, and ours with another version, another variant, or an unused bit set.
        let slash = user & !(0xFF << 120) | 0x2F << 120;
        for bits in [0, u128::MAX, slash, user ^ 1 << 76, user ^ 1 << 63, user ^ 1 << 61] {
            assert_eq!(SwitchName::of_guid(Uuid::from_u128(bits)), None, "{bits:x}");
        }
    }
}
