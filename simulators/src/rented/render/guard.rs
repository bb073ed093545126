//! Keys and rate limits: what stands before every route.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::Instant;

use super::{calls::problem, shop::Shop};

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
