//! The other policies, as gateways and load balancers ship them. They see what heartbeats say (slots, running jobs, silence,
//! health), skip full pools, prefer their own region, and try a failed job elsewhere, with four attempts in all. They have no
//! fairness and no second attempts, and keep nothing warm.

use std::{collections::VecDeque, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use routing::{
    cold::Bin,
    retry::{self, Verdict},
    track::Outcome,
};
use schemas::{
    Micros, PoolId, ProviderId, Tenant, UsdNanos,
    failure::{Failure, Retry},
    handover::Acceptances,
    heartbeat::Heartbeat,
    job::Job,
    reply::Status,
};

use super::{
    queue::Plain,
    router::{Router, Sending, Step, Want},
    scenario::Scenario,
};

/// Attempts of a job.
const ATTEMPTS: usize = 4;
/// The pause before a job goes back to a pool that failed it, if no other pool is left.
const PAUSE: Duration = Duration::from_millis(200);
/// A pool that was silent for longer gets no jobs. Heartbeats come each second.
const SILENT_AFTER: Duration = Duration::from_secs(4);
/// How much the newest latency counts for the average.
const NEWS: f64 = 0.1;
/// A gateway leaves a pool alone for a minute after three failures within a minute.
const COOL_FAILURES: usize = 3;
const COOL_WINDOW: Duration = Duration::from_secs(60);
const COOL_FOR: Duration = Duration::from_secs(60);

/// Which of the other policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The baseline with the probability of its share, else the cheapest other.
    Static,
    /// One pool after the other.
    RoundRobin,
    /// The cheapest pool with a free slot.
    Cheapest,
    /// The pool that was fastest lately.
    LeastLatency,
    /// The emptier of two pools drawn at random (Mitzenmacher, 2001).
    PowerOfTwo,
    /// The emptiest pool, without those that failed lately.
    Gateway,
}

/// One of the other policies, in one region.
pub(super) struct Plainly {
    kind: Kind,
    region: usize,
    baseline: Vec<ProviderId>,
    share: f64,
    pools: Vec<Known>,
    turn: usize,
    rng: StdRng,
}

/// A pool as these policies see it.
struct Known {
    id: PoolId,
    region: usize,
    heard: Option<Micros>,
    slots: u32,
    running: u32,
    offered: u32,
    healthy: bool,
    /// By model: expected cost and the average latency in seconds, 0 while unknown.
    models: Vec<Option<(u64, f64)>>,
    failures: VecDeque<Micros>,
    cool_until: Micros,
}

impl Plainly {
    pub(super) fn new(kind: Kind, scenario: &Scenario, seed: u64, region: usize) -> Self {
        let known = |spec: &super::scenario::PoolSpec| Known {
            id: spec.id.clone(),
            region: spec.region,
            heard: None,
            slots: 0,
            running: 0,
            offered: 0,
            healthy: true,
            models: spec.prices.iter().map(|price| price.map(|_| (0, 0.0))).collect(),
            failures: VecDeque::new(),
            cool_until: Micros::default(),
        };
        Self {
            kind,
            region,
            baseline: scenario.baseline.clone(),
            share: scenario.baseline_share,
            pools: scenario.pools.iter().map(known).collect(),
            turn: 0,
            rng: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(region as u64)),
        }
    }

    /// Whether a pool can take a job now. `again`: it may have failed the job before.
    fn open(&self, index: usize, want: &Want<'_>, again: bool, now: Micros) -> bool {
        let pool = &self.pools[index];
        let tried = || want.journal.entries.iter().any(|entry| entry.pool == pool.id);
        pool.models[want.model].is_some()
            && pool.heard.is_some_and(|at| now.since(at) <= SILENT_AFTER)
            && pool.healthy
            && pool.running + pool.offered < pool.slots
            && !want.avoid.contains(&pool.id)
            && (again || !tried())
            && (self.kind != Kind::Gateway || now >= pool.cool_until)
    }

    /// The open pool with the lowest rank; pools of the own region come first.
    fn lowest(&self, open: &dyn Fn(usize) -> bool, rank: impl Fn(&Known) -> f64) -> Option<usize> {
        let all = (0..self.pools.len()).filter(|index| open(*index));
        let key = |index: &usize| (self.pools[*index].region != self.region, rank(&self.pools[*index]));
        all.min_by(|a, b| {
            let (a, b) = (key(a), key(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        })
    }

    fn pick(&mut self, want: &Want<'_>, again: bool, now: Micros) -> Option<usize> {
        let (coin, first, second) =
            (self.rng.random::<f64>(), self.rng.random::<f64>(), self.rng.random::<f64>());
        let this = &*self;
        let open = |index: usize| this.open(index, want, again, now);
        let here = |index: usize| this.pools[index].region == this.region && open(index);
        let cost = |pool: &Known| pool.models[want.model].map_or(f64::MAX, |(cost, _)| cost as f64);
        let latency = |pool: &Known| pool.models[want.model].map_or(f64::MAX, |(_, seconds)| seconds);
        let load = |pool: &Known| f64::from(pool.running + pool.offered) / f64::from(pool.slots.max(1));
        let is_base = |index: usize| this.baseline.contains(&this.pools[index].id.provider);
        match self.kind {
            Kind::Static => {
                let base = coin < self.share;
                self.lowest(&|i| open(i) && is_base(i) == base, cost).or_else(|| self.lowest(&open, cost))
            }
            Kind::RoundRobin => {
                let count = self.pools.len();
                let turns = || (1..=count).map(|step| (self.turn + step) % count);
                let next = turns().find(|i| here(*i)).or_else(|| turns().find(|i| open(*i)));
                self.turn = next.unwrap_or(self.turn);
                next
            }
            Kind::Cheapest => self.lowest(&open, cost),
            Kind::LeastLatency => self.lowest(&open, latency),
            Kind::PowerOfTwo => {
                let some = (0..self.pools.len()).any(here);
                let among = |i: &usize| if some { here(*i) } else { open(*i) };
                let count = (0..self.pools.len()).filter(among).count();
                let nth = |part: f64| (0..self.pools.len()).filter(among).nth(place(part, count));
                let (a, b) = (nth(first)?, nth(second)?);
                Some(if load(&self.pools[a]) <= load(&self.pools[b]) { a } else { b })
            }
            Kind::Gateway => self.lowest(&open, load),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count of pools")]
fn place(part: f64, count: usize) -> usize {
    ((part * count as f64) as usize).min(count.saturating_sub(1))
}

impl Router for Plainly {
    type Line = Plain;

    fn arrived(&mut self, _: &Job, _: Micros) {}

    fn heard(&mut self, pool: usize, beat: &Heartbeat, now: Micros) {
        let known = &mut self.pools[pool];
        known.heard = Some(now);
        (known.slots, known.running, known.healthy) =
            (beat.slots, beat.running, beat.healthy.unwrap_or(true));
        let models = known.models.iter_mut().flatten();
        for (model, served) in models.zip(&beat.models) {
            model.0 = served.expected_cost_usd.get();
        }
    }

    fn load(&mut self, pool: usize, news: &Acceptances, now: Micros) {
        self.pools[pool].running = news.running;
        self.pools[pool].heard = Some(now);
    }

    fn choose(&mut self, want: &Want<'_>, now: Micros) -> Step {
        let chosen = self.pick(want, false, now);
        if chosen.is_none() {
            // Another pool may have a free slot soon. If all have failed the job, it begins again.
            let untried = self.pools.iter().any(|pool| {
                pool.models[want.model].is_some()
                    && pool.healthy
                    && pool.heard.is_some_and(|at| now.since(at) <= SILENT_AFTER)
                    && !want.journal.entries.iter().any(|entry| entry.pool == pool.id)
            });
            if want.journal.entries.is_empty() || untried {
                return Step::Wait;
            }
        }
        let pause = want.journal.entries.last().is_some_and(|last| now.since(last.started_us) < PAUSE);
        if chosen.is_none() && pause {
            return Step::Pause(PAUSE);
        }
        let Some(pool) = chosen.or_else(|| self.pick(want, true, now)) else { return Step::Wait };
        self.pools[pool].offered += 1;
        let cost = UsdNanos::new(self.pools[pool].models[want.model].map_or(0, |(cost, _)| cost));
        Step::Send(Sending {
            pool,
            model: want.model,
            bin: Bin::default(),
            reserve: cost,
            expected: cost,
            hedge_after: None,
            hedge: false,
            reservation: None,
        })
    }

    fn hedge(&mut self, _: &Want<'_>, _: Micros) -> Option<Sending> {
        None
    }

    fn answered(&mut self, sent: &Sending, _: bool, _: Micros) {
        let known = &mut self.pools[sent.pool];
        known.offered = known.offered.saturating_sub(1);
    }

    fn ended(&mut self, sent: &Sending, _: &Tenant, outcome: &Outcome, _: UsdNanos, now: Micros) {
        let known = &mut self.pools[sent.pool];
        if outcome.failed.is_some() {
            known.failures.push_back(now);
            while known.failures.front().is_some_and(|at| now.since(*at) > COOL_WINDOW) {
                known.failures.pop_front();
            }
            if known.failures.len() >= COOL_FAILURES {
                known.failures.clear();
                known.cool_until = now + COOL_FOR;
            }
        } else if let Some((_, seconds)) = &mut known.models[sent.model] {
            let latest = (outcome.service + outcome.cold).as_secs_f64();
            *seconds = if *seconds == 0.0 { latest } else { *seconds + (latest - *seconds) * NEWS };
        }
    }

    fn vanished(&mut self, _: &Sending, _: Micros) {}

    fn verdict(&mut self, want: &Want<'_>, failure: &Failure, now: Micros) -> Verdict {
        if failure.class.remedy().retry == Retry::Never || want.journal.entries.len() >= ATTEMPTS {
            return Verdict::End(Status::Failed, failure.clone());
        }
        retry::expired(want.job, now).unwrap_or(Verdict::Again { larger: false })
    }

    fn second(&mut self, _: Micros, _: &mut Vec<(usize, usize, u32)>) {}
}
