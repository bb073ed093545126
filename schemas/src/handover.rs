//! Handing a job over, accepting it, and giving it back. Core NATS, nothing stored.
//!
//! The job's body travels untouched; what we add stands in one header, as ASCII JSON. A body that does not fit into a message
//! together with that header stays away: the receiver reads it from the log, where the lease says it lies.

use serde::{Deserialize, Serialize};

use crate::{
    AttemptKey, Micros, ModelToken, PoolId, UsdNanos, WorkerId,
    decision::Decision,
    failure::{Failure, FailureClass},
    journal::{Entry, Journal},
    lease::Lease,
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
    /// True for a second attempt beside one that runs: if it fails, it is not given back, since the first goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hedge: bool,
    /// True when body and headers of the job are not here, but in the log at the lease's stream and sequence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_log: bool,
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
    /// When the worker started: another time means another process, which knows nothing of earlier offers.
    #[serde(default)]
    pub started_us: Micros,
    /// Jobs it runs now.
    pub running: u32,
    /// All offers of this dispatcher whose attempts run at the worker, told each second: what is not named here, and was
    /// accepted before, has ended. Missing in messages that only bring news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Vec<u64>>,
    /// Offers it took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<u64>,
    /// Offers it refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(u64, RefusedBecause)>,
    /// Accepted offers whose attempt has ended. One that is never heard of died with its worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<EndedAttempt>,
}

/// How an attempt ended, told to the dispatcher that had offered it: what it learns from, and settles budgets by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedAttempt {
    /// The offer.
    pub offer: u64,
    /// What went wrong; nothing when it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailureClass>,
    /// How long the provider asked us to stay away, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_us: Option<u64>,
    /// How long the provider took, its cold start left out, microseconds.
    pub service_us: u64,
    /// How long its cold start took, microseconds; 0 when it was warm.
    #[serde(default, skip_serializing_if = "crate::time::is_zero")]
    pub cold_us: u64,
    /// What it cost, useful or not.
    pub cost_usd: UsdNanos,
    /// True when it failed and did not give the job back, having been told that another attempt runs beside it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// True where the worker lost sight of the attempt (a panic, or it was abandoned at the end of the grace period): what it cost is
    /// not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// What a dispatcher asks of one worker. Core NATS: one that is lost costs money or time, never a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A second attempt of this job begins elsewhere: if yours fails, do not give the job back.
    Hedged(OfferKey),
    /// The other attempt has failed and left this, or was never made: the job is yours alone, give it back if you fail.
    Alone(OfferKey, Option<Box<Entry>>),
    /// The other attempt was first: stop, and book what was spent as lost in a race.
    Stop(OfferKey),
    /// Have so many containers of this model ready, for the jobs of this dispatcher; those of others come on top.
    Warm {
        /// Which dispatcher.
        from: WorkerId,
        /// Which model.
        model: ModelToken,
        /// How many, running ones included.
        containers: u32,
    },
}

impl OfferKey {
    /// The key of the attempt that this offer is, or was.
    pub fn attempt(&self) -> AttemptKey {
        AttemptKey::of(&self.accept, self.offer)
    }
}

/// Names an accepted offer: offers are numbered by dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OfferKey {
    /// Where that dispatcher hears acceptances.
    pub accept: String,
    /// Its number.
    pub offer: u64,
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
    /// Why it came there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// The offer that the attempt came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<OfferKey>,
    /// True when body and headers of the job are not here, but in the log at the lease's stream and sequence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_log: bool,
}
