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
mod deployments;
mod headers;
mod hook;
mod input;
mod limits;
mod platform;
mod prediction;
mod run;
mod stream;
#[cfg(test)]
mod tests;
mod watch;
mod webhook;
mod wire;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use self::platform::Platform;
use crate::service::Service;

/// All routes.
pub(crate) fn routes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/v1/models/{owner}/{name}/predictions", post(create::official))
        .route("/v1/deployments/{owner}/{name}/predictions", post(create::deployed))
        .route("/v1/predictions", post(create::versioned).get(watch::list))
        .route("/v1/predictions/{id}", get(watch::get))
        .route("/v1/predictions/{id}/cancel", post(watch::cancel))
        .route("/v1/streams/{id}", get(stream::stream))
        .route("/v1/account", get(catalog::account))
        .route("/v1/hardware", get(catalog::hardware))
        .route("/v1/deployments", get(deployments::list))
        .route("/v1/deployments/{owner}/{name}", get(deployments::one))
        .route("/v1/models/{owner}/{name}", get(catalog::model))
        .route("/v1/models/{owner}/{name}/versions", get(catalog::versions))
        .route("/v1/models/{owner}/{name}/versions/{id}", get(catalog::version))
        .route("/v1/webhooks/default/secret", get(catalog::secret))
        .with_state(Arc::new(Platform::new(service)))
}
