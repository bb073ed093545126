//! The three ways to create a prediction. They differ in how they name the model.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::time::{self, Instant};

use super::{
    headers::Wishes,
    input::Ask,
    platform::Platform,
    prediction::{Draft, Origin, Prediction},
    run, webhook,
    wire::{Wire, base, version_id},
};
use crate::{
    connection::Connection,
    edge,
    errors::problem::Problem,
    fault::{Course, FaultKind, Spoil},
    frames,
    model::Model,
    service::Service,
};

/// `POST /v1/models/{owner}/{name}/predictions`
pub(crate) async fn official(
    State(platform): State<Arc<Platform>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = Target::Model(format!("{owner}/{name}"), Origin::Official);
    create(&platform, connection, &headers, target, &body).await
}

/// `POST /v1/deployments/{owner}/{name}/predictions`
pub(crate) async fn deployed(
    State(platform): State<Arc<Platform>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = Target::Model(format!("{owner}/{name}"), Origin::Deployment);
    create(&platform, connection, &headers, target, &body).await
}

/// `POST /v1/predictions`
pub(crate) async fn versioned(
    State(platform): State<Arc<Platform>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    create(&platform, connection, &headers, Target::InBody, &body).await
}

/// Where a create names its model.
enum Target {
    /// The path.
    Model(String, Origin),
    /// `version` in the body.
    InBody,
}

async fn create(
    platform: &Platform,
    connection: Connection,
    headers: &HeaderMap,
    target: Target,
    body: &[u8],
) -> Response {
    let service = &platform.service;
    let fault = match edge::strike(service, &connection).await {
        Ok(fault) => fault,
        Err(response) => return *response,
    };
    let (prediction, wishes) = match enter(platform, headers, target, body) {
        Ok(entered) => entered,
        Err(problem) => {
            service.board.refused();
            return problem.into_response();
        }
    };
    // Written before the run begins, so that an immediate answer is always `starting`.
    let created = frames::json(&Wire::now(service, &prediction));
    if let Some(hook) = prediction.hook.clone() {
        let (secret, prediction) = (Arc::clone(&platform.secret), Arc::clone(&prediction));
        service.tasks.spawn(webhook::tell(Arc::clone(service), secret, prediction, hook));
    }
    let course = Course::under(fault.as_ref());
    service.tasks.spawn(run::carry(Arc::clone(service), Arc::clone(&prediction), course));

    let spoil = fault.as_ref().and_then(FaultKind::spoil);
    let (status, body) = match wishes.wait {
        // A connection that is cut does not wait.
        Some(wait) if spoil != Some(Spoil::Cut) => {
            hold(service, &prediction, service.config.replicate.scaled(wait)).await
        }
        Some(_) | None => (StatusCode::CREATED, created),
    };
    edge::send(spoil, status, body, GARBAGE, connection).await
}

/// A prediction that is cut off in the middle of its JSON.
const GARBAGE: Bytes = Bytes::from_static(b"{\"id\":\"gm3q\",\"model\":\"meta/ll");

/// Holds the answer until the prediction ends, at most as long as its creator waits.
async fn hold(service: &Service, prediction: &Prediction, wait: time::Duration) -> (StatusCode, Bytes) {
    let status = match time::timeout(wait, prediction.ended()).await {
        Ok(()) => StatusCode::CREATED,
        Err(_) => StatusCode::ACCEPTED,
    };
    (status, frames::json(&Wire::now(service, prediction)))
}

/// A new prediction that has not begun, or why there is none.
fn enter(
    platform: &Platform,
    headers: &HeaderMap,
    target: Target,
    body: &[u8],
) -> Result<(Arc<Prediction>, Wishes), Problem> {
    let service = &platform.service;
    let settings = &service.config.replicate;
    if let Some(limits) = &platform.limits {
        let throttled = |seconds| Problem::throttled(seconds, settings.retry_after);
        limits.create.take(Instant::now()).map_err(throttled)?;
    }
    if settings.no_credit {
        return Err(Problem::usual(StatusCode::PAYMENT_REQUIRED));
    }
    let wishes = Wishes::read(headers).map_err(Problem::unprocessable)?;
    let ask = Ask::decode(body, matches!(target, Target::InBody))?;
    let found = match (target, &ask.version) {
        (Target::Model(name, origin), _) => service.model(&name).map(|model| (model, origin)),
        (Target::InBody, Some(version)) => of_version(service, version),
        (Target::InBody, None) => unreachable!("a body is decoded only with a version where one is needed"),
    };
    let (model, origin) = found.ok_or_else(Problem::not_found)?;
    let answer = ask.answer(service.config.seed, &model.settings, settings)?;
    let draft = Draft {
        model: Arc::clone(model),
        origin,
        base: base(headers),
        input: ask.input,
        hook: ask.hook,
        answer,
        cancel_after: wishes.cancel_after.map(|after| settings.scaled(after)),
    };
    let full = || Problem::usual(StatusCode::SERVICE_UNAVAILABLE);
    Ok((platform.archive.enter(draft).ok_or_else(full)?, wishes))
}

/// The model of `owner/name`, `owner/name:version` or `version`.
fn of_version<'a>(service: &'a Service, text: &str) -> Option<(&'a Arc<Model>, Origin)> {
    if let Some((name, version)) = text.split_once(':') {
        let model = service.model(name).filter(|model| version_id(&model.settings.name) == version);
        return model.map(|model| (model, Origin::Version));
    }
    if text.contains('/') {
        return service.model(text).map(|model| (model, Origin::Official));
    }
    let model = service.models.iter().find(|model| version_id(&model.settings.name) == text);
    model.map(|model| (model, Origin::Version))
}
