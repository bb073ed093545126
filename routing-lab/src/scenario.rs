//! A checked scenario: who sends what when, what the world is like, and what goes wrong in it. Always usable.

use std::time::Duration;

use schemas::{Lane, ModelToken, PoolId, ProviderId, Region, Tenant, UsdNanos};

use routing::budget::{Mode, Rules};

/// Everything a run is about, besides policy and seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Names it in tables and files.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// How long jobs arrive.
    pub duration: Duration,
    /// Where jobs come from.
    pub arrivals: Arrivals,
    /// Where jobs are published.
    pub regions: Vec<RegionSpec>,
    /// One way from a region to a region, by index.
    pub delays: Vec<Vec<Duration>>,
    /// What they ask for.
    pub models: Vec<ModelSpec>,
    /// How urgent they are, in the order of [`Lane::ALL`].
    pub lanes: [LaneSpec; 3],
    /// Whose they are.
    pub tenants: Vec<TenantSpec>,
    /// Who runs them.
    pub pools: Vec<PoolSpec>,
    /// Providers of the baseline.
    pub baseline: Vec<ProviderId>,
    /// Their share of steady traffic, 0 to 1.
    pub baseline_share: f64,
    /// The longest call to a provider.
    pub timeout: Duration,
    /// How long a job is gone when whoever holds it is cut off.
    pub lease: Duration,
    /// What may be spent. Only Beacon knows budgets.
    pub budgets: Rules,
    /// Times in which more jobs arrive.
    pub bursts: Vec<Burst>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What is wanted of a run.
    pub targets: Targets,
}

/// When jobs arrive.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// By chance, so many a second on average.
    Drawn {
        /// On average over a period, all regions together.
        rate: f64,
        /// None when steady.
        day: Option<Day>,
    },
    /// As they did somewhere.
    Trace {
        /// The file, without its folder.
        file: String,
        /// So many copies over each other.
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
    /// What it may have when all want more than there is.
    pub weight: u32,
}

/// A provider in a region.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// Its name.
    pub id: PoolId,
    /// Index of its region.
    pub region: usize,
    /// Jobs at once.
    pub slots: u32,
    /// Service times are divided by this.
    pub speed: f64,
    /// By model; none where it is not served.
    pub prices: Vec<Option<Price>>,
    /// How often its worker asks for its health, if ever.
    pub health_every: Option<Duration>,
    /// None where something always stands.
    pub serverless: Option<Serverless>,
}

/// What an attempt costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// For an answer.
    Inference(UsdNanos),
    /// For a second of the machine.
    Second(UsdNanos),
}

/// Containers that start when they are needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Serverless {
    /// Median and 95th percentile of a cold start.
    pub cold_start: (Duration, Duration),
    /// A container stops when it was idle for so long.
    pub idle_timeout: Duration,
    /// Whether that time is billed.
    pub bills_idle: bool,
    /// Whether containers can be ordered ahead.
    pub warmable: bool,
}

/// A time in which more jobs arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Only this tenant's.
    pub tenant: Option<usize>,
    /// Only this region's.
    pub region: Option<usize>,
    /// From the start.
    pub from: Duration,
    /// From the start.
    pub until: Duration,
    /// How many times as many.
    pub factor: f64,
}

/// Something that goes wrong for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// At these pools, by index.
    pub pools: Vec<usize>,
    /// Whom it strikes, as the scenario says it.
    pub whom: String,
    /// From the start.
    pub from: Duration,
    /// From the start.
    pub until: Duration,
    /// What.
    pub kind: FaultKind,
}

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// Server errors at once; calls that run break off.
    Down,
    /// Calls take so many times as long.
    Slow(f64),
    /// Calls never end.
    Hang,
    /// More calls at once than this part of the slots are told to wait.
    RateLimit {
        /// Of the slots, 0 to 1.
        part: f64,
        /// For so long.
        retry_after: Duration,
    },
    /// Nothing gets there or back.
    CutOff,
    /// All costs so many times as much.
    Price(f64),
    /// All containers are gone, and each start takes so many times as long.
    ColdStarts(f64),
    /// So many of the answers cannot be used, 0 to 1.
    Garbage(f64),
    /// More calls at once than this part of the slots find no room.
    Capacity(f64),
}

/// What is wanted of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets {
    /// 95 of 100 jobs end within this.
    pub p95: Duration,
    /// Jobs that succeed in time, 0 to 1.
    pub availability: f64,
    /// The mean cost of a job that succeeded, all costs included.
    pub cost: UsdNanos,
    /// How far the baseline's share of steady minutes may be off, 0 to 1.
    pub share_within: f64,
}

impl FaultKind {
    /// The word for it in scenarios and plots.
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
    /// The same, `factor` times as long: windows and periods shrink with it, rates and slots stay.
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

    /// Tenants that are told apart: they send more than their share for a while, or may run out of money.
    pub fn apart(&self, tenant: usize) -> bool {
        self.bursts.iter().any(|burst| burst.tenant == Some(tenant)) || self.may_run_out(tenant)
    }

    /// Tenants with a hard budget of their own.
    pub fn may_run_out(&self, tenant: usize) -> bool {
        let name = Some(&self.tenants[tenant].name);
        self.budgets.as_slice().iter().any(|rule| rule.mode == Mode::Hard && rule.tenant.as_ref() == name)
    }
}

/// Place of a lane in [`Lane::ALL`].
pub(super) const fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::High => 0,
        Lane::Normal => 1,
        Lane::Low => 2,
    }
}
