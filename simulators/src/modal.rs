//! The routes of Beacon's app on Modal beside the OpenAI ones: `wait`, `spawn`, keeping warm, health and billing.
//!
//! A fault that concerns the connection (`reset_mid_stream`, `truncated_body`, `garbage_json`, `silent_end`) spoils
//! the answer to the POST and leaves the run alone; one that concerns the run (`slow`, `stall_mid_stream`,
//! `error_frame`, `oom`, `container_dies`) shows in its result.

mod calls;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::time;
use tokio_util::sync::DropGuard;

use self::calls::{Call, Calls, End, Plan, Submitted};
use crate::{
    config::{Kind, Server},
    connection::Connection,
    edge, errors,
    fault::{Course, FaultKind, Spoil},
    frames::{self, GARBAGE_BODY},
    reply::{self, answer, broken_off},
    request::{BadRequest, Job},
    service::Service,
};

/// One simulated app on Modal.
#[derive(Debug)]
struct App {
    service: Arc<Service>,
    calls: Calls,
}

/// The routes beside the OpenAI ones.
pub(crate) fn routes(service: &Arc<Service>) -> Router {
    let app = App { service: Arc::clone(service), calls: Calls::default() };
    Router::new()
        .route("/v1/run", post(run).get(result))
        .route("/v1/jobs", post(spawn))
        .route("/v1/jobs/{call_id}", get(poll).delete(cancel))
        .route("/v1/warm", put(warm))
        .route("/health", get(health))
        .route("/billing", get(billing))
        .with_state(Arc::new(app))
}

/// The query parameter that makes a result URL.
const CALL_ID: &str = "__modal_function_call_id";

/// `POST /v1/run`: answers when the run is done, or with a redirect to its result URL when the time is up.
async fn run(
    State(app): State<Arc<App>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let service = &app.service;
    let fault = match edge::strike(service, &connection).await {
        Ok(fault) => fault,
        Err(response) => return *response,
    };
    let plan = match plan(service, &body, fault.as_ref()) {
        Ok(plan) => plan,
        Err(response) => return refused(service, *response),
    };
    let call = match app.calls.submit(service, plan, None) {
        Submitted::Created(call) | Submitted::Known(call) => call,
        Submitted::Full => return refused(service, too_many()),
    };
    let on_leave = service.config.modal.cancel_on_disconnect.then(|| call.cancel.clone().drop_guard());
    let spoil = fault.as_ref().and_then(FaultKind::spoil);
    if spoil == Some(Spoil::Cut) {
        return edge::refuse(&connection).await;
    }
    let held = hold(service, &call, &headers).await;
    on_leave.map(DropGuard::disarm);
    match (spoil, call.end()) {
        (Some(Spoil::Garbage), _) => reply::json(StatusCode::OK, GARBAGE_BODY),
        (Some(Spoil::Empty), _) => reply::json(StatusCode::OK, Bytes::new()),
        (Some(Spoil::BreakOff), Some(end)) => {
            broken_off(StatusCode::OK, &frames::json(&end.outcome), connection)
        }
        // A redirect has no body that could break off, and a cut has returned already.
        (Some(Spoil::BreakOff), None) | (Some(Spoil::Cut) | None, _) => held,
    }
}

/// `GET /v1/run?__modal_function_call_id=…`: the result URL. Can be fetched as often as one likes.
async fn result(
    State(app): State<Arc<App>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let service = &app.service;
    if let Some(response) = edge::stopped(service, &connection).await {
        return response;
    }
    match query.get(CALL_ID).and_then(|id| app.calls.get(id)) {
        Some(call) if !expired(service, call.end().as_deref()) => hold(service, &call, &headers).await,
        Some(_) | None => errors::usual(Kind::Modal, Server::Vllm, StatusCode::NOT_FOUND),
    }
}

/// Holds a request until its call ends, at most as long as Modal does.
async fn hold(service: &Service, call: &Call, headers: &HeaderMap) -> Response {
    let limit = Duration::from_millis(service.config.modal.hold_limit_ms);
    if let Ok(end) = time::timeout(limit, call.ended()).await {
        return if end.died {
            errors::usual(Kind::Modal, Server::Vllm, StatusCode::BAD_GATEWAY)
        } else {
            answer(StatusCode::OK, &end.outcome)
        };
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let location = format!("http://{host}/v1/run?{CALL_ID}={}", call.id);
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

/// `POST /v1/jobs`: begins a call and answers at once.
async fn spawn(
    State(app): State<Arc<App>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    body: Bytes,
) -> Response {
    let service = &app.service;
    let fault = match edge::strike(service, &connection).await {
        Ok(fault) => fault,
        Err(response) => return *response,
    };
    let plan = match plan(service, &body, fault.as_ref()) {
        Ok(plan) => plan,
        Err(response) => return refused(service, *response),
    };
    let id_ttl = Duration::from_millis(service.config.modal.id_ttl_ms);
    let (status, call, created) = match app.calls.submit(service, plan, Some(id_ttl)) {
        Submitted::Created(call) => (StatusCode::ACCEPTED, call, true),
        Submitted::Known(call) => (StatusCode::OK, call, false),
        Submitted::Full => return refused(service, too_many()),
    };
    let body = frames::json(&json!({ "call_id": call.id, "created": created }));
    let spoil = fault.as_ref().and_then(FaultKind::spoil);
    edge::send(spoil, status, body, GARBAGE_BODY, connection).await
}

/// `GET /v1/jobs/{call_id}`
async fn poll(
    State(app): State<Arc<App>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(call_id): Path<String>,
) -> Response {
    let service = &app.service;
    if let Some(response) = edge::stopped(service, &connection).await {
        return response;
    }
    let Some(call) = app.calls.get(&call_id) else {
        return unknown_call();
    };
    match call.end() {
        None => answer(StatusCode::ACCEPTED, &json!({ "status": "pending" })),
        Some(end) if expired(service, Some(&end)) => {
            answer(StatusCode::GONE, &json!({ "detail": "the result has expired" }))
        }
        Some(end) => answer(StatusCode::OK, &end.outcome),
    }
}

/// `DELETE /v1/jobs/{call_id}`: a call that has ended stays as it ended.
async fn cancel(
    State(app): State<Arc<App>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(call_id): Path<String>,
) -> Response {
    let service = &app.service;
    if let Some(response) = edge::stopped(service, &connection).await {
        return response;
    }
    let Some(call) = app.calls.get(&call_id) else {
        return unknown_call();
    };
    call.cancel.cancel();
    answer(StatusCode::ACCEPTED, &json!({ "call_id": call.id }))
}

/// The body of `PUT /v1/warm`.
#[derive(Deserialize)]
struct Order {
    model: String,
    containers: u64,
}

/// `PUT /v1/warm`: keeps so many containers of a model up for `warm_lease_ms`; containers that are up already count. In the
/// app it is `Function.update_autoscaler(min_containers=n)`. Its starts are in `GET /billing` and on no run's bill.
async fn warm(
    State(app): State<Arc<App>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    body: Bytes,
) -> Response {
    let service = &app.service;
    if let Some(response) = edge::stopped(service, &connection).await {
        return response;
    }
    let Order { model, containers } = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return refused(service, unprocessable(BadRequest(error.to_string()))),
    };
    let Some(up) = service.model(&model).and_then(|model| model.containers()) else {
        let detail = format!("model {model} does not exist");
        // With the model, so that a caller can tell it from an app that has no such route.
        let body = json!({ "detail": detail, "model": model });
        return refused(service, answer(StatusCode::NOT_FOUND, &body));
    };
    match usize::try_from(containers) {
        Ok(count) if count <= up.most() => {
            up.keep(count, Duration::from_millis(service.config.modal.warm_lease_ms));
            answer(StatusCode::OK, &json!({ "model": model, "containers": containers }))
        }
        Ok(_) | Err(_) => {
            let message = format!("containers must be at most {}", up.most());
            refused(service, unprocessable(BadRequest(message)))
        }
    }
}

/// `GET /health`: served without a GPU, so it starts and keeps no container.
async fn health(State(app): State<Arc<App>>) -> Response {
    let service = &app.service;
    let up = service.models.iter().filter_map(|model| model.containers());
    let containers: usize = up.map(|containers| containers.count()).sum();
    let model = service.models.first().map(|model| model.settings.name.as_str());
    let region = &service.config.region;
    let models: Vec<&str> = service.models.iter().map(|model| model.settings.name.as_str()).collect();
    let mut body = json!({
        "status": "ok", "model": model, "models": models, "region": region, "containers": containers,
    });
    if let Some(contract) = service.config.modal.contract {
        body["contract"] = json!(contract);
    }
    answer(StatusCode::OK, &body)
}

/// `GET /billing`: the use of the app's containers, by GPU, with the idle time that is billed (see [`crate::bill`]).
async fn billing(State(app): State<Arc<App>>) -> Response {
    for containers in app.service.models.iter().filter_map(|model| model.containers()) {
        containers.reap_due();
    }
    answer(StatusCode::OK, &json!({ "items": app.service.book.usage() }))
}

/// The call that a job asks for, or the app's answer to a job that it cannot run. Boxed because a response is large.
fn plan(service: &Service, body: &[u8], fault: Option<&FaultKind>) -> Result<Plan, Box<Response>> {
    let job = Job::decode(body).map_err(|bad| Box::new(unprocessable(bad)))?;
    let Some(model) = service.model(&job.inference.model) else {
        let detail = format!("model {} does not exist", job.inference.model);
        return Err(Box::new(answer(StatusCode::NOT_FOUND, &json!({ "detail": detail }))));
    };
    let text = service.answer(model, &job.inference).map_err(|bad| Box::new(unprocessable(bad)))?;
    Ok(Plan {
        job: job.id,
        model: Arc::clone(model),
        answer: text,
        timeout: job.timeout_s.map(Duration::from_secs_f64),
        course: Course::under(fault),
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
    errors::usual(Kind::Modal, Server::Vllm, StatusCode::TOO_MANY_REQUESTS)
}

fn unknown_call() -> Response {
    answer(StatusCode::NOT_FOUND, &json!({ "detail": "unknown call" }))
}

fn expired(service: &Service, end: Option<&End>) -> bool {
    let ttl = Duration::from_millis(service.config.modal.result_ttl_ms);
    end.is_some_and(|end| end.at.elapsed() > ttl)
}
