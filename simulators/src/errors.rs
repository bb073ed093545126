//! The error bodies of each provider.
//!
//! A rented server's errors are in [`server`]. The errors of Modal's own edge are plain text that begins with `modal-http:`. Replicate's
//! are in [`problem`].

pub(crate) mod problem;
pub(crate) mod server;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use self::problem::Problem;
use crate::{
    config::{Kind, Server},
    reply::{answer, json},
};

/// The answer that the provider itself gives with this status; a rented server in the words of its software.
pub(crate) fn usual(kind: Kind, software: Server, status: StatusCode) -> Response {
    match (kind, status) {
        (Kind::OpenAi | Kind::Golem, _) => {
            let reason = match status {
                StatusCode::UNAUTHORIZED => "Invalid API Key",
                _ => status.canonical_reason().unwrap_or("Error"),
            };
            server::refusal(software, status, reason)
        }
        (Kind::Modal, StatusCode::UNAUTHORIZED) => {
            modal(status, "missing credentials for proxy authorization")
        }
        (Kind::Modal, StatusCode::NOT_FOUND) => modal(status, "invalid function call"),
        (Kind::Modal, StatusCode::TOO_MANY_REQUESTS) => modal(status, "rate limit exceeded"),
        (Kind::Modal, StatusCode::BAD_GATEWAY) => modal(status, "container failed while serving the request"),
        (Kind::Modal, _) => modal(status, "internal error"),
        (Kind::RunPod, _) => runpod(status),
        (Kind::Replicate, _) => Problem::usual(status).into_response(),
    }
}

/// An error of Modal's edge, in its plain text.
fn modal(status: StatusCode, message: &str) -> Response {
    (status, format!("modal-http: {message}")).into_response()
}

/// An error of RunPod: its own JSON, or the page of the edge for an error that the edge answers.
fn runpod(status: StatusCode) -> Response {
    let text = status.canonical_reason().unwrap_or("error");
    if status.as_u16() > 500 {
        return (status, format!("<html><head><title>{text}</title></head></html>")).into_response();
    }
    answer(status, &json!({ "error": text }))
}

/// A route that does not exist, as FastAPI says it; on Modal the app is FastAPI as well.
pub(crate) async fn not_found() -> Response {
    json(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#)
}

/// A known route with another method.
pub(crate) async fn method_not_allowed() -> Response {
    json(StatusCode::METHOD_NOT_ALLOWED, r#"{"detail":"Method Not Allowed"}"#)
}
