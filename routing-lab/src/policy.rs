//! The policies that can be compared, by name.

use serde::Serialize;

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The `routing` crate.
    Beacon,
    /// The baseline with the probability of its share, else the cheapest other.
    Static,
    /// One pool after the other.
    RoundRobin,
    /// The cheapest pool with a free slot.
    Cheapest,
    /// The pool that was fastest lately.
    LeastLatency,
    /// The emptier of two pools drawn at random.
    PowerOfTwo,
    /// The emptiest pool, without those that failed three times in a minute, as common gateways do.
    Gateway,
}

impl Policy {
    /// All policies, ours first.
    pub const ALL: [Self; 7] = [
        Self::Beacon,
        Self::Static,
        Self::RoundRobin,
        Self::Cheapest,
        Self::LeastLatency,
        Self::PowerOfTwo,
        Self::Gateway,
    ];

    /// Its name in arguments and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Beacon => "beacon",
            Self::Static => "static",
            Self::RoundRobin => "round_robin",
            Self::Cheapest => "cheapest",
            Self::LeastLatency => "least_latency",
            Self::PowerOfTwo => "power_of_two",
            Self::Gateway => "gateway",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is not a policy's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy `{0}` must be one of {list}", list = Policy::ALL.map(Policy::as_str).join(", "))]
pub struct PolicyError(String);

impl std::str::FromStr for Policy {
    type Err = PolicyError;
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| PolicyError(text.chars().take(40).collect()))
    }
}
