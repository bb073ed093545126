//! Keys and rate limits: what stands before every route.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::Instant;

use super::{Shop, calls::problem};

/// The limits of reads, writes, deploys and creations.
#[derive(Debug)]
pub(super) struct Budgets([Budget; 4]);

#[derive(Debug)]
struct Budget {
    most: u32,
    window: Duration,
    /// When it ends, and how many calls were made in it.
    current: Mutex<Option<(Instant, u32)>>,
}

impl Budgets {
    pub(super) fn new(limits: [(u32, Duration); 4]) -> Self {
        Self(limits.map(|(most, window)| Budget { most, window, current: Mutex::default() }))
    }
}

impl Budget {
    /// Counts a call: whether it is within the limit, what is left, and the seconds until the limit begins anew.
    fn take(&self, now: Instant) -> (bool, u32, u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (ends, taken) = match *current {
            Some((ends, taken)) if now < ends => (ends, taken + 1),
            Some(_) | None => (now + self.window, 1),
        };
        *current = Some((ends, taken));
        let left = ends.duration_since(now).as_millis().div_ceil(1_000);
        (taken <= self.most, self.most.saturating_sub(taken), u64::try_from(left).unwrap_or(u64::MAX))
    }
}

pub(super) async fn guard(State(shop): State<Arc<Shop>>, request: Request, next: Next) -> Response {
    let key = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if key.and_then(|key| key.strip_prefix("Bearer ")) != Some(&shop.config.key) {
        return problem(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let path = request.uri().path();
    let place = match (request.method() == Method::GET, path) {
        (true, _) => 0,
        (false, path) if path.ends_with("/deploys") => 2,
        (false, "/v1/services") => 3,
        (false, _) => 1,
    };
    let budget = &shop.budgets.0[place];
    let (is_within, left, reset) = budget.take(Instant::now());
    let mut response = if is_within {
        next.run(request).await
    } else {
        problem(StatusCode::TOO_MANY_REQUESTS, "rate limit exceeded").into_response()
    };
    let headers = response.headers_mut();
    headers.insert("ratelimit-limit", budget.most.into());
    headers.insert("ratelimit-remaining", left.into());
    headers.insert("ratelimit-reset", reset.into());
    response
}
