//! The lease of a pool, as its holder knows it, and the leash on which its control calls are.

use std::{future::Future, pin::pin, task::Poll};

use schemas::time::Clock as _;
use tokio::{sync::watch, time::Instant};
use transport::SystemClock;

use super::desk::Desk;
use crate::{
    lease::{HELD_FOR, Lease},
    store::StoreError,
};

/// What the lease says when it is asked for.
#[derive(Debug)]
pub(super) enum Taken {
    /// We act.
    Ours(Hold),
    /// Another keeper acts: its name, if the lease tells one.
    Others(Option<String>),
}

/// The lease, as its holder knows it.
#[derive(Debug)]
pub(super) struct Hold {
    revision: u64,
    /// By the steady clock, from before it was asked for: surely not later than what others believe.
    until: watch::Sender<Instant>,
}

/// Ends the calls of a keeper whose lease has ended.
///
/// A process that was frozen or held up wakes in the middle of what it did. So each step of a call asks first, by the steady
/// clock, which went on meanwhile; a timer would fire too late to stop the step that is due.
#[derive(Clone, Debug)]
pub(super) struct Leash(watch::Receiver<Instant>);

impl Leash {
    /// Whether the lease surely holds.
    fn holds(&self) -> bool {
        Instant::now() < *self.0.borrow()
    }

    /// Does `work` while the lease holds; `None` when it ended before.
    pub(super) async fn keep<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            if self.holds() { work.as_mut().poll(context).map(Some) } else { Poll::Ready(None) }
        })
        .await
    }
}

impl Hold {
    /// Takes the lease if it is free.
    pub(super) async fn take(desk: &Desk) -> Result<Taken, StoreError> {
        let key = Lease::key(&desk.settings.pool);
        let (found, revision) = desk.store.read::<Lease>(&key).await?;
        let now = SystemClock.now();
        let free = if desk.orphaned {
            Lease::is_forsaken(found.as_ref(), desk.since, desk.forsaken_after, now)
        } else {
            Lease::is_free(found.as_ref(), &desk.keeper, now)
        };
        if !free {
            return Ok(Taken::Others(found.map(|lease| lease.keeper)));
        }
        let until = Instant::now() + HELD_FOR;
        let lease = Lease::of(&desk.keeper, now);
        match desk.store.replace(&key, &lease, revision).await {
            Ok(revision) => Ok(Taken::Ours(Self { revision, until: watch::Sender::new(until) })),
            Err(StoreError::Replaced(_)) => Ok(Taken::Others(None)),
            Err(error) => Err(error),
        }
    }

    /// Renews it. `false`: another keeper has taken it.
    pub(super) async fn renew(&mut self, desk: &Desk) -> Result<bool, StoreError> {
        let until = Instant::now() + HELD_FOR;
        let lease = Lease::of(&desk.keeper, SystemClock.now());
        match desk.store.replace(&Lease::key(&desk.settings.pool), &lease, self.revision).await {
            Ok(revision) => {
                self.revision = revision;
                self.until.send_replace(until);
                Ok(true)
            }
            Err(StoreError::Replaced(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it surely holds.
    pub(super) fn holds(&self) -> bool {
        Instant::now() < self.until()
    }

    /// When it ends unless it is renewed.
    pub(super) fn until(&self) -> Instant {
        *self.until.borrow()
    }

    /// For calls that end with it.
    pub(super) fn leash(&self) -> Leash {
        Leash(self.until.subscribe())
    }

    /// Gives it up, so that another keeper need not wait.
    pub(super) async fn give_up(self, desk: &Desk) {
        let now = SystemClock.now();
        let lease = Lease { until_us: now - HELD_FOR, ..Lease::of(&desk.keeper, now) };
        // Whoever was first holds it, and nothing is lost.
        let _ = desk.store.replace(&Lease::key(&desk.settings.pool), &lease, self.revision).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_call_on_the_leash_of_a_lease_that_ended_makes_no_further_step() {
        let hold = Hold { revision: 1, until: watch::Sender::new(Instant::now() + Duration::from_secs(60)) };
        let leash = hold.leash();
        let mut steps = 0;
        let call = async {
            for _ in 0..3 {
                steps += 1;
                if steps == 2 {
                    // The process was frozen here for longer than the lease.
                    hold.until.send_replace(Instant::now());
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!((leash.keep(call).await, steps), (None, 2));
        hold.until.send_replace(Instant::now() + Duration::from_secs(60));
        assert_eq!(leash.keep(async { 7 }).await, Some(7));
    }
}
