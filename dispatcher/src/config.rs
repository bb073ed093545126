//! What an operator may set for a dispatcher, checked once. How pools are chosen is [`routing::config`].

use std::{collections::HashMap, time::Duration};

use routing::{
    budget::Rules,
    config::{BreakerConfig, PolicyConfig},
    never::KnownPool,
    retry_budget::RetryConfig,
};
use schemas::{Region, Tenant, WorkerId, topology::Settings};
use transport::LinkConfig;

/// Everything a dispatcher needs. Made by the command line from a checked file; always usable.
#[derive(Clone, Debug)]
pub struct DispatcherConfig {
    /// The connection.
    pub link: LinkConfig,
    /// Names this process in logs and inboxes.
    pub id: WorkerId,
    /// The map of streams; its regions are all that exist.
    pub topology: Settings,
    /// The regions this process dispatches for.
    pub regions: Vec<Region>,
    /// The pools that the configuration lists, whether or not anything was heard of them. A job that none of them could ever take
    /// ends at once. Where none is listed, such a job waits for one to come.
    pub pools: Vec<KnownPool>,
    /// How a pool is chosen.
    pub policy: PolicyConfig,
    /// When a pool is left alone.
    pub breaker: BreakerConfig,
    /// How long offers and parked jobs may take.
    pub offers: OfferConfig,
    /// When the log is trimmed.
    pub trim: TrimConfig,
    /// How many attempts may be repeats.
    pub retries: RetryConfig,
    /// Who may spend how much.
    pub budgets: Rules,
    /// The shares of tenants; 1 for one that is not here.
    pub weights: HashMap<Tenant, u32>,
    /// How long to wait for open offers at the end.
    pub grace: Duration,
}

/// How long offers and parked jobs may take.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferConfig {
    /// A worker drops an offer older than this.
    pub accept_within: Duration,
    /// Added for clocks that differ, before the offer goes to another.
    pub margin: Duration,
    /// Deliveries without an outcome after which a job is poison; those that a stopping dispatcher gave back do not count.
    pub poison_after: u64,
    /// The most jobs one pull may bring.
    pub pull_batch: u32,
    /// Jobs of one model that may be in hand while no slot is free, so that whoever rents machines hears by when they must have
    /// started. With 0 only their number is known.
    pub look_ahead: u32,
}

impl Default for OfferConfig {
    fn default() -> Self {
        Self {
            accept_within: Duration::from_secs(1),
            margin: Duration::from_millis(500),
            poison_after: 12,
            pull_batch: 500,
            look_ahead: 0,
        }
    }
}

/// When the log is trimmed.
#[derive(Clone, Debug, PartialEq)]
pub struct TrimConfig {
    /// Finished jobs younger than this stay, for replays and for the server's memory of message ids.
    pub horizon: Duration,
    /// How often it is looked at.
    pub every: Duration,
}

impl Default for TrimConfig {
    fn default() -> Self {
        Self { horizon: Duration::from_secs(24 * 3600), every: Duration::from_secs(10) }
    }
}
