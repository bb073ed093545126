//! How often a job was given back before anybody tried it. A delivery that ends without an outcome counts against a job: it may have
//! killed whoever held it. One that a stopping dispatcher gave back does not, and whoever is delivered the job next must know so. So
//! the count stands beside the job's journal, written before the lease is given back; only the holder of the lease writes it.

use std::time::Duration;

use schemas::{job::Head, lease::Lease};
use tracing::debug;
use transport::bucket::{Bucket, ReadError};

fn key(head: &Head) -> String {
    format!("{}.untried", head.id.journal_key(&head.subject.tenant))
}

/// How many deliveries of a job were given back before anybody tried it.
pub async fn read(journals: &Bucket, head: &Head) -> Result<u64, ReadError> {
    let bytes = journals.get(&key(head)).await?;
    Ok(bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()).unwrap_or(0))
}

/// Notes that one more is, `lease`, unless that takes longer than `within`: the delivery counts then.
pub async fn note(journals: &Bucket, head: &Head, lease: &Lease, within: Duration) {
    let noted = tokio::time::timeout(within, async {
        // Nothing can have been noted before the first delivery.
        let before =
            if lease.delivered > 1 { read(journals, head).await.map_err(|e| e.to_string())? } else { 0 };
        let text = before.saturating_add(1).to_string();
        journals.put(&key(head), text.into()).await.map_err(|e| e.to_string())
    });
    match noted.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(job = %head.id, error, "not noted that nobody tried the job"),
        Err(_) => debug!(job = %head.id, "not noted in time that nobody tried the job"),
    }
}
