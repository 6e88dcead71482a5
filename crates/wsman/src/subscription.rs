//! Subscriptions: who follows which events, and until when.
//!
//! ```text
//!   insert ──▶ open ──look──▶ open        events, or none yet: the caller looks again when something may have happened
//!               ├─renew────▶ open
//!               ├─unsubscribe, release ──▶ (gone)
//!               └─expired ───────────────▶ (gone)
//! ```
//!
//! A subscription holds a source of events that is asked when a client pulls ([`cim::op::Events`]). Nothing is queued for a client
//! who does not pull, so nothing overflows; the source decides what he is told when he comes back.
//!
//! The identifier of a subscription is also the context to pull with: 128 random bits, which work only for the principal that
//! subscribed. Two pulls at a time share the events between them. Events of a reply that is lost on the way are lost with it.
//!
//! Where a client does not say how long a subscription is to live, it lives as long as it is used: [`DEFAULT_LIFETIME`] from
//! the last pull. One who says gets what he says, up to [`MAX_LIFETIME`], and renews. An open subscription is a promise, so a client
//! that has too many is refused another, where enumerations that nobody reads are dropped.

use crate::enumeration::{Allowance, Enumeration, Form};
use crate::fault::{Fault, Kind};
use crate::request::Lifetime;
use cim::op::{Events, Rows};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a subscription lives that nobody uses, if its client did not say. Clients pull at least once a minute.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// The longest life that is granted before it must be renewed.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Subscriptions of one principal. A management tool has one for each class it shows.
pub const MAX_PER_PRINCIPAL: usize = 100;
/// Subscriptions in all. Each may keep alive an old state of the provider.
pub const MAX_SUBSCRIPTIONS: usize = 1_000;

/// What a look brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Events, written out.
    Events(String),
    /// None yet. Not before something happens is it worth looking again, or at this time.
    Nothing(Duration),
}

/// The open subscriptions of all principals.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    open: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    principal: String,
    lifetime: Lifetime,
    expires: Duration,
    source: Arc<Mutex<Source>>,
}

/// Where events come from, and those that did not fit into the last reply.
#[derive(Debug)]
struct Source {
    events: Box<dyn Events>,
    form: Form,
    rest: Option<Enumeration>,
}

impl Subscriptions {
    /// Keeps a subscription under a fresh, unguessable name; returns how long it lives.
    pub fn insert(
        &self,
        name: String,
        principal: &str,
        events: Box<dyn Events>,
        (form, lifetime): (Form, Lifetime),
        now: Duration,
    ) -> Result<Duration, Fault> {
        let mut open = self.lock();
        open.retain(|_, entry| entry.expires > now);
        let own = open.values().filter(|entry| entry.principal == principal).count();
        if own >= MAX_PER_PRINCIPAL || open.len() >= MAX_SUBSCRIPTIONS {
            let reason = format!("{own} subscriptions are open; end one with Unsubscribe, or wait until one expires");
            return Err(Fault::new(Kind::QuotaLimit, reason));
        }
        let source = Arc::new(Mutex::new(Source { events, form, rest: None }));
        let granted = granted(lifetime);
        open.insert(name, Entry { principal: principal.to_owned(), lifetime, expires: now + granted, source });
        Ok(granted)
    }

    /// Whether there is such a subscription.
    pub fn knows(&self, name: &str, principal: &str, now: Duration) -> bool {
        find(&mut self.lock(), name, principal, now).is_some()
    }

    /// What there is to tell.
    pub fn look(&self, name: &str, principal: &str, allowance: Allowance, now: Duration) -> Result<Look, Fault> {
        let (source, expires) = {
            let mut open = self.lock();
            let entry = find(&mut open, name, principal, now).ok_or_else(over)?;
            if entry.lifetime == Lifetime::Used {
                entry.expires = now + DEFAULT_LIFETIME;
            }
            (Arc::clone(&entry.source), entry.expires)
        };
        // Events are made without the lock on the table. A panic in between loses some and does no other harm.
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match source.take(allowance, now)? {
            Some(items) => Look::Events(items),
            None => Look::Nothing(source.events.due().map_or(expires, |due| due.min(expires))),
        })
    }

    /// Gives it a new lifetime; returns what is granted.
    pub fn renew(&self, name: &str, principal: &str, lifetime: Lifetime, now: Duration) -> Option<Duration> {
        let mut open = self.lock();
        let entry = find(&mut open, name, principal, now)?;
        let granted = granted(lifetime);
        (entry.lifetime, entry.expires) = (lifetime, now + granted);
        Some(granted)
    }

    /// How long it still lives.
    pub fn left(&self, name: &str, principal: &str, now: Duration) -> Option<Duration> {
        find(&mut self.lock(), name, principal, now).map(|entry| entry.expires.saturating_sub(now))
    }

    /// Ends it; whether there was one.
    pub fn end(&self, name: &str, principal: &str, now: Duration) -> bool {
        let mut open = self.lock();
        find(&mut open, name, principal, now).is_some() && open.remove(name).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Nothing under the lock can leave the table half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    /// The next events, as many as may be. One that can never fit is reported and dropped.
    fn take(&mut self, allowance: Allowance, now: Duration) -> Result<Option<String>, Fault> {
        loop {
            let mut rest = match self.rest.take() {
                Some(rest) => rest,
                None => {
                    let rows = self.events.take(now);
                    if rows.is_empty() {
                        return Ok(None);
                    }
                    let projection = self.events.projection().map(<[String]>::to_vec);
                    Enumeration::new(Rows::new(rows.into_iter().map(Ok)).with_projection(projection), self.form)
                }
            };
            let page = rest.take(allowance);
            if !page.as_ref().is_ok_and(|page| page.is_last) {
                self.rest = Some(rest);
            }
            // After one that was dropped there may be nothing left of the rest.
            match page? {
                page if page.items.is_empty() => {}
                page => return Ok(Some(page.items)),
            }
        }
    }
}

/// A subscription of someone else is as unknown as one that never was.
fn find<'a>(open: &'a mut HashMap<String, Entry>, name: &str, principal: &str, now: Duration) -> Option<&'a mut Entry> {
    open.get_mut(name).filter(|entry| entry.principal == principal && entry.expires > now)
}

fn over() -> Fault {
    Fault::new(Kind::InvalidContext, "the subscription has ended; subscribe again")
}

fn granted(lifetime: Lifetime) -> Duration {
    match lifetime {
        Lifetime::Used => DEFAULT_LIFETIME,
        Lifetime::For(duration) => duration.min(MAX_LIFETIME),
    }
}
