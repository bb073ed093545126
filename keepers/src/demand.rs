//! What waits for a pool's machines: what its region's dispatchers tell, put together. Pure.
//!
//! Dispatchers are added up, but for jobs that none of them holds yet: all see the same ones. Whoever is silent for
//! [`SILENT_AFTER`] holds nothing any more. Arrivals are read off counters that only grow, so a message that is lost loses
//! nothing, and jobs that still lie in the stream have arrived as well.

use std::{collections::HashMap, time::Duration};

use schemas::{
    Lane, Micros, ModelToken, PoolId, Region, WorkerId,
    demand::{Demand, LaneDemand, ModelDemand, SILENT_AFTER, ServiceTime},
    time::micros,
};

/// The counters of a dispatcher that is silent are remembered for so long: it may only have been cut off.
const REMEMBERED: Duration = Duration::from_secs(600);
/// A stream whose waiting jobs became fewer without being delivered was purged, if that is so for this long. A shorter time says
/// only that two dispatchers spoke one after the other.
const PURGED_AFTER: Duration = Duration::from_secs(10);
/// The service time that counts until a pool has more samples than this is the 90th percentile.
const SAMPLES_FEW: u64 = 30;
/// Standard errors that are added to a mean, to be on the safe side with nine of ten.
const SAFE: f64 = 1.3;

/// What waits for one pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Since when arrivals are counted. Names the book: another one counts anew.
    pub since: Micros,
    /// Jobs that arrived in lane `high`, ever: only differences mean something.
    pub urgent: u64,
    /// The same in lane `normal`.
    pub normal: u64,
    /// Jobs of lanes `high` and `normal` that wait, by deadline; those without one last.
    pub waiting: Vec<Waiting>,
    /// Jobs of lane `low` that wait, by deadline; those without one last.
    pub backfill: Vec<Waiting>,
    /// Jobs that run, in whatever pool, and those that are offered.
    pub running: u64,
    /// How long a job takes of a slot.
    pub service: Service,
}

/// Jobs with about the same deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// By when they must have started; `None` where nobody knows of a deadline.
    pub by: Option<Micros>,
    /// How many.
    pub jobs: u64,
    /// The time they surely take of one slot, microseconds: [`Service::careful`] for each.
    pub slot_us: u64,
}

/// How long a job takes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The attempts that this was learnt from.
    pub samples: u64,
    /// Mean.
    pub mean: Duration,
    /// Median.
    pub p50: Duration,
    /// 90th percentile.
    pub p90: Duration,
    /// 95th percentile.
    pub p95: Duration,
}

impl Default for Service {
    /// A second, before anybody has said.
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self { samples: 0, mean: second, p50: second, p90: second, p95: second }
    }
}

impl From<&ServiceTime> for Service {
    fn from(time: &ServiceTime) -> Self {
        let span = Duration::from_micros;
        Self {
            samples: time.samples,
            mean: span(time.mean_us),
            p50: span(time.p50_us),
            p90: span(time.p90_us),
            p95: span(time.p95_us),
        }
    }
}

impl Service {
    /// What to count a job with that must surely be done in time: the 90th percentile while little is known, then the mean and
    /// 1.3 standard errors. The deviation is read off the distance from median to 95th percentile, 1.645 of them in a normal
    /// distribution.
    pub fn careful(&self) -> Duration {
        if self.samples < SAMPLES_FEW {
            return self.p90.max(self.mean);
        }
        let deviation = self.p95.saturating_sub(self.p50).as_secs_f64() / 1.645;
        self.mean + Duration::from_secs_f64(SAFE * deviation / (self.samples as f64).sqrt())
    }
}

/// What all dispatchers tell.
#[derive(Debug)]
pub struct Book {
    since: Micros,
    speakers: HashMap<(Region, WorkerId), Speaker>,
    arrivals: HashMap<(Region, ModelToken, Lane), Arrivals>,
}

#[derive(Debug)]
struct Speaker {
    heard: Micros,
    demand: Demand,
}

/// Jobs of one model and lane that arrived.
#[derive(Debug, Default)]
struct Arrivals {
    /// Delivered to any dispatcher since we listen.
    taken: u64,
    /// In the stream, as last told, and when we began to listen.
    behind: Option<(u64, u64)>,
    /// What was told at most.
    told: u64,
    /// Added to what is counted, for jobs that were purged.
    purged: u64,
    /// Since when less is counted than was told.
    short: Option<Micros>,
}

impl Arrivals {
    fn settle(&mut self, behind: Option<u64>, now: Micros) {
        if let Some(behind) = behind {
            self.behind = Some((behind, self.behind.map_or(behind, |(_, first)| first)));
        }
        let (behind, first) = self.behind.unwrap_or_default();
        let count = (self.taken + self.purged + behind).saturating_sub(first);
        if count >= self.told {
            (self.told, self.short) = (count, None);
        } else if now.since(*self.short.get_or_insert(now)) >= PURGED_AFTER {
            self.purged += self.told - count;
            self.short = None;
        }
    }
}

impl Book {
    /// Heard nothing yet.
    pub fn new(now: Micros) -> Self {
        Self { since: now, speakers: HashMap::new(), arrivals: HashMap::new() }
    }

    /// Takes in what a dispatcher tells. One that comes late, after a newer one, is left out.
    pub fn hear(&mut self, demand: Demand, now: Micros) {
        let key = (demand.region.clone(), demand.dispatcher.clone());
        let before = self.speakers.get(&key).map(|speaker| &speaker.demand);
        if before.is_some_and(|b| (b.started_us, b.at_us) > (demand.started_us, demand.at_us)) {
            return;
        }
        let region = demand.region.clone();
        let mut touched = Vec::new();
        for (model, lane) in demand.models.iter().flat_map(|m| m.lanes.iter().map(|l| (&m.model, l))) {
            let new = match before.filter(|before| before.started_us == demand.started_us) {
                Some(before) => lane.arrivals.saturating_sub(arrivals_of(before, model, lane.lane)),
                // A process that started since we listen told us everything; of an older one we missed who knows how much.
                None if demand.started_us >= self.since => lane.arrivals,
                None => 0,
            };
            let of = (region.clone(), model.clone(), lane.lane);
            // A lane that nobody spoke of had nothing behind it.
            let earlier = self.behind(&region, model, lane.lane, now);
            let first = || Arrivals { behind: earlier.map(|jobs| (jobs, jobs)), ..Arrivals::default() };
            self.arrivals.entry(of.clone()).or_insert_with(first).taken += new;
            touched.push(of);
        }
        self.speakers.insert(key, Speaker { heard: now, demand });
        self.speakers.retain(|_, speaker| now.since(speaker.heard) < REMEMBERED);
        // Where a lane is told no more, nothing waits behind it either.
        let known = self.arrivals.keys().filter(|of| of.0 == region && !touched.contains(of)).cloned();
        let all: Vec<_> = known.chain(touched.iter().cloned()).collect();
        for of in all {
            let behind = self.behind(&of.0, &of.1, of.2, now);
            if let Some(arrivals) = self.arrivals.get_mut(&of) {
                arrivals.settle(behind, now);
            }
        }
    }

    /// What waits for a pool that serves `models`. `None` while no dispatcher of its region speaks.
    pub fn load(&self, pool: &PoolId, models: &[ModelToken], now: Micros) -> Option<Load> {
        self.live(&pool.region, now).next()?;
        let mut load = Load { since: self.since, ..Load::default() };
        let mut services = Vec::new();
        for model in models {
            let told: Vec<&ModelDemand> = self
                .live(&pool.region, now)
                .flat_map(|demand| demand.models.iter().filter(|told| told.model == *model))
                .collect();
            let service = service(&told, pool);
            let mut jobs = 1;
            for lane in told.iter().flat_map(|told| &told.lanes) {
                load.running += u64::from(lane.running);
                jobs += u64::from(lane.running) + u64::from(lane.in_hand);
                let line = line(&mut load, lane.lane);
                line.extend(lane.due.iter().map(|due| wait(due.by_us, u64::from(due.jobs), service)));
            }
            for lane in Lane::ALL {
                let behind = self.behind(&pool.region, model, lane, now).unwrap_or(0);
                line(&mut load, lane).extend((behind > 0).then(|| wait(None, behind, service)));
                jobs += behind;
                let of = (pool.region.clone(), model.clone(), lane);
                let told = self.arrivals.get(&of).map_or(0, |arrivals| arrivals.told);
                match lane {
                    Lane::High => load.urgent += told,
                    Lane::Normal => load.normal += told,
                    Lane::Low => {}
                }
            }
            services.push((service, jobs));
        }
        for line in [&mut load.waiting, &mut load.backfill] {
            line.sort_by_key(|waiting| (waiting.by.is_none(), waiting.by));
        }
        load.service = mixed(&services);
        Some(load)
    }

    /// What those who are not silent say of a region.
    fn live(&self, region: &Region, now: Micros) -> impl Iterator<Item = &Demand> {
        let speakers = self
            .speakers
            .iter()
            .filter(move |((of, _), speaker)| of == region && now.since(speaker.heard) < SILENT_AFTER);
        speakers.map(|(_, speaker)| &speaker.demand)
    }

    /// Jobs that no dispatcher holds yet. Whoever says less has heard of it later: a number is only too high, when others were
    /// given what it counts.
    fn behind(&self, region: &Region, model: &ModelToken, lane: Lane, now: Micros) -> Option<u64> {
        let told = self.live(region, now).map(|demand| {
            let of_model = demand.models.iter().filter(|told| told.model == *model);
            let mut lanes = of_model.flat_map(|told| &told.lanes).filter(|told| told.lane == lane);
            // What is not told is nothing.
            lanes.next().map_or(Some(0), |told: &LaneDemand| told.behind)
        });
        told.flatten().min()
    }
}

fn line(load: &mut Load, lane: Lane) -> &mut Vec<Waiting> {
    match lane {
        Lane::High | Lane::Normal => &mut load.waiting,
        Lane::Low => &mut load.backfill,
    }
}

fn wait(by: Option<Micros>, jobs: u64, service: Service) -> Waiting {
    Waiting { by, jobs, slot_us: jobs.saturating_mul(micros(service.careful())) }
}

fn arrivals_of(demand: &Demand, model: &ModelToken, lane: Lane) -> u64 {
    let models = demand.models.iter().filter(|told| told.model == *model);
    models.flat_map(|told| &told.lanes).find(|told| told.lane == lane).map_or(0, |told| told.arrivals)
}

/// How long a job of one model takes: in this pool if anybody knows, else where most is known.
fn service(told: &[&ModelDemand], pool: &PoolId) -> Service {
    let times = || told.iter().flat_map(|told| &told.service);
    let own = times().filter(|time| time.pool == *pool).max_by_key(|time| time.samples);
    own.or_else(|| times().max_by_key(|time| time.samples)).map_or_else(Service::default, Service::from)
}

/// How long a job of any of several models takes, each weighted by its jobs.
fn mixed(services: &[(Service, u64)]) -> Service {
    let total: u128 = services.iter().map(|(_, jobs)| u128::from(*jobs)).sum();
    let mean = |of: fn(&Service) -> Duration| {
        let sum: u128 = services.iter().map(|(s, jobs)| of(s).as_micros() * u128::from(*jobs)).sum();
        let mean = sum.checked_div(total).unwrap_or(1_000_000);
        Duration::from_micros(u64::try_from(mean).unwrap_or(u64::MAX))
    };
    Service {
        samples: services.iter().map(|(service, _)| service.samples).min().unwrap_or(0),
        mean: mean(|s| s.mean),
        p50: mean(|s| s.p50),
        p90: mean(|s| s.p90),
        p95: mean(|s| s.p95),
    }
}

#[cfg(test)]
mod tests;
