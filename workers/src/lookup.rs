//! Looks for what is stored of a job already, when our own lease is not sure any more.
//!
//! One look is a scan of a mailbox. A worker that was stopped for a while asks for all its jobs at once, so a scan is shared by
//! all who asked before it began.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::Client;
use schemas::{JobId, Mailbox, Micros, Tenant, job::Head};
use tokio::time::Instant;
use transport::{api::ApiError, stored};

use crate::attempt::course::Found;

/// Looks, one scan of a mailbox at a time.
#[derive(Debug)]
pub struct Lookup {
    client: Client,
    boxes: Mutex<HashMap<(Tenant, Mailbox), Arc<Shared>>>,
}

/// One mailbox.
#[derive(Debug)]
struct Shared {
    /// The earliest moment that anybody who waits for the next scan wants to look from.
    since: AtomicU64,
    scan: tokio::sync::Mutex<Option<Scan>>,
}

/// What a mailbox held.
#[derive(Debug)]
struct Scan {
    begun: Instant,
    since: Micros,
    results: HashMap<JobId, Vec<u64>>,
    costs: HashSet<String>,
}

impl Scan {
    async fn read(
        client: &Client,
        tenant: &Tenant,
        mailbox: &Mailbox,
        since: Micros,
    ) -> Result<Self, ApiError> {
        let begun = Instant::now();
        let results = stored::results_since(client, tenant, mailbox, since).await?;
        let costs = stored::costs_since(client, tenant, mailbox, since).await?;
        Ok(Self { begun, since, results, costs })
    }
}

impl Lookup {
    /// Looks through this connection.
    pub fn new(client: Client) -> Self {
        Self { client, boxes: Mutex::default() }
    }

    /// The results stored for a job since `since`, and whether the cost event with this message id is.
    pub async fn find(&self, job: &Head, cost: &str, since: Micros) -> Result<Found, ApiError> {
        let key = (job.subject.tenant.clone(), job.mailbox.clone());
        let shared = self.share(&key);
        let found = self.seek(&shared, &key, job.id, cost, since).await;
        drop(shared);
        // The last who looked takes the scan away.
        self.lock().retain(|_, shared| Arc::strong_count(shared) > 1);
        let (places, booked) = found?;
        let mut results = Vec::with_capacity(places.len());
        for place in places {
            results.extend(stored::seen_result_at(&self.client, place).await?);
        }
        Ok(Found { results, booked })
    }

    async fn seek(
        &self,
        shared: &Shared,
        (tenant, mailbox): &(Tenant, Mailbox),
        job: JobId,
        cost: &str,
        since: Micros,
    ) -> Result<(Vec<u64>, bool), ApiError> {
        let asked = Instant::now();
        shared.since.fetch_min(since.get(), Ordering::AcqRel);
        let mut scan = shared.scan.lock().await;
        if !scan.as_ref().is_some_and(|scan| scan.begun >= asked && scan.since <= since) {
            let since = Micros::new(shared.since.swap(u64::MAX, Ordering::AcqRel)).min(since);
            *scan = Some(Scan::read(&self.client, tenant, mailbox, since).await?);
        }
        let found = scan
            .as_ref()
            .map(|scan| (scan.results.get(&job).cloned().unwrap_or_default(), scan.costs.contains(cost)));
        Ok(found.unwrap_or_default())
    }

    fn share(&self, key: &(Tenant, Mailbox)) -> Arc<Shared> {
        let empty =
            || Arc::new(Shared { since: AtomicU64::new(u64::MAX), scan: tokio::sync::Mutex::new(None) });
        self.lock().entry(key.clone()).or_insert_with(empty).clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Tenant, Mailbox), Arc<Shared>>> {
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
