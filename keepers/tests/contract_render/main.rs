//! Render's landlord against a simulator that speaks Render's own API, and what both say against Render's description.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

#[path = "../services/mod.rs"]
mod services;

mod contract_render;
mod contract_render_faults;
mod contract_render_schema;
mod openapi;

use std::time::Duration;

use keepers::{
    landlords::render::{Render, RenderConfig, RenderPool},
    secret::Secret,
};
use services::{Row, usd};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A simulated workspace and a landlord in it.
struct Bed {
    simulator: simulators::rented::Render,
    landlord: Render,
    _stop: DropGuard,
}

impl Bed {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(simulated: impl FnOnce(&mut simulators::rented::RenderConfig)) -> Self {
        // More looks than a minute allows; the limits have a test of their own.
        let budgets = [(100_000, Duration::from_secs(60)); 4];
        let mut config = simulators::rented::RenderConfig { budgets, ..Default::default() };
        simulated(&mut config);
        let stop = CancellationToken::new();
        let simulator = simulators::rented::Render::start(config, stop.clone()).await.unwrap();
        let landlord = Render::new(ours(&simulator.url())).unwrap();
        Self { simulator, landlord, _stop: stop.drop_guard() }
    }

    /// How often this was called.
    fn count(&self, method: &str, end: &str) -> usize {
        let exchanges = self.simulator.account().exchanges();
        let is = |path: &str| path.split('?').next().is_some_and(|path| path.ends_with(end));
        exchanges.iter().filter(|exchange| exchange.method == method && is(&exchange.path)).count()
    }
}

fn ours(url: &str) -> RenderConfig {
    let mut config = RenderConfig::new(Secret::new("rnd_key"), "tea-1");
    config.api = url.to_owned();
    config.resume_shows_within = Duration::from_millis(200);
    config.usd_per_hour.insert("pro_plus".to_owned(), usd("0.243055556"));
    config
        .pools
        .insert("render@us-east".parse().unwrap(), RenderPool::new("virginia", "pro_plus", "ghcr.io/a/b"));
    config
}

fn row() -> Row {
    Row::new("render@us-east", "virginia", "pro_plus")
}
