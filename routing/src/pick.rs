//! Job + pools → pool. Pure: no I/O, no clock, and no allocation beyond the scratch that is kept.
//!
//! ```text
//!  every pool ─▶ refuse? ─▶ probes first ─▶ explore (1 % of low) ─▶ baseline or rest? ─▶ draw two, take the better
//! ```
//!
//! Pools are compared by a score: expected cost and time over what is usual in the region, weighed by what the job prefers,
//! and the risk of failure. The baseline's share is held by a price: a deficit `D` (Shreedhar and Varghese, 1995) grows with
//! each job the share is behind and makes the baseline cheaper by `STEP · D`. That is dual ascent on the share (Neely,
//! "Stochastic Network Optimization", 2010): the jobs that gain most by the baseline go there, the others pay for its
//! absence least, and the share is met all the same since `D` is bounded.
//!
//! Within a tier, two pools are drawn with a probability that falls with the twelfth power of the score, and the better of the two is
//! taken (Mitzenmacher, 2001). A nearly full pool loses to one that is not (Prequal, NSDI 2024). So many dispatchers do not herd, and
//! the figures of the second best stay fresh.

use std::{collections::HashMap, time::Duration};

use rand::{Rng, RngExt};
use schemas::{
    Lane, Micros, PoolId, ProviderId, Region, UsdNanos,
    decision::{Candidate, Decision, Reason, Refusal},
    job::{Head, Prefer, Routing},
    journal::Journal,
    subjects::JobSubject,
    time::micros,
};

use crate::{
    config::{BreakerConfig, PolicyConfig},
    pool::{Closed, Pool, kept},
    track::{Expected, Track},
};

/// How far the share may fall behind, in jobs, while both tiers could take jobs. With `STEP` it is a price of four times
/// the usual score: no choice that is free is so bad that the share could not be held.
pub const DEFICIT_MAX: f64 = 80.0;
/// The same while only one tier could take them: an outage of the baseline is not followed by a stampede (integral windup).
pub const DEFICIT_FORCED_MAX: f64 = 20.0;
/// What a job of deficit is worth, as a part of the usual score.
const STEP: f64 = 0.05;
/// No gap between two scores counts for more, so that a deficit within its bounds always outweighs it.
const GAP_MAX: f64 = 0.9 * STEP * DEFICIT_MAX;
/// How much a failure weighs: a pool that fails every other job has to be better by the usual score.
const RISK: f64 = 2.0;
/// Another region must be better by so much, its way included, while one here can take the job.
const FAR_BETTER: f64 = 0.8;
/// Low jobs that go where least is known, if that is a pool of which nothing was heard for [`STALE`].
const EXPLORE: f64 = 0.01;
const STALE: Duration = Duration::from_secs(300);
/// A pool is drawn with weight `score^-12`: a score 6 % lower doubles the weight, so only near ties are shared. OpenRouter weighs by
/// the inverse square of the price, which is too even here: a job that wakes a second provider's containers also pays for their idle
/// time.
const SHARPNESS: i32 = -12;
/// A pool fuller than this loses to one that is not.
const HOT: f64 = 0.8;
/// How much the newest job counts for what is usual in a region.
const USUAL_NEWS: f64 = 0.02;
/// A wait for a good pool that is longer than this is worse than a bad pool now.
const RELENT_AFTER: Duration = Duration::from_secs(1);
/// How long a job waits for a pool that has not failed it before it goes back to one that has. Two dozen service times of a usual
/// model: a slot that is really in use is free by then. Without a bound, a pool that is full for ever (it hangs, or somebody counts
/// wrong) would hold the job for ever.
pub const HOPE_FOR: Duration = Duration::from_secs(10);

/// What a decision looks at besides the pools.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Region, model, lane and tenant.
    pub subject: &'a JobSubject,
    /// Where it may run, and what it prefers.
    pub routing: &'a Routing,
    /// When it must have started, and should have ended.
    pub deadline: Option<Micros>,
    /// The most it may cost, all attempts together.
    pub max_cost: Option<UsdNanos>,
    /// What earlier attempts left behind.
    pub journal: &'a Journal,
    /// The size of the SKU that ran out of memory, if that is why it comes again.
    pub larger_than: Option<u16>,
    /// Pools that must not take it now: they refused it a moment ago, or run it already.
    pub avoid: &'a [PoolId],
    /// Jobs that wait in front of it for the same slots.
    pub ahead: u32,
    /// How long it has waited for this attempt.
    pub held_for: Duration,
    /// Whether it rests after a failure ([`crate::retry::rest`]): a pool that failed it must not take it yet.
    pub rests: bool,
    /// Whether its tenant's budgets admit an attempt at that provider that may cost so much.
    pub affordable: &'a dyn Fn(&ProviderId, UsdNanos) -> bool,
}

impl<'a> Ask<'a> {
    /// A job's first attempt, with nobody in front of it and no budget.
    pub fn of(job: &'a Head, journal: &'a Journal) -> Self {
        Self {
            subject: &job.subject,
            routing: &job.routing,
            deadline: job.deadline,
            max_cost: job.max_cost,
            journal,
            larger_than: None,
            avoid: &[],
            ahead: 0,
            held_for: Duration::ZERO,
            rests: false,
            affordable: &|_, _| true,
        }
    }

    /// Whether the job's lists let it run at that provider.
    pub fn admits_provider(&self, provider: &ProviderId) -> bool {
        let Routing { allow_providers, deny_providers, .. } = self.routing;
        !deny_providers.contains(provider)
            && (allow_providers.is_empty() || allow_providers.contains(provider))
    }

    /// Whether the job's list lets it run in that region.
    pub fn admits_region(&self, region: &Region) -> bool {
        let allowed = &self.routing.allow_regions;
        allowed.is_empty() || allowed.contains(region)
    }
}

/// The choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into the pools.
    pub index: usize,
    /// Why.
    pub reason: Reason,
    /// True when only pools that failed this job already were left.
    pub again: bool,
    /// What the attempt is expected to take and to cost.
    pub expected: Expected,
    baseline: bool,
    /// Whether both the baseline and others could have taken it.
    free: bool,
}

/// What the last decision saw of one pool.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own about a pool")]
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Why it cannot take the job.
    pub refused: Option<Refusal>,
    /// Expectations of an attempt there; nothing where the model is not served.
    pub expected: Expected,
    /// Its expected time with the way there.
    pub time: Duration,
    /// What it is compared by.
    pub score: f64,
    baseline: bool,
    far: bool,
    hot: bool,
    probe: bool,
    /// Slots in use, whatever for.
    busy: u32,
    /// The part of its jobs that goes well.
    ok: f64,
}

/// What is usual in a region, and how far its share is behind.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    cost: f64,
    time: f64,
    deficit: f64,
}

/// The policy and what it remembers.
#[derive(Clone, Debug)]
pub struct Picker {
    policy: PolicyConfig,
    breaker: BreakerConfig,
    regions: HashMap<Region, Usual>,
    /// One entry per pool of the last call, in the order of the pools.
    seen: Vec<Seen>,
    weights: Vec<(usize, f64)>,
}

impl Picker {
    /// A picker without a past.
    pub fn new(policy: PolicyConfig, breaker: BreakerConfig) -> Self {
        Self { policy, breaker, regions: HashMap::new(), seen: Vec::new(), weights: Vec::new() }
    }

    /// Picks a pool with room, or none. Tell [`Picker::placed`] when the job is sent there. Draws a few numbers from `rng`.
    pub fn pick(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros, rng: &mut impl Rng) -> Option<Choice> {
        self.look(pools, ask, now, rng);
        let left = self.seen.iter().any(|s| s.refused.is_none());
        let again = !left && self.relent(pools, ask, now);
        if !self.seen.iter().any(|s| s.refused.is_none() && !s.far) {
            self.stay_home(pools, ask);
        }
        self.score(ask);
        let (index, reason) = self.choose(pools, ask, now, rng)?;
        let seen = self.seen[index];
        let reason = if seen.far { Reason::OtherRegion } else { reason };
        let open = |baseline: bool| {
            self.seen.iter().any(|s| s.refused.is_none() && !s.far && s.baseline == baseline)
        };
        let free = open(true) && open(false);
        Some(Choice { index, reason, again, expected: seen.expected, baseline: seen.baseline, free })
    }

    /// Picks a pool other than those the job runs at already, for a second attempt beside the first: the best that is in
    /// good standing and has something warm; a cold start would come too late, and a container of its own costs more than
    /// the job. Does not count towards the share.
    pub fn hedge(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros, rng: &mut impl Rng) -> Option<Choice> {
        self.look(pools, ask, now, rng);
        self.score(ask);
        let fit = |s: &Seen| s.refused.is_none() && !s.probe && !s.hot;
        let index =
            (0..self.seen.len()).filter(|i| fit(&self.seen[*i])).min_by_key(|i| self.seen[*i].time)?;
        let seen = self.seen[index];
        let (expected, baseline) = (seen.expected, seen.baseline);
        Some(Choice { index, reason: Reason::Hedge, again: false, expected, baseline, free: false })
    }

    /// The last call, told: every pool that serves the model, with its figures and why it was refused. `choice` is what that
    /// call gave.
    pub fn tell(&self, pools: &[Pool], choice: Option<Choice>) -> Decision {
        let shown = |(pool, seen): (&Pool, &Seen)| Candidate {
            pool: pool.id.clone(),
            score: (seen.refused.is_none() && seen.score.is_finite())
                .then(|| (seen.score * 1e3).round() / 1e3),
            cost_usd: Some(seen.expected.cost),
            time_us: Some(micros(seen.time)),
            refused: seen.refused,
        };
        let served = |(_, seen): &(&Pool, &Seen)| seen.refused != Some(Refusal::Model);
        Decision {
            chosen: choice.map(|choice| pools[choice.index].id.clone()),
            reason: choice.map_or(Reason::Nowhere, |choice| choice.reason),
            candidates: pools.iter().zip(&self.seen).filter(served).map(shown).collect(),
        }
    }

    /// Why no pool takes a job now. Changes nothing.
    pub fn explain(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros, rng: &mut impl Rng) -> Decision {
        self.look(pools, ask, now, rng);
        self.tell(pools, None)
    }

    /// What the last call saw: one entry per pool.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// How many jobs the baseline's share is behind in a region; negative when it is ahead.
    pub fn deficit(&self, region: &Region) -> f64 {
        self.regions.get(region).map_or(0.0, |usual| usual.deficit)
    }

    /// A verdict on every pool.
    fn look(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros, rng: &mut impl Rng) {
        self.seen.clear();
        for pool in pools {
            let far = pool.id.region != ask.subject.region;
            let mut seen = Seen {
                refused: Some(Refusal::Model),
                expected: Expected { cost: UsdNanos::ZERO, reserve: UsdNanos::ZERO, time: Duration::ZERO },
                time: Duration::ZERO,
                score: f64::INFINITY,
                baseline: self.policy.baseline.contains(&pool.id.provider),
                far,
                hot: false,
                probe: false,
                busy: 0,
                ok: 1.0,
            };
            if let Some(track) = pool.track(&ask.subject.model) {
                let (free, slots) = pool.free(self.policy.silent_after, now);
                seen.expected = track.expect(now);
                // There and back.
                seen.time = seen.expected.time + pool.delay() * 2;
                seen.ok = track.ok(now);
                seen.busy = slots.saturating_sub(free);
                seen.hot = f64::from(seen.busy) > HOT * f64::from(slots);
                seen.probe = track.wants_probe(&self.breaker, ask.subject.lane, now);
                seen.refused = self.refuse(pool, track, &seen, (free, slots), ask, now, rng);
            }
            self.seen.push(seen);
        }
    }

    /// Why a pool cannot take a job. What the job rules out comes first, then what may pass.
    #[expect(clippy::too_many_arguments, reason = "all that a verdict is about, looked up once")]
    fn refuse(
        &self,
        pool: &Pool,
        track: &Track,
        seen: &Seen,
        (free, slots): (u32, u32),
        ask: Ask<'_>,
        now: Micros,
        rng: &mut impl Rng,
    ) -> Option<Refusal> {
        let provider = &pool.id.provider;
        if !ask.admits_provider(provider) {
            return Some(Refusal::Provider);
        }
        if !ask.admits_region(&pool.id.region) {
            return Some(Refusal::Region);
        }
        if ask.larger_than.is_some_and(|size| track.served.size <= size) {
            return Some(Refusal::Size);
        }
        if let Some(max) = ask.max_cost
            && ask.journal.spent().checked_add(seen.expected.reserve).is_none_or(|after| after > max)
        {
            return Some(Refusal::MaxCost);
        }
        match pool.closed(self.policy.silent_after, now) {
            Some(Closed::Silent) => return Some(Refusal::Silent),
            Some(Closed::Draining) => return Some(Refusal::Draining),
            Some(Closed::Unhealthy) => return Some(Refusal::Breaker),
            Some(Closed::RateLimit) => return Some(Refusal::RateLimit),
            None => {}
        }
        if !track.breaker.admits(&self.breaker, ask.subject.lane, now) {
            return Some(Refusal::Breaker);
        }
        if ask.avoid.contains(&pool.id) || ask.journal.entries.iter().any(|e| e.pool == pool.id) {
            return Some(Refusal::Tried);
        }
        // Its own region's jobs come first there.
        if free == 0 || (seen.far && free <= kept(slots)) {
            return Some(Refusal::Full);
        }
        if track.running() >= track.limit() {
            return Some(Refusal::Limit);
        }
        if !(ask.affordable)(provider, seen.expected.reserve) {
            return Some(Refusal::Budget);
        }
        if track.is_suspect() && !seen.probe {
            return Some(Refusal::Suspect);
        }
        let reject = track.reject(now);
        if reject > 0.0 && !seen.probe && rng.random::<f64>() < reject {
            return Some(Refusal::Throttled);
        }
        if ask.deadline.is_some_and(|at| now + seen.time > at) {
            return Some(Refusal::Deadline);
        }
        None
    }

    /// Lets gates go that help nobody once no pool is left. True when only pools that failed the job were left.
    fn relent(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros) -> bool {
        // A deadline binds the start: whoever may still start in time takes it when nobody would end in time.
        if ask.deadline.is_none_or(|at| now <= at) && self.open(Refusal::Deadline) {
            return false;
        }
        // A slow provider is better than none, and so is one that fails half of its jobs; but not than a short wait.
        let wait = self.wait(pools, ask);
        if wait.is_none_or(|wait| wait > RELENT_AFTER)
            && (self.open(Refusal::Suspect) || self.open(Refusal::Throttled))
        {
            return false;
        }
        let hope = |s: &Seen| matches!(s.refused, Some(Refusal::Full | Refusal::Limit | Refusal::Suspect));
        if ask.rests || (ask.held_for < HOPE_FOR && self.seen.iter().any(hope)) {
            return false;
        }
        let mut again = false;
        for (pool, seen) in pools.iter().zip(&mut self.seen) {
            let fits = || {
                let track = pool.track(&ask.subject.model);
                pool.free(self.policy.silent_after, now).0 > 0
                    && track.is_some_and(|t| t.running() < t.limit())
                    && (ask.affordable)(&pool.id.provider, seen.expected.reserve)
            };
            if seen.refused == Some(Refusal::Tried) && !ask.avoid.contains(&pool.id) && fits() {
                seen.refused = None;
                again = true;
            }
        }
        again
    }

    /// Lets one gate go. True when that leaves a pool.
    fn open(&mut self, gate: Refusal) -> bool {
        let mut any = false;
        for seen in self.seen.iter_mut().filter(|s| s.refused == Some(gate)) {
            seen.refused = None;
            any = true;
        }
        any
    }

    /// How long a job waits for a slot here, by what the last call saw; `None` while there is none to wait for. Each slot
    /// becomes free once in a median service time.
    pub fn wait(&self, pools: &[Pool], ask: Ask<'_>) -> Option<Duration> {
        let mut rate = 0.0;
        for (pool, seen) in pools.iter().zip(&self.seen) {
            if !seen.far
                && matches!(seen.refused, Some(Refusal::Full | Refusal::Limit))
                && let Some(track) = pool.track(&ask.subject.model)
            {
                rate += f64::from(seen.busy.max(1)) / track.service().0.as_secs_f64().max(1e-3);
            }
        }
        (rate > 0.0).then(|| Duration::from_secs_f64(f64::from(ask.ahead + 1) / rate))
    }

    /// Keeps a job from other regions while waiting for a slot here takes less than the way there.
    fn stay_home(&mut self, pools: &[Pool], ask: Ask<'_>) {
        let Some(wait) = self.wait(pools, ask) else { return };
        for (pool, seen) in pools.iter().zip(&mut self.seen) {
            if seen.far && seen.refused.is_none() && pool.delay() * 2 > wait {
                seen.refused = Some(Refusal::Region);
            }
        }
    }

    /// Scores those that are left, over what is usual in the region.
    fn score(&mut self, ask: Ask<'_>) {
        let (w_cost, w_time) = match ask.routing.prefer {
            Prefer::Cost => (0.8, 0.2),
            Prefer::Balanced => (0.5, 0.5),
            Prefer::Latency => (0.1, 0.9),
        };
        let left = || self.seen.iter().filter(|s| s.refused.is_none());
        let cost = left().map(|s| s.expected.cost.get() as f64).sum::<f64>() / left().count().max(1) as f64;
        let time = left().map(|s| s.time).min().unwrap_or_default().as_secs_f64();
        let usual = self.regions.entry(ask.subject.region.clone()).or_default();
        if usual.time == 0.0 {
            (usual.cost, usual.time) = (cost.max(1.0), time.max(1e-3));
        }
        if left().next().is_some() {
            usual.cost += (cost.max(1.0) - usual.cost) * USUAL_NEWS;
            usual.time += (time.max(1e-3) - usual.time) * USUAL_NEWS;
        }
        let (cost, time) = (usual.cost, usual.time);
        for seen in self.seen.iter_mut().filter(|s| s.refused.is_none()) {
            seen.score = w_cost * seen.expected.cost.get() as f64 / cost
                + w_time * seen.time.as_secs_f64() / time
                + RISK * (1.0 - seen.ok);
        }
    }

    fn choose(
        &mut self,
        pools: &[Pool],
        ask: Ask<'_>,
        now: Micros,
        rng: &mut impl Rng,
    ) -> Option<(usize, Reason)> {
        let track = |i: usize| pools[i].track(&ask.subject.model);
        let open = |s: &Seen| s.refused.is_none();
        let here = (0..pools.len()).filter(|&i| open(&self.seen[i]) && !self.seen[i].far);
        if let Some(probe) = here.clone().find(|&i| self.seen[i].probe) {
            return Some((probe, Reason::Probe));
        }
        if ask.subject.lane == Lane::Low && rng.random::<f64>() < EXPLORE {
            let heard = |i: usize| track(i).map_or(now, Track::last_heard);
            let stalest = here.clone().filter(|&i| now.since(heard(i)) > STALE).min_by_key(|&i| heard(i));
            if let Some(stalest) = stalest {
                return Some((stalest, Reason::Explore));
            }
        }
        let best = |among: &dyn Fn(&Seen) -> bool| {
            let scores = self.seen.iter().filter(|s| open(s) && among(s)).map(|s| s.score);
            scores.min_by(f64::total_cmp)
        };
        let (base, rest) = (best(&|s| s.baseline && !s.far), best(&|s| !s.baseline && !s.far));
        let away = best(&|s| s.far);
        let local = base.into_iter().chain(rest).min_by(f64::total_cmp);
        if let Some(away) = away
            && local.is_none_or(|local| away < local * FAR_BETTER)
        {
            return self.draw(|s| s.far, rng).map(|i| (i, Reason::OtherRegion));
        }
        let price = STEP * self.deficit(&ask.subject.region);
        match (base, rest) {
            (Some(base), Some(rest)) => {
                // However much better one is: the other's share of it is what the operator asked for.
                let to_base = (base - rest).clamp(-GAP_MAX, GAP_MAX) <= price;
                let reason = if to_base && base > rest { Reason::BaselineShare } else { Reason::Cheapest };
                self.draw(|s| s.baseline == to_base && !s.far, rng).map(|i| (i, reason))
            }
            (Some(_), None) => self.draw(|s| s.baseline && !s.far, rng).map(|i| (i, Reason::Cheapest)),
            (None, Some(_)) => {
                let reason = if self.policy.baseline_share > 0.0 { Reason::Burst } else { Reason::Cheapest };
                self.draw(|s| !s.far, rng).map(|i| (i, reason))
            }
            (None, None) => None,
        }
    }

    /// Draws two of the pools that are left, each with weight `score^-12` ([`SHARPNESS`]), and takes the better one. A nearly full
    /// pool loses to one that is not.
    fn draw(&mut self, among: impl Fn(&Seen) -> bool, rng: &mut impl Rng) -> Option<usize> {
        self.weights.clear();
        let mut total = 0.0;
        for (i, seen) in self.seen.iter().enumerate().filter(|(_, s)| s.refused.is_none() && among(s)) {
            total += seen.score.max(1e-3).powi(SHARPNESS);
            self.weights.push((i, total));
        }
        if self.weights.len() < 2 {
            return self.weights.first().map(|(i, _)| *i);
        }
        let mut one = || {
            let at = rng.random::<f64>() * total;
            self.weights.iter().find(|(_, sum)| at < *sum).or(self.weights.last()).map(|(i, _)| *i)
        };
        let (a, b) = (one()?, one()?);
        let rank = |i: usize| (self.seen[i].hot, self.seen[i].score);
        let ((a_hot, a_score), (b_hot, b_score)) = (rank(a), rank(b));
        let first = a_hot.cmp(&b_hot).then(a_score.total_cmp(&b_score)).is_le();
        Some(if first { a } else { b })
    }

    /// A job of that region was sent where the choice says: counts towards the share.
    pub fn placed(&mut self, region: &Region, choice: &Choice) {
        let usual = self.regions.entry(region.clone()).or_default();
        let before = usual.deficit;
        let after = before + self.policy.baseline_share - f64::from(u8::from(choice.baseline));
        let most = if choice.free { DEFICIT_MAX } else { DEFICIT_FORCED_MAX.max(before.abs()) };
        usual.deficit = after.clamp(-most, most);
    }
}

#[cfg(test)]
mod tests;
