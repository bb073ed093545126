//! Reads what is stored already: results and costs of a mailbox, so that a job delivered again is not run again and an attempt
//! is not booked again; single results; and jobs by their place in the log.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_nats::{Client, HeaderMap, HeaderValue, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use schemas::{
    Codec, JobId, Mailbox, Micros, PoolId, Tenant,
    cost::{CostEvent, Purpose},
    headers,
    lease::Lease,
    reply::JobResult,
    subjects, topology,
};
use serde_json::json;
use tokio::time::sleep;

use crate::api::{self, ApiError};

/// A scan reads headers only; a million of them take seconds, more means that a mailbox is shared by too many.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often, and after which pause, a message that a replica does not have is asked for again: two seconds in all.
const ASK_AGAIN: u32 = 7;
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// How long a single message may take to be read.
const GET_WITHIN: Duration = Duration::from_secs(5);

/// Headers that the server adds to a message that it reads out for us.
const ADDED: [&str; 4] = ["Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"];

/// Clocks differ and the job's time is when it was stored: look a little further back.
const MARGIN: Duration = Duration::from_secs(5);

/// The results that are stored in this mailbox since `since`: by job, their sequences in `REPLIES`. More than one where a job's id
/// was used again.
///
/// One headers-only scan; share it among all redelivered jobs of the mailbox.
pub async fn results_since(
    client: &Client,
    tenant: &Tenant,
    mailbox: &Mailbox,
    since: Micros,
) -> Result<HashMap<JobId, Vec<u64>>, ApiError> {
    let mut found: HashMap<JobId, Vec<u64>> = HashMap::new();
    scan(client, topology::REPLIES, &subjects::result(tenant, mailbox), since, |id, seq| {
        if let Some(job) = JobId::from_result_message(id) {
            found.entry(job).or_default().push(seq);
        }
    })
    .await?;
    Ok(found)
}

/// The message ids of the cost events that are stored in this mailbox since `since`. One headers-only scan.
pub async fn costs_since(
    client: &Client,
    tenant: &Tenant,
    mailbox: &Mailbox,
    since: Micros,
) -> Result<HashSet<String>, ApiError> {
    let mut found = HashSet::new();
    scan(client, topology::LEDGER, &subjects::cost(tenant, mailbox), since, |id, _| {
        found.insert(id.to_owned());
    })
    .await?;
    Ok(found)
}

/// A stored message. A replica that is a moment behind does not have yet what was stored a moment ago: it is asked again before it is
/// believed.
async fn at(client: &Client, stream: &str, seq: u64) -> Result<Option<Message>, ApiError> {
    let mut found = api::at_within(client, stream, seq, GET_WITHIN).await?;
    for _ in 0..ASK_AGAIN {
        if found.is_some() {
            break;
        }
        sleep(ASK_AGAIN_AFTER).await;
        found = api::at_within(client, stream, seq, GET_WITHIN).await?;
    }
    Ok(found)
}

/// A stored result by its sequence in `REPLIES`; `None` where there is none any more, or it does not read.
pub async fn result_at(client: &Client, seq: u64) -> Result<Option<JobResult>, ApiError> {
    let found = at(client, topology::REPLIES, seq).await?;
    Ok(found.and_then(|message| read_result(&message)))
}

/// A result that a scan has just seen, by its sequence; `None` where it does not read.
///
/// # Errors
/// If the server does not answer, or a replica still does not have the result: that is no result that is gone.
pub async fn seen_result_at(client: &Client, seq: u64) -> Result<Option<JobResult>, ApiError> {
    let found = at(client, topology::REPLIES, seq).await?;
    let message = found.ok_or_else(|| ApiError::Odd {
        subject: format!("DIRECT.GET.{}", topology::REPLIES),
        what: format!("result {seq} was seen and is not there yet"),
    })?;
    Ok(read_result(&message))
}

fn read_result(message: &Message) -> Option<JobResult> {
    let content_type = message.headers.as_ref().and_then(|h| h.get(headers::CONTENT_TYPE));
    let codec = Codec::from_content_type(content_type.map(HeaderValue::as_str)).unwrap_or_default();
    codec.decode(&message.payload).ok()
}

/// Headers and body of a job by its place in the log, as its producer sent them; `None` where it was trimmed.
pub async fn job_at(client: &Client, stream: &str, seq: u64) -> Result<Option<(HeaderMap, Bytes)>, ApiError> {
    let Some(message) = at(client, stream, seq).await? else { return Ok(None) };
    let own = message
        .headers
        .iter()
        .flat_map(HeaderMap::iter)
        .filter(|(name, _)| !ADDED.contains(&AsRef::<str>::as_ref(*name)))
        .filter_map(|(name, values)| values.first().map(|value| (name.clone(), value.clone())))
        .collect();
    Ok(Some((own, message.payload)))
}

/// The useful cost event that a result leads to: what the attempt cost that gave it. `None` for a result without an attempt's bill.
pub fn useful_event(result: &JobResult, tenant: &Tenant) -> Option<CostEvent> {
    let bill = result.bill.clone()?;
    let pool = PoolId { region: result.region.clone()?, provider: result.provider.clone()? };
    Some(CostEvent {
        job: Some(result.job),
        replay_of: result.replay_of,
        attempt: result.attempts,
        attempt_key: result.attempt_key,
        tenant: tenant.clone(),
        model: result.model.clone(),
        provider: pool.provider,
        region: pool.region,
        purpose: Purpose::Useful,
        lines: bill.lines,
        amount_usd: bill.amount_usd,
        estimated: bill.estimated,
        price_book: bill.price_book,
        at_us: result.finished_us,
    })
}

/// Tells `each` the message id and sequence of everything that a stream holds on `filter` since `since`.
async fn scan(
    client: &Client,
    stream: &str,
    filter: &str,
    since: Micros,
    mut each: impl FnMut(&str, u64),
) -> Result<(), ApiError> {
    let deliver = client.new_inbox();
    let subject = format!("CONSUMER.CREATE.{stream}");
    let silent = |what: &str| ApiError::Odd { subject: subject.clone(), what: what.to_owned() };
    let mut messages = client.subscribe(deliver.clone()).await.map_err(|e| silent(&e.to_string()))?;
    let config = json!({
        "stream_name": stream,
        "config": {
            "deliver_subject": deliver,
            "deliver_policy": "by_start_time",
            "opt_start_time": (since - MARGIN).to_datetime().to_rfc3339(),
            "ack_policy": "none",
            "filter_subject": filter,
            "headers_only": true,
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": topology::nanos(PATIENCE),
        }
    });
    let created = api::ask(client, &subject, &config).await?;
    let waiting = api::number(&created, "num_pending").unwrap_or(0);
    // A push consumer may have begun to deliver before it answered.
    let begun = api::number(&created, "delivered/consumer_seq").unwrap_or(0);
    let mut left = waiting + begun;
    let scan = async {
        while left > 0 {
            let Some(message) = messages.next().await else {
                break;
            };
            left -= 1;
            let id = message.headers.as_ref().and_then(|h| h.get(headers::MESSAGE_ID));
            let place = message.reply.as_ref().and_then(|reply| reply.as_str().parse::<Lease>().ok());
            if let (Some(id), Some(place)) = (id, place) {
                each(id.as_str(), place.stream_seq);
            }
        }
    };
    let complete = tokio::time::timeout(PATIENCE, scan).await.is_ok();
    if let Some(name) = created.get("name").and_then(serde_json::Value::as_str) {
        // It would end by itself; asking only makes it sooner.
        let _ = api::ask(client, &format!("CONSUMER.DELETE.{stream}.{name}"), &json!(null)).await;
    }
    if complete { Ok(()) } else { Err(silent("the scan of stored replies took too long")) }
}
