//! The errors of inference servers, each in the shape of its software.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{config::Server, reply::answer};

/// An error of a server with this status.
pub(crate) fn refusal(server: Server, status: StatusCode, message: &str) -> Response {
    match (server, status) {
        // Nobody documents SGLang's; it is FastAPI behind a middleware like vLLM's.
        (Server::Vllm | Server::SgLang, StatusCode::UNAUTHORIZED) => {
            answer(status, &json!({ "error": "Unauthorized" }))
        }
        (Server::Tgi, StatusCode::UNAUTHORIZED) => status.into_response(),
        (Server::Vllm | Server::LlamaCpp | Server::Ollama | Server::Tgi | Server::SgLang, _) => {
            answer(status, &body(server, status, message))
        }
    }
}

/// The body of an error.
pub(crate) fn body(server: Server, status: StatusCode, message: &str) -> Value {
    let code = status.as_u16();
    match server {
        Server::Vllm => {
            json!({ "error": { "message": message, "type": vllm_type(status), "param": null, "code": code } })
        }
        Server::SgLang => {
            json!({ "object": "error", "message": message, "type": vllm_type(status), "param": null, "code": code })
        }
        Server::LlamaCpp => {
            let kind = match status {
                StatusCode::BAD_REQUEST => "invalid_request_error",
                StatusCode::UNAUTHORIZED => "authentication_error",
                StatusCode::NOT_FOUND => "not_found_error",
                StatusCode::NOT_IMPLEMENTED => "not_supported_error",
                StatusCode::SERVICE_UNAVAILABLE => "unavailable_error",
                _ => "server_error",
            };
            json!({ "error": { "code": code, "message": message, "type": kind } })
        }
        Server::Ollama => {
            let kind = match status {
                StatusCode::BAD_REQUEST => "invalid_request_error",
                StatusCode::NOT_FOUND => "not_found_error",
                _ => "api_error",
            };
            json!({ "error": { "message": message, "type": kind, "param": null, "code": null } })
        }
        Server::Tgi => {
            let kind = match status {
                StatusCode::UNPROCESSABLE_ENTITY => "validation",
                StatusCode::TOO_MANY_REQUESTS => "overloaded",
                StatusCode::SERVICE_UNAVAILABLE => "healthcheck",
                StatusCode::INTERNAL_SERVER_ERROR => "incomplete_generation",
                _ => "generation",
            };
            json!({ "error": message, "error_type": kind })
        }
    }
}

/// The error object inside a stream; `None` where the server writes none.
pub(crate) fn frame(server: Server, message: &str) -> Option<Value> {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    match server {
        Server::Vllm | Server::LlamaCpp => Some(body(server, status, message)),
        Server::SgLang => Some(json!({ "error": body(server, status, message) })),
        // Always 422.
        Server::Tgi => Some(json!({ "error": { "message": message, "http_status_code": 422 } })),
        Server::Ollama => None,
    }
}

fn vllm_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "BadRequestError",
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::UNPROCESSABLE_ENTITY => "UnprocessableEntityError",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequestsError",
        StatusCode::NOT_IMPLEMENTED => "NotImplementedError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableError",
        _ => "InternalServerError",
    }
}
