//! The world outside: workers with their slots, providers with their speed, containers and faults, and the bill. It knows nothing
//! of policies. Invariant: no pool runs more jobs than it has slots, and every call that began is billed when it ends.

mod served;
mod weather;

use std::time::Duration;

use schemas::{
    Micros, UsdNanos, failure::FailureClass, handover::Acceptances, heartbeat::Heartbeat, time::micros,
};

use self::{served::Served, weather::Weather};
use crate::{
    chance::{About, Chance},
    containers::Found,
    scenario::{Fault, FaultKind, PoolSpec, Price, Scenario},
    slab::Key,
};

/// How long a provider takes to refuse a call.
const REFUSES_AFTER: Duration = Duration::from_millis(20);
/// How long a provider takes to answer with a server error.
const FAILS_AFTER: Duration = Duration::from_millis(50);
/// The 95th percentile of the standard normal distribution.
const Z95: f64 = 1.644_853_627;
/// The weight of the job, and of chance, in a service time: half of the variance is the job's own.
const SAME: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// All pools, and what providers charged.
pub(super) struct World<'a> {
    scenario: &'a Scenario,
    seed: u64,
    pools: Vec<Pool>,
    /// How many containers have started: each start has its own draw.
    starts: u64,
    /// Everything that providers charged, nano-dollars.
    pub(super) bill: u64,
    /// The part of it that was for containers while they ran no job.
    pub(super) standing: u64,
}

struct Pool {
    running: u32,
    weather: Weather,
    healthy: Option<bool>,
    checked: Micros,
    succeeded: u64,
    failed: u64,
    models: Vec<Served>,
    news: Acceptances,
}

/// The work of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) number: u64,
    pub(super) attempt: u16,
    pub(super) model: usize,
    pub(super) tokens: Option<(u32, u32)>,
}

/// A call to a provider, and how it will end if no fault or stop comes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) began: Micros,
    /// How long it takes.
    pub(super) span: Duration,
    /// The part of that time that is a cold start.
    pub(super) cold: Duration,
    pub(super) failed: Option<FailureClass>,
    pub(super) retry_after: Option<Duration>,
    model: usize,
    price: Price,
    /// Whether it occupies a container.
    inside: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let pool = |spec: &PoolSpec| Pool {
            running: 0,
            weather: Weather::FAIR,
            healthy: spec.health_every.map(|_| true),
            checked: Micros::default(),
            succeeded: 0,
            failed: 0,
            models: scenario.models.iter().map(|_| Served::default()).collect(),
            news: Acceptances {
                pool: spec.id.clone(),
                worker: "w1".parse().expect("a token"),
                started_us: Micros::default(),
                running: 0,
                open: None,
                accepted: Vec::new(),
                refused: Vec::new(),
                ended: Vec::new(),
            },
        };
        let pools = scenario.pools.iter().map(pool).collect();
        Self { scenario, seed, pools, starts: 0, bill: 0, standing: 0 }
    }

    /// Offers a job to a worker; `None` if it has no free slot.
    pub(super) fn offer(&mut self, pool: usize, key: Key, task: Task, now: Micros) -> Option<Call> {
        let spec = &self.scenario.pools[pool];
        if self.pools[pool].running >= spec.slots {
            return None;
        }
        self.pools[pool].running += 1;
        debug_assert!(self.pools[pool].running <= spec.slots);
        let served = &mut self.pools[pool].models[task.model];
        served.running += 1;
        served.calls.push_back((now, key));
        let mut call = self.begin(pool, task, now);
        if call.span > self.scenario.timeout {
            call.span = self.scenario.timeout;
            call.failed = Some(FailureClass::Timeout);
        }
        Some(call)
    }

    fn begin(&mut self, pool: usize, task: Task, now: Micros) -> Call {
        let spec = &self.scenario.pools[pool];
        let weather = self.pools[pool].weather;
        let price = spec.prices[task.model]
            .map_or(Price::Inference(UsdNanos::ZERO), |price| price.times(weather.price));
        let ends = |span, failed, retry_after| Call {
            began: now,
            span,
            cold: Duration::ZERO,
            failed: Some(failed),
            retry_after,
            model: task.model,
            price,
            inside: false,
        };
        if spec.prices[task.model].is_none() {
            return ends(REFUSES_AFTER, FailureClass::Misconfigured, None);
        }
        if weather.down {
            return ends(FAILS_AFTER, FailureClass::ProviderDown, None);
        }
        let running = f64::from(self.pools[pool].running);
        if let Some((part, wait)) = weather.rate_limit
            && running > part * f64::from(spec.slots)
        {
            return ends(REFUSES_AFTER, FailureClass::RateLimited, Some(wait));
        }
        if running > weather.capacity * f64::from(spec.slots) {
            return ends(REFUSES_AFTER, FailureClass::Capacity, None);
        }
        let mut luck =
            Chance::of(self.seed, About::Attempt, task.number, u64::from(task.attempt) << 16 | pool as u64);
        let cold = self.container(pool, task.model, now);
        let service = self.service(spec, task, &mut luck).mul_f64(weather.slow);
        let garbage = luck.unit() < weather.garbage;
        Call {
            began: now,
            span: if weather.hang { Duration::MAX } else { cold + service },
            cold,
            failed: garbage.then_some(FailureClass::ProviderDown),
            retry_after: None,
            model: task.model,
            price,
            inside: true,
        }
    }

    /// Takes a container for a call. Returns how long until it is ready.
    fn container(&mut self, pool: usize, model: usize, now: Micros) -> Duration {
        let Some(spec) = &self.scenario.pools[pool].serverless else { return Duration::ZERO };
        let (found, idle) = self.pools[pool].models[model].containers.take(spec, now);
        self.stood(pool, model, idle);
        match found {
            Found::Warm => Duration::ZERO,
            Found::Starting(rest) => rest,
            Found::None => self.start(pool),
        }
    }

    /// Draws how long one more container takes to start.
    fn start(&mut self, pool: usize) -> Duration {
        let spec = &self.scenario.pools[pool];
        let (p50, p95) = spec.serverless.as_ref().map_or((Duration::ZERO, Duration::ZERO), |s| s.cold_start);
        self.starts += 1;
        let z = Chance::of(self.seed, About::Start, self.starts, pool as u64).normal();
        let sigma = (p95.as_secs_f64() / p50.as_secs_f64()).ln() / Z95;
        p50.mul_f64((sigma * z).exp() * self.pools[pool].weather.cold)
    }

    fn service(&self, spec: &PoolSpec, task: Task, luck: &mut Chance) -> Duration {
        let model = &self.scenario.models[task.model];
        let own = Chance::of(self.seed, About::Attempt, task.number, u64::MAX).normal();
        let z = SAME * own + SAME * luck.normal();
        let (low, high) = (model.service.0.as_secs_f64(), model.service.1.as_secs_f64());
        let sigma = (high / low).ln() / (2.0 * Z95);
        let seconds = match task.tokens {
            None => (low * high).sqrt() * (sigma * z).exp(),
            // The length of the job is given, so only the chance of the machine is left.
            Some((prompt, output)) => {
                let span = f64::from(prompt) / model.prefill + f64::from(output) / model.decode;
                span * (sigma * SAME * luck.normal()).exp()
            }
        };
        Duration::from_secs_f64(seconds / spec.speed)
    }

    /// Ends a call, by itself or stopped; `failed` says how. Returns what it cost.
    pub(super) fn end(
        &mut self,
        pool: usize,
        call: &Call,
        failed: Option<FailureClass>,
        now: Micros,
    ) -> UsdNanos {
        let state = &mut self.pools[pool];
        state.running -= 1;
        let served = &mut state.models[call.model];
        served.running -= 1;
        let span = now.since(call.began);
        match failed {
            None => {
                state.succeeded += 1;
                served.service.record(span.saturating_sub(call.cold), now);
            }
            Some(_) => state.failed += 1,
        }
        if call.inside && self.scenario.pools[pool].serverless.is_some() {
            let broke = matches!(failed, Some(FailureClass::Timeout | FailureClass::Connection));
            served.containers.leave(broke, now);
        }
        let answered = matches!(failed, None | Some(FailureClass::ProviderDown));
        let cost = match call.price {
            _ if !call.inside => UsdNanos::ZERO,
            Price::Inference(usd) if answered => usd,
            Price::Inference(_) => UsdNanos::ZERO,
            Price::Second(usd) => usd.for_seconds(span).unwrap_or_default(),
        };
        self.bill += cost.get();
        cost
    }

    /// Bills idle time of a pool's containers.
    fn stood(&mut self, pool: usize, model: usize, span: Duration) {
        if let Some(Price::Second(usd)) = self.scenario.pools[pool].prices[model]
            && !span.is_zero()
        {
            let Price::Second(usd) = Price::Second(usd).times(self.pools[pool].weather.price) else { return };
            let cost = usd.for_seconds(span).unwrap_or_default().get();
            self.standing += cost;
            self.bill += cost;
        }
    }

    /// Keeps this many containers of a pool warm.
    pub(super) fn order(&mut self, pool: usize, model: usize, wanted: u32, now: Micros) {
        let spec = &self.scenario.pools[pool];
        let Some(serverless) = spec.serverless.filter(|s| s.warmable) else { return };
        if self.is_cut(pool) {
            return;
        }
        let mut containers = std::mem::take(&mut self.pools[pool].models[model].containers);
        let billed = containers.order(&serverless, wanted.min(spec.slots), || self.start(pool), now);
        self.pools[pool].models[model].containers = containers;
        self.stood(pool, model, billed);
    }

    /// Bills all idle time until `now`, at the end of a play.
    pub(super) fn settle(&mut self, now: Micros) {
        for pool in 0..self.pools.len() {
            self.vanish(pool, now);
        }
    }

    fn vanish(&mut self, pool: usize, now: Micros) {
        let Some(spec) = &self.scenario.pools[pool].serverless else { return };
        for model in 0..self.scenario.models.len() {
            let billed = self.pools[pool].models[model].containers.vanish(spec, now);
            self.stood(pool, model, billed);
        }
    }

    /// A fault begins.
    pub(super) fn strike(&mut self, fault: &Fault, start: Micros, now: Micros) {
        for &pool in &fault.pools {
            // The idle time until now is billed at the price until now.
            if let FaultKind::ColdStarts(_) = fault.kind {
                self.vanish(pool, now);
            }
            self.pools[pool].weather.strike(fault.kind, start + fault.until);
        }
    }

    /// A fault ends.
    pub(super) fn calm(&mut self, fault: &Fault) {
        for &pool in &fault.pools {
            self.pools[pool].weather.calm(fault.kind);
        }
    }

    /// The keys of calls at a pool; some may have ended.
    pub(super) fn calls(&self, pool: usize) -> Vec<Key> {
        self.pools[pool].models.iter().flat_map(|served| served.calls.iter().map(|(_, key)| *key)).collect()
    }

    /// Whether messages cannot get there or back.
    pub(super) fn is_cut(&self, pool: usize) -> bool {
        self.pools[pool].weather.cut_until.is_some()
    }

    /// When a pool that is cut off can be reached again.
    pub(super) fn cut_until(&self, pool: usize) -> Option<Micros> {
        self.pools[pool].weather.cut_until
    }

    /// How many jobs a pool runs.
    pub(super) fn running(&self, pool: usize) -> u32 {
        self.pools[pool].running
    }

    /// What its worker says about its load with every answer.
    pub(super) fn news(&mut self, pool: usize) -> &Acceptances {
        let state = &mut self.pools[pool];
        state.news.running = state.running;
        &state.news
    }

    /// The heartbeat of its worker, heard `delay` later. `alive` tells whether a call still runs.
    pub(super) fn heartbeat(
        &mut self,
        pool: usize,
        delay: Duration,
        alive: impl Fn(Key) -> bool,
        now: Micros,
    ) -> Heartbeat {
        let spec = &self.scenario.pools[pool];
        let state = &mut self.pools[pool];
        if let Some(every) = spec.health_every
            && now.since(state.checked) >= every
        {
            (state.checked, state.healthy) = (now, Some(!state.weather.down));
        }
        let models = (0..state.models.len())
            .filter_map(|model| Some((model, spec.prices[model]?)))
            .map(|(model, price)| {
                let name = &self.scenario.models[model];
                state.models[model].told(name, spec, price.times(state.weather.price), &alive, now)
            })
            .collect();
        Heartbeat {
            pool: spec.id.clone(),
            worker: state.news.worker.clone(),
            started_us: Micros::new(1),
            at_us: Micros::new(now.get().saturating_sub(micros(delay))),
            slots: spec.slots,
            running: state.running,
            draining: false,
            healthy: state.healthy,
            round_trip_us: None,
            succeeded: state.succeeded,
            failed: state.failed,
            models,
            machines: None,
        }
    }
}
