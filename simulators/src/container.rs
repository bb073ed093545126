//! The containers of one model on Modal: one input each, started on demand, kept warm for a while, billed throughout.
//!
//! An input takes the container that became idle last, starts one when there is none, and queues when the most are
//! busy. Invariant: whoever holds a permit finds an idle container or room for a new one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bill::{BillKind, Book},
    service::micros,
};

/// The containers of one model.
#[derive(Debug)]
pub(crate) struct Containers {
    permits: Arc<Semaphore>,
    fleet: Mutex<Fleet>,
    /// Wakes the reaper when a container becomes idle.
    released: Notify,
    window: Duration,
    sku: String,
    price_per_second_nanos: u64,
    book: Arc<Book>,
}

#[derive(Debug, Default)]
struct Fleet {
    /// Longest idle first.
    idle: VecDeque<Idle>,
    busy: usize,
    started: u64,
}

#[derive(Debug)]
struct Idle {
    id: String,
    since: Instant,
}

impl Containers {
    pub(crate) fn new(
        most: usize,
        window: Duration,
        sku: String,
        price_per_second_nanos: u64,
        book: Arc<Book>,
    ) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(most)),
            fleet: Mutex::default(),
            released: Notify::new(),
            window,
            sku,
            price_per_second_nanos,
            book,
        })
    }

    /// How many are up: starting, busy or idle.
    pub(crate) fn count(&self) -> usize {
        let mut fleet = self.fleet();
        self.reap(&mut fleet, Instant::now());
        fleet.busy + fleet.idle.len()
    }

    /// How many are starting or busy, and how many are idle.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let mut fleet = self.fleet();
        self.reap(&mut fleet, Instant::now());
        (fleet.busy, fleet.idle.len())
    }

    /// Closes the idle spans that are due, so that nobody sees the reaper's delay.
    pub(crate) fn reap_due(&self) {
        self.reap(&mut self.fleet(), Instant::now());
    }

    /// Waits for a container, first come first served. Cancel-safe: whoever gives up leaves the queue.
    pub(crate) async fn lease(self: &Arc<Self>) -> Lease {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
        let now = Instant::now();
        let mut fleet = self.fleet();
        self.reap(&mut fleet, now);
        fleet.busy += 1;
        let (id, cold) = if let Some(idle) = fleet.idle.pop_back() {
            self.charge_idle(now.duration_since(idle.since));
            (idle.id, false)
        } else {
            fleet.started += 1;
            (format!("ta-{}-{:06}", self.sku, fleet.started), true)
        };
        Lease { containers: Arc::clone(self), id, cold, alive: true, _permit: permit }
    }

    /// Scales idle containers down until `shutdown`.
    pub(crate) async fn run_reaper(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let next = {
                let mut fleet = self.fleet();
                self.reap(&mut fleet, Instant::now());
                fleet.idle.front().map(|idle| idle.since + self.window)
            };
            let due = async {
                match next {
                    Some(at) => time::sleep_until(at).await,
                    None => self.released.notified().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = due => {}
            }
        }
    }

    /// Ends the idle spans that have lasted the whole window. Each is billed exactly the window, however late the
    /// reaper comes.
    fn reap(&self, fleet: &mut Fleet, now: Instant) {
        while fleet.idle.front().is_some_and(|idle| idle.since + self.window <= now) {
            fleet.idle.pop_front();
            self.charge_idle(self.window);
        }
    }

    fn charge_idle(&self, span: Duration) {
        let (sku, price) = (&self.sku, self.price_per_second_nanos);
        self.book.charge(None, sku, BillKind::Idle, price, micros(span), true);
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to use one container. Dropping it makes the container idle, or ends it when it died.
#[derive(Debug)]
pub(crate) struct Lease {
    containers: Arc<Containers>,
    /// The container's id on the wire.
    pub(crate) id: String,
    /// Whether it must start first.
    pub(crate) cold: bool,
    alive: bool,
    /// Released after the container is back, so that the next in the queue finds it.
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The container will not come back.
    pub(crate) fn kill(&mut self) {
        self.alive = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut fleet = self.containers.fleet();
        fleet.busy -= 1;
        if self.alive {
            let id = std::mem::take(&mut self.id);
            fleet.idle.push_back(Idle { id, since: Instant::now() });
            drop(fleet);
            self.containers.released.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn containers(most: usize) -> (Arc<Containers>, Arc<Book>) {
        let book = Arc::new(Book::default());
        (Containers::new(most, WINDOW, "T4".to_owned(), 164_000, Arc::clone(&book)), book)
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_idle_container_is_taken_first_and_its_wait_is_billed() {
        let (containers, book) = containers(2);
        let (first, second) = (containers.lease().await, containers.lease().await);
        assert!(first.cold && second.cold && first.id != second.id);
        let last = second.id.clone();
        drop(first);
        drop(second);
        time::advance(Duration::from_micros(1_234_567)).await;
        let warm = containers.lease().await;
        assert_eq!((warm.cold, &warm.id), (false, &last));
        assert_eq!(book.usage()[0].idle_us, 1_234_567);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_container_scales_down_after_exactly_the_window() {
        let (containers, book) = containers(1);
        drop(containers.lease().await);
        time::advance(WINDOW * 3).await;
        assert_eq!(containers.count(), 0);
        assert_eq!(book.usage()[0].idle_us, 60_000_000);
        assert!(containers.lease().await.cold);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reaper_closes_spans_without_any_traffic() {
        let (containers, book) = containers(1);
        let shutdown = CancellationToken::new();
        let reaper = Arc::clone(&containers).run_reaper(shutdown.clone());
        let traffic = async {
            drop(containers.lease().await);
            time::sleep(WINDOW * 2).await;
            shutdown.cancel();
        };
        tokio::join!(reaper, traffic);
        assert_eq!(book.usage()[0].idle_us, 60_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_container_is_replaced_and_has_no_idle_time() {
        let (containers, book) = containers(1);
        let mut lease = containers.lease().await;
        lease.kill();
        drop(lease);
        assert!(containers.lease().await.cold);
        assert!(book.usage().is_empty());
    }
}
