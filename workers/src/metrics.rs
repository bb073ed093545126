//! Every number this crate reports.

use metrics::{counter, gauge, histogram};
use schemas::{PoolId, UsdNanos, cost::Purpose, failure::FailureClass, handover::RefusedBecause};

/// Balances the gauge of running jobs by its own life.
pub struct Running(PoolId);

impl Running {
    /// One more.
    pub fn begin(pool: &PoolId) -> Self {
        gauge!("workers_jobs_running", "pool" => pool.to_string()).increment(1.0);
        Self(pool.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        gauge!("workers_jobs_running", "pool" => self.0.to_string()).decrement(1.0);
    }
}

/// An offer was refused.
pub fn refused(because: RefusedBecause) {
    let because = match because {
        RefusedBecause::Busy => "busy",
        RefusedBecause::Draining => "draining",
        RefusedBecause::Model => "model",
        RefusedBecause::Running => "running",
    };
    counter!("workers_offers_refused_total", "because" => because).increment(1);
}

/// An offer came too late and was dropped.
pub fn offer_late() {
    counter!("workers_offers_late_total").increment(1);
}

/// A call to the provider ended well.
pub fn succeeded(pool: &PoolId, seconds: f64) {
    histogram!("workers_call_seconds", "pool" => pool.to_string()).record(seconds);
}

/// A call to the provider failed.
pub fn failed(pool: &PoolId, class: FailureClass) {
    counter!("workers_calls_failed_total", "pool" => pool.to_string(), "class" => class.as_str())
        .increment(1);
}

/// A lease may be somebody else's by now.
pub fn lease_lost() {
    counter!("workers_leases_lost_total").increment(1);
}

/// Money was booked.
pub fn booked(pool: &PoolId, purpose: Purpose, amount: UsdNanos) {
    let purpose = match purpose {
        Purpose::Useful => "useful",
        Purpose::WastedFailure => "wasted_failure",
        Purpose::WastedRace => "wasted_race",
        Purpose::Standing => "standing",
    };
    counter!("workers_cost_nanodollars_total", "pool" => pool.to_string(), "purpose" => purpose)
        .increment(amount.get());
}
