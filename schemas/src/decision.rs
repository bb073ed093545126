//! Why a job went where it went: each candidate pool, its score, and why it was or was not chosen.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::PoolId;

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
    /// It was tried for this job already, or just refused it.
    Tried,
    /// Cannot start before the deadline.
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
    /// The name on the wire and in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Region => "region",
            Self::Breaker => "breaker",
            Self::RateLimit => "rate_limit",
            Self::Full => "full",
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
    /// Cheapest of those that could take it.
    Cheapest,
    /// The baseline could not take it.
    Burst,
    /// No pool of the job's own region could take it.
    OtherRegion,
    /// A run of an earlier attempt is still there.
    Reattach,
}

/// One pool that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    pub pool: PoolId,
    /// Expected cost of the attempt in dollars, as a plain number: for reading, never for sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why not; missing for those that could have taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
}

/// A routing decision, told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Where it went.
    pub chosen: PoolId,
    /// Why there.
    pub reason: Reason,
    /// All that were looked at.
    pub candidates: Vec<Candidate>,
}
