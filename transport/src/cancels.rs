//! What was taken back, as the bucket `beacon-cancel` says: read whole before anything is started, then followed.
//!
//! The reader is an ordered consumer: it survives reconnects and server restarts. Where one cannot be made (no meta
//! leader), it is tried again; orders that came meanwhile are in the bucket and are found then.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{
        self, Message,
        consumer::{DeliverPolicy, pull},
    },
};
use futures_util::StreamExt;
use schemas::{
    Micros,
    cancel::{Cancels, Order},
    job::Head,
    time::Clock as _,
    topology::{CANCEL_BUCKET, CANCEL_KEPT, bucket_stream},
};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    SystemClock,
    api::{self, STREAM_NOT_FOUND},
    publisher::{Headers, PublishError, Publisher},
};

/// After a failed reading, before the next.
const AGAIN: Duration = Duration::from_secs(1);
/// How often orders are forgotten that the bucket has forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// The first reading must not hold a role up for ever.
const LOAD_MAX: Duration = Duration::from_secs(30);

/// Why the orders could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CancelsError {
    /// The stream did not answer.
    #[error("cannot read bucket {CANCEL_BUCKET}")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("bucket {CANCEL_BUCKET} was not read within {LOAD_MAX:?}")]
    Slow,
}

fn unread(error: impl std::error::Error + Send + Sync + 'static) -> CancelsError {
    CancelsError::Read(Box::new(error))
}

/// Gives an order; when it returns, every dispatcher and worker will hear it.
pub async fn order(publisher: &Publisher, order: &Order) -> Result<(), PublishError> {
    let body = serde_json::to_vec(order).expect("an order has only string keys and no failing parts");
    let subject = format!("$KV.{CANCEL_BUCKET}.{}", order.key());
    publisher.publish(subject, Headers::new(), body.into()).await.map(drop)
}

/// What was taken back, as far as we have heard. Clones share it.
#[derive(Clone, Debug)]
pub struct CancelWatch {
    held: Arc<RwLock<Cancels>>,
    changes: watch::Receiver<u64>,
}

impl CancelWatch {
    /// The order that takes this job back, if there is one.
    pub fn of(&self, job: &Head, stored_at: Micros) -> Option<Order> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).of(job, stored_at).cloned()
    }

    /// Returns when there is news since the last call on this clone; never when the reader has ended. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when this job is taken back. Cancel-safe.
    pub async fn taken_back(&self, job: &Head, stored_at: Micros) -> Order {
        let mut watch = self.clone();
        // What is there already counts as seen only after it was looked at.
        loop {
            watch.changes.mark_unchanged();
            if let Some(order) = watch.of(job, stored_at) {
                return order;
            }
            watch.changed().await;
        }
    }
}

/// The task behind a [`CancelWatch`]. Spawn [`CancelTask::run`].
pub struct CancelTask {
    client: Client,
    held: Arc<RwLock<Cancels>>,
    tell: watch::Sender<u64>,
}

/// Reads all orders that hold, and makes the task that follows new ones.
pub async fn cancels(client: &Client) -> Result<(CancelWatch, CancelTask), CancelsError> {
    let (tell, changes) = watch::channel(0);
    let held = Arc::<RwLock<Cancels>>::default();
    let task = CancelTask { client: client.clone(), held: held.clone(), tell };
    tokio::time::timeout(LOAD_MAX, task.read(false)).await.map_err(|_| CancelsError::Slow)??;
    Ok((CancelWatch { held, changes }, task))
}

impl CancelTask {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut forget = interval(FORGET_EVERY);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let following = async {
            loop {
                if let Err(error) = self.read(true).await {
                    warn!(%error, "cannot follow what is taken back, trying again");
                }
                sleep(AGAIN).await;
            }
        };
        let forgetting = async {
            loop {
                forget.tick().await;
                self.lock().forget_before(SystemClock.now() - CANCEL_KEPT);
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = following => {}
            () = forgetting => {}
        }
    }

    /// Takes in every order there is; with `follow`, goes on with new ones until the reading fails.
    async fn read(&self, follow: bool) -> Result<(), CancelsError> {
        let name = bucket_stream(CANCEL_BUCKET);
        match api::ask(&self.client, &format!("STREAM.INFO.{name}"), &Value::Null).await {
            // A worker may be there before the first dispatcher, which makes the streams: nothing was taken back.
            Err(error) if error.code() == Some(STREAM_NOT_FOUND) && !follow => return Ok(()),
            other => other.map_err(unread)?,
        };
        let stream = jetstream::new(self.client.clone()).get_stream_no_info(name).await.map_err(unread)?;
        let config = pull::OrderedConfig {
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: format!("$KV.{CANCEL_BUCKET}.>"),
            ..pull::OrderedConfig::default()
        };
        let mut consumer = stream.create_consumer(config).await.map_err(unread)?;
        if !follow && consumer.info().await.map_err(unread)?.num_pending == 0 {
            return Ok(());
        }
        let mut messages = consumer.messages().await.map_err(unread)?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(unread)?;
            let (pending, stored) = message.info().map_or((0, SystemClock.now()), |info| {
                let nanos = u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(0);
                (info.pending, Micros::from_nanos(nanos))
            });
            self.take(&message, stored);
            if !follow && pending == 0 {
                break;
            }
        }
        Ok(())
    }

    fn take(&self, message: &Message, stored: Micros) {
        let key = message.subject.as_str().strip_prefix("$KV.").and_then(|s| s.split_once('.'));
        let Some((_, key)) = key else { return };
        let deleted = message.headers.as_ref().is_some_and(|h| h.get("KV-Operation").is_some());
        if deleted {
            self.lock().remove(key);
        } else {
            match serde_json::from_slice::<Order>(&message.payload) {
                Ok(order) => self.lock().add(key, order, stored),
                Err(error) => warn!(key, %error, "an order to take jobs back does not read, ignored"),
            }
        }
        self.tell.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> std::sync::RwLockWriteGuard<'_, Cancels> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}
