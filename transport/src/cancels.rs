//! What was taken back, as the bucket `beacon-cancel` says: read whole before anything is started, then followed.
//!
//! [`crate::follow`] reads the bucket, through reconnects and server restarts.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_nats::Client;
use schemas::{
    Micros,
    cancel::{Cancels, Order},
    job::Head,
    time::Clock as _,
    topology::{CANCEL_BUCKET, CANCEL_KEPT},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    SystemClock,
    follow::{Change, FollowError, Follower, News},
    publisher::{Headers, PublishError, Publisher},
};

/// How often orders are forgotten that the bucket has forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// The first reading must not hold a role up for ever.
const LOAD_MAX: Duration = Duration::from_secs(30);

/// Why the orders could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CancelsError {
    /// The stream did not answer.
    #[error(transparent)]
    Read(#[from] FollowError),
    /// It took too long.
    #[error("bucket {CANCEL_BUCKET} was not read within {LOAD_MAX:?}")]
    Slow,
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
    follower: Follower,
    held: Arc<RwLock<Cancels>>,
    tell: watch::Sender<u64>,
}

/// Reads all orders that hold, and makes the task that follows new ones.
pub async fn cancels(client: &Client) -> Result<(CancelWatch, CancelTask), CancelsError> {
    let (tell, changes) = watch::channel(0);
    let held = Arc::<RwLock<Cancels>>::default();
    let follower = Follower::of_all(client.clone(), CANCEL_BUCKET);
    let task = CancelTask { follower, held: held.clone(), tell };
    let reading = task.follower.load(|news| task.take(news));
    tokio::time::timeout(LOAD_MAX, reading).await.map_err(|_| CancelsError::Slow)??;
    Ok((CancelWatch { held, changes }, task))
}

impl CancelTask {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut forget = interval(FORGET_EVERY);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let forgetting = async {
            loop {
                forget.tick().await;
                self.lock().forget_before(SystemClock.now() - CANCEL_KEPT);
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follower.run(|news| self.take(news)) => {}
            () = forgetting => {}
        }
    }

    fn take(&self, news: News) {
        let Change { key, value, stored, .. } = match news {
            News::Change(change) => change,
            // An order that is no longer in the bucket holds here all the same: a stream that was made anew says nothing
            // about what was taken back before.
            News::Begins | News::Whole => return,
        };
        match value.map(|value| serde_json::from_slice::<Order>(&value)) {
            None => self.lock().remove(&key),
            Some(Ok(order)) => self.lock().add(&key, order, stored),
            Some(Err(error)) => warn!(key, %error, "an order to take jobs back does not read, ignored"),
        }
        self.tell.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> std::sync::RwLockWriteGuard<'_, Cancels> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}
