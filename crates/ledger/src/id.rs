//! Identities. Each kind of thing has its own type, so that a snapshot cannot be passed where a machine is meant.
//!
//! All of them are GUIDs, because the namespace shows them as such. They are printed in upper case, as Hyper-V does,
//! and compared as numbers, so the case a client sends does not matter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:X}", self.0.as_hyphenated())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            /// Accepts the hyphenated form in either case.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    )*};
}

ids! {
    /// A virtual machine; `Msvm_ComputerSystem.Name`.
    VmId;
    /// A snapshot; the GUID in its setting data's `InstanceID`.
    SnapshotId;
    /// One disk image file: a base or an overlay.
    LayerId;
    /// A saved memory image with its device state.
    MemoryId;
    /// A job; `Msvm_ConcreteJob.InstanceID`.
    JobId;
    /// A device slot of a machine: controller, drive, network adapter. The same in the machine and in its snapshots.
    DeviceId;
}

/// Gives out identities from a seed.
///
/// The ledger has no randomness of its own: each request arrives with 128 random bits, and everything created on its
/// behalf derives from them, so a simulation with the same seeds creates the same world.
#[derive(Clone, Debug)]
pub struct IdSource {
    state: u128,
}

impl IdSource {
    /// A source that will always give the same sequence for the same `seed`.
    pub fn new(seed: u128) -> Self {
        Self { state: seed }
    }

    /// The next identity, a version 4 GUID. Wrap it: `VmId(ids.next_uuid())`.
    pub fn next_uuid(&mut self) -> Uuid {
        let high = self.next_word();
        let low = self.next_word();
        uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes()).into_uuid()
    }

    /// One round of SplitMix, over both halves of the state so that no bit of the seed is lost.
    fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let [a, b] = [(self.state >> 64) & u128::from(u64::MAX), self.state & u128::from(u64::MAX)];
        let mix = |x: u128| {
            let mut z = u64::try_from(x).expect("masked to 64 bits above");
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        mix(a).rotate_left(32) ^ mix(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_repeatable_distinct_and_well_formed() {
        let draw = |seed| {
            let mut ids = IdSource::new(seed);
            (0..1000).map(|_| ids.next_uuid()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        let distinct: std::collections::BTreeSet<_> = [draw(7), draw(8), draw(1 << 100)].concat().into_iter().collect();
        assert_eq!(distinct.len(), 3000);
        assert!(distinct.iter().all(|id| id.get_version_num() == 4));
    }

    #[test]
    fn ids_print_in_upper_case_and_read_in_any() {
        let id: VmId = "0a1b2c3d-0000-4000-8000-00000000abcd".parse().unwrap();
        assert_eq!(id.to_string(), "0A1B2C3D-0000-4000-8000-00000000ABCD");
        assert_eq!(id.to_string().parse::<VmId>().unwrap(), id);
    }
}
