//! Reading the logs: dead letters in `DEAD`, all jobs in `JOBS_<region>`, results in `REPLIES`. The one other file of this crate
//! that touches the NATS client.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_nats::{
    Client, HeaderValue, Message,
    jetstream::consumer::{DeliverPolicy, pull},
};
use bytes::Bytes;
use schemas::{
    Codec, JobId, Micros, Region, Tenant,
    codec::CodecError,
    dead::Obituary,
    headers,
    job::{InputRef, JobBody},
    reply::JobResult,
    subjects::JobSubject,
    topology::{self, DEAD, REPLIES, consumer_name, jobs_stream},
};
use serde_json::{Value, json};
use tracing::warn;
use transport::{
    api::{self, ApiError},
    payloads,
};

use crate::{
    nats::{MailboxError, Reply, job_of, read_reply, read_stored, result_of, start},
    replay::{Selection, Source},
    waiters::StoredAs,
};

/// One entry of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it lies.
    pub stream: String,
    /// At which sequence.
    pub seq: u64,
    /// When it was stored.
    pub at: Micros,
    /// Which job it is of, where that can be read.
    pub job: Option<JobId>,
    /// Where the job was published, where that can be read.
    pub subject: Option<JobSubject>,
    /// How its body is written.
    pub content_type: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The job as its producer sent it.
    pub payload: Bytes,
    /// What is known of a dead one.
    pub obituary: Option<Obituary>,
}

impl Entry {
    /// The job's body, unchecked.
    pub fn body(&self) -> Result<JobBody, CodecError> {
        Codec::from_content_type(self.content_type.as_deref())?.decode(&self.payload)
    }

    /// Where the body lies, if not in the entry itself.
    fn body_ref(&self) -> Option<&InputRef> {
        self.obituary.as_ref()?.body_ref.as_ref()
    }

    fn read(message: &Message, stream: &str, seq: u64, at: Micros) -> Self {
        let get = |name| message.headers.as_ref().and_then(|h| h.get(name)).map(HeaderValue::as_str);
        let obituary: Option<Obituary> =
            get(headers::OBITUARY).and_then(|text| serde_json::from_str(text).ok());
        let subject = match &obituary {
            Some(letter) => letter.subject.parse().ok(),
            None => message.subject.as_str().parse().ok(),
        };
        let mut entry = Self {
            stream: stream.to_owned(),
            seq,
            at,
            job: obituary.as_ref().map_or_else(|| job_of(message), |letter| letter.job),
            subject,
            content_type: get(headers::CONTENT_TYPE).map(str::to_owned),
            traceparent: get(headers::TRACEPARENT).map(str::to_owned),
            payload: message.payload.clone(),
            obituary,
        };
        if entry.job.is_none() {
            // A job that was delayed has its id in the body only.
            entry.job = entry.body().ok().and_then(|body| body.id?.parse().ok());
        }
        entry
    }
}

/// The streams that hold a source, with the region of each.
pub fn streams(source: Source, regions: &[Region]) -> Vec<(String, Option<Region>)> {
    match source {
        Source::Dead => vec![(DEAD.to_owned(), None)],
        Source::Jobs => regions.iter().map(|r| (jobs_stream(r), Some(r.clone()))).collect(),
    }
}

/// Reads what a stream holds now of what a selection may mean, oldest first, and hands each entry to `each`, until that
/// says no. The server leaves out what another subject tells it to, and starts where the selection does.
pub async fn read(
    client: &Client,
    source: Source,
    (stream, region): (&str, Option<&Region>),
    selection: &Selection,
    mut each: impl FnMut(Entry) -> bool,
) -> Result<(), MailboxError> {
    let deliver_policy = match selection.first_seq {
        Some(seq) => DeliverPolicy::ByStartSequence { start_sequence: seq.max(1) },
        None => start(selection.since)?,
    };
    let filter_subject = selection.subject(source, region);
    let config = pull::OrderedConfig { filter_subject, deliver_policy, ..pull::OrderedConfig::default() };
    let (mut elsewhere, mut go_on) = (Vec::new(), true);
    read_stored(client, stream, config, |message| {
        let (seq, at) = message.info().map_or((0, Micros::default()), |info| {
            let nanos = u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(0);
            (info.stream_sequence, Micros::from_nanos(nanos))
        });
        let past = selection.last_seq.is_some_and(|last| seq > last)
            || selection.until.is_some_and(|until| at >= until);
        if past {
            return false;
        }
        let entry = Entry::read(message, stream, seq, at);
        if entry.body_ref().is_some() {
            elsewhere.push(entry);
            return true;
        }
        go_on = each(entry);
        go_on
    })
    .await?;
    // Bodies that did not fit beside their letters, one at a time: each is as large as a message may be.
    for mut entry in elsewhere {
        if !go_on {
            break;
        }
        if let Some(stored) = entry.body_ref() {
            match payloads::get_bytes(client, stored).await {
                Ok(bytes) => entry.payload = bytes.into(),
                // Without its body it is no job any more, and is told as such.
                Err(error) => warn!(seq = entry.seq, %error, "the body of a dead letter cannot be read"),
            }
        }
        go_on = each(entry);
    }
    Ok(())
}

/// The stored results of `jobs`, of one tenant or of whoever has these ids; those whose results are no longer kept are missing.
pub async fn results_of(
    client: &Client,
    tenant: Option<&Tenant>,
    jobs: &BTreeSet<JobId>,
    since: Option<Micros>,
) -> Result<HashMap<JobId, JobResult>, MailboxError> {
    let mut found = HashMap::new();
    if jobs.is_empty() {
        return Ok(found);
    }
    let config = pull::OrderedConfig {
        filter_subject: format!("beacon.reply.{}.*.result", tenant.map_or("*", Tenant::as_str)),
        deliver_policy: start(since)?,
        ..pull::OrderedConfig::default()
    };
    read_stored(client, REPLIES, config, |message| {
        // One that tells a second job that its id was taken is not the job's own.
        if result_of(message).is_some_and(|(job, stored)| stored == StoredAs::First && jobs.contains(&job))
            && let Ok(Reply::Result(result)) = read_reply(message)
        {
            found.insert(result.job, *result);
        }
        found.len() < jobs.len()
    })
    .await?;
    Ok(found)
}

/// The tenants that have a stored result of a job with this id: headers only.
pub async fn owners_of_results(
    client: &Client,
    job: JobId,
    since: Option<Micros>,
) -> Result<BTreeSet<Tenant>, MailboxError> {
    let config = pull::OrderedConfig {
        filter_subject: "beacon.reply.*.*.result".to_owned(),
        deliver_policy: start(since)?,
        headers_only: true,
        ..pull::OrderedConfig::default()
    };
    let mut found = BTreeSet::new();
    read_stored(client, REPLIES, config, |message| {
        if result_of(message).is_some_and(|(of, _)| of == job) {
            found.extend(message.subject.split('.').nth(2).and_then(|tenant| tenant.parse::<Tenant>().ok()));
        }
        true
    })
    .await?;
    Ok(found)
}

/// Up to which sequence every job of a model and lane has ended, by subject filter, for one region's stream.
pub async fn floors(client: &Client, region: &Region) -> Result<BTreeMap<String, u64>, ApiError> {
    let stream = jobs_stream(region);
    let mut floors = BTreeMap::new();
    let mut offset = 0;
    loop {
        let list = api::ask(client, &format!("CONSUMER.LIST.{stream}"), &json!({ "offset": offset })).await?;
        let consumers = list.get("consumers").and_then(Value::as_array).cloned().unwrap_or_default();
        for consumer in &consumers {
            let text = |path: &str| consumer.pointer(path).and_then(Value::as_str).map(str::to_owned);
            if let Some(filter) = text("/config/filter_subject")
                && text("/config/durable_name").is_some()
            {
                floors.insert(filter, api::number(consumer, "ack_floor/stream_seq").unwrap_or(0));
            }
        }
        offset += consumers.len();
        if consumers.is_empty() || offset as u64 >= api::number(&list, "total").unwrap_or(0) {
            return Ok(floors);
        }
    }
}

/// Up to which sequence a model and lane was delivered, for the first time at least, in one region's stream.
pub async fn delivered(client: &Client, subject: &JobSubject) -> Result<u64, ApiError> {
    let (stream, consumer) = (jobs_stream(&subject.region), consumer_name(&subject.model, subject.lane));
    let info = api::ask(client, &format!("CONSUMER.INFO.{stream}.{consumer}"), &Value::Null).await?;
    Ok(api::number(&info, "delivered/stream_seq").unwrap_or(0))
}

/// How many jobs of a model and lane lie between two sequences, both left out.
pub async fn between(
    client: &Client,
    subject: &JobSubject,
    after: u64,
    before: u64,
) -> Result<u64, MailboxError> {
    let selection = Selection {
        model: Some(subject.model.clone()),
        lane: Some(subject.lane),
        first_seq: Some(after + 1),
        last_seq: Some(before.saturating_sub(1)),
        ..Selection::default()
    };
    let (stream, mut count) = (jobs_stream(&subject.region), 0);
    read(client, Source::Jobs, (&stream, Some(&subject.region)), &selection, |_| {
        count += 1;
        true
    })
    .await?;
    Ok(count)
}

/// Deletes an entry of the dead letters.
pub async fn delete_letter(client: &Client, seq: u64) -> Result<(), ApiError> {
    let body = json!({ "seq": seq, "no_erase": true });
    api::ask(client, &format!("STREAM.MSG.DELETE.{}", topology::DEAD), &body).await.map(drop)
}
