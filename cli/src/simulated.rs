//! Simulated providers in this process.

use anyhow::Context as _;
use simulators::{Simulator, SimulatorConfig};
use tokio_util::sync::CancellationToken;

/// Simulators that are listening. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Simulated {
    running: Vec<Simulator>,
    shutdown: CancellationToken,
}

impl Simulated {
    /// Starts one after the other; an error names the simulator and its address.
    pub(crate) async fn start(configs: &[SimulatorConfig]) -> anyhow::Result<Self> {
        let mut started = Self::default();
        for config in configs {
            let simulator = simulators::start(config.clone(), started.shutdown.clone())
                .await
                .with_context(|| format!("simulator {} cannot start", config.name))?;
            started.running.push(simulator);
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
