//! Results that do not read: a later version wrote them, most likely. Whose they are stands in their message ids. Pure.

use std::{collections::HashMap, time::Duration};

use schemas::JobId;
use tokio::time::Instant;

use crate::nats::Unread;

/// The cost event follows the result: how long it is waited for.
const COST_AFTER: Duration = Duration::from_secs(2);

/// Results that do not read and whose lines are not in the output yet, with when each came.
#[derive(Debug, Default)]
pub(super) struct Unreads(HashMap<JobId, (Unread, Instant)>);

impl Unreads {
    pub(super) fn add(&mut self, job: JobId, unread: Unread, now: Instant) {
        self.0.entry(job).or_insert((unread, now));
    }

    /// Those that came so long ago that their cost is booked.
    pub(super) fn ripe(&self, now: Instant) -> impl Iterator<Item = JobId> {
        self.0.iter().filter(move |(_, (_, came))| *came + COST_AFTER <= now).map(|(job, _)| *job)
    }

    pub(super) fn remove(&mut self, job: JobId) -> Option<Unread> {
        self.0.remove(&job).map(|(unread, _)| unread)
    }

    /// Forgets those of jobs that are of no line.
    pub(super) fn forget(&mut self, is_foreign: impl Fn(JobId) -> bool) {
        self.0.retain(|job, _| !is_foreign(*job));
    }

    /// The sequence of the first of them: a later run must read `REPLIES` from there on.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.0.values().map(|(unread, _)| unread.seq).min()
    }
}
