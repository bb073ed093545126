//! Small values by key, in the streams that stand behind KV buckets.
//!
//! Written through the shared [`Publisher`], so that a journal entry costs one message among many and not a round
//! trip of its own connection; read by direct get, which needs no meta layer.

use async_nats::{Client, Request};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schemas::topology::bucket_stream;
use serde_json::Value;

use crate::{
    api::{self, ApiError},
    publisher::{Headers, PublishError, Publisher},
};

/// Names the version that a value must have to be replaced.
pub(crate) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Values that a scan reads at once.
const SCANNED_AT_ONCE: usize = 64;
/// Says what a message does to its key, where it does not give it a value.
const OPERATION: &str = "KV-Operation";
/// The key has no value any more.
const DELETED: &str = "DEL";
/// The server's word for a value that has another version.
pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10_071;

/// Stores a value in place of the one at `revision`, 0 for none, and gives its own revision; `None` when somebody else was
/// first. `subject` is that of a key.
pub(crate) async fn replace(
    publisher: &Publisher,
    subject: String,
    headers: Headers,
    value: Bytes,
    revision: u64,
) -> Result<Option<u64>, PublishError> {
    match publisher.publish(subject, headers.with(EXPECTED, revision.to_string()), value).await {
        Ok(stored) => Ok(Some(stored.seq)),
        Err(PublishError::Refused { code: WRONG_LAST_SEQUENCE, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read key `{key}` of bucket {bucket}")]
pub struct ReadError {
    bucket: &'static str,
    key: String,
    #[source]
    source: async_nats::client::RequestError,
}

/// Why the keys of a bucket could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Their names.
    #[error(transparent)]
    Names(#[from] ApiError),
    /// One of them.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A value as it stands now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revised {
    /// The value; `None` when there is none or it was deleted.
    pub value: Option<Bytes>,
    /// What [`Bucket::replace`] names to replace exactly this; 0 when there never was a value.
    pub revision: u64,
}

/// A KV bucket. Keys must be subject tokens.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    publisher: Publisher,
    name: &'static str,
}

impl Bucket {
    /// Binds to a bucket that the topology made.
    pub fn new(client: Client, publisher: Publisher, name: &'static str) -> Self {
        Self { client, publisher, name }
    }

    /// Writes a value; when it returns, the value is stored.
    pub async fn put(&self, key: &str, value: Bytes) -> Result<(), PublishError> {
        let subject = format!("$KV.{}.{key}", self.name);
        self.publisher.publish(subject, Headers::new(), value).await.map(drop)
    }

    /// Writes a value in place of the one at `revision`, and gives its own revision; `None` when somebody else was first.
    pub async fn replace(&self, key: &str, value: Bytes, revision: u64) -> Result<Option<u64>, PublishError> {
        let subject = format!("$KV.{}.{key}", self.name);
        replace(&self.publisher, subject, Headers::new(), value, revision).await
    }

    /// Deletes the value at `revision`; `false` when somebody else was first. Followers hear of it for a day, after which the
    /// server forgets the key; the bucket's stream must allow messages a life of their own.
    pub async fn delete(&self, key: &str, revision: u64) -> Result<bool, PublishError> {
        let subject = format!("$KV.{}.{key}", self.name);
        let headers = Headers::new().with(OPERATION, DELETED).with("Nats-TTL", "24h");
        Ok(replace(&self.publisher, subject, headers, Bytes::new(), revision).await?.is_some())
    }

    /// Every key below `prefix` that has a value, with the value. A key that is written meanwhile is there with one of its values:
    /// a reader of the stream would miss it when its old value goes before it is read.
    pub async fn scan(&self, prefix: &str) -> Result<Vec<(String, Revised)>, ScanError> {
        let stream = bucket_stream(self.name);
        let filter = serde_json::json!({ "subjects_filter": format!("$KV.{}.{prefix}.>", self.name) });
        let info = api::ask(&self.client, &format!("STREAM.INFO.{stream}"), &filter).await?;
        let subjects = info.pointer("/state/subjects").and_then(Value::as_object);
        let head = format!("$KV.{}.", self.name);
        let keys = subjects.into_iter().flatten().filter_map(|(subject, _)| subject.strip_prefix(&head));
        let keys: Vec<String> = keys.map(str::to_owned).collect();
        let reads = keys.into_iter().map(|key| async move {
            let found = self.read(&key).await?;
            Ok::<_, ScanError>((key, found))
        });
        let mut found: Vec<(String, Revised)> =
            stream::iter(reads).buffered(SCANNED_AT_ONCE).try_collect().await?;
        found.retain(|(_, revised)| revised.value.is_some());
        Ok(found)
    }

    /// Reads the newest value; `None` when there is none or it was deleted.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, ReadError> {
        self.read(key).await.map(|found| found.value)
    }

    /// Reads the newest value with its revision. A replica may be a moment behind; then [`Bucket::replace`] says so.
    pub async fn read(&self, key: &str) -> Result<Revised, ReadError> {
        let stream = bucket_stream(self.name);
        let subject = format!("$JS.API.DIRECT.GET.{stream}.$KV.{}.{key}", self.name);
        let answer = self.client.send_request(subject, Request::new()).await.map_err(|source| ReadError {
            bucket: self.name,
            key: key.to_owned(),
            source,
        })?;
        if answer.status.is_some() {
            return Ok(Revised::default());
        }
        let header = |name| answer.headers.as_ref().and_then(|map| map.get(name));
        let revision = header("Nats-Sequence").and_then(|text| text.as_str().parse().ok()).unwrap_or(0);
        let value = header(OPERATION).is_none().then_some(answer.payload.clone());
        Ok(Revised { value, revision })
    }
}
