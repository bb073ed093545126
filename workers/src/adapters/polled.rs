//! The requests that RunPod and Replicate share: a JSON API whose runs are started, asked about and stopped by one request
//! each.

use std::{future::Future, time::Duration};

use reqwest::{RequestBuilder, Response};
use schemas::failure::{Failure, FailureClass};
use tokio::time::timeout;

use super::{
    dialect::Dialect,
    http, refusal,
    runs::{Asked, Submitted},
    throttle::Turn,
};

/// Sends a submission. The error is what any answer but one with a status of 2xx means for the run.
pub(super) async fn submitted(request: RequestBuilder, dialect: Dialect) -> Result<Response, Submitted> {
    let response = request.send().await.map_err(|error| {
        // Without a connection nothing runs.
        if error.is_connect() {
            Submitted::Refused(http::broken(error))
        } else {
            Submitted::Unsure(http::broken(error))
        }
    })?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(match refusal::read(response, dialect).await {
        // An edge that lost the answer, or gave up waiting for it.
        (502 | 504 | 520..=599, failure) => Submitted::Unsure(failure),
        (_, failure) => Submitted::Refused(failure),
    })
}

/// Bounds a submission. Without an answer in time it is not known whether the run exists.
pub(super) async fn within(patience: Duration, submitted: impl Future<Output = Submitted>) -> Submitted {
    timeout(patience, submitted).await.unwrap_or_else(|_| {
        Submitted::Unsure(Failure::new(FailureClass::Timeout, "the submission was not answered in time"))
    })
}

/// Asks about a run. The error is what any answer but one with status 200 means for the run.
pub(super) async fn asked(request: RequestBuilder, dialect: Dialect) -> Result<Response, Asked> {
    let response = request.send().await.map_err(|error| Asked::Failed(http::broken(error)))?;
    match response.status().as_u16() {
        200 => Ok(response),
        404 => Err(Asked::Unknown),
        _ => Err(match refusal::read(response, dialect).await {
            (401..=403, failure) => Asked::Hopeless(failure),
            (_, failure) => Asked::Failed(failure),
        }),
    }
}

/// Asks to stop a run. An unknown run counts as stopped.
pub(super) async fn stopped(
    request: RequestBuilder,
    limit: Duration,
    turn: Turn<'_>,
    dialect: Dialect,
) -> Result<(), Failure> {
    let late = |_| Failure::new(FailureClass::Timeout, "the cancellation was not answered in time");
    let response = timeout(limit, request.send()).await.map_err(late)?.map_err(http::broken)?;
    let outcome = match response.status().as_u16() {
        200..=299 | 404 => Ok(()),
        _ => Err(refusal::read(response, dialect).await.1),
    };
    turn.answered(outcome.as_ref().err());
    outcome
}

impl Asked {
    /// The meaning of a submission's answer that is about the run of this id.
    pub(super) fn into_submitted(self, run: String) -> Submitted {
        match self {
            Self::Over(over) => Submitted::Over(over),
            _ => Submitted::Run(run),
        }
    }

    /// An answer about another run is refused: its output would be another job's result.
    pub(super) fn about_another() -> Self {
        Self::Hopeless(Failure::new(FailureClass::ProviderDown, "an answer about another run"))
    }
}
