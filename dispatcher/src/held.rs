//! What a dispatcher holds: feeds, pools, open offers, parked jobs, and the tasks that work on them.
//!
//! Changes that need no message of their own happen here; `dispatch` sends the messages.

use std::{collections::HashMap, time::Duration};

use async_nats::Client;
use rand::{SeedableRng, rngs::StdRng};
use routing::{
    budget::{Budgets, Reservation},
    hedge::Hedges,
    pick::Picker,
    pool::Pools,
    retry_budget::RetryBudget,
    warm::Warmth,
};
use rustc_hash::FxHashMap;
use schemas::{
    Micros, PoolId, ProviderId, Region, Tenant, UsdNanos, WorkerId,
    decision::{Decision, Reason},
    lease::Lease,
    state::{Event, State, Step},
    subjects::JobSubject,
    time::Clock as _,
};
use tokio::{task::JoinSet, time::Instant};
use tracing::{debug, warn};
use transport::{SystemClock, api::ApiError, topology::TopologyError};

use crate::{
    config::DispatcherConfig,
    ending,
    flight::{Flight, lease_margin},
    metrics,
    nats::Feed,
    redelivery::{Fate, Suspects},
    runs::{Offer, Run, Runs},
    waiting::Waiting,
};

/// Everything the task decides with.
pub struct Held {
    /// Where pulls are answered.
    pub inbox: String,
    /// Where workers answer offers.
    pub accept: String,
    /// The consumers we read, the lanes of one (region, model) together.
    pub feeds: Vec<Feed>,
    /// Index of each feed, by stream and consumer.
    pub feed_of: HashMap<String, HashMap<String, usize>>,
    /// What we know of pools.
    pub pools: Pools,
    /// The policy and its memory.
    pub picker: Picker,
    /// How many second attempts there were.
    pub hedges: Hedges,
    /// How many jobs come, and what is warm for them.
    pub warmth: Warmth,
    /// Chance: draws and jitter.
    pub rng: StdRng,
    /// The next number for an offer, a pull or a place in the queue.
    pub next: u64,
    /// Open offers by number.
    pub offered: FxHashMap<u64, Offer>,
    /// What runs at workers on our offer.
    pub runs: Runs,
    /// Jobs without a place.
    pub waiting: Waiting,
    /// Questions on their way, whose jobs wait in the streams.
    pub asking: JoinSet<Result<Vec<(JobSubject, u64)>, ApiError>>,
    /// What may be spent.
    pub budgets: Budgets,
    /// The period in which a person was told of each budget that is used up, by the budget's place in the configuration.
    pub told: FxHashMap<usize, Micros>,
    /// How many attempts may be repeats, by region.
    pub retries: HashMap<Region, RetryBudget>,
    /// Jobs delivered again, waiting for a scan.
    pub suspects: Suspects,
    /// Scans on their way.
    pub look_ups: JoinSet<Vec<Fate>>,
    /// Terminal results on their way.
    pub endings: JoinSet<()>,
    /// Lease extensions on their way.
    pub extensions: JoinSet<()>,
    /// The topology being made right again.
    pub repair: JoinSet<Result<(), TopologyError>>,
    /// When to look at the topology again; none while all consumers answer.
    pub repair_at: Option<Instant>,
    /// Set when something changed that may give a parked job a place.
    pub stirred: bool,
}

impl Held {
    /// Holds nothing yet.
    pub fn new(config: &DispatcherConfig, inbox: String, accept: String, feeds: Vec<Feed>) -> Self {
        let mut feed_of: HashMap<String, HashMap<String, usize>> = HashMap::new();
        for (index, feed) in feeds.iter().enumerate() {
            feed_of.entry(feed.stream.clone()).or_default().insert(feed.consumer.clone(), index);
        }
        Self {
            inbox,
            accept,
            feeds,
            feed_of,
            pools: Pools::default(),
            picker: Picker::new(config.policy.clone(), config.breaker.clone()),
            hedges: Hedges::new(config.policy.hedge.clone()),
            warmth: Warmth::new(config.policy.warm.clone()),
            rng: StdRng::seed_from_u64(SystemClock.now().get()),
            next: 0,
            offered: FxHashMap::default(),
            runs: Runs::default(),
            waiting: Waiting::new(config.weights.clone()),
            asking: JoinSet::new(),
            told: FxHashMap::default(),
            budgets: Budgets::new(config.budgets.clone()),
            retries: config
                .regions
                .iter()
                .map(|r| (r.clone(), RetryBudget::new(config.retries.clone())))
                .collect(),
            suspects: Suspects::default(),
            look_ups: JoinSet::new(),
            endings: JoinSet::new(),
            extensions: JoinSet::new(),
            repair: JoinSet::new(),
            repair_at: None,
            stirred: false,
        }
    }

    /// The feed a lease came from.
    pub fn feed_index(&self, lease: &Lease) -> Option<usize> {
        self.feed_of.get(lease.stream())?.get(lease.consumer()).copied()
    }

    /// Takes back offers that nobody answered, and has them looked up before they go on: the worker may have begun, written
    /// that down, and died before it answered. That is done once the worker must have dropped them too.
    ///
    /// Gives the attempts beside which nobody took a second one.
    pub fn lapse(&mut self, margin: Duration, now: Micros) -> Vec<u64> {
        let mut unhedged = Vec::new();
        let open = |o: &Offer| matches!(&o.flight.state, State::Offered { accept_by, .. } if *accept_by + margin < now);
        let lapsed: Vec<u64> = self.offered.iter().filter(|(_, o)| open(o)).map(|(n, _)| *n).collect();
        for number in lapsed {
            let Some(offer) = self.offered.remove(&number) else {
                continue;
            };
            metrics::lapsed();
            let Offer { mut flight, pool, hedge_of, .. } = self.untaken(offer, now);
            warn!(job = %flight.job.id, %pool, "nobody answered an offer");
            if let Some(first) = hedge_of {
                unhedged.push(first);
                continue;
            }
            flight.avoid.push(pool);
            flight.state = moved(flight.state, Event::Lapsed { offer: number });
            self.suspects.add(flight);
        }
        unhedged
    }

    /// Forgets attempts at workers that said nothing for `silent`. Gives those that had another of the same job beside them.
    pub fn forget_vanished(&mut self, silent: Duration, now: Micros) -> Vec<u64> {
        let pools = &self.pools;
        let alive = |id: &PoolId, worker: &WorkerId| {
            pools.iter().any(|pool| pool.id == *id && pool.heard_of(worker, silent, now))
        };
        let gone = self.runs.vanished(alive, now);
        let mut alone = Vec::new();
        for mut run in gone {
            self.pools.vanished(&run.pool, &run.subject.model);
            alone.extend(run.twin);
            // Nobody can tell what it cost; as much as was set aside is the careful guess.
            self.settle(&mut run, None, now);
        }
        alone
    }

    /// Learns whose jobs wait in the streams: those whose newest lies behind what was delivered.
    pub fn waiting_behind(&mut self, newest: Vec<(JobSubject, u64)>, now: Micros) {
        for (subject, seq) in newest {
            let behind = |f: &&Feed| {
                f.region == subject.region
                    && f.model == subject.model
                    && f.lane == subject.lane
                    && seq > f.seen
            };
            if self.feeds.iter().any(|feed| behind(&feed)) {
                debug!(%subject, seq, "waits behind what is being read");
                self.waiting.group(&subject.region, &subject.model).expect(subject.tenant, now);
            }
        }
    }

    /// Reports how budgets and shares stand, and tells once a period of a budget that is used up.
    pub fn report(&mut self, regions: &[Region], now: Micros) {
        for (index, state) in self.budgets.states(now).enumerate() {
            metrics::budget(state.rule, state.taken, state.rule.limit);
            if !(state.exhausted || state.alarm) || self.told.insert(index, state.start) == Some(state.start)
            {
                continue;
            }
            let (rule, taken, until) = (state.rule, state.taken, state.until);
            if state.exhausted {
                warn!(%rule, %taken, limit = %rule.limit, %until, "a budget is used up; its jobs wait for the next period");
            } else {
                warn!(%rule, %taken, limit = %rule.limit, %until, "a soft budget is passed; its jobs go on");
            }
        }
        for region in regions {
            metrics::share_deficit(region, self.picker.deficit(region));
        }
    }

    /// Sets aside what an attempt may cost, where there are budgets.
    pub fn reserve(
        &mut self,
        tenant: &Tenant,
        provider: &ProviderId,
        amount: UsdNanos,
        now: Micros,
    ) -> Option<Reservation> {
        (!self.budgets.is_empty()).then(|| self.budgets.reserve(tenant, provider, amount, now))
    }

    /// An offer was not taken: nothing was spent, and its tenant is charged nothing.
    pub fn untaken(&mut self, mut offer: Offer, now: Micros) -> Offer {
        let subject = &offer.flight.job.subject;
        self.pools.answered(&offer.pool, &subject.model, false);
        if offer.hedge_of.is_some() {
            self.hedges.settled(offer.reserve, UsdNanos::ZERO);
        }
        if let Some(reservation) = offer.spend.reservation.take() {
            self.budgets.release(reservation, now);
        }
        if let Some((seat, expected)) = &offer.spend.charged {
            let line = &mut self.waiting.group(&subject.region, &subject.model).line;
            line.correct(seat, *expected, UsdNanos::ZERO);
        }
        offer
    }

    /// An attempt has ended and cost `actual`, as far as anybody knows.
    pub fn settle(&mut self, run: &mut Run, actual: Option<UsdNanos>, now: Micros) {
        if let Some(reservation) = run.spend.reservation.take() {
            let actual = actual.unwrap_or(reservation.amount());
            self.budgets.settle(reservation, actual, now);
        }
        if let (Some((seat, expected)), Some(actual)) = (run.spend.charged.take(), actual) {
            let line = &mut self.waiting.group(&run.subject.region, &run.subject.model).line;
            line.correct(&seat, expected, actual);
        }
    }

    /// Extends leases of waiting jobs, and lets go of those that may be somebody else's by now.
    pub fn keep_leases(&mut self, client: &Client, ack_wait: Duration, now: Micros) -> usize {
        let limit = ack_wait.saturating_sub(lease_margin(ack_wait));
        let lost = self.waiting.remove_if(|flight| flight.age(now) >= limit);
        for flight in &lost {
            warn!(job = %flight.job.id, "lease lost while waiting; the job comes again");
        }
        for flight in self.waiting.iter_mut() {
            if flight.age(now) <= ack_wait / 4 {
                flight.extending = false;
                continue;
            }
            // One request at a time: a second would only follow if the first was not answered for so long.
            if flight.extending && flight.age(now) < ack_wait / 2 {
                continue;
            }
            flight.extending = true;
            let (client, lease, leased) = (client.clone(), flight.lease.clone(), flight.leased.clone());
            self.extensions.spawn(async move {
                let asked = SystemClock.now();
                if ending::extend(&client, &lease).await {
                    leased.fetch_max(asked.get(), std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        lost.len()
    }

    /// The size of what a pool runs the job's model on.
    pub fn size_of(&self, pool: &PoolId, job: &schemas::job::Job) -> Option<u16> {
        self.pools.iter().find(|p| p.id == *pool)?.track(&job.subject.model).map(|t| t.served.size)
    }
}

/// An offer must not outlive the lease it hands over.
pub fn lease_outlasts_offer(flight: &Flight, config: &DispatcherConfig, now: Micros) -> bool {
    let ack_wait = config.topology.ack_wait;
    flight.age(now) + config.offers.accept_within + lease_margin(ack_wait) < ack_wait
}

/// The state after an event of ours, which cannot be stale: we own the flight.
pub fn moved(state: State, event: Event) -> State {
    match state.apply(event) {
        Step::Moved(next) => next,
        Step::Stale(same) => {
            debug!(?same, "stale event");
            same
        }
    }
}

/// Where a run of an earlier attempt still is, if that pool can be asked.
pub fn reattach(
    pools: &Pools,
    flight: &Flight,
    config: &DispatcherConfig,
    now: Micros,
) -> Option<(PoolId, u16, Decision)> {
    let entry = flight.journal.unfinished()?;
    let pool = pools.iter().find(|p| p.id == entry.pool)?;
    let admits = pool
        .track(&flight.job.subject.model)
        .is_some_and(|t| t.breaker.admits(&config.breaker, flight.job.subject.lane, now));
    let closed = pool.closed(config.policy.silent_after, now).is_some() || !admits;
    if closed || flight.avoid.contains(&pool.id) {
        return None;
    }
    let decision =
        Decision { chosen: Some(pool.id.clone()), reason: Reason::Reattach, candidates: Vec::new() };
    Some((pool.id.clone(), entry.attempt, decision))
}
