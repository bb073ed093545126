//! What a plan remembers of the plans before it. A keeper stores it, so that its successor goes on where it was.

use std::time::Duration;

use schemas::Micros;
use serde::{Deserialize, Serialize};

use super::{arrivals::Rates, levels::Levels, starts::Starts};

/// A longer time without a plan counts as no more than this: what was in between nobody saw.
const BLIND: Duration = Duration::from_secs(30);

/// What is remembered. Small: a few kilobytes, whatever the number of jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// How fast jobs arrive.
    pub rates: Rates,
    /// How long machines take to start, and which places rest.
    pub starts: Starts,
    /// What renting or not renting each machine has lost.
    pub levels: Levels,
    /// When the last plan was made.
    pub(super) at: Micros,
    /// When a dispatcher was last heard.
    pub(super) heard: Micros,
    /// Fewer machines are enough, and one leaves then if they still are.
    pub(super) lower_at: Option<Micros>,
    /// How many machines there were to be.
    pub(super) want: Option<u32>,
    /// When a machine was last sent away because fewer were enough.
    pub(super) left: Micros,
}

impl Memory {
    /// A plan is made now. Gives the time since the last one.
    pub(super) fn pass(&mut self, now: Micros) -> Duration {
        let dt = if self.at == Micros::default() { Duration::ZERO } else { now.since(self.at).min(BLIND) };
        if self.heard == Micros::default() || self.heard > now {
            self.heard = now;
        }
        self.at = now;
        dt
    }
}
