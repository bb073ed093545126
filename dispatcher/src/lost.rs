//! Books attempts whose workers have vanished, so that the ledger knows what their providers may bill.
//!
//! Somebody else may know better: a result of that very attempt may be stored, or the journal leads to its run, and the next
//! holder of the job goes on with it or books it. Only where neither is so is the attempt booked here, as possibly wasted. A
//! worker that was only stopped for long and books the attempt itself later uses the same message id.

use std::collections::VecDeque;

use async_nats::Client;
use futures_util::{StreamExt as _, stream};
use schemas::{
    Micros, UsdNanos,
    cost::{Bill, CostEvent, CostLine, Purpose},
    journal::Journal,
    prices::Unit,
    reply::JobResult,
    time::Clock as _,
};
use tracing::{debug, warn};
use transport::{Publisher, SystemClock, bucket::Bucket, stored};

use crate::{
    insist::{self, Pauses},
    jobs::Lost,
    metrics,
};

/// Jobs of one mailbox that are looked at in parallel: enough to hide the way to the server.
const AT_ONCE: usize = 16;
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

/// Puts an attempt to those of the same mailbox that wait, or behind the last.
pub fn queue(waiting: &mut VecDeque<Vec<Lost>>, lost: Lost) {
    let address = |lost: &Lost| (lost.head.subject.tenant.clone(), lost.head.mailbox.clone());
    let own = address(&lost);
    let same = |group: &&mut Vec<Lost>| group.first().is_some_and(|first| address(first) == own);
    match waiting.iter_mut().find(same) {
        Some(group) => group.push(lost),
        None => waiting.push_back(vec![lost]),
    }
}

/// Books attempts at jobs of one mailbox, unless somebody else does. Asks until the server says what is stored: booked on a guess, an
/// attempt that gave the result would be booked twice. One scan of the mailbox answers for all of them.
pub async fn book(client: Client, publisher: Publisher, journals: Bucket, mut left: Vec<Lost>) {
    let mut pauses = Pauses::default();
    loop {
        left = book_once(&client, &publisher, &journals, left).await;
        if left.is_empty() {
            return;
        }
        pauses.wait().await;
    }
}

/// Books those of which the server says what is stored, and gives the others.
async fn book_once(client: &Client, publisher: &Publisher, journals: &Bucket, all: Vec<Lost>) -> Vec<Lost> {
    let Some(first) = all.first() else { return all };
    let (tenant, mailbox) = (&first.head.subject.tenant, &first.head.mailbox);
    let since = all.iter().map(|lost| lost.lease.stored_at).min().unwrap_or_default();
    let seqs = match stored::results_since(client, tenant, mailbox, since).await {
        Ok(seqs) => seqs,
        Err(error) => {
            warn!(%error, attempts = all.len(), "cannot look for results of lost attempts; asking again");
            return all;
        }
    };
    let seqs = &seqs;
    let booked = stream::iter(all).map(|lost| async move {
        let of_job = seqs.get(&lost.head.id).map_or(&[][..], Vec::as_slice);
        match known(client, journals, &lost, of_job).await {
            Ok((results, journal)) => {
                book_one(publisher, &lost, &results, &journal).await;
                None
            }
            Err(error) => {
                warn!(job = %lost.head.id, error, "what is stored of a lost attempt is not known; asking again");
                Some(lost)
            }
        }
    });
    booked.buffer_unordered(AT_ONCE).filter_map(|left| async { left }).collect().await
}

async fn book_one(publisher: &Publisher, lost: &Lost, results: &[JobResult], journal: &Journal) {
    let (head, pool) = (&lost.head, &lost.pool);
    let Some(event) = lost.event(results, journal, SystemClock.now()) else {
        debug!(job = %head.id, attempt = lost.attempt, "the attempt of a vanished worker is left to the next holder");
        return;
    };
    if event.estimated {
        warn!(job = %head.id, attempt = lost.attempt, %pool, "its worker vanished; booked as possibly wasted");
        metrics::booked_lost();
    }
    insist::book(publisher, head, &event).await;
}

/// What is stored of the job: its results, which were seen at `seqs`, and its journal, or why the server does not say.
async fn known(
    client: &Client,
    journals: &Bucket,
    lost: &Lost,
    seqs: &[u64],
) -> Result<(Vec<JobResult>, Journal), String> {
    let head = &lost.head;
    let mut results = Vec::new();
    for seq in seqs {
        results.extend(stored::seen_result_at(client, *seq).await.map_err(|error| error.to_string())?);
    }
    let found = journals.get(&head.id.journal_key(&head.subject.tenant)).await;
    let bytes = found.map_err(|error| error.to_string())?;
    Ok((results, bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schemas::{
        AttemptKey,
        job::{Head, JobHeaders},
    };

    use super::*;

    fn lost(tenant: &str) -> Lost {
        let body = br#"{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x"}"#;
        let subject = format!("beacon.jobs.us-east.llama-3-2-1b.high.{tenant}").parse().unwrap();
        let head = Head::read(subject, JobHeaders::default(), body, Micros::new(1)).unwrap();
        Lost {
            head: Arc::new(head),
            lease: "$JS.ACK.JOBS_us-east.d.1.1.1.1.0".parse().unwrap(),
            attempt: 1,
            key: AttemptKey::of("x", 1),
            pool: "golem@us-east".parse().unwrap(),
            sku: "standard".into(),
            expected: UsdNanos::new(1),
        }
    }

    #[test]
    fn lost_attempts_of_one_mailbox_wait_together_and_mailboxes_in_order() {
        let mut waiting = VecDeque::new();
        for tenant in ["acme", "globex", "acme", "acme"] {
            queue(&mut waiting, lost(tenant));
        }
        let groups: Vec<_> =
            waiting.iter().map(|group| (group[0].head.subject.tenant.to_string(), group.len())).collect();
        assert_eq!(groups, [("acme".to_owned(), 3), ("globex".to_owned(), 1)]);
    }
}
