//! What a call at a machine shows of the machine: when output came, and whether a failure is its fault.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use schemas::{
    Micros,
    failure::{Failure, FailureClass},
    time::Clock as _,
};
use transport::SystemClock;

use crate::provider::Progress;

/// Notes when output comes.
pub(super) struct Watched<'a> {
    pub(super) inner: &'a dyn Progress,
    pub(super) last_token: &'a AtomicU64,
    /// The same, of this call alone.
    pub(super) told: &'a AtomicU64,
}

impl Progress for Watched<'_> {
    fn submitting(&self) -> BoxFuture<'_, ()> {
        self.inner.submitting()
    }

    fn started<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        self.inner.started(run)
    }

    fn token(&self, text: &str) {
        let now = SystemClock.now().get();
        self.last_token.store(now, Ordering::Relaxed);
        self.told.store(now, Ordering::Relaxed);
        self.inner.token(text);
    }

    fn taken_back(&self) -> BoxFuture<'_, Failure> {
        self.inner.taken_back()
    }
}

/// How long nothing came; `None` if nothing ever did.
pub(super) fn silent_for(last_token: u64, now: Micros) -> Option<Duration> {
    (last_token > 0).then(|| now.since(Micros::new(last_token)))
}

/// Whether a failure is a fault of the machine, and not of the job or of how much runs there. A job that was still being written
/// when its time was up is no fault.
pub(super) fn speaks_against(class: FailureClass, silent: Option<Duration>, idle: Duration) -> bool {
    use FailureClass as C;
    match class {
        C::ProviderDown | C::Connection | C::Preempted | C::Authentication | C::Misconfigured => true,
        C::Timeout => silent.is_none_or(|silent| silent >= idle / 2),
        C::RateLimited
        | C::Capacity
        | C::OutOfMemory
        | C::InvalidRequest
        | C::Refused
        | C::WorkerLost
        | C::Poison
        | C::Undecodable
        | C::Cancelled
        | C::NoPool
        | C::IdTaken => false,
    }
}

/// How long the machine asked us to wait.
pub(super) fn wait_of(failure: &Failure) -> Option<Duration> {
    failure.retry_after_us.map(Duration::from_micros)
}
