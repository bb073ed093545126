//! One simulated machine: its stage, its papers, and the server behind it.

use std::{net::SocketAddr, sync::Arc};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::life::{Life, Serves};
use crate::{
    config::{Kind, SimulatorConfig},
    fault::{Fault, FaultKind},
    server::{self, Simulator},
};

/// Where a machine stands. Each provider has words of its own for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It boots.
    Booting,
    /// It runs; its server may not listen yet.
    Up,
    /// It is being parked.
    Parking,
    /// It is stopped and kept.
    Parked,
    /// Its end was accepted.
    Ending,
    /// It is gone for good.
    Gone,
    /// It is in this state of the provider's, by its own word.
    Broken(String),
}

/// The server of a machine that is up.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) simulator: Arc<Simulator>,
    pub(super) shutdown: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) mark: Option<String>,
    pub(super) sku: String,
    pub(super) place: String,
    pub(super) foreign: bool,
    pub(super) key: Option<String>,
    pub(super) address: SocketAddr,
    pub(super) price_per_hour_nanos: u64,
    pub(super) parked_per_hour_nanos: u64,
    pub(super) life: Life,
    pub(super) stage: Stage,
    /// Every stage it was in, and since when in microseconds since the Unix epoch.
    pub(super) history: Vec<(Stage, u64)>,
    /// What the provider keeps about it: the request that made it, its names, its tags.
    pub(super) papers: Value,
    /// Raised by each change of stage, so that a change that was due before is dropped.
    pub(super) generation: u64,
    pub(super) server: Option<Running>,
}

impl Machine {
    pub(super) fn enter(&mut self, stage: Stage, at_us: u64) {
        self.generation += 1;
        self.stage = stage.clone();
        self.history.push((stage, at_us));
    }

    /// Its server no longer answers, and all its connections break.
    pub(super) fn stop_serving(&mut self) {
        if let Some(running) = self.server.take() {
            running.shutdown.cancel();
        }
    }
}

/// Starts the server of a machine. It asks for `key`, if there is one.
pub(super) async fn serve(
    address: SocketAddr,
    key: Option<String>,
    life: &Life,
    shutdown: CancellationToken,
) -> Result<Running, server::StartError> {
    let mut config = SimulatorConfig::new("rented machine", Kind::OpenAi, life.models.clone());
    (config.listen, config.api_key) = (address, key);
    let simulator = server::start(config, shutdown.clone()).await?;
    let fault = match life.serves {
        Serves::Well => None,
        Serves::HealthOnly => Some(FaultKind::Status {
            code: 500,
            body: Some(r#"{"error":{"message":"CUDA error 802: system not yet initialized","type":"Internal Server Error","param":null,"code":500}}"#.to_owned()),
            retry_after_s: None,
        }),
        Serves::Stalls { after_tokens } => Some(FaultKind::StallMidStream { after_tokens }),
    };
    simulator.set_fault(fault.map(Fault::always));
    Ok(Running { simulator: Arc::new(simulator), shutdown })
}
