//! Recurring jobs as the bucket `beacon-recurring` holds them: what each is, and up to when its runs are stored.

use std::collections::BTreeMap;

use async_nats::{Client, HeaderValue, Message};
use schemas::{
    Mailbox, Micros, Tenant,
    recurring::Recurring,
    topology::{RECURRING_BUCKET, bucket_stream, delayed_stream},
};
use tracing::warn;

use crate::{
    api::{self, ApiError},
    bucket,
    publisher::{Headers, PublishError, Publisher},
};

/// A recurring job and how far its runs are stored.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is.
    pub job: Recurring,
    /// All its runs up to here are stored, or were left out by its rule.
    pub last: Micros,
    /// The version of `last`; 0 before the first run.
    pub revision: u64,
}

/// Why a recurring job could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The server did not answer well.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// It was not stored.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// There is one of that name.
    #[error("recurring job `{0}` exists; remove it first, or replace it")]
    Exists(Mailbox),
}

fn key(kind: &str, tenant: &Tenant, name: &Mailbox) -> String {
    format!("$KV.{RECURRING_BUCKET}.{kind}.{tenant}.{name}")
}

/// All there are, of all tenants.
pub async fn list(client: &Client) -> Result<Vec<Entry>, ApiError> {
    let found =
        api::read_all(client, &bucket_stream(RECURRING_BUCKET), &format!("$KV.{RECURRING_BUCKET}.>")).await?;
    let mut jobs: BTreeMap<String, Recurring> = BTreeMap::new();
    let mut lasts: BTreeMap<String, (Micros, u64)> = BTreeMap::new();
    for message in &found {
        let Some((kind, key)) = kind_and_key(message) else { continue };
        match kind.as_str() {
            "job" => match serde_json::from_slice(&message.payload) {
                Ok(job) => drop(jobs.insert(key, job)),
                Err(error) => warn!(key, %error, "a recurring job does not read, left alone"),
            },
            "last" => {
                let at = std::str::from_utf8(&message.payload).ok().and_then(|text| text.parse().ok());
                lasts.insert(key, (Micros::new(at.unwrap_or(0)), number(message, "Nats-Sequence")));
            }
            _ => {}
        }
    }
    let entry = |(key, job): (String, Recurring)| {
        let (last, revision) = lasts.get(&key).copied().unwrap_or((job.since_us, 0));
        Entry { last: last.max(job.since_us), job, revision }
    };
    Ok(jobs.into_iter().map(entry).collect())
}

/// Sets a recurring job. Fails when there is one of its name.
pub async fn add(publisher: &Publisher, job: &Recurring) -> Result<(), ChangeError> {
    let body = serde_json::to_vec(job).expect("a recurring job has only string keys and no failing parts");
    let subject = key("job", job.tenant(), &job.name);
    match bucket::replace(publisher, subject, Headers::new(), body.into(), 0).await? {
        Some(_) => Ok(()),
        None => Err(ChangeError::Exists(job.name.clone())),
    }
}

/// Removes a recurring job with those of its runs that wait for their time. False when there is none.
pub async fn remove(client: &Client, tenant: &Tenant, name: &Mailbox) -> Result<bool, ChangeError> {
    let entries = list(client).await?;
    let Some(entry) = entries.into_iter().find(|e| e.job.tenant() == tenant && e.job.name == *name) else {
        return Ok(false);
    };
    // The job first: a dispatcher that looks now stores no more.
    for kind in ["job", "last"] {
        api::purge(client, &bucket_stream(RECURRING_BUCKET), &key(kind, tenant, name)).await?;
    }
    let region = &entry.job.subject.region;
    for waiting in crate::delayed::list(client, region).await? {
        if waiting.subject.tenant == *tenant && waiting.job == entry.job.run(waiting.at).0 {
            api::purge(client, &delayed_stream(region), &waiting.place).await?;
        }
    }
    Ok(true)
}

/// Writes down how far the runs are stored. False when somebody else has done so since the entry was read.
pub async fn stored(publisher: &Publisher, entry: &Entry, last: Micros) -> Result<bool, PublishError> {
    let (subject, value) = (key("last", entry.job.tenant(), &entry.job.name), last.get().to_string());
    let set = bucket::replace(publisher, subject, Headers::new(), value.into(), entry.revision).await?;
    Ok(set.is_some())
}

fn kind_and_key(message: &Message) -> Option<(String, String)> {
    let headers = message.headers.as_ref()?;
    if headers.get("KV-Operation").is_some() {
        return None;
    }
    let subject = headers.get("Nats-Subject").map(HeaderValue::as_str)?;
    let (kind, key) = subject.strip_prefix("$KV.")?.split_once('.')?.1.split_once('.')?;
    Some((kind.to_owned(), key.to_owned()))
}

fn number(message: &Message, name: &str) -> u64 {
    let text = message.headers.as_ref().and_then(|h| h.get(name)).map(HeaderValue::as_str);
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}
