//! Durations of one thing done several times.

use std::time::Duration;

/// What was measured, in the order of the rounds.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the middle two.
    pub fn median(&self) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort();
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
        Some((lower + upper) / 2)
    }

    /// The longest.
    pub fn worst(&self) -> Option<Duration> {
        self.0.iter().max().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_worst() {
        #[track_caller]
        fn check(milliseconds: &[u64], expected: Option<(u64, u64)>) {
            let samples = Samples(milliseconds.iter().copied().map(Duration::from_millis).collect());
            let expected =
                expected.map(|(median, worst)| (Duration::from_millis(median), Duration::from_millis(worst)));
            assert_eq!(samples.median().zip(samples.worst()), expected);
        }
        check(&[], None);
        check(&[7], Some((7, 7)));
        check(&[9, 1, 5], Some((5, 9)));
        check(&[4, 10, 2, 6], Some((5, 10)));
    }
}
