//! Records requests and answers as they went over the wire, for tests that check them against a provider's own API
//! description.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

/// One request and its answer, as they went over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Name and value of each header of the request, names in lower case. Credentials are left out.
    pub headers: Vec<(String, String)>,
    /// The request's body.
    pub request: Bytes,
    /// The answer's status.
    pub status: u16,
    /// The answer's `Content-Type`; empty without one.
    pub content_type: String,
    /// The answer's body, as far as it was sent.
    pub response: Bytes,
}

/// All exchanges, in the order in which their answers began.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    on: bool,
    exchanges: Mutex<Vec<Exchange>>,
}

impl Tape {
    pub(crate) fn new(on: bool) -> Self {
        Self { on, exchanges: Mutex::default() }
    }

    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Enters an exchange whose answer has no body yet; gives its place.
    fn begin(&self, exchange: Exchange) -> usize {
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        exchanges.push(exchange);
        exchanges.len() - 1
    }

    fn extend(&self, place: usize, part: &[u8]) {
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whole = BytesMut::from(&exchanges[place].response[..]);
        whole.extend_from_slice(part);
        exchanges[place].response = whole.freeze();
    }
}

/// Writes down each exchange while it goes through; does nothing unless the tape is on.
pub(crate) async fn record(State(tape): State<Arc<Tape>>, request: Request, next: Next) -> Response {
    if !tape.on {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut exchange = Exchange {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: headers(&head.headers),
        request: body.clone(),
        status: 0,
        content_type: String::new(),
        response: Bytes::new(),
    };
    let (head, body) = next.run(Request::from_parts(head, Body::from(body))).await.into_parts();
    exchange.status = head.status.as_u16();
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.unwrap_or_default().clone_into(&mut exchange.content_type);
    let place = tape.begin(exchange);
    let parts = body.into_data_stream().inspect(move |part| {
        if let Ok(part) = part {
            tape.extend(place, part);
        }
    });
    Response::from_parts(head, Body::from_stream(parts))
}

fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let secret = ["authorization", "modal-key", "modal-secret"];
    let told = headers.iter().filter(|(name, _)| !secret.contains(&name.as_str()));
    told.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}
