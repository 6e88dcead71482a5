//! How many connections there may be, and whose: nobody can take the places of others by opening many.
//!
//! ```text
//!   stranger ──▶ strangers: few, short; whoever crowds the room loses his oldest place to the next one
//!      │ let in
//!      ▼
//!   guest ─────▶ many, with a limit for each user; a full house refuses
//!
//!   owner ─────▶ the daemon's own user and root, on this host: places of their own that nobody else can fill
//! ```
//! A stranger is never refused for want of a place: the oldest place of his own source goes if that has its share, else
//! the oldest of the source that has the most. So many half-open connections from one address cost those from others nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Connections at a time that nobody has been let in on. Each costs at most a head's buffer and the time limit of [`crate::listen`].
pub const STRANGERS_MAX: usize = 128;
/// The same from one source: clients behind one address that connect at once.
pub const STRANGERS_OF_SOURCE_MAX: usize = 32;
/// Connections of users.
const GUESTS_MAX: usize = 256;
/// The same of one user: a tool that asks in parallel, some times over.
const GUESTS_OF_USER_MAX: usize = 64;
/// Connections of the daemon's own user and root on this host.
const OWNERS_MAX: usize = 128;

/// What connections have in common when one program or person opens many.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A user of this host.
    Uid(u32),
    /// Somebody on this host, who was gone before we could ask whom.
    ThisHost,
    /// Another host; of IPv6 the first 64 bits, since a host has all the rest.
    Host(IpAddr),
}

impl Source {
    /// That of an address beyond this host.
    pub fn host(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::Host(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            address @ IpAddr::V4(_) => Self::Host(address),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::ThisHost => f.write_str("this host"),
            Self::Host(address @ IpAddr::V4(_)) => write!(f, "{address}"),
            Self::Host(address @ IpAddr::V6(_)) => write!(f, "{address}/64"),
        }
    }
}

/// The places of all listeners. Clones are the same places.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// Oldest first.
    strangers: VecDeque<Stranger>,
    guests: BTreeMap<String, usize>,
    guests_count: usize,
    owners: usize,
}

#[derive(Debug)]
struct Stranger {
    ticket: u64,
    source: Source,
    leave: Arc<Notify>,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    held: Held,
    leave: Arc<Notify>,
}

#[derive(Debug)]
enum Held {
    Stranger(u64),
    Guest(String),
    Owner,
}

/// There is no place.
#[derive(Debug, thiserror::Error)]
#[error("too many connections are open")]
pub struct Full;

impl Places {
    /// A place for somebody who is not known yet.
    pub fn stranger(&self, source: Source) -> Place {
        let mut table = self.lock();
        table.make_room(&source);
        let ticket = table.next;
        table.next += 1;
        let leave = Arc::new(Notify::new());
        table.strangers.push_back(Stranger { ticket, source, leave: Arc::clone(&leave) });
        Place { places: self.clone(), held: Held::Stranger(ticket), leave }
    }

    /// A place for the daemon's own user or root.
    ///
    /// # Errors
    /// When they have too many themselves.
    pub fn owner(&self) -> Result<Place, Full> {
        let mut table = self.lock();
        if table.owners >= OWNERS_MAX {
            return Err(Full);
        }
        table.owners += 1;
        Ok(Place { places: self.clone(), held: Held::Owner, leave: Arc::default() })
    }

    /// How many there are, for tests of what has been given back.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize, usize) {
        let table = self.lock();
        (table.strangers.len(), table.guests_count, table.owners)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Counters, changed in one go.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The stranger is known now, and his place becomes one of `user`. Does nothing for others.
    ///
    /// # Errors
    /// When the user has too many, or all have.
    pub fn admit(&mut self, user: &str) -> Result<(), Full> {
        let Held::Stranger(ticket) = self.held else { return Ok(()) };
        let mut table = self.places.lock();
        let count = table.guests.get(user).copied().unwrap_or(0);
        if count >= GUESTS_OF_USER_MAX || table.guests_count >= GUESTS_MAX {
            return Err(Full);
        }
        table.strangers.retain(|stranger| stranger.ticket != ticket);
        table.guests.insert(user.to_owned(), count + 1);
        table.guests_count += 1;
        drop(table);
        self.held = Held::Guest(user.to_owned());
        Ok(())
    }

    /// Told when a stranger's place is needed for another; for whoever waits with the connection.
    pub fn leave(&self) -> Arc<Notify> {
        Arc::clone(&self.leave)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.lock();
        match &self.held {
            Held::Stranger(ticket) => table.strangers.retain(|stranger| stranger.ticket != *ticket),
            Held::Owner => table.owners -= 1,
            Held::Guest(user) => {
                table.guests_count -= 1;
                if let Some(count) = table.guests.get_mut(user) {
                    *count -= 1;
                    if *count == 0 {
                        table.guests.remove(user);
                    }
                }
            }
        }
    }
}

impl Table {
    /// Sends somebody away if a newcomer from `source` would be one too many.
    fn make_room(&mut self, source: &Source) {
        let of = |table: &Self, source: &Source| table.strangers.iter().filter(|other| other.source == *source).count();
        let crowded = if of(self, source) >= STRANGERS_OF_SOURCE_MAX {
            source.clone()
        } else if self.strangers.len() >= STRANGERS_MAX {
            let mut counts = BTreeMap::<&Source, usize>::new();
            for stranger in &self.strangers {
                *counts.entry(&stranger.source).or_default() += 1;
            }
            let Some((source, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return };
            source.clone()
        } else {
            return;
        };
        if let Some(at) = self.strangers.iter().position(|stranger| stranger.source == crowded)
            && let Some(stranger) = self.strangers.remove(at)
        {
            stranger.leave.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Source {
        Source::host(IpAddr::from([192, 0, 2, last]))
    }

    /// Whether the connection at this place has been told to go.
    async fn must_go(place: &Place) -> bool {
        tokio::select! {
            biased;
            () = place.leave.notified() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn who_crowds_the_room_loses_his_own_oldest_place() {
        let places = Places::default();
        let quiet = places.stranger(host(99));
        let mut noisy: Vec<_> = (0..STRANGERS_OF_SOURCE_MAX).map(|_| places.stranger(host(1))).collect();
        noisy.push(places.stranger(host(1)));
        assert!(must_go(&noisy[0]).await && !must_go(&noisy[1]).await);
        for address in 2..40 {
            noisy.extend((0..8).map(|_| places.stranger(host(address))));
        }
        assert_eq!(places.counts().0, STRANGERS_MAX);
        assert!(!must_go(&quiet).await, "one connection is never the most");
        drop(noisy);
        assert_eq!(places.counts().0, 1);
    }

    #[tokio::test]
    async fn each_has_his_share() {
        let places = Places::default();
        let fill = |user: &str, wanted: usize| {
            let mut taken = Vec::new();
            for _ in 0..wanted {
                let mut place = places.stranger(host(1));
                if place.admit(user).is_err() {
                    break;
                }
                taken.push(place);
            }
            taken
        };
        let first = fill("alice", 1000);
        assert_eq!((first.len(), places.counts()), (GUESTS_OF_USER_MAX, (0, GUESTS_OF_USER_MAX, 0)));
        let others: Vec<_> = (0..20).map(|number| fill(&number.to_string(), 1000)).collect();
        assert_eq!(places.counts().1, GUESTS_MAX);
        let owners: Vec<_> = std::iter::from_fn(|| places.owner().ok()).collect();
        assert_eq!(owners.len(), OWNERS_MAX, "nobody else can fill these");
        drop((first, others, owners));
        assert_eq!(places.counts(), (0, 0, 0));
        assert_eq!(fill("alice", 1).len(), 1);
    }

    #[test]
    fn a_source_is_what_one_person_has() {
        let show = |address: &str| Source::host(address.parse().unwrap()).to_string();
        assert_eq!(show("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(show("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }
}
