//! Pulls that wait for events, and what else there is to say about subscriptions.
//!
//! ```text
//!   handle ──▶ Step::Follow(pull)
//!                 └─▶ look ──▶ Progress::Reply         events, an end, or the client's patience is over
//!                      ▲  └──▶ Progress::Waiting(until)
//!                      └── something happened, a subscription ended, or it is that time
//! ```
//! A pull that waits is nothing but a value of the caller's: the server holds nothing for it, so it may be dropped when the client goes away.

use super::{HttpReply, Server, allowance};
use crate::fault::{Fault, Kind};
use crate::reply::{self, Head};
use crate::request::{Terms, Wish};
use crate::subscription::Look;
use cim::op::Events;
use std::time::Duration;

use crate::enumeration::{Form, Mode};

/// The longest a pull waits, however patient the client. A client that has gone away without a word is not noticed before.
pub const MAX_WAIT: Duration = Duration::from_secs(300);

/// A pull on a subscription.
#[derive(Debug)]
pub struct Pull {
    pub(super) head: Head,
    pub(super) context: String,
    pub(super) principal: String,
    pub(super) rows: usize,
    pub(super) deadline: Duration,
}

/// How far a pull has come.
#[derive(Debug)]
pub enum Progress {
    /// Send this.
    Reply(HttpReply),
    /// Look again when something has happened, but not later than this.
    Waiting(Duration),
}

impl Server {
    /// Looks for events. Call it at once, then whenever there may be some, and at the time it says.
    pub fn look(&self, pull: &Pull, now: Duration) -> Progress {
        let Pull { head, context, principal, .. } = pull;
        let allowance = allowance(head, pull.rows, &reply::page(head, context, "", false));
        Progress::Reply(match self.subscriptions.look(context, principal, allowance, now) {
            Ok(Look::Events(items)) => self.finish(head, reply::page(head, context, &items, false)),
            Ok(Look::Nothing(until)) if now < pull.deadline => return Progress::Waiting(until.min(pull.deadline)),
            Ok(Look::Nothing(_)) => {
                self.refuse(head, &Fault::new(Kind::TimedOut, "no event happened in this time; pull again"))
            }
            Err(fault) => self.refuse(head, &fault),
        })
    }

    /// The reply to a pull when the server stops.
    pub fn stop(&self, pull: &Pull) -> HttpReply {
        self.refuse(&pull.head, &Fault::new(Kind::Unavailable, "the service is stopping; subscribe again when it runs"))
    }

    /// The reply to Subscribe.
    pub(super) fn subscribe(
        &self,
        head: &Head,
        (context, principal): (String, &str),
        terms: &Terms,
        events: Box<dyn Events>,
        now: Duration,
    ) -> Result<String, Fault> {
        let form = (Form { mode: Mode::Object, style: terms.style }, terms.lifetime);
        let lifetime = self.subscriptions.insert(context.clone(), principal, events, form, now)?;
        Ok(reply::subscribed(head, &context, terms, lifetime))
    }

    /// The reply to what a client wants for its subscription.
    pub(super) fn manage(
        &self,
        head: &Head,
        (name, principal): (&str, &str),
        wish: Wish,
        now: Duration,
    ) -> Result<String, Fault> {
        let unknown = |kind| {
            move || {
                Fault::new(kind, "the header names no subscription (e:Identifier), or one that is unknown or has ended")
            }
        };
        match wish {
            Wish::Renew(lifetime) => {
                let granted = self.subscriptions.renew(name, principal, lifetime, now);
                granted.map(|left| reply::lifetime(head, left)).ok_or_else(unknown(Kind::UnableToRenew))
            }
            Wish::GetStatus => {
                let left = self.subscriptions.left(name, principal, now);
                left.map(|left| reply::lifetime(head, left)).ok_or_else(unknown(Kind::UnknownSubscription))
            }
            Wish::Unsubscribe => {
                let ended = self.subscriptions.end(name, principal, now).then(|| reply::released(head));
                ended.ok_or_else(unknown(Kind::UnknownSubscription))
            }
        }
    }
}
