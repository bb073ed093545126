//! Why a job went where it went: each candidate pool, its score, and why it was or was not chosen.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{PoolId, UsdNanos};

/// Why a pool could not take a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Does not serve the model.
    Model,
    /// The job's provider lists exclude it.
    Provider,
    /// The job's region list excludes it, or it is remote and a local pool can take the job.
    Region,
    /// Its breaker is open.
    Breaker,
    /// A rate limit keeps it closed.
    RateLimit,
    /// No free slot.
    Full,
    /// Slots are free, but the provider slows down when more run at once.
    Limit,
    /// It fails too much of what it gets; most of the load is kept from it.
    Throttled,
    /// Much slower than it was and than the others: only tried, unless nobody else is there.
    Suspect,
    /// A budget of its tenant has nothing left for what the attempt may cost.
    Budget,
    /// It was tried for this job already, or just refused it.
    Tried,
    /// Would not end before the deadline.
    Deadline,
    /// Would take the job past its `max_cost_usd`.
    MaxCost,
    /// Not larger than the one that ran out of memory.
    Size,
    /// No heartbeat for too long.
    Silent,
    /// It is leaving, and takes no more.
    Draining,
}

impl Refusal {
    /// Every refusal, for tables and metrics.
    pub const ALL: [Self; 16] = [
        Self::Model,
        Self::Provider,
        Self::Region,
        Self::Breaker,
        Self::RateLimit,
        Self::Full,
        Self::Limit,
        Self::Throttled,
        Self::Suspect,
        Self::Budget,
        Self::Tried,
        Self::Deadline,
        Self::MaxCost,
        Self::Size,
        Self::Silent,
        Self::Draining,
    ];

    /// The name on the wire and in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Region => "region",
            Self::Breaker => "breaker",
            Self::RateLimit => "rate_limit",
            Self::Full => "full",
            Self::Limit => "limit",
            Self::Throttled => "throttled",
            Self::Suspect => "suspect",
            Self::Budget => "budget",
            Self::Tried => "tried",
            Self::Deadline => "deadline",
            Self::MaxCost => "max_cost",
            Self::Size => "size",
            Self::Silent => "silent",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the chosen pool was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The baseline's share was behind its target.
    BaselineShare,
    /// The best of those that could take it, by what the job prefers.
    Cheapest,
    /// The baseline could not take it.
    Burst,
    /// No pool of the job's own region could take it, or another region's is far better.
    OtherRegion,
    /// It failed or was slow before, and this job tries it again.
    Probe,
    /// Nothing was known of it for a while.
    Explore,
    /// A second attempt, since the first takes longer than usual.
    Hedge,
    /// It did not go anywhere: it ended while it waited.
    Nowhere,
    /// A run of an earlier attempt is still there.
    Reattach,
}

/// One pool that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    pub pool: PoolId,
    /// What pools are compared by, lower is better: cost and time over the best of each, by what the job prefers, and risk.
    /// A plain number, rounded to thousandths; missing for those that were refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Expected cost of the attempt, dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<UsdNanos>,
    /// Expected time of the attempt, 95th percentile, cold start and way included, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_us: Option<u64>,
    /// Why not; missing for those that could have taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
}

/// A routing decision, told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Where it went; missing when no pool took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<PoolId>,
    /// Why there.
    pub reason: Reason,
    /// All that were looked at.
    pub candidates: Vec<Candidate>,
}
