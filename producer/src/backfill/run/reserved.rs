//! Reservations: lines that may be sent are written down before they are, so that after a crash only these are uncertain.
//! Pure.

use std::collections::VecDeque;

use schemas::Micros;

use crate::backfill::Checkpoint;

/// Lines reserved at a time, which costs a checkpoint. After a crash so many are looked for in the streams, which costs a
/// scan of what was published since.
pub(super) const RESERVE: u64 = 20_000;

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

    pub(super) fn add(&mut self, upto: u64, at: Micros) {
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
