//! The three ways to create a prediction. They differ in how they name the model.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::time::{self, Instant};

use crate::{
    connection::Connection,
    edge::{self, broken_off},
    fault::{FaultKind, Spoil},
    frames,
    replicate::{
        catalog::version_id,
        headers::Wishes,
        input::Ask,
        prediction::{Draft, Origin, Prediction},
        problem::Problem,
        run::{self, Plan},
        webhook,
        wire::Wire,
    },
    room::Room,
    service::Service,
};

/// `POST /v1/models/{owner}/{name}/predictions`
pub(crate) async fn official(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = Target::Model(format!("{owner}/{name}"), Origin::Official);
    create(&service, connection, &headers, target, &body).await
}

/// `POST /v1/deployments/{owner}/{name}/predictions`
pub(crate) async fn deployed(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = Target::Model(format!("{owner}/{name}"), Origin::Deployment);
    create(&service, connection, &headers, target, &body).await
}

/// `POST /v1/predictions`
pub(crate) async fn versioned(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    create(&service, connection, &headers, Target::InBody, &body).await
}

/// What names the model.
enum Target {
    /// The path.
    Model(String, Origin),
    /// `version` in the body.
    InBody,
}

async fn create(
    service: &Arc<Service>,
    connection: Connection,
    headers: &HeaderMap,
    target: Target,
    body: &[u8],
) -> Response {
    let fault = service.strike();
    if let Some(fault) = &fault
        && let Some(response) = edge::struck(service, fault, &connection).await
    {
        return response;
    }
    let (prediction, wishes) = match enter(service, headers, target, body) {
        Ok(entered) => entered,
        Err(problem) => {
            service.board.refused();
            return problem.into_response();
        }
    };
    // Written before the run begins: what is answered at once is always `starting`.
    let created = frames::json(&Wire::now(service, &prediction));
    let plan = Plan {
        slowdown: fault.as_ref().map_or(1.0, FaultKind::slowdown),
        breakdown: fault.as_ref().and_then(FaultKind::breakdown),
    };
    if let Some(hook) = prediction.hook.clone() {
        service.tasks.spawn(webhook::tell(Arc::clone(service), Arc::clone(&prediction), hook));
    }
    service.tasks.spawn(run::carry(Arc::clone(service), Arc::clone(&prediction), plan));

    let spoil = fault.as_ref().and_then(FaultKind::spoil);
    if spoil == Some(Spoil::Cut) {
        return edge::refuse(&connection).await;
    }
    let (status, body) = match wishes.wait {
        None => (StatusCode::CREATED, created),
        Some(wait) => hold(service, &prediction, service.config.replicate.scaled(wait)).await,
    };
    match spoil {
        Some(Spoil::BreakOff) => broken_off(status, &body, connection),
        Some(Spoil::Garbage) => edge::json(status, GARBAGE),
        Some(Spoil::Empty) => edge::json(status, Bytes::new()),
        // A cut has returned already.
        Some(Spoil::Cut) | None => edge::json(status, body),
    }
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
    service: &Service,
    headers: &HeaderMap,
    target: Target,
    body: &[u8],
) -> Result<(Arc<Prediction>, Wishes), Problem> {
    let settings = &service.config.replicate;
    if let Some(limits) = &service.replicate.limits {
        let throttled = |seconds| Problem::throttled(seconds, settings.retry_after);
        limits.create.take(Instant::now()).map_err(throttled)?;
    }
    if settings.no_credit {
        return Err(Problem::usual(StatusCode::PAYMENT_REQUIRED));
    }
    let wishes = Wishes::read(headers).map_err(Problem::unprocessable)?;
    let ask = Ask::decode(body, matches!(target, Target::InBody))?;
    let found = match (target, &ask.version) {
        (Target::Model(name, origin), _) => service.room(&name).map(|room| (room, origin)),
        (Target::InBody, Some(version)) => of_version(service, version),
        (Target::InBody, None) => unreachable!("a body is decoded only with a version where one is needed"),
    };
    let (room, origin) = found.ok_or_else(Problem::not_found)?;
    let answer = ask.answer(service.config.seed, &room.model, settings)?;
    let draft = Draft {
        room: Arc::clone(room),
        origin,
        base: base(headers),
        input: ask.input,
        hook: ask.hook,
        answer,
        cancel_after: wishes.cancel_after.map(|after| settings.scaled(after)),
    };
    let full = || Problem::usual(StatusCode::SERVICE_UNAVAILABLE);
    Ok((service.replicate.archive.enter(draft).ok_or_else(full)?, wishes))
}

/// The model of `owner/name`, `owner/name:version` or `version`.
fn of_version<'a>(service: &'a Service, text: &str) -> Option<(&'a Arc<Room>, Origin)> {
    if let Some((name, version)) = text.split_once(':') {
        let room = service.room(name).filter(|room| version_id(&room.model.name) == version);
        return room.map(|room| (room, Origin::Version));
    }
    if text.contains('/') {
        return service.room(text).map(|room| (room, Origin::Official));
    }
    let room = service.rooms().iter().find(|room| version_id(&room.model.name) == text);
    room.map(|room| (room, Origin::Version))
}

/// How the caller reaches this simulator.
pub(crate) fn base(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    format!("http://{host}")
}
