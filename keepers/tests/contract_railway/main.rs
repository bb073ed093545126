//! Railway's landlord against a simulator that speaks Railway's own API, and what both say against Railway's description.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

#[path = "../services/mod.rs"]
mod services;

mod contract_railway;
mod contract_railway_faults;
mod contract_railway_schema;
mod introspection;

use keepers::landlords::railway::{Railway, RailwayConfig, RailwayPool, RailwayPrices, RailwayToken};
use keepers::secret::Secret;
use services::{Row, usd};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where all machines of these tests stand.
const PLACE: &str = "us-east4-eqdc4a";

/// A simulated project and a landlord in it.
struct Bed {
    simulator: simulators::rented::Railway,
    landlord: Railway,
    _stop: DropGuard,
}

impl Bed {
    async fn new() -> Self {
        Self::with(|_| {}, |_| {}).await
    }

    async fn with(
        simulated: impl FnOnce(&mut simulators::rented::RailwayConfig),
        ours: impl FnOnce(&mut RailwayConfig),
    ) -> Self {
        let mut config = simulators::rented::RailwayConfig::default();
        simulated(&mut config);
        let stop = CancellationToken::new();
        let (project, environment) = (config.project.clone(), config.environment.clone());
        let simulator = simulators::rented::Railway::start(config, stop.clone()).await.unwrap();
        let prices = RailwayPrices { vcpu_month: usd("20"), gb_month: usd("10"), egress_gb: usd("0.05") };
        let token = RailwayToken::Project(Secret::new("project-token"));
        let mut config = RailwayConfig::new(token, project, environment, prices);
        (config.api, config.edge_scheme) = (simulator.url(), "http".to_owned());
        config
            .pools
            .insert("railway@us-east".parse().unwrap(), RailwayPool::new(PLACE, "4x8", "ghcr.io/a/b"));
        ours(&mut config);
        Self { simulator, landlord: Railway::new(config).unwrap(), _stop: stop.drop_guard() }
    }

    /// The names of the calls that were made, in order.
    fn calls(&self) -> Vec<String> {
        let name = |path: &str| path.split_once("?query=").map_or(String::new(), |(_, name)| name.to_owned());
        self.simulator.account().exchanges().iter().map(|exchange| name(&exchange.path)).collect()
    }
}

fn row() -> Row {
    Row::new("railway@us-east", PLACE, "4x8")
}
