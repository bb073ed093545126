//! How an attempt ended: for the pool's statistics, and for the dispatcher that offered it.

use std::time::Duration;

use schemas::{UsdNanos, failure::FailureClass};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What went wrong; `None` when the provider gave an output.
    pub failed: Option<FailureClass>,
    /// How long the provider asked us to stay away, microseconds.
    pub retry_after_us: Option<u64>,
    /// How long the provider took, its cold start left out.
    pub service: Duration,
    /// How long its cold start took.
    pub cold: Duration,
    /// What the attempt cost.
    pub cost: UsdNanos,
    /// True if the attempt failed and did not give the job back, since another attempt runs beside it.
    pub kept: bool,
}

impl Settled {
    /// The attempt never called the provider, or its outcome says nothing about the provider.
    pub const NOTHING: Self = Self {
        failed: Some(FailureClass::WorkerLost),
        retry_after_us: None,
        service: Duration::ZERO,
        cold: Duration::ZERO,
        cost: UsdNanos::ZERO,
        kept: false,
    };
}
