//! The task that owns all dispatching state and turns events into calls.
//!
//! Longer than most rooms: it is the one switchboard, an arm per event from start to wind-down, and decides nothing that
//! `pick`, `fair`, `retry`, `credit`, `pool` or `held` could decide; placing and second attempts have rooms of their own below.
//!
//! ```text
//!  pulls ──▶ delivered ──┬─ first time ─────────────────────────┐
//!                        └─ again ─▶ redelivery ─┬─ has result ─┼─▶ ack
//!                                                └─ journal ────┤
//!  returns ─▶ verdict ─┬─ again ────────────────────────────────┤
//!                      └─ end ─▶ ending                         ▼
//!                                               place ─▶ pick ─┬─▶ offer ─▶ accepted: the worker's
//!                                                 ▲            └─▶ parked     │ refused, lapsed
//!                                                 └───────────────────────────┘
//! ```

mod place;
mod race;

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt, stream::SelectAll};
use routing::{
    credit::{self, Want},
    pick::Ask,
    pool::Change,
    retry::{self, Verdict},
    track::Outcome,
};
use schemas::{
    Lane, Micros,
    failure::{Failure, FailureClass},
    handover::{Acceptances, EndedAttempt, Order},
    heartbeat::Heartbeat,
    lease::Lease,
    reply::Status,
    state::{Event, State},
    subjects,
    time::Clock as _,
    topology::{JOURNAL_BUCKET, Topology},
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use transport::{
    Link, LinkError, PublishError, Publisher, SystemClock,
    acks::{Acks, acks},
    api::ApiError,
    bucket::Bucket,
    cancels::{CancelWatch, CancelsError, cancels},
    publisher::{Patience, publisher},
    topology::{self, TopologyError},
};

use crate::{
    banker::Banker,
    config::DispatcherConfig,
    ending::{self, Ending},
    flight::{Flight, lease_margin},
    held::{Held, moved, reattach},
    metrics,
    nats::{self, Delivery, Feed},
    recurring::Recurrer,
    redelivery::{self, Fate},
    runs::{Offer, Run},
    tenants,
    trim::Trimmer,
    why,
};

/// How often open offers, parked jobs and lost pulls are looked at.
const TICK: Duration = Duration::from_millis(20);
/// Events handled before the next look at the other sources.
const BURST: usize = 256;
/// Jobs of one line that may wait here; beyond it we ask for no more of that model. Only jobs that no pool may take, small
/// change from idle pulls, and what fairness looks ahead to ever wait here. As many as the server lets out of one consumer by
/// default, so that a tenant without money does not stop the others any sooner than that.
const WAITING_MAX: usize = 20_000;
/// Jobs of one line looked at ahead of their turn while several tenants compete. A tenant whose jobs lie further behind
/// another's gets there no sooner than the stream does.
const LOOK_AHEAD: usize = 2_000;
/// How often those that wait in vain are looked for, and what should be warm is said.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After a pull found no consumer or no leader.
const PULL_PAUSE: Duration = Duration::from_millis(500);
/// A worker that was silent for so many times the usual limit does not tell how its attempts ended.
const VANISHED_AFTER: u32 = 3;
/// How often we try to make a lost consumer anew.
const REPAIR_EVERY: Duration = Duration::from_secs(3);

/// Why a dispatcher could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The server does not agree with the map.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The server did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
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

/// Why a running dispatcher stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A consumer is gone and must not be made anew without a person.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The connection was closed for good.
    #[error("the NATS connection was closed")]
    Closed,
}

/// A connected dispatcher.
pub struct Dispatcher {
    config: Arc<DispatcherConfig>,
    client: Client,
    control: Client,
    reconnects: tokio::sync::watch::Receiver<u64>,
    publisher: Publisher,
    acks: Acks,
    journals: Bucket,
    cancels: CancelWatch,
    /// Publisher, acks, trimmer; they end after everything else.
    background: JoinSet<()>,
    background_stop: CancellationToken,
    deliveries: Subscriber,
    answers: Subscriber,
    beats: Subscriber,
    returns: SelectAll<Subscriber>,
    questions: SelectAll<Subscriber>,
    banker: Banker,
    swept: Micros,
    state: Held,
}

impl Dispatcher {
    /// Connects, makes the server agree with the map, and subscribes.
    pub async fn connect(config: DispatcherConfig) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let name = format!("dispatcher-{}", config.id);
        let link = Link::connect(&config.link, &name).await?;
        // Acks and lease extensions must not queue behind bulk input.
        let control = Link::connect(&config.link, &format!("{name}-control")).await?;
        topology::ensure(&link.client, &Topology::new(&config.topology)).await?;
        let (publisher, publisher_task) = publisher(&control, Patience::FOREVER).await?;
        let (acks, ack_task) = acks(&control).await?;
        // Before the first pull: a job that was taken back must not start.
        let (cancels, cancel_task) = cancels(&control.client).await?;
        let client = link.client.clone();
        let inbox = client.new_inbox();
        let accept = client.new_inbox();
        let deliveries = client.subscribe(format!("{inbox}.*.*")).await?;
        let answers = client.subscribe(accept.clone()).await?;
        let beats = client.subscribe(subjects::HEARTBEATS).await?;
        let (mut returns, mut questions) = (SelectAll::new(), SelectAll::new());
        for region in &config.regions {
            questions.push(control.client.subscribe(subjects::why(region)).await?);
            let (subject, group) = (subjects::returns(region), subjects::dispatch_group(region));
            returns.push(client.queue_subscribe(subject, group).await?);
        }
        let mut feeds = Vec::new();
        for region in &config.regions {
            for model in config.topology.catalog.tokens() {
                feeds.extend(Lane::ALL.map(|lane| Feed::new(region.clone(), model.clone(), lane)));
            }
        }
        for feed in &mut feeds {
            feed.read_recreated(&client).await?;
        }
        let background_stop = CancellationToken::new();
        let mut background = JoinSet::new();
        background.spawn(publisher_task.run(background_stop.clone()));
        background.spawn(ack_task.run(background_stop.clone(), Duration::from_secs(2)));
        background.spawn(cancel_task.run(background_stop.clone()));
        let trimmer = Trimmer::new(config.clone(), control.client.clone(), publisher.clone());
        background.spawn(trimmer.run(background_stop.clone()));
        let recurrer = Recurrer::new(config.clone(), control.client.clone(), publisher.clone());
        background.spawn(recurrer.run(background_stop.clone()));
        let journals = Bucket::new(control.client.clone(), publisher.clone(), JOURNAL_BUCKET);
        let state = Held::new(&config, inbox, accept, feeds);
        Ok(Self {
            questions,
            banker: Banker::new(control.client.clone()),
            swept: Micros::default(),
            control: control.client,
            reconnects: link.reconnects,
            config,
            client,
            publisher,
            acks,
            journals,
            cancels,
            background,
            background_stop,
            deliveries,
            answers,
            beats,
            returns,
            state,
        })
    }

    /// Dispatches until `shutdown`, then gives back what it holds and settles open offers within the grace period.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        info!(dispatcher = %self.config.id, regions = self.config.regions.len(), "dispatching");
        let outcome = self.dispatch(&shutdown).await;
        self.wind_down().await;
        outcome
    }

    async fn dispatch(&mut self, shutdown: &CancellationToken) -> Result<(), RunError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.reconnects.mark_unchanged();
        loop {
            tokio::select! {
                biased; // Stop, then what frees slots, then what fills them.
                () = shutdown.cancelled() => return Ok(()),
                answer = self.answers.next() => {
                    self.answered(&answer.ok_or(RunError::Closed)?).await;
                    for _ in 0..BURST {
                        let Some(Some(answer)) = self.answers.next().now_or_never() else { break };
                        self.answered(&answer).await;
                    }
                }
                Some(beat) = self.beats.next() => self.heard(&beat),
                Some(back) = self.returns.next() => self.returned(back),
                delivery = self.deliveries.next() => {
                    self.delivered(delivery.ok_or(RunError::Closed)?);
                    for _ in 0..BURST {
                        let Some(Some(delivery)) = self.deliveries.next().now_or_never() else { break };
                        self.delivered(delivery);
                    }
                }
                Some(fates) = self.state.look_ups.join_next() => self.found_out(fates.unwrap_or_default()).await,
                Some(ended) = self.state.endings.join_next() => log_panic(ended),
                Some(ended) = self.state.extensions.join_next() => log_panic(ended),
                Some(repaired) = self.state.repair.join_next() => {
                    if let Ok(Err(error)) = repaired {
                        if matches!(error, TopologyError::Missing { .. } | TopologyError::Floor { .. }) {
                            return Err(error.into());
                        }
                        warn!(%error, "consumers not repaired yet");
                    }
                }
                Some(question) = self.questions.next() => self.explain(question).await,
                Some(told) = self.state.asking.join_next() => match told {
                    Ok(Ok(newest)) => self.state.waiting_behind(newest, SystemClock.now()),
                    Ok(Err(error)) => debug!(%error, "whose jobs wait is not known now"),
                    Err(error) => log_panic(Err(error)),
                },
                Some(heard) = self.banker.next() => {
                    self.state.stirred |= self.banker.tell(&mut self.state.budgets, heard, &SystemClock);
                }
                () = self.cancels.changed() => self.state.stirred = true,
                Ok(()) = self.reconnects.changed() => self.state.feeds.iter_mut().for_each(Feed::forget_all),
                _ = tick.tick() => self.tick().await,
            }
            if self.state.stirred {
                self.state.stirred = false;
                self.place_waiting().await;
            }
            self.pull().await;
        }
    }

    fn delivered(&mut self, message: Message) {
        if let Some(status) = message.status {
            self.pull_ended(&message, status);
            return;
        }
        let now = SystemClock.now();
        match nats::read_delivery(&message, now) {
            Delivery::Alien(error) => warn!(%error, "a message that no pull of ours brought"),
            Delivery::Broken(lease, error) => {
                let Some(index) = self.state.feed_index(&lease) else {
                    return;
                };
                let feed = &mut self.state.feeds[index];
                feed.delivered(&lease);
                warn!(stream = lease.stream(), seq = lease.stream_seq, %error, "not a job");
                let failure = Failure::new(FailureClass::Undecodable, error.to_string());
                let (region, model) = (feed.region.clone(), feed.model.clone());
                let ending = Ending::broken(message, lease, failure, region, model);
                self.conclude(ending);
            }
            Delivery::Job(parts) => {
                let (job, lease) = *parts;
                let Some(index) = self.state.feed_index(&lease) else {
                    return;
                };
                let feed = &mut self.state.feeds[index];
                feed.delivered(&lease);
                let seq = lease.stream_seq;
                let before = lease.delivered - 1;
                metrics::delivered(before > 0);
                if before == 0 && seq <= feed.seen {
                    // A single server that was killed forgets what it delivered in its last moments. Whoever holds
                    // the job's first lease still does: acks name the message, not the delivery. If nobody does, it
                    // comes again after `ack_wait`, as number 2.
                    metrics::forgotten_delivery();
                    debug!(job = %job.id, seq, "delivered before and forgotten by the server; left to its holder");
                    return;
                }
                feed.seen = feed.seen.max(seq);
                let remade = seq <= feed.recreated_at;
                let attempts = u16::try_from(before).unwrap_or(u16::MAX);
                let headers = message.headers.unwrap_or_default();
                let flight = Flight::new(
                    job,
                    headers,
                    message.payload,
                    lease,
                    now,
                    schemas::journal::Journal::default(),
                    attempts,
                );
                if before > 0 || remade {
                    self.state.suspects.add(flight);
                } else {
                    self.wait(flight, now);
                }
            }
        }
    }

    /// A pull has ended, or says that it is alive.
    fn pull_ended(&mut self, message: &Message, status: StatusCode) {
        let mut parts = message.subject.as_str().rsplit('.');
        let number = parts.next().and_then(|n| n.parse::<u64>().ok());
        let index = parts.next().and_then(|n| n.parse::<usize>().ok());
        let (Some(number), Some(feed)) = (number, index.and_then(|i| self.state.feeds.get_mut(i))) else {
            return;
        };
        if status == StatusCode::IDLE_HEARTBEAT {
            return;
        }
        feed.ended(number);
        match status {
            StatusCode::NOT_FOUND | StatusCode::TIMEOUT => feed.backlog = 0,
            _ => {
                let what = message.description.as_deref().unwrap_or("no responders");
                debug!(consumer = feed.consumer, stream = feed.stream, %status, what, "pull ended");
                feed.paused = Some(Instant::now() + PULL_PAUSE);
                let gone = status == StatusCode::NO_RESPONDERS || what.contains("Consumer Deleted");
                if gone && self.state.repair_at.is_none() {
                    self.state.repair_at = Some(Instant::now());
                }
            }
        }
    }

    /// Puts a job in its line; it is looked at once what came with it is there, too.
    fn wait(&mut self, flight: Flight, now: Micros) {
        self.state.waiting.push(flight, now);
        self.state.stirred = true;
    }

    /// Workers say what they took and what they refused.
    async fn answered(&mut self, message: &Message) {
        let news: Acceptances = match serde_json::from_slice(&message.payload) {
            Ok(news) => news,
            Err(error) => {
                warn!(%error, "acceptances do not read");
                return;
            }
        };
        let (state, now) = (&mut self.state, SystemClock.now());
        state.pools.load(&news, now);
        metrics::accepted(news.accepted.len());
        metrics::refused(news.refused.len());
        for number in &news.accepted {
            if let Some(mut offer) = state.offered.remove(number) {
                state.pools.answered(&news.pool, &offer.flight.job.subject.model, true);
                // From here on the lease is the worker's.
                offer.flight.state = moved(offer.flight.state, Event::Accepted { offer: *number });
                state.runs.begin(*number, offer, news.worker.clone(), now);
            }
        }
        for ended in &news.ended {
            self.ended(*ended, now).await;
        }
        for (offer, because) in &news.refused {
            let Some(open) = self.state.offered.remove(offer) else {
                continue;
            };
            let Offer { mut flight, hedge_of, .. } = self.state.untaken(open, now);
            if let Some(first) = hedge_of {
                self.left_alone(first).await;
                continue;
            }
            flight.state = moved(flight.state, Event::Refused { offer: *offer });
            match because {
                schemas::handover::RefusedBecause::Running => {
                    debug!(job = %flight.job.id, "runs there already under an older delivery; left to it");
                }
                schemas::handover::RefusedBecause::Busy
                | schemas::handover::RefusedBecause::Draining
                | schemas::handover::RefusedBecause::Model => {
                    flight.avoid.push(news.pool.clone());
                    self.wait(flight, now);
                }
            }
        }
        self.state.stirred = true;
    }

    /// An attempt that we had offered has ended.
    async fn ended(&mut self, news: EndedAttempt, now: Micros) {
        let Some(mut run) = self.state.runs.end(news.offer) else { return };
        if run.hedge {
            self.state.hedges.settled(run.reserve, news.cost_usd);
        }
        self.state.settle(&mut run, Some(news.cost_usd), now);
        self.learn(&run, news, now);
        match (run.twin, news.failed) {
            (Some(twin), _) => self.race_decided(&mut run, twin, news).await,
            (None, Some(class)) if news.kept => self.take_up(run, class, news.cost_usd, now).await,
            (None, _) => {}
        }
    }

    /// What there is to learn from an attempt that has ended.
    fn learn(&mut self, run: &Run, news: EndedAttempt, now: Micros) {
        let outcome = Outcome {
            failed: news.failed,
            service: Duration::from_micros(news.service_us),
            cold: Duration::from_micros(news.cold_us),
            retry_after: news.retry_after_us.map(Duration::from_micros),
        };
        let (pool, model, state) = (&run.pool, &run.subject.model, &mut self.state);
        match state.pools.ended(pool, model, &outcome, run.bin, &self.config.breaker, now, &mut state.rng) {
            Change::None => {}
            Change::Opened => {
                metrics::breaker_opened();
                let class = news.failed.map_or("", FailureClass::as_str);
                warn!(%pool, %model, class, "breaker opened");
            }
            Change::Closed => info!(%pool, %model, "breaker closed"),
            Change::Suspect => {
                metrics::suspected();
                warn!(%pool, %model, "much slower than it was and than others; it is only tried from now on");
            }
        }
    }

    fn heard(&mut self, message: &Message) {
        match serde_json::from_slice::<Heartbeat>(&message.payload) {
            Ok(beat) => {
                let pool = beat.pool.clone();
                if self.state.pools.heartbeat(beat, SystemClock.now()) {
                    metrics::suspected();
                    warn!(%pool, "jobs there run far longer than usual; it is only tried from now on");
                }
                self.state.stirred = true;
            }
            Err(error) => warn!(subject = message.subject.as_str(), %error, "heartbeat does not read"),
        }
    }

    /// A worker gives a job back after a failed attempt.
    fn returned(&mut self, message: Message) {
        let now = SystemClock.now();
        let (back, job) = match nats::read_return(&message, now) {
            Ok(parts) => parts,
            Err(error) => {
                error!(%error, "a returned job does not read; it comes again after ack_wait");
                return;
            }
        };
        metrics::returned(back.failure.class);
        let state = &mut self.state;
        debug!(job = %job.id, attempt = back.attempt, pool = %back.pool, class = %back.failure.class, "job came back");
        let larger = back.journal.entries.last().and_then(|e| state.size_of(&e.pool, &job));
        let headers = nats::own_headers(message.headers);
        let mut flight = Flight::new(
            job,
            headers,
            message.payload,
            back.lease,
            back.leased_us,
            back.journal,
            back.attempt,
        );
        flight.decision = back.decision;
        self.judge(flight, &back.failure, larger, now);
    }

    /// Ends a job whose attempt failed, or goes on with it. `size` is that of the SKU it failed on, where that is known.
    fn judge(&mut self, mut flight: Flight, failure: &Failure, size: Option<u16>, now: Micros) {
        match retry::verdict(&flight.job, &flight.journal, failure, now) {
            Verdict::End(status, failure) => self.end(flight, status, failure),
            Verdict::Again { larger } => {
                flight.larger_than = size.filter(|_| larger);
                self.wait(flight, now);
            }
        }
    }

    /// Somebody asks why a job waits.
    async fn explain(&mut self, message: Message) {
        let Some(reply) = message.reply else { return };
        let ask = match serde_json::from_slice(&message.payload) {
            Ok(ask) => ask,
            Err(error) => {
                warn!(%error, "a question does not read");
                return;
            }
        };
        let (policy, now) = (&self.config.policy, SystemClock.now());
        let answer = why::answer(&mut self.state, &self.config.id, &ask, policy, now);
        let body = serde_json::to_vec(&answer).expect("an answer has only string keys and no failing parts");
        if let Err(error) = self.control.publish(reply, body.into()).await {
            debug!(%error, "question not answered");
        }
    }

    async fn found_out(&mut self, fates: Vec<Fate>) {
        for fate in fates {
            match fate {
                Fate::Unknown => {}
                Fate::Done(flight) => {
                    metrics::found_done();
                    info!(job = %flight.job.id, "delivered again, but it has a result; finished");
                    self.acks.ack(flight.lease).await;
                }
                Fate::Again(flight) => self.resume(*flight),
            }
        }
    }

    /// Goes on with a job that has no result, redelivered or offered in vain.
    fn resume(&mut self, mut flight: Flight) {
        let delivered = flight.lease.delivered;
        if delivered > self.config.offers.poison_after {
            let text = format!("delivered {delivered} times without an outcome");
            self.end(flight, Status::Failed, Failure::new(FailureClass::Poison, text));
            return;
        }
        info!(job = %flight.job.id, delivered, attempts = flight.journal.entries.len(), "looked up, going on");
        let attempts = flight.journal.last_attempt().max(flight.attempts());
        flight.state = State::Waiting { attempts };
        if flight.journal.unfinished().is_some() {
            // Whoever did not answer is the one to ask what became of its run.
            flight.avoid.clear();
        } else if flight.journal.counted() >= flight.job.max_attempts
            && let Some(failure) = flight.journal.last_failure().cloned()
        {
            self.end(flight, Status::Failed, failure);
            return;
        }
        self.wait(flight, SystemClock.now());
    }

    /// Ends a job that waited, with what kept it from each pool.
    fn end_waiting(&mut self, mut flight: Flight, status: Status, failure: Failure, now: Micros) {
        let state = &mut self.state;
        let ask = Ask::of(&flight.job, &flight.journal);
        flight.decision = Some(state.picker.explain(state.pools.as_slice(), ask, now, &mut state.rng));
        self.end(flight, status, failure);
    }

    fn end(&mut self, flight: Flight, status: Status, failure: Failure) {
        info!(job = %flight.job.id, status = status.as_str(), class = %failure.class, "job ended without a worker");
        self.conclude(Ending::of(flight, status, failure));
    }

    fn conclude(&mut self, ending: Ending) {
        let (client, publisher, acks) = (self.control.clone(), self.publisher.clone(), self.acks.clone());
        self.state.endings.spawn(ending.publish(client, publisher, acks));
    }

    async fn tick(&mut self) {
        let (now, instant) = (SystemClock.now(), Instant::now());
        let state = &mut self.state;
        for feed in &mut state.feeds {
            feed.forget_lost(instant);
        }
        state.pools.forget_silent(now);
        let mut alone = state.lapse(self.config.offers.margin, now);
        alone.extend(state.forget_vanished(self.config.policy.silent_after * VANISHED_AFTER, now));
        for number in alone {
            self.left_alone(number).await;
        }
        self.hedge(now).await;
        let state = &mut self.state;
        let lost = state.keep_leases(&self.control, self.config.topology.ack_wait, now);
        for _ in 0..lost {
            metrics::lease_lost();
        }
        if state.look_ups.len() < 8 {
            for (tenant, mailbox, flights) in state.suspects.take() {
                let look_up = redelivery::look_up(
                    self.control.clone(),
                    self.journals.clone(),
                    tenant,
                    mailbox,
                    flights,
                );
                state.look_ups.spawn(look_up);
            }
        }
        if state.repair.is_empty() && state.repair_at.is_some_and(|at| at <= instant) {
            state.repair_at = state.feeds.iter().any(|f| f.paused.is_some()).then(|| instant + REPAIR_EVERY);
            let (client, map) = (self.control.clone(), Topology::new(&self.config.topology));
            state.repair.spawn(async move { topology::ensure(&client, &map).await });
        }
        metrics::holding(state.waiting.len(), state.offered.len(), state.suspects.len());
        state.stirred |= !state.waiting.is_empty();
        for draw in state.budgets.draws(now) {
            self.banker.ask(draw);
        }
        if now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.sweep(now).await;
        }
    }

    /// What need not be looked at with each job: those that wait in vain, and what should be warm.
    async fn sweep(&mut self, now: Micros) {
        let cancels = &self.cancels;
        let over = |flight: &Flight| {
            retry::expired(&flight.job, now).is_some()
                || cancels.of(&flight.job, flight.lease.stored_at).is_some()
        };
        for flight in self.state.waiting.remove_if(over) {
            if let Some(Verdict::End(status, failure)) = retry::expired(&flight.job, now) {
                self.end_waiting(flight, status, failure, now);
            } else if reattach(&self.state.pools, &flight, &self.config, now).is_some() {
                self.wait(flight, now);
            } else if let Some(order) = self.cancels.of(&flight.job, flight.lease.stored_at) {
                let failure = order.failure();
                self.end_waiting(flight, Status::Cancelled, failure, now);
            }
        }
        self.state.report(&self.config.regions, now);
        // While nothing waits in the streams, everybody's jobs are seen as they come.
        if self.state.asking.is_empty() {
            let mut regions: Vec<_> =
                self.state.feeds.iter().filter(|f| f.backlog > 0).map(|f| f.region.clone()).collect();
            regions.dedup();
            for region in regions {
                self.state.asking.spawn(tenants::newest(self.control.clone(), region));
            }
        }
        let plan = self.state.warmth.plan(self.state.pools.as_slice(), &self.config.policy, now);
        for wanted in plan {
            let pool = self.state.pools.iter().find(|pool| pool.id == wanted.pool);
            // Workers of a pool share their provider: one of them is enough.
            let Some(worker) = pool.and_then(|pool| pool.workers().next().cloned()) else { continue };
            debug!(pool = %wanted.pool, model = %wanted.model, containers = wanted.containers, "wanted warm");
            let order = Order::Warm {
                from: self.config.id.clone(),
                model: wanted.model,
                containers: wanted.containers,
            };
            nats::order(&self.control, &wanted.pool, &worker, &order).await;
        }
    }

    /// Asks for as many jobs as can be placed.
    async fn pull(&mut self) {
        let now = SystemClock.now();
        let instant = Instant::now();
        let Held { feeds, pools, next, inbox, waiting, .. } = &mut self.state;
        let (policy, breaker) = (&self.config.policy, &self.config.breaker);
        let (mut wants, mut asks) = (Vec::new(), Vec::new());
        let mut start = 0;
        // Feeds of one (region, model) stand together, one per lane.
        while start < feeds.len() {
            let end = start + Lane::ALL.len();
            let group = &mut feeds[start..end];
            let (region, model) = (&group[0].region, &group[0].model);
            let room = pools.free_slots(region, model, policy.silent_after, breaker, now);
            let line = waiting.group(region, model);
            let room = if line.line.len() >= WAITING_MAX { 0 } else { room };
            // While several tenants compete, the next in the stream is not the next in fairness.
            let backlog = group.iter().any(|f| f.backlog > 0);
            let beyond = match (line.contested(now), backlog) {
                (true, true) => LOOK_AHEAD.saturating_sub(line.line.len()),
                // Small change, so that whoever comes is seen while all slots are taken.
                (true, false) => credit::IDLE_PULL as usize,
                (false, _) => 0,
            };
            let room = room.saturating_add(u32::try_from(beyond).unwrap_or(0));
            wants.clear();
            wants.extend(group.iter().map(|f| Want {
                lane: f.lane,
                outstanding: f.outstanding(),
                backlog: f.backlog,
            }));
            credit::plan(room, self.config.offers.pull_batch, &wants, &mut asks);
            for (offset, batch) in asks.iter().enumerate().filter(|(_, batch)| **batch > 0) {
                let feed = &mut group[offset];
                if feed.paused.is_some_and(|at| at > instant) {
                    continue;
                }
                feed.paused = None;
                *next += 1;
                let reply = format!("{inbox}.{}.{next}", start + offset);
                feed.pull(&self.client, *next, *batch, reply).await;
            }
            start = end;
        }
    }

    /// Takes no more, gives back what is parked, waits for open offers, publishes what has ended.
    async fn wind_down(&mut self) {
        let deadline = Instant::now() + self.config.grace;
        if let Err(error) = self.deliveries.drain().await {
            debug!(%error, "deliveries not drained");
        }
        let margin = lease_margin(self.config.topology.ack_wait);
        let mut given_back = 0usize;
        // What the server sent before it heard that we stop.
        while let Ok(Some(message)) =
            tokio::time::timeout(Duration::from_millis(200), self.deliveries.next()).await
        {
            if let Some(Ok(lease)) = message.reply.as_ref().map(|r| r.as_str().parse::<Lease>()) {
                ending::give_back(&self.control, &lease).await;
                given_back += 1;
            }
        }
        let suspects = self.state.suspects.take().into_iter().flat_map(|(_, _, flights)| flights);
        for flight in self.state.waiting.remove_if(|_| true).into_iter().chain(suspects) {
            if flight.age(SystemClock.now()) + margin < self.config.topology.ack_wait {
                ending::give_back(&self.control, &flight.lease).await;
                given_back += 1;
            }
        }
        while !self.state.offered.is_empty() && Instant::now() < deadline {
            match tokio::time::timeout(TICK, self.answers.next()).await {
                Ok(Some(answer)) => self.answered(&answer).await,
                Ok(None) => break,
                Err(_) => {
                    for number in self.state.lapse(self.config.offers.margin, SystemClock.now()) {
                        self.left_alone(number).await;
                    }
                }
            }
            let suspects = self.state.suspects.take().into_iter().flat_map(|(_, _, flights)| flights);
            for flight in self.state.waiting.remove_if(|_| true).into_iter().chain(suspects) {
                ending::give_back(&self.control, &flight.lease).await;
                given_back += 1;
            }
        }
        let settle = async {
            while self.state.look_ups.join_next().await.is_some() {}
            while self.state.endings.join_next().await.is_some() {}
        };
        if tokio::time::timeout_at(deadline, settle).await.is_err() {
            warn!("grace period over; what has not ended is delivered again");
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        self.banker.close(&mut self.state.budgets, &SystemClock, left).await;
        self.background_stop.cancel();
        while self.background.join_next().await.is_some() {}
        for client in [&self.client, &self.control] {
            if let Err(error) = client.flush().await {
                debug!(%error, "connection not flushed");
            }
        }
        info!(given_back, "dispatcher stopped");
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a task of the dispatcher panicked");
    }
}
