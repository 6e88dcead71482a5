//! Numbers that follow from a seed, for work on real guests: the generator of the simulation.
//!
//! Each round draws from a generator of its own, so that a round which draws more than before does not shift the next ones.

use std::time::Duration;

/// A generator.
#[derive(Debug, Clone)]
pub struct Random(sim::random::Random);

impl Random {
    /// The generator of one round.
    pub fn of_round(seed: u64, round: u64) -> Self {
        Self(sim::random::Random::new(seed ^ round.wrapping_mul(0xA24B_AED4_963E_E407)))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// A number below `limit`, which must not be zero. The bias of the remainder is of no matter for small limits.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several, each as often as its weight says; `None` if all weigh nothing.
    pub fn weighted<'a, T>(&mut self, items: &'a [(u64, T)]) -> Option<&'a T> {
        let total: u64 = items.iter().map(|(weight, _)| weight).sum();
        let mut left = self.below(total.max(1));
        items.iter().find_map(|(weight, item)| match left.checked_sub(*weight) {
            Some(rest) => {
                left = rest;
                None
            }
            None => Some(item),
        })
    }

    /// One of several; `None` if there are none.
    pub fn choice<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = self.below(items.len().max(1) as u64);
        usize::try_from(index).ok().and_then(|index| items.get(index))
    }

    /// Between `shortest` and `longest`, short ones more often: each doubling is as likely as any other.
    pub fn duration(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let doublings = longest.div_duration_f64(shortest).log2();
        let fraction = f64::from(u32::try_from(self.bits() >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        shortest.mul_f64((doublings * fraction).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_repeats_itself_and_no_other() {
        let draw = |seed, round| Random::of_round(seed, round).bits();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn draws_keep_to_what_is_there() {
        let mut random = Random::of_round(7, 7);
        for _ in 0..1000 {
            assert!(random.below(3) < 3);
            assert_eq!(random.weighted(&[(0, "never"), (2, "always")]), Some(&"always"));
            let (shortest, longest) = (Duration::from_millis(5), Duration::from_secs(2));
            let drawn = random.duration(shortest, longest);
            // Rounded to nanoseconds after a power of two.
            assert!(drawn >= shortest && drawn <= longest + Duration::from_micros(1), "{drawn:?}");
        }
        assert_eq!(random.choice::<u8>(&[]), None);
        assert_eq!(random.weighted::<u8>(&[]), None);
    }
}
