//! Stores what an [`Ending`] says: dead letter, cost events, terminal result; then finishes the lease.

use async_nats::Client;
use bytes::Bytes;
use schemas::{
    Micros,
    failure::FailureClass,
    headers,
    reply::{JobResult, Status},
    subjects,
    time::Clock as _,
};
use tracing::{error, warn};
use transport::{
    Headers, PublishError, Publisher, SystemClock, acks::Acks, api::ApiError, payloads,
    publisher::HEADERS_MAX, replies::Address, stored,
};

use super::Ending;
use crate::{insist, look_up, metrics, nats::Parcel};

/// What a dead letter's headers need besides the obituary, at most.
const LETTER_HEADERS: usize = 2_048;
/// What the obituary may take, so that the server stores all headers.
const OBITUARY_MAX: usize = HEADERS_MAX - LETTER_HEADERS;
/// How much is kept of what a broken job's headers say, in characters.
const OWN_HEADER_MAX: usize = 128;

/// Why a dead letter was not stored.
#[derive(Debug, thiserror::Error)]
enum BuryError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Payload(#[from] payloads::PayloadError),
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Ending {
    /// Publishes everything, insisting until it is stored, then finishes the lease.
    pub async fn publish(self, client: Client, publisher: Publisher, acks: Acks) {
        let now = SystemClock.now();
        if let Err(error) = self.bury(&client, &publisher, now).await {
            // A dead letter that cannot be stored must not keep its job alive for ever.
            error!(%error, "dead letter not stored");
        }
        // The job's journal is not read again after this: what is not booked now is booked by nobody.
        self.book_unfinished(&publisher, now).await;
        match self.tell(&client, &publisher, now).await {
            Ok(()) => {}
            // It would be so after each delivery.
            Err(error @ PublishError::TooLarge { .. }) => {
                error!(%error, "terminal result not stored; the job ends without one");
            }
            Err(error) => {
                error!(%error, "terminal result not stored; the job will be delivered again");
                return;
            }
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

    async fn bury(&self, client: &Client, publisher: &Publisher, now: Micros) -> Result<(), BuryError> {
        let Some(mut letter) = self.letter(now) else { return Ok(()) };
        let found = stored::job_at(client, self.lease.stream(), self.lease.stream_seq).await?;
        let parcel = found.map_or_else(Parcel::default, |(headers, body)| Parcel { headers, body });
        let most = OBITUARY_MAX.min(client.max_payload().saturating_sub(LETTER_HEADERS));
        let (mut json, mut body) = (letter.header(most), parcel.body);
        if body.len() + json.len() + LETTER_HEADERS > client.max_payload() {
            // The letter and the text do not fit into one message: the text goes into the object store.
            let name = format!("dead/{}/{}", self.lease.stream(), self.lease.stream_seq);
            letter.body_ref = Some(payloads::put_bytes(client, &name, &body).await?);
            (json, body) = (letter.header(most), Bytes::new());
        }
        let own = crate::nats::job_headers(Some(&parcel.headers));
        let map = Headers::new()
            .with(headers::MESSAGE_ID, self.letter_id())
            .with(headers::OBITUARY, json)
            .with_some(headers::CONTENT_TYPE, own.content_type.map(short))
            .with_some(headers::SCHEMA, own.schema.map(short))
            .with_some(headers::TRACEPARENT, own.traceparent.and_then(headers::trace_context));
        let subject = subjects::dead(&self.region, &self.model, self.failure.class);
        publisher.publish(subject, map, body).await?;
        Ok(())
    }

    async fn book_unfinished(&self, publisher: &Publisher, now: Micros) {
        let Some(head) = &self.head else { return };
        for event in self.unfinished(now) {
            warn!(job = %head.id, attempt = event.attempt, provider = %event.provider, "its job has ended while an attempt may go on; booked as possibly wasted");
            insist::book(publisher, head, &event).await;
        }
    }

    async fn tell(&self, client: &Client, publisher: &Publisher, now: Micros) -> Result<(), PublishError> {
        let Some((mut result, tenant, mailbox, codec)) = self.result(now) else {
            warn!(
                subject = self.subject,
                error = self.failure.message,
                "a message is no job and names no mailbox"
            );
            return Ok(());
        };
        let traceparent = self.head.as_ref().and_then(|head| head.traceparent.as_deref());
        let address = Address { tenant, mailbox, codec, traceparent };
        if self.failure.class != FailureClass::IdTaken {
            let (subject, map, body) = address.result(&result);
            let stored = publisher.publish(subject, map, body).await?;
            if !stored.duplicate {
                return Ok(());
            }
            match stored::result_at(client, stored.seq).await {
                // A result of this very job came first, or the same one was sent twice.
                Ok(Some(first)) if !is_other_job(&first, &result) => return Ok(()),
                Ok(Some(first)) => result.error = Some(look_up::id_taken(&first)),
                Ok(None) => return Ok(()),
                Err(error) => {
                    warn!(%error, "the first result with this id is not read");
                    return Ok(());
                }
            }
        }
        result.status = Status::Failed;
        let (subject, map, body) = address.id_taken(&result, self.lease.stream_seq);
        publisher.publish(subject, map, body).await.map(drop)
    }
}

/// A header of a job, cut where it is longer than any of ours.
fn short(text: &str) -> String {
    text.chars().take(OWN_HEADER_MAX).collect()
}

/// Whether two results with one id are of two jobs.
fn is_other_job(one: &JobResult, other: &JobResult) -> bool {
    one.log.is_some() && one.log != other.log
}
