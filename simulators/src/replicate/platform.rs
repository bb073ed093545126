//! The state that the routes of one simulated Replicate share, and the checks before each route.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::{archive::Archive, limits::Limits};
use crate::{connection::Connection, edge, errors::problem::Problem, service::Service, signature::Secret};

/// One simulated Replicate.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) service: Arc<Service>,
    pub(crate) archive: Archive,
    /// `None` when the settings lift them.
    pub(crate) limits: Option<Limits>,
    pub(crate) secret: Arc<Secret>,
}

impl Platform {
    /// Expects a configuration that has been checked.
    pub(crate) fn new(service: &Arc<Service>) -> Self {
        let settings = &service.config.replicate;
        let secret = Secret::parse(&settings.webhook_secret).expect("checked with the configuration");
        Self {
            service: Arc::clone(service),
            archive: Archive::new(service.config.seed),
            limits: Limits::new(settings),
            secret: Arc::new(secret),
        }
    }

    /// The answer to a request that a fault at the edge or the rate limit stops.
    pub(crate) async fn stopped(&self, connection: &Connection) -> Option<Response> {
        match edge::stopped(&self.service, connection).await {
            Some(response) => Some(response),
            None => self.throttled(),
        }
    }

    /// The answer to a request beyond the limit for everything but creates.
    pub(crate) fn throttled(&self) -> Option<Response> {
        let seconds = self.limits.as_ref()?.other.take(Instant::now()).err()?;
        self.service.board.refused();
        Some(Problem::throttled(seconds, self.service.config.replicate.retry_after).into_response())
    }
}
