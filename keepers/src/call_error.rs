//! Why a control call failed, and whether a person must act.

use std::time::Duration;

use schemas::UsdNanos;

/// Why a control call did not do what was asked. A call that fails here says nothing about machines that stand and serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Too many calls; nothing was done.
    #[error("{0}: rate limited")]
    RateLimited(String, Option<Duration>),
    /// No machine of this type can be had at this place now; nothing was done.
    #[error("no capacity: {0}")]
    Capacity(String),
    /// It costs more than the order allows; nothing was done.
    #[error("the price is ${now} an hour, more than ${max}")]
    Price {
        /// What it costs.
        now: UsdNanos,
        /// What it may cost.
        max: UsdNanos,
    },
    /// The key is missing, wrong or not allowed to do this; nothing was done. A person must act.
    #[error("not authorised: {0}")]
    Authentication(String),
    /// The request can never succeed as it is configured; nothing was done. A person must act.
    #[error("misconfigured: {0}")]
    Misconfigured(String),
    /// The call cannot have reached the provider; nothing was done.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// Nobody knows whether it was done: a timeout, a lost connection, a 5xx, an answer that does not read.
    #[error("no clear answer: {0}")]
    Unclear(String),
}

impl CallError {
    /// Whether the call may have been carried out all the same.
    pub fn is_unclear(&self) -> bool {
        match self {
            Self::Unclear(_) => true,
            Self::RateLimited(..)
            | Self::Capacity(_)
            | Self::Price { .. }
            | Self::Authentication(_)
            | Self::Misconfigured(_)
            | Self::Unreachable(_) => false,
        }
    }

    /// The error and what to do, for a person, on one line.
    pub fn told(&self) -> String {
        match self {
            Self::Authentication(_) => {
                format!(
                    "{self}; give the account a key that may do this ([[landlords]]), and restart the keeper"
                )
            }
            Self::Misconfigured(_) => {
                format!("{self}; correct [[landlords]] or [pools.rent], and restart the keeper")
            }
            Self::Price { .. } => format!("{self}; raise usd_per_hour_max, or wait for a lower price"),
            Self::RateLimited(..) | Self::Capacity(_) | Self::Unreachable(_) | Self::Unclear(_) => {
                self.to_string()
            }
        }
    }

    /// Whether a person must act before this call can succeed.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Authentication(_) | Self::Misconfigured(_) => true,
            Self::RateLimited(..)
            | Self::Capacity(_)
            | Self::Price { .. }
            | Self::Unreachable(_)
            | Self::Unclear(_) => false,
        }
    }
}
