//! Failure is classified once, at the adapter, and one table says what follows (DESIGN section 5).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What went wrong with an attempt, or with the job as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The provider asked us to slow down.
    RateLimited,
    /// No room at the provider, or its start took too long.
    Capacity,
    /// The provider answered with a server error.
    ProviderDown,
    /// The connection failed or broke.
    Connection,
    /// It started and did not end in time.
    Timeout,
    /// The model did not fit the accelerator.
    OutOfMemory,
    /// The provider took the machine away.
    Preempted,
    /// Our key was refused.
    Authentication,
    /// The pool points at something that is not there.
    Misconfigured,
    /// The request itself is wrong; no provider would take it.
    InvalidRequest,
    /// The model refused to answer.
    Refused,
    /// The worker that held the job vanished.
    WorkerLost,
    /// Delivered too often without an outcome.
    Poison,
    /// The message is not a job we can read.
    Undecodable,
    /// Somebody took the job back.
    Cancelled,
    /// No pool of the configuration could ever take the job.
    NoPool,
    /// The job's id belongs to an earlier job of its tenant.
    IdTaken,
}

/// What the dispatcher does about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// Whether another attempt may follow, and where.
    pub retry: Retry,
    /// Whether it uses up one of the job's attempts.
    pub counts: bool,
    /// What the pool's breaker makes of it.
    pub breaker: BreakerEffect,
}

/// Whether another attempt may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// At another pool; at the same one only when there is no other.
    Elsewhere,
    /// At another pool with a larger SKU.
    Larger,
    /// Never: the job has failed.
    Never,
}

/// What a failure does to the pool's breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerEffect {
    /// Nothing: not the pool's fault.
    None,
    /// One more failure.
    Count,
    /// Opens at once, and somebody must act.
    Open,
    /// Closes the pool's key until the provider's time has passed.
    CloseUntil,
}

/// How long a pool stays closed when a provider says "slow down" without saying for how long.
pub const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

impl FailureClass {
    /// Every class, for tables and tests.
    pub const ALL: [Self; 17] = [
        Self::RateLimited,
        Self::Capacity,
        Self::ProviderDown,
        Self::Connection,
        Self::Timeout,
        Self::OutOfMemory,
        Self::Preempted,
        Self::Authentication,
        Self::Misconfigured,
        Self::InvalidRequest,
        Self::Refused,
        Self::WorkerLost,
        Self::Poison,
        Self::Undecodable,
        Self::Cancelled,
        Self::NoPool,
        Self::IdTaken,
    ];

    /// The table.
    pub const fn remedy(self) -> Remedy {
        use {BreakerEffect as B, Retry as R};
        let (retry, counts, breaker) = match self {
            Self::RateLimited => (R::Elsewhere, false, B::CloseUntil),
            Self::ProviderDown | Self::Connection | Self::Timeout => (R::Elsewhere, true, B::Count),
            Self::OutOfMemory => (R::Larger, true, B::None),
            Self::Preempted => (R::Elsewhere, false, B::None),
            Self::Capacity | Self::WorkerLost => (R::Elsewhere, true, B::None),
            Self::Authentication | Self::Misconfigured => (R::Elsewhere, true, B::Open),
            Self::InvalidRequest
            | Self::Refused
            | Self::Poison
            | Self::Undecodable
            | Self::Cancelled
            | Self::NoPool
            | Self::IdTaken => (R::Never, true, B::None),
        };
        Remedy { retry, counts, breaker }
    }

    /// The name on the wire, in labels and in dead-letter subjects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Capacity => "capacity",
            Self::ProviderDown => "provider_down",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::Preempted => "preempted",
            Self::Authentication => "authentication",
            Self::Misconfigured => "misconfigured",
            Self::InvalidRequest => "invalid_request",
            Self::Refused => "refused",
            Self::WorkerLost => "worker_lost",
            Self::Poison => "poison",
            Self::Undecodable => "undecodable",
            Self::Cancelled => "cancelled",
            Self::NoPool => "no_pool",
            Self::IdTaken => "id_taken",
        }
    }
}

/// A text that names no class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("error class `{0}` must be one of {list}", list = FailureClass::ALL.map(FailureClass::as_str).join(", "))]
pub struct ClassError(String);

impl std::str::FromStr for FailureClass {
    type Err = ClassError;
    fn from_str(text: &str) -> Result<Self, ClassError> {
        let found = Self::ALL.into_iter().find(|class| class.as_str() == text);
        found.ok_or_else(|| ClassError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The longest failure message that travels, in characters: a provider's error page is not a log.
pub const MESSAGE_MAX: usize = 300;

/// A classified failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub class: FailureClass,
    /// What the provider or the client library said, shortened, without prompts and keys.
    pub message: String,
    /// When the provider said how long to wait: microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_us: Option<u64>,
}

impl Failure {
    /// A failure whose message is cut to [`MESSAGE_MAX`] characters.
    pub fn new(class: FailureClass, message: impl AsRef<str>) -> Self {
        Self { class, message: message.as_ref().chars().take(MESSAGE_MAX).collect(), retry_after_us: None }
    }

    /// The same, with the wait the provider asked for.
    #[must_use]
    pub fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after_us = wait.map(crate::time::micros);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_name_is_the_serde_name() {
        for class in FailureClass::ALL {
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
        }
    }

    #[test]
    fn a_wrong_request_is_never_tried_again_and_never_blames_the_pool() {
        for class in [FailureClass::InvalidRequest, FailureClass::Refused] {
            let remedy = class.remedy();
            assert_eq!((remedy.retry, remedy.breaker), (Retry::Never, BreakerEffect::None));
        }
    }

    #[test]
    fn slowing_down_and_losing_a_spot_machine_cost_no_attempt() {
        assert!(!FailureClass::RateLimited.remedy().counts);
        assert!(!FailureClass::Preempted.remedy().counts);
    }
}
