//! Keeps one lease alive while its job runs, and knows when it may be lost.
//!
//! Every extension is a request, so that "extended" means the server said so. Past `ack_wait` less a margin the
//! lease may be another worker's, and the server does not fence: whoever holds such a lease neither naks nor
//! returns, and acks only after the result is stored.

use std::{sync::Mutex, time::Duration};

use async_nats::{Client, Request};
use bytes::Bytes;
use schemas::{Micros, lease::Lease};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

const EXTEND: Bytes = Bytes::from_static(b"+WPI");
/// Between two tries while nobody answers.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// A lease in our hands.
#[derive(Debug)]
pub struct Keeper {
    client: Client,
    lease: Lease,
    ack_wait: Duration,
    /// When it was last surely extended, by our own clock.
    extended: Mutex<Instant>,
    lost: CancellationToken,
}

impl Keeper {
    /// Takes over a lease that was extended at `leased`, now being `now`; both wall time, of two hosts perhaps.
    pub fn new(client: Client, lease: Lease, ack_wait: Duration, leased: Micros, now: Micros) -> Self {
        let instant = Instant::now();
        let extended = instant.checked_sub(now.since(leased)).unwrap_or(instant);
        Self { client, lease, ack_wait, extended: Mutex::new(extended), lost: CancellationToken::new() }
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

    /// Extends it every third of `ack_wait` until it is lost. Cancel-safe: drop it when the job has ended.
    pub async fn keep(&self) {
        loop {
            // A little earlier each, so that ten thousand leases do not extend in step.
            let rest = self.ack_wait / 3 * rand::random_range(80..=100) / 100;
            sleep_until(self.extended() + rest).await;
            while !self.extend().await {
                if Instant::now() >= self.lost_at() {
                    debug!(lease = %self.lease, "lease may be lost");
                    self.lost.cancel();
                    return;
                }
                sleep(TRY_AGAIN).await;
            }
        }
    }

    async fn extend(&self) -> bool {
        let asked = Instant::now();
        let patience = self.lost_at().saturating_duration_since(asked).min(Duration::from_secs(2));
        if patience.is_zero() {
            return false;
        }
        let request = Request::new().payload(EXTEND).timeout(Some(patience));
        let answered = self.client.send_request(self.lease.subject().to_owned(), request).await.is_ok();
        // An answer that comes after the time is up says nothing: the lease may have gone to another before.
        if answered && asked < self.lost_at() {
            *self.extended.lock().expect("no panic while held") = asked;
            return true;
        }
        false
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
