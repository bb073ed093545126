//! The containers of one model on Modal: one input each, started on demand, kept warm for a while, billed throughout.
//!
//! An input takes the container that became idle last, else the one that is the nearest to be up of those that start for
//! the floor, else starts one of its own, and queues when the most are busy. Whoever orders it puts a floor under how many
//! are up, for a time ([`Containers::keep`]): what is missing is started for nobody, and none goes below it.
//! Invariant: whoever holds a permit finds a container, or room for a new one.

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

/// What the containers of one model are like.
#[derive(Clone, Debug)]
pub(crate) struct Sort {
    /// The most that are up.
    pub(crate) most: usize,
    /// How long an idle one stays.
    pub(crate) window: Duration,
    /// How long a start takes.
    pub(crate) cold_start: Duration,
    pub(crate) sku: String,
    pub(crate) price_per_second_nanos: u64,
}

/// The containers of one model.
#[derive(Debug)]
pub(crate) struct Containers {
    permits: Arc<Semaphore>,
    fleet: Mutex<Fleet>,
    /// Wakes the reaper when something is to happen by itself, and sooner than it knows.
    stirred: Notify,
    sort: Sort,
    book: Arc<Book>,
}

#[derive(Debug, Default)]
struct Fleet {
    /// Longest idle first.
    idle: VecDeque<Idle>,
    /// Started for the floor and not up yet; the next to be up first.
    starting: VecDeque<Starting>,
    busy: usize,
    started: u64,
    floor: Option<Floor>,
    /// When the floor last went down.
    lowered: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    id: String,
    since: Instant,
    /// Idle time is billed up to here.
    billed: Instant,
}

#[derive(Debug)]
struct Starting {
    id: String,
    since: Instant,
    ready_at: Instant,
}

/// So many are kept up.
#[derive(Clone, Copy, Debug)]
struct Floor {
    containers: usize,
    until: Instant,
}

/// What happens by itself when its time has come.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A container that was started for the floor is up.
    Up,
    /// Nobody repeated the order for the floor.
    Lapsed,
    /// The longest idle container goes.
    ScaledDown,
}

impl Fleet {
    fn up(&self) -> usize {
        self.busy + self.idle.len() + self.starting.len()
    }

    fn floor(&self) -> usize {
        self.floor.map_or(0, |floor| floor.containers)
    }

    fn next(&self, window: Duration) -> Option<(Instant, Event)> {
        let up = self.starting.front().map(|starting| (starting.ready_at, Event::Up));
        let lapsed = self.floor.map(|floor| (floor.until, Event::Lapsed));
        // One that the floor held beyond its window goes when the floor does. Nothing else can make it go: none starts
        // above the floor while one is idle.
        let front = self.idle.front().filter(|_| self.up() > self.floor());
        let due = front.map(|idle| (idle.since + window).max(self.lowered.unwrap_or(idle.since)));
        let due = due.map(|due| (due, Event::ScaledDown));
        [up, lapsed, due].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn name(&mut self, sku: &str) -> String {
        self.started += 1;
        format!("ta-{sku}-{:06}", self.started)
    }

    fn start(&mut self, starting: Starting) {
        let place = self.starting.partition_point(|other| other.ready_at <= starting.ready_at);
        self.starting.insert(place, starting);
    }
}

impl Containers {
    pub(crate) fn new(sort: Sort, book: Arc<Book>) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(sort.most)),
            fleet: Mutex::default(),
            stirred: Notify::new(),
            sort,
            book,
        })
    }

    /// How many are up: starting, busy or idle.
    pub(crate) fn count(&self) -> usize {
        self.now().0.up()
    }

    /// How many are starting or busy, and how many are idle.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let (fleet, _) = self.now();
        (fleet.busy + fleet.starting.len(), fleet.idle.len())
    }

    /// The most that are up.
    pub(crate) fn most(&self) -> usize {
        self.sort.most
    }

    /// Keeps at least so many up, for so long: starts what is missing of those that are up already. `containers` is
    /// at most [`Containers::most`].
    pub(crate) fn keep(&self, containers: usize, lease: Duration) {
        let (mut fleet, now) = self.now();
        if containers < fleet.floor() {
            fleet.lowered = Some(now);
        }
        let until = now + lease;
        fleet.floor = (containers > 0).then_some(Floor { containers, until });
        self.fill(&mut fleet, now);
        drop(fleet);
        self.stirred.notify_one();
    }

    /// Bills the idle spans that are due, so that nobody sees the reaper's delay, and of those that the floor holds open
    /// what they have cost so far: they may last for days.
    pub(crate) fn reap_due(&self) {
        let (mut fleet, now) = self.now();
        for idle in fleet.idle.iter_mut().take_while(|idle| idle.since + self.sort.window <= now) {
            self.charge_idle(now.duration_since(idle.billed));
            idle.billed = now;
        }
    }

    /// Waits for a container, first come first served. Cancel-safe: whoever gives up leaves the queue.
    pub(crate) async fn lease(self: &Arc<Self>) -> Lease {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
        let (mut fleet, now) = self.now();
        fleet.busy += 1;
        let (id, cold, ahead) = if let Some(idle) = fleet.idle.pop_back() {
            self.charge_idle(now.duration_since(idle.billed));
            (idle.id, false, None)
        } else if let Some(starting) = fleet.starting.pop_front() {
            (starting.id.clone(), false, Some(starting))
        } else {
            (fleet.name(&self.sort.sku), true, None)
        };
        Lease { containers: Arc::clone(self), id, cold, ahead, alive: true, _permit: permit }
    }

    /// Lets happen what is due, until `shutdown`.
    pub(crate) async fn run_reaper(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let next = self.now().0.next(self.sort.window);
            let due = async {
                match next {
                    Some((at, _)) => time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = due => {}
                () = self.stirred.notified() => {}
            }
        }
    }

    /// The fleet as it is now, everything that was due included.
    fn now(&self) -> (MutexGuard<'_, Fleet>, Instant) {
        let mut fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        self.advance(&mut fleet, now);
        (fleet, now)
    }

    /// Lets happen what was due, in its order and at its own time: a span is billed exactly, however late anyone looks.
    fn advance(&self, fleet: &mut Fleet, now: Instant) {
        while let Some((at, event)) = fleet.next(self.sort.window).filter(|(at, _)| *at <= now) {
            match event {
                Event::Up => {
                    let Some(starting) = fleet.starting.pop_front() else { continue };
                    self.charge_start(&starting);
                    fleet.idle.push_back(Idle { id: starting.id, since: at, billed: at });
                }
                Event::Lapsed => {
                    fleet.floor = None;
                    fleet.lowered = Some(at);
                }
                Event::ScaledDown => {
                    let Some(idle) = fleet.idle.pop_front() else { continue };
                    self.charge_idle(at.duration_since(idle.billed));
                }
            }
        }
    }

    /// Starts what is missing of the floor.
    fn fill(&self, fleet: &mut Fleet, now: Instant) {
        while fleet.up() < fleet.floor() {
            let id = fleet.name(&self.sort.sku);
            fleet.start(Starting { id, since: now, ready_at: now + self.sort.cold_start });
        }
    }

    fn charge_start(&self, starting: &Starting) {
        self.charge(BillKind::WarmStart, starting.ready_at.duration_since(starting.since));
    }

    fn charge_idle(&self, span: Duration) {
        self.charge(BillKind::Idle, span);
    }

    fn charge(&self, kind: BillKind, span: Duration) {
        let Sort { sku, price_per_second_nanos, .. } = &self.sort;
        self.book.charge(None, sku, kind, *price_per_second_nanos, micros(span), true);
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
    /// It was being started for the floor, and need not be up yet.
    ahead: Option<Starting>,
    alive: bool,
    /// Released after the container is back, so that the next in the queue finds it.
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Waits until a container that was started for the floor is up. Cancel-safe: its start goes on without us.
    pub(crate) async fn up(&mut self) {
        if let Some(starting) = &self.ahead {
            time::sleep_until(starting.ready_at).await;
            self.containers.charge_start(starting);
            self.ahead = None;
        }
    }

    /// The container will not come back.
    pub(crate) fn kill(&mut self) {
        self.alive = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (mut fleet, now) = self.containers.now();
        fleet.busy -= 1;
        match self.ahead.take() {
            Some(starting) => fleet.start(starting),
            None if self.alive => {
                let id = std::mem::take(&mut self.id);
                fleet.idle.push_back(Idle { id, since: now, billed: now });
            }
            None => self.containers.fill(&mut fleet, now),
        }
        drop(fleet);
        self.containers.stirred.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    const COLD: Duration = Duration::from_secs(4);
    const LEASE: Duration = Duration::from_secs(600);

    fn containers(most: usize) -> (Arc<Containers>, Arc<Book>) {
        let book = Arc::new(Book::default());
        let (window, cold_start) = (WINDOW, COLD);
        let sort = Sort { most, window, cold_start, sku: "T4".to_owned(), price_per_second_nanos: 164_000 };
        (Containers::new(sort, Arc::clone(&book)), book)
    }

    /// Starts for the floor and idle time, in seconds.
    fn standing(containers: &Containers, book: &Book) -> (u64, u64) {
        containers.reap_due();
        let usage = book.usage();
        usage.first().map_or((0, 0), |gpu| (gpu.warm_start_us / 1_000_000, gpu.idle_us / 1_000_000))
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

    #[tokio::test(start_paused = true)]
    async fn a_floor_counts_what_is_up_and_starts_the_rest_for_nobody() {
        let (containers, book) = containers(4);
        let busy = containers.lease().await;
        for _ in 0..3 {
            containers.keep(3, LEASE);
        }
        assert_eq!(containers.count(), 3);
        assert_eq!(standing(&containers, &book), (0, 0), "a start is billed when it is over");
        time::advance(COLD).await;
        assert_eq!(standing(&containers, &book), (8, 0));
        assert_eq!(containers.counts(), (1, 2));
        let warm = containers.lease().await;
        assert!(!warm.cold);
        drop((busy, warm));
        assert_eq!(containers.count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_floor_holds_stays_beyond_the_window_and_goes_with_the_floor() {
        let (containers, book) = containers(4);
        containers.keep(2, LEASE);
        drop(containers.lease().await);
        time::advance(COLD + WINDOW * 2).await;
        assert_eq!(standing(&containers, &book), (8, 240), "what it holds open is billed so far");
        containers.keep(1, LEASE);
        assert_eq!((containers.count(), standing(&containers, &book)), (1, (8, 240)));
        time::advance(LEASE * 9 / 10).await;
        assert_eq!(containers.count(), 1, "an order holds until its lease is over");
        time::advance(WINDOW).await;
        assert_eq!(containers.count(), 0);
        assert_eq!(
            standing(&containers, &book),
            (8, 840),
            "to the moment at which nobody repeated the order"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_input_waits_only_for_the_rest_of_a_start_that_is_under_way() {
        let (containers, book) = containers(1);
        containers.keep(1, LEASE);
        time::advance(Duration::from_secs(1)).await;
        let mut lease = containers.lease().await;
        let gave_up = time::timeout(Duration::from_secs(1), lease.up()).await;
        assert!(gave_up.is_err() && !lease.cold);
        drop(lease);
        let mut lease = containers.lease().await;
        let before = Instant::now();
        lease.up().await;
        assert_eq!(before.elapsed(), Duration::from_secs(2), "the start went on meanwhile");
        drop(lease);
        assert_eq!(standing(&containers, &book), (4, 0), "one start, billed once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_dies_under_the_floor_is_replaced() {
        let (containers, book) = containers(1);
        containers.keep(1, LEASE);
        let mut lease = containers.lease().await;
        lease.up().await;
        lease.kill();
        drop(lease);
        assert_eq!(containers.count(), 1);
        time::advance(COLD).await;
        assert_eq!(standing(&containers, &book), (8, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_reaper_ends_a_floor_without_any_traffic() {
        let (containers, book) = containers(1);
        let shutdown = CancellationToken::new();
        let reaper = Arc::clone(&containers).run_reaper(shutdown.clone());
        let traffic = async {
            containers.keep(1, WINDOW * 3);
            time::sleep(WINDOW * 4).await;
            shutdown.cancel();
        };
        tokio::join!(reaper, traffic);
        assert_eq!((book.usage()[0].warm_start_us, book.usage()[0].idle_us), (4_000_000, 176_000_000));
    }
}
