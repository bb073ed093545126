//! What a dispatcher and a worker both stand on: two connections, a publisher, acks, cancellations, and the tasks
//! behind them, which end in a fixed order.
//!
//! ```text
//!  Links::connect ─▶ (the caller checks the topology) ─▶ Links::start ─▶ Role ─▶ Role::spawn … ─▶ Role::close
//!
//!  close:  the role's own tasks ─▶ acks, cancellations ─▶ publisher ─▶ both connections are flushed
//! ```
//!
//! The own tasks publish until they end, and an ack may only follow its stored result, so each of these groups is told
//! to stop only after the group before it has ended.

use std::{future::Future, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    acks::{Acks, acks},
    cancels::{CancelWatch, CancelsError, cancels},
    link::{Link, LinkConfig, LinkError},
    publisher::{Patience, PublishError, Publisher, publisher},
};

/// How long the ack task may go on confirming after it is told to stop. A confirmation takes 100 ms at most while the
/// consumer has a leader; an election takes about a second.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);
/// How long a stage has to end even if an earlier stage used up the grace period: enough for a task that only has to
/// notice that it is told to stop.
const STAGE_LEAST: Duration = Duration::from_millis(500);
/// How long one flush may take after the grace period. A connected client needs milliseconds; a disconnected client
/// has nothing to flush to.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Why a role could not start.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// A connection failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The ack task could not subscribe to elections.
    #[error("cannot subscribe")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The publisher could not subscribe to acknowledgements.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The cancellations could not be read.
    #[error(transparent)]
    Cancels(#[from] CancelsError),
}

/// The connection that a role's publisher uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publishes {
    /// Beside the jobs: for a worker, whose results are as large as its input.
    OnBulk,
    /// Beside acks and lease extensions: for a dispatcher, which publishes little.
    OnControl,
}

/// The two connections of a role.
#[derive(Clone, Debug)]
pub struct Links {
    /// Carries jobs.
    pub bulk: Link,
    /// Carries acks, lease extensions and orders, which must not queue behind jobs.
    pub control: Link,
}

impl Links {
    /// Opens both connections: `name`, and `name-control`.
    pub async fn connect(config: &LinkConfig, name: &str) -> Result<Self, LinkError> {
        let bulk = Link::connect(config, name).await?;
        let control = Link::connect(config, &format!("{name}-control")).await?;
        Ok(Self { bulk, control })
    }

    /// Starts the tasks that every role needs, and reads every cancellation that holds: a cancelled job must not start.
    ///
    /// A role that creates the streams does so before this call.
    pub async fn start(self, publishes: Publishes) -> Result<Role, RoleError> {
        let Self { bulk, control } = self;
        let carrier = match publishes {
            Publishes::OnBulk => &bulk,
            Publishes::OnControl => &control,
        };
        let (publisher, publisher_task) = publisher(carrier, Patience::FOREVER).await?;
        let (acks, ack_task) = acks(&control).await?;
        let (cancels, cancel_task) = cancels(&control.client).await?;
        let [own, mut last, mut publishing] =
            ["own tasks", "acks and cancellations", "publisher"].map(Stage::new);
        publishing.spawn(|stop| publisher_task.run(stop));
        last.spawn(|stop| ack_task.run(stop, CONFIRM_WITHIN));
        last.spawn(|stop| cancel_task.run(stop));
        Ok(Role { bulk, control, publisher, acks, cancels, stages: [own, last, publishing] })
    }
}

/// A connected role. A role that is dropped without [`Role::close`] aborts its tasks.
pub struct Role {
    /// Carries jobs.
    pub bulk: Link,
    /// Carries acks, lease extensions and orders.
    pub control: Link,
    /// Stores messages.
    pub publisher: Publisher,
    /// Finishes leases.
    pub acks: Acks,
    /// What was cancelled.
    pub cancels: CancelWatch,
    /// In the order in which they end.
    stages: [Stage; 3],
}

impl Role {
    /// Runs a task of the role beside its main loop, until the role closes. The task may publish until it ends.
    pub fn spawn<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.stages[0].spawn(task);
    }

    /// Ends the tasks, one group after the other, then flushes both connections. Call it when the main loop has ended
    /// and no other clone of the publisher or of the acks is used.
    ///
    /// A task that still runs after `grace` is aborted; each group has half a second at least. Nothing is lost by it: the job of an unconfirmed ack is delivered
    /// again, and its stored result is found.
    pub async fn close(self, grace: Duration) {
        end_in_order(self.stages, Instant::now() + grace).await;
        for link in [&self.bulk, &self.control] {
            match timeout_at(Instant::now() + FLUSH_WITHIN, link.client.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "connection not flushed"),
                Err(_) => debug!("connection not flushed in time"),
            }
        }
    }
}

/// Tasks that end together.
struct Stage {
    name: &'static str,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Stage {
    fn new(name: &'static str) -> Self {
        Self { name, stop: CancellationToken::new(), tasks: JoinSet::new() }
    }

    fn spawn<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task(self.stop.clone()));
    }

    /// Returns when every task has ended. Cancel-safe.
    async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(stage = self.name, %error, "a background task panicked");
            }
        }
    }
}

/// Tells each stage to stop when the stage before it has ended, and aborts what still runs at `deadline`.
async fn end_in_order(stages: impl IntoIterator<Item = Stage>, deadline: Instant) {
    for mut stage in stages {
        stage.stop.cancel();
        let until = deadline.max(Instant::now() + STAGE_LEAST);
        if timeout_at(until, stage.ended()).await.is_err() {
            warn!(
                stage = stage.name,
                left = stage.tasks.len(),
                "grace period over, background tasks aborted"
            );
            stage.tasks.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::sleep;

    use super::*;

    /// A stage of one task that takes `span` to end after it is told to, and then writes its name down.
    fn stage(name: &'static str, span: Duration, ended: &Arc<Mutex<Vec<&'static str>>>) -> Stage {
        let ended = ended.clone();
        let mut stage = Stage::new(name);
        stage.spawn(|stop| async move {
            stop.cancelled().await;
            sleep(span).await;
            ended.lock().unwrap().push(name);
        });
        stage
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_is_told_to_stop_only_after_the_stage_before_it_has_ended() {
        let ended = Arc::default();
        let slow_first = [("own", 300), ("acks", 200), ("publisher", 0)]
            .map(|(name, millis)| stage(name, Duration::from_millis(millis), &ended));
        let began = Instant::now();
        end_in_order(slow_first, began + Duration::from_secs(5)).await;
        assert_eq!(*ended.lock().unwrap(), ["own", "acks", "publisher"]);
        assert_eq!(began.elapsed(), Duration::from_millis(500), "one after the other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_aborted_at_the_end_of_the_grace_period() {
        let ended = Arc::default();
        let stages = [("stuck", 3_600), ("quick", 0)]
            .map(|(name, seconds)| stage(name, Duration::from_secs(seconds), &ended));
        let began = Instant::now();
        end_in_order(stages, began + Duration::from_secs(2)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert_eq!(*ended.lock().unwrap(), ["quick"], "the stage behind it still ends by itself");
    }
}
