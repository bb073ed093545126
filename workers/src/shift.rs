//! A worker's own books: its slots, what runs, what each dispatcher is told. Pure: no clock, no I/O, nothing async.
//!
//! ```text
//!  offer ─▶ Shift::offer ─┬─ accept ─▶ an attempt runs ─▶ Shift::ended ─┐
//!                         └─ refuse ──────────────────────────────────┐│
//!                                                                     ▼▼
//!  Shift::tick ─▶ acceptances at once, a heartbeat each second and on change, a roll call each second
//! ```
//!
//! What runs is a set, never a counter that could leak. Draining is a state of the shift: it refuses offers and goes on with
//! everything else.

mod beat;
mod inbox;
mod room;
#[cfg(test)]
mod tests;
mod warm;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};
use schemas::{
    Micros, ModelToken, PoolId, ProviderId, Region, UsdNanos, WorkerId,
    failure::FailureClass,
    handover::{Acceptances, EndedAttempt, Handover, OfferKey, Order, RefusedBecause},
    heartbeat::{Heartbeat, MachineLoad},
    prices::PriceBook,
    time::micros,
};

use self::{
    inbox::{BEAT_EVERY, Inbox},
    warm::Warmth,
};
use crate::{
    attempt::{Settled, course::News},
    clock::Now,
    config::PoolModel,
    provider::Sight,
    rented::seats::Capacity,
    stats::Recent,
};

/// News that come closely are collected, for as long as there are attempts to run meanwhile: so much for each, and no longer than
/// [`FLUSH_AFTER`]. Calls wait for it, so a worker with little to do tells at once, and a busy one in batches.
const FLUSH_EACH: Duration = Duration::from_micros(60);
const FLUSH_AFTER: Duration = Duration::from_millis(2);
/// Heartbeats on change come no faster than this.
const BEAT_MIN: Duration = Duration::from_millis(5);

/// Machines are told of no faster than this: 500 of them are 75 KB, and heartbeats follow every change.
const LOADS_EVERY: Duration = Duration::from_millis(900);

/// What a worker is; it does not change while it lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    /// The pool.
    pub pool: PoolId,
    /// The worker's name in it.
    pub worker: WorkerId,
    /// When this process started.
    pub started: Micros,
    /// Jobs it runs at a time, at first.
    pub slots: u32,
    /// What it serves.
    pub models: Vec<PoolModel>,
    /// What everything costs.
    pub prices: Arc<PriceBook>,
    /// Under which name the price book knows the provider.
    pub price_name: ProviderId,
    /// How long the provider keeps and bills a container after its last job.
    pub idle: Duration,
    /// Whether the machine is paid for while it stands.
    pub rented: bool,
    /// Whether a run goes on without the worker.
    pub detached: bool,
}

/// What becomes of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is accepted: begin an attempt under this number, which no other attempt of the worker ever has.
    Accept(u64),
    /// It is refused, and the dispatcher is told.
    Refuse(RefusedBecause),
    /// It came after its `accept_by`: the dispatcher has given up on it, so nothing is said.
    Late,
}

/// A message that is due. All of them go out on one connection, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To one dispatcher's inbox: news, or with `open` the roll call.
    Acceptances(String, Box<Acceptances>),
    /// To all dispatchers.
    Heartbeat(Box<Heartbeat>),
}

/// What a dispatcher's order means here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Tell this attempt.
    Attempt(u64, News),
    /// Have so many containers of a model ready; its name at the provider.
    Warm(String, u32),
    /// Nothing: what is meant has ended, or was never here.
    Nothing,
}

/// An attempt that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    job: (Region, u64),
    model: ModelToken,
    offer: OfferKey,
    since: Duration,
}

/// A worker's books.
#[derive(Clone, Debug)]
pub struct Shift {
    post: Post,
    recent: FxHashMap<ModelToken, Recent>,
    running: BTreeMap<u64, Running>,
    /// Places in the log of the jobs that run: a job that is delivered again while it runs here is not run twice.
    jobs: FxHashSet<(Region, u64)>,
    inboxes: BTreeMap<String, Inbox>,
    warmth: Warmth,
    next: u64,
    /// When the inboxes have something to say.
    flush_at: Option<Duration>,
    last_flush: Option<Duration>,
    beat_at: Duration,
    last_beat: Option<Duration>,
    draining: bool,
    healthy: Option<bool>,
    /// How long a small request takes to the provider and back.
    round_trip: Option<Duration>,
    warmable: bool,
    succeeded: u64,
    failed: u64,
    slots: u32,
    /// Slots left free because requests of others wait at the provider's server.
    others: u32,
    /// The most jobs that ran at once since the last look at that server.
    most: usize,
    /// What an hour of a slot costs, in a pool that rents machines.
    slot_hour: Option<UsdNanos>,
    /// What is to be told of rented machines with the next heartbeat, and when that was told last.
    loads: Option<Vec<MachineLoad>>,
    loads_told: Option<Duration>,
}

impl Shift {
    /// Begins: nothing runs, and a heartbeat is due.
    pub fn new(post: Post, now: Now) -> Self {
        let recent = post.models.iter().map(|m| (m.model.clone(), Recent::default())).collect();
        Self {
            slots: post.slots,
            others: 0,
            most: 0,
            slot_hour: None,
            loads: None,
            loads_told: None,
            post,
            recent,
            running: BTreeMap::new(),
            jobs: FxHashSet::default(),
            inboxes: BTreeMap::new(),
            warmth: Warmth::default(),
            next: 1,
            flush_at: None,
            last_flush: None,
            beat_at: now.steady,
            last_beat: None,
            draining: false,
            healthy: None,
            round_trip: None,
            warmable: false,
            succeeded: 0,
            failed: 0,
        }
    }

    /// Takes an offer or says why not; `accept` is the message's reply subject. A job is never queued here.
    pub fn offer(&mut self, handover: &Handover, accept: &str, now: Now) -> Decision {
        if now.wall > handover.accept_by_us {
            return Decision::Late;
        }
        let job = (handover.subject.region.clone(), handover.lease.stream_seq);
        let refusal = if self.draining {
            Some(RefusedBecause::Draining)
        } else if self.jobs.contains(&job) {
            Some(RefusedBecause::Running)
        } else if self.running.len() >= self.room() as usize {
            Some(RefusedBecause::Busy)
        } else if self.model(&handover.subject.model).is_none() {
            Some(RefusedBecause::Model)
        } else {
            None
        };
        self.flush_soon(now);
        let inbox = inbox::of(&mut self.inboxes, accept);
        if let Some(because) = refusal {
            inbox.refused.push((handover.offer, because));
            return Decision::Refuse(because);
        }
        inbox.accepted.push(handover.offer);
        inbox.running += 1;
        let number = self.next;
        self.next += 1;
        let offer = OfferKey { accept: accept.to_owned(), offer: handover.offer };
        self.jobs.insert(job.clone());
        let model = handover.subject.model.clone();
        self.running.insert(number, Running { job, model, offer, since: now.steady });
        self.most = self.most.max(self.running.len());
        Decision::Accept(number)
    }

    /// An attempt has ended. `None` if it vanished without an outcome, as after a panic.
    pub fn ended(&mut self, number: u64, settled: Option<Settled>, now: Now) {
        let Some(Running { job, model, offer, .. }) = self.running.remove(&number) else { return };
        self.jobs.remove(&job);
        let lost = settled.is_none();
        let settled = settled.unwrap_or(Settled::NOTHING);
        match settled.failed {
            None => {
                self.succeeded += 1;
                if let Some(recent) = self.recent.get_mut(&model) {
                    recent.add(settled.service);
                }
            }
            Some(FailureClass::WorkerLost | FailureClass::Preempted | FailureClass::Cancelled) => {}
            Some(_) => self.failed += 1,
        }
        let inbox = inbox::of(&mut self.inboxes, &offer.accept);
        inbox.running = inbox.running.saturating_sub(1);
        inbox.ended.push(EndedAttempt {
            offer: offer.offer,
            failed: settled.failed,
            retry_after_us: settled.retry_after_us,
            service_us: micros(settled.service),
            cold_us: micros(settled.cold),
            cost_usd: settled.cost,
            kept: settled.kept,
            lost,
        });
        self.flush_soon(now);
    }

    /// What a dispatcher's order means for this worker.
    pub fn order(&mut self, order: Order, now: Now) -> Meaning {
        let find = |key: OfferKey, news| match self.running.iter().find(|(_, running)| running.offer == key) {
            Some((number, _)) => Meaning::Attempt(*number, news),
            None => Meaning::Nothing,
        };
        match order {
            Order::Hedged(key) => find(key, News::Hedged),
            Order::Alone(key, entry) => find(key, News::Alone(entry)),
            Order::Stop(key) => find(key, News::Stop),
            Order::Warm { from, model, containers } => {
                let Some(served_as) = self.model(&model).map(|m| m.served_as.clone()) else {
                    return Meaning::Nothing;
                };
                Meaning::Warm(served_as, self.warmth.order(&model, from, containers, now.steady))
            }
        }
    }

    /// Takes in what is known of the provider: its last health check, the way to it and back, and whether it keeps containers warm
    /// on order.
    pub fn provider(&mut self, sight: Sight, warmable: bool, now: Now) {
        if sight.up != self.healthy {
            self.beat_at = now.steady;
        }
        (self.healthy, self.round_trip, self.warmable) = (sight.up, sight.round_trip, warmable);
    }

    /// Runs so many jobs at a time from now on, each at that price: rented machines came or went. Jobs that run go on; dispatchers
    /// hear of it at once.
    pub fn resize(&mut self, to: Capacity, now: Now) {
        if (self.slots, self.slot_hour) != (to.slots, Some(to.hour_usd)) {
            (self.slots, self.slot_hour) = (to.slots, Some(to.hour_usd));
            self.beat_at = now.steady;
        }
    }

    /// Whether [`Shift::loads`] is wanted before the next tick: a heartbeat is due, and the last word on machines is old.
    pub fn wants_loads(&self, now: Now) -> bool {
        self.beat_at <= now.steady && self.loads_told.is_none_or(|told| now.steady >= told + LOADS_EVERY)
    }

    /// What is to be told of rented machines with the next heartbeat.
    pub fn loads(&mut self, loads: Vec<MachineLoad>, now: Now) {
        (self.loads, self.loads_told) = (Some(loads), Some(now.steady));
    }

    /// Takes no more offers from now on.
    pub fn drain(&mut self, now: Now) {
        self.draining = true;
        self.beat_at = now.steady;
    }

    /// When [`Shift::tick`] has something to send next, by the steady clock.
    pub fn wake_at(&self) -> Duration {
        let calls = self.inboxes.values().filter_map(Inbox::call_at);
        let soon = calls.chain(self.flush_at).chain([self.beat_at]);
        soon.min().unwrap_or(self.beat_at)
    }

    /// The messages that are due now.
    pub fn tick(&mut self, now: Now) -> Vec<Message> {
        let mut messages = Vec::new();
        let flush = self.flush_at.is_some_and(|at| at <= now.steady);
        if flush {
            (self.flush_at, self.last_flush) = (None, Some(now.steady));
        }
        self.speak(flush, now, &mut messages);
        if self.beat_at <= now.steady {
            (self.last_beat, self.beat_at) = (Some(now.steady), now.steady + BEAT_EVERY);
            let beat = Heartbeat { machines: self.loads.take(), ..self.heartbeat(now) };
            messages.push(Message::Heartbeat(Box::new(beat)));
        }
        messages
    }

    /// The last messages of a worker that stops: all news, a last roll call for everyone, a heartbeat.
    pub fn close(&mut self, now: Now) -> Vec<Message> {
        for inbox in self.inboxes.values_mut() {
            inbox.due = true;
        }
        self.beat_at = now.steady;
        self.flush_at = Some(now.steady);
        self.tick(now)
    }

    /// What each dispatcher is told: everyone's news when `flush`, and roll calls that are due.
    fn speak(&mut self, flush: bool, now: Now, messages: &mut Vec<Message>) {
        let running = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        for (accept, inbox) in &mut self.inboxes {
            let call = inbox.call_at().is_some_and(|at| at <= now.steady);
            if !(call || flush && inbox.has_news()) {
                continue;
            }
            let open = call.then(|| {
                let own = self.running.values().filter(|running| running.offer.accept == *accept);
                own.map(|running| running.offer.offer).collect()
            });
            let empty = Acceptances {
                pool: self.post.pool.clone(),
                worker: self.post.worker.clone(),
                started_us: self.post.started,
                running,
                open: None,
                accepted: Vec::new(),
                refused: Vec::new(),
                ended: Vec::new(),
            };
            let parts = inbox.parts(&empty, open, now.steady);
            messages.extend(parts.map(|part| Message::Acceptances(accept.clone(), Box::new(part))));
        }
        self.inboxes.retain(|_, inbox| !inbox.is_done());
    }

    fn flush_soon(&mut self, now: Now) {
        let running = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        let pace = FLUSH_EACH.saturating_mul(running).min(FLUSH_AFTER);
        let soonest = self.last_flush.map_or(now.steady, |last| last + pace).max(now.steady);
        self.flush_at = Some(self.flush_at.map_or(soonest, |at| at.min(soonest)));
        // The load has changed, so a heartbeat follows; not faster than its pace.
        let soonest = self.last_beat.map_or(now.steady, |last| last + BEAT_MIN);
        self.beat_at = self.beat_at.min(soonest.max(now.steady + FLUSH_AFTER));
    }

    fn model(&self, token: &ModelToken) -> Option<&PoolModel> {
        self.post.models.iter().find(|m| m.model == *token)
    }

    /// Whether every acceptance was told.
    pub fn all_told(&self) -> bool {
        self.inboxes.values().all(|inbox| inbox.accepted.is_empty())
    }

    /// The model as this worker serves it.
    pub fn serves(&self, token: &ModelToken) -> Option<&PoolModel> {
        self.model(token)
    }

    /// How many attempts run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The numbers of the attempts that run, oldest first.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.running.keys().copied()
    }

    /// The offers of this inbox whose attempts run, oldest first.
    pub fn open(&self, accept: &str) -> impl Iterator<Item = u64> {
        self.running.values().filter(move |r| r.offer.accept == accept).map(|r| r.offer.offer)
    }

    /// Whether it drains and nothing runs any more.
    pub fn is_done(&self) -> bool {
        self.draining && self.running.is_empty()
    }

    /// How many attempts succeeded and failed so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.succeeded, self.failed)
    }
}
