//! Finds results that exist already, so that a job delivered again is not run again.

use std::{collections::HashSet, time::Duration};

use async_nats::Client;
use futures_util::StreamExt;
use schemas::{JobId, Mailbox, Micros, Tenant, headers, subjects, topology};
use serde_json::json;

use crate::api::{self, ApiError};

/// A scan reads headers only; a million of them take seconds, more means that a mailbox is shared by too many.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clocks differ and the job's time is when it was stored: look a little further back.
const MARGIN: Duration = Duration::from_secs(5);

/// The jobs that have a stored result in this mailbox, of all results stored since `since`.
///
/// One headers-only scan; share it among all redelivered jobs of the mailbox.
pub async fn results_since(
    client: &Client,
    tenant: &Tenant,
    mailbox: &Mailbox,
    since: Micros,
) -> Result<HashSet<JobId>, ApiError> {
    let deliver = client.new_inbox();
    let subject = format!("CONSUMER.CREATE.{}", topology::REPLIES);
    let silent = |what: &str| ApiError::Odd { subject: subject.clone(), what: what.to_owned() };
    let mut messages = client.subscribe(deliver.clone()).await.map_err(|e| silent(&e.to_string()))?;
    let config = json!({
        "stream_name": topology::REPLIES,
        "config": {
            "deliver_subject": deliver,
            "deliver_policy": "by_start_time",
            "opt_start_time": (since - MARGIN).to_datetime().to_rfc3339(),
            "ack_policy": "none",
            "filter_subject": subjects::result(tenant, mailbox),
            "headers_only": true,
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": topology::nanos(PATIENCE),
        }
    });
    let created = api::ask(client, &subject, &config).await?;
    let mut found = HashSet::new();
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
            found.extend(id.and_then(|v| JobId::from_result_message(v.as_str())));
        }
    };
    let complete = tokio::time::timeout(PATIENCE, scan).await.is_ok();
    if let Some(name) = created.get("name").and_then(serde_json::Value::as_str) {
        // It would end by itself; asking only makes it sooner.
        let _ =
            api::ask(client, &format!("CONSUMER.DELETE.{}.{name}", topology::REPLIES), &json!(null)).await;
    }
    if complete { Ok(found) } else { Err(silent("the scan of stored results took too long")) }
}
