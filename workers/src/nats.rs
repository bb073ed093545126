//! A worker's messages: offers in; acceptances, heartbeats, returns, results, costs out. Decides nothing.

use async_nats::{HeaderMap, HeaderValue, Message};
use bytes::Bytes;
use schemas::{
    Codec, Mailbox, Micros, Tenant,
    cost::CostEvent,
    handover::{Handover, Order, Return},
    headers,
    job::{Job, JobError, JobHeaders},
    live::LivePiece,
    reply::JobResult,
    subjects,
};
use transport::replies::{Address, Outgoing};

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

/// Reads the job of an offer.
pub fn read_job(handover: &Handover, message: &Message, now: Micros) -> Result<Job, JobError> {
    let get = |name| message.headers.as_ref().and_then(|m| m.get(name)).map(HeaderValue::as_str);
    let headers = JobHeaders {
        content_type: get(headers::CONTENT_TYPE),
        message_id: get(headers::MESSAGE_ID),
        schema: get(headers::SCHEMA),
        traceparent: get(headers::TRACEPARENT),
    };
    Job::read(handover.subject.clone(), headers, &message.payload, now)
}

/// A job's result.
pub fn result(job: &Job, result: &JobResult) -> Outgoing {
    Address::of(job).result(result)
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

/// A pool's standing cost, in the mailbox `standing` of the default tenant; `id` names the span it covers.
pub fn standing(event: &CostEvent, id: String) -> Outgoing {
    let (tenant, mailbox) =
        (Tenant::default(), Mailbox::try_from("standing").expect("a literal that is a token"));
    Address { tenant: &tenant, mailbox: &mailbox, codec: Codec::Json, traceparent: None }.cost(event, id)
}

/// A job given back: its own message with our header in place of the dispatcher's.
pub fn give_back(offer: &Message, back: &Return) -> (String, HeaderMap, Bytes) {
    let json = serde_json::to_string(back).expect("a return has only string keys and no failing parts");
    let mut map: HeaderMap = offer
        .headers
        .iter()
        .flat_map(HeaderMap::iter)
        .filter(|(name, _)| AsRef::<str>::as_ref(*name) != headers::HANDOVER)
        .filter_map(|(name, values)| values.first().map(|v| (name.clone(), v.clone())))
        .collect();
    map.insert(headers::RETURN, json);
    (subjects::returns(&back.subject.region), map, offer.payload.clone())
}
