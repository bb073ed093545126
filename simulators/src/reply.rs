//! The JSON answers that every route is made of, whole or broken off.

use std::future;

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::task;

use crate::{connection::Connection, frames};

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// A JSON answer made of one of our own shapes.
pub(crate) fn answer(status: StatusCode, value: &impl serde::Serialize) -> Response {
    json(status, frames::json(value))
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
