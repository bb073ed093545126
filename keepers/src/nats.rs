//! A keeper's messages: heartbeats and demand in. Decides nothing.

pub(crate) use async_nats::Client;
use async_nats::Subscriber;
use schemas::{demand::Demand, heartbeat::Heartbeat};
use tracing::warn;

/// Subscribes; `None` when the connection is closed for good.
pub(crate) async fn subscribe(client: &Client, subject: String) -> Option<Subscriber> {
    match client.subscribe(subject).await {
        Ok(subscriber) => Some(subscriber),
        Err(error) => {
            warn!(%error, "cannot subscribe");
            None
        }
    }
}

/// Reads what a dispatcher tells of what waits.
pub(crate) fn read_demand(payload: &[u8]) -> Option<Demand> {
    serde_json::from_slice(payload).ok()
}

/// Reads a heartbeat.
pub(crate) fn read_heartbeat(payload: &[u8]) -> Option<Heartbeat> {
    serde_json::from_slice(payload).ok()
}
