//! Ends jobs that no worker will: what the dead letter, the cost events and the terminal result say. Pure; `publish` stores them
//! and then finishes the lease.

mod publish;

use std::sync::Arc;

use schemas::{
    Codec, JobId, Mailbox, Micros, ModelToken, Region, Tenant, UsdNanos,
    cost::CostEvent,
    dead::Obituary,
    decision::Decision,
    failure::Failure,
    job::Head,
    journal::{Entry, Journal},
    lease::Lease,
    money,
    reply::{JobResult, LogPlace, Status, Timings},
    subjects,
};

use crate::jobs::{JobKey, record::Record};

/// Price book of a cost event whose lines come from a journal.
const AS_EXPECTED: &str = "journal";

/// A job that has ended without a worker. It holds no text: many may end at once, and what a dead letter needs is read from the log
/// when its turn comes.
#[derive(Debug)]
pub struct Ending {
    status: Status,
    failure: Failure,
    lease: Lease,
    journal: Journal,
    decision: Option<Decision>,
    subject: String,
    region: Region,
    model: ModelToken,
    /// Whom to tell, if that could be read.
    address: Option<(JobId, Tenant, Mailbox, Codec)>,
    head: Option<Arc<Head>>,
    /// Which job of a dispatcher's it is, if it is one.
    key: Option<JobKey>,
}

impl Ending {
    /// The end of a readable job.
    pub fn of(key: JobKey, record: &mut Record, status: Status, failure: Failure) -> Self {
        let head = record.head.clone();
        Self {
            status,
            failure,
            lease: record.lease.clone(),
            journal: std::mem::take(&mut record.journal),
            decision: record.decision.take(),
            subject: head.subject.to_string(),
            region: head.subject.region.clone(),
            model: head.subject.model.clone(),
            address: Some((head.id, head.subject.tenant.clone(), head.mailbox.clone(), head.codec)),
            head: Some(head),
            key: Some(key),
        }
    }

    /// Which job of a dispatcher's it is, if it is one.
    pub const fn key(&self) -> Option<JobKey> {
        self.key
    }

    /// How the job ends.
    pub const fn status(&self) -> Status {
        self.status
    }

    /// The job, if it could be read.
    pub const fn head(&self) -> Option<&Arc<Head>> {
        self.head.as_ref()
    }

    /// The lease to be finished.
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Why the job ends.
    pub const fn failure(&self) -> &Failure {
        &self.failure
    }

    /// The end of a message that is no job.
    pub fn broken(
        message: &async_nats::Message,
        lease: Lease,
        failure: Failure,
        region: Region,
        model: ModelToken,
    ) -> Self {
        let subject = message.subject.as_str().to_owned();
        let parsed: Option<subjects::JobSubject> = subject.parse().ok();
        let left = schemas::job::salvage(
            parsed.as_ref(),
            crate::nats::job_headers(message.headers.as_ref()),
            &message.payload,
        );
        let address = match (left.id, parsed, left.mailbox) {
            (Some(id), Some(subject), Some(mailbox)) => Some((id, subject.tenant, mailbox, left.codec)),
            _ => None,
        };
        Self {
            status: Status::Failed,
            failure,
            lease,
            journal: Journal::default(),
            decision: None,
            subject,
            region,
            model,
            address,
            head: None,
            key: None,
        }
    }

    /// The dead letter of a job that failed, without its text.
    pub fn letter(&self, now: Micros) -> Option<Obituary> {
        (self.status == Status::Failed).then(|| Obituary {
            job: self.address.as_ref().map(|a| a.0),
            subject: self.subject.clone(),
            stream: self.lease.stream().to_owned(),
            stream_seq: self.lease.stream_seq,
            delivered: self.lease.delivered,
            failure: self.failure.clone(),
            journal: self.journal.clone(),
            body_ref: None,
            at_us: now,
        })
    }

    /// The message id of the dead letter.
    pub fn letter_id(&self) -> String {
        self.address.as_ref().map_or_else(
            || format!("{}:{}:dead", self.lease.stream(), self.lease.stream_seq),
            |(job, tenant, ..)| job.dead_message(tenant),
        )
    }

    /// The cost events of attempts of which nobody will hear again, now that the job has ended: their runs may have been billed.
    pub fn unfinished(&self, now: Micros) -> Vec<CostEvent> {
        let Some(head) = &self.head else { return Vec::new() };
        let unheard = |e: &&Entry| e.expected().is_some_and(|lines| !lines.is_empty());
        // The worker that expected the cost knew the price book; its lines are exact.
        let event = |entry: &Entry| CostEvent::abandoned(head, entry, AS_EXPECTED.to_owned(), now);
        self.journal.entries.iter().filter(unheard).map(event).collect()
    }

    /// The terminal result, and to whom it goes; none if neither id nor mailbox could be read.
    pub fn result(&self, now: Micros) -> Option<(JobResult, &Tenant, &Mailbox, Codec)> {
        let (id, tenant, mailbox, codec) = self.address.as_ref()?;
        let last = self.journal.entries.last();
        let total_us = schemas::time::micros(now.since(self.lease.stored_at));
        let result = JobResult {
            job: *id,
            status: self.status,
            output: None,
            output_ref: None,
            usage: None,
            error: Some(self.failure.clone()),
            model: Some(self.model.clone()),
            lane: self.head.as_ref().map(|head| head.subject.lane),
            provider: last.map(|entry| entry.pool.provider.clone()),
            region: last.map(|entry| entry.pool.region.clone()),
            attempts: self.journal.last_attempt(),
            attempt_key: None,
            bill: None,
            log: Some(LogPlace { stream: self.lease.stream().to_owned(), seq: self.lease.stream_seq }),
            timings: Timings { queued_us: total_us, total_us, ..Timings::default() },
            cost_usd: self.spent(),
            labels: self.head.as_ref().map(|head| head.labels.clone()).unwrap_or_default(),
            replay_of: self.head.as_ref().and_then(|head| head.replay_of),
            decision: self.decision.clone(),
            finished_us: now,
        };
        Some((result, tenant, mailbox, *codec))
    }

    /// What the attempts cost together: those that ended, and those that were expected to cost something.
    fn spent(&self) -> UsdNanos {
        let expected = self.journal.entries.iter().map(Entry::expected_usd);
        money::total(expected.chain([self.journal.spent()])).unwrap_or(UsdNanos::new(u64::MAX))
    }
}
