//! Replicate's prediction API: predictions that outlive the request that made them, on a fleet of instances.
//!
//! ```text
//!  create ─▶ limits ─▶ input ─▶ archive ─▶ run ─▶ fleet (queue, boot) ─▶ predict ─▶ bill
//!                                 │         │
//!            get, list, cancel, stream   webhook
//! ```
//!
//! A fault that concerns the connection (`reset_mid_stream`, `truncated_body`, `garbage_json`, `silent_end`) spoils
//! the answer to the create and leaves the prediction alone; one that concerns the run (`slow`, `stall_mid_stream`,
//! `error_frame`, `oom`, `container_dies`) shows in the prediction.

mod archive;
mod catalog;
mod create;
mod fleet;
mod headers;
mod input;
pub(crate) mod limits;
mod prediction;
mod problem;
mod run;
mod settings;
mod stream;
#[cfg(test)]
mod tests;
mod watch;
mod webhook;
mod wire;

use std::sync::Arc;

use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};

pub use settings::{MaxTokensKey, OutputShape, ReplicateBilling, ReplicateSettings};

use crate::{
    config::SimulatorConfig,
    replicate::{archive::Archive, fleet::Fleet, limits::Limits, problem::Problem, webhook::Secret},
    service::Service,
};

/// What one simulator of Replicate knows.
#[derive(Debug)]
pub(crate) struct State {
    archive: Archive,
    /// In the order of the models.
    fleets: Vec<Arc<Fleet>>,
    /// `None` when they are lifted.
    limits: Option<Limits>,
    secret: Secret,
}

impl State {
    /// Expects a configuration that has been checked.
    pub(crate) fn new(config: &SimulatorConfig) -> Self {
        Self {
            archive: Archive::new(config.seed),
            fleets: config.models.iter().map(|model| Fleet::new(model, config)).collect(),
            limits: Limits::new(&config.replicate),
            secret: Secret::parse(&config.replicate.webhook_secret).expect("checked with the configuration"),
        }
    }
}

/// Begins what goes on without any request.
pub(crate) fn start(service: &Arc<Service>) {
    for fleet in &service.replicate.fleets {
        service.tasks.spawn(Arc::clone(fleet).run_reaper(Arc::clone(service)));
    }
}

/// Bills what is due, so that nobody sees a reaper's delay.
pub(crate) fn close_due(service: &Service) {
    for fleet in &service.replicate.fleets {
        fleet.reap_due(service);
    }
}

/// All routes.
pub(crate) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/models/{owner}/{name}/predictions", post(create::official))
        .route("/v1/deployments/{owner}/{name}/predictions", post(create::deployed))
        .route("/v1/predictions", post(create::versioned).get(watch::list))
        .route("/v1/predictions/{id}", get(watch::get))
        .route("/v1/predictions/{id}/cancel", post(watch::cancel))
        .route("/v1/streams/{id}", get(stream::stream))
        .route("/v1/account", get(catalog::account))
        .route("/v1/hardware", get(catalog::hardware))
        .route("/v1/models/{owner}/{name}", get(catalog::model))
        .route("/v1/models/{owner}/{name}/versions", get(catalog::versions))
        .route("/v1/models/{owner}/{name}/versions/{id}", get(catalog::version))
        .route("/v1/webhooks/default/secret", get(catalog::secret))
}

/// What the provider itself says with this status.
pub(crate) fn error_answer(status: StatusCode) -> Response {
    Problem::usual(status).into_response()
}
