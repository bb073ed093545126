//! The edge before the routes: credentials, and the faults that strike a request or its answer.
//!
//! A request that ends at the edge has not reached a model and is not billed.

use std::{future, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::time;

use crate::{
    config::{Kind, Server},
    connection::Connection,
    errors,
    fault::{FaultKind, Spoil},
    rented::fault::{Canned, ControlFault},
    reply::{broken_off, json},
    service::Service,
};

/// Lets a request through to its route, unless the server refuses everything or the credentials are wrong.
pub(crate) async fn guard(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
    next: Next,
) -> Response {
    if service.faults.refuses_all() {
        service.board.refused();
        return refuse(&connection).await;
    }
    if let Some(fault) = service.control.draw(request.uri().path()) {
        service.board.refused();
        return faulty(fault, &connection, next.run(request)).await;
    }
    let config = &service.config;
    let path = request.uri().path();
    // vLLM guards its API and leaves health and metrics open; the serverless providers guard every route.
    let guarded = match config.kind {
        Kind::OpenAi | Kind::Golem => match service.server() {
            Server::Vllm | Server::SgLang => path.starts_with("/v1"),
            Server::LlamaCpp => !matches!(path, "/health" | "/v1/health"),
            Server::Tgi => path.starts_with("/v1") && path != "/v1/models",
            // It has no keys.
            Server::Ollama => false,
        },
        Kind::Modal | Kind::RunPod | Kind::Replicate => true,
    };
    match &config.api_key {
        Some(key) if guarded && !presents(request.headers(), config.kind, service.server(), key) => {
            service.board.refused();
            errors::usual(config.kind, service.server(), StatusCode::UNAUTHORIZED)
        }
        Some(_) | None => next.run(request).await,
    }
}

/// The answer to a call that a fault of its own strikes. `run` carries it out.
pub(crate) async fn faulty(
    fault: ControlFault,
    connection: &Connection,
    run: impl Future<Output = Response>,
) -> Response {
    match fault {
        ControlFault::Refused(canned) => answer(canned),
        ControlFault::Cut => refuse(connection).await,
        ControlFault::Hang => future::pending().await,
        ControlFault::DoneBut(canned) => {
            drop(run.await);
            answer(canned)
        }
        ControlFault::DoneThenCut => {
            drop(run.await);
            refuse(connection).await
        }
        ControlFault::DoneLate(delay) => {
            let response = run.await;
            time::sleep(delay).await;
            response
        }
    }
}

fn answer(canned: Canned) -> Response {
    let status = StatusCode::from_u16(canned.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(header::CONTENT_TYPE, canned.content_type)], canned.body).into_response();
    for (name, value) in [(header::RETRY_AFTER, canned.retry_after), (header::LOCATION, canned.location)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn presents(headers: &HeaderMap, kind: Kind, server: Server, key: &str) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match kind {
        Kind::OpenAi | Kind::Golem | Kind::RunPod | Kind::Replicate => {
            let given = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
            given
                .is_some_and(|given| given == key || server == Server::Tgi && given.eq_ignore_ascii_case(key))
        }
        Kind::Modal => key.split_once(':').is_some_and(|(id, secret)| {
            header("modal-key") == Some(id) && header("modal-secret") == Some(secret)
        }),
    }
}

/// The answer to a request that a fault at the edge has hit; `None` when the fault strikes later.
async fn struck(service: &Service, fault: &FaultKind, connection: &Connection) -> Option<Response> {
    match fault {
        FaultKind::Status { code, body, retry_after_s } => {
            service.board.refused();
            let status = StatusCode::from_u16(*code).expect("checked to be between 400 and 599");
            let mut response = match body {
                Some(body) => given(service.config.kind, status, body.clone()),
                None => errors::usual(service.config.kind, service.server(), status),
            };
            if let Some(seconds) = retry_after_s {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
            }
            Some(response)
        }
        FaultKind::Refuse => {
            service.board.refused();
            Some(refuse(connection).await)
        }
        FaultKind::Hang => {
            service.board.refused();
            future::pending().await
        }
        FaultKind::Slow { .. }
        | FaultKind::ResetMidStream { .. }
        | FaultKind::StallMidStream { .. }
        | FaultKind::ErrorFrame { .. }
        | FaultKind::SilentEnd { .. }
        | FaultKind::GarbageJson
        | FaultKind::TruncatedBody
        | FaultKind::Oom
        | FaultKind::ContainerDies => None,
    }
}

/// Draws the fault of a request that is about to run something. Gives the answer instead if the fault strikes at the edge.
/// Boxed because a response is large.
pub(crate) async fn strike(
    service: &Service,
    connection: &Connection,
) -> Result<Option<FaultKind>, Box<Response>> {
    let Some(fault) = service.strike() else { return Ok(None) };
    match struck(service, &fault, connection).await {
        Some(response) => Err(Box::new(response)),
        None => Ok(Some(fault)),
    }
}

/// The answer to a request that runs nothing, if a fault strikes it at the edge.
pub(crate) async fn stopped(service: &Service, connection: &Connection) -> Option<Response> {
    let fault = service.strike_at_the_edge()?;
    struck(service, &fault, connection).await
}

/// Sends an answer to a request whose run goes well, unless the fault loses the answer. `garbage` is a body that breaks off
/// in the middle of its JSON.
pub(crate) async fn send(
    spoil: Option<Spoil>,
    status: StatusCode,
    body: Bytes,
    garbage: Bytes,
    connection: Connection,
) -> Response {
    match spoil {
        None => json(status, body),
        Some(Spoil::Cut) => refuse(&connection).await,
        Some(Spoil::BreakOff) => broken_off(status, &body, connection),
        Some(Spoil::Garbage) => json(status, garbage),
        Some(Spoil::Empty) => json(status, Bytes::new()),
    }
}

/// Closes the connection. The caller sees no answer.
pub(crate) async fn refuse(connection: &Connection) -> Response {
    connection.cut();
    // The connection ends as soon as the server looks at it, and this request with it.
    future::pending().await
}

/// A body that the fault names, in the content type that the body looks like.
fn given(kind: Kind, status: StatusCode, body: String) -> Response {
    match kind {
        Kind::OpenAi | Kind::Golem | Kind::RunPod | Kind::Replicate if body.starts_with('{') => {
            json(status, Bytes::from(body))
        }
        Kind::OpenAi | Kind::Golem | Kind::Modal | Kind::RunPod | Kind::Replicate => {
            (status, body).into_response()
        }
    }
}
