//! A job that this dispatcher holds: its lease is ours until a worker accepts it or the job ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use schemas::{Micros, PoolId, decision::Decision, job::Job, journal::Journal, lease::Lease, state::State};
use tokio::time::Instant;

/// A held job.
#[derive(Debug)]
pub struct Flight {
    /// The job, checked.
    pub job: Job,
    /// Its headers, to be passed on.
    pub headers: HeaderMap,
    /// Its body, to be passed on untouched.
    pub payload: Bytes,
    /// The right to finish it.
    pub lease: Lease,
    /// When the lease was last known to be extended; shared with the request that extends it.
    pub leased: Arc<AtomicU64>,
    /// True while such a request is on its way.
    pub extending: bool,
    /// What earlier attempts left behind.
    pub journal: Journal,
    /// Where it stands.
    pub state: State,
    /// The size of the SKU that ran out of memory.
    pub larger_than: Option<u16>,
    /// Pools that refused this delivery a moment ago; forgotten when none is left to ask.
    pub avoid: Vec<PoolId>,
    /// Why its last attempt went where it went, or why none was made.
    pub decision: Option<Decision>,
    /// It rests until then, since only pools that failed it are left.
    pub not_before: Option<Instant>,
}

impl Flight {
    /// A job just received, with `attempts` made before.
    pub fn new(
        job: Job,
        headers: HeaderMap,
        payload: Bytes,
        lease: Lease,
        leased: Micros,
        journal: Journal,
        attempts: u16,
    ) -> Self {
        Self {
            job,
            headers,
            payload,
            lease,
            leased: Arc::new(AtomicU64::new(leased.get())),
            extending: false,
            journal,
            state: State::Waiting { attempts },
            larger_than: None,
            avoid: Vec::new(),
            decision: None,
            not_before: None,
        }
    }

    /// When the lease was last known to be extended.
    pub fn leased(&self) -> Micros {
        Micros::new(self.leased.load(Ordering::Relaxed))
    }

    /// How long the lease has been running down.
    pub fn age(&self, now: Micros) -> Duration {
        now.since(self.leased())
    }

    /// Attempts made so far.
    pub fn attempts(&self) -> u16 {
        match &self.state {
            State::Waiting { attempts } => *attempts,
            State::Offered { attempt, .. } => attempt.saturating_sub(1),
            State::Running { attempt, .. } => *attempt,
            State::Ended { .. } => self.journal.last_attempt(),
        }
    }
}

/// How long before `ack_wait` a lease counts as lost: another dispatcher may get it, and touching it would disturb
/// that one, since the server does not fence acks.
pub fn lease_margin(ack_wait: Duration) -> Duration {
    (ack_wait / 6).max(Duration::from_millis(200))
}
