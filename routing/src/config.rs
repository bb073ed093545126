//! The settings of routing, checked by whoever reads them. Rules of budgets are in [`crate::budget`], the limit on repeated attempts
//! is in [`crate::retry_budget`].

use std::time::Duration;

use schemas::{ProviderId, UsdNanos};

/// How a pool is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Providers that carry the steady load.
    pub baseline: Vec<ProviderId>,
    /// Their share of the jobs, 0 to 1.
    pub baseline_share: f64,
    /// A pool that said nothing for so long is not offered work. Heartbeats come each second.
    pub silent_after: Duration,
    /// When a second attempt is made beside a slow one.
    pub hedge: HedgeConfig,
    /// What is kept warm.
    pub warm: WarmConfig,
}

/// When a second attempt is made beside a slow one.
#[derive(Clone, Debug, PartialEq)]
pub struct HedgeConfig {
    /// Their share of all jobs, 0 to 1; 0 makes none.
    pub share: f64,
    /// What they may cost in an hour.
    pub budget_per_hour: UsdNanos,
    /// How many times what 95 of 100 jobs take.
    pub after: f64,
    /// No job is hedged sooner than this, however fast its pool is.
    pub least: Duration,
}

impl Default for HedgeConfig {
    /// Two of a hundred (Dean and Barroso, 2013), for a dollar an hour. They hedge at the 95th percentile; where a long answer
    /// is long because of what was asked, that costs as much again for nothing, so here a job is stuck at twice that.
    fn default() -> Self {
        Self {
            share: 0.02,
            budget_per_hour: UsdNanos::new(1_000_000_000),
            after: 2.0,
            least: Duration::from_millis(50),
        }
    }
}

/// What is kept warm at providers that start containers for jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct WarmConfig {
    /// What idle containers may cost in an hour, by region; nothing is kept warm for nothing.
    pub most_usd_per_hour: UsdNanos,
    /// What a second that somebody does not wait is worth.
    pub second_worth: UsdNanos,
}

impl Default for WarmConfig {
    /// Nothing: under the report's assumptions it costs more than it saves (`beacon simulate`), since providers keep containers
    /// for a while by themselves. A second saved for one job counts as a third of a second of a T4.
    fn default() -> Self {
        Self { most_usd_per_hour: UsdNanos::ZERO, second_worth: UsdNanos::new(50_000) }
    }
}

impl Default for PolicyConfig {
    /// The report's plan: 70 % on Golem.
    fn default() -> Self {
        Self {
            baseline: ProviderId::try_from("golem").into_iter().collect(),
            baseline_share: 0.7,
            silent_after: Duration::from_secs(4),
            hedge: HedgeConfig::default(),
            warm: WarmConfig::default(),
        }
    }
}

/// When a pool is left alone (thresholds as in Envoy's outlier detection).
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// How long it stays open the first time; doubles with each further time, with jitter.
    pub open_for: Duration,
    /// The longest it stays open.
    pub open_max: Duration,
    /// Rounds of probes before it closes again: one job, then two, then four.
    pub probes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            open_for: Duration::from_secs(5),
            open_max: Duration::from_secs(300),
            probes: 3,
        }
    }
}
