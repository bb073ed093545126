//! The instances of one model on Replicate: one prediction each, booted on demand, kept warm for a while.
//!
//! A prediction takes the instance that became idle last; the queue is first come, first served. An instance boots
//! when more predictions wait than instances boot, and finishes its boot even if its prediction has left the queue.
//! Invariant: `ready` has a permit for each idle instance that is not promised to a prediction.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bill::{BillKind, Book},
    clock::micros,
    config::{ReplicateBilling, ReplicateSettings, SimulatedModel},
};

/// The instances of one model.
#[derive(Debug)]
pub(crate) struct Fleet {
    ready: Semaphore,
    crew: Mutex<Crew>,
    /// Wakes the reaper when an instance becomes idle.
    released: Notify,
    most: usize,
    boot: Duration,
    idle_timeout: Duration,
    /// The price of an instance that no prediction uses; `None` when only predictions are billed.
    standing: Option<Tariff>,
    book: Arc<Book>,
    /// Boots are tasks of the simulator.
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

#[derive(Debug)]
struct Tariff {
    sku: String,
    price_per_second_nanos: u64,
}

#[derive(Debug, Default)]
struct Crew {
    /// Since when; longest idle first.
    idle: VecDeque<Instant>,
    booting: usize,
    busy: usize,
    waiting: usize,
}

impl Fleet {
    pub(crate) fn new(
        model: &SimulatedModel,
        settings: &ReplicateSettings,
        book: &Arc<Book>,
        (tasks, shutdown): (&TaskTracker, &CancellationToken),
    ) -> Arc<Self> {
        let standing = settings.billing == ReplicateBilling::Standing;
        Arc::new(Self {
            ready: Semaphore::new(0),
            crew: Mutex::default(),
            released: Notify::new(),
            most: usize::try_from(model.slots).expect("checked to be at most 100000"),
            boot: Duration::from_millis(model.cold_start_ms),
            idle_timeout: Duration::from_millis(settings.idle_timeout_ms),
            standing: standing.then(|| Tariff {
                sku: model.sku.clone(),
                price_per_second_nanos: model.price_per_second_nanos,
            }),
            book: Arc::clone(book),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        })
    }

    /// Waits for an instance, and for its boot if need be. Cancel-safe: a caller that gives up leaves the queue.
    pub(crate) async fn take(self: &Arc<Self>, run: &str) -> Instance {
        {
            let mut crew = self.crew();
            self.reap(&mut crew, Instant::now());
            crew.waiting += 1;
        }
        let waiting = Waiting(self);
        self.scale_up(run);
        let permit = self.ready.acquire().await.expect("the semaphore is never closed");
        permit.forget();
        let mut crew = self.crew();
        let since = crew.idle.pop_back().expect("a permit stands for an idle instance");
        crew.busy += 1;
        drop(crew);
        drop(waiting);
        self.charge(None, BillKind::Idle, since.elapsed());
        Instance { fleet: Arc::clone(self), alive: true }
    }

    /// Scales idle instances down until the simulator stops.
    pub(crate) async fn run_reaper(self: Arc<Self>) {
        loop {
            let next = {
                let mut crew = self.crew();
                self.reap(&mut crew, Instant::now());
                crew.idle.front().map(|since| *since + self.idle_timeout)
            };
            let due = async {
                match next {
                    Some(at) if at > Instant::now() => time::sleep_until(at).await,
                    // An instance that is overdue is promised to a prediction. The next release changes that.
                    Some(_) | None => self.released.notified().await,
                }
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = due => {}
            }
        }
    }

    /// Closes the idle spans that are due, so that the bill does not depend on when the reaper runs.
    pub(crate) fn reap_due(&self) {
        self.reap(&mut self.crew(), Instant::now());
    }

    /// Ends the instances that have been idle for the whole timeout; each is billed exactly that.
    fn reap(&self, crew: &mut Crew, now: Instant) {
        while crew.idle.front().is_some_and(|since| *since + self.idle_timeout <= now) {
            let Ok(permit) = self.ready.try_acquire() else {
                return; // All that are idle have been promised.
            };
            permit.forget();
            crew.idle.pop_front();
            self.charge(None, BillKind::Idle, self.idle_timeout);
        }
    }

    /// Boots an instance for each waiting prediction that has none idle or booting for it.
    fn scale_up(self: &Arc<Self>, run: &str) {
        let mut crew = self.crew();
        while crew.booting + crew.idle.len() < crew.waiting
            && crew.booting + crew.idle.len() + crew.busy < self.most
        {
            crew.booting += 1;
            if self.boot.is_zero() {
                self.booted(&mut crew, run, Duration::ZERO);
                continue;
            }
            let (fleet, run) = (Arc::clone(self), run.to_owned());
            self.tasks.spawn(async move {
                let began = Instant::now();
                tokio::select! {
                    () = fleet.shutdown.cancelled() => {}
                    () = time::sleep_until(began + fleet.boot) => {
                        fleet.booted(&mut fleet.crew(), &run, began.elapsed());
                    }
                }
            });
        }
    }

    fn booted(&self, crew: &mut Crew, run: &str, took: Duration) {
        self.charge(Some(run), BillKind::Startup, took);
        crew.booting -= 1;
        self.settle_down(crew);
    }

    /// An instance becomes idle.
    fn settle_down(&self, crew: &mut Crew) {
        crew.idle.push_back(Instant::now());
        self.ready.add_permits(1);
        self.released.notify_one();
    }

    fn charge(&self, run: Option<&str>, kind: BillKind, span: Duration) {
        if let Some(Tariff { sku, price_per_second_nanos }) = &self.standing {
            let run = run.map(str::to_owned);
            self.book.charge(run, sku, kind, *price_per_second_nanos, micros(span), true);
        }
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a Fleet);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.crew().waiting -= 1;
    }
}

/// An instance in use. Dropping it makes the instance idle.
#[derive(Debug)]
pub(crate) struct Instance {
    fleet: Arc<Fleet>,
    alive: bool,
}

impl Instance {
    /// The instance will not come back; another boots if a prediction waits for it.
    pub(crate) fn die(mut self, run: &str) {
        self.alive = false;
        let fleet = Arc::clone(&self.fleet);
        drop(self);
        fleet.scale_up(run);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let mut crew = self.fleet.crew();
        crew.busy -= 1;
        if self.alive {
            self.fleet.settle_down(&mut crew);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(slots: u32, cold_start_ms: u64) -> (Arc<Book>, Arc<Fleet>) {
        let model = SimulatedModel {
            slots,
            cold_start_ms,
            sku: "gpu-t4".to_owned(),
            price_per_second_nanos: 225_000,
            ..SimulatedModel::new("meta/llama")
        };
        let billing = ReplicateBilling::Standing;
        let settings = ReplicateSettings { billing, ..ReplicateSettings::default() };
        let book = Arc::new(Book::default());
        let tasks = (&TaskTracker::new(), &CancellationToken::new());
        (Arc::clone(&book), Fleet::new(&model, &settings, &book, tasks))
    }

    #[tokio::test(start_paused = true)]
    async fn boot_and_idle_time_are_billed_to_the_microsecond() {
        let (book, fleet) = standing(2, 3_000);
        drop(fleet.take("a").await);
        time::advance(Duration::from_micros(1_234_567)).await;
        drop(fleet.take("b").await);
        time::advance(Duration::from_secs(600)).await;
        fleet.reap_due();
        let usage = &book.usage()[0];
        assert_eq!((usage.startup_us, usage.idle_us), (3_000_000, 61_234_567));
        assert_eq!(book.bill().lines[0].run.as_deref(), Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_boot_takes_an_instance_that_is_free_sooner() {
        let (_, fleet) = standing(2, 60_000);
        let first = fleet.take("a").await;
        let began = Instant::now();
        let work = async {
            time::sleep(Duration::from_secs(1)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(fleet.take("b"), work);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        drop(second);
        assert_eq!(fleet.crew().booting, 1, "its own boot goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_the_queue_and_a_dead_instance_is_replaced() {
        let (_, fleet) = standing(1, 1_000);
        let first = fleet.take("a").await;
        let left = time::timeout(Duration::from_secs(9), fleet.take("b")).await;
        assert!(left.is_err(), "the only instance is taken");
        assert_eq!(fleet.crew().waiting, 0);
        let began = Instant::now();
        let death = async {
            time::sleep(Duration::from_secs(1)).await;
            first.die("a");
        };
        let (second, ()) = tokio::join!(fleet.take("c"), death);
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        drop(second);
    }
}
