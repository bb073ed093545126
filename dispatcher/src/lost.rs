//! Books attempts whose workers have vanished, so that the ledger knows what their providers may bill.
//!
//! Somebody else may know better: a result of that very attempt may be stored, or the journal leads to its run, and the next
//! holder of the job goes on with it or books it. Only where neither is so is the attempt booked here, as possibly wasted. A
//! worker that was only stopped for long and books the attempt itself later uses the same message id.

use async_nats::Client;
use schemas::{
    UsdNanos,
    cost::{Bill, CostEvent, CostLine, Purpose},
    journal::Journal,
    prices::Unit,
    time::Clock as _,
};
use tracing::{debug, error, warn};
use transport::{Publisher, SystemClock, bucket::Bucket, replies::Address, stored};

use crate::{jobs::Lost, metrics};

/// Price book of a cost event that follows from what a worker's heartbeat said an attempt would cost.
const AS_EXPECTED: &str = "expected";

/// What became of an attempt whose worker has vanished.
enum Known {
    /// It gave the job's result.
    Useful(Box<CostEvent>),
    /// The next holder of the job reads of it in the journal.
    InJournal,
    /// Nothing.
    Nothing,
}

/// Books an attempt, unless somebody else does.
pub async fn book(client: Client, publisher: Publisher, journals: Bucket, lost: Box<Lost>) {
    let (head, pool) = (&lost.head, &lost.pool);
    let event = match known(&client, &journals, &lost).await {
        Known::InJournal => {
            debug!(job = %head.id, attempt = lost.attempt, "the journal leads to the attempt; left to the next holder");
            return;
        }
        Known::Useful(event) => *event,
        Known::Nothing if lost.expected == UsdNanos::ZERO => return,
        Known::Nothing => {
            warn!(job = %head.id, attempt = lost.attempt, %pool, "its worker vanished; booked as possibly wasted");
            metrics::booked_lost();
            let line = CostLine {
                sku: lost.sku.clone(),
                unit: Unit::Inference,
                quantity: 1,
                item: "expected".into(),
                unit_price_usd: lost.expected,
                amount_usd: lost.expected,
            };
            let bill = Bill {
                lines: vec![line],
                amount_usd: lost.expected,
                estimated: true,
                price_book: AS_EXPECTED.into(),
            };
            let attempt = (lost.attempt, Some(lost.key));
            CostEvent::of_attempt(head, attempt, pool, Purpose::WastedFailure, bill, SystemClock.now())
        }
    };
    let Some(id) = event.message_id() else { return };
    let (subject, headers, body) = Address::of(head).cost(&event, id);
    if let Err(error) = publisher.publish(subject, headers, body).await {
        error!(job = %head.id, %error, "cost event not stored");
    }
}

/// What is stored of an attempt. Where the server does not say, the attempt is booked: the message id makes that harmless if its
/// worker has booked it.
async fn known(client: &Client, journals: &Bucket, lost: &Lost) -> Known {
    let (head, tenant) = (&lost.head, &lost.head.subject.tenant);
    let results = stored::results_since(client, tenant, &head.mailbox, lost.lease.stored_at).await;
    let results = results.unwrap_or_else(|error| {
        warn!(job = %head.id, %error, "stored results not read");
        std::collections::HashMap::new()
    });
    let seqs = results.get(&head.id).map_or(&[][..], Vec::as_slice);
    for seq in seqs {
        if let Ok(Some(result)) = stored::result_at(client, *seq).await
            && result.attempt_key == Some(lost.key)
        {
            return stored::useful_event(&result, tenant)
                .map_or(Known::InJournal, |event| Known::Useful(Box::new(event)));
        }
    }
    if !seqs.is_empty() {
        // The job is over, so no holder will look into its journal.
        return Known::Nothing;
    }
    let journal = match journals.get(&head.id.journal_key(tenant)).await {
        Ok(Some(bytes)) => serde_json::from_slice::<Journal>(&bytes).unwrap_or_default(),
        Ok(None) | Err(_) => Journal::default(),
    };
    let named = journal.entries.iter().any(|entry| entry.key == Some(lost.key));
    if named { Known::InJournal } else { Known::Nothing }
}
