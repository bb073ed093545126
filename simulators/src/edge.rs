//! What stands before any model: credentials, faults at the edge, and the error bodies of each provider.
//!
//! On Modal the platform's own errors are plain text that begins with `modal-http:`; vLLM's are JSON. Whatever is
//! answered here has not touched a model and is not billed.

use std::{future, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::task;

use crate::{
    config::Kind,
    connection::Connection,
    fault::FaultKind,
    frames::{self, error_body},
    replicate, runpod,
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
    let config = &service.config;
    // vLLM guards its API and leaves health and metrics open; the others guard every route.
    let guarded = match config.kind {
        Kind::OpenAi | Kind::Golem => request.uri().path().starts_with("/v1"),
        Kind::Modal | Kind::RunPod | Kind::Replicate => true,
    };
    match &config.api_key {
        Some(key) if guarded && !presents(request.headers(), config.kind, key) => {
            service.board.refused();
            status_answer(config.kind, StatusCode::UNAUTHORIZED)
        }
        Some(_) | None => next.run(request).await,
    }
}

fn presents(headers: &HeaderMap, kind: Kind, key: &str) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match kind {
        Kind::OpenAi | Kind::Golem | Kind::RunPod | Kind::Replicate => {
            header("authorization").and_then(|value| value.strip_prefix("Bearer ")) == Some(key)
        }
        Kind::Modal => key.split_once(':').is_some_and(|(id, secret)| {
            header("modal-key") == Some(id) && header("modal-secret") == Some(secret)
        }),
    }
}

/// The answer to a request that a fault at the edge has hit; `None` when the fault strikes later.
pub(crate) async fn struck(
    service: &Service,
    fault: &FaultKind,
    connection: &Connection,
) -> Option<Response> {
    match fault {
        FaultKind::Status { code, body, retry_after_s } => {
            service.board.refused();
            let status = StatusCode::from_u16(*code).expect("checked to be between 400 and 599");
            let mut response = match body {
                Some(body) => given(service.config.kind, status, body.clone()),
                None => status_answer(service.config.kind, status),
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

/// Closes the connection. The caller sees no answer.
pub(crate) async fn refuse(connection: &Connection) -> Response {
    connection.cut();
    // The connection ends as soon as the server looks at it, and this request with it.
    future::pending().await
}

/// A body that somebody chose, in the content type it looks like.
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

/// What the provider itself says with this status.
pub(crate) fn status_answer(kind: Kind, status: StatusCode) -> Response {
    match (kind, status) {
        (Kind::OpenAi | Kind::Golem, StatusCode::UNAUTHORIZED) => {
            json(status, Bytes::from_static(br#"{"error":"Unauthorized"}"#))
        }
        (Kind::OpenAi | Kind::Golem, _) => {
            let reason = status.canonical_reason().unwrap_or("Error");
            vllm_error(status, reason)
        }
        (Kind::Modal, StatusCode::UNAUTHORIZED) => {
            modal_error(status, "missing credentials for proxy authorization")
        }
        (Kind::Modal, StatusCode::NOT_FOUND) => modal_error(status, "invalid function call"),
        (Kind::Modal, StatusCode::TOO_MANY_REQUESTS) => modal_error(status, "rate limit exceeded"),
        (Kind::Modal, StatusCode::BAD_GATEWAY) => {
            modal_error(status, "container failed while serving the request")
        }
        (Kind::Modal, _) => modal_error(status, "internal error"),
        (Kind::RunPod, _) => runpod::error_answer(status),
        (Kind::Replicate, _) => replicate::error_answer(status),
    }
}

/// An error of vLLM, in its JSON.
pub(crate) fn vllm_error(status: StatusCode, message: &str) -> Response {
    let kind = match status {
        StatusCode::BAD_REQUEST => "BadRequestError",
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::UNPROCESSABLE_ENTITY => "UnprocessableEntityError",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequestsError",
        StatusCode::NOT_IMPLEMENTED => "NotImplementedError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableError",
        _ => "InternalServerError",
    };
    json(status, error_body(status.as_u16(), kind, message))
}

/// An error of Modal's edge, in its plain text.
fn modal_error(status: StatusCode, message: &str) -> Response {
    (status, format!("modal-http: {message}")).into_response()
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// Half of a JSON answer, and then the connection breaks.
pub(crate) fn broken_off(status: StatusCode, body: &Bytes, connection: Connection) -> Response {
    let half = body.slice(..body.len() / 2);
    let parts = stream::unfold(Some(half), move |part| {
        let connection = connection.clone();
        async move {
            if let Some(part) = part {
                return Some((Ok::<_, std::io::Error>(part), None));
            }
            // The server writes out what it has when the body has nothing more to give.
            task::yield_now().await;
            connection.cut();
            future::pending().await
        }
    });
    json(status, Body::from_stream(parts))
}

/// A route that does not exist, as FastAPI says it; on Modal the app is FastAPI as well.
pub(crate) async fn not_found() -> Response {
    json(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#)
}

/// A known route with another method.
pub(crate) async fn method_not_allowed() -> Response {
    json(StatusCode::METHOD_NOT_ALLOWED, r#"{"detail":"Method Not Allowed"}"#)
}

/// A JSON answer made of one of our own shapes.
pub(crate) fn answer(status: StatusCode, value: &impl serde::Serialize) -> Response {
    json(status, frames::json(value))
}
