//! What an operator sets for a pool's machines.

use std::time::Duration;

use schemas::UsdNanos;

use super::windows::{Bounds, Window};
use crate::price::BookPrice;

/// The policy of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Bounds outside of all windows.
    pub bounds: Bounds,
    /// Bounds at times of the day; the first that covers a moment holds.
    pub windows: Vec<Window>,
    /// The cap on machines: everything that was ordered and is not gone.
    pub machines_max: u32,
    /// The cap on what these may cost an hour.
    pub usd_per_hour_max: UsdNanos,
    /// What the price book says of the pool's type, and how far the provider's price may be from it.
    pub book_price: BookPrice,
    /// How much more than its quote an order may cost, thousandths.
    pub price_slack: u32,
    /// How much must be lost at serverless pools before a machine is rented instead, in thousandths of what a machine costs until
    /// it is ready. 1,000 is at most three times as dear as whoever knows the future.
    pub theta: u32,
    /// How long fewer machines must have been enough before one leaves; never shorter than a start.
    pub down_after: Duration,
    /// How long a machine may take to finish its jobs.
    pub drain_limit: Duration,
    /// How long it takes to end a machine.
    pub stop_p95: Duration,
    /// How long a start takes, median and 95th percentile, until enough were seen.
    pub boot: (Duration, Duration),
    /// Within what time jobs without a deadline are to be done, counted from when a machine can be there.
    pub patience: Duration,
    /// Whether machines are parked instead of ended, where the provider can.
    pub park: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            bounds: Bounds::between(0, 1),
            windows: Vec::new(),
            machines_max: 1,
            usd_per_hour_max: UsdNanos::ZERO,
            book_price: BookPrice::default(),
            price_slack: 50,
            theta: 1_000,
            down_after: Duration::from_secs(60),
            drain_limit: Duration::from_secs(600),
            stop_p95: Duration::from_secs(30),
            boot: (Duration::from_secs(180), Duration::from_secs(600)),
            patience: Duration::from_secs(600),
            park: false,
        }
    }
}

/// Why a policy is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Bounds that contradict themselves.
    #[error("floor `{floor}` must not be above ceiling `{ceiling}`")]
    Bounds {
        /// The floor.
        floor: u32,
        /// The ceiling.
        ceiling: u32,
    },
    /// Bounds that contradict the cap.
    #[error("floor `{floor}` must not be above machines_max `{max}`")]
    Cap {
        /// The floor.
        floor: u32,
        /// The cap.
        max: u32,
    },
    /// Without money nothing is rented.
    #[error(
        "usd_per_hour_max must be above 0: it is the most that all machines of the pool may cost an hour"
    )]
    Dollars,
}

impl Policy {
    /// Whether it can be followed.
    pub fn check(&self) -> Result<(), PolicyError> {
        let bounds = self.windows.iter().map(|window| window.bounds).chain([self.bounds]);
        for Bounds { floor, ceiling } in bounds {
            if floor > ceiling {
                return Err(PolicyError::Bounds { floor, ceiling });
            }
            if floor > self.machines_max {
                return Err(PolicyError::Cap { floor, max: self.machines_max });
            }
        }
        if self.usd_per_hour_max == UsdNanos::ZERO {
            return Err(PolicyError::Dollars);
        }
        Ok(())
    }
}
