//! Reservations: lines that may be sent are written down before they are, so that after a crash only these are uncertain. They are
//! looked for in the streams before any is sent again.

use std::{collections::VecDeque, time::Duration};

use schemas::Micros;

use super::Backfill;
use crate::{
    Producer,
    backfill::{BackfillError, Checkpoint},
    nats,
};

/// Lines reserved at a time, which costs a checkpoint. After a crash so many are looked for in the streams, which costs a
/// scan of what was published since.
pub(super) const RESERVE: u64 = 20_000;
/// Clocks differ: how much before a reservation its jobs are looked for.
const MARGIN: Duration = Duration::from_secs(30);

/// Reservations that are not all acknowledged: up to which line, and when each was made. At most one for each [`RESERVE`] lines that
/// are out, and those of an earlier run.
#[derive(Debug, Default)]
pub(super) struct Reservations(VecDeque<(u64, Micros)>);

impl Reservations {
    /// That of an earlier run counts until its lines are acknowledged: whoever comes next looks as far back as we do.
    pub(super) fn of_run(checkpoint: &Checkpoint) -> Self {
        let reserved = checkpoint.reserved > checkpoint.submitted;
        Self(reserved.then_some((checkpoint.reserved, checkpoint.reserved_at_us)).into_iter().collect())
    }

    fn add(&mut self, upto: u64, at: Micros) {
        self.0.push_back((upto, at));
    }

    /// Every line up to `submitted` is acknowledged: gives when the oldest reservation was made that still counts.
    pub(super) fn acknowledged(&mut self, submitted: u64) -> Option<Micros> {
        while self.0.front().is_some_and(|(upto, _)| *upto <= submitted) {
            self.0.pop_front();
        }
        self.0.front().map(|(_, at)| *at)
    }
}

impl Backfill {
    /// Lines that an earlier run may have sent: whether it did stands in the streams.
    pub(super) async fn look_for_uncertain(&mut self, producer: &Producer) -> Result<(), BackfillError> {
        let checkpoint = &self.folder.checkpoint;
        let since = if self.folder.fresh {
            // The folder may be gone after a run; then only the streams know.
            None
        } else if checkpoint.reserved > checkpoint.submitted {
            Some(checkpoint.reserved_at_us - MARGIN)
        } else {
            return Ok(());
        };
        let (client, tenant) = (producer.client(), &self.options.tenant);
        for region in &self.options.regions {
            self.known.extend(nats::jobs_since(client, region, Some(tenant), since).await?);
        }
        if !self.known.is_empty() {
            self.doubts.add_leftovers();
            if since.is_none() {
                // Until all lines are read, whoever comes next must find these jobs too.
                self.reservations.add(self.folder.manifest.survey.lines, Micros::default());
            }
        }
        Ok(())
    }

    /// Writes down that the next lines may be sent, before they are.
    pub(super) fn reserve(&mut self, now: Micros) -> Result<(), BackfillError> {
        let upto = self.input.number + RESERVE;
        self.folder.checkpoint.reserved = upto;
        self.reservations.add(upto, now);
        self.keep()
    }
}
