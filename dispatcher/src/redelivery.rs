//! What became of a job that is delivered again: it may have a result, or a journal, or neither.
//!
//! One scan per mailbox answers for all its redelivered jobs; a crash brings back many at once.

use std::collections::HashMap;

use async_nats::Client;
use schemas::{JobId, Mailbox, Tenant, journal::Journal};
use tracing::warn;
use transport::{bucket::Bucket, stored};

use crate::flight::Flight;

/// Redelivered jobs by mailbox, waiting for a scan.
#[derive(Debug, Default)]
pub struct Suspects {
    waiting: HashMap<(Tenant, Mailbox), Vec<Flight>>,
}

/// What a scan found out about one job.
#[derive(Debug)]
pub enum Fate {
    /// It has a result: finish the lease.
    Done(Box<Flight>),
    /// It has none: go on from its journal.
    Again(Box<Flight>),
    /// We could not find out; its lease runs out and it comes again.
    Unknown,
}

impl Suspects {
    /// Adds a job.
    pub fn add(&mut self, flight: Flight) {
        let key = (flight.job.subject.tenant.clone(), flight.job.mailbox.clone());
        self.waiting.entry(key).or_default().push(flight);
    }

    /// Takes everything that waits, a group per mailbox.
    pub fn take(&mut self) -> Vec<(Tenant, Mailbox, Vec<Flight>)> {
        self.waiting.drain().map(|((tenant, mailbox), flights)| (tenant, mailbox, flights)).collect()
    }

    /// Whether that job waits.
    pub fn contains(&self, job: JobId) -> bool {
        self.waiting.values().flatten().any(|flight| flight.job.id == job)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.values().map(Vec::len).sum()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Looks up the jobs of one mailbox.
pub async fn look_up(
    client: Client,
    journals: Bucket,
    tenant: Tenant,
    mailbox: Mailbox,
    flights: Vec<Flight>,
) -> Vec<Fate> {
    let Some(since) = flights.iter().map(|f| f.lease.stored_at).min() else {
        return Vec::new();
    };
    let done = match stored::results_since(&client, &tenant, &mailbox, since).await {
        Ok(done) => done,
        Err(error) => {
            warn!(%error, jobs = flights.len(), "cannot look for stored results; the jobs come again");
            return flights.into_iter().map(|_| Fate::Unknown).collect();
        }
    };
    let mut fates = Vec::with_capacity(flights.len());
    for mut flight in flights {
        if done.contains_key(&flight.job.id) {
            fates.push(Fate::Done(Box::new(flight)));
            continue;
        }
        fates.push(match journals.get(&flight.job.id.journal_key(&flight.job.subject.tenant)).await {
            Ok(None) => Fate::Again(Box::new(flight)),
            Ok(Some(bytes)) => match serde_json::from_slice::<Journal>(&bytes) {
                Ok(journal) => {
                    flight.journal = journal;
                    Fate::Again(Box::new(flight))
                }
                Err(error) => {
                    warn!(job = %flight.job.id, %error, "journal does not read, going on without it");
                    Fate::Again(Box::new(flight))
                }
            },
            Err(error) => {
                warn!(job = %flight.job.id, %error, "journal not read; the job comes again");
                Fate::Unknown
            }
        });
    }
    fates
}
