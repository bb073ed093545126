//! The whole file, section by section, with the defaults. Each section checks itself in its own module.

use std::net::SocketAddr;

use serde::Deserialize;
use simulators::{SimulatorConfig, rented::AccountConfig};

use super::{
    dispatching::{RawDispatcher, RawOffers, RawTrim},
    keeping::RawKeeper,
    landlords::RawLandlord,
    nats::RawNats,
    policy::{RawBreaker, RawRouting},
    raw_pool::RawPool,
    spending::{RawBudget, RawRetries, RawTenant},
    streams::{RawBeacon, RawLease},
    worker::RawWorkers,
};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) nats: RawNats,
    pub(super) beacon: RawBeacon,
    pub(super) lease: RawLease,
    pub(super) routing: RawRouting,
    pub(super) breaker: RawBreaker,
    pub(super) offers: RawOffers,
    pub(super) trim: RawTrim,
    pub(super) dispatcher: RawDispatcher,
    pub(super) workers: RawWorkers,
    pub(super) metrics: RawMetrics,
    pub(super) log: RawLog,
    pub(super) retries: RawRetries,
    pub(super) budgets: Vec<RawBudget>,
    pub(super) tenants: Vec<RawTenant>,
    pub(super) landlords: Vec<RawLandlord>,
    pub(super) keeper: RawKeeper,
    pub(super) pools: Vec<RawPool>,
    pub(super) simulators: Vec<SimulatorConfig>,
    pub(super) simulated_accounts: Vec<AccountConfig>,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    pub(super) listen: Option<SocketAddr>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) filter: Option<String>,
    pub(super) json: bool,
}
