//! One lease in our hands: when it was last extended, and when it may be lost.
//!
//! The pool looks at all its keepers a few times a lease and extends those that are due: a timer per job would cost
//! every short job something, and only long ones need it. Every extension is a request, so that "extended" means the server said so. Past `ack_wait` less a margin the
//! lease may be another worker's, and the server does not fence: whoever holds such a lease neither naks nor
//! returns, and acks only after the result is stored.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, Request};
use bytes::Bytes;
use schemas::{Micros, lease::Lease};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

const EXTEND: Bytes = Bytes::from_static(b"+WPI");
/// How long one request may take before the next is sent.
const PATIENCE: Duration = Duration::from_secs(1);

/// A lease in our hands.
#[derive(Debug)]
pub struct Keeper {
    client: Client,
    lease: Lease,
    ack_wait: Duration,
    /// When it was last surely extended, by our own clock.
    extended: Mutex<Instant>,
    asking: AtomicBool,
    lost: CancellationToken,
}

impl Keeper {
    /// Takes over a lease that was extended at `leased`, now being `now`; both wall time, of two hosts perhaps.
    pub fn new(client: Client, lease: Lease, ack_wait: Duration, leased: Micros, now: Micros) -> Self {
        let instant = Instant::now();
        let extended = instant.checked_sub(now.since(leased)).unwrap_or(instant);
        Self {
            client,
            lease,
            ack_wait,
            extended: Mutex::new(extended),
            asking: AtomicBool::new(false),
            lost: CancellationToken::new(),
        }
    }

    /// The lease.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether it is surely still ours.
    pub fn is_ours(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < self.lost_at()
    }

    /// Returns when it may be somebody else's.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// When it was last surely extended, as wall time.
    pub fn extended_at(&self, now: Micros) -> Micros {
        now - self.extended().elapsed()
    }

    /// Whether it should be extended now: a third of `ack_wait` has passed, and no request is on its way. Says yes
    /// once, until [`Keeper::extend`] has ended.
    pub fn due(&self) -> bool {
        self.extended().elapsed() >= self.ack_wait / 3 && !self.asking.swap(true, Ordering::AcqRel)
    }

    /// Declares it lost once its time is up.
    pub fn check(&self) {
        if Instant::now() >= self.lost_at() && !self.lost.is_cancelled() {
            debug!(lease = %self.lease, "lease may be lost");
            self.lost.cancel();
        }
    }

    /// Asks the server to extend it, and notes when it said so.
    pub async fn extend(&self) {
        let asked = Instant::now();
        let patience = self.lost_at().saturating_duration_since(asked).min(PATIENCE);
        if !patience.is_zero() {
            let request = Request::new().payload(EXTEND).timeout(Some(patience));
            let answered = self.client.send_request(self.lease.subject().to_owned(), request).await.is_ok();
            // Asked in time and answered: the server restarted the lease no earlier than we asked.
            if answered {
                *self.extended.lock().expect("no panic while held") = asked;
            }
        }
        self.asking.store(false, Ordering::Release);
    }

    fn extended(&self) -> Instant {
        *self.extended.lock().expect("no panic while held")
    }

    fn lost_at(&self) -> Instant {
        self.extended() + self.ack_wait - margin(self.ack_wait)
    }
}

/// How long before `ack_wait` a lease counts as lost.
fn margin(ack_wait: Duration) -> Duration {
    (ack_wait / 6).max(Duration::from_millis(200))
}
