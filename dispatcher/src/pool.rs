//! Which pools are alive, where, and how loaded: what heartbeats, acceptances and returns add up to. Pure.

use std::{collections::BTreeMap, time::Duration};

use rand::Rng;
use schemas::{
    Micros, ModelToken, PoolId, Region, WorkerId,
    failure::{BreakerEffect, Failure, RETRY_AFTER_DEFAULT},
    handover::Acceptances,
    heartbeat::{Heartbeat, ServedModel},
};

use crate::{breaker::Breaker, config::BreakerConfig};

/// A pool as we see it.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Which.
    pub id: PoolId,
    workers: BTreeMap<WorkerId, Worker>,
    /// Our own offers that nobody has answered yet.
    pub offered: u32,
    /// Whether its provider is left alone.
    pub breaker: Breaker,
    /// A rate limit keeps it closed until then.
    pub closed_until: Micros,
    models: Vec<ServedModel>,
}

#[derive(Clone, Debug)]
struct Worker {
    started: Micros,
    heard: Micros,
    slots: u32,
    running: u32,
    draining: bool,
    healthy: bool,
    succeeded: u64,
}

/// What keeps a whole pool from taking anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Nobody said anything for too long.
    Silent,
    /// All workers are leaving.
    Draining,
    /// The breaker is open, or every worker finds its provider down.
    Breaker,
    /// A rate limit.
    RateLimit,
}

impl Pool {
    fn new(id: PoolId) -> Self {
        Self {
            id,
            workers: BTreeMap::new(),
            offered: 0,
            breaker: Breaker::default(),
            closed_until: Micros::default(),
            models: Vec::new(),
        }
    }

    /// What it serves of `model`.
    pub fn serves(&self, model: &ModelToken) -> Option<&ServedModel> {
        self.models.iter().find(|m| m.model == *model)
    }

    /// What keeps it from taking anything, if something does.
    pub fn closed(&self, silent_after: Duration, breaker: &BreakerConfig, now: Micros) -> Option<Closed> {
        let mut heard = self.workers.values().filter(|w| now.since(w.heard) <= silent_after).peekable();
        if heard.peek().is_none() {
            return Some(Closed::Silent);
        }
        let mut taking = heard.filter(|w| !w.draining).peekable();
        if taking.peek().is_none() {
            return Some(Closed::Draining);
        }
        if !taking.any(|w| w.healthy) || !self.breaker.admits(breaker, now) {
            return Some(Closed::Breaker);
        }
        (now < self.closed_until).then_some(Closed::RateLimit)
    }

    /// Slots that are free as far as we know, our own unanswered offers counted as taken.
    pub fn free(&self, silent_after: Duration, now: Micros) -> u32 {
        let open = self
            .workers
            .values()
            .filter(|w| !w.draining && w.healthy && now.since(w.heard) <= silent_after)
            .map(|w| w.slots.saturating_sub(w.running))
            .sum::<u32>();
        open.saturating_sub(self.offered)
    }
}

/// All pools we have heard of.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pools: Vec<Pool>,
}

impl Pools {
    /// All of them, in the order they were first heard of.
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

    /// Takes in a heartbeat heard at `now`.
    pub fn heartbeat(&mut self, beat: Heartbeat, breaker: &BreakerConfig, now: Micros) {
        let pool = self.entry(&beat.pool);
        pool.models = beat.models;
        let before = pool.workers.get(&beat.worker).filter(|w| w.started == beat.started_us);
        let news = beat.succeeded.saturating_sub(before.map_or(beat.succeeded, |w| w.succeeded));
        if news > 0 {
            pool.breaker.succeeded(breaker, news);
        }
        let worker = Worker {
            started: beat.started_us,
            heard: now,
            slots: beat.slots,
            running: beat.running,
            draining: beat.draining,
            healthy: beat.healthy.unwrap_or(true),
            succeeded: beat.succeeded,
        };
        pool.workers.insert(beat.worker, worker);
    }

    /// Forgets workers that said nothing for a minute.
    pub fn forget_silent(&mut self, now: Micros) {
        for pool in &mut self.pools {
            pool.workers.retain(|_, w| now.since(w.heard) < Duration::from_secs(60));
        }
    }

    /// Takes in how full a worker is, from its acceptances.
    pub fn load(&mut self, news: &Acceptances, now: Micros) {
        if let Some(worker) = self.entry(&news.pool).workers.get_mut(&news.worker) {
            worker.running = news.running;
            worker.heard = now;
        }
    }

    /// Takes in a failed attempt. True when it opened the breaker.
    pub fn failure(
        &mut self,
        id: &PoolId,
        failure: &Failure,
        config: &BreakerConfig,
        now: Micros,
        rng: &mut impl Rng,
    ) -> bool {
        let Some(pool) = self.find(id) else { return false };
        match failure.class.remedy().breaker {
            BreakerEffect::None => {
                pool.breaker.unsent();
                false
            }
            BreakerEffect::Count => pool.breaker.failed(config, now, rng),
            BreakerEffect::Open => {
                let fresh = !pool.breaker.is_tripped();
                pool.breaker.open(config, now, rng);
                fresh
            }
            BreakerEffect::CloseUntil => {
                let wait = failure.retry_after_us.map_or(RETRY_AFTER_DEFAULT, Duration::from_micros);
                pool.closed_until = pool.closed_until.max(now + wait);
                pool.breaker.unsent();
                false
            }
        }
    }

    /// Free slots for `model` in `region`; of other regions only when no pool here could ever take it now.
    pub fn room(
        &self,
        region: &Region,
        model: &ModelToken,
        silent_after: Duration,
        breaker: &BreakerConfig,
        now: Micros,
    ) -> u32 {
        let open = |p: &&Pool| p.serves(model).is_some() && p.closed(silent_after, breaker, now).is_none();
        let mut here = self.pools.iter().filter(|p| p.id.region == *region).filter(open).peekable();
        if here.peek().is_some() {
            here.map(|p| p.free(silent_after, now)).sum()
        } else {
            self.pools.iter().filter(open).map(|p| p.free(silent_after, now)).sum()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use schemas::UsdNanos;

    pub(crate) fn beat(pool: &str, slots: u32, running: u32, cost: u64) -> Heartbeat {
        let served = |model: &str| ServedModel {
            model: model.parse().unwrap(),
            sku: "x".into(),
            size: 1,
            expected_cost_usd: UsdNanos::new(cost),
            p50_us: 400_000,
            p95_us: 900_000,
        };
        Heartbeat {
            pool: pool.parse().unwrap(),
            worker: "w1".parse().unwrap(),
            started_us: Micros::new(1),
            at_us: Micros::new(1),
            slots,
            running,
            draining: false,
            healthy: None,
            succeeded: 0,
            failed: 0,
            models: vec![served("llama-3-2-1b"), served("mistral-7b")],
        }
    }

    const SILENT: Duration = Duration::from_secs(4);

    #[test]
    fn our_own_offers_count_as_taken() {
        let (mut pools, breaker, now) = (Pools::default(), BreakerConfig::default(), Micros::new(1_000_000));
        pools.heartbeat(beat("golem@us-east", 10, 4, 1), &breaker, now);
        pools.at(0).offered = 5;
        assert_eq!(pools.at(0).free(SILENT, now), 1);
    }

    #[test]
    fn a_silent_pool_is_closed_and_has_no_room() {
        let (mut pools, breaker, now) = (Pools::default(), BreakerConfig::default(), Micros::new(1_000_000));
        pools.heartbeat(beat("golem@us-east", 10, 4, 1), &breaker, now);
        let later = now + Duration::from_secs(5);
        assert_eq!(pools.at(0).closed(SILENT, &breaker, later), Some(Closed::Silent));
        assert_eq!(pools.at(0).free(SILENT, later), 0);
    }

    #[test]
    fn other_regions_have_room_only_when_nobody_here_could_take_it() {
        let (mut pools, breaker, now) = (Pools::default(), BreakerConfig::default(), Micros::new(1_000_000));
        let (here, model) = ("us-east".parse().unwrap(), "mistral-7b".parse().unwrap());
        pools.heartbeat(beat("golem@eu-west", 10, 0, 1), &breaker, now);
        assert_eq!(pools.room(&here, &model, SILENT, &breaker, now), 10);
        pools.heartbeat(beat("golem@us-east", 3, 3, 1), &breaker, now);
        assert_eq!(pools.room(&here, &model, SILENT, &breaker, now), 0);
    }
}
