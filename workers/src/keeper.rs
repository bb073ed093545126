//! One lease in our hands: when it was last surely extended, and when it may be lost.
//!
//! The worker looks at all its keepers some times a lease and extends those that are due: a timer per job would cost every
//! short job something, and only long jobs need an extension. Every extension is a request, so that "extended" means that the
//! server said so. Past `ack_wait` less a margin the lease may be another worker's, and the server does not fence: whoever
//! holds such a lease neither naks nor returns, and acks only after the result is stored.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, Request};
use bytes::Bytes;
use schemas::lease::{Lease, margin};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{attempt::course::Moment, clock::Clock};

const EXTEND: Bytes = Bytes::from_static(b"+WPI");
/// How long one request may take before the next is sent.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a lease is surely ours. Pure; times are the worker's steady clock's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    ack_wait: Duration,
    extended: Duration,
    asking: bool,
}

impl Hold {
    /// A lease that was extended at `extended` and lasts `ack_wait`.
    pub const fn new(ack_wait: Duration, extended: Duration) -> Self {
        Self { ack_wait, extended, asking: false }
    }

    /// When the lease was last surely extended.
    pub const fn extended_at(&self) -> Duration {
        self.extended
    }

    /// From when on the lease may be somebody else's.
    pub fn lost_at(&self) -> Duration {
        self.extended + self.ack_wait.saturating_sub(margin(self.ack_wait))
    }

    /// Whether the lease is surely ours.
    pub fn is_sure(&self, now: Duration) -> bool {
        now < self.lost_at()
    }

    /// Whether the lease is to be extended now: a third of `ack_wait` has passed, no request is on its way, and it is not too
    /// late. Says yes once, until [`Hold::answered`].
    pub fn due(&mut self, now: Duration) -> bool {
        let due = !self.asking && self.is_sure(now) && now >= self.extended + self.ack_wait / 3;
        self.asking |= due;
        due
    }

    /// The request that was sent at `asked` was answered, or not.
    pub fn answered(&mut self, asked: Duration, extended: bool) {
        self.asking = false;
        if extended {
            // The server restarted the lease no earlier than we asked.
            self.extended = self.extended.max(asked);
        }
    }
}

/// A lease in our hands.
#[derive(Debug)]
pub struct Keeper {
    client: Client,
    clock: Clock,
    lease: Lease,
    hold: Mutex<Hold>,
    lost: CancellationToken,
}

impl Keeper {
    /// Takes over a lease.
    pub fn new(client: Client, clock: Clock, lease: Lease, hold: Hold) -> Self {
        Self { client, clock, lease, hold: Mutex::new(hold), lost: CancellationToken::new() }
    }

    /// The lease.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Now, as the attempt that holds the lease sees it.
    pub fn moment(&self) -> Moment {
        let (now, hold) = (self.clock.now(), self.hold());
        let sure = !self.lost.is_cancelled() && hold.is_sure(now.steady);
        Moment { at: now.wall, leased: now.wall_at(hold.extended_at()), sure }
    }

    /// Returns when the lease may be somebody else's. Cancel-safe.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Declares the lease lost once its time is up, and says whether it is to be extended now; then call [`Keeper::extend`].
    pub fn check(&self) -> bool {
        let now = self.clock.steady();
        if !self.lost.is_cancelled() && !self.hold().is_sure(now) {
            debug!(lease = %self.lease, "lease may be lost");
            self.lost.cancel();
        }
        self.lock().due(now)
    }

    /// Asks the server to extend the lease, and notes when it said so.
    pub async fn extend(&self) {
        let asked = self.clock.steady();
        let patience = self.hold().lost_at().saturating_sub(asked).min(PATIENCE);
        let request = Request::new().payload(EXTEND).timeout(Some(patience));
        let answered = self.client.send_request(self.lease.subject().to_owned(), request).await.is_ok();
        self.lock().answered(asked, answered);
    }

    fn hold(&self) -> Hold {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Hold> {
        // A panic while holding it leaves a whole value: every change is one assignment.
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_is_extended_once_a_third_of_it_has_passed_and_no_request_is_on_its_way() {
        let mut hold = Hold::new(SECOND * 60, SECOND * 100);
        assert!(!hold.due(SECOND * 119));
        assert!(hold.due(SECOND * 120) && !hold.due(SECOND * 121));
        hold.answered(SECOND * 120, false);
        assert!(hold.due(SECOND * 122));
        hold.answered(SECOND * 122, true);
        assert_eq!((hold.extended_at(), hold.due(SECOND * 123)), (SECOND * 122, false));
    }

    #[test]
    fn a_lease_is_unsure_some_time_before_the_server_gives_it_to_another() {
        let mut hold = Hold::new(SECOND * 60, SECOND * 100);
        let lost = hold.lost_at();
        assert!(lost < SECOND * 160 && hold.is_sure(SECOND * 149) && !hold.is_sure(lost));
        assert!(!hold.due(lost), "too late to ask");
    }
}
