//! A worker's messages: offers in; acceptances, heartbeats, returns, results, costs out. Decides nothing.

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};
use bytes::Bytes;
use schemas::{
    Micros,
    cost::CostEvent,
    handover::{Handover, Order, Return},
    headers,
    job::{Job, JobError, JobHeaders},
    live::LivePiece,
    reply::JobResult,
    subjects::{self, JobSubject},
};
use transport::replies::{Address, Outgoing};

use crate::attempt::course::ResultName;

/// Why an offer does not read.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// The header is missing or no JSON of ours.
    #[error("header Beacon-Handover does not read")]
    Header(#[from] serde_json::Error),
}

/// Reads what a dispatcher added to a job.
pub fn read_offer(message: &Message) -> Result<Handover, OfferError> {
    let text =
        message.headers.as_ref().and_then(|h| h.get(headers::HANDOVER)).map_or("", HeaderValue::as_str);
    Ok(serde_json::from_str(text)?)
}

/// Reads a job by its headers and body.
pub fn read_job(
    subject: JobSubject,
    headers: Option<&HeaderMap>,
    body: &[u8],
    now: Micros,
) -> Result<Job, JobError> {
    let get = |name| headers.and_then(|m| m.get(name)).map(HeaderValue::as_str);
    let headers = JobHeaders {
        content_type: get(headers::CONTENT_TYPE),
        message_id: get(headers::MESSAGE_ID),
        schema: get(headers::SCHEMA),
        traceparent: get(headers::TRACEPARENT),
        scheduler: get(headers::SCHEDULER),
    };
    Job::read(subject, headers, body, now)
}

/// A job's result, or the one that says that its id was taken.
pub fn result(job: &Job, name: ResultName, result: &JobResult) -> Outgoing {
    let address = Address::of(job);
    match name {
        ResultName::OfJob => address.result(result),
        ResultName::IdTaken(seq) => address.id_taken(result, seq),
    }
}

/// The cost event of an attempt of a job.
pub fn cost(job: &Job, event: &CostEvent) -> Outgoing {
    Address::of(job).cost(event, event.message_id().expect("an attempt belongs to a job"))
}

/// Reads an order of a dispatcher.
pub fn read_order(message: &Message) -> Result<Order, serde_json::Error> {
    serde_json::from_slice(&message.payload)
}

/// A piece of live output; not stored.
pub fn live(job: &Job, piece: &LivePiece) -> (HeaderMap, Bytes) {
    let body = job.codec.encode(piece).expect("a piece has only string keys and no failing parts");
    let mut map = HeaderMap::new();
    map.insert(headers::CONTENT_TYPE, job.codec.content_type());
    map.insert(headers::SCHEMA, headers::LIVE_V1);
    (map, body.into())
}

/// A job given back: its own message with our header in place of the dispatcher's. Where both do not fit into a message of
/// `limit` bytes, or the body did not come with the offer, the header goes alone and says that the body is in the log.
pub fn give_back(offer: &Message, mut back: Return, limit: usize) -> (String, HeaderMap, Bytes) {
    let subject = subjects::returns(&back.subject.region);
    if !back.in_log {
        let mut map: HeaderMap = offer
            .headers
            .iter()
            .flat_map(HeaderMap::iter)
            .filter(|(name, _)| AsRef::<str>::as_ref(*name) != headers::HANDOVER)
            .filter_map(|(name, values)| values.first().map(|v| (name.clone(), v.clone())))
            .collect();
        map.insert(headers::RETURN, headers::json(&back));
        if wire_len(&map) + offer.payload.len() <= limit {
            return (subject, map, offer.payload.clone());
        }
        back.in_log = true;
    }
    let mut map = HeaderMap::new();
    map.insert(headers::RETURN, headers::json(&back));
    (subject, map, Bytes::new())
}

/// How many bytes headers take on the wire; the server counts them like the body.
fn wire_len(headers: &HeaderMap) -> usize {
    let pairs = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        AsRef::<str>::as_ref(name).len() + value.as_str().len() + ": \r\n".len()
    };
    "NATS/1.0\r\n\r\n".len() + pairs.map(pair).sum::<usize>()
}
