//! A pool of rented machines: its jobs are spread over the machines that its keeper says are ready.
//!
//! ```text
//!  bucket beacon-machines ─▶ rows ───┐                         ┌─▶ Capacity ─▶ Shift::resize ─▶ heartbeat
//!  slots.<region>.<provider> ─▶ shares ─▶ Seats ── take / left ┤
//!                                                              └─▶ one OpenAi adapter per machine, one HTTP client
//! ```
//!
//! [`seats`] decides which machine gets a job, [`shares`] how many of its slots are this worker's; both are pure. This file
//! carries: it follows the rows, keeps the shares, calls the machines, and says what a failure there means for the pool. A
//! machine that leaves `ready` gets no new job; its running jobs go on. A job costs the time on its slot at the slot's price;
//! what no job used is booked by the keeper.

pub mod affinity;
pub mod seats;
pub mod shares;
mod watched;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, join_all},
    stream,
};
use reqwest::Client;
use schemas::{
    MachineId, Micros, PoolId, WorkerId,
    check::median,
    failure::{Failure, FailureClass},
    heartbeat::MachineLoad,
    machine::Machine,
    prefix::{Prefix, Scope},
    prices::Used,
    time::Clock as _,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, error::Elapsed, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use transport::{
    PublishError, SystemClock,
    bucket::{Bucket, ReadError},
    follow::{Follower, News},
};

use self::{
    affinity::Done,
    seats::{Ask, Capacity, Seats, Taken, Verdict},
    shares::{Division, Shares},
    watched::{Watched, silent_for, speaks_against, wait_of},
};
use crate::{
    adapters::{BuildError, OpenAi, OpenAiConfig, Secret, http::BaseUrl},
    clock::{Clock, Now},
    metrics::{self, CacheMetrics},
    provider::{Call, Ended, Health, Progress, Provider, Rate, UsedItem},
};

/// How often the row of shares is read when nothing calls for it: how fast workers learn of each other.
const LOOK: Duration = Duration::from_secs(1);
/// How often servers are asked how busy they are, where that decides.
const LOAD_EVERY: Duration = Duration::from_secs(5);
/// Servers that are asked at once.
const ASKED_AT_ONCE: usize = 8;
/// How long one read or write of the row may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How often a row is read again because another worker was first, before the next look.
const TRIES: u32 = 8;
/// How many machines one attempt may try. A third failure says more about the pool or the job than about a machine.
const MACHINES: usize = 3;
/// Machines to which the way is measured.
const WAYS: usize = 4;
/// What a slot is used for, in the ledger.
const ITEM: &str = "execution";

/// How the machines of a pool are called.
#[derive(Clone, Debug)]
pub struct RentedConfig {
    /// Dialect, stream and timeouts; address, key and billing are each machine's own.
    pub server: OpenAiConfig,
    /// The pool's secret, from which each machine's key is derived; `None` for servers without keys.
    pub secret: Option<Secret>,
    /// The most jobs that one worker runs at a time.
    pub slots: u32,
    /// Whether a job goes to a machine that has its prompt's beginning cached; else always to the least loaded.
    pub affinity: bool,
    /// Who may share what a machine has cached.
    pub isolation: Isolation,
}

/// Who may share cached beginnings of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Each tenant only its own: how quick an answer comes tells what others asked.
    #[default]
    Tenant,
    /// All tenants.
    None,
}

/// What a worker gives to its machines' task.
pub struct Desk {
    /// The machines of the pool: the keys below [`schemas::machine::pool_prefix`].
    pub rows: Follower,
    /// The bucket in which the workers of a pool divide its machines.
    pub shares: Bucket,
    /// The pool.
    pub pool: PoolId,
    /// This worker.
    pub worker: WorkerId,
    /// When its process started.
    pub started: Micros,
}

/// The key under which the workers of a pool divide its machines.
pub fn shares_key(pool: &PoolId) -> String {
    format!("slots.{}.{}", pool.region, pool.provider)
}

/// The machines of one pool, as one worker uses them.
pub struct Rented {
    config: RentedConfig,
    clients: [OnceLock<Client>; 2],
    state: Mutex<State>,
    clock: Clock,
    capacity: watch::Sender<Capacity>,
    /// The shares are to be looked at now.
    wake: Notify,
    /// The next change of the capacity has moved.
    paused: Notify,
    /// Those of its pool, once that is known.
    caches: OnceLock<CacheMetrics>,
}

/// Why the shares are not read or not stored now.
#[derive(Debug, thiserror::Error)]
enum ShareError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Never divided from nothing instead: others may hold what cannot be read.
    #[error("the shares of machines do not read: {0}")]
    Row(#[from] serde_json::Error),
    #[error("no answer within {ANSWER:?}")]
    Slow(#[from] Elapsed),
}

/// What one look at the shares came to.
enum Step {
    /// Nothing is to be changed any more.
    Done,
    /// Another worker was first: look again.
    Again,
}

#[derive(Default)]
struct State {
    seats: Seats,
    servers: HashMap<MachineId, Server>,
}

/// How a machine is called.
#[derive(Clone)]
struct Server {
    address: String,
    /// `None` where the address cannot be used.
    adapter: Option<Arc<OpenAi>>,
    /// When it last gave a piece of output, by the wall clock; 0 for never. Apart from the seats, since pieces are many.
    last_token: Arc<AtomicU64>,
}

impl Rented {
    /// A pool of which no machine is known yet.
    pub fn new(config: RentedConfig) -> Self {
        Self {
            config,
            clients: [OnceLock::new(), OnceLock::new()],
            state: Mutex::default(),
            clock: Clock::start(),
            capacity: watch::channel(Capacity::default()).0,
            wake: Notify::new(),
            paused: Notify::new(),
            caches: OnceLock::new(),
        }
    }

    /// What may run now, and every change of it.
    pub fn capacity(&self) -> watch::Receiver<Capacity> {
        self.capacity.subscribe()
    }

    /// What is told of each machine.
    pub fn loads(&self) -> Vec<MachineLoad> {
        let now = self.now();
        let mut state = self.lock();
        let State { seats, servers } = &mut *state;
        for (machine, server) in servers.iter() {
            let at = server.last_token.load(Ordering::Relaxed);
            if at > 0 {
                seats.token(machine, Micros::new(at));
            }
        }
        seats.loads(now)
    }

    /// What a job is expected to use that takes `usual`, before its machine is known.
    pub fn usual(&self, sku: &str, usual: Duration) -> UsedItem {
        let rate = Rate { machine: None, hour_usd: self.capacity.borrow().hour_usd };
        UsedItem { sku: sku.to_owned(), item: ITEM, used: Used::Time(usual), rate: Some(rate) }
    }

    /// The worker takes no more jobs: slots that nothing uses are given up.
    pub fn drain(&self) {
        self.lock().seats.drain();
        self.wake.notify_one();
    }

    /// Follows the machines and keeps this worker's shares of them, until `stop`; then gives all shares up.
    pub async fn attend(self: Arc<Self>, desk: Desk, stop: CancellationToken) {
        self.caches.get_or_init(|| CacheMetrics::new(&desk.pool));
        let me = format!("{}.{}", desk.worker, desk.started.get());
        let mut division = Division::new(me, self.config.slots);
        let key = shares_key(&desk.pool);
        let dividing = async {
            loop {
                self.divide(&mut division, &desk.shares, &key).await;
                tokio::select! {
                    () = sleep(LOOK) => {}
                    () = self.wake.notified() => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = desk.rows.run(|news| self.hear(news)) => {}
            () = self.tell() => {}
            () = self.look(), if self.config.affinity => {}
            () = dividing => {}
        }
        if timeout(ANSWER, leave(division.me(), &desk.shares, &key)).await.is_err() {
            info!(pool = %desk.pool, "shares of machines not given up; they lapse in {:?}", shares::FORGOTTEN);
        }
    }

    /// Takes in what the rows say.
    fn hear(&self, news: News) {
        let now = self.clock.steady();
        let mut state = self.lock();
        match news {
            News::Begins => state.seats.begins(),
            News::Whole => state.seats.whole(),
            News::Change(change) => match change.value {
                Some(value) => match serde_json::from_slice::<Machine>(&value) {
                    Ok(row) => {
                        self.server(&mut state, &row);
                        state.seats.row(row, now);
                    }
                    Err(error) => {
                        warn!(key = change.key, %error, "a machine does not read, it gets no jobs");
                        forget(&mut state, &change.key);
                    }
                },
                None => forget(&mut state, &change.key),
            },
        }
        let State { seats, servers } = &mut *state;
        servers.retain(|machine, _| seats.knows(machine));
        drop(state);
        self.publish();
        self.wake.notify_one();
    }

    /// Makes the adapter of a machine, if its address is new.
    fn server(&self, state: &mut State, row: &Machine) {
        let Some(address) = &row.address else { return };
        if state.servers.get(&row.machine).is_some_and(|server| server.address == *address) {
            return;
        }
        let adapter = self.adapter(address, &row.machine).map_or_else(
            |error| {
                error!(machine = %row.machine, %error, "a machine cannot be called");
                None
            },
            |adapter| Some(Arc::new(adapter)),
        );
        let server = Server { address: address.clone(), adapter, last_token: Arc::default() };
        state.servers.insert(row.machine.clone(), server);
    }

    fn adapter(&self, address: &str, machine: &MachineId) -> Result<OpenAi, BuildError> {
        let base = BaseUrl::parse(address)?;
        let shared = &self.clients[usize::from(base.is_plain())];
        let client = if let Some(client) = shared.get() {
            client.clone()
        } else {
            let client = base.client(self.config.server.connect_timeout)?;
            shared.get_or_init(|| client).clone()
        };
        let config = OpenAiConfig {
            base_url: address.to_owned(),
            api_key: self.config.secret.as_ref().map(|secret| secret.of_machine(machine)),
            ..self.config.server.clone()
        };
        OpenAi::on(client, base, config)
    }

    /// Reads the shares and changes this worker's, until there is nothing to change.
    async fn divide(&self, division: &mut Division, bucket: &Bucket, key: &str) {
        for _ in 0..TRIES {
            match self.step(division, bucket, key).await {
                Ok(Step::Done) => break,
                Ok(Step::Again) => {}
                Err(error @ ShareError::Row(_)) => {
                    error!(%error, key, "machines cannot be divided among workers; delete the key");
                    break;
                }
                Err(error) => {
                    warn!(%error, "shares of machines are not renewed now");
                    break;
                }
            }
        }
        self.share(division);
    }

    async fn step(&self, division: &mut Division, bucket: &Bucket, key: &str) -> Result<Step, ShareError> {
        let found = timeout(ANSWER, bucket.read(key)).await??;
        let row = found.value.as_deref().map(serde_json::from_slice::<Shares>).transpose()?;
        let (wants, now) = (self.lock().seats.wants(), self.clock.steady());
        let Some(proposal) = division.propose(&row.unwrap_or_default(), &wants, now) else {
            return Ok(Step::Done);
        };
        // What is given up is not used from here on.
        self.share(division);
        let value = Bytes::from(serde_json::to_vec(&proposal.row).expect("a row has only string keys"));
        match timeout(ANSWER, bucket.replace(key, value, found.revision)).await?? {
            Some(_) => {
                division.stored(proposal);
                Ok(Step::Done)
            }
            None => Ok(Step::Again),
        }
    }

    /// Uses what the division says now.
    fn share(&self, division: &Division) {
        let now = self.clock.steady();
        self.lock().seats.share(|machine| division.held(machine, now), division.sure_until());
        self.publish();
        self.paused.notify_one();
    }

    /// Tells the capacity where it changes by itself: at the end of a pause, and where shares lapse.
    async fn tell(&self) {
        loop {
            let next = self.lock().seats.next_change(self.clock.steady());
            let until = async {
                match next {
                    Some(at) => sleep_until(self.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = until => self.publish(),
                () = self.paused.notified() => {}
            }
        }
    }

    /// Asks the servers how much waits there: others may use them too. Those whose software has no such metrics are not asked.
    async fn look(&self) {
        loop {
            sleep(LOAD_EVERY).await;
            let servers: Vec<_> = {
                let state = self.lock();
                let known = state.servers.iter();
                known
                    .filter_map(|(machine, server)| Some((machine.clone(), server.adapter.clone()?)))
                    .collect()
            };
            let asked =
                stream::iter(servers).for_each_concurrent(ASKED_AT_ONCE, |(machine, adapter)| async move {
                    let load = adapter.read_load().await;
                    self.lock().seats.told(&machine, load.as_ref());
                });
            asked.await;
        }
    }

    fn publish(&self) {
        let capacity = self.lock().seats.capacity(self.clock.steady());
        self.capacity.send_if_modified(|told| std::mem::replace(told, capacity) != capacity);
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The beginning of the input, where that decides.
    fn prefix(&self, call: &Call) -> Option<Box<Prefix>> {
        if !self.config.affinity {
            return None;
        }
        let tenant = match self.config.isolation {
            Isolation::Tenant => Some(&call.tenant),
            Isolation::None => None,
        };
        Prefix::of(Scope { model: &call.model, adapter: None, tenant }, &call.input).map(Box::new)
    }

    /// Takes a slot of the machine that is best for the call.
    fn sit(
        &self,
        call: &Call,
        prefix: Option<&Prefix>,
        avoid: &[MachineId],
    ) -> Option<(Slot<'_>, Arc<OpenAi>)> {
        let mut avoid = avoid.to_vec();
        let mut state = self.lock();
        loop {
            let ask = Ask { model: &call.model, prefix, avoid: &avoid };
            let taken = state.seats.take(ask, self.clock.steady())?;
            let server = state.servers.get(&taken.machine).cloned();
            if let Some(Server { adapter: Some(adapter), last_token, .. }) = server {
                let fullest = state.seats.fullest();
                drop(state);
                if let Some(caches) = self.caches.get() {
                    caches.placed(taken.prediction.reason.as_str(), fullest);
                }
                let slot = Slot { rented: self, taken, last_token, left: false };
                return Some((slot, adapter));
            }
            // It has been said already that it cannot be called.
            state.seats.left(&taken, Verdict::Fault(FailureClass::Misconfigured), self.clock.steady());
            avoid.push(taken.machine);
        }
    }

    /// Makes the call, at another machine where one fails at once by its own fault.
    async fn attempt(&self, call: &Call, progress: &dyn Progress) -> Ended {
        let end = Instant::now() + call.timeout;
        let (mut used, mut faulty) = (Vec::new(), Vec::new());
        let mut last: Option<Failure> = None;
        let prefix = self.prefix(call);
        while faulty.len() < MACHINES && Instant::now() < end {
            let Some((slot, adapter)) = self.sit(call, prefix.as_deref(), &faulty) else { break };
            let machine = slot.taken.machine.clone();
            progress.placed(&slot.used(Duration::ZERO));
            let told = AtomicU64::new(0);
            let watched = Watched { inner: progress, last_token: &slot.last_token, told: &told };
            let called = timeout_at(end, adapter.run(call, &watched)).await;
            let ended = called.unwrap_or_else(|_| {
                Ended::unbilled(Failure::new(FailureClass::Timeout, "not done within the call's time limit"))
            });
            let silent = silent_for(told.load(Ordering::Relaxed), self.now().wall);
            let idle = self.config.server.idle_timeout;
            let fault = match &ended.outcome {
                Err(failure) if speaks_against(failure.class, silent, idle) => Some(failure.clone()),
                Ok(_) | Err(_) => None,
            };
            let class = fault.as_ref().map(|failure| failure.class);
            used.push(slot.leave(&ended, class));
            let Some(failure) = fault else {
                return Ended { used, estimated: false, ..ended };
            };
            let (class, message) = (failure.class, &failure.message);
            metrics::machine_failed(class);
            warn!(%machine, %class, message, "a machine failed a job, it is spared for a while");
            last =
                Some(Failure::new(class, format!("machine {machine}: {message}")).after(wait_of(&failure)));
            faulty.push(machine);
            let begun = told.load(Ordering::Relaxed) > 0;
            // Output that somebody follows does not begin anew in the middle of an attempt, and a job that has waited for long
            // is for its dispatcher to place.
            if begun || class == FailureClass::Timeout {
                break;
            }
        }
        // It was accepted for a slot that is gone: as if the provider had taken the machine away.
        let gone =
            || Failure::new(FailureClass::Preempted, "no machine of the pool has a free slot any more");
        let failure = self.of_the_pool(last.unwrap_or_else(gone), &faulty);
        Ended { used, ..Ended::unbilled(failure) }
    }

    /// What the failure of one machine means for its pool. A key that one machine refuses, or a model that one machine does not
    /// have, would close the whole pool at the dispatcher until somebody acts; that is right only if it is so everywhere.
    fn of_the_pool(&self, failure: Failure, faulty: &[MachineId]) -> Failure {
        let whole_pool = matches!(failure.class, FailureClass::Authentication | FailureClass::Misconfigured);
        if whole_pool && self.lock().seats.any_but(faulty) {
            return Failure { class: FailureClass::ProviderDown, ..failure };
        }
        failure
    }
}

/// Forgets the machine whose key this is.
fn forget(state: &mut State, key: &str) {
    if let Some(machine) = key.rsplit('.').next().and_then(|name| name.parse().ok()) {
        state.seats.gone(&machine);
    }
}

/// Gives up all shares.
async fn leave(me: &str, bucket: &Bucket, key: &str) {
    for _ in 0..TRIES {
        let Ok(found) = bucket.read(key).await else { return };
        let row = found.value.as_deref().and_then(|value| serde_json::from_slice::<Shares>(value).ok());
        let Some(row) = row.and_then(|row| row.without(me)) else { return };
        let value = Bytes::from(serde_json::to_vec(&row).expect("a row has only string keys"));
        match bucket.replace(key, value, found.revision).await {
            Ok(None) => {}
            Ok(Some(_)) => return,
            Err(error) => return debug!(%error, "shares of machines not given up"),
        }
    }
}

/// A slot that a call uses. Dropped with its call, it is free again.
struct Slot<'a> {
    rented: &'a Rented,
    taken: Taken,
    last_token: Arc<AtomicU64>,
    left: bool,
}

impl Slot<'_> {
    /// What so much time on it is.
    fn used(&self, span: Duration) -> UsedItem {
        let rate = Rate { machine: Some(self.taken.machine.clone()), hour_usd: self.taken.hour_usd };
        UsedItem { sku: self.taken.sku.clone(), item: ITEM, used: Used::Time(span), rate: Some(rate) }
    }

    /// The call has ended, by the machine's fault or not. Gives the time that it used.
    fn leave(mut self, ended: &Ended, fault: Option<FailureClass>) -> UsedItem {
        let verdict = match (fault, &ended.outcome) {
            (Some(class), _) => Verdict::Fault(class),
            (None, Ok(_)) => Verdict::Good,
            (None, Err(_)) => Verdict::Silent,
        };
        if verdict == Verdict::Good {
            // An answer in one piece is a token, too.
            self.last_token.fetch_max(SystemClock.now().get(), Ordering::Relaxed);
        }
        let until = self.free(verdict);
        self.learn(ended, until.saturating_sub(self.taken.at));
        self.used(until.saturating_sub(self.taken.at))
    }

    /// What the answer tells of the machine's cache and pace.
    fn learn(&self, ended: &Ended, took: Duration) {
        let Ok(success) = &ended.outcome else { return };
        let usage = success.usage;
        let done = Done {
            took,
            first_token: ended.first_token,
            prompt: usage.prompt_tokens,
            cached: usage.cached_tokens,
            written: usage.completion_tokens,
            beside: self.taken.beside,
        };
        let measured = self.rented.lock().seats.learn(&self.taken, &done);
        if measured.flushed {
            info!(machine = %self.taken.machine, "its server has not cached what it was given; that is forgotten");
        }
        if let Some(caches) = self.rented.caches.get() {
            let saved = measured.saved.and_then(|span| self.taken.hour_usd.for_hours_down(span));
            caches.answered(&done, &measured, saved.unwrap_or_default());
        }
    }

    /// Frees the slot and says when.
    fn free(&mut self, verdict: Verdict) -> Duration {
        let mut state = self.rented.lock();
        // Read under the lock, so that what is booked is what a heartbeat says.
        let now = self.rented.clock.steady();
        if std::mem::replace(&mut self.left, true) {
            return now;
        }
        state.seats.left(&self.taken, verdict, now);
        drop(state);
        self.rented.publish();
        if matches!(verdict, Verdict::Fault(_)) {
            self.rented.paused.notify_one();
        }
        now
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.free(Verdict::Silent);
        }
    }
}

impl Provider for Rented {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(self.attempt(call, progress))
    }

    /// Asks no machine: what its jobs met is known, and its keeper looks after it.
    fn health(&self) -> BoxFuture<'_, Health> {
        let (ready, spared) = self.lock().seats.spared(self.clock.steady());
        let health = if ready > 0 && ready == spared {
            let message = format!("jobs failed at all {ready} machines of the pool");
            Health::Down(Failure::new(FailureClass::ProviderDown, message))
        } else {
            Health::Up
        };
        Box::pin(async { health })
    }

    /// The median of some machines: each job may go to any of them.
    fn round_trip(&self) -> BoxFuture<'_, Option<Duration>> {
        let servers: Vec<Arc<OpenAi>> =
            self.lock().servers.values().filter_map(|server| server.adapter.clone()).take(WAYS).collect();
        Box::pin(async move {
            let ways = join_all(servers.iter().map(|server| server.round_trip())).await;
            median(ways.into_iter().flatten().collect())
        })
    }
}
