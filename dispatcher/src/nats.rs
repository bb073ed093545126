//! The dispatcher's messages: pulls, deliveries, handovers, returns. Reads and writes them, decides nothing.

use std::time::Duration;

use async_nats::{Client, HeaderMap, HeaderValue, Message, StatusCode};
use bytes::Bytes;
use schemas::{
    Micros, PoolId, Region, WorkerId,
    demand::Demand,
    handover::{Handover, Order, Return},
    headers,
    job::{Head, JobError, JobHeaders},
    lease::{Lease, LeaseError},
    subjects::{self, JobSubject},
    topology,
};
use serde_json::Value;
use transport::{
    api::{self, ApiError},
    topology::{TopologyError, ensure},
};

use crate::{
    config::DispatcherConfig,
    feed::{Feed, PULL_EXPIRES},
    jobs::{Delivered, PullEnd, Returned},
};

/// A job's own headers and body, passed on untouched.
#[derive(Clone, Debug, Default)]
pub struct Parcel {
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Parcel {
    /// What it takes in a message: a line for each header, and the body.
    pub fn bytes(&self) -> usize {
        let line = |(name, values): (&async_nats::HeaderName, &Vec<HeaderValue>)| {
            let name: &str = name.as_ref();
            values.iter().map(|value| name.len() + value.as_str().len() + 4).sum::<usize>()
        };
        self.headers.iter().map(line).sum::<usize>() + self.body.len()
    }
}

/// Asks a consumer for `batch` jobs; answers and deliveries come on `reply`. What is not sent is lost like a pull that nobody served.
pub async fn pull(client: &Client, feed: &Feed, batch: u32, reply: String) {
    let expires = PULL_EXPIRES.as_nanos();
    let body = format!(r#"{{"batch":{batch},"expires":{expires}}}"#);
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", feed.stream, feed.consumer);
    if let Err(error) = client.publish_with_reply(subject, reply, body.into()).await {
        tracing::debug!(consumer = feed.consumer, %error, "pull not sent");
    }
}

/// Reads from the consumer of a feed up to where deliveries may be done already, since the consumer was made anew.
pub async fn read_recreated(client: &Client, feed: &mut Feed) -> Result<(), ApiError> {
    let info =
        api::ask(client, &format!("CONSUMER.INFO.{}.{}", feed.stream, feed.consumer), &Value::Null).await?;
    let text = info
        .pointer(&format!("/config/metadata/{}", transport::topology::RECREATED_AT))
        .and_then(Value::as_str);
    feed.recreated_at = text.and_then(|t| t.parse().ok()).unwrap_or(0);
    Ok(())
}

/// Makes the map of streams right, and says when each region's job stream was made.
pub async fn repaired(client: &Client, config: &DispatcherConfig) -> Result<Vec<Micros>, TopologyError> {
    ensure(client, &topology::Topology::new(&config.topology)).await?;
    Ok(born(client, &config.regions).await?)
}

/// When the job streams of these regions were made.
pub async fn born(client: &Client, regions: &[Region]) -> Result<Vec<Micros>, ApiError> {
    let mut born = Vec::with_capacity(regions.len());
    for region in regions {
        let subject = format!("STREAM.INFO.{}", topology::jobs_stream(region));
        let info = api::ask(client, &subject, &Value::Null).await?;
        let created = info.get("created").and_then(Value::as_str);
        let created = created.and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        let what = "it does not say when the stream was made".to_owned();
        born.push(created.ok_or(ApiError::Odd { subject, what })?.to_utc().into());
    }
    Ok(born)
}

/// Reads which pull a status message is about: its feed, its number, and why it ended. `None` for a sign of life.
pub fn read_status(message: &Message, status: StatusCode) -> Option<(usize, u64, PullEnd)> {
    let mut parts = message.subject.as_str().rsplit('.');
    let number = parts.next()?.parse().ok()?;
    let feed = parts.next()?.parse().ok()?;
    let what = message.description.as_deref().unwrap_or("no responders");
    let end = match status {
        StatusCode::IDLE_HEARTBEAT => return None,
        StatusCode::NOT_FOUND | StatusCode::TIMEOUT => PullEnd::Empty,
        StatusCode::NO_RESPONDERS => PullEnd::Gone,
        _ if what.contains("Consumer Deleted") => PullEnd::Gone,
        // A pull with a limit of bytes says so when it has brought all it may.
        _ if what.contains("MaxBytes") || what.contains("Batch Completed") => PullEnd::Full,
        _ => {
            tracing::debug!(feed, %status, what, "pull ended");
            PullEnd::Unserved
        }
    };
    Some((feed, number, end))
}

/// A delivery, as far as it could be read.
pub enum Delivery {
    /// A job.
    Job(Box<Delivered>),
    /// Not a job we can read; it has a lease all the same.
    Broken(Box<(Message, Lease, JobError)>),
    /// Not even a lease: none of ours.
    Alien(LeaseError),
}

/// Reads a message that a pull brought.
pub fn read_delivery(message: Message, now: Micros) -> Delivery {
    let reply = message.reply.as_ref().map(async_nats::Subject::as_str).unwrap_or_default();
    let lease: Lease = match reply.parse() {
        Ok(lease) => lease,
        Err(error) => return Delivery::Alien(error),
    };
    let subject: JobSubject = match message.subject.as_str().parse() {
        Ok(subject) => subject,
        Err(error) => {
            let error = JobError::Field { field: "subject", rule: format!("{error}") };
            return Delivery::Broken(Box::new((message, lease, error)));
        }
    };
    let headers = job_headers(message.headers.as_ref());
    match Head::read(subject, headers, &message.payload, now.max(lease.stored_at)) {
        Ok(head) => {
            let parcel = Parcel { headers: message.headers.unwrap_or_default(), body: message.payload };
            Delivery::Job(Box::new(Delivered { head, parcel, lease }))
        }
        Err(error) => Delivery::Broken(Box::new((message, lease, error))),
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
        scheduler: get(headers::SCHEDULER),
    }
}

/// What a message has besides headers and body, at most: subject, reply subject, the protocol's own words.
const FRAME: usize = 512;

/// Offers a job to a pool. A plain publish: if nobody listens, the offer lapses. A job whose text does not fit beside the handover
/// goes by its place in the log.
pub async fn offer(
    client: &Client,
    pool: &PoolId,
    accept: &str,
    mut handover: Handover,
    parcel: Option<Parcel>,
) -> Result<(), async_nats::PublishError> {
    let mut json = headers::json(&handover);
    let fits = |parcel: &Parcel| parcel.bytes() + json.len() + FRAME <= client.max_payload();
    let mut parcel = if let Some(parcel) = parcel.filter(fits) {
        parcel
    } else {
        handover.in_log = true;
        json = headers::json(&handover);
        if json.len() + FRAME > client.max_payload() {
            // The worker does without; what is left is bounded by the entries of a journal.
            handover.decision = None;
            json = headers::json(&handover);
        }
        Parcel::default()
    };
    parcel.headers.insert(headers::HANDOVER, json);
    client
        .publish_with_reply_and_headers(subjects::work(pool), accept.to_owned(), parcel.headers, parcel.body)
        .await
}

/// Sends an order to a worker. A lost order may cost money or time, but never loses a job.
pub async fn order(client: &Client, pool: &PoolId, worker: &WorkerId, order: &Order) {
    let body = serde_json::to_vec(order).expect("an order has only string keys and no failing parts");
    if let Err(error) = client.publish(subjects::orders(pool, worker), body.into()).await {
        tracing::debug!(%pool, %worker, %error, "order not sent");
    }
}

/// Tells what waits in a region. What is lost is made good by the next message.
pub async fn tell_demand(client: &Client, demand: &Demand) {
    let body = serde_json::to_vec(demand).expect("a demand has only string keys and no failing parts");
    if let Err(error) = client.publish(subjects::demand(&demand.region), body.into()).await {
        tracing::debug!(region = %demand.region, %error, "demand not told");
    }
}

/// How long the server may take to say what waits at a consumer; later it is asked again.
const PENDING_WITHIN: Duration = Duration::from_secs(1);

/// How many jobs wait at each of these consumers (index, stream, name), as far as the server says.
pub async fn pending(client: &Client, consumers: Vec<(usize, String, String)>) -> Vec<(usize, u64)> {
    let asked = consumers.into_iter().map(|(index, stream, consumer)| async move {
        let subject = format!("CONSUMER.INFO.{stream}.{consumer}");
        let info = tokio::time::timeout(PENDING_WITHIN, api::ask(client, &subject, &Value::Null)).await;
        let pending = info.ok()?.ok().and_then(|info| api::number(&info, "num_pending"))?;
        Some((index, pending))
    });
    futures_util::future::join_all(asked).await.into_iter().flatten().collect()
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

/// Reads what a worker says about a job that it gives back, and what came with it: the job itself, unless the return says that it is to
/// be read from the log.
pub fn read_return(message: Message) -> Result<(Return, Parcel), ReturnError> {
    let header =
        message.headers.as_ref().and_then(|h| h.get(headers::RETURN)).map_or("", HeaderValue::as_str);
    let back = serde_json::from_str(header)?;
    Ok((back, Parcel { headers: own_headers(message.headers), body: message.payload }))
}

/// Joins what a worker says with the job itself.
pub fn join_return(back: Return, parcel: Parcel, now: Micros) -> Result<Returned, ReturnError> {
    let headers = job_headers(Some(&parcel.headers));
    let head = Head::read(back.subject.clone(), headers, &parcel.body, now.max(back.lease.stored_at))?;
    Ok(Returned { back, head, parcel })
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

/// Gives a lease back at once, for another dispatcher. Only while it is surely ours.
pub async fn give_back(client: &Client, lease: &Lease) {
    let sent = client.publish(lease.subject().to_owned(), Bytes::from_static(b"-NAK")).await;
    if let Err(error) = sent {
        tracing::warn!(%error, "lease not given back, it comes back by itself");
    }
}

/// How long an extension may take to be answered.
const EXTEND_WITHIN: Duration = Duration::from_secs(2);

/// Extends a lease and makes sure of it. True when the server answered.
pub async fn extend(client: &Client, lease: &Lease) -> bool {
    let request =
        async_nats::Request::new().payload(Bytes::from_static(b"+WPI")).timeout(Some(EXTEND_WITHIN));
    client.send_request(lease.subject().to_owned(), request).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_job_is_read_also_where_the_clock_is_far_behind() {
        // The server stored it at the time that its body names.
        let stored = 1_795_000_000;
        let at = Micros::new(stored * 1_000_000);
        let body = format!(r#"{{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x","run_at":"{at}"}}"#);
        let message = |subject: &str| Message {
            subject: subject.into(),
            reply: Some(format!("$JS.ACK.JOBS_us-east.d-x-normal.1.7.7.{stored}000000000.0").into()),
            length: body.len(),
            payload: body.clone().into(),
            headers: None,
            status: None,
            description: None,
        };
        let late = Micros::new((stored - 3_600) * 1_000_000);
        let subject = "beacon.jobs.us-east.x.normal.acme";
        assert!(matches!(read_delivery(message(subject), late), Delivery::Job(_)));
    }
}
