//! The endpoints at which a test, or another process, reads the books and injects faults. They need no key, and no fault
//! hits them.
//!
//! | call | answer |
//! |---|---|
//! | `GET /_sim/bill` | the [`crate::Bill`] |
//! | `GET /_sim/stats` | the [`crate::Stats`] |
//! | `GET /_sim/fault` | the [`crate::Fault`] in force, with the rest of its count, or `null` |
//! | `POST /_sim/fault` | 204; the body is a fault, or `null` to clear it; 400 with the reason otherwise |

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;

use crate::{fault::Fault, reply, service::Service};

/// All routes.
pub(crate) fn routes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/_sim/bill", get(bill))
        .route("/_sim/stats", get(stats))
        .route("/_sim/fault", get(fault).post(set_fault))
        .with_state(Arc::clone(service))
}

/// `GET /_sim/bill`
async fn bill(State(service): State<Arc<Service>>) -> Response {
    reply::answer(StatusCode::OK, &service.bill())
}

/// `GET /_sim/stats`
async fn stats(State(service): State<Arc<Service>>) -> Response {
    reply::answer(StatusCode::OK, &service.board.total())
}

/// `GET /_sim/fault`
async fn fault(State(service): State<Arc<Service>>) -> Response {
    reply::answer(StatusCode::OK, &service.faults.get())
}

/// `POST /_sim/fault`
async fn set_fault(State(service): State<Arc<Service>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Option<Fault>>(&body) {
        Ok(fault) => {
            service.faults.set(fault);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
