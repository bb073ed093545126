//! Standing by: who may act, and when.

use std::time::Duration;

use schemas::time::Clock as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use transport::SystemClock;

use super::{acting::Acting, desk::Desk};
use crate::{
    lease::{HELD_FOR, Lease, RENEW_EVERY},
    store::StoreError,
};

/// Between looks at a lease that another keeper holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks that failed in a row before it is told.
const TELL_AFTER: u32 = 3;

/// The lease, as its holder knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    revision: u64,
    /// By the steady clock, from before it was asked for: surely not later than what others believe.
    until: Instant,
}

impl Hold {
    /// Takes the lease if it is free.
    async fn take(desk: &Desk) -> Result<Option<Self>, StoreError> {
        let key = Lease::key(&desk.settings.pool);
        let (found, revision) = desk.store.read::<Lease>(&key).await?;
        let now = SystemClock.now();
        let free = if desk.orphaned {
            Lease::is_forsaken(found.as_ref(), desk.since, super::FORSAKEN_AFTER, now)
        } else {
            Lease::is_free(found.as_ref(), &desk.keeper, now)
        };
        if !free {
            return Ok(None);
        }
        let until = Instant::now() + HELD_FOR;
        let lease = Lease::of(&desk.keeper, now);
        match desk.store.replace(&key, &lease, revision).await {
            Ok(revision) => Ok(Some(Self { revision, until })),
            Err(StoreError::Replaced(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews it. `None`: another keeper has taken it.
    pub(super) async fn renew(self, desk: &Desk) -> Result<Option<Self>, StoreError> {
        let until = Instant::now() + HELD_FOR;
        let lease = Lease::of(&desk.keeper, SystemClock.now());
        match desk.store.replace(&Lease::key(&desk.settings.pool), &lease, self.revision).await {
            Ok(revision) => Ok(Some(Self { revision, until })),
            Err(StoreError::Replaced(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it surely holds.
    pub(super) fn holds(self) -> bool {
        Instant::now() < self.until
    }

    /// When it ends unless it is renewed.
    pub(super) fn until(self) -> Instant {
        self.until
    }

    /// Gives it up, so that another keeper need not wait.
    pub(super) async fn give_up(self, desk: &Desk) {
        let now = SystemClock.now();
        let lease = Lease { until_us: now - HELD_FOR, ..Lease::of(&desk.keeper, now) };
        // Whoever was first holds it, and nothing is lost.
        let _ = desk.store.replace(&Lease::key(&desk.settings.pool), &lease, self.revision).await;
    }
}

/// Keeps a pool until `shutdown`.
pub(super) async fn run(desk: &Desk, shutdown: &CancellationToken) {
    let (mut failed, pool) = (0_u32, &desk.settings.pool);
    while !shutdown.is_cancelled() {
        match Hold::take(desk).await {
            Ok(Some(hold)) => {
                failed = 0;
                info!(%pool, keeper = %desk.keeper, "keeping a pool");
                if let Err(error) = act(desk, hold, shutdown).await {
                    warn!(%pool, %error, "a pool is not kept by this keeper any more");
                }
                desk.account.tell(pool, None);
            }
            Ok(None) => failed = 0,
            Err(error) => {
                failed += 1;
                if failed == TELL_AFTER {
                    warn!(%pool, %error, "the lease of a pool cannot be read; its machines serve on");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

async fn act(desk: &Desk, hold: Hold, shutdown: &CancellationToken) -> Result<(), StoreError> {
    Acting::begin(desk, hold).await?.run(shutdown).await
}

/// How often the lease is renewed.
pub(super) const fn renew_every() -> Duration {
    RENEW_EVERY
}
