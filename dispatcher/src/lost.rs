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
use tracing::{debug, warn};
use transport::{Publisher, SystemClock, api::ApiError, bucket::Bucket, stored};

use crate::{
    insist::{self, Pauses},
    jobs::Lost,
    metrics,
};

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
            machine: None,
        };
        let (amount_usd, price_book) = (self.expected, AS_EXPECTED.into());
        let bill = Bill { lines: vec![line], amount_usd, estimated: true, price_book };
        let attempt = (self.attempt, Some(self.key));
        Some(CostEvent::of_attempt(head, attempt, &self.pool, Purpose::WastedFailure, bill, now))
    }
}

/// Books an attempt, unless somebody else does. Asks until the server says what is stored: booked on a guess, an attempt that gave
/// the result would be booked twice.
pub async fn book(client: Client, publisher: Publisher, journals: Bucket, lost: Box<Lost>) {
    let (head, pool) = (&lost.head, &lost.pool);
    let mut pauses = Pauses::default();
    let (results, journal) = loop {
        match known(&client, &journals, &lost).await {
            Ok(known) => break known,
            Err(error) => {
                warn!(job = %head.id, error, "what is stored of a lost attempt is not known; asking again");
            }
        }
        pauses.wait().await;
    };
    let Some(event) = lost.event(&results, &journal, SystemClock.now()) else {
        debug!(job = %head.id, attempt = lost.attempt, "the attempt of a vanished worker is left to the next holder");
        return;
    };
    if event.estimated {
        warn!(job = %head.id, attempt = lost.attempt, %pool, "its worker vanished; booked as possibly wasted");
        metrics::booked_lost();
    }
    insist::book(&publisher, head, &event).await;
}

/// What is stored of the job: its results and its journal, or why the server does not say.
async fn known(client: &Client, journals: &Bucket, lost: &Lost) -> Result<(Vec<JobResult>, Journal), String> {
    let head = &lost.head;
    let results = results(client, lost).await.map_err(|error| error.to_string())?;
    let found = journals.get(&head.id.journal_key(&head.subject.tenant)).await;
    let bytes = found.map_err(|error| error.to_string())?;
    Ok((results, bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()))
}

/// The stored results that have the job's id.
async fn results(client: &Client, lost: &Lost) -> Result<Vec<JobResult>, ApiError> {
    let (head, since) = (&lost.head, lost.lease.stored_at);
    let seqs = stored::results_since(client, &head.subject.tenant, &head.mailbox, since).await?;
    let mut results = Vec::new();
    for seq in seqs.get(&head.id).into_iter().flatten() {
        results.extend(stored::seen_result_at(client, *seq).await?);
    }
    Ok(results)
}
