//! How many attempts may be repeats: a share of the first attempts and a few per second. Pure.
//!
//! When a provider fails, every job that it ran wants another attempt elsewhere. Without a bound, the retries of one outage are
//! the load that causes the next. Beyond the budget a job waits (Finagle's `RetryBudget`: 10 % over 10 s, and a floor for
//! services with little traffic).

use std::time::Duration;

use schemas::Micros;

/// The longest window in seconds. Each second has a bucket.
pub const WINDOW_MAX: usize = 60;

/// How many retries are allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryConfig {
    /// Retries per first attempt, 0 to 1.
    pub ratio: f64,
    /// Retries per second that are allowed on top.
    pub per_second: u32,
    /// The time over which both are counted; whole seconds, from 1 to [`WINDOW_MAX`].
    pub window: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { ratio: 0.1, per_second: 3, window: Duration::from_secs(10) }
    }
}

/// Attempts of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// The second, since the epoch.
    second: u64,
    first: u32,
    retries: u32,
}

/// The budget, and how much of it was used lately. Allocates nothing.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    config: RetryConfig,
    /// A ring by second, one longer than the longest window: see [`RetryBudget::left`].
    buckets: [Bucket; WINDOW_MAX + 1],
    /// The latest second. A clock that is set back must not bring back an old window.
    latest: u64,
}

impl RetryBudget {
    /// A budget of which nothing is used.
    pub fn new(config: RetryConfig) -> Self {
        Self { config, buckets: [Bucket::default(); WINDOW_MAX + 1], latest: 0 }
    }

    /// What was counted moves back with the clock, so that the window goes on.
    pub fn clock_was_set_back(&mut self, by: Duration) {
        let (by, ring, latest) = (by.as_secs(), self.buckets.len() as u64, self.latest);
        let old = std::mem::replace(&mut self.buckets, [Bucket::default(); WINDOW_MAX + 1]);
        self.latest = latest.saturating_sub(by);
        // Older ones are leftovers of an earlier round, and count no more.
        for bucket in old.into_iter().filter(|bucket| bucket.second + ring > latest) {
            let second = bucket.second.saturating_sub(by);
            let slot = usize::try_from(second % ring).expect("smaller than the ring");
            self.buckets[slot] = Bucket { second, ..bucket };
        }
    }

    /// A first attempt starts.
    pub fn first(&mut self, now: Micros) {
        let bucket = self.bucket(now);
        bucket.first = bucket.first.saturating_add(1);
    }

    /// Whether a retry may start now. If so, it is counted.
    pub fn try_retry(&mut self, now: Micros) -> bool {
        let allowed = self.left(now) > 0;
        if allowed {
            self.bucket(now).retries += 1;
        }
        allowed
    }

    /// How many retries may start now.
    ///
    /// The current second is not over, so `window` buckets cover a little less time than the window, and one more covers a little
    /// more. First attempts are counted over the shorter time and retries over the longer, so that no window that ends now has
    /// more retries than allowed.
    pub fn left(&self, now: Micros) -> u32 {
        let (now, window) = (self.second(now), self.window());
        let within =
            |seconds: u64| self.buckets.iter().filter(move |b| b.second <= now && b.second + seconds > now);
        let first: u64 = within(window).map(|b| u64::from(b.first)).sum();
        let retries: u64 = within(window + 1).map(|b| u64::from(b.retries)).sum();
        let floor = u64::from(self.config.per_second) * window;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count, rounded down; a ratio below zero saturates to none"
        )]
        let share = (first as f64 * self.config.ratio) as u64;
        u32::try_from((floor + share).saturating_sub(retries)).unwrap_or(u32::MAX)
    }

    fn window(&self) -> u64 {
        self.config.window.as_secs().clamp(1, WINDOW_MAX as u64)
    }

    fn second(&self, now: Micros) -> u64 {
        (now.get() / 1_000_000).max(self.latest)
    }

    fn bucket(&mut self, now: Micros) -> &mut Bucket {
        let second = self.second(now);
        self.latest = second;
        let slot = usize::try_from(second % self.buckets.len() as u64).expect("smaller than the ring");
        let bucket = &mut self.buckets[slot];
        if bucket.second != second {
            *bucket = Bucket { second, ..Bucket::default() };
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_window_goes_on_when_the_clock_is_set_back() {
        let at = |seconds: u64| Micros::new(seconds * 1_000_000);
        let mut budget =
            RetryBudget::new(RetryConfig { ratio: 0.0, per_second: 1, window: Duration::from_secs(10) });
        for _ in 0..10 {
            assert!(budget.try_retry(at(10_000)));
        }
        assert!(!budget.try_retry(at(10_001)));
        budget.clock_was_set_back(Duration::from_secs(3_600));
        assert!(!budget.try_retry(at(6_402)), "the same window");
        assert!(budget.try_retry(at(6_412)), "the next");
    }

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    #[test]
    fn a_quiet_service_may_retry_a_little_and_a_busy_one_a_tenth() {
        let mut budget = RetryBudget::new(RetryConfig::default());
        let granted = (0..1_000).filter(|_| budget.try_retry(NOW)).count();
        assert_eq!(granted, 30);
        let later = NOW + Duration::from_secs(11);
        (0..10_000).for_each(|_| budget.first(later));
        assert_eq!(budget.left(later), 1_030);
        assert_eq!(budget.left(later + Duration::from_secs(10)), 30, "first attempts count for ten seconds");
    }

    #[test]
    fn a_clock_that_is_set_back_grants_nothing_twice() {
        let mut budget = RetryBudget::new(RetryConfig::default());
        while budget.try_retry(NOW) {}
        assert!(!budget.try_retry(NOW - Duration::from_secs(3_600)));
        assert!(budget.try_retry(NOW + Duration::from_secs(11)));
    }

    proptest! {
        #[test]
        fn in_no_window_is_more_granted_than_its_first_attempts_allow(
            steps in prop::collection::vec((any::<bool>(), 0..1_500_000u64), 0..400),
            ratio in 0.0..1.0f64, per_second in 0..4u32, seconds in 1..13u64,
        ) {
            let window = Duration::from_secs(seconds);
            let mut budget = RetryBudget::new(RetryConfig { ratio, per_second, window });
            let (mut first, mut granted, mut now) = (Vec::new(), Vec::new(), NOW);
            for (retry, pause) in steps {
                now = now + Duration::from_micros(pause / 10);
                if !retry {
                    budget.first(now);
                    first.push(now);
                } else if budget.try_retry(now) {
                    granted.push(now);
                    let lately = |times: &[Micros]| times.iter().filter(|at| **at + window >= now).count() as f64;
                    let floor = f64::from(per_second) * window.as_secs_f64();
                    prop_assert!(lately(&granted) <= ratio * lately(&first) + floor);
                }
            }
        }
    }
}
