//! Claims on unique keys: which job a key stands for, for a while. Each is one value of the bucket `beacon-unique`, which the
//! server itself removes when its time is over.
//!
//! A claim comes before its job: whoever dies in between leaves a claim that says so, and the next one finds out in the job
//! stream whether the job was accepted after all.

use std::time::Duration;

use async_nats::Client;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use schemas::{
    JobId, Micros, Tenant,
    topology::{UNIQUE_BUCKET, bucket_stream},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    api::{self, ApiError, MESSAGE_NOT_FOUND},
    publisher::{Headers, PublishError, Publisher},
};

/// The server's word for a value that somebody else has set meanwhile.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// The shortest life the server gives a message.
pub const PERIOD_MIN: Duration = Duration::from_secs(1);

/// A claim as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The key, for people.
    pub key: String,
    /// The job that it stands for.
    pub job: JobId,
    /// When it was made.
    pub at_us: Micros,
    /// When it ends.
    pub until_us: Micros,
    /// Whether the job is known to be accepted.
    pub accepted: bool,
}

/// Why a claim was neither made nor read.
#[derive(Debug, thiserror::Error)]
pub enum UniqueError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ApiError),
    /// It could not be stored.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

fn subject(tenant: &Tenant, key: &str) -> String {
    // A key may be any text; what names it in the bucket must be a token.
    let name = Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes()).simple();
    format!("$KV.{UNIQUE_BUCKET}.{tenant}.{name}")
}

/// Stores a claim in place of the one at `revision`, 0 for none. `None` when somebody else was first; else its revision.
pub async fn set(
    publisher: &Publisher,
    tenant: &Tenant,
    claim: &Claim,
    revision: u64,
    now: Micros,
) -> Result<Option<u64>, PublishError> {
    let left = claim.until_us.since(now).max(PERIOD_MIN);
    let headers = Headers::new()
        .with("Nats-Expected-Last-Subject-Sequence", revision.to_string())
        .with("Nats-TTL", format!("{}s", left.as_secs()));
    let body = serde_json::to_vec(claim).expect("a claim has only string keys and no failing parts");
    match publisher.publish(subject(tenant, &claim.key), headers, body.into()).await {
        Ok(stored) => Ok(Some(stored.seq)),
        Err(PublishError::Refused { code: WRONG_LAST_SEQUENCE, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The claim on a key with its revision. Asked of the leader: a replica may be behind.
pub async fn get(client: &Client, tenant: &Tenant, key: &str) -> Result<Option<(Claim, u64)>, ApiError> {
    let stream = bucket_stream(UNIQUE_BUCKET);
    let subject = format!("STREAM.MSG.GET.{stream}");
    let body = json!({ "last_by_subj": self::subject(tenant, key) });
    let answer = match api::ask(client, &subject, &body).await {
        Ok(answer) => answer,
        Err(error) if error.code() == Some(MESSAGE_NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    let data = answer.pointer("/message/data").and_then(Value::as_str).unwrap_or_default();
    let bytes = BASE64.decode(data).unwrap_or_default();
    let claim = serde_json::from_slice(&bytes).map_err(|e| ApiError::Odd { subject, what: e.to_string() })?;
    Ok(Some((claim, api::number(&answer, "message/seq").unwrap_or(0))))
}

/// Gives a key free again: its job was refused.
pub async fn release(client: &Client, tenant: &Tenant, key: &str) -> Result<(), ApiError> {
    let subject = format!("STREAM.PURGE.{}", bucket_stream(UNIQUE_BUCKET));
    api::ask(client, &subject, &json!({ "filter": self::subject(tenant, key) })).await.map(drop)
}
