//! The endpoints by which a test, or another process, reads the books and injects faults. Never behind a key, and
//! never hit by a fault.
//!
//! | call | answer |
//! |---|---|
//! | `GET /_sim/bill` | the [`crate::Bill`] |
//! | `GET /_sim/stats` | the [`crate::Stats`] |
//! | `GET /_sim/fault` | the [`crate::Fault`] in force, with what is left of its count, or `null` |
//! | `POST /_sim/fault` | 204; the body is a fault, or `null` to clear it; 400 with the reason otherwise |

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{edge, fault::Fault, service::Service};

/// `GET /_sim/bill`
pub(crate) async fn bill(State(service): State<Arc<Service>>) -> Response {
    edge::answer(StatusCode::OK, &service.bill())
}

/// `GET /_sim/stats`
pub(crate) async fn stats(State(service): State<Arc<Service>>) -> Response {
    edge::answer(StatusCode::OK, &service.board.total())
}

/// `GET /_sim/fault`
pub(crate) async fn fault(State(service): State<Arc<Service>>) -> Response {
    edge::answer(StatusCode::OK, &service.faults.get())
}

/// `POST /_sim/fault`
pub(crate) async fn set_fault(State(service): State<Arc<Service>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Option<Fault>>(&body) {
        Ok(fault) => {
            service.faults.set(fault);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
