//! Reads the ledger: for those whose books say what is left of a bill when jobs have booked their part of it.

use std::time::Duration;

use async_nats::{
    Client, HeaderValue,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull},
    },
};
use futures_util::StreamExt as _;
use schemas::{Codec, Micros, cost::CostEvent, headers, topology::LEDGER};
use serde_json::Value;

use crate::{
    api::{self, ApiError},
    replies, stored,
};

/// One message of the ledger must not be waited for longer than this.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// Why the ledger was not read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read stream {LEDGER}: {0}")]
pub struct LedgerError(String);

fn unread(error: impl std::fmt::Display) -> LedgerError {
    LedgerError(error.to_string())
}

/// Where a reader of the ledger is: when the stream was made, and the last message that was read.
pub type Place = (String, u64);

/// What the ledger's stream is now: when it was made, and its last message.
pub async fn head(client: &Client) -> Result<Place, LedgerError> {
    let info = api::ask(client, &format!("STREAM.INFO.{LEDGER}"), &Value::Null).await.map_err(unread)?;
    let made = info.get("created").and_then(Value::as_str).unwrap_or_default().to_owned();
    let last = info.pointer("/state/last_seq").and_then(Value::as_u64).unwrap_or(0);
    Ok((made, last))
}

/// Reads the cost events that came behind `place`, and gives where the reader is then. A ledger that was made anew is read from its start.
pub async fn read_on(
    client: &Client,
    (made, seq): (&str, u64),
    take: impl FnMut(&CostEvent),
) -> Result<Place, LedgerError> {
    let (now_made, last) = head(client).await?;
    let after = if now_made == made { seq } else { 0 };
    if last > after {
        costs(client, after, last, take).await?;
    }
    Ok((now_made, last.max(after)))
}

/// Whether standing cost with this message id is stored, `since` then: perhaps so long ago that the server has forgotten the id.
pub async fn is_standing_stored(client: &Client, id: &str, since: Micros) -> Result<bool, ApiError> {
    let (tenant, mailbox) = replies::standing_mailbox();
    let costs = stored::costs_since(client, &tenant, &mailbox, since).await?;
    Ok(costs.contains(id))
}

/// Reads the cost events from behind `after` up to `last`.
async fn costs(
    client: &Client,
    after: u64,
    last: u64,
    mut take: impl FnMut(&CostEvent),
) -> Result<(), LedgerError> {
    let stream = jetstream::new(client.clone()).get_stream_no_info(LEDGER).await.map_err(unread)?;
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        ..pull::OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(unread)?;
    let mut messages = consumer.messages().await.map_err(unread)?;
    loop {
        let next = tokio::time::timeout(READ_WITHIN, messages.next()).await;
        let next = next.map_err(|_| unread("no message in time"))?;
        let message = next.ok_or_else(|| unread("the reading ended in its midst"))?;
        let message = message.map_err(unread)?;
        let (seq, pending) = message.info().map_or((0, 0), |info| (info.stream_sequence, info.pending));
        if seq > last {
            return Ok(());
        }
        let kind = message.headers.as_ref().and_then(|map| map.get(headers::CONTENT_TYPE));
        let codec = Codec::from_content_type(kind.map(HeaderValue::as_str)).unwrap_or_default();
        // What does not read is no cost event of a version that knows rented machines.
        if let Ok(event) = codec.decode::<CostEvent>(&message.payload) {
            take(&event);
        }
        if seq == last || pending == 0 {
            return Ok(());
        }
    }
}
