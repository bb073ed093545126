//! Jobs that are to run later: stored with a schedule, listed, and brought forward.
//!
//! The server itself publishes a delayed job when its time has come, so nobody of ours need be there. A schedule lies
//! alone on its subject `beacon.delayed.<region>.<tenant>.<job>`: publishing there again replaces it. Earlier versions left out the
//! tenant; what they stored is still found, listed, and brought forward where it lies.

use async_nats::{Client, HeaderMap, HeaderValue, Message};
use bytes::Bytes;
use schemas::{
    Codec, JobId, Micros, Region, Tenant,
    codec::CodecError,
    headers,
    job::{Head, JobBody, JobError, JobHeaders},
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
    /// Where it waits.
    pub place: String,
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

impl Delayed {
    /// The job, as its dispatcher will read it when its time has come.
    pub fn head(&self) -> Result<Head, JobError> {
        let get = |name| self.headers.get(name).map(HeaderValue::as_str);
        let headers = JobHeaders {
            content_type: get(headers::CONTENT_TYPE),
            schema: get(headers::SCHEMA),
            ..JobHeaders::default()
        };
        Head::read(self.subject.clone(), headers, &self.body, self.at)
    }
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
    let place = subjects::delayed(&subject.region, &subject.tenant, job);
    delay_at(publisher, (place, subject), at, id, headers, body).await
}

async fn delay_at(
    publisher: &Publisher,
    (place, subject): (String, &JobSubject),
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
    let stored = publisher.publish(place, headers, body).await;
    stored.map_err(|error| match error {
        // What a publish to a job subject would have said.
        PublishError::Refused { code: BAD_TARGET, .. } => PublishError::NoStream(subject.to_string()),
        other => other,
    })
}

/// All jobs of a region that wait for their time, in the order they were stored.
pub async fn list(client: &Client, region: &Region) -> Result<Vec<Delayed>, ApiError> {
    let filter = subjects::delayed_any_filter(region);
    let found = api::read_all(client, &delayed_stream(region), &filter).await?;
    Ok(found.iter().filter_map(read).collect())
}

/// The jobs with an id that still wait for their time: the tenant's, or of each tenant that has one.
pub async fn find(
    client: &Client,
    region: &Region,
    (job, tenant): (JobId, Option<&Tenant>),
) -> Result<Vec<Delayed>, ApiError> {
    let filters = [subjects::delayed_of(region, tenant, job), subjects::delayed_old(region, job)];
    let found = api::newest_on(client, &delayed_stream(region), &filters).await?;
    let meant = |delayed: &Delayed| tenant.is_none_or(|tenant| *tenant == delayed.subject.tenant);
    Ok(found.iter().filter_map(read).filter(meant).collect())
}

/// Lets the time of the jobs with an id be now: of the tenant's, or of each tenant's that has one. False when none waits any more.
pub async fn bring_forward(
    client: &Client,
    publisher: &Publisher,
    region: &Region,
    which: (JobId, Option<&Tenant>),
    now: Micros,
) -> Result<bool, BringForwardError> {
    let found = find(client, region, which).await?;
    for delayed in &found {
        bring_one_forward(publisher, delayed, now).await?;
    }
    Ok(!found.is_empty())
}

async fn bring_one_forward(
    publisher: &Publisher,
    delayed: &Delayed,
    now: Micros,
) -> Result<(), BringForwardError> {
    let get = |name| delayed.headers.get(name).map(HeaderValue::as_str);
    let own = Headers::new()
        .with_some(headers::CONTENT_TYPE, get(headers::CONTENT_TYPE))
        .with_some(headers::SCHEMA, get(headers::SCHEMA))
        .with_some(headers::TRACEPARENT, get(headers::TRACEPARENT).and_then(headers::trace_context));
    let id = format!("{}:{}", delayed.job.job_message(&delayed.subject.tenant), now.get());
    // Its dispatcher refuses a body whose time has not come.
    let codec = Codec::from_content_type(get(headers::CONTENT_TYPE))?;
    let body = codec.encode(&JobBody { run_at: None, ..codec.decode(&delayed.body)? })?;
    delay_at(publisher, (delayed.place.clone(), &delayed.subject), now, id, own, body.into()).await?;
    Ok(())
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
    let place = get("Nats-Subject")?.to_owned();
    let job = place.rsplit('.').next()?.parse().ok()?;
    let at = get(headers::SCHEDULE)?.strip_prefix("@at ")?;
    let at = chrono::DateTime::parse_from_rfc3339(at).ok()?.to_utc().into();
    let target = get(headers::SCHEDULE_TARGET)?;
    let subject: JobSubject = target.replacen("beacon.due.", "beacon.jobs.", 1).parse().ok()?;
    if subjects::delayed_owner(&place).is_some_and(|owner| owner != subject.tenant.as_str()) {
        // Its schedule names another tenant than its publisher: it will be refused.
        return None;
    }
    let stored = get("Nats-Time-Stamp").and_then(|t| chrono::DateTime::parse_from_rfc3339(t).ok());
    let stored = stored.map_or(Micros::default(), |t| t.to_utc().into());
    Some(Delayed { job, place, subject, at, stored, headers, body: message.payload.clone() })
}
