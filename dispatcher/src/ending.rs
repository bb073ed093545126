//! Ends jobs that no worker will: publishes the dead letter and the terminal result, then finishes the lease.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use bytes::Bytes;
use schemas::{
    Codec, JobId, Mailbox, Micros, ModelToken, Region, UsdNanos,
    cost::CostEvent,
    dead::Obituary,
    decision::Decision,
    failure::{Failure, FailureClass},
    headers,
    job::Head,
    journal::{Entry, Journal},
    lease::Lease,
    money,
    reply::{JobResult, LogPlace, Status, Timings},
    subjects,
    time::Clock as _,
};
use tracing::{error, warn};
use transport::{
    Headers, PublishError, Publisher, SystemClock, acks::Acks, payloads, replies::Address, stored,
};

use crate::{
    jobs::{JobKey, record::Record},
    metrics,
    nats::Parcel,
};

/// Price book of a cost event whose lines come from a journal.
const AS_EXPECTED: &str = "journal";

/// What a dead letter's headers need besides the obituary, at most.
const LETTER_HEADERS: usize = 2_048;

/// Why a dead letter was not stored.
#[derive(Debug, thiserror::Error)]
enum BuryError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Payload(#[from] payloads::PayloadError),
    #[error(transparent)]
    Api(#[from] transport::api::ApiError),
}

/// A job that has ended without a worker.
#[derive(Debug)]
pub struct Ending {
    status: Status,
    failure: Failure,
    lease: Lease,
    journal: Journal,
    decision: Option<Decision>,
    /// The job's own headers and body; without them they are read from the log.
    parcel: Option<Parcel>,
    subject: String,
    region: Region,
    model: ModelToken,
    /// Whom to tell, if that could be read.
    address: Option<(JobId, schemas::Tenant, Mailbox, Codec)>,
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
            parcel: record.parcel.clone(),
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

    /// What earlier attempts left.
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Why the job ends.
    pub const fn failure(&self) -> &Failure {
        &self.failure
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
            parcel: Some(Parcel { headers: message.headers.unwrap_or_default(), body: message.payload }),
            subject,
            region,
            model,
            address,
            head: None,
            key: None,
        }
    }

    /// Publishes everything, insisting until it is stored, then finishes the lease.
    pub async fn publish(mut self, client: Client, publisher: Publisher, acks: Acks) {
        let now = SystemClock.now();
        if self.status == Status::Failed
            && let Err(error) = self.bury(&client, &publisher, now).await
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
            && let Some(stored) = self.head.as_ref().and_then(|head| head.input_ref.as_ref())
            && let Err(error) = payloads::remove(&client, stored).await
        {
            warn!(%error, "a stored input is left to the server, which removes it in time");
        }
    }

    async fn bury(&mut self, client: &Client, publisher: &Publisher, now: Micros) -> Result<(), BuryError> {
        let parcel = match self.parcel.take() {
            Some(parcel) => parcel,
            None => match stored::job_at(client, self.lease.stream(), self.lease.stream_seq).await? {
                Some((headers, body)) => Parcel { headers, body },
                None => Parcel::default(),
            },
        };
        let mut obituary = Obituary {
            job: self.address.as_ref().map(|a| a.0),
            subject: self.subject.clone(),
            stream: self.lease.stream().to_owned(),
            stream_seq: self.lease.stream_seq,
            delivered: self.lease.delivered,
            failure: self.failure.clone(),
            journal: self.journal.clone(),
            body_ref: None,
            at_us: now,
        };
        let mut json = headers::json(&obituary);
        let mut body = parcel.body;
        if body.len() + json.len() + LETTER_HEADERS > client.max_payload() {
            // The letter and the text do not fit into one message: the text goes into the object store.
            let name = format!("dead/{}/{}", self.lease.stream(), self.lease.stream_seq);
            obituary.body_ref = Some(payloads::put_bytes(client, &name, &body).await?);
            json = headers::json(&obituary);
            body = Bytes::new();
        }
        let id = self.address.as_ref().map_or_else(
            || format!("{}:{}:dead", self.lease.stream(), self.lease.stream_seq),
            |a| a.0.dead_message(&a.1),
        );
        let own = crate::nats::job_headers(Some(&parcel.headers));
        let map = Headers::new()
            .with(headers::MESSAGE_ID, id)
            .with(headers::OBITUARY, json)
            .with_some(headers::CONTENT_TYPE, own.content_type)
            .with_some(headers::SCHEMA, own.schema)
            .with_some(headers::TRACEPARENT, own.traceparent);
        let subject = subjects::dead(&self.region, &self.model, self.failure.class);
        publisher.publish(subject, map, body).await?;
        Ok(())
    }

    /// Attempts of which nobody will hear again, now that the job has ended: their runs may have been billed.
    async fn book_unfinished(&self, publisher: &Publisher, now: Micros) -> Result<(), PublishError> {
        let Some(job) = &self.head else { return Ok(()) };
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
            lane: self.head.as_ref().map(|j| j.subject.lane),
            provider: last.map(|e| e.pool.provider.clone()),
            region: last.map(|e| e.pool.region.clone()),
            attempts: self.journal.last_attempt(),
            attempt_key: None,
            bill: None,
            log: Some(LogPlace { stream: self.lease.stream().to_owned(), seq: self.lease.stream_seq }),
            timings: Timings { queued_us: total_us, total_us, ..Timings::default() },
            cost_usd: self.spent(),
            labels: self.head.as_ref().map(|j| j.labels.clone()).unwrap_or_default(),
            replay_of: self.head.as_ref().and_then(|j| j.replay_of),
            decision: self.decision.clone(),
            finished_us: now,
        };
        let traceparent = self.head.as_ref().and_then(|j| j.traceparent.as_deref());
        let address = Address { tenant, mailbox, codec: *codec, traceparent };
        let (subject, map, body) = if self.failure.class == FailureClass::IdTaken {
            address.result_of_taken_id(&result, self.lease.stream_seq)
        } else {
            address.result(&result)
        };
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
