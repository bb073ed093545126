//! When a pool is left alone, and how it is taken back. Pure: time comes in.
//!
//! ```text
//!  Closed ──failures in a row, or "open at once"──▶ Open(until) ──time──▶ HalfOpen(probes)
//!    ▲                                                ▲                        │
//!    └───────────────── every probe succeeded ────────┼── one probe failed ────┘
//! ```

use std::time::Duration;

use rand::{Rng, RngExt};
use schemas::Micros;

use crate::config::BreakerConfig;

/// A pool's breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    /// Times it opened without closing in between; doubles the wait.
    trips: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Micros },
    HalfOpen { sent: u32, succeeded: u32, since: Micros },
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, trips: 0 }
    }
}

impl Breaker {
    /// Whether a job may go there now.
    pub fn admits(&self, config: &BreakerConfig, now: Micros) -> bool {
        match &self.state {
            State::Closed { .. } => true,
            State::Open { until } => now >= *until,
            // A probe whose outcome never came must not close the way for ever.
            State::HalfOpen { sent, since, .. } => {
                *sent < config.probes || now.since(*since) > config.open_max
            }
        }
    }

    /// Whether it is anything but closed.
    pub fn is_tripped(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// A job was sent there.
    pub fn sent(&mut self, config: &BreakerConfig, now: Micros) {
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { .. } => self.state = State::HalfOpen { sent: 1, succeeded: 0, since: now },
            State::HalfOpen { sent, since, .. } => {
                if now.since(*since) > config.open_max {
                    (*sent, *since) = (0, now);
                }
                *sent += 1;
            }
        }
    }

    /// A job sent there was not taken: it says nothing about the provider.
    pub fn unsent(&mut self) {
        if let State::HalfOpen { sent, .. } = &mut self.state {
            *sent = sent.saturating_sub(1);
        }
    }

    /// Jobs there succeeded.
    pub fn succeeded(&mut self, config: &BreakerConfig, count: u64) {
        match &mut self.state {
            State::Closed { failures } => *failures = 0,
            // Late news of jobs sent before it opened.
            State::Open { .. } => {}
            State::HalfOpen { succeeded, .. } => {
                *succeeded = succeeded.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
                if *succeeded >= config.probes {
                    *self = Self::default();
                }
            }
        }
    }

    /// A job there failed in a way that counts. True when this opened the breaker.
    pub fn failed(&mut self, config: &BreakerConfig, now: Micros, rng: &mut impl Rng) -> bool {
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < config.consecutive_failures {
                    return false;
                }
                self.open(config, now, rng);
                true
            }
            State::Open { .. } => false,
            State::HalfOpen { .. } => {
                self.open(config, now, rng);
                true
            }
        }
    }

    /// Opens at once: a wrong key does not get better by trying.
    pub fn open(&mut self, config: &BreakerConfig, now: Micros, rng: &mut impl Rng) {
        let span = config.open_for.saturating_mul(1 << self.trips.min(16)).min(config.open_max);
        // Up to a quarter more, so that N dispatchers do not probe together.
        let jitter = rng.random_range(0..=schemas::time::micros(span) / 4);
        self.trips = self.trips.saturating_add(1);
        self.state = State::Open { until: now + span + Duration::from_micros(jitter) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    fn at(seconds: u64) -> Micros {
        Micros::new(seconds * 1_000_000)
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_probes_close_it() {
        let (config, mut rng, mut breaker) =
            (BreakerConfig::default(), StdRng::seed_from_u64(1), Breaker::default());
        for _ in 0..4 {
            assert!(!breaker.failed(&config, at(0), &mut rng));
        }
        assert!(breaker.failed(&config, at(0), &mut rng));
        assert!(!breaker.admits(&config, at(4)));
        assert!(breaker.admits(&config, at(7)));
        for _ in 0..config.probes {
            assert!(breaker.admits(&config, at(7)));
            breaker.sent(&config, at(7));
        }
        assert!(!breaker.admits(&config, at(7)));
        breaker.succeeded(&config, u64::from(config.probes));
        assert!(!breaker.is_tripped());
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let (config, mut rng, mut breaker) =
            (BreakerConfig::default(), StdRng::seed_from_u64(1), Breaker::default());
        for _ in 0..20 {
            for _ in 0..4 {
                assert!(!breaker.failed(&config, at(0), &mut rng));
            }
            breaker.succeeded(&config, 1);
        }
    }

    proptest! {
        #[test]
        fn it_never_stays_shut_longer_than_its_limit(news in proptest::collection::vec(0..5u8, 0..200), seed: u64) {
            let (config, mut rng, mut breaker) = (BreakerConfig::default(), StdRng::seed_from_u64(seed), Breaker::default());
            let mut now = 1;
            for n in news {
                now += 1;
                match n {
                    0 => drop(breaker.failed(&config, at(now), &mut rng)),
                    1 => breaker.succeeded(&config, 1),
                    2 => breaker.open(&config, at(now), &mut rng),
                    3 if breaker.admits(&config, at(now)) => breaker.sent(&config, at(now)),
                    _ => breaker.unsent(),
                }
                prop_assert!(breaker.admits(&config, at(now) + config.open_max * 2));
            }
        }
    }
}
