//! Job and pools → pool. Pure: no I/O, no clock, and no allocation beyond the scratch that is kept.
//!
//! ```text
//!  every pool ─▶ gates ─▶ probes first ─▶ explore (1 % of low) ─▶ baseline or rest? ─▶ draw two, take the better
//!             (`gates`) └──────────────────────────── (`choose`) ─────────────────────────────┘
//! ```
//!
//! Pools are compared by a score: expected cost and time over what is usual in the region, weighed by what the job prefers, plus
//! the risk of failure. The baseline's share is held by a price: a deficit `D` (Shreedhar and Varghese, 1995) grows with each job
//! by which the share is behind, and makes the baseline cheaper by `STEP · D`. That is dual ascent on the share (Neely,
//! "Stochastic Network Optimization", 2010): the baseline gets the jobs that gain most by it, the other pools get those that lose
//! least, and the share is met all the same because `D` is bounded.
//!
//! Within a tier, two pools are drawn with a probability that falls with the twelfth power of the score, and the better of the
//! two is taken (Mitzenmacher, 2001). A nearly full pool loses to one that is not (Prequal, NSDI 2024). So many dispatchers do
//! not herd, and the figures of the second best stay fresh.

mod choose;
mod gates;

use std::{collections::HashMap, time::Duration};

use rand::Rng;
use schemas::{
    Micros, PoolId, ProviderId, Region, UsdNanos,
    decision::{Candidate, Decision, Reason, Refusal},
    job::{Head, Routing},
    journal::Journal,
    subjects::JobSubject,
    time::micros,
};

pub use self::{
    choose::{DEFICIT_FORCED_MAX, DEFICIT_MAX},
    gates::HOPE_FOR,
};
use crate::{
    config::{BreakerConfig, PolicyConfig},
    pool::Pool,
    track::Expected,
};

/// What a decision looks at besides the pools: one job.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Region, model, lane and tenant.
    pub subject: &'a JobSubject,
    /// Where it may run, and what it prefers.
    pub routing: &'a Routing,
    /// When it must have started, and should have ended.
    pub deadline: Option<Micros>,
    /// The most that all attempts together may cost.
    pub max_cost: Option<UsdNanos>,
    /// What earlier attempts left behind.
    pub journal: &'a Journal,
    /// The size of the machine that ran out of memory, if the last attempt did.
    pub larger_than: Option<u16>,
    /// Pools that must not take the job now: they refused it a moment ago, or run it already.
    pub avoid: &'a [PoolId],
    /// How many jobs wait in front of this one for the same slots.
    pub ahead: u32,
    /// How long the job has waited for this attempt.
    pub held_for: Duration,
    /// Whether the job rests after a failure ([`crate::retry::rest`]): a pool that failed it must not take it yet.
    pub rests: bool,
    /// Whether the tenant's budgets admit an attempt at that provider that may cost that much.
    pub affordable: &'a dyn Fn(&ProviderId, UsdNanos) -> bool,
}

impl<'a> Ask<'a> {
    /// The first attempt of a job, with no job in front of it and no budget.
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

/// A pool that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its index in the pools.
    pub index: usize,
    /// Why it was chosen.
    pub reason: Reason,
    /// True if only pools that have failed this job were left.
    pub again: bool,
    /// The expected time and cost of the attempt.
    pub expected: Expected,
    baseline: bool,
    /// Whether both the baseline and another pool could have taken the job.
    free: bool,
}

/// What the last call saw of one pool.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own about a pool")]
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The gate that keeps the job from it; `None` if it can take the job.
    pub refused: Option<Refusal>,
    /// The expected time and cost of an attempt there; zero if the model is not served.
    pub expected: Expected,
    /// The expected time, the way there and back included.
    pub time: Duration,
    /// What pools are compared by: lower is better.
    pub score: f64,
    baseline: bool,
    far: bool,
    hot: bool,
    probe: bool,
    /// Slots in use, of all models.
    busy: u32,
    /// The part of its jobs that succeeds.
    ok: f64,
}

/// What an attempt in a region usually costs and takes, and how many jobs the baseline's share is behind there.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    cost: f64,
    time: f64,
    deficit: f64,
}

/// The policy, and what it remembers from one decision to the next.
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
    /// A picker that has decided nothing yet.
    pub fn new(policy: PolicyConfig, breaker: BreakerConfig) -> Self {
        Self { policy, breaker, regions: HashMap::new(), seen: Vec::new(), weights: Vec::new() }
    }

    /// Picks a pool that can take the job now, or none. Call [`Picker::placed`] when the job is sent there. Draws a few numbers
    /// from `rng`.
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

    /// Picks a pool for a second attempt beside the first: the fastest that is in good standing and not nearly full. `ask.avoid`
    /// names the pools at which the job runs. The choice does not count towards the share.
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

    /// The last call as a decision to show: every pool that serves the model, with its figures and the gate that kept the job from
    /// it. `choice` is what that call gave.
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

    /// What keeps the job from each pool now, as a decision to show. Changes nothing but [`Picker::seen`].
    pub fn explain(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros, rng: &mut impl Rng) -> Decision {
        self.look(pools, ask, now, rng);
        self.tell(pools, None)
    }

    /// What the last call saw: one entry per pool, in their order.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// How many jobs the baseline's share is behind in a region; negative if it is ahead.
    pub fn deficit(&self, region: &Region) -> f64 {
        self.regions.get(region).map_or(0.0, |usual| usual.deficit)
    }
}

#[cfg(test)]
mod tests;
