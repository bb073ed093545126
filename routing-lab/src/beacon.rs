//! Beacon's own routing as a policy. This is what the dispatcher does with the `routing` crate, without messages.

use std::{cell::Cell, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use routing::{
    budget::{Budgets, Draw, Held, Reservation},
    cold::Bin,
    config::{BreakerConfig, PolicyConfig},
    fair::Line,
    hedge::Hedges,
    pick::{Ask, Choice, Picker},
    pool::Pools,
    retry::{self, Verdict},
    retry_budget::{RetryBudget, RetryConfig},
    track::{Ours, Outcome},
    warm::Warmth,
};
use schemas::{
    Micros, ModelToken, PoolId, ProviderId, Tenant, UsdNanos, failure::Failure, handover::Acceptances,
    heartbeat::Heartbeat, job::Job, journal::Journal,
};

use super::{
    router::{Router, Sending, Step, Want},
    scenario::Scenario,
    slab::{Key, Slab},
};

/// How long a job waits if the retry budget is used up.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The dispatcher of a region.
pub(super) struct Beacon {
    policy: PolicyConfig,
    breaker: BreakerConfig,
    models: Vec<ModelToken>,
    names: Vec<PoolId>,
    pools: Pools,
    /// The scenario's indices of the pools, in the order in which they were first heard.
    heard_of: Vec<usize>,
    picker: Picker,
    hedges: Hedges,
    warmth: Warmth,
    retries: RetryBudget,
    budgets: Budgets,
    /// The money that is set aside for attempts.
    reservations: Slab<Reservation>,
    rng: StdRng,
}

impl Beacon {
    pub(super) fn new(scenario: &Scenario, seed: u64, region: usize) -> Self {
        let policy = PolicyConfig {
            baseline: scenario.baseline.clone(),
            baseline_share: scenario.baseline_share,
            ..PolicyConfig::default()
        };
        let breaker = BreakerConfig::default();
        Self {
            models: scenario.models.iter().map(|model| model.name.clone()).collect(),
            names: scenario.pools.iter().map(|pool| pool.id.clone()).collect(),
            pools: Pools::default(),
            heard_of: Vec::new(),
            picker: Picker::new(policy.clone(), breaker.clone()),
            hedges: Hedges::new(policy.hedge.clone()),
            warmth: Warmth::new(policy.warm.clone()),
            retries: RetryBudget::new(RetryConfig::default()),
            budgets: Budgets::new(scenario.budgets.clone()),
            reservations: Slab::default(),
            rng: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(region as u64)),
            policy,
            breaker,
        }
    }

    /// Counts an attempt that is offered, with the same steps as the dispatcher.
    fn send(&mut self, choice: Choice, want: &Want<'_>, hedge: bool, now: Micros) -> Sending {
        let model = &want.job.subject.model;
        let track = self.pools.as_slice()[choice.index].track(model);
        let hedge_after =
            track.and_then(|t| self.hedges.after(want.job.subject.lane, t, now)).filter(|_| !hedge);
        let bin: Bin = self.pools.sent(choice.index, model, &self.breaker, now);
        let (reserve, expected) = (choice.expected.reserve, choice.expected.cost);
        let reservation = (!self.budgets.is_empty()).then(|| {
            let provider = &self.pools.as_slice()[choice.index].id.provider;
            let made = self.budgets.reserve(&want.job.subject.tenant, provider, reserve, now);
            self.reservations.add(made)
        });
        Sending {
            pool: self.heard_of[choice.index],
            model: want.model,
            bin,
            reserve,
            expected,
            hedge_after,
            hedge,
            reservation,
        }
    }

    /// Settles the money of an attempt. Without a known cost, what was set aside counts as spent.
    fn settle(&mut self, sent: &Sending, cost: Option<UsdNanos>, now: Micros) {
        if let Some(reservation) = sent.reservation.and_then(|key| self.reservations.take(key)) {
            let actual = cost.unwrap_or(reservation.amount());
            self.budgets.settle(reservation, actual, now);
        }
    }

    fn ask<'a>(want: &Want<'a>, affordable: &'a dyn Fn(&ProviderId, UsdNanos) -> bool) -> Ask<'a> {
        Ask {
            avoid: want.avoid,
            ahead: want.ahead,
            held_for: want.held_for,
            rests: want.rests,
            affordable,
            ..Ask::of(want.job, want.journal)
        }
    }
}

impl Router for Beacon {
    type Line = Line<Key>;

    fn arrived(&mut self, _: &Job, _: Micros) {}

    fn heard(&mut self, pool: usize, beat: &Heartbeat, now: Micros) {
        self.pools.heartbeat(beat.clone(), now);
        if self.pools.as_slice().len() > self.heard_of.len() {
            self.heard_of.push(pool);
        }
    }

    fn load(&mut self, _: usize, news: &Acceptances, now: Micros) {
        self.pools.load(news, now);
    }

    fn choose(&mut self, want: &Want<'_>, now: Micros) -> Step {
        let again = !want.journal.entries.is_empty();
        if again && self.retries.left(now) == 0 {
            return Step::Pause(RETRY_PAUSE);
        }
        let held: Cell<Option<Held>> = Cell::new(None);
        let affordable = |provider: &ProviderId, amount: UsdNanos| {
            let admitted = self.budgets.admits(&want.job.subject.tenant, provider, amount, now);
            admitted.inspect_err(|why| held.set(Some(*why))).is_ok()
        };
        let ask = Self::ask(want, &affordable);
        let Some(choice) = self.picker.pick(self.pools.as_slice(), ask, now, &mut self.rng) else {
            return held.get().map_or(Step::Wait, Step::WaitTenant);
        };
        if again {
            self.retries.try_retry(now);
        } else {
            self.retries.first(now);
        }
        let subject = &want.job.subject;
        self.picker.placed(&subject.region, &choice);
        let pool = &self.pools.as_slice()[choice.index].id;
        self.warmth.sent(pool, &subject.model, subject.lane, now);
        self.hedges.job(now);
        Step::Send(self.send(choice, want, false, now))
    }

    fn hedge(&mut self, want: &Want<'_>, now: Micros) -> Option<Sending> {
        let affordable = |provider: &ProviderId, amount: UsdNanos| {
            self.budgets.admits(&want.job.subject.tenant, provider, amount, now).is_ok()
        };
        let ask = Self::ask(want, &affordable);
        let choice = self.picker.hedge(self.pools.as_slice(), ask, now, &mut self.rng)?;
        if !self.hedges.may(choice.expected.reserve, now) {
            return None;
        }
        self.hedges.begun(choice.expected.reserve, now);
        Some(self.send(choice, want, true, now))
    }

    fn answered(&mut self, sent: &Sending, taken: bool, now: Micros) {
        if !taken {
            self.settle(sent, Some(UsdNanos::ZERO), now);
        }
        self.pools.answered(&self.names[sent.pool], &self.models[sent.model], taken);
        if !taken && sent.hedge {
            self.hedges.settled(sent.reserve, UsdNanos::ZERO);
        }
    }

    fn ended(&mut self, sent: &Sending, _: &Tenant, outcome: &Outcome, cost: UsdNanos, now: Micros) {
        self.settle(sent, Some(cost), now);
        let (pool, model) = (&self.names[sent.pool], &self.models[sent.model]);
        self.pools.ended(pool, model, outcome, sent.bin, &self.breaker, now, &mut self.rng);
        if sent.hedge {
            self.hedges.settled(sent.reserve, cost);
        }
    }

    fn vanished(&mut self, sent: &Sending, now: Micros) {
        self.settle(sent, None, now);
        self.pools.vanished(&self.names[sent.pool], &self.models[sent.model]);
    }

    fn verdict(&mut self, want: &Want<'_>, failure: &Failure, now: Micros) -> Verdict {
        retry::verdict(want.job, want.journal, failure, now)
    }

    fn rest(&mut self, journal: &Journal) -> Duration {
        retry::rest(journal, &mut self.rng).unwrap_or_default()
    }

    fn ours(&mut self, open: &[(usize, usize, Ours)]) {
        let (names, models) = (&self.names, &self.models);
        self.pools.set_ours(open.iter().map(|(pool, model, ours)| (&names[*pool], &models[*model], *ours)));
    }

    fn second(&mut self, now: Micros, orders: &mut Vec<(usize, usize, u32)>) {
        self.pools.forget_silent(now);
        for wanted in self.warmth.plan(self.pools.as_slice(), &self.policy, now) {
            let pool = self.names.iter().position(|name| *name == wanted.pool);
            let model = self.models.iter().position(|name| *name == wanted.model);
            if let Some((pool, model)) = pool.zip(model) {
                orders.push((pool, model, wanted.containers));
            }
        }
    }

    fn draws(&mut self, now: Micros) -> Vec<Draw> {
        self.budgets.draws(now)
    }

    fn drawn(&mut self, draw: &Draw, total: u64, now: Micros) -> Option<Draw> {
        self.budgets.drawn(draw, total, now)
    }
}
