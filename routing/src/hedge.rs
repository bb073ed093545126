//! When a job gets a second attempt beside the first, and how many may (Dean and Barroso, "The Tail at Scale", 2013). Pure.
//!
//! A job that runs much longer than 95 of 100 jobs do is probably stuck. A second attempt at another pool then ends it sooner.
//! Second attempts are bounded by a share of all jobs and by dollars an hour.

use std::time::Duration;

use schemas::{Lane, Micros, UsdNanos};

use crate::{config::HedgeConfig, track::Track};

/// The time over which hedges are compared with jobs.
const WINDOW: Duration = Duration::from_secs(60);
/// The time over which dollars are counted.
const HOUR: Duration = Duration::from_secs(3_600);

/// A cold start that is more likely than this is waited for.
pub const LIKELY: f64 = 0.2;

/// How many jobs and hedges there were lately, and what the hedges cost.
#[derive(Clone, Debug)]
pub struct Hedges {
    config: HedgeConfig,
    jobs: f64,
    hedged: f64,
    spent: f64,
    at: Micros,
}

impl Hedges {
    /// No job yet.
    pub const fn new(config: HedgeConfig) -> Self {
        Self { config, jobs: 0.0, hedged: 0.0, spent: 0.0, at: Micros::new(0) }
    }

    /// How long an attempt that starts now may run before a second one is considered. `None` if no second one ever is: the lane
    /// is not urgent, or too little is known of the pool.
    pub fn after(&self, lane: Lane, track: &Track, now: Micros) -> Option<Duration> {
        if self.config.share == 0.0 || lane != Lane::High {
            return None;
        }
        // A job in a cold start is not stuck.
        let cold = if track.likely_cold(now) > LIKELY { track.cold_p95() } else { Duration::ZERO };
        Some(track.usual()?.mul_f64(self.config.after).max(self.config.least) + cold)
    }

    /// A job was sent to a pool.
    pub fn job(&mut self, now: Micros) {
        self.fade(now);
        self.jobs += 1.0;
    }

    /// Whether one more second attempt, which may cost `amount`, is within both bounds.
    pub fn may(&mut self, amount: UsdNanos, now: Micros) -> bool {
        self.fade(now);
        // The first hedge of a quiet minute is allowed too.
        let share = self.hedged + 1.0 <= (self.jobs * self.config.share).max(1.0);
        share && self.spent + amount.get() as f64 <= self.config.budget_per_hour.get() as f64
    }

    /// A second attempt began that may cost `amount`.
    pub fn begun(&mut self, amount: UsdNanos, now: Micros) {
        self.fade(now);
        self.hedged += 1.0;
        self.spent += amount.get() as f64;
    }

    /// A second attempt cost `actual` where `amount` was expected.
    pub fn settled(&mut self, amount: UsdNanos, actual: UsdNanos) {
        self.spent = (self.spent + actual.get() as f64 - amount.get() as f64).max(0.0);
    }

    /// Forgets by exponential decay, so that nothing is kept per job.
    fn fade(&mut self, now: Micros) {
        let age = now.since(self.at).as_secs_f64();
        let (short, long) = ((-age / WINDOW.as_secs_f64()).exp(), (-age / HOUR.as_secs_f64()).exp());
        self.jobs *= short;
        self.hedged *= short;
        self.spent *= long;
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    proptest! {
        #[test]
        fn hedges_stay_a_small_share_and_within_their_dollars(gaps in proptest::collection::vec(1..200u64, 100..2_000), cost in 1..1_000_000u64) {
            let config = HedgeConfig { budget_per_hour: UsdNanos::new(100_000_000), ..HedgeConfig::default() };
            let (mut hedges, mut now, mut begun, jobs) = (Hedges::new(config.clone()), NOW, 0u32, gaps.len());
            for gap in gaps {
                now = now + Duration::from_millis(gap);
                hedges.job(now);
                if hedges.may(UsdNanos::new(cost), now) {
                    hedges.begun(UsdNanos::new(cost), now);
                    begun += 1;
                }
            }
            let minutes = now.since(NOW).as_secs_f64() / 60.0;
            // Besides the share, one a minute while there are few jobs.
            let most = jobs as f64 * config.share * 1.2 + minutes + 2.0;
            prop_assert!(f64::from(begun) <= most, "{begun} of {jobs}, at most {most}");
            prop_assert!(f64::from(begun) * cost as f64 <= 100_000_000.0 * (1.0 + minutes / 60.0) + cost as f64);
        }
    }

    #[test]
    fn no_dollars_no_hedge() {
        let mut hedges =
            Hedges::new(HedgeConfig { budget_per_hour: UsdNanos::ZERO, ..HedgeConfig::default() });
        assert!(!hedges.may(UsdNanos::new(1), NOW));
    }
}
