//! The containers of one serverless model: one input each, started on demand, kept warm for a while, billed throughout.
//!
//! An input takes the container that became idle last. If none is idle, it takes the container that will be up soonest of
//! those that start for the floor. If there is none, it starts a container of its own, and it queues when the most
//! are busy. A caller can order a floor for a time ([`Containers::keep`]): at least so many containers are up, and those
//! that are missing start ahead of any input.
//! Invariant: an input that holds a permit finds a container, or may start a new one.

#[cfg(test)]
mod tests;

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
    clock::micros,
};

/// The settings that the containers of one model share.
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
    /// Wakes the reaper when the next event is due sooner than it knows.
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

/// At least so many containers are up until then.
#[derive(Clone, Copy, Debug)]
struct Floor {
    containers: usize,
    until: Instant,
}

/// A change that happens by itself when its time has come.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A container that was started for the floor is up.
    Up,
    /// The order for the floor was not repeated in time.
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
        // A container that the floor held beyond its window goes when the floor goes. Nothing else can end it, because none
        // starts above the floor while one is idle.
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

    /// Keeps at least `containers` up for `lease`, and starts those that are missing. `containers` is
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

    /// Bills the idle spans that are due, so that the bill does not depend on when the reaper runs. Spans that the floor
    /// holds open are billed up to now, because they may last for days.
    pub(crate) fn reap_due(&self) {
        let (mut fleet, now) = self.now();
        for idle in fleet.idle.iter_mut().take_while(|idle| idle.since + self.sort.window <= now) {
            self.charge_idle(now.duration_since(idle.billed));
            idle.billed = now;
        }
    }

    /// Waits for a container, first come first served. Cancel-safe: a caller that gives up leaves the queue.
    pub(crate) async fn take(self: &Arc<Self>) -> Container {
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
        Container { containers: Arc::clone(self), id, cold, ahead, alive: true, _permit: permit }
    }

    /// Handles each event when it is due, until `shutdown`.
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

    /// The fleet as it is now, after every event that was due.
    fn now(&self) -> (MutexGuard<'_, Fleet>, Instant) {
        let mut fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        self.advance(&mut fleet, now);
        (fleet, now)
    }

    /// Handles the events that were due, in order and each at its own time, so that a span is billed exactly.
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

    /// Starts the containers that are missing below the floor.
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

/// A container in use. Dropping it makes the container idle, or ends it when it died.
#[derive(Debug)]
pub(crate) struct Container {
    containers: Arc<Containers>,
    /// The container's id on the wire.
    pub(crate) id: String,
    /// True if the container must start first.
    pub(crate) cold: bool,
    /// Set while the container still starts for the floor.
    ahead: Option<Starting>,
    alive: bool,
    /// Released after the container is back, so that the next in the queue finds it.
    _permit: OwnedSemaphorePermit,
}

impl Container {
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

impl Drop for Container {
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
