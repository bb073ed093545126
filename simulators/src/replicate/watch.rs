//! The routes of predictions that exist: get, list, cancel.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use axum::{
    extract::{ConnectInfo, Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::DateTime;
use serde::Serialize;

use super::{
    archive::Cursor,
    platform::Platform,
    prediction::Prediction,
    wire::{Wire, base},
};
use crate::{connection::Connection, errors::problem::Problem, reply};

/// `GET /v1/predictions/{id}`
pub(crate) async fn get(
    State(platform): State<Arc<Platform>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(id): Path<String>,
) -> Response {
    if let Some(response) = platform.stopped(&connection).await {
        return response;
    }
    match platform.archive.get(&id) {
        Some(prediction) => reply::answer(StatusCode::OK, &Wire::now(&platform.service, &prediction)),
        None => Problem::not_found().into_response(),
    }
}

/// `POST /v1/predictions/{id}/cancel`: takes effect later; a prediction that has ended stays as it ended.
pub(crate) async fn cancel(
    State(platform): State<Arc<Platform>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(id): Path<String>,
) -> Response {
    if let Some(response) = platform.stopped(&connection).await {
        return response;
    }
    let Some(prediction) = platform.archive.get(&id) else {
        return Problem::not_found().into_response();
    };
    let response = reply::answer(StatusCode::OK, &Wire::now(&platform.service, &prediction));
    prediction.cancel(&platform.service);
    response
}

/// `GET /v1/predictions`
pub(crate) async fn list(
    State(platform): State<Arc<Platform>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(response) = platform.stopped(&connection).await {
        return response;
    }
    let filter = match Filter::read(query) {
        Ok(filter) => filter,
        Err(problem) => return problem.into_response(),
    };
    let wanted =
        |prediction: &Prediction| filter.wants(i64_us(platform.service.clock.unix_us(prediction.created)));
    let page = platform.archive.page(filter.cursor, wanted);
    let url = |cursor: Cursor| format!("{}/v1/predictions?{}", base(&headers), filter.query(cursor));
    let listed = Listed {
        next: page.next.map(url),
        previous: page.previous.map(url),
        results: page.rows.iter().map(|prediction| Wire::now(&platform.service, prediction)).collect(),
    };
    reply::answer(StatusCode::OK, &listed)
}

#[derive(Serialize)]
struct Listed<'a> {
    next: Option<String>,
    previous: Option<String>,
    results: Vec<Wire<'a>>,
}

/// The filters of a list.
#[derive(Debug, Default)]
struct Filter {
    cursor: Option<Cursor>,
    /// Only predictions from the website are asked for. There are none: every prediction here comes from the API.
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
