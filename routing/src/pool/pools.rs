//! All pools that were heard of, and what each kind of news changes about them.

use std::time::Duration;

use rand::Rng;
use schemas::{
    Lane, Micros, ModelToken, PoolId, Region,
    failure::{BreakerEffect, FailureClass, RETRY_AFTER_DEFAULT},
    handover::Acceptances,
    heartbeat::Heartbeat,
};

use super::{Pool, kept};
use crate::{
    breaker::Turn,
    cold::Bin,
    config::BreakerConfig,
    suspicion::SLOW,
    track::{Ours, Outcome, Track},
};

/// A pool of which nothing ended for so long says nothing about how fast others are.
const COMPARED_FOR: Duration = Duration::from_secs(120);

/// What changed about a pool, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// A breaker opened.
    Opened,
    /// A breaker closed.
    Closed,
    /// The pool is much slower than it was and than others.
    Suspect,
}

/// All pools that were heard of.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pools: Vec<Pool>,
}

impl Pools {
    /// All of them, in the order in which they were first heard of.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter()
    }

    /// The pool at an index that [`crate::pick`] gave.
    pub fn at(&mut self, index: usize) -> &mut Pool {
        &mut self.pools[index]
    }

    /// The pools as a slice, for picking.
    pub fn as_slice(&self) -> &[Pool] {
        &self.pools
    }

    /// A pool by name.
    pub fn find(&mut self, id: &PoolId) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|p| p.id == *id)
    }

    fn entry(&mut self, id: &PoolId) -> &mut Pool {
        let index = self.pools.iter().position(|p| p.id == *id).unwrap_or_else(|| {
            self.pools.push(Pool::new(id.clone()));
            self.pools.len() - 1
        });
        &mut self.pools[index]
    }

    fn track(&mut self, id: &PoolId, model: &ModelToken) -> Option<&mut Track> {
        self.find(id)?.track_mut(model)
    }

    /// Takes in a heartbeat heard at `now`. True if the provider seems to hang, and did not before.
    pub fn heartbeat(&mut self, beat: Heartbeat, now: Micros) -> bool {
        self.entry(&beat.pool).heartbeat(beat, now)
    }

    /// Takes in how full a worker is, from its acceptances.
    pub fn load(&mut self, news: &Acceptances, now: Micros) {
        self.entry(&news.pool).load(&news.worker, news.running, now);
    }

    /// Forgets workers that were silent for a minute, with all that they said.
    pub fn forget_silent(&mut self, now: Micros) {
        for pool in &mut self.pools {
            pool.forget_silent(now);
        }
    }

    /// The clock by which everything was noted is set back.
    pub fn clock_was_set_back(&mut self, by: Duration) {
        for pool in &mut self.pools {
            pool.clock_was_set_back(by);
        }
    }

    /// Sets the counts of our own open attempts to what the owner of the jobs knows: one entry per attempt, or sums. A model that
    /// is not named has none. The calls below adjust the counts as things happen, and no error of theirs outlives the next call
    /// of this one. Looks through the pools once per entry.
    pub fn set_ours<'a>(&mut self, open: impl IntoIterator<Item = (&'a PoolId, &'a ModelToken, Ours)>) {
        for (_, track) in self.pools.iter_mut().flat_map(|pool| &mut pool.tracks) {
            track.set_ours(Ours::default());
        }
        for (id, model, more) in open {
            if let Some(track) = self.track(id, model) {
                let mut ours = track.ours();
                ours += more;
                track.set_ours(ours);
            }
        }
    }

    /// An attempt of ours was offered to the pool at `index`. Gives the bin of cold starts that [`Pools::ended`] wants back.
    pub fn sent(&mut self, index: usize, model: &ModelToken, config: &BreakerConfig, now: Micros) -> Bin {
        let track = self.pools[index].track_mut(model);
        track.map(|track| track.sent(config, now)).unwrap_or_default()
    }

    /// An offer of ours was answered, or lapsed. `taken` if its attempt runs now.
    pub fn answered(&mut self, id: &PoolId, model: &ModelToken, taken: bool) {
        if let Some(track) = self.track(id, model) {
            track.answered(taken);
        }
    }

    /// An accepted attempt of ours will not be heard of again, or never called its provider.
    pub fn vanished(&mut self, id: &PoolId, model: &ModelToken) {
        if let Some(track) = self.track(id, model) {
            track.vanished();
        }
    }

    /// An attempt of ours ended.
    #[expect(
        clippy::too_many_arguments,
        reason = "which attempt, how it ended, and what time and chance are"
    )]
    pub fn ended(
        &mut self,
        id: &PoolId,
        model: &ModelToken,
        outcome: &Outcome,
        bin: Bin,
        config: &BreakerConfig,
        now: Micros,
        rng: &mut impl Rng,
    ) -> Change {
        let Some(index) = self.pools.iter().position(|p| p.id == *id) else { return Change::None };
        let pool = &mut self.pools[index];
        let slots = pool.slots();
        if let Some(class) = outcome.failed {
            shared(pool, class, outcome, config, now, rng);
        }
        let Some(track) = pool.track_mut(model) else { return Change::None };
        match track.ended(outcome, bin, slots, config, now, rng) {
            Turn::Opened => return Change::Opened,
            Turn::Closed => return Change::Closed,
            Turn::Stayed => {}
        }
        if track.slowness() >= SLOW && !track.is_suspect() && self.slower_than_others(index, model, now) {
            let suspected = self.pools[index].track_mut(model).is_some_and(|track| track.suspect(now));
            return if suspected { Change::Suspect } else { Change::None };
        }
        Change::None
    }

    /// Whether a pool is slow while another is as fast as ever: longer prompts make all of them slow.
    fn slower_than_others(&self, index: usize, model: &ModelToken, now: Micros) -> bool {
        let own = self.pools[index].track(model).map_or(Duration::ZERO, |track| track.averages().1);
        let others = self.pools.iter().enumerate().filter(|(i, _)| *i != index);
        let fastest = others
            .filter_map(|(_, pool)| pool.track(model))
            .filter(|t| !t.is_suspect() && now.since(t.last_heard()) < COMPARED_FOR)
            .map(|track| track.averages().1)
            .min();
        fastest.is_none_or(|fastest| own >= fastest.mul_f64(SLOW))
    }

    /// How many jobs of `model` could start now for `region`. Slots of other regions count only if none here is free, and without
    /// those they keep for their own jobs.
    pub fn free_slots(
        &self,
        region: &Region,
        model: &ModelToken,
        silent_after: Duration,
        config: &BreakerConfig,
        now: Micros,
    ) -> u32 {
        let open = |p: &&Pool| {
            p.track(model).is_some_and(|t| t.breaker.admits(config, Lane::Low, now))
                && p.closed(silent_after, now).is_none()
        };
        let free = |p: &Pool| {
            let (free, slots) = p.free(silent_after, now);
            let limit = p.track(model).map_or(0, |t| t.limit().saturating_sub(t.running()));
            (free.min(limit), slots)
        };
        let here =
            self.pools.iter().filter(|p| p.id.region == *region).filter(open).map(|p| free(p).0).sum::<u32>();
        if here > 0 {
            return here;
        }
        let away = self.pools.iter().filter(|p| p.id.region != *region).filter(open);
        away.map(free).map(|(free, slots)| free.saturating_sub(kept(slots))).sum()
    }
}

/// What a failure means for all models of a pool: they share a key and an account.
fn shared(
    pool: &mut Pool,
    class: FailureClass,
    outcome: &Outcome,
    config: &BreakerConfig,
    now: Micros,
    rng: &mut impl Rng,
) {
    match class.remedy().breaker {
        BreakerEffect::CloseUntil => {
            let wait = outcome.retry_after.unwrap_or(RETRY_AFTER_DEFAULT);
            pool.closed_until = pool.closed_until.max(now + wait);
        }
        BreakerEffect::Open if class == FailureClass::Authentication => {
            for (_, track) in pool.tracks.iter_mut().filter(|(_, track)| !track.breaker.is_tripped()) {
                track.breaker.open(config, now, rng);
            }
        }
        BreakerEffect::Open | BreakerEffect::None | BreakerEffect::Count => {}
    }
}
