//! A cost event: what one attempt cost, whether it was useful or wasted.

use serde::{Deserialize, Serialize};

use crate::{
    AttemptKey, JobId, Micros, ModelToken, PoolId, ProviderId, Region, Tenant, UsdNanos, job::Head,
    journal::Entry,
};

pub use crate::line::CostLine;
use crate::line::Unit;

/// What the money was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The attempt gave the job's result.
    Useful,
    /// The attempt failed and was billed all the same.
    WastedFailure,
    /// Another attempt's result was stored first.
    WastedRace,
    /// The job was taken back while it ran.
    Cancelled,
    /// Capacity that stood ready and that no job used.
    Standing,
}

/// The bill of one attempt: the lines, their sum, and by which prices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// Line by line.
    pub lines: Vec<CostLine>,
    /// Their sum, dollars.
    pub amount_usd: UsdNanos,
    /// True when the provider did not say and we computed an estimate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
    /// Version of the price book that gave the prices.
    pub price_book: String,
}

/// What one attempt cost, all lines together. Stored once per attempt by its message id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostEvent {
    /// The job; `None` for standing cost, which belongs to a pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The job that this one runs again, whose cost is booked apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<JobId>,
    /// Which attempt, from 1; 0 for standing cost.
    pub attempt: u16,
    /// Names the attempt; missing for standing cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_key: Option<AttemptKey>,
    /// Who pays.
    pub tenant: Tenant,
    /// Which model, where a job was the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelToken>,
    /// Who bills.
    pub provider: ProviderId,
    /// Where.
    pub region: Region,
    /// What the money was good for.
    pub purpose: Purpose,
    /// The bill, line by line.
    pub lines: Vec<CostLine>,
    /// The sum of the lines, dollars.
    pub amount_usd: UsdNanos,
    /// True when the provider did not say and we computed an estimate.
    #[serde(default)]
    pub estimated: bool,
    /// Version of the price book that gave the prices.
    pub price_book: String,
    /// When it was booked.
    pub at_us: Micros,
}

impl CostEvent {
    /// The cost event of an attempt that nobody heard of again: what its own journal entry expected, as possibly wasted.
    pub fn abandoned(job: &Head, entry: &Entry, price_book: String, now: Micros) -> Self {
        let lines = entry.expected().unwrap_or_default().to_vec();
        let bill = Bill { lines, amount_usd: entry.expected_usd(), estimated: true, price_book };
        Self::of_attempt(job, (entry.attempt, entry.key), &entry.pool, Purpose::WastedFailure, bill, now)
    }

    /// The cost event of an attempt of `job` at `pool`, `attempt` being its number and key.
    pub fn of_attempt(
        job: &Head,
        attempt: (u16, Option<AttemptKey>),
        pool: &PoolId,
        purpose: Purpose,
        bill: Bill,
        now: Micros,
    ) -> Self {
        Self {
            job: Some(job.id),
            replay_of: job.replay_of,
            attempt: attempt.0,
            attempt_key: attempt.1,
            tenant: job.subject.tenant.clone(),
            model: Some(job.subject.model.clone()),
            provider: pool.provider.clone(),
            region: pool.region.clone(),
            purpose,
            lines: bill.lines,
            amount_usd: bill.amount_usd,
            estimated: bill.estimated,
            price_book: bill.price_book,
            at_us: now,
        }
    }

    /// The cost event of capacity at `pool` that no job used. It belongs to no job and no attempt; the default tenant pays.
    pub fn standing(pool: &PoolId, bill: Bill, at: Micros) -> Self {
        Self {
            job: None,
            replay_of: None,
            attempt: 0,
            attempt_key: None,
            tenant: Tenant::default(),
            model: None,
            provider: pool.provider.clone(),
            region: pool.region.clone(),
            purpose: Purpose::Standing,
            lines: bill.lines,
            amount_usd: bill.amount_usd,
            estimated: bill.estimated,
            price_book: bill.price_book,
            at_us: at,
        }
    }

    /// Standing cost where a bill is known only as a whole: `amount_usd` is what its jobs have not booked of it, in one line. `line` is
    /// what the line names: SKU, item and quantity.
    pub fn rest_of_bill(
        pool: &PoolId,
        line: (String, &'static str, u64),
        amount_usd: UsdNanos,
        price_book: &str,
        at: Micros,
    ) -> Self {
        let (sku, item, quantity) = line;
        let line = CostLine {
            sku,
            unit: Unit::Hour,
            quantity,
            item: item.into(),
            machine: None,
            unit_price_usd: amount_usd,
            amount_usd,
        };
        let price_book = price_book.to_owned();
        Self::standing(pool, Bill { lines: vec![line], amount_usd, estimated: false, price_book }, at)
    }

    /// Whether this is what a job's attempt at the pool cost, and not the pool's standing cost.
    pub fn is_of_job_at(&self, pool: &PoolId) -> bool {
        self.purpose != Purpose::Standing && self.provider == pool.provider && self.region == pool.region
    }

    /// The message id under which the event of a job's attempt is stored: one for the useful attempt of a job, one for each
    /// other attempt. `None` for standing cost.
    pub fn message_id(&self) -> Option<String> {
        let job = self.job?;
        Some(match (self.purpose, self.attempt_key) {
            (Purpose::Useful, _) => job.useful_message(&self.tenant),
            (_, Some(key)) => job.cost_message(&self.tenant, self.attempt, key),
            // Of an older version, which had no keys.
            (_, None) => format!("{job}:{}:{}:cost", self.tenant, self.attempt),
        })
    }
}
