//! Standing cost where a provider tells only its whole bill: what is left of it when jobs have booked their part. Pure.
//!
//! ```text
//!  to book now = billed so far - booked by jobs - booked as standing before
//! ```
//!
//! Where jobs have booked more than is billed so far (bills lag), nothing is booked until the bill has caught up. As with a span of
//! usage, what is to be booked is first written down as pending, in place of the account that was read.

use schemas::{Micros, PoolId, UsdNanos, cost::CostEvent};
use serde::{Deserialize, Serialize};

/// A pool's account with a provider that tells its whole bill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Bills count from here.
    pub from_us: Micros,
    /// When the stream that holds the ledger was made; another one is read from its start.
    pub ledger_made: String,
    /// The last message of the ledger that was read.
    pub ledger_seq: u64,
    /// What jobs of this pool booked up to there.
    pub jobs_usd: UsdNanos,
    /// What was booked as standing cost.
    pub standing_usd: UsdNanos,
    /// Events stored so far; names the next one.
    pub events: u64,
    /// What may be stored or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// Standing cost on its way into the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// How much.
    pub amount_usd: UsdNanos,
    /// When.
    pub at_us: Micros,
}

impl Rest {
    /// A new account: nothing that was billed or booked before is in it.
    pub fn begin(now: Micros, (ledger_made, ledger_seq): (String, u64)) -> Self {
        Self { from_us: now, ledger_made, ledger_seq, ..Self::default() }
    }

    /// Takes in a cost event of the ledger.
    pub fn read(&mut self, pool: &PoolId, event: &CostEvent) {
        if event.is_of_job_at(pool) {
            self.jobs_usd = self.jobs_usd.saturating_add(event.amount_usd);
        }
    }

    /// The account with what is left of `billed` as pending; `None` where nothing is.
    pub fn advance(&self, billed: UsdNanos, now: Micros) -> Option<Self> {
        let booked = self.jobs_usd.saturating_add(self.standing_usd);
        let amount_usd = billed.checked_sub(booked).filter(|rest| *rest > UsdNanos::ZERO)?;
        Some(Self { pending: Some(Pending { amount_usd, at_us: now }), ..self.clone() })
    }

    /// The cost event of what is pending and its message id.
    pub fn event(&self, pool: &PoolId, sku: &str, price_book: &str) -> Option<(CostEvent, String)> {
        let Pending { amount_usd, at_us } = self.pending.clone()?;
        let line = (sku.to_owned(), "rest_of_bill", 0);
        let event = CostEvent::rest_of_bill(pool, line, amount_usd, price_book, at_us);
        Some((event, format!("rest:{pool}:{}:cost", self.events)))
    }

    /// The account once what is pending is booked.
    #[must_use]
    pub fn settled(mut self) -> Self {
        if let Some(pending) = self.pending.take() {
            self.standing_usd = self.standing_usd.saturating_add(pending.amount_usd);
            self.events += 1;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use schemas::cost::Purpose;

    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn usd(nanos: u64) -> UsdNanos {
        UsdNanos::new(nanos)
    }

    #[test]
    fn the_rest_of_a_bill_is_booked_once_and_a_bill_that_lags_is_waited_for() {
        let pool: PoolId = "runpod@us-east".parse().unwrap();
        let mut account = Rest::begin(NOW, ("made".into(), 7));
        let (mut job, _) = account.advance(usd(1), NOW).unwrap().event(&pool, "L4", "p").unwrap();
        assert_eq!(job.purpose, Purpose::Standing);
        account.read(&pool, &job);
        assert_eq!(account.jobs_usd, UsdNanos::ZERO, "standing cost is no job's");
        (job.purpose, job.amount_usd) = (Purpose::WastedFailure, usd(300));
        account.read(&pool, &job);
        account.read(&"modal@us-east".parse().unwrap(), &job);
        assert_eq!(account.advance(usd(300), NOW), None, "jobs have booked all of it");
        assert_eq!(account.advance(usd(200), NOW), None, "the bill lags");
        let pending = account.advance(usd(1_000), NOW).unwrap();
        let (event, id) = pending.event(&pool, "L4", "p").unwrap();
        assert_eq!((event.amount_usd, id.as_str()), (usd(700), "rest:runpod@us-east:0:cost"));
        let text = serde_json::to_string(&pending).unwrap();
        assert_eq!(serde_json::from_str::<Rest>(&text).unwrap(), pending);
        let booked = pending.settled();
        assert_eq!((booked.event(&pool, "L4", "p"), booked.advance(usd(1_000), NOW)), (None, None));
        let (event, id) = booked.advance(usd(1_050), NOW).unwrap().event(&pool, "L4", "p").unwrap();
        assert_eq!((event.amount_usd, id.as_str()), (usd(50), "rest:runpod@us-east:1:cost"));
    }
}
