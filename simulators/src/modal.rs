//! The routes of Beacon's app on Modal beside the OpenAI ones: `wait`, `spawn`, keeping warm, health and billing.
//!
//! A fault that concerns the connection (`reset_mid_stream`, `truncated_body`, `garbage_json`, `silent_end`) spoils
//! the answer to the POST and leaves the run alone; one that concerns the run (`slow`, `stall_mid_stream`,
//! `error_frame`, `oom`, `container_dies`) shows in its result.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{ConnectInfo, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::time;
use tokio_util::sync::DropGuard;

use crate::{
    calls::{self, Call, End, Plan, Submitted},
    config::Kind,
    connection::Connection,
    edge::{self, answer, broken_off},
    fault::{FaultKind, Spoil},
    frames::{self, GARBAGE_BODY},
    openai,
    request::{BadRequest, Job},
    service::Service,
};

/// The query parameter that makes a result URL.
const CALL_ID: &str = "__modal_function_call_id";

/// `POST /v1/run`: answers when the run is done, or with a redirect to its result URL when the time is up.
pub(crate) async fn run(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fault = service.strike();
    if let Some(fault) = &fault
        && let Some(response) = edge::struck(&service, fault, &connection).await
    {
        return response;
    }
    let plan = match plan(&service, &body, fault.as_ref()) {
        Ok(plan) => plan,
        Err(response) => return refused(&service, *response),
    };
    let call = match calls::submit(&service, plan, None) {
        Submitted::Created(call) | Submitted::Known(call) => call,
        Submitted::Full => return refused(&service, too_many()),
    };
    let on_leave = service.config.modal.cancel_on_disconnect.then(|| call.cancel.clone().drop_guard());
    let spoil = fault.as_ref().and_then(FaultKind::spoil);
    if spoil == Some(Spoil::Cut) {
        return edge::refuse(&connection).await;
    }
    let held = hold(&service, &call, &headers).await;
    on_leave.map(DropGuard::disarm);
    match (spoil, call.end()) {
        (Some(Spoil::Garbage), _) => edge::json(StatusCode::OK, GARBAGE_BODY),
        (Some(Spoil::Empty), _) => edge::json(StatusCode::OK, Bytes::new()),
        (Some(Spoil::BreakOff), Some(end)) => {
            broken_off(StatusCode::OK, &frames::json(&end.outcome), connection)
        }
        // A redirect has no body that could break off, and a cut has returned already.
        (Some(Spoil::BreakOff), None) | (Some(Spoil::Cut) | None, _) => held,
    }
}

/// `GET /v1/run?__modal_function_call_id=…`: the result URL. Can be fetched as often as one likes.
pub(crate) async fn result(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(fault) = service.strike_at_the_edge()
        && let Some(response) = edge::struck(&service, &fault, &connection).await
    {
        return response;
    }
    match query.get(CALL_ID).and_then(|id| service.calls.get(id)) {
        Some(call) if !expired(&service, call.end().as_deref()) => hold(&service, &call, &headers).await,
        Some(_) | None => edge::status_answer(Kind::Modal, StatusCode::NOT_FOUND),
    }
}

/// Holds a request until its call ends, at most as long as Modal does.
async fn hold(service: &Service, call: &Call, headers: &HeaderMap) -> Response {
    let limit = Duration::from_millis(service.config.modal.hold_limit_ms);
    if let Ok(end) = time::timeout(limit, call.ended()).await {
        return if end.died {
            edge::status_answer(Kind::Modal, StatusCode::BAD_GATEWAY)
        } else {
            answer(StatusCode::OK, &end.outcome)
        };
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let location = format!("http://{host}/v1/run?{CALL_ID}={}", call.id);
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

/// `POST /v1/jobs`: begins a call and answers at once.
pub(crate) async fn spawn(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    body: Bytes,
) -> Response {
    let fault = service.strike();
    if let Some(fault) = &fault
        && let Some(response) = edge::struck(&service, fault, &connection).await
    {
        return response;
    }
    let plan = match plan(&service, &body, fault.as_ref()) {
        Ok(plan) => plan,
        Err(response) => return refused(&service, *response),
    };
    let id_ttl = Duration::from_millis(service.config.modal.id_ttl_ms);
    let (status, call, created) = match calls::submit(&service, plan, Some(id_ttl)) {
        Submitted::Created(call) => (StatusCode::ACCEPTED, call, true),
        Submitted::Known(call) => (StatusCode::OK, call, false),
        Submitted::Full => return refused(&service, too_many()),
    };
    let body = frames::json(&json!({ "call_id": call.id, "created": created }));
    match fault.as_ref().and_then(FaultKind::spoil) {
        Some(Spoil::Cut) => edge::refuse(&connection).await,
        Some(Spoil::BreakOff) => broken_off(status, &body, connection),
        Some(Spoil::Garbage) => edge::json(status, GARBAGE_BODY),
        Some(Spoil::Empty) => edge::json(status, Bytes::new()),
        None => edge::json(status, body),
    }
}

/// `GET /v1/jobs/{call_id}`
pub(crate) async fn poll(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(call_id): Path<String>,
) -> Response {
    if let Some(fault) = service.strike_at_the_edge()
        && let Some(response) = edge::struck(&service, &fault, &connection).await
    {
        return response;
    }
    let Some(call) = service.calls.get(&call_id) else {
        return unknown_call();
    };
    match call.end() {
        None => answer(StatusCode::ACCEPTED, &json!({ "status": "pending" })),
        Some(end) if expired(&service, Some(&end)) => {
            answer(StatusCode::GONE, &json!({ "detail": "the result has expired" }))
        }
        Some(end) => answer(StatusCode::OK, &end.outcome),
    }
}

/// `DELETE /v1/jobs/{call_id}`: a call that has ended stays as it ended.
pub(crate) async fn cancel(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(call_id): Path<String>,
) -> Response {
    if let Some(fault) = service.strike_at_the_edge()
        && let Some(response) = edge::struck(&service, &fault, &connection).await
    {
        return response;
    }
    let Some(call) = service.calls.get(&call_id) else {
        return unknown_call();
    };
    call.cancel.cancel();
    answer(StatusCode::ACCEPTED, &json!({ "call_id": call.id }))
}

/// What `PUT /v1/warm` is asked.
#[derive(Deserialize)]
struct Order {
    model: String,
    containers: u64,
}

/// `PUT /v1/warm`: keeps so many containers of a model up, those that are up already included, for `warm_lease_ms`. In the
/// app it is `Function.update_autoscaler(min_containers=n)`. What it starts is on no run's bill but in `GET /billing`.
pub(crate) async fn warm(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    body: Bytes,
) -> Response {
    if let Some(fault) = service.strike_at_the_edge()
        && let Some(response) = edge::struck(&service, &fault, &connection).await
    {
        return response;
    }
    let Order { model, containers } = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return refused(&service, unprocessable(BadRequest(error.to_string()))),
    };
    let Some(up) = service.room(&model).and_then(|room| room.containers()) else {
        let detail = format!("model {model} does not exist");
        // With the model, so that a caller can tell it from an app that has no such route.
        let body = json!({ "detail": detail, "model": model });
        return refused(&service, answer(StatusCode::NOT_FOUND, &body));
    };
    match usize::try_from(containers) {
        Ok(count) if count <= up.most() => {
            up.keep(count, Duration::from_millis(service.config.modal.warm_lease_ms));
            answer(StatusCode::OK, &json!({ "model": model, "containers": containers }))
        }
        Ok(_) | Err(_) => {
            let message = format!("containers must be at most {}", up.most());
            refused(&service, unprocessable(BadRequest(message)))
        }
    }
}

/// `GET /health`: served without a GPU, so it starts and keeps no container.
pub(crate) async fn health(State(service): State<Arc<Service>>) -> Response {
    let up = service.rooms().iter().filter_map(|room| room.containers());
    let containers: usize = up.map(|containers| containers.count()).sum();
    let model = service.rooms().first().map(|room| room.model.name.as_str());
    let region = &service.config.region;
    let body = json!({ "status": "ok", "model": model, "region": region, "containers": containers });
    answer(StatusCode::OK, &body)
}

/// `GET /billing`: what the app's containers have used, by GPU; of idle spans only what is billed (see [`crate::bill`]).
pub(crate) async fn billing(State(service): State<Arc<Service>>) -> Response {
    for containers in service.rooms().iter().filter_map(|room| room.containers()) {
        containers.reap_due();
    }
    answer(StatusCode::OK, &json!({ "items": service.book.usage() }))
}

/// What a job is to do, or the app's answer to a job it cannot do. Boxed because a response is large.
fn plan(service: &Service, body: &[u8], fault: Option<&FaultKind>) -> Result<Plan, Box<Response>> {
    let job = Job::decode(body).map_err(|bad| Box::new(unprocessable(bad)))?;
    let Some(room) = service.room(&job.inference.model) else {
        let detail = format!("model {} does not exist", job.inference.model);
        return Err(Box::new(answer(StatusCode::NOT_FOUND, &json!({ "detail": detail }))));
    };
    let text =
        openai::answer_to(service, room, &job.inference).map_err(|bad| Box::new(unprocessable(bad)))?;
    Ok(Plan {
        job: job.id,
        room: Arc::clone(room),
        answer: text,
        timeout: job.timeout_s.map(Duration::from_secs_f64),
        slowdown: fault.map_or(1.0, FaultKind::slowdown),
        breakdown: fault.and_then(FaultKind::breakdown),
    })
}

/// FastAPI's answer to a body that it cannot use.
fn unprocessable(BadRequest(message): BadRequest) -> Response {
    let detail = json!([{ "loc": ["body"], "msg": message, "type": "value_error" }]);
    answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "detail": detail }))
}

fn refused(service: &Service, response: Response) -> Response {
    service.board.refused();
    response
}

fn too_many() -> Response {
    edge::status_answer(Kind::Modal, StatusCode::TOO_MANY_REQUESTS)
}

fn unknown_call() -> Response {
    answer(StatusCode::NOT_FOUND, &json!({ "detail": "unknown call" }))
}

fn expired(service: &Service, end: Option<&End>) -> bool {
    let ttl = Duration::from_millis(service.config.modal.result_ttl_ms);
    end.is_some_and(|end| end.at.elapsed() > ttl)
}
