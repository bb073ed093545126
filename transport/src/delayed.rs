//! Jobs that are to run later: stored with a schedule, listed, and brought forward.
//!
//! The server itself publishes a delayed job when its time has come, so nobody of ours need be there. A schedule lies
//! alone on its subject `beacon.delayed.<region>.<job>`: publishing there again replaces it.

use async_nats::{Client, HeaderMap, HeaderValue, Message};
use bytes::Bytes;
use schemas::{
    Codec, JobId, Micros, Region, Tenant,
    codec::CodecError,
    headers,
    job::JobBody,
    subjects::{self, JobSubject},
    topology::delayed_stream,
};

use crate::{
    api::{self, ApiError},
    publisher::{Headers, PublishError, Publisher, Stored},
};

/// The server's word for a schedule whose target its stream does not take.
const BAD_TARGET: u64 = 10_190;

/// A job that waits for its time.
#[derive(Clone, Debug)]
pub struct Delayed {
    /// Who it is.
    pub job: JobId,
    /// Where it will be published.
    pub subject: JobSubject,
    /// When.
    pub at: Micros,
    /// When it was stored.
    pub stored: Micros,
    /// Its headers, the schedule's among them.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Stores a job that is published on its own subject at `at`. `id` is the message's, for the server's dedupe.
pub async fn delay(
    publisher: &Publisher,
    (job, subject): (JobId, &JobSubject),
    at: Micros,
    id: String,
    headers: Headers,
    body: Bytes,
) -> Result<Stored, PublishError> {
    let due = subjects::due(subject);
    let time = at.to_datetime().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let headers = headers
        .with(headers::MESSAGE_ID, id)
        .with(headers::SCHEDULE, format!("@at {time}"))
        .with(headers::SCHEDULE_TARGET, due);
    let stored = publisher.publish(subjects::delayed(&subject.region, job), headers, body).await;
    stored.map_err(|error| match error {
        // What a publish to a job subject would have said.
        PublishError::Refused { code: BAD_TARGET, .. } => PublishError::NoStream(subject.to_string()),
        other => other,
    })
}

/// All jobs of a region that wait for their time, in the order they were stored.
pub async fn list(client: &Client, region: &Region) -> Result<Vec<Delayed>, ApiError> {
    let filter = subjects::delayed_filter(region);
    let found = api::read_all(client, &delayed_stream(region), &filter).await?;
    Ok(found.iter().filter_map(read).collect())
}

/// One job that waits for its time, if it still does.
pub async fn find(client: &Client, region: &Region, job: JobId) -> Result<Option<Delayed>, ApiError> {
    let filter = subjects::delayed(region, job);
    let found = api::read_all(client, &delayed_stream(region), &filter).await?;
    Ok(found.last().and_then(read))
}

/// Lets a delayed job's time be now; with a tenant, only if the job is that tenant's. False when it does not wait any more.
pub async fn bring_forward(
    client: &Client,
    publisher: &Publisher,
    region: &Region,
    (job, tenant): (JobId, Option<&Tenant>),
    now: Micros,
) -> Result<bool, BringForwardError> {
    let Some(delayed) = find(client, region, job).await? else { return Ok(false) };
    if tenant.is_some_and(|tenant| *tenant != delayed.subject.tenant) {
        return Ok(false);
    }
    let get = |name| delayed.headers.get(name).map(HeaderValue::as_str);
    let own = Headers::new()
        .with_some(headers::CONTENT_TYPE, get(headers::CONTENT_TYPE))
        .with_some(headers::SCHEMA, get(headers::SCHEMA))
        .with_some(headers::TRACEPARENT, get(headers::TRACEPARENT));
    let id = format!("{job}:{}", now.get());
    // Its dispatcher refuses a body whose time has not come.
    let codec = Codec::from_content_type(get(headers::CONTENT_TYPE))?;
    let body = codec.encode(&JobBody { run_at: None, ..codec.decode(&delayed.body)? })?;
    delay(publisher, (job, &delayed.subject), now, id, own, body.into()).await?;
    Ok(true)
}

/// Why a delayed job was not brought forward.
#[derive(Debug, thiserror::Error)]
pub enum BringForwardError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ApiError),
    /// It does not read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It could not be stored anew.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// `None` for what is no schedule of ours.
fn read(message: &Message) -> Option<Delayed> {
    let headers = message.headers.clone()?;
    let get = |name: &str| headers.get(name).map(HeaderValue::as_str);
    let job = get("Nats-Subject")?.rsplit('.').next()?.parse().ok()?;
    let at = get(headers::SCHEDULE)?.strip_prefix("@at ")?;
    let at = chrono::DateTime::parse_from_rfc3339(at).ok()?.to_utc().into();
    let subject = get(headers::SCHEDULE_TARGET)?.replacen("beacon.due.", "beacon.jobs.", 1).parse().ok()?;
    let stored = get("Nats-Time-Stamp").and_then(|t| chrono::DateTime::parse_from_rfc3339(t).ok());
    let stored = stored.map_or(Micros::default(), |t| t.to_utc().into());
    Some(Delayed { job, subject, at, stored, headers, body: message.payload.clone() })
}
