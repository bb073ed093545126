//! How many containers to keep warm, and where: by the rate of jobs that a pool gets, if that costs less than it saves. Pure.
//!
//! By Little's law `λ · E[service]` jobs run at once, and `z · √(λ · E[service])` more cover chance. λ is the rate of jobs sent
//! to the pool, not of jobs that arrive: the picker chooses which jobs the baseline carries. λ is the larger of a fast and a slow
//! average, so that a burst is prepared for at once and its end is believed slowly.

use std::{collections::HashMap, time::Duration};

use schemas::{Lane, Micros, ModelToken, PoolId, Region, UsdNanos};

use crate::{
    config::{PolicyConfig, WarmConfig},
    pool::Pool,
    track::Track,
};

/// The half-lives of the two averages.
const FAST: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(300);
/// How long warm containers are taken to pay after they were found to. While containers are warm no job meets a cold start, so what
/// they save can be seen again only without them.
const HOLDS: Duration = Duration::from_secs(300);
/// A rate that is this many times the usual one is a burst.
const BURST: f64 = 1.5;

/// Jobs of one model sent to one pool.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    fast: f64,
    slow: f64,
    urgent: f64,
    at: Micros,
    since: Micros,
    /// Warm containers were found to pay, and that holds until then.
    pays_until: Micros,
}

/// Jobs a second.
#[derive(Clone, Copy, Debug)]
struct Rates {
    fast: f64,
    slow: f64,
    urgent: f64,
}

impl Sent {
    /// Adds a job to the exponential averages of the rate: each job adds `ln 2 / half-life`, and the sum halves in a half-life.
    fn add(&mut self, urgent: bool, now: Micros) {
        if self.since == Micros::default() {
            (self.since, self.at) = (now, now);
        }
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

    /// The averages, corrected for their age: a young average is too small.
    fn rates(&mut self, now: Micros) -> Rates {
        self.fade(now);
        let age = now.since(self.since).as_secs_f64().max(1.0);
        let seen = |half: Duration| 1.0 - (-age / half.as_secs_f64()).exp2();
        Rates { fast: self.fast / seen(FAST), slow: self.slow / seen(SLOW), urgent: self.urgent / seen(SLOW) }
    }
}

/// An order to a pool: keep this many containers of a model warm, busy ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The pool.
    pub pool: PoolId,
    /// The model.
    pub model: ModelToken,
    /// How many containers.
    pub containers: u32,
}

/// The rates of jobs by pool and model, and what to keep warm for them.
#[derive(Clone, Debug)]
pub struct Warmth {
    config: WarmConfig,
    sent: HashMap<PoolId, HashMap<ModelToken, Sent>>,
}

impl Warmth {
    /// No job was sent yet.
    pub fn new(config: WarmConfig) -> Self {
        Self { config, sent: HashMap::new() }
    }

    /// A job was sent to a pool.
    pub fn sent(&mut self, pool: &PoolId, model: &ModelToken, lane: Lane, now: Micros) {
        if self.config.most_usd_per_hour == UsdNanos::ZERO {
            return;
        }
        let models = match self.sent.get_mut(pool) {
            Some(models) => models,
            None => self.sent.entry(pool.clone()).or_default(),
        };
        let sent = match models.get_mut(model) {
            Some(sent) => sent,
            None => models.entry(model.clone()).or_default(),
        };
        sent.add(lane == Lane::High, now);
    }

    /// What should be warm now, in the order of the pools. An order may be for none, so that a pool lets go of what it kept.
    ///
    /// Containers beyond the work cost at most `most_usd_per_hour` in a region, all pools and models together.
    pub fn plan(&mut self, pools: &[Pool], policy: &PolicyConfig, now: Micros) -> Vec<Wanted> {
        let mut left: HashMap<&Region, f64> = HashMap::new();
        let mut plan = Vec::new();
        for pool in pools {
            let left = left.entry(&pool.id.region).or_insert(self.config.most_usd_per_hour.get() as f64);
            for (model, track) in pool.tracks().filter(|(_, track)| track.served.warmable) {
                let Some(sent) = self.sent.get_mut(&pool.id).and_then(|models| models.get_mut(model)) else {
                    continue;
                };
                let usable = pool.closed(policy.silent_after, now).is_none()
                    && !track.breaker.is_tripped()
                    && !track.is_suspect();
                let containers = if usable { wanted(&self.config, sent, track, left, now) } else { 0 };
                plan.push(Wanted { pool: pool.id.clone(), model: model.clone(), containers });
            }
        }
        plan
    }
}

/// How many containers of one model to keep warm. Takes what they cost beyond the work out of `left` dollars an hour.
fn wanted(config: &WarmConfig, sent: &mut Sent, track: &Track, left: &mut f64, now: Micros) -> u32 {
    let second = track.served.second_usd.get() as f64;
    let rates = sent.rates(now);
    let rate = rates.fast.max(rates.slow);
    let work = rate * track.service().0.as_secs_f64();
    let z = if rates.urgent * 4.0 > rates.slow { 2.0 } else { 1.0 };
    let spare = z * work.sqrt();
    // A cold start costs its own billed time and what the wait is worth; spare containers cost their time.
    let (peak, met) = track.warmth();
    // In a burst, each job beyond what is warm meets a cold start.
    let burst = rates.fast > BURST * rates.slow && work > f64::from(peak);
    let met = if burst { track.likely_cold(now) } else { met };
    let each = track.cold_p95().as_secs_f64() * (second + config.second_worth.get() as f64);
    if rate * met * each > spare * second {
        sent.pays_until = now + HOLDS;
    }
    if now >= sent.pays_until {
        return 0;
    }
    let affordable = if second > 0.0 { *left / (second * 3_600.0) } else { spare };
    let spare = spare.min(affordable);
    *left -= spare * second * 3_600.0;
    whole((work + spare).min(f64::from(track.limit())))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, at most a limit")]
fn whole(containers: f64) -> u32 {
    containers.ceil() as u32
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        config::BreakerConfig,
        pool::{Pools, tests::beat},
        track::Outcome,
    };

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn most(usd: u64) -> WarmConfig {
        WarmConfig { most_usd_per_hour: UsdNanos::new(usd), second_worth: UsdNanos::new(500_000) }
    }

    /// How many containers are wanted at Modal after two minutes of jobs at `rate`. `cold`: each of them met a cold start.
    fn wanted(rate: u64, cold: bool, config: WarmConfig) -> u32 {
        let (mut warmth, mut now, mut pools) = (Warmth::new(config), NOW, Pools::default());
        let (pool, model): (PoolId, ModelToken) =
            ("modal@us-east".parse().unwrap(), "llama-3-2-1b".parse().unwrap());
        let (breaker, mut rng) = (BreakerConfig::default(), StdRng::seed_from_u64(1));
        let mut modal = beat("modal@us-east", 40, 0, 100_000);
        (modal.models[0].warmable, modal.models[0].second_usd) = (true, UsdNanos::new(164_000));
        pools.heartbeat(modal.clone(), now);
        for _ in 0..rate * 120 {
            now = now + Duration::from_micros(1_000_000 / rate);
            warmth.sent(&pool, &model, Lane::High, now);
            let bin = pools.sent(0, &model, &breaker, now);
            pools.answered(&pool, &model, true);
            let outcome = Outcome {
                service: Duration::from_millis(400),
                cold: if cold { Duration::from_millis(800) } else { Duration::ZERO },
                ..Outcome::default()
            };
            pools.ended(&pool, &model, &outcome, bin, &breaker, now, &mut rng);
        }
        pools.heartbeat(modal, now);
        let plan = warmth.plan(pools.as_slice(), &PolicyConfig::default(), now);
        plan.iter().find(|w| w.pool == pool).map_or(0, |w| w.containers)
    }

    #[test]
    fn cold_starts_that_cost_more_than_idle_containers_are_avoided() {
        // Ten jobs a second of 0.4 s are four at once, and two deviations more.
        let containers = wanted(10, true, most(3_000_000_000));
        assert!((6..=9).contains(&containers), "{containers}");
    }

    #[test]
    fn what_is_warm_by_itself_is_not_paid_for() {
        assert_eq!(wanted(10, false, most(3_000_000_000)), 0);
    }

    #[test]
    fn no_dollars_nothing_warm_and_few_dollars_little() {
        assert_eq!(wanted(10, true, most(0)), 0);
        // One container beyond the work.
        let containers = wanted(10, true, most(600_000_000));
        assert!((4..=6).contains(&containers), "{containers}");
    }
}
