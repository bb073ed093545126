//! A checked scenario: which jobs arrive when, what the world is like, and what goes wrong in it.

use std::time::Duration;

use schemas::{Lane, ModelToken, PoolId, ProviderId, Region, Tenant, UsdNanos};

use routing::budget::{Mode, Rules};

/// Everything that a play depends on, besides policy and seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name in tables and files.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// For how long jobs arrive.
    pub duration: Duration,
    /// When jobs arrive.
    pub arrivals: Arrivals,
    /// The regions in which jobs are published.
    pub regions: Vec<RegionSpec>,
    /// The one-way delay from region to region, by index.
    pub delays: Vec<Vec<Duration>>,
    /// The models that jobs ask for.
    pub models: Vec<ModelSpec>,
    /// The lanes, in the order of [`Lane::ALL`].
    pub lanes: [LaneSpec; 3],
    /// The tenants.
    pub tenants: Vec<TenantSpec>,
    /// The pools.
    pub pools: Vec<PoolSpec>,
    /// Providers of the baseline.
    pub baseline: Vec<ProviderId>,
    /// The baseline's share of steady traffic, 0 to 1.
    pub baseline_share: f64,
    /// The longest call to a provider.
    pub timeout: Duration,
    /// How long a job is gone with a worker that is cut off.
    pub lease: Duration,
    /// The budgets. Only Beacon's own policy knows them.
    pub budgets: Rules,
    /// Times in which more jobs arrive.
    pub bursts: Vec<Burst>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What a play should reach.
    pub targets: Targets,
}

/// When jobs arrive.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// They are drawn, with a mean rate.
    Drawn {
        /// Jobs a second, the mean over a period, all regions together.
        rate: f64,
        /// How the rate changes; `None` if it is steady.
        day: Option<Day>,
    },
    /// They arrive as in a recorded trace.
    Trace {
        /// The name of the file, without its folder.
        file: String,
        /// How many copies of it are laid over each other.
        copies: u32,
    },
}

/// A rate that goes up and down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Day {
    /// Its length.
    pub period: Duration,
    /// Its peak over its trough.
    pub swing: f64,
}

/// A region of jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionSpec {
    /// Its name.
    pub name: Region,
    /// Its part of all jobs.
    pub share: f64,
    /// How much later its day begins, as a part of the period.
    pub phase: f64,
}

/// A model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Its name.
    pub name: ModelToken,
    /// Its part of all jobs.
    pub share: f64,
    /// 90 of 100 jobs take between these two.
    pub service: (Duration, Duration),
    /// Prompt tokens a second.
    pub prefill: f64,
    /// Output tokens a second.
    pub decode: f64,
}

/// A lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LaneSpec {
    /// Its part of all jobs.
    pub share: f64,
    /// After arrival.
    pub deadline: Duration,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantSpec {
    /// Its name.
    pub name: Tenant,
    /// Its part of all jobs.
    pub share: f64,
    /// Its weight when not all can be served.
    pub weight: u32,
}

/// A provider in a region.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// Its name.
    pub id: PoolId,
    /// Index of its region.
    pub region: usize,
    /// How many jobs run at once.
    pub slots: u32,
    /// Service times are divided by this.
    pub speed: f64,
    /// By model; `None` for a model that is not served.
    pub prices: Vec<Option<Price>>,
    /// How often its worker checks the provider's health, if ever.
    pub health_every: Option<Duration>,
    /// Its containers; `None` for pools that are always on, such as rented machines.
    pub serverless: Option<Serverless>,
}

/// What an attempt costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// By answer.
    Inference(UsdNanos),
    /// By second of the machine.
    Second(UsdNanos),
}

/// The containers of a serverless provider, which start when they are needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Serverless {
    /// Median and 95th percentile of a cold start.
    pub cold_start: (Duration, Duration),
    /// A container stops after it was idle for this long.
    pub idle_timeout: Duration,
    /// Whether idle time is billed.
    pub bills_idle: bool,
    /// Whether containers can be ordered ahead.
    pub warmable: bool,
}

/// A time in which more jobs arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Only jobs of this tenant; `None` for all.
    pub tenant: Option<usize>,
    /// Only jobs of this region; `None` for all.
    pub region: Option<usize>,
    /// When it begins, from the start of the scenario.
    pub from: Duration,
    /// When it ends, from the start of the scenario.
    pub until: Duration,
    /// How many times as many jobs arrive.
    pub factor: f64,
}

/// A fault that lasts for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The pools it affects, by index.
    pub pools: Vec<usize>,
    /// What it affects, as the scenario names it.
    pub whom: String,
    /// When it begins, from the start of the scenario.
    pub from: Duration,
    /// When it ends, from the start of the scenario.
    pub until: Duration,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// Calls get a server error at once, and running calls break off.
    Down,
    /// Calls take this many times as long.
    Slow(f64),
    /// Calls never end.
    Hang,
    /// Calls beyond a part of the slots are refused by a rate limit.
    RateLimit {
        /// The part of the slots, 0 to 1.
        part: f64,
        /// How long the provider asks to wait.
        retry_after: Duration,
    },
    /// No message gets there or back.
    CutOff,
    /// Everything costs this many times as much.
    Price(f64),
    /// All containers are gone, and each start takes this many times as long.
    ColdStarts(f64),
    /// This part of the answers cannot be used, 0 to 1.
    Garbage(f64),
    /// Calls beyond this part of the slots are refused for lack of capacity.
    Capacity(f64),
}

/// What a play should reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets {
    /// 95 of 100 jobs end within this time.
    pub p95: Duration,
    /// The part of jobs that succeed in time, 0 to 1.
    pub availability: f64,
    /// The mean cost of a job that succeeded, all costs included.
    pub cost: UsdNanos,
    /// How far the baseline's share of steady minutes may be off, 0 to 1.
    pub share_within: f64,
}

impl FaultKind {
    /// Its name in scenarios and plots.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Slow(_) => "slow",
            Self::Hang => "hang",
            Self::RateLimit { .. } => "rate_limit",
            Self::CutOff => "cut_off",
            Self::Price(_) => "price",
            Self::ColdStarts(_) => "cold_starts",
            Self::Garbage(_) => "garbage",
            Self::Capacity(_) => "capacity",
        }
    }
}

impl Scenario {
    /// The same scenario, `factor` times as long. Windows and periods change with it; rates and slots stay.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        let shrink = |span: &mut Duration| *span = span.mul_f64(factor);
        shrink(&mut self.duration);
        if let Arrivals::Drawn { day: Some(day), .. } = &mut self.arrivals {
            shrink(&mut day.period);
        }
        for burst in &mut self.bursts {
            shrink(&mut burst.from);
            shrink(&mut burst.until);
        }
        for fault in &mut self.faults {
            shrink(&mut fault.from);
            shrink(&mut fault.until);
        }
        self
    }

    /// The deadline of a lane's jobs.
    pub fn deadline(&self, lane: Lane) -> Duration {
        self.lanes[lane_index(lane)].deadline
    }

    /// Whether a tenant is counted apart: it sends more than its share for a while, or may run out of money.
    pub fn apart(&self, tenant: usize) -> bool {
        self.bursts.iter().any(|burst| burst.tenant == Some(tenant)) || self.may_run_out(tenant)
    }

    /// Whether a tenant has a hard budget of its own.
    pub fn may_run_out(&self, tenant: usize) -> bool {
        let name = Some(&self.tenants[tenant].name);
        self.budgets.as_slice().iter().any(|rule| rule.mode == Mode::Hard && rule.tenant.as_ref() == name)
    }
}

/// The index of a lane in [`Lane::ALL`].
pub(super) const fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::High => 0,
        Lane::Normal => 1,
        Lane::Low => 2,
    }
}

impl Price {
    /// The same price, times a factor.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a price times a factor; saturates"
    )]
    pub(super) fn times(self, factor: f64) -> Self {
        let scaled = |usd: UsdNanos| UsdNanos::new((usd.get() as f64 * factor).round() as u64);
        match self {
            Self::Inference(usd) => Self::Inference(scaled(usd)),
            Self::Second(usd) => Self::Second(scaled(usd)),
        }
    }
}
