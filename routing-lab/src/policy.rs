//! The policies that can be compared, by name.

use serde::Serialize;

/// Who routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// This crate.
    Beacon,
    /// The baseline by its share, else the cheapest other, by a coin.
    Static,
    /// One after the other.
    RoundRobin,
    /// The cheapest that has room.
    Cheapest,
    /// The fastest of late.
    LeastLatency,
    /// The emptier of two drawn at random.
    PowerOfTwo,
    /// As common gateways do: the emptiest, without those that failed three times in a minute.
    Gateway,
}

impl Policy {
    /// All, ours first.
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

/// A name that no policy has.
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
