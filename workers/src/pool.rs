//! One worker of a pool: takes offers up to its slots, runs them, and says how it is doing.
//!
//! ```text
//!  offers ─▶ take ─┬─▶ refused ──▶ acceptances, every few milliseconds
//!                  └─▶ running ──▶ settle ─▶ statistics ─▶ heartbeat, each second and on change
//! ```
//!
//! What runs is the set of tasks, never a counter that could leak.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use schemas::{
    Micros, ModelToken, Region, WorkerId,
    failure::FailureClass,
    handover::{Acceptances, EndedAttempt, OfferKey, Order, RefusedBecause},
    heartbeat::{Heartbeat, ServedModel},
    prices::Used,
    subjects,
    time::{Clock as _, micros},
    topology::{FLOORS_BUCKET, JOURNAL_BUCKET},
};
use serde::{Deserialize, Serialize};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use transport::{
    Link, LinkError, PublishError, SystemClock,
    acks::acks,
    bucket::Bucket,
    cancels::{CancelsError, cancels},
    publisher::{Patience, publisher},
};

use crate::{
    attempt::{Attempt, Bench, Control, Settled},
    booking::{self, Booker},
    config::{PoolConfig, PoolModel},
    keeper::Keeper,
    metrics::{self, PoolMetrics},
    nats,
    provider::{Health, UsedItem},
    stats::Recent,
};

/// How long acceptances are collected. Off the critical path: the job runs meanwhile.
const FLUSH_AFTER: Duration = Duration::from_millis(2);
/// Heartbeats on change come no faster than this.
const BEAT_MIN: Duration = Duration::from_millis(5);
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Offers taken before the next look at the other sources.
const BURST: usize = 256;
/// Health checks missed in a row before the provider counts as down: a busy server misses one now and then.
const MISSES: u32 = 3;

/// Dispatchers say each second what they want warm; one that says nothing for so long is gone.
const WARM_ORDER_HOLDS: Duration = Duration::from_secs(10);
/// A job that runs so many times longer than 95 of 100 may never end.
const OVERDUE: u32 = 3;
/// Less is no hang, however fast jobs usually are.
const OVERDUE_LEAST: Duration = Duration::from_secs(1);

/// A job that runs here.
struct Running {
    region: Region,
    seq: u64,
    model: ModelToken,
    keeper: Arc<Keeper>,
    control: Arc<Control>,
    /// Who offered it, and is told how it ends.
    offer: OfferKey,
    since: Instant,
}

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No subscription.
    #[error("cannot subscribe")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// No publisher.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// What was taken back is not known.
    #[error(transparent)]
    Cancels(#[from] CancelsError),
}

/// Why a running worker stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The connection was closed for good.
    #[error("the NATS connection was closed")]
    Closed,
}

/// A connected worker.
pub struct Pool {
    bench: Arc<Bench>,
    offers: Subscriber,
    orders: Subscriber,
    /// What each dispatcher wants warm of each model, and since when.
    warm_orders: HashMap<(ModelToken, WorkerId), (u32, Instant)>,
    /// Containers being started on order.
    warming: JoinSet<()>,
    background: JoinSet<()>,
    background_stop: CancellationToken,
    floors: Bucket,
    models: HashMap<ModelToken, (PoolModel, Recent)>,
    running: JoinSet<Settled>,
    /// What runs, by task.
    jobs: HashMap<Id, Running>,
    held: HashSet<(Region, u64)>,
    extensions: JoinSet<()>,
    answers: HashMap<String, Acceptances>,
    flush_at: Option<Instant>,
    beat_at: Instant,
    started: Micros,
    succeeded: u64,
    failed: u64,
    draining: bool,
    healthy: tokio::sync::watch::Receiver<Option<bool>>,
}

impl Pool {
    /// Connects and begins to listen for offers; takes none before [`Pool::run`].
    pub async fn connect(config: PoolConfig) -> Result<Self, StartError> {
        let name = format!("worker-{}-{}", config.pool, config.worker);
        let link = Link::connect(&config.link, &name).await?;
        let control = Link::connect(&config.link, &format!("{name}-control")).await?;
        let (publisher, publisher_task) = publisher(&link, Patience::FOREVER).await?;
        let (acks, ack_task) = acks(&control).await?;
        let (cancels, cancel_task) = cancels(&control.client).await?;
        let offers = link
            .client
            .queue_subscribe(subjects::work(&config.pool), subjects::work_group(&config.pool))
            .await?;
        let orders = control.client.subscribe(subjects::orders(&config.pool, &config.worker)).await?;
        let background_stop = CancellationToken::new();
        let mut background = JoinSet::new();
        background.spawn(publisher_task.run(background_stop.clone()));
        background.spawn(ack_task.run(background_stop.clone(), Duration::from_secs(2)));
        background.spawn(cancel_task.run(background_stop.clone()));
        let (tell, healthy) = tokio::sync::watch::channel(None);
        if let Some(every) = config.health_every {
            background.spawn(watch_health(config.clone(), every, tell, background_stop.clone()));
        }
        let models =
            config.models.iter().map(|m| (m.model.clone(), (m.clone(), Recent::default()))).collect();
        let bucket = |name| Bucket::new(control.client.clone(), publisher.clone(), name);
        let (journals, floors) = (bucket(JOURNAL_BUCKET), bucket(FLOORS_BUCKET));
        let metrics = PoolMetrics::new(&config.pool);
        let bench = Bench {
            config,
            client: link.client,
            control: control.client.clone(),
            publisher,
            acks,
            journals,
            cancels,
            stop: CancellationToken::new(),
            metrics,
        };
        Ok(Self {
            bench: Arc::new(bench),
            offers,
            orders,
            warm_orders: HashMap::new(),
            warming: JoinSet::new(),
            background,
            background_stop,
            floors,
            models,
            running: JoinSet::new(),
            jobs: HashMap::new(),
            held: HashSet::new(),
            extensions: JoinSet::new(),
            answers: HashMap::new(),
            flush_at: None,
            beat_at: Instant::now(),
            started: SystemClock.now(),
            succeeded: 0,
            failed: 0,
            draining: false,
            healthy,
        })
    }

    /// Works until `shutdown`; then takes no more, finishes what runs within the grace period, gives back the rest.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let config = self.bench.config.clone();
        info!(pool = %config.pool, worker = %config.worker, slots = config.slots, "taking offers");
        let outcome = self.work(&shutdown).await;
        self.wind_down().await;
        outcome
    }

    async fn work(&mut self, shutdown: &CancellationToken) -> Result<(), RunError> {
        let mut beat = interval(BEAT_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut standing = interval(self.bench.config.standing_every);
        standing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        standing.reset();
        let mut keep = self.keep_interval();
        loop {
            let flush_at = self.flush_at;
            tokio::select! {
                biased; // Stop before settle, settle before start.
                () = shutdown.cancelled() => return Ok(()),
                Some(ended) = self.running.join_next_with_id() => {
                    self.settle(ended);
                    while let Some(ended) = self.running.try_join_next_with_id() {
                        self.settle(ended);
                    }
                    self.flush_soon();
                }
                offer = self.offers.next() => {
                    self.take(offer.ok_or(RunError::Closed)?);
                    for _ in 0..BURST {
                        let Some(Some(offer)) = self.offers.next().now_or_never() else { break };
                        self.take(offer);
                    }
                }
                Some(order) = self.orders.next() => self.obey(&order),
                Some(_) = self.warming.join_next() => {}
                () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => self.flush().await,
                Ok(()) = self.healthy.changed() => self.beat().await,
                _ = keep.tick() => self.keep_leases(),
                Some(_) = self.extensions.join_next() => {}
                _ = beat.tick() => self.beat().await,
                _ = standing.tick() => self.book_standing().await,
            }
        }
    }

    /// Takes an offer or says why not. A job is never queued here.
    fn take(&mut self, message: Message) {
        let now = SystemClock.now();
        let handover = match nats::read_offer(&message) {
            Ok(handover) => handover,
            Err(error) => {
                warn!(%error, "an offer does not read");
                return;
            }
        };
        let Some(reply) = message.reply.clone() else {
            warn!("an offer without a reply subject");
            return;
        };
        if now > handover.accept_by_us {
            metrics::offer_late();
            debug!(offer = handover.offer, "offer came too late, dropped");
            return;
        }
        let key = (handover.subject.region.clone(), handover.lease.stream_seq);
        let model = self.models.get(&handover.subject.model).map(|(m, _)| m.clone());
        let refusal = if self.draining {
            Some(RefusedBecause::Draining)
        } else if self.held.contains(&key) {
            Some(RefusedBecause::Running)
        } else if self.running.len() >= self.bench.config.slots as usize {
            Some(RefusedBecause::Busy)
        } else if model.is_none() {
            Some(RefusedBecause::Model)
        } else {
            None
        };
        let offer = handover.offer;
        let reply = reply.into_string();
        let answer = answer(&mut self.answers, &self.bench.config, &reply);
        match (refusal, model) {
            (None, Some(model)) => {
                answer.accepted.push(offer);
                let token = model.model.clone();
                let attempt = Box::new(Attempt::new(self.bench.clone(), handover, message, model, now));
                let (gauge, keeper, control) =
                    (self.bench.metrics.begin(), attempt.keeper(), attempt.control());
                let task = self.running.spawn(async move {
                    let _gauge = gauge;
                    attempt.run().await
                });
                self.held.insert(key.clone());
                let running = Running {
                    region: key.0,
                    seq: key.1,
                    model: token,
                    keeper,
                    control,
                    offer: OfferKey { accept: reply, offer },
                    since: Instant::now(),
                };
                self.jobs.insert(task.id(), running);
            }
            (because, _) => {
                let because = because.unwrap_or(RefusedBecause::Model);
                metrics::refused(because);
                answer.refused.push((offer, because));
            }
        }
        self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH_AFTER);
    }

    fn settle(&mut self, ended: Result<(Id, Settled), JoinError>) {
        let (id, settled) = match ended {
            Ok(pair) => pair,
            Err(error) => {
                error!(%error, "an attempt panicked; its job comes again");
                (error.id(), Settled::NOTHING)
            }
        };
        let Some(Running { region, seq, model, offer, .. }) = self.jobs.remove(&id) else { return };
        self.held.remove(&(region, seq));
        match settled.failed {
            None => {
                self.succeeded += 1;
                if let Some((_, recent)) = self.models.get_mut(&model) {
                    recent.add(settled.service);
                }
            }
            Some(FailureClass::WorkerLost | FailureClass::Preempted | FailureClass::Cancelled) => {}
            Some(_) => self.failed += 1,
        }
        answer(&mut self.answers, &self.bench.config, &offer.accept).ended.push(EndedAttempt {
            offer: offer.offer,
            failed: settled.failed,
            retry_after_us: settled.retry_after_us,
            service_us: micros(settled.service),
            cold_us: micros(settled.cold),
            cost_usd: settled.cost,
            kept: settled.kept,
        });
    }

    /// Does what a dispatcher asks. What is meant may have ended meanwhile.
    fn obey(&mut self, message: &Message) {
        let order = match nats::read_order(message) {
            Ok(order) => order,
            Err(error) => {
                warn!(%error, "an order does not read");
                return;
            }
        };
        let find = |key: &OfferKey| self.jobs.values().find(|r| r.offer == *key).map(|r| r.control.as_ref());
        match order {
            Order::Hedged(key) => find(&key).into_iter().for_each(Control::hedged),
            Order::Alone(key, entry) => {
                if let Some(control) = find(&key) {
                    control.alone(entry.map(|entry| *entry));
                }
            }
            Order::Stop(key) => find(&key).into_iter().for_each(Control::stop),
            Order::Warm { from, model: token, containers } => {
                let Some((model, _)) = self.models.get(&token) else { return };
                let now = Instant::now();
                self.warm_orders.retain(|_, (_, at)| now.duration_since(*at) < WARM_ORDER_HOLDS);
                self.warm_orders.insert((token.clone(), from), (containers, now));
                let of_model = self.warm_orders.iter().filter(|((of, _), _)| *of == token);
                let containers = of_model.map(|(_, (containers, _))| containers).sum();
                let (bench, name) = (self.bench.clone(), model.served_as.clone());
                self.warming.spawn(async move {
                    if let Err(failure) = bench.config.provider.warm(&name, containers).await {
                        debug!(class = %failure.class, message = failure.message, "containers not kept warm");
                    }
                });
            }
        }
    }

    fn flush_soon(&mut self) {
        self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH_AFTER);
    }

    /// Sends acceptances, and a heartbeat when the load has changed.
    async fn flush(&mut self) {
        self.flush_at = None;
        let running = self.running_count();
        for (reply, mut answer) in std::mem::take(&mut self.answers) {
            answer.running = running;
            send(&self.bench.client, &reply, &answer).await;
        }
        if self.beat_at.elapsed() >= BEAT_MIN {
            self.beat().await;
        } else {
            self.flush_at = Some(self.beat_at + BEAT_MIN);
        }
    }

    async fn beat(&mut self) {
        self.beat_at = Instant::now();
        let config = &self.bench.config;
        let beat = Heartbeat {
            pool: config.pool.clone(),
            worker: config.worker.clone(),
            started_us: self.started,
            at_us: SystemClock.now(),
            slots: config.slots,
            running: self.running_count(),
            draining: self.draining,
            healthy: *self.healthy.borrow(),
            succeeded: self.succeeded,
            failed: self.failed,
            models: config.models.iter().map(|m| self.served(m)).collect(),
        };
        send(&self.bench.client, &subjects::heartbeat(&config.pool, &config.worker), &beat).await;
    }

    fn served(&self, model: &PoolModel) -> ServedModel {
        let config = &self.bench.config;
        let recent = self.models.get(&model.model).map(|(_, r)| r.quantiles(model.expected));
        let (p50, p95) = recent.unwrap_or((model.expected, model.expected * 2));
        let (now, late) = (Instant::now(), (p95 * OVERDUE).max(OVERDUE_LEAST));
        let here = || self.jobs.values().filter(|running| running.model == model.model);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        ServedModel {
            running: number(here().count()),
            overdue: number(here().filter(|running| now.duration_since(running.since) > late).count()),
            second_usd: booking::second(&config.prices, &config.price_name, &model.sku, SystemClock.now()),
            idle_us: micros(config.idle),
            rented: config.rented,
            detached: config.provider.detached(),
            warmable: config.provider.warmable(),
            model: model.model.clone(),
            sku: model.sku.clone(),
            size: model.size,
            expected_cost_usd: booking::expected_cost(
                &config.prices,
                &config.price_name,
                &model.sku,
                p50,
                SystemClock.now(),
            ),
            p50_us: micros(p50),
            p95_us: micros(p95),
        }
    }

    fn running_count(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    async fn wind_down(&mut self) {
        self.draining = true;
        self.beat().await;
        if let Err(error) = self.offers.drain().await {
            debug!(%error, "offers not drained");
        }
        while let Ok(Some(offer)) = tokio::time::timeout(FLUSH_AFTER * 20, self.offers.next()).await {
            self.take(offer);
        }
        self.flush().await;
        let grace = self.bench.config.grace;
        if tokio::time::timeout(grace, self.finish_running()).await.is_err() {
            warn!(jobs = self.running.len(), "grace period over, giving back what still runs");
            self.bench.stop.cancel();
            if tokio::time::timeout(Duration::from_secs(5), self.finish_running()).await.is_err() {
                warn!(jobs = self.running.len(), "abandoned; they are delivered again");
                self.running.shutdown().await;
            }
        }
        self.book_standing().await;
        self.beat().await;
        self.background_stop.cancel();
        while self.background.join_next().await.is_some() {}
        for client in [&self.bench.client, &self.bench.control] {
            if let Err(error) = client.flush().await {
                debug!(%error, "connection not flushed");
            }
        }
        info!(pool = %self.bench.config.pool, succeeded = self.succeeded, failed = self.failed, "worker stopped");
    }

    async fn finish_running(&mut self) {
        let mut keep = self.keep_interval();
        loop {
            tokio::select! {
                ended = self.running.join_next_with_id() => match ended {
                    Some(ended) => self.settle(ended),
                    None => return,
                },
                _ = keep.tick() => self.keep_leases(),
            }
        }
    }

    /// Often enough that a lease is extended in good time, and that two lost requests do not cost it.
    fn keep_interval(&self) -> tokio::time::Interval {
        let mut keep =
            interval((self.bench.config.ack_wait / 12).clamp(Duration::from_millis(50), BEAT_EVERY));
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        keep
    }

    fn keep_leases(&mut self) {
        for running in self.jobs.values() {
            running.keeper.check();
            if running.keeper.due() {
                let keeper = running.keeper.clone();
                self.extensions.spawn(async move { keeper.extend().await });
            }
        }
    }

    /// Books what the provider counts as standing since it was last booked, by whomever of this pool.
    async fn book_standing(&mut self) {
        let config = &self.bench.config;
        let Some(total) = config.provider.standing().await else {
            return;
        };
        let key = format!("standing.{}.{}", config.pool.region, config.pool.provider);
        let before: Booked = match self.floors.get(&key).await {
            Ok(bytes) => bytes.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default(),
            Err(error) => {
                warn!(%error, "standing cost not booked now");
                return;
            }
        };
        let (after, lines) = match new_standing(config, &before, &total, SystemClock.now()) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => {
                error!(pool = %config.pool, %error, "standing usage without a price");
                return;
            }
        };
        let booker = Booker { pool: &config.pool, prices: &config.prices };
        let event = booker.standing(lines, SystemClock.now());
        self.bench.metrics.booked(event.purpose, event.amount_usd);
        // The same span booked by two workers of the pool has the same id and is stored once.
        let id = format!("standing:{}:{}-{}:cost", config.pool, before.sum(), after.sum());
        let (subject, headers, body) = nats::standing(&event, id);
        let stored = self.bench.publisher.publish(subject, headers, body).await;
        let written = serde_json::to_vec(&after).expect("numbers by name always encode");
        let stored = match stored {
            Ok(_) => self.floors.put(&key, written.into()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            warn!(%error, "standing cost not booked now");
        }
    }
}

/// Standing microseconds booked so far, by SKU and item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Booked(std::collections::BTreeMap<String, u64>);

impl Booked {
    fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    /// What it is kept under. Idle time is by SKU alone, as it was when there was nothing else.
    fn key(item: &UsedItem) -> String {
        match item.item {
            "idle" => item.sku.clone(),
            other => format!("{}:{other}", item.sku),
        }
    }
}

type Bill = (Vec<schemas::cost::CostLine>, schemas::UsdNanos);

/// What is new in `total` since `before`. Priced as the difference of two totals, so that many small bookings add up
/// to exactly what one large one would cost while the price stays.
fn new_standing(
    config: &PoolConfig,
    before: &Booked,
    total: &[UsedItem],
    at: Micros,
) -> Result<Option<(Booked, Bill)>, schemas::prices::PriceError> {
    let (mut after, mut lines) = (before.clone(), Vec::new());
    for item in total {
        let Used::Time(span) = item.used else { continue };
        let key = Booked::key(item);
        let from = before.0.get(&key).copied().unwrap_or(0);
        let to = micros(span);
        // A provider that began to count again: what it says now is all new.
        let from = if to < from { 0 } else { from };
        if to == from {
            continue;
        }
        let price = |us| {
            let used = [UsedItem {
                sku: item.sku.clone(),
                item: item.item,
                used: Used::Time(Duration::from_micros(us)),
            }];
            booking::bill(&config.prices, &config.price_name, &used, at)
        };
        let ((new, _), (old, _)) = (price(to)?, price(from)?);
        for (mut line, old) in new.into_iter().zip(old) {
            line.quantity = to - from;
            line.amount_usd = line.amount_usd.checked_sub(old.amount_usd).unwrap_or_default();
            lines.push(line);
        }
        after.0.insert(key, to);
    }
    if lines.is_empty() {
        return Ok(None);
    }
    let sum = schemas::money::total(lines.iter().map(|l| l.amount_usd)).unwrap_or_default();
    Ok(Some((after, (lines, sum))))
}

/// What a dispatcher is told next.
fn answer<'a>(
    answers: &'a mut HashMap<String, Acceptances>,
    config: &PoolConfig,
    reply: &str,
) -> &'a mut Acceptances {
    // Looked up twice rather than copied: nearly always it is there.
    if !answers.contains_key(reply) {
        let empty = Acceptances {
            pool: config.pool.clone(),
            worker: config.worker.clone(),
            started_us: Micros::default(),
            running: 0,
            open: None,
            accepted: Vec::new(),
            refused: Vec::new(),
            ended: Vec::new(),
        };
        answers.insert(reply.to_owned(), empty);
    }
    answers.get_mut(reply).expect("it was put there if it was missing")
}

async fn send(client: &Client, subject: &str, value: &impl Serialize) {
    let body = serde_json::to_vec(value).expect("our own messages have only string keys");
    if let Err(error) = client.publish_with_headers(subject.to_owned(), HeaderMap::new(), body.into()).await {
        debug!(subject, %error, "not sent");
    }
}

async fn watch_health(
    config: PoolConfig,
    every: Duration,
    tell: tokio::sync::watch::Sender<Option<bool>>,
    stop: CancellationToken,
) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut misses = 0u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let health = tokio::select! {
            () = stop.cancelled() => return,
            health = config.provider.health() => health,
        };
        let up = match health {
            Health::Up => {
                misses = 0;
                true
            }
            Health::Down(failure) => {
                misses += 1;
                if misses == MISSES {
                    warn!(pool = %config.pool, class = %failure.class, message = failure.message, "provider is down");
                }
                misses < MISSES
            }
        };
        tell.send_if_modified(|now| now.replace(up) != Some(up));
    }
}
