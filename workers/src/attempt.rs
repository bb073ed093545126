//! One attempt: calls the provider while the lease is kept, and publishes what came of it.
//!
//! ```text
//!  offer ─▶ journal? ─▶ provider ─┬─ output ─▶ cost, result ─▶ stored ─▶ ack
//!             (keeper extends)    ├─ failure ▶ cost, journal ▶ stored ─▶ give back
//!                                 └─ lease lost ▶ stop; touch nothing
//! ```

pub mod course;
mod settled;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, Message};
use schemas::{
    AttemptKey, Micros, UsdNanos,
    cost::{CostEvent, CostLine, Purpose},
    failure::{Failure, FailureClass},
    handover::{Handover, Return},
    job::{Input, Job, JobInput},
    journal::{Entry, Journal, Trace},
    reply::{JobResult, LogPlace, Status, Timings},
    time::{Clock as _, micros},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use transport::{
    PublishError, Publisher, SystemClock,
    acks::Acks,
    bucket::Bucket,
    cancels::CancelWatch,
    payloads::{self, PayloadError},
    replies::Outgoing,
};

use crate::{
    booking::{self, Booker},
    config::{JournalMode, PoolConfig, PoolModel},
    keeper::Keeper,
    metrics::{self, PoolMetrics},
    nats,
    notebook::Notebook,
    provider::{Call, Ended, Progress as _, Success, Trail, UsedItem},
};

pub use self::settled::Settled;

/// What every attempt of a pool needs.
pub struct Bench {
    /// The pool's settings.
    pub config: PoolConfig,
    /// For core messages.
    pub client: Client,
    /// For leases; not behind bulk input.
    pub control: Client,
    /// For results, costs, journals.
    pub publisher: Publisher,
    /// For finishing leases.
    pub acks: Acks,
    /// What earlier attempts left behind.
    pub journals: Bucket,
    /// What was taken back.
    pub cancels: CancelWatch,
    /// The pool's own numbers.
    pub metrics: PoolMetrics,
    /// Cancelled when the grace period is over: running calls are dropped and given back.
    pub stop: CancellationToken,
}

/// What a dispatcher asks of an attempt while it runs.
#[derive(Debug, Default)]
pub struct Control {
    stop: CancellationToken,
    hedged: AtomicBool,
    others: Mutex<Vec<Entry>>,
}

impl Control {
    /// Another attempt of the job runs beside this one.
    pub fn hedged(&self) {
        self.hedged.store(true, Ordering::Release);
    }

    /// There is no other any more; what a failed one left.
    pub fn alone(&self, entry: Option<Entry>) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).extend(entry);
        self.hedged.store(false, Ordering::Release);
    }

    /// The other was first.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn is_hedged(&self) -> bool {
        self.hedged.load(Ordering::Acquire)
    }

    fn others(&self) -> Vec<Entry> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How long looking for a run of an earlier worker may take.
const FIND_MAX: Duration = Duration::from_secs(30);

/// An accepted offer.
pub struct Attempt {
    bench: Arc<Bench>,
    handover: Handover,
    message: Message,
    model: PoolModel,
    keeper: Arc<Keeper>,
    control: Arc<Control>,
    received: Micros,
    key: Option<AttemptKey>,
}

impl Attempt {
    /// Takes an offer on.
    pub fn new(
        bench: Arc<Bench>,
        handover: Handover,
        message: Message,
        model: PoolModel,
        received: Micros,
    ) -> Self {
        let ack_wait = bench.config.ack_wait;
        let keeper = Keeper::new(
            bench.control.clone(),
            handover.lease.clone(),
            ack_wait,
            handover.leased_us,
            received,
        );
        let control = Arc::new(Control::default());
        control.hedged.store(handover.hedge, Ordering::Release);
        let here = |e: &&Entry| e.pool == bench.config.pool && e.attempt == handover.attempt;
        let left = handover.journal.unfinished().filter(here).and_then(|entry| entry.key);
        let offered = message.reply.as_ref().map(|reply| AttemptKey::of(reply.as_str(), handover.offer));
        let key = left.or(offered);
        Self { bench, handover, message, model, keeper: Arc::new(keeper), control, received, key }
    }

    /// What its dispatcher may ask of it.
    pub fn control(&self) -> Arc<Control> {
        self.control.clone()
    }

    /// Its lease, to be extended while it runs.
    pub fn keeper(&self) -> Arc<Keeper> {
        self.keeper.clone()
    }

    /// Runs to its end.
    ///
    /// A short job is mostly overhead, so this future is kept small: what is rarely awaited is boxed, and what can
    /// be done without waiting is done by plain functions.
    pub async fn run(mut self: Box<Self>) -> Settled {
        let now = SystemClock.now();
        let job = match nats::read_job(&self.handover, &self.message, now) {
            Ok(job) => Box::new(job),
            Err(error) => {
                // The dispatcher read it; then it is a worker of an older version.
                error!(%error, "an offered job does not read");
                return Settled::NOTHING;
            }
        };
        if !self.handover.hedge && self.handover.journal.abandoned(self.key).next().is_some() {
            Box::pin(self.book_abandoned(&job)).await;
        }
        if self.bench.config.journal == JournalMode::Always && self.left().is_none() && !self.handover.hedge {
            let expected = self.expected(&job);
            Box::pin(self.write_journal(&job, now, Trace::Started { expected })).await;
        }
        // Once more, right before it costs money: the dispatcher may have given it to another by now.
        let started = SystemClock.now();
        if started > self.handover.accept_by_us || !self.keeper.is_ours() {
            metrics::lease_lost();
            return Settled::NOTHING;
        }
        if self.left().is_none()
            && let Some(order) = self.bench.cancels.of(&job, self.handover.lease.stored_at)
        {
            Box::pin(self.end_cancelled(&job, &Ended::unbilled(order.failure()), order.failure(), started))
                .await;
            return Settled::NOTHING;
        }
        let input = match &job.input {
            JobInput::Here(input) => input.clone(),
            JobInput::Stored(stored) => match Box::pin(payloads::get(&self.bench.client, stored)).await {
                Ok(input) => input,
                Err(error) => {
                    let failure = unfetched(&error);
                    Box::pin(self.fail(&job, &failure, &Ended::unbilled(failure.clone()), started)).await;
                    return Settled::NOTHING;
                }
            },
        };
        let clock = Instant::now();
        let Some(ended) = self.call_provider(&job, input, started, clock).await else {
            return Settled::NOTHING;
        };
        let took = clock.elapsed();
        let mut settled = Settled {
            failed: ended.outcome.as_ref().err().map(|failure| failure.class),
            retry_after_us: ended.outcome.as_ref().err().and_then(|failure| failure.retry_after_us),
            service: took.saturating_sub(ended.cold_start),
            cold: ended.cold_start,
            cost: UsdNanos::ZERO,
            kept: false,
        };
        if self.control.stop.is_cancelled() {
            settled.cost = Box::pin(self.lose(&job, &ended, started)).await;
            return settled;
        }
        match &ended.outcome {
            Ok(success) => {
                self.bench.metrics.succeeded(took.as_secs_f64());
                let (cost, amount, result) = self.success(&job, success, &ended, started, took);
                settled.cost = amount;
                drop(ended);
                self.tell(&job, cost, result).await;
            }
            Err(failure) if failure.class == FailureClass::Cancelled => {
                settled.cost = Box::pin(self.end_cancelled(&job, &ended, failure.clone(), started)).await;
            }
            Err(failure) => {
                self.bench.metrics.failed(failure.class);
                (settled.cost, settled.kept) = Box::pin(self.fail(&job, failure, &ended, started)).await;
            }
        }
        settled
    }

    /// Calls the provider. `None` when the call was dropped and its run goes on: the journal leads to it, so whoever
    /// holds the job next goes on with it, and nothing is booked twice.
    async fn call_provider(
        &self,
        job: &Job,
        input: Input,
        started: Micros,
        clock: Instant,
    ) -> Option<Box<Ended>> {
        let call = Box::new(self.call(job, input));
        let left = self.left();
        let since = left.map_or(started, |entry| entry.started_us);
        let journalled = left.is_some() || self.bench.config.journal == JournalMode::Always;
        let notebook = Notebook::new(self, job, since, journalled, left.is_some());
        let mut running = Box::pin(self.provider(&call, &notebook));
        let mut heard = false;
        let (class, why) = loop {
            tokio::select! {
                biased;
                ended = &mut running => {
                    notebook.close();
                    return Some(Box::new(ended));
                }
                () = self.keeper.lost() => break (FailureClass::WorkerLost, "the lease was lost"),
                () = self.bench.stop.cancelled() => {
                    break (FailureClass::Preempted, "the worker stopped before the job ended")
                }
                failure = self.taken_back(job), if !heard => {
                    if !notebook.has_trail() {
                        return Some(Box::new(self.dropped(failure, clock.elapsed())));
                    }
                    // A run that goes on without us: whoever follows it hears of this too, and stops it.
                    heard = true;
                }
            }
        };
        if notebook.has_trail() {
            info!(job = %job.id, why, "its run is left going at the provider; the next holder of the job goes on with it");
            return None;
        }
        Some(Box::new(self.dropped(Failure::new(class, why), clock.elapsed())))
    }

    async fn provider(&self, call: &Call, notebook: &Notebook<'_>) -> Ended {
        match self.left() {
            Some(entry) => Box::pin(self.go_on(call, entry, notebook)).await,
            None => self.bench.config.provider.run(call, notebook).await,
        }
    }

    /// What an earlier worker left of this very attempt.
    fn left(&self) -> Option<&Entry> {
        let here = |e: &&Entry| e.pool == self.bench.config.pool && e.attempt == self.handover.attempt;
        self.handover.journal.unfinished().filter(here)
    }

    /// Goes on where an earlier worker was lost.
    async fn go_on(&self, call: &Call, entry: &Entry, notebook: &Notebook<'_>) -> Ended {
        let provider = &self.bench.config.provider;
        let age = SystemClock.now().since(entry.started_us);
        let run = match &entry.trace {
            Trace::Running { run, .. } => run.clone(),
            Trace::Started { .. } | Trace::Failed { .. } => {
                match timeout(FIND_MAX, provider.find(call, age)).await.unwrap_or(Trail::Lost) {
                    Trail::Run(run) => {
                        info!(job = %call.job, run, "found the run that an earlier worker had started");
                        notebook.started(&run).await;
                        run
                    }
                    Trail::Clean => return provider.run(call, notebook).await,
                    Trail::Lost => {
                        return self.possibly_wasted(call, "nobody can tell what became of the call");
                    }
                }
            }
        };
        debug!(job = %call.job, run, ?age, "going on with a run of an earlier attempt");
        match provider.reattach(call, &run, age, notebook).await {
            Some(ended) => ended,
            None => self.possibly_wasted(call, "its run is unknown to the provider by now"),
        }
    }

    /// The worker was lost, and so is what its call gave; that may have been billed.
    fn possibly_wasted(&self, call: &Call, why: &str) -> Ended {
        warn!(job = %call.job, attempt = call.attempt, why, "a call of a lost worker is booked as possibly wasted");
        metrics::possibly_wasted();
        let failure = Failure::new(FailureClass::WorkerLost, format!("the worker was lost: {why}"));
        Ended { used: self.expected_use(), estimated: true, ..Ended::unbilled(failure) }
    }

    /// Books attempts of which nobody will hear again, as this one begins anew.
    async fn book_abandoned(&mut self, job: &Job) {
        let now = SystemClock.now();
        let config = &self.bench.config;
        let mut journal = self.handover.journal.clone();
        for entry in self.handover.journal.abandoned(self.key) {
            warn!(job = %job.id, attempt = entry.attempt, pool = %entry.pool, "an attempt nobody heard of again is booked as possibly wasted");
            metrics::possibly_wasted();
            let event = CostEvent::abandoned(job, entry, config.prices.version.clone(), now);
            let cost_usd = event.amount_usd;
            if !event.lines.is_empty() {
                self.bench.metrics.booked(Purpose::WastedFailure, cost_usd);
                if let Err(error) = self.store(nats::cost(job, &event)).await {
                    error!(job = %job.id, %error, "cost event not stored");
                    continue;
                }
            }
            let failure = Failure::new(FailureClass::WorkerLost, "nobody heard of this attempt again");
            journal.record(Entry { trace: Trace::Failed { failure, cost_usd }, ..entry.clone() });
        }
        self.handover.journal = journal;
    }

    /// Returns when the job is taken back, or another attempt of it was first, with the reason.
    pub(crate) async fn taken_back(&self, job: &Job) -> Failure {
        tokio::select! {
            order = self.bench.cancels.taken_back(job, self.handover.lease.stored_at) => order.failure(),
            () = self.control.stop.cancelled() => {
                Failure::new(FailureClass::Cancelled, "another attempt was first")
            }
        }
    }

    /// What this attempt is expected to use.
    fn expected_use(&self) -> Vec<UsedItem> {
        let config = &self.bench.config;
        booking::expect(
            &config.prices,
            &config.price_name,
            &self.model.sku,
            self.model.expected,
            SystemClock.now(),
        )
    }

    /// What this attempt is expected to cost, for the journal.
    pub(crate) fn expected(&self, job: &Job) -> Vec<CostLine> {
        let config = &self.bench.config;
        booking::bill(&config.prices, &config.price_name, &self.expected_use(), SystemClock.now())
            .map_or_else(
                |error| {
                    error!(job = %job.id, %error, "what the attempt may cost is unknown");
                    Vec::new()
                },
                |(lines, _)| lines,
            )
    }

    /// The connection for core messages.
    pub(crate) fn client(&self) -> &Client {
        &self.bench.client
    }

    /// Which attempt it is, from 1.
    pub(crate) fn number(&self) -> u16 {
        self.handover.attempt
    }

    fn call(&self, job: &Job, input: Input) -> Call {
        Call {
            job: job.id,
            attempt: self.handover.attempt,
            model: self.model.served_as.clone(),
            sku: self.model.sku.clone(),
            input,
            params: job.params.clone(),
            timeout: self.bench.config.call_timeout,
            traceparent: job.traceparent.clone(),
            live: job.live,
        }
    }

    /// A call that we dropped; what it used is our own reckoning.
    fn dropped(&self, failure: Failure, took: Duration) -> Ended {
        let config = &self.bench.config;
        let used = booking::reckon(
            &config.prices,
            &config.price_name,
            &self.model.sku,
            took,
            SystemClock.now() - took,
        );
        Ended { used, estimated: true, ..Ended::unbilled(failure) }
    }

    /// The cost event as it is published, its amount, and the result.
    fn success(
        &self,
        job: &Job,
        success: &Success,
        ended: &Ended,
        started: Micros,
        took: Duration,
    ) -> (Outgoing, UsdNanos, Box<JobResult>) {
        let amount = self.bill(ended, started);
        let (now, sum) = (SystemClock.now(), amount.1);
        let mut result = self.result(job, Status::Succeeded, started, took, sum, now);
        result.output = Some(success.output.clone());
        result.usage = Some(success.usage);
        result.timings.cold_start_us = micros(ended.cold_start);
        result.timings.first_token_us = micros(ended.first_token);
        (self.cost(job, Purpose::Useful, amount, ended.estimated, now), sum, result)
    }

    /// A terminal result of this attempt, without what only some have.
    fn result(
        &self,
        job: &Job,
        status: Status,
        started: Micros,
        took: Duration,
        amount: UsdNanos,
        now: Micros,
    ) -> Box<JobResult> {
        let spent = self.journal().spent();
        let stored = self.handover.lease.stored_at;
        Box::new(JobResult {
            job: job.id,
            status,
            output: None,
            output_ref: None,
            usage: None,
            error: None,
            model: Some(job.subject.model.clone()),
            lane: Some(job.subject.lane),
            provider: Some(self.bench.config.pool.provider.clone()),
            region: Some(self.bench.config.pool.region.clone()),
            attempts: self.handover.attempt,
            attempt_key: self.key,
            bill: None,
            log: Some(LogPlace {
                stream: self.handover.lease.stream().to_owned(),
                seq: self.handover.lease.stream_seq,
            }),
            timings: Timings {
                queued_us: micros(self.received.since(stored)),
                handover_us: micros(started.since(self.received)),
                provider_us: micros(took),
                total_us: micros(now.since(stored)),
                ..Timings::default()
            },
            cost_usd: spent.checked_add(amount).unwrap_or(spent),
            labels: job.labels.clone(),
            replay_of: job.replay_of,
            decision: self.handover.decision.clone(),
            finished_us: now,
        })
    }

    /// What earlier attempts left behind, and one that ran beside this.
    fn journal(&self) -> Journal {
        let mut journal = self.handover.journal.clone();
        self.control.others().into_iter().for_each(|entry| journal.record(entry));
        journal
    }

    /// Stores cost and result, then finishes the lease.
    async fn tell(&self, job: &Job, cost: Outgoing, result: Box<JobResult>) {
        let reply = nats::result(job, &result);
        // The cost goes first on the wire: whoever sees the result finds the cost stored.
        let (cost, told) = tokio::join!(self.store(cost), self.store(reply));
        if let Err(error) = cost {
            error!(job = %job.id, %error, "cost event not stored");
        }
        let told = match told {
            Err(error) if !matches!(error, PublishError::Full { .. } | PublishError::Unknown(_)) => {
                // The output is too large, most likely. The job must end all the same, and say why.
                warn!(job = %job.id, %error, "result not stored, telling so instead");
                Box::pin(self.store(nats::result(job, &without_output(*result, &error)))).await
            }
            told => told,
        };
        match told {
            Ok(()) => self.finish(job).await,
            Err(error) => error!(job = %job.id, %error, "result not stored; the job comes again"),
        }
    }

    /// The result is stored: the lease is finished, and nobody needs a stored input any more.
    async fn finish(&self, job: &Job) {
        self.bench.acks.ack(self.handover.lease.clone()).await;
        if let JobInput::Stored(stored) = &job.input
            && let Err(error) = Box::pin(payloads::remove(&self.bench.client, stored)).await
        {
            warn!(job = %job.id, %error, "a stored input is left to the server, which removes it in time");
        }
    }

    /// Books what an attempt cost that was not the first of two. The job is the other's.
    async fn lose(&self, job: &Job, ended: &Ended, started: Micros) -> UsdNanos {
        let amount = self.bill(ended, started);
        let sum = amount.1;
        debug!(job = %job.id, attempt = self.handover.attempt, "another attempt was first");
        if !ended.used.is_empty()
            && let Err(error) = self
                .store(self.cost(job, Purpose::WastedRace, amount, ended.estimated, SystemClock.now()))
                .await
        {
            error!(job = %job.id, %error, "cost event not stored");
        }
        sum
    }

    /// Tells that the job was taken back, and what it cost until then.
    async fn end_cancelled(&self, job: &Job, ended: &Ended, failure: Failure, started: Micros) -> UsdNanos {
        let now = SystemClock.now();
        let amount = self.bill(ended, started);
        let sum = amount.1;
        let mut result = self.result(job, Status::Cancelled, started, now.since(started), amount.1, now);
        result.error = Some(failure);
        if !ended.used.is_empty()
            && let Err(error) =
                self.store(self.cost(job, Purpose::Cancelled, amount, ended.estimated, now)).await
        {
            error!(job = %job.id, %error, "cost event not stored");
        }
        metrics::cancelled();
        match self.store(nats::result(job, &result)).await {
            Ok(()) => self.finish(job).await,
            Err(error) => error!(job = %job.id, %error, "result not stored; the job comes again"),
        }
        sum
    }

    /// Books a failed attempt and gives the job back, unless another attempt runs beside it. Gives what it cost, and whether the
    /// job was kept.
    async fn fail(&self, job: &Job, failure: &Failure, ended: &Ended, started: Micros) -> (UsdNanos, bool) {
        let amount = self.bill(ended, started);
        let (now, cost_usd) = (SystemClock.now(), amount.1);
        debug!(job = %job.id, class = %failure.class, message = failure.message, "attempt failed");
        if !ended.used.is_empty()
            && let Err(error) =
                self.store(self.cost(job, Purpose::WastedFailure, amount, ended.estimated, now)).await
        {
            error!(job = %job.id, %error, "cost event not stored");
        }
        if !self.keeper.is_ours() {
            metrics::lease_lost();
            warn!(job = %job.id, "lease lost; its next holder goes on");
            return (cost_usd, false);
        }
        if self.control.is_hedged() {
            // The other attempt has the job now. Should that fail, too, the dispatcher takes the job up again.
            return (cost_usd, true);
        }
        let trace = Trace::Failed { failure: failure.clone(), cost_usd };
        let journal = self.write_journal(job, started, trace).await;
        if !self.keeper.is_ours() {
            metrics::lease_lost();
            return (cost_usd, false);
        }
        let back = Return {
            lease: self.keeper.lease().clone(),
            leased_us: self.keeper.extended_at(SystemClock.now()),
            subject: job.subject.clone(),
            pool: self.bench.config.pool.clone(),
            attempt: self.handover.attempt,
            failure: failure.clone(),
            cost_usd,
            journal,
            decision: self.handover.decision.clone(),
            offer: None,
            in_log: false,
        };
        let (subject, headers, payload) = nats::give_back(&self.message, &back);
        if let Err(error) = self.bench.client.publish_with_headers(subject, headers, payload).await {
            // The lease runs out and the journal says what happened.
            warn!(job = %job.id, %error, "job not given back");
        }
        (cost_usd, false)
    }

    /// By the prices in force when the attempt started: those it was chosen by.
    fn bill(&self, ended: &Ended, started: Micros) -> (Vec<schemas::cost::CostLine>, UsdNanos) {
        let config = &self.bench.config;
        booking::bill(&config.prices, &config.price_name, &ended.used, started).unwrap_or_else(|error| {
            // The SKUs of the configuration were checked at start; a provider reported another one.
            error!(pool = %config.pool, %error, "usage without a price; booked as nothing, correct the price book");
            (Vec::new(), UsdNanos::ZERO)
        })
    }

    /// Books an attempt's cost: the event as it is published.
    fn cost(
        &self,
        job: &Job,
        purpose: Purpose,
        amount: (Vec<schemas::cost::CostLine>, UsdNanos),
        estimated: bool,
        now: Micros,
    ) -> Outgoing {
        let config = &self.bench.config;
        self.bench.metrics.booked(purpose, amount.1);
        let booker = Booker { pool: &config.pool, prices: &config.prices };
        let mut event = booker.event(job, self.handover.attempt, purpose, amount, estimated, now);
        event.attempt_key = self.key;
        nats::cost(job, &event)
    }

    async fn store(&self, (subject, headers, body): Outgoing) -> Result<(), PublishError> {
        self.bench.publisher.publish(subject, headers, body).await.map(drop)
    }

    /// Writes what is known of this attempt; when it returns, that is stored, or was logged as not.
    pub(crate) async fn write_journal(&self, job: &Job, started: Micros, trace: Trace) -> Journal {
        let mut journal = self.journal();
        let pool = self.bench.config.pool.clone();
        journal.record(Entry {
            attempt: self.handover.attempt,
            key: self.key,
            pool,
            started_us: started,
            trace,
        });
        if self.control.is_hedged() {
            // There is one journal for a job, and the attempt beside this one may have its trail in it.
            return journal;
        }
        let bytes =
            serde_json::to_vec(&journal).expect("a journal has only string keys and no failing parts");
        if let Err(error) =
            self.bench.journals.put(&job.id.journal_key(&job.subject.tenant), bytes.into()).await
        {
            error!(job = %job.id, %error, "journal not stored");
        }
        journal
    }
}

/// What a job fails with whose input cannot be had: another worker may fetch it, unless nobody can.
fn unfetched(error: &PayloadError) -> Failure {
    let class = match error {
        PayloadError::TooLarge(_) | PayloadError::Gone(_) | PayloadError::Unreadable(..) => {
            FailureClass::InvalidRequest
        }
        PayloadError::Store(_) | PayloadError::Slow(_) | PayloadError::Api(_) => FailureClass::WorkerLost,
    };
    Failure::new(class, format!("field `input_ref`: {error}"))
}

fn without_output(mut result: JobResult, error: &PublishError) -> JobResult {
    result.status = Status::Failed;
    result.output = None;
    result.decision = None;
    result.error =
        Some(Failure::new(FailureClass::InvalidRequest, format!("the result cannot be stored: {error}")));
    result
}
