//! Books attempts whose workers have vanished, so that the ledger knows what their providers may bill.
//!
//! Somebody else may know better: a result of that very attempt may be stored, or the journal leads to its run, and the next
//! holder of the job goes on with it or books it. Only where neither is so is the attempt booked here, as possibly wasted. A
//! worker that was only stopped for long and books the attempt itself later uses the same message id.

use async_nats::Client;
use schemas::{
    Micros, UsdNanos,
    cost::{Bill, CostEvent, CostLine, Purpose},
    journal::Journal,
    prices::Unit,
    reply::JobResult,
    time::Clock as _,
};
use tracing::{debug, error, warn};
use transport::{Publisher, SystemClock, api::ApiError, bucket::Bucket, replies::Address, stored};

use crate::{jobs::Lost, metrics};

/// Price book of a cost event that follows from what a worker's heartbeat said an attempt would cost.
const AS_EXPECTED: &str = "expected";

impl Lost {
    /// The cost event to be stored for the attempt, by the stored results that have the job's id and by its journal; none if somebody
    /// else books the attempt.
    pub fn event(&self, results: &[JobResult], journal: &Journal, now: Micros) -> Option<CostEvent> {
        let (head, tenant) = (&self.head, &self.head.subject.tenant);
        if let Some(own) = results.iter().find(|result| result.attempt_key == Some(self.key)) {
            return stored::useful_event(own, tenant);
        }
        // Once the job is over, no holder will look into its journal.
        let in_journal = journal.entries.iter().any(|entry| entry.key == Some(self.key));
        if (results.is_empty() && in_journal) || self.expected == UsdNanos::ZERO {
            return None;
        }
        let line = CostLine {
            sku: self.sku.clone(),
            unit: Unit::Inference,
            quantity: 1,
            item: "expected".into(),
            unit_price_usd: self.expected,
            amount_usd: self.expected,
        };
        let (amount_usd, price_book) = (self.expected, AS_EXPECTED.into());
        let bill = Bill { lines: vec![line], amount_usd, estimated: true, price_book };
        let attempt = (self.attempt, Some(self.key));
        Some(CostEvent::of_attempt(head, attempt, &self.pool, Purpose::WastedFailure, bill, now))
    }
}

/// Books an attempt, unless somebody else does. Where the server does not say what is stored, the attempt is booked: its message id
/// makes that harmless if its worker has booked it.
pub async fn book(client: Client, publisher: Publisher, journals: Bucket, lost: Box<Lost>) {
    let (head, pool) = (&lost.head, &lost.pool);
    let results = match results(&client, &lost).await {
        Ok(results) => results,
        Err(error) => {
            warn!(job = %head.id, %error, "stored results not read");
            Vec::new()
        }
    };
    let journal = match journals.get(&head.id.journal_key(&head.subject.tenant)).await {
        Ok(Some(bytes)) => serde_json::from_slice::<Journal>(&bytes).unwrap_or_default(),
        Ok(None) | Err(_) => Journal::default(),
    };
    let Some(event) = lost.event(&results, &journal, SystemClock.now()) else {
        debug!(job = %head.id, attempt = lost.attempt, "the attempt of a vanished worker is left to the next holder");
        return;
    };
    if event.estimated {
        warn!(job = %head.id, attempt = lost.attempt, %pool, "its worker vanished; booked as possibly wasted");
        metrics::booked_lost();
    }
    let Some(id) = event.message_id() else { return };
    let (subject, headers, body) = Address::of(head).cost(&event, id);
    if let Err(error) = publisher.publish(subject, headers, body).await {
        error!(job = %head.id, %error, "cost event not stored");
    }
}

/// The stored results that have the job's id.
async fn results(client: &Client, lost: &Lost) -> Result<Vec<JobResult>, ApiError> {
    let (head, since) = (&lost.head, lost.lease.stored_at);
    let seqs = stored::results_since(client, &head.subject.tenant, &head.mailbox, since).await?;
    let mut results = Vec::new();
    for seq in seqs.get(&head.id).into_iter().flatten() {
        results.extend(stored::result_at(client, *seq).await?);
    }
    Ok(results)
}
