//! The OpenAI routes in vLLM's dialect: completions, models, health and metrics.
//!
//! A rented server and Modal's `openai` mode share them; Modal adds the billing comment and its edge.
//! The head of a 200 is sent at admission, streaming or not, and the body follows.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::json;
use tokio::time::{self, Instant};

use crate::{
    board::Stats,
    config::Kind,
    connection::Connection,
    edge::{self, vllm_error},
    fault::FaultKind,
    frames::{Frames, OUT_OF_MEMORY},
    playback::Playback,
    request::{Api, BadRequest, Inference},
    room::Room,
    script,
    service::Service,
    text::{self, Answer},
};

/// `POST /v1/chat/completions`
pub(crate) async fn chat(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    infer(&service, Api::Chat, connection, &headers, &body).await
}

/// `POST /v1/completions`
pub(crate) async fn completions(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    infer(&service, Api::Completion, connection, &headers, &body).await
}

async fn infer(
    service: &Arc<Service>,
    api: Api,
    connection: Connection,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let fault = service.strike();
    if let Some(fault) = &fault
        && let Some(response) = edge::struck(service, fault, &connection).await
    {
        return response;
    }
    let (request, room, answer) = match understand(service, api, body) {
        Ok(understood) => understood,
        Err((status, reason)) => {
            service.board.refused();
            return vllm_error(status, &reason.0);
        }
    };
    if fault == Some(FaultKind::Oom) {
        service.board.refused();
        return vllm_error(StatusCode::INTERNAL_SERVER_ERROR, OUT_OF_MEMORY);
    }
    let run = headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let id = run.clone().unwrap_or_else(|| format!("sim-{}", service.next_number()));
    let mut visit = room.visit(run).await;
    visit.admit(answer.prompt_tokens).await;

    let slowdown = fault.as_ref().map_or(1.0, FaultKind::slowdown);
    let time = service.service_time(&room.model, slowdown);
    let tokens = answer.token_count();
    if service.config.kind == Kind::Modal && fault == Some(FaultKind::ContainerDies) {
        time::sleep_until(Instant::now() + time / 2).await;
        visit.die();
        return edge::status_answer(Kind::Modal, StatusCode::BAD_GATEWAY);
    }
    let prefix = match api {
        Api::Chat => "chatcmpl",
        Api::Completion => "cmpl",
    };
    let frames =
        Frames { api, id: format!("{prefix}-{id}"), created: service.unix_s(), model: request.model.clone() };
    let (content_type, cues) = if request.stream {
        let per_chunk = room.model.tokens_per_chunk;
        let cues = script::stream(&frames, &answer, per_chunk, request.include_usage, time, fault.as_ref());
        ("text/event-stream; charset=utf-8", cues)
    } else {
        ("application/json", script::whole(&frames, &answer, time, fault.as_ref()))
    };
    let playback = Playback::new(cues, visit, tokens, connection);
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(playback.into_stream())).into_response()
}

/// The request, the room it goes to, and what the answer will be; or the status and the reason of a refusal.
fn understand<'a>(
    service: &'a Service,
    api: Api,
    body: &[u8],
) -> Result<(Inference, &'a Arc<Room>, Answer), (StatusCode, BadRequest)> {
    let bad = |reason| (StatusCode::BAD_REQUEST, reason);
    let request = Inference::decode(api, body).map_err(bad)?;
    let room = service.room(&request.model).ok_or_else(|| {
        let reason = format!("The model `{}` does not exist.", request.model);
        (StatusCode::NOT_FOUND, BadRequest(reason))
    })?;
    let answer = answer_to(service, room, &request).map_err(bad)?;
    Ok((request, room, answer))
}

/// What this model will say, if prompt and answer fit its context.
pub(crate) fn answer_to(service: &Service, room: &Room, request: &Inference) -> Result<Answer, BadRequest> {
    let limit = request.fit(room.model.context_tokens)?;
    Ok(text::compose(service.config.seed, &room.model, &request.prompt, limit, &request.stop))
}

/// `GET /v1/models`
pub(crate) async fn models(State(service): State<Arc<Service>>) -> Response {
    let created = service.unix_s();
    let models = service.rooms().iter().map(|room| {
        json!({
            "id": room.model.name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": room.model.name,
            "parent": null,
            "max_model_len": room.model.context_tokens,
            "permission": [],
        })
    });
    edge::answer(StatusCode::OK, &json!({ "object": "list", "data": models.collect::<Vec<_>>() }))
}

/// `GET /health` of vLLM: an empty 200.
pub(crate) async fn health() -> StatusCode {
    StatusCode::OK
}

/// `GET /metrics` under vLLM's names.
pub(crate) async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let mut page = String::new();
    for (name, kind, value) in METRICS {
        writeln!(page, "# TYPE {name} {kind}").expect("a string takes all that is written");
        for room in service.rooms() {
            let (labels, value) = (labels(room), value(service.board.model(room.index())));
            writeln!(page, "{name}{{{labels}}} {value}").expect("a string takes all that is written");
        }
    }
    page.push_str("# TYPE vllm:request_success_total counter\n");
    for room in service.rooms() {
        let (labels, stats) = (labels(room), service.board.model(room.index()));
        for (reason, count) in [("stop", stats.finished), ("abort", stats.aborted)] {
            writeln!(page, "vllm:request_success_total{{{labels},finished_reason=\"{reason}\"}} {count}")
                .expect("a string takes all that is written");
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

type Metric = (&'static str, &'static str, fn(Stats) -> u64);

const METRICS: [Metric; 4] = [
    ("vllm:num_requests_running", "gauge", |stats| stats.running),
    ("vllm:num_requests_waiting", "gauge", |stats| stats.queued),
    ("vllm:prompt_tokens_total", "counter", |stats| stats.prompt_tokens),
    ("vllm:generation_tokens_total", "counter", |stats| stats.generated_tokens),
];

fn labels(room: &Room) -> String {
    format!("engine=\"0\",model_name=\"{}\"", room.model.name)
}
