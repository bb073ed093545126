//! How long jobs take here, by model: what a heartbeat tells the dispatchers. Pure.

use std::{collections::VecDeque, time::Duration};

/// Jobs remembered per model. Enough for a 95th percentile, few enough to follow a change within seconds.
const WINDOW: usize = 256;

/// Recent service times of one model, cold starts excluded.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    times: VecDeque<Duration>,
}

impl Recent {
    /// Remembers one.
    pub fn add(&mut self, time: Duration) {
        if self.times.len() == WINDOW {
            self.times.pop_front();
        }
        self.times.push_back(time);
    }

    /// Median and 95th percentile (nearest rank); `expected` and twice that until there are ten.
    pub fn quantiles(&self, expected: Duration) -> (Duration, Duration) {
        if self.times.len() < 10 {
            return (expected, expected * 2);
        }
        let mut sorted: Vec<Duration> = self.times.iter().copied().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        (rank(50), rank(95))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_ranks_of_what_was_seen() {
        let mut recent = Recent::default();
        assert_eq!(
            recent.quantiles(Duration::from_secs(1)),
            (Duration::from_secs(1), Duration::from_secs(2))
        );
        for ms in 1..=100 {
            recent.add(Duration::from_millis(ms));
        }
        assert_eq!(recent.quantiles(Duration::ZERO), (Duration::from_millis(50), Duration::from_millis(95)));
        for _ in 0..WINDOW {
            recent.add(Duration::from_millis(7));
        }
        assert_eq!(recent.quantiles(Duration::ZERO), (Duration::from_millis(7), Duration::from_millis(7)));
    }
}
