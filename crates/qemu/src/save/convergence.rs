//! Whether a live save will come to its end, and what to do if not: pure arithmetic on what `query-migrate` tells.
//!
//! QEMU writes all memory once (the first pass), then again and again what the guest has written meanwhile, until so little is
//! left that the rest fits into the permitted pause. If passes do not get shorter it slows the guest's processors down
//! (`auto-converge`), which nearly always ends it. We give up when the passes after the first have taken
//! [`PATIENCE_FIRST_PASSES`] times as long as the first and at least [`PATIENCE_US`], or nothing was written for [`STALL_US`].
//!
//! Not used: `dirty-pages-rate` and `expected-downtime`, which stay at their initial values until a pass takes a second.

use serde_json::Value;

use super::Method;
use crate::procedure::Micros;

/// The worst guest we could write, slowed down, was done after less than twice the first pass; this is for worse ones.
pub const PATIENCE_FIRST_PASSES: u64 = 4;
/// A small machine's first pass takes a tenth of a second, too short to judge anything by.
pub const PATIENCE_US: u64 = 10_000_000;
/// Disks on networks come back after half a minute, or not at all.
pub const STALL_US: u64 = 30_000_000;
/// If stopping the guest for the rest takes no longer than this, it is better than starting all over: about what a background
/// snapshot's pause may be on a machine with some gigabytes.
pub const STOP_US_MAX: u64 = 250_000;

/// One look at a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes written so far.
    pub transferred: u64,
    /// Pages seen so far, written or found zero.
    pub pages: u64,
    /// Bytes known to be left.
    pub remaining: u64,
    /// Bytes of memory in all.
    pub total: u64,
    /// Bytes a second that are written.
    pub rate: u64,
    /// Number of the pass, from 1.
    pub pass: u64,
    /// By how many percent the guest's processors are slowed down.
    pub throttle: u64,
}

impl Sample {
    /// From an answer to `query-migrate`. What is missing counts as zero.
    pub fn read(answer: &Value) -> Self {
        let ram = answer.get("ram");
        let number = |name: &str| ram.and_then(|ram| ram.get(name)).and_then(Value::as_u64).unwrap_or(0);
        // QEMU reports the rate as a decimal number of megabits; whole ones will do.
        let megabits = ram.and_then(|ram| ram.get("mbps")).and_then(Value::as_f64).unwrap_or(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
        let megabits = megabits.clamp(0.0, f64::from(u32::MAX)) as u64;
        Self {
            transferred: number("transferred"),
            pages: number("normal").saturating_add(number("duplicate")),
            remaining: number("remaining"),
            total: number("total"),
            rate: megabits * 125_000,
            pass: number("dirty-sync-count"),
            throttle: answer.get("cpu-throttle-percentage").and_then(Value::as_u64).unwrap_or(0),
        }
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may still end.
    GoOn,
    /// It will not; for people.
    GiveUp(&'static str),
}

/// Judges one live save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Convergence {
    began: Micros,
    first_pass_end: Option<Micros>,
    pages: u64,
    moved: Micros,
}

impl Convergence {
    /// A save that begins now.
    pub fn new(now: Micros) -> Self {
        Self { began: now, first_pass_end: None, pages: 0, moved: now }
    }

    /// Takes a look into account.
    pub fn judge(&mut self, sample: &Sample, now: Micros) -> Verdict {
        if sample.pages != self.pages {
            self.pages = sample.pages;
            self.moved = now;
        }
        if now.saturating_sub(self.moved) >= STALL_US {
            return Verdict::GiveUp("nothing was written for 30 seconds");
        }
        if sample.pass < 2 {
            return Verdict::GoOn;
        }
        let first_pass_end = *self.first_pass_end.get_or_insert(now);
        let first_pass = first_pass_end.saturating_sub(self.began);
        let patience = first_pass.saturating_mul(PATIENCE_FIRST_PASSES).max(PATIENCE_US);
        if now.saturating_sub(first_pass_end) >= patience {
            return Verdict::GiveUp("the guest writes memory faster than the disk takes it, even when slowed down");
        }
        Verdict::GoOn
    }
}

/// The way to take when a live save does not end: stop the guest and write the rest, or start all over in the background.
pub fn last_resort(sample: &Sample, background: bool) -> Method {
    let stop_us = sample.remaining.saturating_mul(1_000_000).checked_div(sample.rate).unwrap_or(u64::MAX);
    if background && stop_us > STOP_US_MAX { Method::Background } else { Method::Stopped }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECOND: u64 = 1_000_000;

    /// Looks at (seconds, pages, pass), and when it gives up.
    fn check(looks: &[(u64, u64, u64)], expected: Option<u64>) {
        let mut convergence = Convergence::new(0);
        let gave_up = looks.iter().find(|(seconds, pages, pass)| {
            let sample = Sample { pages: *pages, pass: *pass, ..Sample::default() };
            convergence.judge(&sample, seconds * SECOND) != Verdict::GoOn
        });
        assert_eq!(gave_up.map(|look| look.0), expected, "{looks:?}");
    }

    #[test]
    fn patience_depends_on_the_first_pass() {
        check(&[(1, 1, 1), (2, 2, 2), (11, 3, 9), (12, 4, 10)], Some(12));
        check(&[(10, 1, 1), (20, 2, 2), (40, 3, 5), (60, 4, 8), (85, 5, 9), (100, 6, 12)], Some(100));
    }

    #[test]
    fn a_first_pass_may_take_any_time_as_long_as_it_moves() {
        check(&[(1, 1, 1), (25, 2, 1), (50, 3, 1), (75, 4, 1)], None);
        check(&[(1, 1, 1), (25, 1, 1), (31, 1, 1)], Some(31));
    }

    #[test]
    fn the_last_resort_is_the_shorter_stop() {
        let sample = |remaining| Sample { remaining, rate: 1_000_000_000, ..Sample::default() };
        assert_eq!(last_resort(&sample(200_000_000), true), Method::Stopped);
        assert_eq!(last_resort(&sample(900_000_000), true), Method::Background);
        assert_eq!(last_resort(&sample(900_000_000), false), Method::Stopped);
        assert_eq!(last_resort(&Sample::default(), true), Method::Background);
    }

    #[test]
    fn samples_are_read_from_what_is_there() {
        let ram =
            json!({ "normal": 3, "duplicate": 4, "remaining": 5, "total": 6, "mbps": 8.9, "dirty-sync-count": 2 });
        let sample = Sample::read(&json!({ "ram": ram, "cpu-throttle-percentage": 80 }));
        assert_eq!((sample.pages, sample.rate, sample.pass, sample.throttle), (7, 1_000_000, 2, 80));
        assert_eq!(Sample::read(&json!({ "ram": { "mbps": -1e300 } })), Sample::default());
        assert_eq!(Sample::read(&json!(null)), Sample::default());
    }
}
