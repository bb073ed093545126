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
use schemas::{Codec, cost::CostEvent, headers, topology::LEDGER};
use serde_json::Value;

use crate::api;

/// One message of the ledger must not be waited for longer than this.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// Why the ledger was not read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read stream {LEDGER}: {0}")]
pub struct LedgerError(String);

fn unread(error: impl std::fmt::Display) -> LedgerError {
    LedgerError(error.to_string())
}

/// What the ledger's stream is now: when it was made, and its last message.
pub async fn head(client: &Client) -> Result<(String, u64), LedgerError> {
    let info = api::ask(client, &format!("STREAM.INFO.{LEDGER}"), &Value::Null).await.map_err(unread)?;
    let made = info.get("created").and_then(Value::as_str).unwrap_or_default().to_owned();
    let last = info.pointer("/state/last_seq").and_then(Value::as_u64).unwrap_or(0);
    Ok((made, last))
}

/// Reads the cost events from behind `after` up to `last`.
pub async fn costs(
    client: &Client,
    after: u64,
    last: u64,
    mut take: impl FnMut(&CostEvent),
) -> Result<(), LedgerError> {
    if last <= after {
        return Ok(());
    }
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
