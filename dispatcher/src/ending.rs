//! Ends jobs that no worker will: publishes the dead letter and the terminal result, then finishes the lease.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use schemas::{
    Codec, JobId, Mailbox, Micros, ModelToken, Region, UsdNanos,
    cost::CostEvent,
    dead::Obituary,
    decision::Decision,
    failure::Failure,
    headers,
    job::Job,
    journal::{Entry, Journal},
    lease::Lease,
    money,
    reply::{JobResult, LogPlace, Status, Timings},
    subjects,
    time::Clock as _,
};
use tracing::{error, warn};
use transport::{Headers, PublishError, Publisher, SystemClock, acks::Acks, payloads, replies::Address};

use crate::{flight::Flight, metrics};

/// Price book of a cost event whose lines come from a journal.
const AS_EXPECTED: &str = "journal";

/// A job that has ended without a worker.
pub struct Ending {
    status: Status,
    failure: Failure,
    lease: Lease,
    journal: Journal,
    decision: Option<Decision>,
    headers: HeaderMap,
    payload: Bytes,
    subject: String,
    region: Region,
    model: ModelToken,
    /// Whom to tell, if that could be read.
    address: Option<(JobId, schemas::Tenant, Mailbox, Codec)>,
    job: Option<Box<Job>>,
}

impl Ending {
    /// The end of a readable job.
    pub fn of(flight: Flight, status: Status, failure: Failure) -> Self {
        let job = flight.job;
        Self {
            status,
            failure,
            lease: flight.lease,
            journal: flight.journal,
            decision: flight.decision,
            headers: flight.headers,
            payload: flight.payload,
            subject: job.subject.to_string(),
            region: job.subject.region.clone(),
            model: job.subject.model.clone(),
            address: Some((job.id, job.subject.tenant.clone(), job.mailbox.clone(), job.codec)),
            job: Some(Box::new(job)),
        }
    }

    /// The end of a message that is no job.
    pub fn broken(
        message: async_nats::Message,
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
            headers: message.headers.unwrap_or_default(),
            payload: message.payload,
            subject,
            region,
            model,
            address,
            job: None,
        }
    }

    /// Publishes everything, insisting until it is stored, then finishes the lease.
    pub async fn publish(self, client: async_nats::Client, publisher: Publisher, acks: Acks) {
        let now = SystemClock.now();
        if self.status == Status::Failed
            && let Err(error) = self.bury(&publisher, now).await
        {
            // A dead letter that cannot be stored must not keep its job alive for ever.
            error!(%error, "dead letter not stored");
        }
        if let Err(error) = self.book_unfinished(&publisher, now).await {
            error!(%error, "cost event not stored");
        }
        if let Err(error) = self.tell(&publisher, now).await {
            error!(%error, "terminal result not stored; the job will be delivered again");
            return;
        }
        metrics::ended(self.status);
        acks.ack(self.lease).await;
        // A job that failed may be replayed; its input stays until the server removes it.
        if self.status != Status::Failed
            && let Some(stored) = self.job.as_ref().and_then(|job| job.input.stored())
            && let Err(error) = payloads::remove(&client, stored).await
        {
            warn!(%error, "a stored input is left to the server, which removes it in time");
        }
    }

    async fn bury(&self, publisher: &Publisher, now: Micros) -> Result<(), PublishError> {
        let obituary = Obituary {
            job: self.address.as_ref().map(|a| a.0),
            subject: self.subject.clone(),
            stream: self.lease.stream().to_owned(),
            stream_seq: self.lease.stream_seq,
            delivered: self.lease.delivered,
            failure: self.failure.clone(),
            journal: self.journal.clone(),
            at_us: now,
        };
        let json =
            serde_json::to_string(&obituary).expect("an obituary has only string keys and no failing parts");
        let id = self.address.as_ref().map_or_else(
            || format!("{}:{}:dead", self.lease.stream(), self.lease.stream_seq),
            |a| a.0.dead_message(&a.1),
        );
        let own = crate::nats::job_headers(Some(&self.headers));
        let map = Headers::new()
            .with(headers::MESSAGE_ID, id)
            .with(headers::OBITUARY, json)
            .with_some(headers::CONTENT_TYPE, own.content_type)
            .with_some(headers::SCHEMA, own.schema)
            .with_some(headers::TRACEPARENT, own.traceparent);
        let subject = subjects::dead(&self.region, &self.model, self.failure.class);
        publisher.publish(subject, map, self.payload.clone()).await.map(drop)
    }

    /// Attempts of which nobody will hear again, now that the job has ended: their runs may have been billed.
    async fn book_unfinished(&self, publisher: &Publisher, now: Micros) -> Result<(), PublishError> {
        let Some(job) = &self.job else { return Ok(()) };
        for entry in
            self.journal.entries.iter().filter(|e| e.expected().is_some_and(|lines| !lines.is_empty()))
        {
            warn!(job = %job.id, attempt = entry.attempt, pool = %entry.pool, "its job has ended while an attempt may go on; booked as possibly wasted");
            // The worker that expected the cost knew the price book; its lines are exact.
            let event = CostEvent::abandoned(job, entry, AS_EXPECTED.to_owned(), now);
            let id = event.message_id().unwrap_or_default();
            let (subject, map, body) = Address::of(job).cost(&event, id);
            publisher.publish(subject, map, body).await?;
        }
        Ok(())
    }

    /// What the attempts cost together: those that ended, and those that were expected to cost something.
    fn spent(&self) -> UsdNanos {
        let expected = self.journal.entries.iter().map(Entry::expected_usd);
        money::total(expected.chain([self.journal.spent()])).unwrap_or(UsdNanos::new(u64::MAX))
    }

    async fn tell(&self, publisher: &Publisher, now: Micros) -> Result<(), PublishError> {
        let Some((id, tenant, mailbox, codec)) = &self.address else {
            warn!(
                subject = self.subject,
                error = self.failure.message,
                "a message is no job and names no mailbox"
            );
            return Ok(());
        };
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
            lane: self.job.as_ref().map(|j| j.subject.lane),
            provider: last.map(|e| e.pool.provider.clone()),
            region: last.map(|e| e.pool.region.clone()),
            attempts: self.journal.last_attempt(),
            attempt_key: None,
            bill: None,
            log: Some(LogPlace { stream: self.lease.stream().to_owned(), seq: self.lease.stream_seq }),
            timings: Timings { queued_us: total_us, total_us, ..Timings::default() },
            cost_usd: self.spent(),
            labels: self.job.as_ref().map(|j| j.labels.clone()).unwrap_or_default(),
            replay_of: self.job.as_ref().and_then(|j| j.replay_of),
            decision: self.decision.clone(),
            finished_us: now,
        };
        let traceparent = self.job.as_ref().and_then(|j| j.traceparent.as_deref());
        let (subject, map, body) = Address { tenant, mailbox, codec: *codec, traceparent }.result(&result);
        publisher.publish(subject, map, body).await.map(drop)
    }
}

/// Gives a lease back at once, for another dispatcher. Only while it is surely ours.
pub async fn give_back(client: &async_nats::Client, lease: &Lease) {
    let sent = client.publish(lease.subject().to_owned(), Bytes::from_static(b"-NAK")).await;
    if let Err(error) = sent {
        warn!(%error, "lease not given back, it comes back by itself");
    }
}

/// Extends a lease and makes sure of it. True when the server answered.
pub async fn extend(client: &async_nats::Client, lease: &Lease) -> bool {
    let request =
        async_nats::Request::new().payload(Bytes::from_static(b"+WPI")).timeout(Some(Duration::from_secs(2)));
    client.send_request(lease.subject().to_owned(), request).await.is_ok()
}
