//! One worker of a pool: a single loop for its whole life. What it decides stands in [`crate::shift`].
//!
//! ```text
//!  offers ─▶ Shift::offer ─▶ attempts ─▶ Shift::ended
//!  orders ─▶ Shift::order ─▶ the attempt's ears, or containers kept warm        ⟲ until it has drained
//!  timers ─▶ Shift::tick ──▶ acceptances, heartbeats, roll calls; leases extended; standing cost booked
//! ```
//!
//! A worker works, then drains: it refuses offers and goes on with all the rest until the last attempt has ended. At the end of
//! the grace period it stops what still runs, which is given back; what does not end within some seconds is abandoned and
//! delivered again.

mod look;
mod start;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{HeaderMap, Subscriber};
use futures_util::{FutureExt, StreamExt};
use rustc_hash::FxHashMap;
use schemas::{Micros, subjects};
use serde::Serialize;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use transport::role::Role;

pub use self::start::StartError;
use crate::{
    attempt::{Attempt, Ears, Settled},
    keeper::Keeper,
    kit::Kit,
    metrics, nats,
    provider::Sight,
    rented::seats::Capacity,
    shift::{Decision, Meaning, Message, Shift},
    standing::Ledger,
};

/// Offers taken before the next look at the other sources.
const BURST: usize = 256;
/// How often leases are looked at: a twelfth of a lease, within these limits.
const KEEP_MIN: Duration = Duration::from_millis(50);
const KEEP_MAX: Duration = Duration::from_secs(1);
/// How long attempts may take to end when they are told to stop: a journal entry and a return each.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Clearly past the time at which an offer lapses.
const PAST: Duration = Duration::from_millis(5);
/// How long the last booking of standing cost may take, and then the role's own tasks.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Why a running worker stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The connection was closed for good.
    #[error("the NATS connection was closed")]
    Closed,
}

/// A connected worker.
pub struct Pool {
    kit: Arc<Kit>,
    role: Role,
    shift: Shift,
    offers: Subscriber,
    orders: Subscriber,
    sight: watch::Receiver<Sight>,
    /// The last check of the provider that was taken in.
    checks: Option<u64>,
    /// What may run, where the pool rents machines.
    capacity: Option<watch::Receiver<Capacity>>,
    ledger: Ledger,
    /// The attempts that run, each with its number in the shift. No outcome after a panic.
    running: JoinSet<(u64, Option<Settled>)>,
    held: FxHashMap<u64, Held>,
    /// The attempts whose acceptances are not on their way yet, and when their offers lapse.
    untold: Vec<(Arc<Ears>, Micros)>,
    /// Extensions of leases, and orders to keep warm, on their way.
    errands: JoinSet<()>,
    /// The booking of standing cost that goes on, one at a time.
    booking: JoinSet<()>,
}

/// What the loop keeps of an attempt.
struct Held {
    keeper: Arc<Keeper>,
    ears: Arc<Ears>,
}

/// The phase of a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Working,
    /// Nothing new is begun; what runs may go on until then.
    Draining(Instant),
    /// What runs was told to stop; it is abandoned then.
    Stopping(Instant),
}

impl Phase {
    /// When the phase ends by itself.
    fn until(self) -> Option<Instant> {
        match self {
            Self::Working => None,
            Self::Draining(at) | Self::Stopping(at) => Some(at),
        }
    }
}

impl Pool {
    /// Works until `shutdown`; then takes no more, finishes what runs within the grace period, gives back the rest.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let config = &self.kit.config;
        info!(pool = %config.pool, worker = %config.worker, slots = config.slots, "taking offers");
        let outcome = self.live(&shutdown).await;
        self.close().await;
        outcome
    }

    /// The loop.
    async fn live(&mut self, shutdown: &CancellationToken) -> Result<(), RunError> {
        let (mut phase, mut listens, mut outcome) = (Phase::Working, true, Ok(()));
        // Often enough that a lease is extended in good time, and that two lost requests do not cost it.
        let mut keep = every((self.kit.config.ack_wait / 12).clamp(KEEP_MIN, KEEP_MAX));
        // The first tick comes at once: it closes what an earlier worker left standing.
        let mut standing = every(self.kit.config.standing_every);
        while phase == Phase::Working || !self.running.is_empty() {
            // A timer rounds up to a millisecond, and calls wait for what is due now.
            if self.shift.wake_at() <= self.kit.clock.now().steady {
                self.speak().await;
            }
            let wake = self.kit.clock.instant(self.shift.wake_at());
            let until = phase.until();
            tokio::select! {
                biased; // Stop before settle, settle before start.
                () = shutdown.cancelled(), if phase == Phase::Working => phase = self.drain().await,
                Some(ended) = self.running.join_next() => {
                    self.settle(ended);
                    while let Some(ended) = self.running.try_join_next() {
                        self.settle(ended);
                    }
                }
                () = sleep_until(wake) => self.speak().await,
                Some(order) = self.orders.next() => self.obey(&order),
                offer = self.offers.next(), if listens => if let Some(offer) = offer {
                    self.take_burst(offer);
                } else {
                    listens = false;
                    if phase == Phase::Working {
                        outcome = Err(RunError::Closed);
                        phase = self.drain().await;
                    }
                },
                Ok(()) = self.sight.changed() => self.look_at_provider(),
                () = changed(&mut self.capacity) => self.resize(),
                _ = keep.tick() => self.keep_leases(),
                _ = standing.tick() => self.book_standing(),
                Some(_) = self.errands.join_next() => {}
                Some(_) = self.booking.join_next() => {}
                () = sleep_until(until.unwrap_or(wake)), if until.is_some() => phase = self.overrun(phase).await,
            }
        }
        outcome
    }

    /// Takes no more offers; those that are on their way are refused.
    async fn drain(&mut self) -> Phase {
        self.shift.drain(self.kit.clock.now());
        if let Some(machines) = &self.kit.config.machines {
            machines.drain();
        }
        if let Err(error) = self.offers.drain().await {
            debug!(%error, "offers not drained");
        }
        Phase::Draining(Instant::now() + self.kit.config.grace)
    }

    /// A phase was too short for what runs.
    async fn overrun(&mut self, phase: Phase) -> Phase {
        let jobs = self.running.len();
        match phase {
            Phase::Working => phase,
            Phase::Draining(_) => {
                warn!(jobs, "grace period over, giving back what still runs");
                self.kit.stop.cancel();
                Phase::Stopping(Instant::now() + STOP_WITHIN)
            }
            Phase::Stopping(_) => {
                warn!(jobs, "abandoned; they are delivered again");
                self.running.shutdown().await;
                for (number, _) in self.held.drain() {
                    self.shift.ended(number, None, self.kit.clock.now());
                }
                phase
            }
        }
    }

    /// Takes an offer, and those that are there already.
    fn take_burst(&mut self, first: async_nats::Message) {
        self.take(first);
        for _ in 0..BURST {
            let Some(Some(offer)) = self.offers.next().now_or_never() else { break };
            self.take(offer);
        }
    }

    fn take(&mut self, message: async_nats::Message) {
        let now = self.kit.clock.now();
        let handover = match nats::read_offer(&message) {
            Ok(handover) => handover,
            Err(error) => {
                warn!(%error, "an offer does not read");
                return;
            }
        };
        let Some(accept) = message.reply.clone() else {
            warn!("an offer without a reply subject");
            return;
        };
        match self.shift.offer(&handover, &accept, now) {
            Decision::Accept(number) => {
                let model = self.shift.serves(&handover.subject.model).cloned();
                let model = model.expect("an offer of a model that is not served is refused");
                let (kit, accept_by) = (self.kit.clone(), handover.accept_by_us);
                let gauge = kit.metrics.begin();
                let attempt = Attempt::new(kit, handover, accept.into_string(), message, model, now);
                self.untold.push((attempt.ears(), accept_by));
                self.held.insert(number, Held { keeper: attempt.keeper(), ears: attempt.ears() });
                self.running.spawn(async move {
                    let _gauge = gauge;
                    // A panic is one attempt's end, and which one it was must be known.
                    (number, AssertUnwindSafe(Box::new(attempt).run()).catch_unwind().await.ok())
                });
            }
            Decision::Refuse(because) => metrics::refused(because),
            Decision::Late => {
                metrics::offer_late();
                debug!(offer = handover.offer, "offer came too late, dropped");
            }
        }
    }

    fn settle(&mut self, ended: Result<(u64, Option<Settled>), tokio::task::JoinError>) {
        let (number, settled) = match ended {
            Ok(ended) => ended,
            // Only at the very end, when what is left is abandoned.
            Err(error) => {
                debug!(%error, "an attempt was abandoned");
                return;
            }
        };
        if settled.is_none() {
            error!("an attempt panicked; its job comes again");
        }
        self.held.remove(&number);
        self.shift.ended(number, settled, self.kit.clock.now());
    }

    /// Does what a dispatcher asks. What is meant may have ended meanwhile.
    fn obey(&mut self, message: &async_nats::Message) {
        let order = match nats::read_order(message) {
            Ok(order) => order,
            Err(error) => {
                warn!(%error, "an order does not read");
                return;
            }
        };
        match self.shift.order(order, self.kit.clock.now()) {
            Meaning::Attempt(number, news) => {
                if let Some(held) = self.held.get(&number) {
                    held.ears.tell(news);
                }
            }
            Meaning::Warm(model, containers) => {
                let provider = self.kit.config.provider.clone();
                self.errands.spawn(async move {
                    if let Err(failure) = provider.warm(&model, containers).await {
                        debug!(class = %failure.class, message = failure.message, "containers not kept warm");
                    }
                });
            }
            Meaning::Nothing => {}
        }
    }

    /// Rented machines came or went.
    fn resize(&mut self) {
        if let Some(capacity) = &mut self.capacity {
            let capacity = *capacity.borrow_and_update();
            self.shift.resize(capacity, self.kit.clock.now());
        }
    }

    /// Sends what is due.
    async fn speak(&mut self) {
        self.look_at_provider();
        if let Some(machines) = &self.kit.config.machines {
            let now = self.kit.clock.now();
            if self.shift.wants_loads(now) {
                self.shift.loads(machines.loads(), now);
            }
        }
        let due = self.shift.tick(self.kit.clock.now());
        let connects = self.connects();
        self.send(due).await;
        if self.shift.all_told() && !self.untold.is_empty() {
            self.announce(connects);
        }
    }

    /// How often the client has connected.
    fn connects(&self) -> u64 {
        self.kit.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Tells attempts that their acceptances are on their way, once these have left this process: its death takes nothing back
    /// that is written. `connects` counts the connections before they were sent.
    fn announce(&mut self, connects: u64) {
        let (told, client) = (std::mem::take(&mut self.untold), self.kit.client.clone());
        // Without a connection it waits, until the last of the offers has lapsed.
        let lapse = told.iter().map(|(_, at)| *at).max().unwrap_or_default();
        let patience = lapse.since(self.kit.clock.now().wall) + PAST;
        self.errands.spawn(async move {
            let flushed = matches!(timeout(patience, client.flush()).await, Ok(Ok(())));
            // What was in the buffer of a connection that broke is lost.
            let written = flushed && client.statistics().connects.load(Ordering::Relaxed) == connects;
            if !written {
                warn!(attempts = told.len(), "acceptances not written in time; the jobs are offered again");
            }
            for (ears, _) in told {
                ears.announce(written);
            }
        });
    }

    async fn send(&self, messages: Vec<Message>) {
        for message in messages {
            match message {
                Message::Acceptances(accept, news) => self.publish(accept, &news).await,
                Message::Heartbeat(beat) => {
                    self.publish(subjects::heartbeat(&beat.pool, &beat.worker), &beat).await;
                }
            }
        }
    }

    async fn publish(&self, subject: String, value: &impl Serialize) {
        let body = serde_json::to_vec(value).expect("our own messages have only string keys");
        let sent = self.kit.client.publish_with_headers(subject, HeaderMap::new(), body.into()).await;
        if let Err(error) = sent {
            debug!(%error, "not sent");
        }
    }

    /// Extends the leases that are due; each knows itself when it is lost.
    fn keep_leases(&mut self) {
        for held in self.held.values() {
            if held.keeper.check() {
                let keeper = held.keeper.clone();
                self.errands.spawn(async move { keeper.extend().await });
            }
        }
    }

    fn book_standing(&mut self) {
        if self.booking.is_empty() {
            let ledger = self.ledger.clone();
            self.booking.spawn(async move { ledger.book().await });
        }
    }

    /// Books for the last time, says the last word, and ends what runs beside the loop.
    async fn close(mut self) {
        let last = async {
            while self.booking.join_next().await.is_some() {}
            self.ledger.book().await;
        };
        if timeout(CLOSE_WITHIN, last).await.is_err() {
            warn!("the last standing cost is not booked; the pool's next worker books it");
        }
        let words = self.shift.close(self.kit.clock.now());
        self.send(words).await;
        let (succeeded, failed) = self.shift.counts();
        let pool = self.kit.config.pool.clone();
        self.role.close(CLOSE_WITHIN).await;
        info!(%pool, succeeded, failed, "worker stopped");
    }
}

/// Returns when what may run has changed; never in a pool whose slots are fixed.
async fn changed(capacity: &mut Option<watch::Receiver<Capacity>>) {
    if let Some(capacity) = capacity
        && capacity.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// A timer that, when the loop was held up, goes on from then.
fn every(span: Duration) -> Interval {
    let mut interval = interval(span);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
