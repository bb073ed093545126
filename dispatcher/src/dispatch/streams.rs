//! The map of streams: looked at now and then, made right when something is missing, and a job stream that was made anew taken for
//! another one.

use std::time::Duration;

use schemas::{Micros, topology::Topology};
use tokio::time::Instant;
use tracing::{error, warn};
use transport::topology::TopologyError;

use super::{Dispatcher, RunError, Told};
use crate::{jobs::Event, metrics, nats};

/// How often the map of streams is looked at though nothing says that it is wrong: the server tells of a deleted stream once, and
/// who is not connected at that moment does not hear it.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// How often a missing stream or consumer is made anew, at most.
const REPAIR_EVERY: Duration = Duration::from_secs(3);

impl Dispatcher {
    /// A stream of ours is gone: it is made anew at once, and a person is told, since what it held is lost.
    pub(super) fn stream_deleted(&mut self, subject: &str) {
        let name = subject.rsplit('.').next().unwrap_or_default();
        if Topology::new(&self.config.topology).streams.iter().any(|stream| stream.name == name) {
            error!(
                stream = name,
                "a stream was deleted while we run; it is made anew, and what it held is lost"
            );
            metrics::stream_deleted();
            self.repair_at = Some(Instant::now());
        }
    }

    /// Has the map looked at, if it is time or something is known to be missing.
    pub(super) fn look_at_streams(&mut self) {
        let wrong = self.repair_at.is_some_and(|at| at <= Instant::now());
        if !self.repairing && (wrong || self.checked_at.elapsed() >= CHECK_EVERY) {
            (self.repairing, self.repair_at, self.checked_at) = (true, None, Instant::now());
            let (client, config) = (self.role.control.client.clone(), self.config.clone());
            self.tasks.spawn(async move { Told::Repaired(nats::repaired(&client, &config).await) });
        }
    }

    /// The map was looked at: it is right, cannot be made right yet, or needs a person.
    pub(super) fn repaired(&mut self, outcome: Result<Vec<Micros>, TopologyError>) -> Result<(), RunError> {
        self.repairing = false;
        match outcome {
            Ok(born) => self.streams_are(born),
            Err(error @ (TopologyError::Missing { .. } | TopologyError::Floor { .. })) => {
                return Err(error.into());
            }
            Err(error) => {
                warn!(%error, "streams and consumers not repaired yet");
                self.repair_at = Some(Instant::now() + REPAIR_EVERY);
            }
        }
        Ok(())
    }

    /// The job streams are as they should be. One that was made at another time is another stream.
    fn streams_are(&mut self, born: Vec<Micros>) {
        let known = std::mem::replace(&mut self.born, born);
        let changed =
            (0..).zip(known.into_iter().zip(self.born.clone())).filter(|(_, (old, new))| old != new);
        for (region, (_, born)) in changed {
            self.apply(Event::Remade { region, born });
        }
    }
}
