//! When a model at a pool is left alone because it fails, and how it is taken back. Pure: time comes in.
//!
//! ```text
//!  Closed ──failures in a row, or "open at once"──▶ Open(until) ──time──▶ HalfOpen(1, 2, 4 … probes)
//!    ▲                                                ▲                        │
//!    └──────────────── every round succeeded ─────────┼── one probe failed ────┘
//! ```

use std::time::Duration;

use rand::{Rng, RngExt};
use schemas::{Lane, Micros};

use crate::config::BreakerConfig;

/// A probe without an outcome counts as lost after this, and another may go: a job whose holder died is delivered again by then. A
/// provider that takes longer gets one more job a minute, which does no harm.
pub const PROBE_LOST_AFTER: Duration = Duration::from_secs(60);

/// The breaker of one model at one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    /// How often it opened without closing in between. Each time doubles the wait.
    trips: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Micros,
    },
    HalfOpen {
        /// Its probes are two to the power of this.
        round: u32,
        /// Probes of the round that have no outcome yet.
        open: u32,
        /// Probes of the round that succeeded.
        succeeded: u32,
        /// When the last probe was sent.
        since: Micros,
    },
}

/// What an outcome did to a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    Stayed,
    /// It opened.
    Opened,
    /// It closed again.
    Closed,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, trips: 0 }
    }
}

/// How much longer than a low job a job of each lane waits before it may be the first probe: a backfill finds out first.
pub const fn patience(lane: Lane) -> Duration {
    match lane {
        Lane::Low => Duration::ZERO,
        Lane::Normal => Duration::from_millis(500),
        Lane::High => Duration::from_secs(2),
    }
}

/// When a probe without an outcome counts as lost: never later than a breaker that stays open would be tried again.
fn lost_after(config: &BreakerConfig) -> Duration {
    PROBE_LOST_AFTER.min(config.open_max)
}

impl Breaker {
    /// Whether a job of this lane may go there now.
    pub fn admits(&self, config: &BreakerConfig, lane: Lane, now: Micros) -> bool {
        match &self.state {
            State::Closed { .. } => true,
            State::Open { until } => now >= *until + patience(lane),
            State::HalfOpen { round, open, succeeded, since } => {
                open + succeeded < 1 << round || now.since(*since) > lost_after(config)
            }
        }
    }

    /// Whether it is open, or waits for its probes.
    pub fn is_tripped(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// When the first probe may go; `None` unless it is open.
    pub const fn open_until(&self) -> Option<Micros> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// A job was sent there.
    pub fn sent(&mut self, config: &BreakerConfig, now: Micros) {
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { .. } => {
                self.state = State::HalfOpen { round: 0, open: 1, succeeded: 0, since: now };
            }
            State::HalfOpen { open, since, .. } => {
                if now.since(*since) > lost_after(config) {
                    *open = 0;
                }
                *since = now;
                *open += 1;
            }
        }
    }

    /// A job that was sent there says nothing about the provider: it was not taken, or ended for a reason of its own.
    pub fn unsent(&mut self) {
        if let State::HalfOpen { open, .. } = &mut self.state {
            *open = open.saturating_sub(1);
        }
    }

    /// A job there succeeded.
    pub fn succeeded(&mut self, config: &BreakerConfig) -> Turn {
        match &mut self.state {
            State::Closed { failures } => *failures = 0,
            // Late news of a job sent before it opened.
            State::Open { .. } => {}
            State::HalfOpen { round, open, succeeded, .. } => {
                *open = open.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= 1 << *round {
                    *round += 1;
                    (*open, *succeeded) = (0, 0);
                    if *round >= config.probes {
                        *self = Self::default();
                        return Turn::Closed;
                    }
                }
            }
        }
        Turn::Stayed
    }

    /// A job there failed in a way that counts.
    pub fn failed(&mut self, config: &BreakerConfig, now: Micros, rng: &mut impl Rng) -> Turn {
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < config.consecutive_failures {
                    return Turn::Stayed;
                }
                self.open(config, now, rng);
                Turn::Opened
            }
            State::Open { .. } => Turn::Stayed,
            State::HalfOpen { .. } => {
                self.open(config, now, rng);
                Turn::Opened
            }
        }
    }

    /// Opens at once: a wrong key does not get better by trying.
    pub fn open(&mut self, config: &BreakerConfig, now: Micros, rng: &mut impl Rng) {
        let span = config.open_for.saturating_mul(1 << self.trips.min(16)).min(config.open_max);
        // Up to a quarter longer, so that several dispatchers do not probe at the same time.
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
            assert_eq!(breaker.failed(&config, at(0), &mut rng), Turn::Stayed);
        }
        assert_eq!(breaker.failed(&config, at(0), &mut rng), Turn::Opened);
        assert!(!breaker.admits(&config, Lane::Low, at(4)));
        for probes in [1, 2, 4] {
            for _ in 0..probes {
                assert!(breaker.admits(&config, Lane::Low, at(9)));
                breaker.sent(&config, at(9));
            }
            assert!(!breaker.admits(&config, Lane::Low, at(9)), "{probes} are enough for now");
            assert!(breaker.is_tripped());
            for _ in 0..probes {
                breaker.succeeded(&config);
            }
        }
        assert!(!breaker.is_tripped());
    }

    #[test]
    fn low_jobs_try_it_before_others_do() {
        let (config, mut rng, mut breaker) =
            (BreakerConfig::default(), StdRng::seed_from_u64(1), Breaker::default());
        breaker.open(&config, at(0), &mut rng);
        let until = breaker.open_until().unwrap();
        assert!(breaker.admits(&config, Lane::Low, until));
        assert!(!breaker.admits(&config, Lane::Normal, until));
        assert!(!breaker.admits(&config, Lane::High, until + Duration::from_secs(1)));
        assert!(breaker.admits(&config, Lane::High, until + Duration::from_secs(2)));
    }

    #[test]
    fn a_probe_whose_outcome_never_comes_is_lost_after_a_minute() {
        let (config, mut rng, mut breaker) =
            (BreakerConfig::default(), StdRng::seed_from_u64(1), Breaker::default());
        breaker.open(&config, at(0), &mut rng);
        breaker.sent(&config, at(10));
        assert!(!breaker.admits(&config, Lane::Low, at(70)));
        assert!(breaker.admits(&config, Lane::Low, at(71)));
        // The next is the only one, and succeeds; of the two that follow, one is lost.
        breaker.sent(&config, at(71));
        assert!(!breaker.admits(&config, Lane::Low, at(71)));
        breaker.succeeded(&config);
        breaker.sent(&config, at(72));
        breaker.sent(&config, at(72));
        breaker.succeeded(&config);
        assert!(!breaker.admits(&config, Lane::Low, at(132)));
        assert!(breaker.admits(&config, Lane::Low, at(133)));
        breaker.sent(&config, at(133));
        assert!(!breaker.admits(&config, Lane::Low, at(133)), "one has succeeded, so one is enough");
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let (config, mut rng, mut breaker) =
            (BreakerConfig::default(), StdRng::seed_from_u64(1), Breaker::default());
        for _ in 0..20 {
            for _ in 0..4 {
                assert_eq!(breaker.failed(&config, at(0), &mut rng), Turn::Stayed);
            }
            breaker.succeeded(&config);
        }
    }

    proptest! {
        #[test]
        fn its_turns_are_legal_and_it_never_stays_shut(news in proptest::collection::vec(0..6u8, 0..200), seed: u64) {
            let (config, mut rng, mut breaker) = (BreakerConfig::default(), StdRng::seed_from_u64(seed), Breaker::default());
            let mut now = 1;
            for n in news {
                now += 1;
                let (before, was) = (breaker.clone(), breaker.is_tripped());
                let turn = match n {
                    0 => breaker.failed(&config, at(now), &mut rng),
                    1 | 2 => breaker.succeeded(&config),
                    3 => { breaker.open(&config, at(now), &mut rng); Turn::Opened }
                    4 if breaker.admits(&config, Lane::Normal, at(now)) => { breaker.sent(&config, at(now)); Turn::Stayed }
                    _ => { breaker.unsent(); Turn::Stayed }
                };
                match turn {
                    Turn::Opened => prop_assert!(breaker.open_until().is_some()),
                    // Only a last round of probes closes it, and only an outcome opens it.
                    Turn::Closed => prop_assert!(was && before.open_until().is_none() && !breaker.is_tripped()),
                    Turn::Stayed => prop_assert_eq!(was, breaker.is_tripped()),
                }
                prop_assert!(breaker.admits(&config, Lane::High, at(now) + config.open_max * 2));
            }
        }
    }
}
