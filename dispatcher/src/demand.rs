//! What waits, told to whoever rents machines: when it is time to tell, and what there is to tell. Pure.
//!
//! Nothing is kept per job: what is in hand is counted from the records when it is told, once a second, and what arrived is a
//! counter of each consumer. Only whether anything waits at all is looked at with every tick, over lines and consumers.

use std::time::Duration;

use routing::{pool::Pools, track::Spread};
use rustc_hash::FxHashMap;
use schemas::{
    Lane, Micros, ModelToken, Region,
    demand::{Demand, Groups, LaneDemand, ModelDemand, ServiceTime},
    time::micros,
};

use crate::{
    config::DispatcherConfig,
    feed::Feed,
    jobs::{Jobs, record::Stage},
};

/// How often it is told in any case: a keeper forgets a dispatcher that it does not hear for four times as long.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// The least time between two tellings: jobs that come one by one are told of together.
const APART: Duration = Duration::from_millis(50);
/// How often the server is asked what waits at consumers that nothing else tells of.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Consumers asked about at a time; others have their turn the next time.
pub(crate) const ASK_MAX: usize = 64;
/// How long a job is taken to take where nobody has said.
const UNKNOWN: Duration = Duration::from_secs(1);

/// When to tell.
#[derive(Debug)]
pub struct Teller {
    started: Micros,
    told: Micros,
    asked: Micros,
    /// Where the next question begins.
    turn: usize,
    /// Whether anything waited in each line, and behind each consumer, when it was told last.
    lines: Vec<bool>,
    feeds: Vec<bool>,
}

impl Teller {
    /// Of a process that started then.
    pub const fn new(started: Micros) -> Self {
        Self {
            started,
            told: Micros::new(0),
            asked: Micros::new(0),
            turn: 0,
            lines: Vec::new(),
            feeds: Vec::new(),
        }
    }

    /// Whether it is time to tell: a second has passed, or something waits where nothing did.
    pub fn is_due(&self, jobs: &Jobs, now: Micros) -> bool {
        // A clock that was set back must not silence us.
        let since = now.since(self.told);
        if since >= TELL_EVERY || now < self.told {
            return true;
        }
        let began = |now: bool, before: Option<&bool>| now && !before.copied().unwrap_or(false);
        let lines = || jobs.lines().groups().iter().map(|group| !group.line.is_empty()).enumerate();
        let feeds = || jobs.feeds().iter().map(|feed| feed.backlog > 0).enumerate();
        since >= APART
            && (lines().any(|(nth, waits)| began(waits, self.lines.get(nth)))
                || feeds().any(|(nth, waits)| began(waits, self.feeds.get(nth))))
    }

    /// What there is to tell now, one message for each region.
    pub fn tell(&mut self, jobs: &Jobs, config: &DispatcherConfig, now: Micros) -> Vec<Demand> {
        self.told = now;
        self.lines.clear();
        self.lines.extend(jobs.lines().groups().iter().map(|group| !group.line.is_empty()));
        self.feeds.clear();
        self.feeds.extend(jobs.feeds().iter().map(|feed| feed.backlog > 0));
        let counts = counts(jobs, now);
        let tell = |region: &Region| Demand {
            dispatcher: config.id.clone(),
            started_us: self.started,
            region: region.clone(),
            at_us: now,
            models: models(jobs, region, &counts),
        };
        config.regions.iter().map(tell).collect()
    }

    /// The consumers to ask the server about now, by index: those that no open pull tells of.
    pub fn ask(&mut self, jobs: &Jobs, now: Micros) -> Vec<usize> {
        if now.since(self.asked) < ASK_EVERY && now >= self.asked {
            return Vec::new();
        }
        self.asked = now;
        let unheard: Vec<usize> = jobs.unheard().map(|(index, _)| index).collect();
        if unheard.len() <= ASK_MAX {
            return unheard;
        }
        let from = self.turn % unheard.len();
        self.turn = from + ASK_MAX;
        unheard.iter().cycle().skip(from).take(ASK_MAX).copied().collect()
    }
}

/// The jobs of one consumer that are in hand or away.
#[derive(Clone, Debug, Default)]
struct Counted {
    waiting: Groups,
    running: u32,
}

/// Counts the jobs of each consumer, by its index.
fn counts(jobs: &Jobs, now: Micros) -> Vec<Counted> {
    let feeds = jobs.feeds();
    let mut counts = vec![Counted::default(); feeds.len()];
    let of: FxHashMap<(&Region, &ModelToken, Lane), usize> = feeds
        .iter()
        .enumerate()
        .map(|(index, feed)| ((&feed.region, &feed.model, feed.lane), index))
        .collect();
    for (_, record) in jobs.records() {
        let subject = &record.head.subject;
        let Some(index) = of.get(&(&subject.region, &subject.model, subject.lane)) else { continue };
        let counted = &mut counts[*index];
        match record.stage {
            Stage::LookUp { .. } | Stage::Waiting { .. } => counted.waiting.count(record.head.deadline, now),
            Stage::Away => counted.running = counted.running.saturating_add(1),
            Stage::Ending | Stage::Over => {}
        }
    }
    counts
}

fn models(jobs: &Jobs, region: &Region, counts: &[Counted]) -> Vec<ModelDemand> {
    let mut models: Vec<ModelDemand> = Vec::new();
    let here = jobs.feeds().iter().zip(counts).filter(|(feed, _)| feed.region == *region);
    let mut each = UNKNOWN;
    for (feed, counted) in here {
        // Feeds of one model stand together.
        if models.last().is_none_or(|last| last.model != feed.model) {
            let service = service(jobs.pools(), region, &feed.model);
            each = expected(&service);
            models.push(ModelDemand { model: feed.model.clone(), lanes: Vec::new(), service });
        }
        let lane = lane(feed, counted, each);
        let is_news = lane.in_hand > 0
            || lane.behind.is_none_or(|jobs| jobs > 0)
            || lane.running > 0
            || lane.arrivals > 0;
        if let Some(model) = models.last_mut().filter(|_| is_news) {
            model.lanes.push(lane);
        }
    }
    models
}

fn lane(feed: &Feed, counted: &Counted, each: Duration) -> LaneDemand {
    let in_hand = counted.waiting.jobs();
    LaneDemand {
        lane: feed.lane,
        in_hand,
        behind: feed.heard.then_some(feed.backlog),
        running: counted.running,
        arrivals: feed.arrivals,
        slot_us: micros(each).saturating_mul(u64::from(in_hand)),
        due: counted.waiting.due(each),
    }
}

/// How long a job of the model takes in each pool of the region.
fn service(pools: &Pools, region: &Region, model: &ModelToken) -> Vec<ServiceTime> {
    let tracks = pools.iter().filter(|pool| pool.id.region == *region).filter_map(|pool| {
        let track = pool.track(model).filter(|track| track.is_served())?;
        Some((pool, track))
    });
    let times = tracks.map(|(pool, track)| {
        let Spread { samples, mean, p50, p90, p95 } = track.spread();
        ServiceTime {
            pool: pool.id.clone(),
            samples,
            mean_us: micros(mean),
            p50_us: micros(p50),
            p90_us: micros(p90),
            p95_us: micros(p95),
        }
    });
    times.collect()
}

/// How long a job is expected to take, wherever it goes: the mean over what was learnt, or over what workers say.
fn expected(service: &[ServiceTime]) -> Duration {
    let weight = |time: &ServiceTime| u128::from(time.samples.max(1));
    let total: u128 = service.iter().map(weight).sum();
    let sum: u128 = service.iter().map(|time| weight(time) * u128::from(time.mean_us)).sum();
    let mean = sum.checked_div(total).and_then(|mean| u64::try_from(mean).ok());
    mean.map_or(UNKNOWN, Duration::from_micros)
}
