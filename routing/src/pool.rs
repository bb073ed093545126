//! Which pools are alive, where, how loaded and how good: what heartbeats, acceptances and outcomes add up to. Pure.
//!
//! What is known of a model at a pool stands in its [`Track`]; here is what all models of a pool share.

use std::time::Duration;

use rand::Rng;
use schemas::{
    Micros, ModelToken, PoolId, Region, WorkerId,
    failure::{BreakerEffect, FailureClass, RETRY_AFTER_DEFAULT},
    handover::Acceptances,
    heartbeat::Heartbeat,
};

use crate::{
    breaker::Turn,
    cold::Bin,
    config::BreakerConfig,
    reports::Report,
    track::{Ours, Outcome, SLOW, Track},
};

/// Of another region's slots, so many stay for its own jobs.
const KEPT_AT_HOME: f64 = 0.2;
/// How much the newest heartbeat counts for the delay of the way.
const DELAY_NEWS: f64 = 0.1;
/// The way takes no longer: a clock that is wrong must not make a pool look a day away.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// A worker that was silent for so long is gone, and what it ran with it: by then its jobs have been delivered again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// A pool as we see it.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Which.
    pub id: PoolId,
    /// By name. A few at most, and walked for every decision: a list is several times as fast as a tree.
    workers: Vec<(WorkerId, Worker)>,
    /// A rate limit keeps it closed until then.
    pub closed_until: Micros,
    /// How long news from there takes, by their clock and ours.
    delay: Duration,
    tracks: Vec<(ModelToken, Track)>,
}

#[derive(Clone, Debug)]
struct Worker {
    heard: Micros,
    slots: u32,
    running: u32,
    draining: bool,
    healthy: bool,
}

/// What keeps a whole pool from taking anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Nobody said anything for too long.
    Silent,
    /// All workers are leaving.
    Draining,
    /// Every worker finds its provider down.
    Unhealthy,
    /// A rate limit.
    RateLimit,
}

/// What changed about a pool, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// A breaker opened.
    Opened,
    /// A breaker closed.
    Closed,
    /// It is much slower than it was and than others.
    Suspect,
}

impl Pool {
    fn new(id: PoolId) -> Self {
        Self {
            id,
            workers: Vec::new(),
            closed_until: Micros::default(),
            delay: Duration::ZERO,
            tracks: Vec::new(),
        }
    }

    /// What is known of `model` there, if it is served.
    pub fn track(&self, model: &ModelToken) -> Option<&Track> {
        self.tracks.iter().find(|(token, _)| token == model).map(|(_, track)| track)
    }

    /// The same, to be changed.
    pub fn track_mut(&mut self, model: &ModelToken) -> Option<&mut Track> {
        self.tracks.iter_mut().find(|(token, _)| token == model).map(|(_, track)| track)
    }

    /// All models it serves.
    pub fn tracks(&self) -> impl Iterator<Item = (&ModelToken, &Track)> {
        self.tracks.iter().map(|(model, track)| (model, track))
    }

    /// Its workers.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerId> {
        self.workers.iter().map(|(id, _)| id)
    }

    /// Whether that worker was heard of lately.
    pub fn heard_of(&self, worker: &WorkerId, silent_after: Duration, now: Micros) -> bool {
        self.workers.iter().any(|(id, w)| id == worker && now.since(w.heard) <= silent_after)
    }

    /// How long the way there takes, as far as heartbeats tell.
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// What keeps it from taking anything, if something does.
    pub fn closed(&self, silent_after: Duration, now: Micros) -> Option<Closed> {
        let mut heard = self.each().filter(|w| now.since(w.heard) <= silent_after).peekable();
        if heard.peek().is_none() {
            return Some(Closed::Silent);
        }
        let mut taking = heard.filter(|w| !w.draining).peekable();
        if taking.peek().is_none() {
            return Some(Closed::Draining);
        }
        if !taking.any(|w| w.healthy) {
            return Some(Closed::Unhealthy);
        }
        (now < self.closed_until).then_some(Closed::RateLimit)
    }

    /// Slots that are free as far as we know, our own unanswered offers counted as taken; and all slots that are open.
    pub fn free(&self, silent_after: Duration, now: Micros) -> (u32, u32) {
        let (mut free, mut slots) = (0u32, 0u32);
        for w in self.each() {
            if !w.draining && w.healthy && now.since(w.heard) <= silent_after {
                free += w.slots.saturating_sub(w.running);
                slots += w.slots;
            }
        }
        let offered: u32 = self.tracks.iter().map(|(_, track)| track.ours().offered).sum();
        (free.saturating_sub(offered), slots)
    }

    fn each(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().map(|(_, worker)| worker)
    }

    fn slots(&self) -> u32 {
        self.each().map(|w| w.slots).sum()
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

    /// Takes in a heartbeat heard at `now`. True if the provider seems to hang, and did not before.
    pub fn heartbeat(&mut self, beat: Heartbeat, now: Micros) -> bool {
        let pool = self.entry(&beat.pool);
        let before = pool.slots();
        let delay = now.since(beat.at_us).min(DELAY_MAX);
        pool.delay = if before == 0 {
            delay
        } else {
            pool.delay.mul_f64(1.0 - DELAY_NEWS) + delay.mul_f64(DELAY_NEWS)
        };
        let worker = Worker {
            heard: now,
            slots: beat.slots,
            running: beat.running,
            draining: beat.draining,
            healthy: beat.healthy.unwrap_or(true),
        };
        let weight = if worker.draining { 0 } else { worker.slots };
        match pool.workers.binary_search_by(|(id, _)| id.cmp(&beat.worker)) {
            Ok(index) => pool.workers[index].1 = worker,
            Err(index) => pool.workers.insert(index, (beat.worker.clone(), worker)),
        }
        let slots = pool.slots();
        for (model, track) in &mut pool.tracks {
            if !beat.models.iter().any(|served| served.model == *model) {
                track.forget(&beat.worker);
            }
        }
        let mut hangs = false;
        for served in beat.models {
            let report = Report { worker: beat.worker.clone(), weight, served };
            if let Some(track) = pool.track_mut(&report.served.model) {
                hangs |= track.heard(report, before, slots, now);
            } else {
                pool.tracks.push((report.served.model.clone(), Track::new(report, slots)));
            }
        }
        pool.tracks.retain(|(_, track)| track.is_served());
        hangs
    }

    /// Forgets workers that said nothing for a minute, with all that they said.
    pub fn forget_silent(&mut self, now: Micros) {
        for Pool { workers, tracks, .. } in &mut self.pools {
            workers.retain(|(id, worker)| {
                let stays = now.since(worker.heard) < FORGOTTEN_AFTER;
                if !stays {
                    for (_, track) in tracks.iter_mut() {
                        track.forget(id);
                    }
                }
                stays
            });
        }
    }

    /// Takes in how full a worker is, from its acceptances.
    pub fn load(&mut self, news: &Acceptances, now: Micros) {
        let pool = self.entry(&news.pool);
        if let Some((_, worker)) = pool.workers.iter_mut().find(|(id, _)| *id == news.worker) {
            worker.running = news.running;
            worker.heard = now;
        }
    }

    /// Sets the attempts of our own that are open, as whoever owns the jobs knows them: one entry per attempt, or sums. Where none
    /// is named there is none. So what was counted by the calls below cannot drift from the truth for longer than until the next
    /// call of this one. Takes one look through the pools per entry.
    pub fn set_ours<'a>(&mut self, open: impl IntoIterator<Item = (&'a PoolId, &'a ModelToken, Ours)>) {
        for (_, track) in self.pools.iter_mut().flat_map(|pool| &mut pool.tracks) {
            track.set_ours(Ours::default());
        }
        for (id, model, more) in open {
            if let Some(track) = self.find(id).and_then(|pool| pool.track_mut(model)) {
                let mut ours = track.ours();
                ours += more;
                track.set_ours(ours);
            }
        }
    }

    /// An attempt is offered to the pool at `index`. Gives what its end must be told with.
    pub fn sent(&mut self, index: usize, model: &ModelToken, config: &BreakerConfig, now: Micros) -> Bin {
        let pool = &mut self.pools[index];
        pool.track_mut(model).map(|track| track.sent(config, now)).unwrap_or_default()
    }

    /// An offer was answered, or lapsed; `taken` when its attempt runs now.
    pub fn answered(&mut self, id: &PoolId, model: &ModelToken, taken: bool) {
        if let Some(track) = self.find(id).and_then(|pool| pool.track_mut(model)) {
            track.answered(taken);
        }
    }

    /// An attempt that was accepted will not be heard of again, or never called its provider.
    pub fn vanished(&mut self, id: &PoolId, model: &ModelToken) {
        if let Some(track) = self.find(id).and_then(|pool| pool.track_mut(model)) {
            track.vanished();
        }
    }

    /// Takes in how an attempt of ours ended.
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
            self.shared(index, class, outcome, config, now, rng);
        }
        let Some(track) = self.pools[index].track_mut(model) else { return Change::None };
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

    /// What a failure means for all models of the pool: they share a key and an account.
    fn shared(
        &mut self,
        index: usize,
        class: FailureClass,
        outcome: &Outcome,
        config: &BreakerConfig,
        now: Micros,
        rng: &mut impl Rng,
    ) {
        let pool = &mut self.pools[index];
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

    /// Whether the others of that model are as fast as ever: longer prompts make all of them slow.
    fn slower_than_others(&self, index: usize, model: &ModelToken, now: Micros) -> bool {
        let own = self.pools[index].track(model).map_or(Duration::ZERO, |track| track.averages().1);
        let others = self.pools.iter().enumerate().filter(|(i, _)| *i != index);
        let fastest = others
            .filter_map(|(_, pool)| pool.track(model))
            .filter(|t| !t.is_suspect() && now.since(t.last_heard()) < Duration::from_secs(120))
            .map(|track| track.averages().1)
            .min();
        fastest.is_none_or(|fastest| own >= fastest.mul_f64(SLOW))
    }

    /// Free slots for `model` in `region`; of other regions only when none here is free, and not those kept for their own.
    pub fn room(
        &self,
        region: &Region,
        model: &ModelToken,
        silent_after: Duration,
        config: &BreakerConfig,
        now: Micros,
    ) -> u32 {
        let open = |p: &&Pool| {
            p.track(model).is_some_and(|t| t.breaker.admits(config, schemas::Lane::Low, now))
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

/// Slots of another region that its own jobs keep.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a number of slots")]
pub fn kept(slots: u32) -> u32 {
    (f64::from(slots) * KEPT_AT_HOME).ceil() as u32
}

#[cfg(test)]
pub(crate) mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use schemas::{UsdNanos, heartbeat::ServedModel};

    use super::*;

    pub(crate) fn beat(pool: &str, slots: u32, running: u32, cost: u64) -> Heartbeat {
        let served = |model: &str| ServedModel {
            model: model.parse().unwrap(),
            sku: "x".into(),
            size: 1,
            expected_cost_usd: UsdNanos::new(cost),
            p50_us: 400_000,
            p95_us: 900_000,
            running: 0,
            overdue: 0,
            second_usd: UsdNanos::ZERO,
            idle_us: 0,
            rented: false,
            detached: false,
            warmable: false,
        };
        let mut models = vec![served("llama-3-2-1b"), served("mistral-7b")];
        models[0].running = running;
        Heartbeat {
            pool: pool.parse().unwrap(),
            worker: "w1".parse().unwrap(),
            started_us: Micros::new(1),
            // A clock that is ahead says nothing about the way.
            at_us: Micros::new(u64::MAX),
            slots,
            running,
            draining: false,
            healthy: None,
            succeeded: 0,
            failed: 0,
            models,
        }
    }

    const SILENT: Duration = Duration::from_secs(4);

    #[test]
    fn our_own_offers_count_as_taken() {
        let (mut pools, now) = (Pools::default(), Micros::new(1_000_000));
        pools.heartbeat(beat("golem@us-east", 10, 4, 1), now);
        let (pool, model) = ("golem@us-east".parse().unwrap(), "mistral-7b".parse().unwrap());
        pools.set_ours([(&pool, &model, Ours { offered: 5, running: 1 })]);
        assert_eq!(pools.at(0).free(SILENT, now), (1, 10));
    }

    #[test]
    fn attempts_whose_end_was_never_heard_do_not_fill_a_pool() {
        let (mut pools, config, now) = (Pools::default(), BreakerConfig::default(), Micros::new(1_000_000));
        let (pool, model): (PoolId, ModelToken) =
            ("golem@us-east".parse().unwrap(), "mistral-7b".parse().unwrap());
        pools.heartbeat(beat("golem@us-east", 10, 0, 1), now);
        for taken in [true, false, true] {
            pools.sent(0, &model, &config, now);
            if taken {
                pools.answered(&pool, &model, true);
            }
        }
        let ours = |pools: &mut Pools| pools.at(0).track(&model).unwrap().ours();
        assert_eq!(ours(&mut pools), Ours { offered: 1, running: 2 });
        // Whoever owns the jobs knows of one that runs; the rest ended unheard.
        let unknown = "modal@us-east".parse().unwrap();
        pools.set_ours([(&pool, &model, Ours::RUNNING), (&unknown, &model, Ours::OFFERED)]);
        assert_eq!(ours(&mut pools), Ours::RUNNING);
        assert_eq!(pools.at(0).free(SILENT, now), (10, 10));
        // News of those that were not counted any more takes nothing from the one that is.
        pools.set_ours([(&pool, &model, Ours::RUNNING), (&pool, &model, Ours::OFFERED)]);
        pools.answered(&pool, &model, false);
        pools.answered(&pool, &model, false);
        assert_eq!(ours(&mut pools), Ours::RUNNING);
        pools.set_ours([]);
        assert_eq!(pools.at(0).track(&model).unwrap().running(), 0);
    }

    #[test]
    fn a_silent_pool_is_closed_and_has_no_room() {
        let (mut pools, now) = (Pools::default(), Micros::new(1_000_000));
        pools.heartbeat(beat("golem@us-east", 10, 4, 1), now);
        let later = now + Duration::from_secs(5);
        assert_eq!(pools.at(0).closed(SILENT, later), Some(Closed::Silent));
        assert_eq!(pools.at(0).free(SILENT, later), (0, 0));
    }

    #[test]
    fn other_regions_have_room_only_when_nobody_here_has_and_keep_some_for_their_own() {
        let (mut pools, breaker, now) = (Pools::default(), BreakerConfig::default(), Micros::new(1_000_000));
        let (here, model) = ("us-east".parse().unwrap(), "mistral-7b".parse().unwrap());
        pools.heartbeat(beat("golem@eu-west", 10, 0, 1), now);
        assert_eq!(pools.room(&here, &model, SILENT, &breaker, now), 8);
        pools.heartbeat(beat("golem@us-east", 3, 2, 1), now);
        assert_eq!(pools.room(&here, &model, SILENT, &breaker, now), 1);
        pools.heartbeat(beat("golem@us-east", 3, 3, 1), now);
        assert_eq!(pools.room(&here, &model, SILENT, &breaker, now), 8);
    }

    /// Two pools of which the first has served `count` jobs of `first` each, the other of `second`.
    fn served(pools: &mut Pools, count: u32, first: Duration, second: Duration, now: Micros) -> Change {
        let (config, mut rng) = (BreakerConfig::default(), StdRng::seed_from_u64(1));
        let model: ModelToken = "mistral-7b".parse().unwrap();
        let mut change = Change::None;
        for i in 0..count {
            for (name, service) in [("golem@us-east", first), ("modal@us-east", second)] {
                let index = usize::from(name == "modal@us-east");
                let bin = pools.sent(index, &model, &config, now);
                pools.answered(&name.parse().unwrap(), &model, true);
                let outcome = Outcome { failed: None, service, cold: Duration::ZERO, retry_after: None };
                let at = now + Duration::from_millis(u64::from(i) * 10);
                let new = pools.ended(&name.parse().unwrap(), &model, &outcome, bin, &config, at, &mut rng);
                change = if new == Change::None { change } else { new };
            }
        }
        change
    }

    #[test]
    fn a_pool_that_turns_slow_is_suspected_within_two_dozen_jobs_and_taken_back_after_good_probes() {
        let (mut pools, now) = (Pools::default(), Micros::new(1_000_000_000_000));
        pools.heartbeat(beat("golem@us-east", 40, 0, 1), now);
        pools.heartbeat(beat("modal@us-east", 40, 0, 1), now);
        let (fast, slow) = (Duration::from_millis(500), Duration::from_millis(2_500));
        assert_eq!(served(&mut pools, 100, fast, fast, now), Change::None);
        assert_eq!(served(&mut pools, 22, slow, fast, now), Change::Suspect);
        let model = "mistral-7b".parse().unwrap();
        assert!(pools.at(0).track(&model).unwrap().is_suspect());
        served(&mut pools, 6, fast, fast, now);
        assert!(pools.at(0).track(&model).unwrap().is_suspect(), "one, two and four probes are wanted");
        served(&mut pools, 1, fast, fast, now);
        assert!(!pools.at(0).track(&model).unwrap().is_suspect());
        assert!(pools.at(0).track(&model).unwrap().limit() < 20, "it begins small");
    }

    #[test]
    fn longer_prompts_make_all_pools_slow_and_none_suspect() {
        let (mut pools, now) = (Pools::default(), Micros::new(1_000_000_000_000));
        pools.heartbeat(beat("golem@us-east", 40, 0, 1), now);
        pools.heartbeat(beat("modal@us-east", 40, 0, 1), now);
        let (fast, slow) = (Duration::from_millis(500), Duration::from_millis(2_500));
        served(&mut pools, 100, fast, fast, now);
        assert_eq!(served(&mut pools, 40, slow, slow, now), Change::None);
    }

    /// A heartbeat of one of several workers.
    fn of(worker: &str, running: u32) -> Heartbeat {
        let mut beat = beat("golem@us-east", 10, running, 1);
        beat.worker = worker.parse().unwrap();
        beat
    }

    #[test]
    fn what_a_pool_runs_is_the_sum_of_its_workers_whoever_spoke_last() {
        let (mut pools, now, model) =
            (Pools::default(), Micros::new(1_000_000), "llama-3-2-1b".parse().unwrap());
        pools.heartbeat(of("w1", 10), now);
        pools.heartbeat(of("w2", 2), now);
        assert_eq!(pools.at(0).track(&model).unwrap().running(), 12);
        pools.heartbeat(of("w1", 9), now);
        assert_eq!(pools.at(0).track(&model).unwrap().running(), 11);
        let later = now + Duration::from_secs(59);
        pools.heartbeat(of("w2", 2), later);
        pools.forget_silent(later + Duration::from_secs(1));
        assert_eq!(pools.at(0).track(&model).unwrap().running(), 2);
        pools.forget_silent(later + Duration::from_secs(60));
        assert_eq!(pools.at(0).track(&model).unwrap().running(), 0);
    }

    #[test]
    fn one_hung_worker_of_many_does_not_make_the_pool_hang() {
        let (mut pools, now) = (Pools::default(), Micros::new(1_000_000));
        let worker = |n: usize, overdue: u32| {
            let mut beat = of(&format!("w{n}"), 8);
            beat.models[0].overdue = overdue;
            beat
        };
        for n in 0..9 {
            assert!(!pools.heartbeat(worker(n, 0), now));
        }
        assert!(!pools.heartbeat(worker(9, 8), now), "8 of 80");
        assert!(!pools.heartbeat(worker(8, 8), now), "16 of 80");
        assert!(pools.heartbeat(worker(7, 8), now), "24 of 80");
    }

    #[test]
    fn a_model_that_no_worker_lists_any_more_is_not_served() {
        let (mut pools, now, model) =
            (Pools::default(), Micros::new(1_000_000), "mistral-7b".parse().unwrap());
        pools.heartbeat(of("w1", 0), now);
        pools.heartbeat(of("w2", 0), now);
        for (worker, served) in [("w1", true), ("w2", false)] {
            let mut beat = of(worker, 0);
            beat.models.pop();
            pools.heartbeat(beat, now);
            assert_eq!(pools.at(0).track(&model).is_some(), served);
        }
    }

    #[test]
    fn a_provider_that_hangs_is_suspected_without_a_single_outcome() {
        let (mut pools, now) = (Pools::default(), Micros::new(1_000_000_000_000));
        pools.heartbeat(beat("golem@us-east", 40, 8, 1), now);
        let mut hung = beat("golem@us-east", 40, 8, 1);
        (hung.models[1].running, hung.models[1].overdue) = (8, 5);
        assert!(pools.heartbeat(hung, now));
        assert!(pools.at(0).track(&"mistral-7b".parse().unwrap()).unwrap().is_suspect());
    }
}
