//! What is known of one model at one pool: how fast, how cold, how reliable, at what price. Pure: time comes in.
//!
//! Three sources meet here: what workers say ([`crate::reports`]), how our own attempts ended, and how many of those are open.

use std::time::Duration;

use rand::Rng;
use schemas::{
    Lane, Micros, UsdNanos, WorkerId,
    failure::{BreakerEffect, FailureClass},
    heartbeat::ServedModel,
};

use crate::{
    breaker::{Breaker, Turn},
    cold::{Bin, Cold},
    config::BreakerConfig,
    limit::Limit,
    quantiles::Quantiles,
    rate::Rate,
    reports::{Report, Reports},
    suspicion::Standing,
};

/// How many jobs at once a provider begins with when it is taken back.
const RESTART: u32 = 8;
/// How many outcomes of our own it takes until they count, and not what the workers say.
const OWN_ENOUGH: u64 = 20;
/// How many jobs must be overdue at once before a provider counts as hanging: a few long prompts are no sign.
const OVERDUE_MIN: u32 = 3;
/// A provider is left if the part of successes in ten seconds is below this (Envoy's outlier detection).
const RATE_MIN: f64 = 0.5;
/// The outcomes of ten seconds that it takes to say so.
const RATE_COUNT: u32 = 10;
/// No money is set aside for a cold start that is less likely than this.
const COLD_RARE: f64 = 0.05;

/// One model at one pool.
#[derive(Clone, Debug)]
pub struct Track {
    /// What the workers say, put together.
    pub served: ServedModel,
    /// Keeps jobs away while the model fails there.
    pub breaker: Breaker,
    reports: Reports,
    ours: Ours,
    standing: Standing,
    service: Quantiles,
    cold: Cold,
    rate: Rate,
    limit: Limit,
    heard: Micros,
    /// The part of a job's expected cost that is not billed by time.
    fixed: UsdNanos,
}

/// Counts of our own open attempts. The owner of the jobs knows them and sets them ([`crate::pool::Pools::set_ours`]); between two
/// settings they are adjusted as things happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Offered and not answered.
    pub offered: u32,
    /// Accepted and not ended.
    pub running: u32,
}

impl Ours {
    /// One attempt that is offered.
    pub const OFFERED: Self = Self { offered: 1, running: 0 };
    /// One attempt that runs.
    pub const RUNNING: Self = Self { offered: 0, running: 1 };

    /// All of them.
    pub const fn all(self) -> u32 {
        self.offered.saturating_add(self.running)
    }
}

impl std::ops::AddAssign for Ours {
    fn add_assign(&mut self, more: Self) {
        self.offered = self.offered.saturating_add(more.offered);
        self.running = self.running.saturating_add(more.running);
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What went wrong; `None` if it succeeded.
    pub failed: Option<FailureClass>,
    /// How long the provider took, without its cold start.
    pub service: Duration,
    /// How long the cold start took; zero if there was none.
    pub cold: Duration,
    /// How long the provider asked us to stay away.
    pub retry_after: Option<Duration>,
}

/// How long jobs take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Jobs of our own that this was learnt from; 0 while it is what the workers say.
    pub samples: u64,
    /// The mean.
    pub mean: Duration,
    /// The median.
    pub p50: Duration,
    /// The 90th percentile.
    pub p90: Duration,
    /// The 95th percentile.
    pub p95: Duration,
}

/// What an attempt that starts now is expected to cost and to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The mean cost; zero on capacity that is paid for anyway.
    pub cost: UsdNanos,
    /// What to set aside: the 95th percentile of the cost, with a cold start unless that is unlikely.
    pub reserve: UsdNanos,
    /// The time until the provider answers: the 95th percentile, with the likely share of a cold start.
    pub time: Duration,
}

impl Track {
    /// A model of which one worker has spoken.
    pub fn new(report: Report, slots: u32) -> Self {
        let served = report.served.clone();
        let mut reports = Reports::default();
        reports.hear(report);
        let (served, fixed) = reports.combined().unwrap_or((served, UsdNanos::ZERO));
        Self {
            fixed,
            served,
            reports,
            ours: Ours::default(),
            breaker: Breaker::default(),
            standing: Standing::default(),
            service: Quantiles::default(),
            cold: Cold::default(),
            rate: Rate::default(),
            limit: Limit::new(slots),
            heard: Micros::default(),
        }
    }

    /// Takes in what a worker says. True if the provider seems to hang, and did not before.
    pub fn heard(&mut self, report: Report, slots_before: u32, slots: u32, now: Micros) -> bool {
        self.limit.resize(slots_before, slots);
        self.service.turn(now);
        self.reports.hear(report);
        self.combine();
        self.served.overdue >= OVERDUE_MIN.max(self.served.running / 4) && self.suspect(now)
    }

    /// Drops what a worker said: it is gone, or serves the model no more.
    pub fn forget(&mut self, worker: &WorkerId) {
        if self.reports.forget(worker) {
            self.combine();
        }
    }

    /// Whether a worker serves the model.
    pub fn is_served(&self) -> bool {
        !self.reports.is_empty()
    }

    fn combine(&mut self) {
        if let Some(combined) = self.reports.combined() {
            (self.served, self.fixed) = combined;
        } else {
            (self.served.running, self.served.overdue) = (0, 0);
        }
    }

    /// How many jobs of the model run there, as far as we know: what workers say and our open offers, or our own attempts if those
    /// are more.
    pub fn running(&self) -> u32 {
        self.ours.all().max(self.served.running.saturating_add(self.ours.offered))
    }

    /// Our own open attempts there.
    pub const fn ours(&self) -> Ours {
        self.ours
    }

    /// Sets the counts of our own open attempts.
    pub const fn set_ours(&mut self, ours: Ours) {
        self.ours = ours;
    }

    /// How many jobs of the model may run there at once: half of the limit while the pool is suspected.
    pub fn limit(&self) -> u32 {
        if self.is_suspect() { (self.limit.get() / 2).max(1) } else { self.limit.get() }
    }

    /// Whether it is much slower than it should be, and only tried.
    pub const fn is_suspect(&self) -> bool {
        self.standing.is_suspect()
    }

    /// Suspects it. True if it was in good standing before.
    pub fn suspect(&mut self, now: Micros) -> bool {
        self.standing.suspect(now)
    }

    /// Whether a job of that lane would be a probe, and is wanted as one.
    pub fn wants_probe(&self, config: &BreakerConfig, lane: Lane, now: Micros) -> bool {
        if self.breaker.is_tripped() {
            return self.breaker.admits(config, lane, now);
        }
        self.standing.wants_probe(self.ours.all(), lane, now)
    }

    /// The part of its jobs that succeeds, 0 to 1.
    pub fn ok(&self, now: Micros) -> f64 {
        self.rate.ok(now)
    }

    /// The probability with which a job should be kept from it.
    pub fn reject(&self, now: Micros) -> f64 {
        self.rate.reject(now)
    }

    /// When one of our own jobs last ended there.
    pub const fn last_heard(&self) -> Micros {
        self.heard
    }

    /// Median and 95th percentile of the service time: our own figures once there are enough, before that the workers'.
    pub fn service(&self) -> (Duration, Duration) {
        if self.service.count() >= OWN_ENOUGH {
            (self.service.p50(), self.service.p95())
        } else {
            (Duration::from_micros(self.served.p50_us), Duration::from_micros(self.served.p95_us))
        }
    }

    /// How long jobs take: our own figures once there are enough. Workers tell a median and a 95th percentile only, which stand for
    /// the mean and the 90th.
    pub fn spread(&self) -> Spread {
        let service = &self.service;
        let samples = service.count();
        if samples >= OWN_ENOUGH {
            let (p50, p90, p95) = (service.p50(), service.p90(), service.p95());
            return Spread { samples, mean: service.mean(), p50, p90, p95 };
        }
        let (p50, p95) = self.service();
        Spread { samples: 0, mean: p50, p50, p90: p95, p95 }
    }

    /// The 95th percentile of the service time by our own figures; `None` until there are enough.
    pub fn usual(&self) -> Option<Duration> {
        (self.service.count() >= OWN_ENOUGH).then(|| self.service.p95())
    }

    /// The probability that one more job would meet a cold start, 0 to 1.
    pub fn likely_cold(&self, now: Micros) -> f64 {
        self.cold.likely(self.cold.bin(self.running() + 1, now))
    }

    /// How many containers are probably warm, and the part of the last jobs that met a cold start.
    pub fn warmth(&self) -> (u32, f64) {
        (self.cold.peak(), self.cold.fraction())
    }

    /// How long a cold start takes, 95th percentile; zero if none was seen.
    pub const fn cold_p95(&self) -> Duration {
        self.cold.p95()
    }

    /// The usual and the present service time, for comparison.
    pub fn averages(&self) -> (Duration, Duration) {
        self.limit.averages()
    }

    /// How many times slower it is than usual.
    pub fn slowness(&self) -> f64 {
        self.limit.slowness()
    }

    /// What an attempt that starts now is expected to cost and to take:
    /// `fixed + price · (E[service] + P(cold) · (p95(cold) + idle))`. `fixed` is what is not billed by time; `idle` is how long a
    /// container that is started for the job is billed after it.
    pub fn expect(&self, now: Micros) -> Expected {
        let served = &self.served;
        let (_, p95) = self.service();
        let mean = if self.service.count() >= OWN_ENOUGH {
            self.service.mean()
        } else {
            Duration::from_micros(served.p50_us)
        };
        let likely = self.likely_cold(now);
        let cold = self.cold.p95();
        let share = |span: Duration| if likely > 0.0 { span.mul_f64(likely) } else { Duration::ZERO };
        let time = p95 + share(cold);
        let with = |span: Duration| {
            let timed = served.second_usd.for_seconds(span);
            timed.and_then(|timed| self.fixed.checked_add(timed)).unwrap_or(UsdNanos::new(u64::MAX))
        };
        let reserve = with(p95 + if likely > COLD_RARE { cold } else { Duration::ZERO });
        let started = cold + Duration::from_micros(served.idle_us);
        let cost = if served.rented { UsdNanos::ZERO } else { with(mean + share(started)) };
        Expected { cost, reserve, time }
    }

    /// An attempt of ours was offered. Gives the bin of cold starts it belongs to.
    pub fn sent(&mut self, config: &BreakerConfig, now: Micros) -> Bin {
        let running = self.running() + 1;
        let bin = self.cold.bin(running, now);
        self.cold.started(running, now);
        self.ours += Ours::OFFERED;
        self.breaker.sent(config, now);
        bin
    }

    /// An offer was answered, or lapsed. `taken` if its attempt runs now.
    pub fn answered(&mut self, taken: bool) {
        self.ours.offered = self.ours.offered.saturating_sub(1);
        if taken {
            self.ours += Ours::RUNNING;
        } else {
            self.breaker.unsent();
        }
    }

    /// An accepted attempt will not be heard of again, or never called the provider.
    pub fn vanished(&mut self) {
        self.breaker.unsent();
        self.ours.running = self.ours.running.saturating_sub(1);
    }

    /// An accepted attempt ended.
    pub fn ended(
        &mut self,
        outcome: &Outcome,
        bin: Bin,
        slots: u32,
        config: &BreakerConfig,
        now: Micros,
        rng: &mut impl Rng,
    ) -> Turn {
        let running = self.running();
        self.ours.running = self.ours.running.saturating_sub(1);
        self.heard = now;
        let Some(class) = outcome.failed else {
            self.succeeded(outcome, bin, running, slots, now);
            let turn = self.breaker.succeeded(config);
            if turn == Turn::Closed {
                self.limit.restart(RESTART, slots);
            }
            return turn;
        };
        match class {
            FailureClass::RateLimited | FailureClass::Capacity => self.limit.refused(slots),
            FailureClass::Timeout => self.standing.timed_out(now),
            _ => {}
        }
        match class.remedy().breaker {
            BreakerEffect::None | BreakerEffect::CloseUntil => {
                self.breaker.unsent();
                Turn::Stayed
            }
            BreakerEffect::Count => {
                self.rate.record(false, now);
                let (good, bad) = self.rate.recent(now);
                let mostly_bad =
                    good + bad >= RATE_COUNT && f64::from(good) < RATE_MIN * f64::from(good + bad);
                if mostly_bad && !self.breaker.is_tripped() {
                    self.breaker.open(config, now, rng);
                    return Turn::Opened;
                }
                self.breaker.failed(config, now, rng)
            }
            BreakerEffect::Open => {
                let fresh = !self.breaker.is_tripped();
                self.breaker.open(config, now, rng);
                if fresh { Turn::Opened } else { Turn::Stayed }
            }
        }
    }

    fn succeeded(&mut self, outcome: &Outcome, bin: Bin, running: u32, slots: u32, now: Micros) {
        self.rate.record(true, now);
        self.cold.ended(bin, outcome.cold, now);
        // What is usual is not learnt from a pool that is slow.
        self.limit.ended(outcome.service, running, slots, !self.is_suspect());
        if !self.is_suspect() {
            self.service.record(outcome.service, now);
        } else if self.standing.succeeded(outcome.service, self.limit.averages().0, now) {
            self.limit.restart(RESTART, slots);
        }
    }
}
