//! Claims on unique keys: which job a key stands for, for a while. Each is one value of the bucket `beacon-unique`, which the
//! server itself removes when its time is over.
//!
//! A claim comes before its job: whoever dies in between leaves a claim that says so, and the next one finds out in the job
//! stream whether the job was accepted after all.

use std::time::Duration;

use async_nats::Client;
use schemas::{
    JobId, Micros, Tenant,
    topology::{UNIQUE_BUCKET, bucket_stream},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    api::{self, ApiError},
    bucket,
    publisher::{Headers, PublishError, Publisher},
};

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
    let headers = Headers::new().with("Nats-TTL", format!("{}s", left.as_secs()));
    let body = serde_json::to_vec(claim).expect("a claim has only string keys and no failing parts");
    bucket::replace(publisher, subject(tenant, &claim.key), headers, body.into(), revision).await
}

/// The claim on a key with its revision.
pub async fn get(client: &Client, tenant: &Tenant, key: &str) -> Result<Option<(Claim, u64)>, ApiError> {
    let subject = subject(tenant, key);
    let found = api::newest(client, &bucket_stream(UNIQUE_BUCKET), &subject).await?;
    let read = |(bytes, revision): (Vec<u8>, u64)| {
        let odd = |e: serde_json::Error| ApiError::Odd { subject, what: e.to_string() };
        Ok((serde_json::from_slice(&bytes).map_err(odd)?, revision))
    };
    found.map(read).transpose()
}

/// Gives a key free again: its job was refused.
pub async fn release(client: &Client, tenant: &Tenant, key: &str) -> Result<(), ApiError> {
    api::purge(client, &bucket_stream(UNIQUE_BUCKET), &subject(tenant, key)).await
}
