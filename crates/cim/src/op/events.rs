//! What a subscription is answered with: a source of events that is asked, and never pushes.

use std::fmt;
use std::time::Duration;

use super::Row;

/// The events of one subscription, made when they are asked for.
///
/// A source keeps what it has told, not what it has yet to tell: when it is asked, it compares. So a subscriber who is slow
/// costs no more than one who is quick. He is told of fewer steps in between, and never a wrong end.
pub trait Events: Send + fmt::Debug {
    /// What has happened since the last call; empty if nothing has, or if it is too early to say so. `now` is the caller's clock, which never goes backwards. What does not fit into one answer follows with the next
    /// call.
    fn take(&mut self, now: Duration) -> Vec<Row>;

    /// When asking again may be worth it although nothing has happened in between, if the last answer was that it is too
    /// early.
    fn due(&self) -> Option<Duration>;

    /// The properties of an event that are wanted, in their canonical case; `None` for all.
    fn projection(&self) -> Option<&[String]>;
}
