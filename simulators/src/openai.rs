//! The OpenAI routes in vLLM's dialect: completions, models, health and metrics.
//!
//! A rented server and Modal's `openai` mode share them; Modal adds the billing comment and its edge.
//! The head of a 200 is sent at admission, streaming or not, and the body follows.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::json;
use tokio::time::{self, Instant};

use crate::{
    board::Stats,
    config::Kind,
    connection::Connection,
    edge, errors,
    fault::{Course, FaultKind},
    frames::{Frames, OUT_OF_MEMORY},
    model::Model,
    playback::Playback,
    reply,
    request::{Api, BadRequest, Inference},
    script,
    service::Service,
    text::Answer,
};

/// The routes of an inference server.
pub(crate) fn routes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .with_state(Arc::clone(service))
}

/// The routes by which a rented server is watched.
pub(crate) fn probes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(service))
}

/// `POST /v1/chat/completions`
async fn chat(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    infer(&service, Api::Chat, connection, &headers, &body).await
}

/// `POST /v1/completions`
async fn completions(
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
    let fault = match edge::strike(service, &connection).await {
        Ok(fault) => fault,
        Err(response) => return *response,
    };
    let (request, model, mut answer) = match understand(service, api, body) {
        Ok(understood) => understood,
        Err((status, reason)) => {
            service.board.refused();
            return errors::vllm(status, &reason.0);
        }
    };
    if fault == Some(FaultKind::Oom) {
        service.board.refused();
        return errors::vllm(StatusCode::INTERNAL_SERVER_ERROR, OUT_OF_MEMORY);
    }
    let name = headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let id = name.clone().unwrap_or_else(|| format!("sim-{}", service.next_number()));
    let mut run = model.queue(name).await;
    run.admit(answer.prompt_tokens).await;
    answer.cached_tokens = model.read_prefix(&request.prompt.text);

    let slowdown = Course::under(fault.as_ref()).slowdown;
    let time = service.service_time(&model.settings, slowdown);
    let tokens = answer.token_count();
    if service.config.kind == Kind::Modal && fault == Some(FaultKind::ContainerDies) {
        time::sleep_until(Instant::now() + time / 2).await;
        run.die();
        return errors::usual(Kind::Modal, StatusCode::BAD_GATEWAY);
    }
    let prefix = match api {
        Api::Chat => "chatcmpl",
        Api::Completion => "cmpl",
    };
    let frames = Frames {
        api,
        id: format!("{prefix}-{id}"),
        created: service.clock.unix_s(),
        model: request.model.clone(),
    };
    let (content_type, cues) = if request.stream {
        let per_chunk = model.settings.tokens_per_chunk;
        let cues = script::stream(&frames, &answer, per_chunk, request.include_usage, time, fault.as_ref());
        ("text/event-stream; charset=utf-8", cues)
    } else {
        ("application/json", script::whole(&frames, &answer, time, fault.as_ref()))
    };
    let playback = Playback::new(cues, run, tokens, connection);
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(playback.into_stream())).into_response()
}

/// The request, its model, and the answer that the model will give; or the status and the reason of a refusal.
fn understand<'a>(
    service: &'a Service,
    api: Api,
    body: &[u8],
) -> Result<(Inference, &'a Arc<Model>, Answer), (StatusCode, BadRequest)> {
    let bad = |reason| (StatusCode::BAD_REQUEST, reason);
    let request = Inference::decode(api, body).map_err(bad)?;
    let model = service.model(&request.model).ok_or_else(|| {
        let reason = format!("The model `{}` does not exist.", request.model);
        (StatusCode::NOT_FOUND, BadRequest(reason))
    })?;
    let answer = service.answer(model, &request).map_err(bad)?;
    Ok((request, model, answer))
}

/// `GET /v1/models`
async fn models(State(service): State<Arc<Service>>) -> Response {
    let created = service.clock.unix_s();
    let models = service.models.iter().map(|model| {
        json!({
            "id": model.settings.name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": model.settings.name,
            "parent": null,
            "max_model_len": model.settings.context_tokens,
            "permission": [],
        })
    });
    reply::answer(StatusCode::OK, &json!({ "object": "list", "data": models.collect::<Vec<_>>() }))
}

/// `GET /health` of vLLM: an empty 200.
async fn health() -> StatusCode {
    StatusCode::OK
}

/// `GET /metrics` under vLLM's names.
async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let mut page = String::new();
    for (name, kind, value) in METRICS {
        writeln!(page, "# TYPE {name} {kind}").expect("a string takes all that is written");
        for model in &service.models {
            let (labels, value) = (labels(model), value(service.board.model(model.index())));
            writeln!(page, "{name}{{{labels}}} {value}").expect("a string takes all that is written");
        }
    }
    page.push_str("# TYPE vllm:request_success_total counter\n");
    for model in &service.models {
        let (labels, stats) = (labels(model), service.board.model(model.index()));
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

fn labels(model: &Model) -> String {
    format!("engine=\"0\",model_name=\"{}\"", model.settings.name)
}
