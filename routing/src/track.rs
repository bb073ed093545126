//! What is known of one model at one pool: how fast, how cold, how reliable, at what price. Pure.

use std::time::Duration;

use rand::Rng;
use schemas::{
    Lane, Micros, UsdNanos, WorkerId,
    failure::{BreakerEffect, FailureClass},
    heartbeat::ServedModel,
};

use crate::{
    breaker::{Breaker, Turn, patience},
    cold::{Bin, Cold},
    config::BreakerConfig,
    limit::Limit,
    quantiles::Quantiles,
    rate::Rate,
    reports::{Report, Reports},
};

/// So many times slower than it was, and than the others, is suspicious (Huang et al., "Gray Failure", HotOS 2017).
pub const SLOW: f64 = 3.0;
/// Probes at once with which a suspect is trusted again; they double from one.
const PROBES_MAX: u32 = 4;
/// Probes that are so many times slower than usual, in the geometric mean, speak for the provider.
const WELL: f64 = 2.0;
/// How long a suspect rests after a slow probe.
const REST: Duration = Duration::from_secs(2);
/// Jobs at once that a provider begins with when it is taken back.
const RESTART: u32 = 8;
/// Outcomes of our own before they count for more than what the workers say.
const OWN_ENOUGH: u64 = 20;
/// Jobs overdue at once before a provider counts as hanging: a few long prompts are no sign.
const OVERDUE_MIN: u32 = 3;
/// The part of successes below which a provider is left, and the outcomes of ten seconds needed to say so (Envoy).
const RATE_MIN: f64 = 0.5;
const RATE_COUNT: u32 = 10;

/// One model at one pool.
#[derive(Clone, Debug)]
pub struct Track {
    /// What its workers say, put together.
    pub served: ServedModel,
    reports: Reports,
    ours: Ours,
    /// Whether it is left alone.
    pub breaker: Breaker,
    standing: Standing,
    service: Quantiles,
    cold: Cold,
    rate: Rate,
    limit: Limit,
    heard: Micros,
    /// The part of a job's expected cost that is not billed by time.
    fixed: UsdNanos,
}

/// Attempts of our own that are open at a pool. Whoever owns the jobs knows them and sets them ([`crate::pool::Pools::set_ours`]);
/// between two settings they are adjusted by what happens.
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

#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    Good,
    /// Probes of this round: how many, how many have ended, and the sum of the logarithms of how much slower than usual they
    /// were. One slow job is no proof: prompts differ.
    Suspect {
        probes: u32,
        ended: u32,
        slower: f64,
        not_before: Micros,
    },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What went wrong; nothing when it succeeded.
    pub failed: Option<FailureClass>,
    /// How long the provider took, its cold start left out.
    pub service: Duration,
    /// How long its cold start took; zero when it was warm.
    pub cold: Duration,
    /// How long the provider asked us to stay away.
    pub retry_after: Option<Duration>,
}

/// Expectations of an attempt that would start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its cost on average; nothing on capacity that is paid for anyway.
    pub cost: UsdNanos,
    /// What it may cost: the 95th percentile, with a cold start unless that is unlikely.
    pub reserve: UsdNanos,
    /// Its time until the provider answers: 95th percentile, with its likely share of a cold start.
    pub time: Duration,
}

/// Cold starts rarer than this are not reserved for.
const COLD_RARE: f64 = 0.05;

impl Track {
    /// A model of which only one worker's word is known.
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
            standing: Standing::Good,
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

    /// Whether a worker that is known serves the model.
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

    /// Jobs of the model there, as far as we know.
    pub fn running(&self) -> u32 {
        self.ours.all().max(self.served.running.saturating_add(self.ours.offered))
    }

    /// Attempts of our own that are open there.
    pub const fn ours(&self) -> Ours {
        self.ours
    }

    /// Sets them.
    pub const fn set_ours(&mut self, ours: Ours) {
        self.ours = ours;
    }

    /// Jobs of the model that may run there at once.
    pub fn limit(&self) -> u32 {
        match self.standing {
            Standing::Good => self.limit.get(),
            Standing::Suspect { .. } => (self.limit.get() / 2).max(1),
        }
    }

    /// Whether it is much slower than it should be.
    pub const fn is_suspect(&self) -> bool {
        matches!(self.standing, Standing::Suspect { .. })
    }

    /// Whether it waits to be tried, by a job of that lane.
    pub fn wants_probe(&self, config: &BreakerConfig, lane: Lane, now: Micros) -> bool {
        if self.breaker.is_tripped() {
            return self.breaker.admits(config, lane, now);
        }
        match self.standing {
            Standing::Good => false,
            Standing::Suspect { probes, not_before, .. } => {
                self.ours.all() < probes && now >= not_before + patience(lane)
            }
        }
    }

    /// The part of its jobs that goes well, 0 to 1.
    pub fn ok(&self, now: Micros) -> f64 {
        self.rate.ok(now)
    }

    /// How likely a job should be kept from it.
    pub fn reject(&self, now: Micros) -> f64 {
        self.rate.reject(now)
    }

    /// When one of our own jobs last ended there.
    pub const fn last_heard(&self) -> Micros {
        self.heard
    }

    /// Median and 95th percentile of the service time: our own figures once there are enough, else the workers'.
    pub fn service(&self) -> (Duration, Duration) {
        if self.service.count() >= OWN_ENOUGH {
            (self.service.p50(), self.service.p95())
        } else {
            (Duration::from_micros(self.served.p50_us), Duration::from_micros(self.served.p95_us))
        }
    }

    /// The 95th percentile of a job with its likely share of a cold start, if that is known from jobs of our own.
    pub fn usual(&self) -> Option<Duration> {
        (self.service.count() >= OWN_ENOUGH).then(|| self.service.p95())
    }

    /// How likely one more job would meet a cold start, 0 to 1.
    pub fn likely_cold(&self, now: Micros) -> f64 {
        self.cold.likely(self.cold.bin(self.running() + 1, now))
    }

    /// Containers that are probably warm, and the part of the last jobs that met a cold start.
    pub fn warmth(&self) -> (u32, f64) {
        (self.cold.peak(), self.cold.fraction())
    }

    /// How long a cold start takes; zero where none was seen.
    pub const fn cold_p95(&self) -> Duration {
        self.cold.p95()
    }

    /// Usual and present service time, for judging.
    pub fn averages(&self) -> (Duration, Duration) {
        self.limit.averages()
    }

    /// How many times slower it is than usual.
    pub fn slowness(&self) -> f64 {
        self.limit.slowness()
    }

    /// What an attempt that starts now is expected to take and to cost:
    /// `fixed + price · (E[service] + P(cold) · (p95(cold) + idle))`, where `fixed` is what is not billed by time, and `idle` how
    /// long a container that is started for it is billed after it.
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

    /// An attempt of ours was offered. Gives the bin it starts in.
    pub fn sent(&mut self, config: &BreakerConfig, now: Micros) -> Bin {
        let running = self.running() + 1;
        let bin = self.cold.bin(running, now);
        self.cold.started(running, now);
        self.ours += Ours::OFFERED;
        self.breaker.sent(config, now);
        bin
    }

    /// An offer was answered, or lapsed; `taken` if its attempt runs now.
    pub fn answered(&mut self, taken: bool) {
        self.ours.offered = self.ours.offered.saturating_sub(1);
        if taken {
            self.ours += Ours::RUNNING;
        } else {
            self.breaker.unsent();
        }
    }

    /// An attempt that was taken will not be heard of again, or never called the provider.
    pub fn vanished(&mut self) {
        self.breaker.unsent();
        self.ours.running = self.ours.running.saturating_sub(1);
    }

    /// An attempt of ours ended.
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
            FailureClass::Timeout => self.slow_probe(now),
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
        self.limit.ended(outcome.service, running, slots, !self.is_suspect());
        let usual = self.limit.averages().0.max(Duration::from_millis(1));
        let Standing::Suspect { probes, ended, slower, .. } = &mut self.standing else {
            self.service.record(outcome.service, now);
            return;
        };
        *slower += (outcome.service.as_secs_f64().max(1e-4) / usual.as_secs_f64()).ln();
        *ended += 1;
        if *ended < *probes {
            return;
        }
        if *slower > f64::from(*ended) * WELL.ln() {
            self.slow_probe(now);
            return;
        }
        (*probes, *ended, *slower) = (*probes * 2, 0, 0.0);
        if *probes > PROBES_MAX {
            self.standing = Standing::Good;
            self.limit.restart(RESTART, slots);
        }
    }

    fn slow_probe(&mut self, now: Micros) {
        if let Standing::Suspect { probes, ended, slower, not_before } = &mut self.standing {
            (*probes, *ended, *slower, *not_before) = (1, 0, 0.0, now + REST);
        }
    }

    /// Only tried from now on. True when it was in good standing before.
    pub fn suspect(&mut self, now: Micros) -> bool {
        if self.is_suspect() {
            return false;
        }
        self.standing = Standing::Suspect { probes: 1, ended: 0, slower: 0.0, not_before: now + REST };
        true
    }
}
