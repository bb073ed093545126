//! What can be done with predictions that exist: get, list, cancel.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use axum::{
    extract::{ConnectInfo, Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::DateTime;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    connection::Connection,
    edge,
    replicate::{archive::Cursor, create::base, prediction::Prediction, problem::Problem, wire::Wire},
    service::Service,
};

/// `GET /v1/predictions/{id}`
pub(crate) async fn get(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(id): Path<String>,
) -> Response {
    if let Some(response) = stopped_at_the_edge(&service, &connection).await {
        return response;
    }
    match service.replicate.archive.get(&id) {
        Some(prediction) => edge::answer(StatusCode::OK, &Wire::now(&service, &prediction)),
        None => Problem::not_found().into_response(),
    }
}

/// `POST /v1/predictions/{id}/cancel`: takes effect later; a prediction that has ended stays as it ended.
pub(crate) async fn cancel(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(id): Path<String>,
) -> Response {
    if let Some(response) = stopped_at_the_edge(&service, &connection).await {
        return response;
    }
    let Some(prediction) = service.replicate.archive.get(&id) else {
        return Problem::not_found().into_response();
    };
    let response = edge::answer(StatusCode::OK, &Wire::now(&service, &prediction));
    prediction.cancel(&service);
    response
}

/// `GET /v1/predictions`
pub(crate) async fn list(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(response) = stopped_at_the_edge(&service, &connection).await {
        return response;
    }
    let filter = match Filter::read(query) {
        Ok(filter) => filter,
        Err(problem) => return problem.into_response(),
    };
    let wanted = |prediction: &Prediction| filter.wants(i64_us(service.unix_us(prediction.created)));
    let page = service.replicate.archive.page(filter.cursor, wanted);
    let url = |cursor: Cursor| format!("{}/v1/predictions?{}", base(&headers), filter.query(cursor));
    let listed = Listed {
        next: page.next.map(url),
        previous: page.previous.map(url),
        results: page.rows.iter().map(|prediction| Wire::now(&service, prediction)).collect(),
    };
    edge::answer(StatusCode::OK, &listed)
}

#[derive(Serialize)]
struct Listed<'a> {
    next: Option<String>,
    previous: Option<String>,
    results: Vec<Wire<'a>>,
}

/// What a list is asked for.
#[derive(Debug, Default)]
struct Filter {
    cursor: Option<Cursor>,
    /// Everything here comes from the API, so what comes from the website is nothing.
    web_only: bool,
    /// Unix microseconds.
    after: Option<i64>,
    before: Option<i64>,
    /// The filters as they were given, for the URLs of other pages.
    given: Vec<(&'static str, String)>,
}

impl Filter {
    fn read(mut query: HashMap<String, String>) -> Result<Self, Problem> {
        let mut filter = Self::default();
        if let Some(cursor) = query.remove("cursor") {
            let cursor =
                Cursor::decode(&cursor).ok_or_else(|| Problem::unprocessable("- cursor: Invalid"))?;
            filter.cursor = Some(cursor);
        }
        match query.remove("source").as_deref() {
            None => {}
            Some("web") => {
                filter.web_only = true;
                filter.given.push(("source", "web".to_owned()));
            }
            Some(_) => return Err(Problem::unprocessable("- source: Must be web")),
        }
        for (key, place) in [("created_after", &mut filter.after), ("created_before", &mut filter.before)] {
            if let Some(given) = query.remove(key) {
                let time = DateTime::parse_from_rfc3339(&given);
                let time =
                    time.map_err(|_| Problem::unprocessable(format!("- {key}: Must be a date-time")))?;
                *place = Some(time.timestamp_micros());
                filter.given.push((key, given));
            }
        }
        Ok(filter)
    }

    fn wants(&self, created: i64) -> bool {
        !self.web_only
            && self.after.is_none_or(|after| created >= after)
            && self.before.is_none_or(|before| created < before)
    }

    fn query(&self, cursor: Cursor) -> String {
        let mut query = format!("cursor={}", cursor.encode());
        for (key, value) in &self.given {
            // A plus in a query would be read as a space, and nothing else in a date-time needs an escape.
            let value = value.replace('+', "%2B");
            write!(query, "&{key}={value}").expect("a string takes all that is written");
        }
        query
    }
}

fn i64_us(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// The answer to a request that a fault at the edge or the rate limit has stopped.
pub(crate) async fn stopped_at_the_edge(service: &Service, connection: &Connection) -> Option<Response> {
    if let Some(fault) = service.strike_at_the_edge()
        && let Some(response) = edge::struck(service, &fault, connection).await
    {
        return Some(response);
    }
    throttled(service)
}

/// The answer to a request beyond the limit for everything but creates.
pub(crate) fn throttled(service: &Service) -> Option<Response> {
    let seconds = service.replicate.limits.as_ref()?.other.take(Instant::now()).err()?;
    service.board.refused();
    Some(Problem::throttled(seconds, service.config.replicate.retry_after).into_response())
}
