//! Starts a simulator, steers it, and stops it.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    bill::Bill,
    board::Stats,
    clock::micros,
    config::{ConfigError, Kind, MetricsPage, SimulatorConfig},
    connection::{Connection, Door},
    control, edge, errors,
    fault::Fault,
    modal, openai,
    rented::ControlFault,
    replicate, runpod,
    service::Service,
    tape::{self, Exchange},
};

/// Larger than any job: the largest payload that NATS takes is 64 MiB.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// A simulator that is listening.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    service: Arc<Service>,
}

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address is taken or not ours.
    #[error("simulator {simulator} cannot listen on {listen}")]
    Bind {
        /// The simulator's name.
        simulator: String,
        /// The address asked for.
        listen: SocketAddr,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
}

/// Starts a simulator; it serves when this returns. Cancelling `shutdown` ends it and all its requests at once.
pub async fn start(config: SimulatorConfig, shutdown: CancellationToken) -> Result<Simulator, StartError> {
    config.check()?;
    let bind = |source| StartError::Bind { simulator: config.name.clone(), listen: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros);
    let service = Service::new(config, now, shutdown.clone());
    info!(simulator = %service.config.name, %address, "simulator listening");

    service.start_reapers();
    let door = Door { listener, shutdown: shutdown.clone() };
    let app = routes(&service).into_make_service_with_connect_info::<Connection>();
    let server = axum::serve(door, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let name = service.config.name.clone();
    service.tasks.spawn(async move {
        if let Err(error) = server.await {
            warn!(simulator = %name, %error, "simulator stopped serving");
        }
    });
    let tasks: TaskTracker = service.tasks.clone();
    // Once closed the tracker still takes the tasks of calls; it only lets its waiters go when none is left.
    tasks.close();
    Ok(Simulator { address, service })
}

fn routes(service: &Arc<Service>) -> Router {
    let api = match service.config.kind {
        Kind::OpenAi | Kind::Golem => openai::routes(service).merge(openai::watched(service)),
        Kind::Modal => openai::routes(service).merge(modal::routes(service)),
        Kind::RunPod => runpod::routes(service),
        Kind::Replicate => replicate::routes(service),
    };
    api.fallback(errors::not_found)
        .method_not_allowed_fallback(errors::method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(service), edge::guard))
        .layer(middleware::from_fn_with_state(Arc::clone(&service.tape), tape::record))
        // Added after the guard, so that it does not stand before them.
        .merge(control::routes(service))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

impl Simulator {
    /// The base URL, without a trailing slash: `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.service.config.name
    }

    /// Its configuration.
    pub fn config(&self) -> &SimulatorConfig {
        &self.service.config
    }

    /// The bill so far.
    pub fn bill(&self) -> Bill {
        self.service.bill()
    }

    /// Replaces the fault in force; `None` clears it. Requests that are under way keep the fault they drew.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.service.faults.set(fault);
    }

    /// Every call of this path fails so until [`Simulator::clear_route_faults`]; `*` is any path. Jobs' own faults are set apart.
    pub fn fault_route(&self, path: &str, fault: ControlFault) {
        self.service.control.set(path, fault, None);
    }

    /// Takes all faults of routes away.
    pub fn clear_route_faults(&self) {
        self.service.control.clear();
    }

    /// Changes what the pages of metrics of a rented server are like.
    pub fn set_metrics(&self, page: MetricsPage) {
        self.service.set_metrics_page(page);
    }

    /// The fault in force, with the rest of its count.
    pub fn fault(&self) -> Option<Fault> {
        self.service.faults.get()
    }

    /// How many requests wait and run, and how the others ended.
    pub fn stats(&self) -> Stats {
        self.service.board.total()
    }

    /// Every request that has been answered so far, and its answer; empty unless the configuration says `record`.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.service.tape.exchanges()
    }

    /// Waits until it has stopped, which happens when its `shutdown` is cancelled.
    pub async fn stopped(self) {
        self.service.tasks.wait().await;
    }
}
