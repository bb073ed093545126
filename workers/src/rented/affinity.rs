//! Which machine of a pool has a job's beginning in its prefix cache already, and whether that is worth a place there. Pure.
//!
//! ```text
//!  input ─▶ schemas::prefix ─┐
//!  Holders  who was handed which block lately ──┼─▶ place ─▶ machine, reason
//!  home     where a new beginning belongs ──────┤      ▲
//!  Paces    what a token and a job take there ──┘      └─ bound: no machine is filled far above the others
//! ```
//!
//! [`holders`] is a table of own hand-overs; it is lost with the worker, and costs then only what a plain balancer costs.
//! [`mod@home`] needs no table, so that all workers send a new beginning to the same machine. [`pace`] learns what prefill costs and
//! how much jobs slow each other, and [`mod@place`] weighs it all in time. Affinity never waits for a machine: it only says which of
//! those that may run one more job takes it.

pub mod holders;
pub mod home;
pub mod pace;
pub mod place;
#[cfg(test)]
mod properties;

use std::time::Duration;

use schemas::prefix::Prefix;

pub use self::{
    holders::{Holders, Life},
    pace::{Done, Pace, Paces},
    place::{Candidate, Placed, Prediction, Reason, place},
};

/// What one worker knows of a pool's caches.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    /// Who was handed what.
    pub holders: Holders,
    /// What things take.
    pub paces: Paces,
    unknown: Pace,
    candidates: Vec<Candidate>,
}

impl Affinity {
    /// Chooses one of `candidates` for a job of that model, by its number among paces. The memory is kept for the next time, so that
    /// nothing is allocated.
    pub fn choose(
        &mut self,
        prefix: Option<&Prefix>,
        model: u16,
        candidates: impl Iterator<Item = Candidate>,
        now: Duration,
    ) -> Option<Placed> {
        let Self { holders, paces, unknown, candidates: kept } = self;
        kept.clear();
        kept.extend(candidates.map(|it| it.priced(paces.of(it.sku, model).unwrap_or(unknown))));
        place(prefix, kept, holders, now)
    }
}
