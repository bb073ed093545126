//! What became of a job that is delivered again: it may have a result, or a journal, or neither.
//!
//! One scan per mailbox answers for all its redelivered jobs; a crash brings back many at once. A result is worth more than that the
//! job is done: the useful cost event follows from it, and is stored here if the worker died between the two.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    time::Duration,
};

use async_nats::Client;
use futures_util::{StreamExt as _, stream};
use schemas::{
    JobId, Mailbox, Micros, Tenant,
    cost::CostEvent,
    failure::{Failure, FailureClass},
    journal::Journal,
    reply::{JobResult, LogPlace},
    time::Clock as _,
};
use tracing::{error, info, warn};
use transport::{Publisher, SystemClock, api::ApiError, bucket::Bucket, replies::Address, stored};

use crate::{
    jobs::{Fate, Finding, Suspect},
    nats, untried,
};

/// Jobs of one mailbox that are looked at in parallel: enough to hide the way to the server.
const AT_ONCE: usize = 16;
/// The longest scan; beyond it the server is asked again when the job comes again.
const SCAN_WITHIN: Duration = Duration::from_secs(40);

/// Reads and repairs what is stored of jobs.
#[derive(Clone, Debug)]
pub struct LookUp {
    /// For questions to the server.
    pub client: Client,
    /// For cost events that are missing.
    pub publisher: Publisher,
    /// What attempts left behind.
    pub journals: Bucket,
}

impl LookUp {
    /// Looks up jobs of one mailbox.
    pub async fn run(self, suspects: Vec<Suspect>) -> Vec<Finding> {
        let Some(first) = suspects.first() else { return Vec::new() };
        let (tenant, mailbox) = (first.head.subject.tenant.clone(), first.head.mailbox.clone());
        let since = suspects.iter().map(|s| s.lease.stored_at).min().unwrap_or_default();
        let scanned = tokio::time::timeout(SCAN_WITHIN, self.scan(&tenant, &mailbox, since, &suspects)).await;
        let (done, costs) = match scanned {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                warn!(%error, jobs = suspects.len(), "cannot look for stored results; the jobs come again");
                return suspects.iter().map(|suspect| finding(suspect, Fate::Unknown, None, 0)).collect();
            }
            Err(_) => {
                warn!(jobs = suspects.len(), "looking for stored results took too long; the jobs come again");
                return suspects.iter().map(|suspect| finding(suspect, Fate::Unknown, None, 0)).collect();
            }
        };
        let (look_up, done, costs) = (&self, &done, &costs);
        stream::iter(suspects)
            .map(|suspect| async move {
                let found = look_up.one(&suspect, done.get(&suspect.head.id), costs).await;
                let (fate, leased, untried) = found;
                finding(&suspect, fate, leased, untried)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    /// The results of the mailbox, and, if one is of a job in question, its cost events.
    async fn scan(
        &self,
        tenant: &Tenant,
        mailbox: &Mailbox,
        since: Micros,
        suspects: &[Suspect],
    ) -> Result<(HashMap<JobId, Vec<u64>>, HashSet<String>), ApiError> {
        let done = stored::results_since(&self.client, tenant, mailbox, since).await?;
        let any = suspects.iter().any(|suspect| done.contains_key(&suspect.head.id));
        let costs = if any {
            stored::costs_since(&self.client, tenant, mailbox, since).await?
        } else {
            HashSet::new()
        };
        Ok((done, costs))
    }

    async fn one(
        &self,
        suspect: &Suspect,
        results: Option<&Vec<u64>>,
        costs: &HashSet<String>,
    ) -> (Fate, Option<Micros>, u64) {
        let mut leased = None;
        if suspect.confirm {
            let asked = SystemClock.now();
            if !nats::extend(&self.client, &suspect.lease).await {
                return (Fate::Unknown, None, 0);
            }
            leased = Some(asked);
        }
        let (fate, untried) = if let Some(results) = results {
            (self.done(suspect, results, costs).await, 0)
        } else {
            let (fate, untried) = tokio::join!(self.journal(suspect), self.untried(suspect));
            untried.map_or((Fate::Unknown, 0), |untried| (fate, untried))
        };
        (fate, leased, untried)
    }

    /// There are results with this id: of this job, or of an earlier one that had the same id.
    async fn done(&self, suspect: &Suspect, seqs: &[u64], costs: &HashSet<String>) -> Fate {
        let mut results = Vec::new();
        for seq in seqs {
            match stored::seen_result_at(&self.client, *seq).await {
                Ok(result) => results.extend(result),
                Err(error) => {
                    warn!(job = %suspect.head.id, %error, "stored result not read; the job comes again");
                    return Fate::Unknown;
                }
            }
        }
        for event in results.iter().filter_map(|result| missing_event(suspect, result, costs)) {
            info!(job = %suspect.head.id, "its result is stored and its cost was not; booked now");
            let Some(id) = event.message_id() else { continue };
            let (subject, headers, body) = Address::of(&suspect.head).cost(&event, id);
            if let Err(error) = self.publisher.publish(subject, headers, body).await {
                error!(job = %suspect.head.id, %error, "cost event not stored; the job comes again");
                return Fate::Unknown;
            }
        }
        fate(suspect, &results)
    }

    /// How often it was given back before anybody tried it; of a first delivery nobody need ask.
    async fn untried(&self, suspect: &Suspect) -> Option<u64> {
        if suspect.lease.delivered <= 1 {
            return Some(0);
        }
        let read = untried::read(&self.journals, &suspect.head).await;
        let warned = |error| warn!(job = %suspect.head.id, %error, "not read how often the job was given back; it comes again");
        read.map_err(warned).ok()
    }

    async fn journal(&self, suspect: &Suspect) -> Fate {
        let head = &suspect.head;
        match self.journals.get(&head.id.journal_key(&head.subject.tenant)).await {
            Ok(None) => Fate::Again(Journal::default()),
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(journal) => Fate::Again(journal),
                Err(error) => {
                    warn!(job = %head.id, %error, "journal does not read, going on without it");
                    Fate::Again(Journal::default())
                }
            },
            Err(error) => {
                warn!(job = %head.id, %error, "journal not read; the job comes again");
                Fate::Unknown
            }
        }
    }
}

fn finding(suspect: &Suspect, fate: Fate, leased: Option<Micros>, untried: u64) -> Finding {
    Finding { job: suspect.job, delivery: suspect.lease.consumer_seq, fate, leased, untried }
}

/// What became of a job, by the stored results that have its id, at least one of which was seen. One that does not read tells nothing
/// more than that the job has ended.
pub fn fate(suspect: &Suspect, results: &[JobResult]) -> Fate {
    if results.iter().any(|result| is_of(result, suspect)) {
        return Fate::Done;
    }
    results.first().map_or(Fate::Done, |result| Fate::IdTaken(id_taken(result)))
}

/// The useful cost event that follows from a job's result, if it is not among the message ids of `costs`: the worker died between
/// the two.
pub fn missing_event<S: BuildHasher>(
    suspect: &Suspect,
    result: &JobResult,
    costs: &HashSet<String, S>,
) -> Option<CostEvent> {
    let event =
        stored::useful_event(result, &suspect.head.subject.tenant).filter(|_| is_of(result, suspect))?;
    (!costs.contains(&event.message_id()?)).then_some(event)
}

/// Whether a result is of the very job that a lease is about. Results of older versions do not say.
fn is_of(result: &JobResult, suspect: &Suspect) -> bool {
    result.log.as_ref().is_none_or(|LogPlace { stream, seq }| {
        stream == suspect.lease.stream() && *seq == suspect.lease.stream_seq
    })
}

/// The failure of a job whose id an earlier job has.
pub fn id_taken(result: &JobResult) -> Failure {
    let place =
        result.log.as_ref().map_or_else(String::new, |log| format!(" at {} of {}", log.seq, log.stream));
    let text = format!(
        "field `id`: it belongs to an earlier job{place}, which ended {}; a new job needs a new id",
        result.finished_us
    );
    Failure::new(FailureClass::IdTaken, text)
}
