//! Handing a job over, accepting it, and giving it back. Core NATS, nothing stored.
//!
//! The job's body travels untouched; what we add stands in one header, as JSON.

use serde::{Deserialize, Serialize};

use crate::{
    Micros, PoolId, UsdNanos, WorkerId, decision::Decision, failure::Failure, journal::Journal, lease::Lease,
    subjects::JobSubject,
};

/// What a dispatcher sends with a job. The message's reply subject is where acceptances go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// The dispatcher's number for this offer; comes back in the acceptance.
    pub offer: u64,
    /// The right to finish the job.
    pub lease: Lease,
    /// When the lease was last known to be extended.
    pub leased_us: Micros,
    /// A worker drops the offer after this: the dispatcher may have given it to another.
    pub accept_by_us: Micros,
    /// Which attempt this is, from 1.
    pub attempt: u16,
    /// Region, model, lane and tenant, as the job was published.
    pub subject: JobSubject,
    /// What earlier attempts left behind.
    #[serde(default, skip_serializing_if = "journal_is_empty")]
    pub journal: Journal,
    /// Why it comes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

fn journal_is_empty(journal: &Journal) -> bool {
    journal.entries.is_empty()
}

/// Why a worker did not take an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedBecause {
    /// Every slot is taken: a job is never queued at a worker.
    Busy,
    /// The worker is leaving.
    Draining,
    /// This worker does not serve the model.
    Model,
    /// This worker runs that very job already, under an older delivery.
    Running,
}

/// What a worker took and refused since it last said so; sent every few milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptances {
    /// The pool the worker belongs to.
    pub pool: PoolId,
    /// Which worker.
    pub worker: WorkerId,
    /// Jobs it runs now.
    pub running: u32,
    /// Offers it took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<u64>,
    /// Offers it refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(u64, RefusedBecause)>,
}

/// A job given back after an attempt that failed, with a lease that is still good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Return {
    /// The right to finish the job.
    pub lease: Lease,
    /// When the lease was last known to be extended.
    pub leased_us: Micros,
    /// Region, model, lane and tenant.
    pub subject: JobSubject,
    /// Who gives it back.
    pub pool: PoolId,
    /// The attempt that failed.
    pub attempt: u16,
    /// What went wrong.
    pub failure: Failure,
    /// What it cost all the same.
    pub cost_usd: UsdNanos,
    /// All attempts so far, this one included.
    pub journal: Journal,
}
