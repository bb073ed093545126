//! The lease of a pool, as its holder knows it.

use schemas::time::Clock as _;
use tokio::time::Instant;
use transport::SystemClock;

use super::desk::Desk;
use crate::{
    lease::{FORSAKEN_AFTER, HELD_FOR, Lease},
    store::StoreError,
};

/// The lease, as its holder knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    revision: u64,
    /// By the steady clock, from before it was asked for: surely not later than what others believe.
    until: Instant,
}

impl Hold {
    /// Takes the lease if it is free.
    pub(super) async fn take(desk: &Desk) -> Result<Option<Self>, StoreError> {
        let key = Lease::key(&desk.settings.pool);
        let (found, revision) = desk.store.read::<Lease>(&key).await?;
        let now = SystemClock.now();
        let free = if desk.orphaned {
            Lease::is_forsaken(found.as_ref(), desk.since, FORSAKEN_AFTER, now)
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
