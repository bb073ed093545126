//! Follows the keys of a bucket below a prefix: reads all that is there, then every change, through reconnects, server
//! restarts and a stream that is deleted and made anew.
//!
//! The reader is an ordered consumer. Where one cannot be made (no meta leader, no stream yet), it is tried again; what
//! changed meanwhile is in the bucket and is read then. Every reading begins from the start, so a follower hears each
//! value at least once and the newest value of a key last.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        self, Message,
        consumer::{DeliverPolicy, pull},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use schemas::{Micros, time::Clock as _, topology::bucket_stream};
use serde_json::Value;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::{
    SystemClock,
    api::{self, ApiError, STREAM_NOT_FOUND},
};

/// After a failed reading, before the next.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the stream is asked whether it is still the same. An ordered consumer that is made again goes on behind the last
/// sequence that it saw; in a stream that was made anew that sequence may come in years.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a bucket could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read bucket {bucket}")]
pub struct FollowError {
    bucket: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The server ended a reading in its midst.
#[derive(Debug, thiserror::Error)]
#[error("the reading ended before everything was read")]
struct Ended;

/// A key and what it holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The whole key, without the bucket.
    pub key: String,
    /// The value; `None` when it was deleted.
    pub value: Option<Bytes>,
    /// The sequence of the message that says so.
    pub revision: u64,
    /// When the server stored that message.
    pub stored: Micros,
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A reading begins. Keys that are not named before [`News::Whole`] are gone.
    Begins,
    /// A key's value, or the news that it was deleted.
    Change(Change),
    /// Everything that was there when the reading began was told; what follows is new.
    Whole,
}

/// How far a reading goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// To the end of what is there.
    Now,
    /// On with what comes.
    OnAndOn,
}

/// A reader of one bucket.
#[derive(Clone, Debug)]
pub struct Follower {
    client: Client,
    bucket: &'static str,
    /// What the subjects of the keys begin with: `$KV.<bucket>.` and the prefix.
    filter: String,
}

impl Follower {
    /// Follows all keys of a bucket.
    pub fn of_all(client: Client, bucket: &'static str) -> Self {
        Self { client, bucket, filter: format!("$KV.{bucket}.>") }
    }

    /// Follows the keys `<prefix>.…` of a bucket.
    pub fn below(client: Client, bucket: &'static str, prefix: &str) -> Self {
        Self { client, bucket, filter: format!("$KV.{bucket}.{prefix}.>") }
    }

    /// Tells everything that is there and returns. A bucket whose stream does not exist yet is empty: a worker may be there
    /// before the first dispatcher, which makes the streams.
    pub async fn load(&self, tell: impl FnMut(News)) -> Result<(), FollowError> {
        self.read(Extent::Now, tell).await
    }

    /// Tells everything that is there and every change after it; never returns.
    pub async fn run(&self, mut tell: impl FnMut(News)) {
        loop {
            if let Err(error) = self.read(Extent::OnAndOn, &mut tell).await {
                warn!(%error, source = %error.source, "cannot follow a bucket now, trying again");
            }
            sleep(AGAIN).await;
        }
    }

    async fn read(&self, extent: Extent, mut tell: impl FnMut(News)) -> Result<(), FollowError> {
        let name = bucket_stream(self.bucket);
        let made = match self.made().await {
            Err(error) if error.code() == Some(STREAM_NOT_FOUND) && extent == Extent::Now => {
                tell(News::Begins);
                tell(News::Whole);
                return Ok(());
            }
            other => other.map_err(|error| self.unread(error))?,
        };
        let stream = jetstream::new(self.client.clone())
            .get_stream_no_info(name)
            .await
            .map_err(|error| self.unread(error))?;
        let config = pull::OrderedConfig {
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: self.filter.clone(),
            ..pull::OrderedConfig::default()
        };
        let mut consumer = stream.create_consumer(config).await.map_err(|error| self.unread(error))?;
        let (waiting, name) = {
            let info = consumer.info().await.map_err(|error| self.unread(error))?;
            (info.num_pending, info.name.clone())
        };
        tell(News::Begins);
        let mut whole = waiting == 0;
        if whole {
            tell(News::Whole);
            if extent == Extent::Now {
                forget(&stream, &name).await;
                return Ok(());
            }
        }
        let mut messages = consumer.messages().await.map_err(|error| self.unread(error))?;
        let replaced = self.replaced(made.as_deref());
        tokio::pin!(replaced);
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                // Everything is read again.
                () = &mut replaced => None,
            };
            let Some(message) = message else {
                // Half a reading must not pass for all that there is.
                return if extent == Extent::Now { Err(self.unread(Ended)) } else { Ok(()) };
            };
            let message = message.map_err(|error| self.unread(error))?;
            let (change, pending) = self.change(&message);
            tell(News::Change(change));
            if !whole && pending == 0 {
                whole = true;
                tell(News::Whole);
                if extent == Extent::Now {
                    drop(messages);
                    forget(&stream, &name).await;
                    return Ok(());
                }
            }
        }
    }

    /// When the stream behind the bucket was made.
    async fn made(&self) -> Result<Option<String>, ApiError> {
        let subject = format!("STREAM.INFO.{}", bucket_stream(self.bucket));
        let info = api::ask(&self.client, &subject, &Value::Null).await?;
        Ok(info["created"].as_str().map(str::to_owned))
    }

    /// Returns when the stream is surely not the one any more that was made then. What cannot be asked now is not sure.
    async fn replaced(&self, made: Option<&str>) {
        loop {
            sleep(LOOK_EVERY).await;
            match self.made().await {
                Ok(now) if now.as_deref() == made => {}
                Ok(_) => return,
                Err(error) if error.code() == Some(STREAM_NOT_FOUND) => return,
                Err(_) => {}
            }
        }
    }

    /// The change that a message tells, and how many messages follow it.
    fn change(&self, message: &Message) -> (Change, u64) {
        let subject = message.subject.as_str();
        let key = subject.strip_prefix("$KV.").and_then(|rest| rest.strip_prefix(self.bucket));
        let key = key.and_then(|rest| rest.strip_prefix('.')).unwrap_or(subject).to_owned();
        let (revision, pending, stored) = message.info().map_or((0, 0, SystemClock.now()), |info| {
            let nanos = u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(0);
            (info.stream_sequence, info.pending, Micros::from_nanos(nanos))
        });
        let deleted = message.headers.as_ref().is_some_and(|headers| headers.get("KV-Operation").is_some());
        let value = (!deleted).then(|| message.payload.clone());
        (Change { key, value, revision, stored }, pending)
    }

    fn unread(&self, error: impl std::error::Error + Send + Sync + 'static) -> FollowError {
        FollowError { bucket: self.bucket, source: Box::new(error) }
    }
}

/// The server keeps a reader for minutes that is gone, and a stream has only so many.
async fn forget(stream: &jetstream::stream::Stream<()>, name: &str) {
    if let Err(error) = stream.delete_consumer(name).await {
        debug!(%error, "a reader is left to the server to forget");
    }
}
