//! Small values by key, in the streams that stand behind KV buckets.
//!
//! Written through the shared [`Publisher`], so that a journal entry costs one message among many and not a round
//! trip of its own connection; read by direct get, which needs no meta layer.

use async_nats::{Client, Request};
use bytes::Bytes;
use schemas::topology::bucket_stream;

use crate::publisher::{Headers, PublishError, Publisher};

/// Names the version that a value must have to be replaced.
pub(crate) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
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

    /// Reads the newest value; `None` when there is none or it was deleted.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, ReadError> {
        let stream = bucket_stream(self.name);
        let subject = format!("$JS.API.DIRECT.GET.{stream}.$KV.{}.{key}", self.name);
        let answer = self.client.send_request(subject, Request::new()).await.map_err(|source| ReadError {
            bucket: self.name,
            key: key.to_owned(),
            source,
        })?;
        let deleted = answer.headers.as_ref().is_some_and(|h| h.get("KV-Operation").is_some());
        Ok((answer.status.is_none() && !deleted).then_some(answer.payload))
    }
}
