//! How many containers to have warm, and where: by arrival rate, when it costs less than it saves. Pure.
//!
//! By Little's law `λ · E[service]` jobs run at once, and `z · √(λ · E[service])` more cover chance. What the baseline does
//! not carry is wanted warm at the serverless pools, the cheapest first. λ is the larger of a fast and a slow average: a
//! burst is prepared for at once, and its end believed slowly.

use std::{collections::HashMap, time::Duration};

use schemas::{Lane, Micros, ModelToken, PoolId, Region, UsdNanos};

use crate::{
    config::{PolicyConfig, WarmConfig},
    pool::Pool,
    track::Track,
};

/// Half-lives of the two averages of arrivals.
const FAST: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(300);
/// A burst: so many times more than usual.
const BURST: f64 = 1.5;

/// Arrivals of one (region, model).
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    fast: f64,
    slow: f64,
    urgent: f64,
    at: Micros,
}

impl Arrivals {
    /// An exponential average of a rate: each arrival adds `ln 2 / half-life`, and all fades by half in a half-life.
    fn arrived(&mut self, urgent: bool, now: Micros) {
        self.fade(now);
        let step = |half: Duration| std::f64::consts::LN_2 / half.as_secs_f64();
        self.fast += step(FAST);
        self.slow += step(SLOW);
        if urgent {
            self.urgent += step(SLOW);
        }
    }

    fn fade(&mut self, now: Micros) {
        let age = now.since(self.at).as_secs_f64();
        self.fast *= (-age / FAST.as_secs_f64()).exp2();
        let slow = (-age / SLOW.as_secs_f64()).exp2();
        self.slow *= slow;
        self.urgent *= slow;
        self.at = self.at.max(now);
    }
}

/// An order to a pool: have so many containers of a model warm, running ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub pool: PoolId,
    /// Which model.
    pub model: ModelToken,
    /// How many.
    pub containers: u32,
}

/// Arrival rates, and what is warm for them.
#[derive(Clone, Debug)]
pub struct Warmth {
    config: WarmConfig,
    arrivals: HashMap<Region, HashMap<ModelToken, Arrivals>>,
}

impl Warmth {
    /// Nothing has arrived.
    pub fn new(config: WarmConfig) -> Self {
        Self { config, arrivals: HashMap::new() }
    }

    /// A job arrived.
    pub fn arrived(&mut self, region: &Region, model: &ModelToken, lane: Lane, now: Micros) {
        if self.config.most_usd_per_hour == UsdNanos::ZERO {
            return;
        }
        let models = match self.arrivals.get_mut(region) {
            Some(models) => models,
            None => self.arrivals.entry(region.clone()).or_default(),
        };
        let arrivals = match models.get_mut(model) {
            Some(arrivals) => arrivals,
            None => models.entry(model.clone()).or_default(),
        };
        arrivals.arrived(lane == Lane::High, now);
    }

    /// Jobs of a model a second, now.
    pub fn rate(&self, region: &Region, model: &ModelToken, now: Micros) -> f64 {
        let Some(mut arrivals) = self.arrivals.get(region).and_then(|models| models.get(model)).copied()
        else {
            return 0.0;
        };
        arrivals.fade(now);
        arrivals.fast.max(arrivals.slow)
    }

    /// What should be warm now, in the order of the pools. Zero is said too, so that a pool lets go of what it kept.
    ///
    /// What is idle costs at most `most_usd_per_hour` in a region, all models together.
    pub fn plan(&self, pools: &[Pool], policy: &PolicyConfig, now: Micros) -> Vec<Wanted> {
        let mut plan = Vec::new();
        let mut regions: Vec<_> = self.arrivals.iter().collect();
        regions.sort_unstable_by(|a, b| a.0.cmp(b.0));
        for (region, models) in regions {
            let mut left = self.config.most_usd_per_hour.get() as f64;
            let mut models: Vec<_> = models.iter().collect();
            models.sort_unstable_by(|a, b| a.0.cmp(b.0));
            for (model, arrivals) in models {
                let mut arrivals = *arrivals;
                arrivals.fade(now);
                self.plan_model(pools, policy, (region, model, arrivals), &mut left, &mut plan, now);
            }
        }
        plan
    }

    fn plan_model(
        &self,
        pools: &[Pool],
        policy: &PolicyConfig,
        (region, model, arrivals): (&Region, &ModelToken, Arrivals),
        left: &mut f64,
        plan: &mut Vec<Wanted>,
        now: Micros,
    ) {
        let here = || {
            pools
                .iter()
                .filter(|p| p.id.region == *region)
                .filter_map(|p| p.track(model).map(|track| (p, track)))
        };
        let usable = |pool: &Pool, track: &Track| {
            pool.closed(policy.silent_after, now).is_none()
                && !track.breaker.is_tripped()
                && !track.is_suspect()
        };
        // What the baseline carries needs no containers: its share, or as much of it as it has room for.
        let base = here().filter(|(p, t)| policy.baseline.contains(&p.id.provider) && usable(p, t));
        let (mut room, mut mean) = (0.0, 0.0f64);
        for (_, track) in base {
            room += f64::from(track.limit());
            mean = mean.max(track.service().0.as_secs_f64());
        }
        let rate = arrivals.fast.max(arrivals.slow);
        let carried = (rate * policy.baseline_share * mean).min(room);
        let mut warmable: Vec<_> = here().filter(|(p, t)| t.served.warmable && usable(p, t)).collect();
        warmable.sort_by_key(|(pool, track)| (track.served.second_usd, pool.id.clone()));
        let mut wanted = 0.0;
        if let Some((_, track)) = warmable.first() {
            let service = track.service().0.as_secs_f64();
            let all = rate * service;
            let work = (all - carried).max(0.0);
            let z = if arrivals.urgent * 4.0 > arrivals.slow { 2.0 } else { 1.0 };
            wanted = work + z * work.sqrt();
        }
        for (pool, track) in warmable {
            let second = track.served.second_usd.get() as f64;
            let service = track.service().0.as_secs_f64();
            let mut containers = 0.0;
            if wanted >= 1.0 && self.pays(arrivals, track, wanted, service) {
                containers = wanted.ceil().min(f64::from(track.limit()));
                // Of those, what work keeps busy is paid by the work.
                let idle = (containers - (rate * service - carried).max(0.0)).max(0.0);
                let affordable = if second > 0.0 { *left / (second * 3_600.0) } else { idle };
                let kept = idle.min(affordable.floor());
                containers -= idle - kept;
                *left -= kept * second * 3_600.0;
            }
            wanted = (wanted - containers).max(0.0);
            plan.push(Wanted { pool: pool.id.clone(), model: model.clone(), containers: whole(containers) });
        }
    }

    /// Whether cold starts avoided are worth what idles: a cold start costs its own billed time and what a second of waiting
    /// is worth; a container idles for what it does not work.
    fn pays(&self, arrivals: Arrivals, track: &Track, wanted: f64, service: f64) -> bool {
        if arrivals.fast > BURST * arrivals.slow {
            return true;
        }
        let second = track.served.second_usd.get() as f64;
        let cold = track.cold_p95().as_secs_f64();
        let rate = arrivals.fast.max(arrivals.slow);
        // Without it, jobs above what is warm anyway meet a cold start: about as many as chance brings.
        let saved = rate.min(wanted.sqrt()) * cold * (second + self.config.second_worth.get() as f64);
        let idle = (wanted - rate * service).max(0.0) * second;
        saved > idle
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, at most a limit")]
fn whole(containers: f64) -> u32 {
    containers.max(0.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Pools, tests::beat};

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn pools() -> Pools {
        let mut pools = Pools::default();
        pools.heartbeat(beat("golem@us-east", 10, 0, 100_000), NOW);
        let mut modal = beat("modal@us-east", 40, 0, 100_000);
        for model in &mut modal.models {
            (model.warmable, model.second_usd) = (true, UsdNanos::new(164_000));
        }
        pools.heartbeat(modal, NOW);
        pools
    }

    /// What is wanted after jobs of one model came at `rate` for two minutes.
    fn wanted(rate: u64, config: WarmConfig) -> (u32, Warmth, Micros) {
        let (mut warmth, mut now) = (Warmth::new(config), NOW);
        let (region, model) = ("us-east".parse().unwrap(), "llama-3-2-1b".parse().unwrap());
        for _ in 0..rate * 120 {
            now = now + Duration::from_micros(1_000_000 / rate);
            warmth.arrived(&region, &model, Lane::High, now);
        }
        let mut pools = pools();
        for id in ["golem@us-east", "modal@us-east"] {
            let mut again = beat(id, 10, 0, 100_000);
            if id == "modal@us-east" {
                (again.slots, again.models[0].warmable) = (40, true);
                again.models[0].second_usd = UsdNanos::new(164_000);
            }
            pools.heartbeat(again, now);
        }
        let plan = warmth.plan(pools.as_slice(), &PolicyConfig::default(), now);
        (plan.iter().find(|w| w.pool.to_string() == "modal@us-east").map_or(0, |w| w.containers), warmth, now)
    }

    #[test]
    fn what_the_baseline_does_not_carry_is_warm_elsewhere() {
        // 100 jobs a second of 0.4 s are 40 at once, of which golem has room for 10.
        let (containers, ..) = wanted(100, WarmConfig::default());
        assert!((30..=40).contains(&containers), "{containers}");
        let (few, ..) = wanted(10, WarmConfig::default());
        assert!((2..=5).contains(&few), "{few}");
    }

    #[test]
    fn the_rate_is_what_came_and_fades() {
        let (_, warmth, now) = wanted(50, WarmConfig::default());
        let (region, model) = ("us-east".parse().unwrap(), "llama-3-2-1b".parse().unwrap());
        assert!((45.0..55.0).contains(&warmth.rate(&region, &model, now)));
        assert!(warmth.rate(&region, &model, now + Duration::from_secs(3_600)) < 0.1);
    }

    #[test]
    fn no_dollars_nothing_warm() {
        let config = WarmConfig { most_usd_per_hour: UsdNanos::ZERO, ..WarmConfig::default() };
        assert_eq!(wanted(100, config).0, 0);
    }
}
