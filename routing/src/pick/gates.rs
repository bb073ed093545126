//! The gates: what keeps a job from each pool, and which gates give way when no pool is left.

use std::time::Duration;

use rand::{Rng, RngExt};
use schemas::{Micros, UsdNanos, decision::Refusal};

use super::{Ask, Picker, Seen};
use crate::{
    pool::{Closed, Pool, kept},
    track::{Expected, Track},
};

/// A pool with a larger part of its slots in use than this loses a draw against one with fewer.
const HOT: f64 = 0.8;
/// A longer wait for a good pool is worse than a bad pool now.
const RELENT_AFTER: Duration = Duration::from_secs(1);
/// How long a job waits for a pool that has not failed it before it goes back to one that has. Two dozen service times of a usual
/// model: a slot that is really in use is free by then. Without a bound, a pool that is full for ever (it hangs, or it is counted
/// wrong) would hold the job for ever.
pub const HOPE_FOR: Duration = Duration::from_secs(10);

impl Picker {
    /// Looks at every pool: its figures, and the gate that keeps the job from it.
    pub(super) fn look(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros, rng: &mut impl Rng) {
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

    /// The first gate that keeps the job from a pool. Gates that never open come first, then those that may.
    #[expect(clippy::too_many_arguments, reason = "all that the gates look at, looked up once")]
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
        // A pool in another region keeps slots for the jobs of its own.
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

    /// Called when no pool is left: opens the gates that are worth less than an attempt. True if that leaves only pools that have
    /// failed the job.
    pub(super) fn relent(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros) -> bool {
        // A deadline is about the start: if no pool would end in time, one that can start in time will do.
        if ask.deadline.is_none_or(|at| now <= at) && self.open(Refusal::Deadline) {
            return false;
        }
        // A slow provider is better than none, and so is one that fails half of its jobs; a short wait is better than both.
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

    /// Opens one gate. True if that leaves a pool.
    fn open(&mut self, gate: Refusal) -> bool {
        let mut any = false;
        for seen in self.seen.iter_mut().filter(|s| s.refused == Some(gate)) {
            seen.refused = None;
            any = true;
        }
        any
    }

    /// How long the job waits for a slot in its own region, by what the last call saw; `None` if no pool there is full or at its
    /// limit. Each slot becomes free once in a median service time.
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

    /// Keeps the job from other regions while a slot here is free sooner than a message gets there and back.
    pub(super) fn stay_home(&mut self, pools: &[Pool], ask: Ask<'_>) {
        let Some(wait) = self.wait(pools, ask) else { return };
        for (pool, seen) in pools.iter().zip(&mut self.seen) {
            if seen.far && seen.refused.is_none() && pool.delay() * 2 > wait {
                seen.refused = Some(Refusal::Region);
            }
        }
    }
}
