//! The settings of routing. The code that reads them checks them. Rules of budgets are in [`crate::budget`], the bound on repeated
//! attempts is in [`crate::retry_budget`].

use std::time::Duration;

use schemas::{ProviderId, UsdNanos};

/// How a pool is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Providers that carry the steady load.
    pub baseline: Vec<ProviderId>,
    /// Their share of the jobs, 0 to 1.
    pub baseline_share: f64,
    /// A pool that was silent for longer is not offered work. Heartbeats come each second.
    pub silent_after: Duration,
    /// When a second attempt is made beside a slow one.
    pub hedge: HedgeConfig,
    /// What is kept warm at serverless providers.
    pub warm: WarmConfig,
}

/// When a second attempt is made beside a slow one.
#[derive(Clone, Debug, PartialEq)]
pub struct HedgeConfig {
    /// The share of all jobs that may get one, 0 to 1; at 0 there are none.
    pub share: f64,
    /// What second attempts may cost in an hour.
    pub budget_per_hour: UsdNanos,
    /// An attempt may run for this many times the 95th percentile before a second one is considered.
    pub after: f64,
    /// No second attempt is made sooner than this, however fast the pool is.
    pub least: Duration,
}

impl Default for HedgeConfig {
    /// Two of a hundred jobs, for a dollar an hour (Dean and Barroso, 2013). They hedge at the 95th percentile. Many answers are
    /// long because of what was asked, and a second attempt at those is wasted, so the default is twice that.
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
    /// What idle containers may cost in an hour, in each region; at 0 none is kept warm.
    pub most_usd_per_hour: UsdNanos,
    /// What it is worth that a job waits a second less.
    pub second_worth: UsdNanos,
}

impl Default for WarmConfig {
    /// None: under the assumptions of the scenarios it costs more than it saves (`beacon simulate`), since providers keep
    /// containers for a while anyway. A second saved for one job is worth a third of a second of a T4.
    fn default() -> Self {
        Self { most_usd_per_hour: UsdNanos::ZERO, second_worth: UsdNanos::new(50_000) }
    }
}

impl Default for PolicyConfig {
    /// 70 % on Golem.
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

/// When a failing model at a pool is left alone (thresholds as in Envoy's outlier detection).
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Failures in a row that open the breaker.
    pub consecutive_failures: u32,
    /// How long it stays open the first time. Each further time doubles it, with jitter.
    pub open_for: Duration,
    /// The longest it stays open.
    pub open_max: Duration,
    /// How many rounds of probes must succeed before it closes: one job, then two, then four.
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
