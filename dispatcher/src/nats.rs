//! The dispatcher's messages: pulls, deliveries, handovers, returns. Reads and writes them, decides nothing.

use std::{collections::VecDeque, time::Duration};

use async_nats::{Client, HeaderMap, HeaderValue, Message};
use bytes::Bytes;
use schemas::{
    Lane, Micros, ModelToken, Region,
    handover::{Handover, Order, Return},
    headers,
    job::{Job, JobError, JobHeaders},
    lease::{Lease, LeaseError},
    subjects::{self, JobSubject},
    topology,
};
use serde_json::Value;
use tokio::time::Instant;
use transport::api::{self, ApiError};

/// How long a pull stays open. Short, so that one lost in a leader change is soon made again.
pub const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// One consumer we read, and the pulls we have open on it.
#[derive(Debug)]
pub struct Feed {
    /// The region of its stream.
    pub region: Region,
    /// Its model.
    pub model: ModelToken,
    /// Its lane.
    pub lane: Lane,
    /// Its stream.
    pub stream: String,
    /// Its name.
    pub consumer: String,
    /// Deliveries up to this sequence may be done already: the consumer was made anew.
    pub recreated_at: u64,
    /// The highest sequence delivered to us.
    pub seen: u64,
    /// Jobs known to wait behind the last one delivered.
    pub backlog: u64,
    /// No pull before this: the last one found nobody.
    pub paused: Option<Instant>,
    pulls: VecDeque<Pull>,
}

#[derive(Debug)]
struct Pull {
    number: u64,
    left: u32,
    lost_at: Instant,
}

impl Feed {
    /// A feed for one model and lane.
    pub fn new(region: Region, model: ModelToken, lane: Lane) -> Self {
        Self {
            stream: topology::jobs_stream(&region),
            consumer: topology::consumer_name(&model, lane),
            region,
            model,
            lane,
            recreated_at: 0,
            seen: 0,
            backlog: 0,
            paused: None,
            pulls: VecDeque::new(),
        }
    }

    /// Jobs that open pulls may still bring.
    pub fn outstanding(&self) -> u32 {
        self.pulls.iter().map(|p| p.left).sum()
    }

    /// Counts a delivery against the oldest pull: the server serves them in order.
    pub fn delivered(&mut self, lease: &Lease) {
        self.backlog = lease.pending;
        if let Some(pull) = self.pulls.front_mut() {
            pull.left = pull.left.saturating_sub(1);
            if pull.left == 0 {
                self.pulls.pop_front();
            }
        }
    }

    /// A pull has ended, filled or not.
    pub fn ended(&mut self, number: u64) {
        self.pulls.retain(|p| p.number != number);
    }

    /// Forgets pulls the server must have forgotten.
    pub fn forget_lost(&mut self, now: Instant) {
        self.pulls.retain(|p| p.lost_at > now);
    }

    /// Forgets all pulls: the connection is a new one.
    pub fn forget_all(&mut self) {
        self.pulls.clear();
    }

    /// Asks for `batch` jobs; answers and deliveries come on `reply`.
    pub async fn pull(&mut self, client: &Client, number: u64, batch: u32, reply: String) {
        let body = format!(r#"{{"batch":{batch},"expires":{}}}"#, PULL_EXPIRES.as_nanos());
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.consumer);
        let lost_at = Instant::now() + PULL_EXPIRES + Duration::from_secs(1);
        self.pulls.push_back(Pull { number, left: batch, lost_at });
        if client.publish_with_reply(subject, reply, body.into()).await.is_err() {
            self.ended(number);
        }
    }

    /// Reads from the consumer whether it was made anew.
    pub async fn read_recreated(&mut self, client: &Client) -> Result<(), ApiError> {
        let info =
            api::ask(client, &format!("CONSUMER.INFO.{}.{}", self.stream, self.consumer), &Value::Null)
                .await?;
        let text = info
            .pointer(&format!("/config/metadata/{}", transport::topology::RECREATED_AT))
            .and_then(Value::as_str);
        self.recreated_at = text.and_then(|t| t.parse().ok()).unwrap_or(0);
        Ok(())
    }
}

/// A delivery, as far as it could be read.
pub enum Delivery {
    /// A job.
    Job(Box<(Job, Lease)>),
    /// Not a job we can read; it has a lease all the same.
    Broken(Lease, JobError),
    /// Not even a lease: none of ours.
    Alien(LeaseError),
}

/// Reads a message that a pull brought.
pub fn read_delivery(message: &Message, now: Micros) -> Delivery {
    let lease: Lease =
        match message.reply.as_ref().map(async_nats::Subject::as_str).unwrap_or_default().parse() {
            Ok(lease) => lease,
            Err(error) => return Delivery::Alien(error),
        };
    let subject: JobSubject = match message.subject.as_str().parse() {
        Ok(subject) => subject,
        Err(error) => {
            let error = JobError::Field { field: "subject", rule: format!("{error}") };
            return Delivery::Broken(lease, error);
        }
    };
    match Job::read(subject, job_headers(message.headers.as_ref()), &message.payload, now) {
        Ok(job) => Delivery::Job(Box::new((job, lease))),
        Err(error) => Delivery::Broken(lease, error),
    }
}

/// The headers a job's reader looks at.
pub fn job_headers(map: Option<&HeaderMap>) -> JobHeaders<'_> {
    let get = |name| map.and_then(|m| m.get(name)).map(HeaderValue::as_str);
    JobHeaders {
        content_type: get(headers::CONTENT_TYPE),
        message_id: get(headers::MESSAGE_ID),
        schema: get(headers::SCHEMA),
        traceparent: get(headers::TRACEPARENT),
    }
}

/// Offers a job to a pool. A plain publish: if nobody listens, the offer lapses.
pub async fn offer(
    client: &Client,
    pool: &schemas::PoolId,
    accept: &str,
    handover: &Handover,
    headers: &HeaderMap,
    payload: Bytes,
) -> Result<(), async_nats::PublishError> {
    let json = serde_json::to_string(handover).expect("a handover has only string keys and no failing parts");
    let mut headers = headers.clone();
    headers.insert(headers::HANDOVER, json);
    client.publish_with_reply_and_headers(subjects::work(pool), accept.to_owned(), headers, payload).await
}

/// Asks something of a worker. One that is lost costs money or time, never a job.
pub async fn order(client: &Client, pool: &schemas::PoolId, worker: &schemas::WorkerId, order: &Order) {
    let body = serde_json::to_vec(order).expect("an order has only string keys and no failing parts");
    if let Err(error) = client.publish(subjects::orders(pool, worker), body.into()).await {
        tracing::debug!(%pool, %worker, %error, "order not sent");
    }
}

/// Why a returned job does not read.
#[derive(Debug, thiserror::Error)]
pub enum ReturnError {
    /// The header is missing or no JSON of ours.
    #[error("header Beacon-Return does not read")]
    Header(#[from] serde_json::Error),
    /// The job does not read.
    #[error(transparent)]
    Job(#[from] JobError),
}

/// Reads a job that a worker gave back.
pub fn read_return(message: &Message, now: Micros) -> Result<(Return, Job), ReturnError> {
    let header =
        message.headers.as_ref().and_then(|h| h.get(headers::RETURN)).map_or("", HeaderValue::as_str);
    let back: Return = serde_json::from_str(header)?;
    let job = Job::read(back.subject.clone(), job_headers(message.headers.as_ref()), &message.payload, now)?;
    Ok((back, job))
}

/// The job's own headers, without what we added.
pub fn own_headers(map: Option<HeaderMap>) -> HeaderMap {
    map.unwrap_or_default()
        .iter()
        .filter(|(name, _)| {
            let name: &str = name.as_ref();
            name != headers::RETURN && name != headers::HANDOVER
        })
        .filter_map(|(name, values)| values.first().map(|v| (name.clone(), v.clone())))
        .collect()
}
