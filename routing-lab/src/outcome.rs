//! What a play came to, as it is shown and compared.

use std::time::Duration;

use schemas::UsdNanos;
use serde::Serialize;

use crate::policy::Policy;

/// The figures of a group of jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Group {
    /// Jobs accepted.
    pub jobs: u64,
    /// Jobs that succeeded, in time or late.
    pub succeeded: u64,
    /// Of those, the ones that ended after their deadline.
    pub late: u64,
    /// Jobs that failed for good.
    pub failed: u64,
    /// Jobs that had not begun by their deadline.
    pub expired: u64,
    /// Median time from arrival to end, of jobs that succeeded, microseconds.
    pub p50_us: u64,
    /// The 95th percentile of the same.
    pub p95_us: u64,
    /// The 99th percentile of the same.
    pub p99_us: u64,
    /// Jobs that succeeded in time, in parts of a million of those accepted.
    pub in_time_ppm: u64,
}

/// One step of a play, for plots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Seconds from the start.
    pub at_s: u64,
    /// Jobs that succeeded.
    pub succeeded: u64,
    /// Of those, the ones at the baseline.
    pub baseline: u64,
    /// Their 95th percentile, microseconds.
    pub p95_us: u64,
    /// What the attempts that ended cost, nano-dollars.
    pub cost: u64,
    /// The most jobs that waited for a pool.
    pub waiting: u64,
}

/// What a play came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The policy.
    pub policy: Policy,
    /// The jobs of tenants that keep to their share.
    pub keeping: Group,
    /// The jobs of tenants that send more than their share for a while, or have a hard budget of their own.
    pub apart: Group,
    /// Attempts, second ones included.
    pub attempts: u64,
    /// Second attempts beside a first.
    pub hedges: u64,
    /// Offers that workers refused because they had no free slot.
    pub refused: u64,
    /// The cost of useful attempts, dollars.
    pub useful_usd: UsdNanos,
    /// The cost of attempts that failed.
    pub failed_usd: UsdNanos,
    /// The cost of attempts that lost against another of the same job, or were stopped.
    pub hedge_usd: UsdNanos,
    /// The cost of containers while they ran no job.
    pub standing_usd: UsdNanos,
    /// The sum of these costs.
    pub total_usd: UsdNanos,
    /// The sum over jobs that succeeded.
    pub blended_usd: UsdNanos,
    /// The baseline's share of successes in steady minutes, in parts of a million; missing if there was no such minute.
    pub share_ppm: Option<u64>,
    /// Jain's index over tenants in minutes in which not all jobs could be served, in parts of a million.
    pub jain_ppm: u64,
    /// How each budget was kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Spending>,
    /// The steps, for plots.
    pub steps: Vec<Step>,
}

/// What was spent of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spending {
    /// The rule, in words.
    pub rule: String,
    /// The limit in each period.
    pub limit_usd: UsdNanos,
    /// The most that attempts begun in one period really cost.
    pub most_usd: UsdNanos,
    /// When jobs first waited for the next period, in seconds from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_from_s: Option<u64>,
    /// Why the last of them waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

impl Group {
    /// The 95th percentile as a duration.
    pub const fn p95(&self) -> Duration {
        Duration::from_micros(self.p95_us)
    }
}
