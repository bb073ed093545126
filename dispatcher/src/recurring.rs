//! Stores the runs of recurring jobs ahead of their times, as delayed jobs that the server publishes by itself.
//!
//! Every dispatcher does this, and they need not agree: a run's id follows from its job and its time, so two that store
//! the same run store it once, and how far the runs are stored is written down only by who read it last.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use schemas::{Codec, Micros, headers, time::Clock as _};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use transport::{
    Headers, PublishError, Publisher, SystemClock,
    api::ApiError,
    delayed,
    recurring::{self, Entry},
};

use crate::{config::DispatcherConfig, metrics};

/// How often we look; far less than runs are stored ahead.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The task.
pub struct Recurrer {
    config: Arc<DispatcherConfig>,
    client: Client,
    publisher: Publisher,
}

#[derive(Debug, thiserror::Error)]
enum RecurError {
    #[error(transparent)]
    Read(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] PublishError),
}

impl Recurrer {
    /// For the dispatcher's own regions.
    pub fn new(config: Arc<DispatcherConfig>, client: Client, publisher: Publisher) -> Self {
        Self { config, client, publisher }
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                looked = self.look() => if let Err(error) = looked {
                    warn!(%error, "recurring jobs not looked at, trying again");
                }
            }
        }
    }

    async fn look(&self) -> Result<(), RecurError> {
        for entry in recurring::list(&self.client).await? {
            if self.config.regions.contains(&entry.job.subject.region) {
                self.store_runs(&entry).await?;
            }
        }
        Ok(())
    }

    async fn store_runs(&self, entry: &Entry) -> Result<(), RecurError> {
        let job = &entry.job;
        let timetable = match job.timetable() {
            Ok(timetable) => timetable,
            Err(error) => {
                // It was checked when it was set; then it was set by another version.
                warn!(name = %job.name, tenant = %job.tenant(), %error, "a recurring job has no timetable");
                return Ok(());
            }
        };
        let now = SystemClock.now();
        let runs = timetable.plan(entry.last, now, job.missed);
        let Some(newest) = runs.last().copied() else { return Ok(()) };
        for at in runs {
            match self.store(entry, at).await {
                Ok(()) => {}
                // The model is no longer in the catalog: it must not keep the others from theirs.
                Err(error @ (PublishError::NoStream(_) | PublishError::Refused { .. })) => {
                    warn!(name = %job.name, tenant = %job.tenant(), %error, "a run is refused");
                }
                Err(error) => return Err(error.into()),
            }
        }
        if recurring::stored(&self.publisher, entry, newest).await? {
            info!(name = %job.name, tenant = %job.tenant(), up_to = %newest, "runs stored");
        }
        Ok(())
    }

    async fn store(&self, entry: &Entry, at: Micros) -> Result<(), PublishError> {
        let (id, body) = entry.job.run(at);
        let bytes = Codec::Json.encode(&body).expect("a body has only string keys and no failing parts");
        let map = Headers::new()
            .with(headers::CONTENT_TYPE, Codec::Json.content_type())
            .with(headers::SCHEMA, headers::JOB_V1);
        metrics::recurring_run();
        let target = (id, &entry.job.subject);
        delayed::delay(&self.publisher, target, at, id.to_string(), map, bytes.into()).await.map(drop)
    }
}
