//! The choice among the pools that are left: their scores, the baseline's share, and the draw.

use rand::{Rng, RngExt};
use schemas::{Lane, Micros, Region, decision::Reason, job::Prefer};

use super::{Ask, Choice, Picker, Seen};
use crate::{pool::Pool, track::Track};
use std::time::Duration;

/// How far the share may fall behind, in jobs, while both tiers could take jobs. With `STEP` it is a price of four times the usual
/// score: no free choice is so bad that the share could not be held.
pub const DEFICIT_MAX: f64 = 80.0;
/// The same while only one tier could take them. It keeps the end of an outage of the baseline from becoming a stampede (integral
/// windup).
pub const DEFICIT_FORCED_MAX: f64 = 20.0;
/// What a job of deficit is worth, as a part of the usual score.
const STEP: f64 = 0.05;
/// The largest gap between two scores that counts, so that a deficit within its bounds always outweighs it.
const GAP_MAX: f64 = 0.9 * STEP * DEFICIT_MAX;
/// How much a failure weighs: a pool that fails every other job has to be better by the usual score.
const RISK: f64 = 2.0;
/// A pool in another region must have at most this part of the best local score, its way included, while a local pool can take
/// the job.
const FAR_BETTER: f64 = 0.8;
/// The part of low jobs that goes to the pool of which least is known, if nothing was heard of it for [`STALE`].
const EXPLORE: f64 = 0.01;
const STALE: Duration = Duration::from_secs(300);
/// A pool is drawn with weight `score^-12`: a score 6 % lower doubles the weight, so only near ties are shared. OpenRouter weighs
/// by the inverse square of the price, which is too even here: a job that wakes a second provider's containers also pays for
/// their idle time.
const SHARPNESS: i32 = -12;
/// How much the newest job counts for what is usual in a region.
const USUAL_NEWS: f64 = 0.02;

impl Picker {
    /// Scores the pools that are left: cost and time over what is usual in the region, and the risk of a failure.
    pub(super) fn score(&mut self, ask: Ask<'_>) {
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

    /// Chooses among the pools that are left: a probe before all, then exploration, then a far better pool elsewhere, then the tier
    /// that the share asks for.
    pub(super) fn choose(
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
                // The share is what the operator asked for, however much better one tier is: hence the clamp.
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

    /// Counts a job of that region towards the share: it was sent where the choice says.
    pub fn placed(&mut self, region: &Region, choice: &Choice) {
        let usual = self.regions.entry(region.clone()).or_default();
        let before = usual.deficit;
        let after = before + self.policy.baseline_share - f64::from(u8::from(choice.baseline));
        let most = if choice.free { DEFICIT_MAX } else { DEFICIT_FORCED_MAX.max(before.abs()) };
        usual.deficit = after.clamp(-most, most);
    }
}
