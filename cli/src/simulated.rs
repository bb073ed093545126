//! Simulated providers in this process.

use anyhow::Context as _;
use simulators::{
    Simulator, SimulatorConfig,
    rented::{AccountConfig, House},
};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, process::SimulatedAccount};

/// Simulators that are listening. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Simulated {
    running: Vec<Simulator>,
    accounts: Vec<House>,
    shutdown: CancellationToken,
}

impl Simulated {
    /// Starts one after the other; an error names the simulator and its address.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Self> {
        Self::start_these(&config.simulators, &config.accounts).await
    }

    /// The same for some of a configuration's.
    pub(crate) async fn start_these(
        simulators: &[SimulatorConfig],
        accounts: &[AccountConfig],
    ) -> anyhow::Result<Self> {
        let mut started = Self::default();
        for config in simulators {
            let simulator = simulators::start(config.clone(), started.shutdown.clone())
                .await
                .with_context(|| format!("simulator {} cannot start", config.name))?;
            started.running.push(simulator);
        }
        for config in accounts {
            let account = House::start(config.clone(), started.shutdown.clone())
                .await
                .with_context(|| format!("simulated account {} cannot start", config.name))?;
            started.accounts.push(account);
        }
        Ok(started)
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Simulator] {
        &self.running
    }

    /// The one of that name.
    pub(crate) fn find(&self, name: &str) -> Option<&Simulator> {
        self.running.iter().find(|simulator| simulator.name() == name)
    }

    /// The account of that name.
    pub(crate) fn house(&self, name: &str) -> Option<&House> {
        self.accounts.iter().find(|house| house.config().name == name)
    }

    /// How the account of that name is reached.
    pub(crate) fn account(&self, name: &str) -> Option<SimulatedAccount> {
        let house = self.house(name)?;
        Some(SimulatedAccount { url: house.url(), key: house.key(), port: house.account().port() })
    }

    /// Where the one of that name listens.
    pub(crate) fn url(&self, name: &str) -> Option<String> {
        self.find(name).map(Simulator::url)
    }

    /// Ends all simulators and the runs that they still have.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        for simulator in std::mem::take(&mut self.running) {
            simulator.stopped().await;
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
