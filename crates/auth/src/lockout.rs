//! Who has guessed too often: a name and where the guesses came from are kept out for a time that doubles.
//!
//! ```text
//!  attempt ─▶ counted as a failure ─▶ [the caller verifies] ─┬─ right ─▶ succeeded: forgotten
//!                                                            └─ wrong ─▶ stays counted
//! ```
//! Counting comes first so that a thousand guesses at once are no better than one after the other. Failures count for a
//! name *from a source*: a stranger elsewhere locks nobody out but himself, and on this host each local user is a source
//! of his own. Names that do not exist share one entry for each source, so inventing names fills nothing. When the table
//! is full of locks nevertheless, whoever has no entry shares one more, and no lock is forgotten for it.

use std::collections::BTreeMap;
// Addresses only; `core` has no sockets.
use core::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::context::Peer;
use crate::users::fold;

/// Entries: a hundred users guessed at from more than a hundred places, in 2 MiB.
const ENTRIES_MAX: usize = 16_384;
/// How long a full table is not searched again for entries to drop, so that a flood does not make each attempt dear.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// When somebody is kept out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Failures that are free: typing errors.
    pub failures: u32,
    /// How long the first lock lasts. Each further failure doubles it.
    pub first: Duration,
    /// How long a lock lasts at most.
    pub longest: Duration,
    /// How long after the last failure, and the end of its lock, all is forgotten.
    pub forget: Duration,
    /// Entries of the table.
    pub entries: usize,
}

impl Default for Rule {
    /// Windows' account policy has 10 free failures and locks for 10 minutes; shorter at first hurts people less, and an
    /// hour at the end leaves a guesser 24 attempts a day.
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let (first, longest, forget) = (Duration::from_secs(15), minutes(60), minutes(60));
        Self { failures: 5, first, longest, forget, entries: ENTRIES_MAX }
    }
}

/// Where an attempt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Another host. Of IPv6 the first 64 bits, since a host has all the rest.
    Host(IpAddr),
    /// A user of this host, if it is known which.
    Local(Option<u32>),
}

impl From<&Peer> for Source {
    fn from(peer: &Peer) -> Self {
        match peer.address.to_canonical() {
            _ if peer.is_loopback() => Self::Local(peer.owner),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::Host(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            address @ IpAddr::V4(_) => Self::Host(address),
        }
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Lockout {
    rule: Rule,
    /// By folded name, `None` for all that do not exist, and source.
    entries: BTreeMap<(Option<String>, Source), Entry>,
    /// Those who found no room, other than from this host.
    overflow: Entry,
    /// When a full table may be searched again.
    next_search: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    failures: u32,
    until: Duration,
}

impl Lockout {
    /// An empty table.
    pub fn new(rule: Rule) -> Self {
        Self { rule, ..Self::default() }
    }

    /// Counts an attempt, before it is known whether it is right; `name` is `None` if there is no such user. Whether it
    /// may succeed: if not, it is verified all the same, so that a lock cannot be told from a wrong password.
    #[must_use]
    pub fn attempt(&mut self, name: Option<&str>, source: Source, now: Duration) -> bool {
        let rule = self.rule;
        match self.entry(name, source, now) {
            Some(entry) => entry.attempt(rule, now),
            None => true,
        }
    }

    /// Forgets the failures of one who was let in.
    pub fn succeeded(&mut self, name: &str, source: Source) {
        self.entries.remove(&(Some(fold(name)), source));
    }

    /// The entry to count in, made if need be; `None` if there is no room for somebody on this host, who is not made to
    /// suffer for others.
    fn entry(&mut self, name: Option<&str>, source: Source, now: Duration) -> Option<&mut Entry> {
        let key = (name.map(fold), source);
        if self.entries.len() >= self.rule.entries && !self.entries.contains_key(&key) {
            if now >= self.next_search {
                self.next_search = now.saturating_add(SEARCH_INTERVAL);
                self.make_room(now);
            }
            if self.entries.len() >= self.rule.entries {
                return matches!(source, Source::Host(_)).then_some(&mut self.overflow);
            }
        }
        Some(self.entries.entry(key).or_default())
    }

    /// Drops what is over; if that is nothing, every second entry that is not locked.
    fn make_room(&mut self, now: Duration) {
        let Rule { failures, forget, entries, .. } = self.rule;
        self.entries.retain(|_, entry| now < entry.until.saturating_add(forget));
        if self.entries.len() >= entries {
            let mut odd = false;
            self.entries.retain(|_, entry| {
                odd ^= entry.failures < failures;
                entry.failures >= failures || odd
            });
        }
    }
}

impl Entry {
    /// `until` is the end of the lock, or the time of the last failure while there is none.
    fn attempt(&mut self, rule: Rule, now: Duration) -> bool {
        let is_locked = self.failures >= rule.failures && now < self.until;
        if is_locked {
            return false;
        }
        if now >= self.until.saturating_add(rule.forget) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let doublings = self.failures.saturating_sub(rule.failures);
        let lock = rule.first.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(rule.longest);
        self.until = if self.failures >= rule.failures { now.saturating_add(lock) } else { now };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn host(last: u8) -> Source {
        Source::Host(IpAddr::from([192, 0, 2, last]))
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn exhaust(lockout: &mut Lockout, name: Option<&str>, source: Source, now: u64) {
        while lockout.attempt(name, source, seconds(now)) {}
    }

    #[test]
    fn locks_double_and_end() {
        let mut lockout = Lockout::default();
        let mut attempt = |now, expected| {
            assert_eq!(lockout.attempt(Some("Alice"), host(1), seconds(now)), expected, "{now}");
        };
        for now in 100..105 {
            attempt(now, true);
        }
        // Locked for 15 s from 104, then for 30 s.
        attempt(118, false);
        attempt(119, true);
        attempt(148, false);
        attempt(149, true);
        // An hour after the end of the lock at 209 all is forgotten.
        for now in 209 + HOUR..214 + HOUR {
            attempt(now, true);
        }
        attempt(214 + HOUR, false);
    }

    #[test]
    fn a_lock_has_a_longest_time() {
        let mut lockout = Lockout::default();
        let mut now = 1;
        for _ in 0..100 {
            while !lockout.attempt(Some("alice"), host(1), seconds(now)) {
                now += HOUR;
            }
        }
        assert!(lockout.attempt(Some("alice"), host(1), seconds(now + HOUR)));
    }

    #[test]
    fn success_forgets() {
        let mut lockout = Lockout::default();
        for _ in 0..100 {
            assert!(lockout.attempt(Some("alice"), host(1), seconds(1)));
            lockout.succeeded("ALICE", host(1));
        }
    }

    #[test]
    fn a_stranger_locks_out_only_himself() {
        let mut lockout = Lockout::default();
        exhaust(&mut lockout, Some("root"), host(1), 1);
        exhaust(&mut lockout, Some("root"), Source::Local(Some(1000)), 1);
        for other in [host(2), Source::Local(Some(0)), Source::Local(None)] {
            assert!(lockout.attempt(Some("root"), other, seconds(1)), "{other:?}");
        }
        assert!(!lockout.attempt(Some("Root"), host(1), seconds(1)));
    }

    #[test]
    fn a_flood_neither_grows_the_table_nor_frees_anybody() {
        let mut lockout = Lockout::new(Rule { entries: 64, ..Rule::default() });
        let other = |index: u16| {
            Source::Host(IpAddr::from([
                198,
                18,
                u8::try_from(index / 256).unwrap(),
                u8::try_from(index % 256).unwrap(),
            ]))
        };
        exhaust(&mut lockout, Some("alice"), host(1), 1);
        for index in 0..1000 {
            let _ = lockout.attempt(Some("bob"), other(index), seconds(u64::from(index)));
        }
        assert!(lockout.entries.len() <= 64);
        assert!(!lockout.attempt(Some("alice"), host(1), seconds(1)));

        // Now a table of nothing but locks.
        for index in 0..1000 {
            exhaust(&mut lockout, Some("bob"), other(index), 1000 + u64::from(index));
        }
        let now = seconds(2000);
        assert_eq!(lockout.entries.len(), 64);
        assert!(!lockout.attempt(Some("carol"), host(99), now), "shares the overflow");
        assert!(lockout.attempt(Some("alice"), Source::Local(Some(0)), now), "this host does not");
        assert!(lockout.attempt(Some("carol"), host(99), seconds(4 * HOUR)), "room again");
    }

    #[test]
    fn sources_are_told_apart() {
        let check = |address: &str, owner, expected| {
            let peer = Peer { address: address.parse().unwrap(), owner, tls: None };
            assert_eq!(Source::from(&peer), expected, "{address}");
        };
        check("127.0.0.5", Some(7), Source::Local(Some(7)));
        check("::1", None, Source::Local(None));
        check("::ffff:127.0.0.1", Some(1), Source::Local(Some(1)));
        check("::ffff:192.0.2.9", None, host(9));
        check("2001:db8:1:2:3:4:5:6", None, Source::Host("2001:db8:1:2::".parse().unwrap()));
    }
}
