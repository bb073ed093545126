//! The OpenAI routes in the dialects of the servers: completions and models; what else a server says is in [`watched`].
//!
//! A rented server and Modal's `openai` mode share them; Modal adds the billing comment and its edge.
//! The head of a 200 is sent at admission, streaming or not, and the body follows.

mod watched;

use std::sync::Arc;

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
    config::{Kind, Server},
    connection::Connection,
    edge,
    errors::{self, server},
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

pub(crate) use self::watched::routes as watched;

/// The routes of an inference server.
pub(crate) fn routes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
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
            return server::refusal(service.server(), status, &reason.0);
        }
    };
    if fault == Some(FaultKind::Oom) {
        service.board.refused();
        return server::refusal(service.server(), StatusCode::INTERNAL_SERVER_ERROR, OUT_OF_MEMORY);
    }
    if let Some(refusal) = full(service, model) {
        service.board.refused();
        return refusal;
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
        return errors::usual(Kind::Modal, Server::Vllm, StatusCode::BAD_GATEWAY);
    }
    let prefix = match api {
        Api::Chat => "chatcmpl",
        Api::Completion => "cmpl",
    };
    let server = service.server();
    let id = match server {
        // Not unique.
        Server::Ollama => format!("{prefix}-{}", service.next_number() % 999),
        Server::Vllm | Server::LlamaCpp | Server::Tgi | Server::SgLang => format!("{prefix}-{id}"),
    };
    let frames = Frames { api, server, id, created: service.clock.unix_s(), model: request.model.clone() };
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

/// What a server says that takes no more requests now.
fn full(service: &Service, model: &Model) -> Option<Response> {
    let (stats, most) = (service.board.model(model.index()), u64::from(service.config.openai.most_requests));
    match service.server() {
        Server::Tgi if stats.running + stats.queued >= most => {
            Some(server::refusal(Server::Tgi, StatusCode::TOO_MANY_REQUESTS, "Model is overloaded"))
        }
        // Only while the model is not loaded; then it holds back as many as come.
        Server::Ollama if !model.is_loaded() && stats.queued >= most => {
            let message = "server busy, please try again.  maximum pending requests exceeded";
            Some(server::refusal(Server::Ollama, StatusCode::SERVICE_UNAVAILABLE, message))
        }
        Server::Vllm | Server::LlamaCpp | Server::Ollama | Server::Tgi | Server::SgLang => None,
    }
}

/// The request, its model, and the answer that the model will give; or the status and the reason of a refusal.
fn understand<'a>(
    service: &'a Service,
    api: Api,
    body: &[u8],
) -> Result<(Inference, &'a Arc<Model>, Answer), (StatusCode, BadRequest)> {
    let status = match service.server() {
        Server::Tgi => StatusCode::UNPROCESSABLE_ENTITY,
        Server::Vllm | Server::LlamaCpp | Server::Ollama | Server::SgLang => StatusCode::BAD_REQUEST,
    };
    let bad = |reason| (status, reason);
    let request = Inference::decode(api, body).map_err(bad)?;
    let any = match service.server() {
        // They answer to every name.
        Server::LlamaCpp | Server::Tgi => service.models.first(),
        Server::Vllm | Server::Ollama | Server::SgLang => None,
    };
    let model = service.model(&request.model).or(any).ok_or_else(|| {
        let reason = format!("The model `{}` does not exist.", request.model);
        (StatusCode::NOT_FOUND, BadRequest(reason))
    })?;
    let answer = service.answer(model, &request).map_err(bad)?;
    Ok((request, model, answer))
}

/// `GET /v1/models`
async fn models(State(service): State<Arc<Service>>) -> Response {
    let created = service.clock.unix_s();
    let owner = match service.server() {
        Server::Vllm => "vllm",
        Server::LlamaCpp => "llamacpp",
        Server::Ollama => "library",
        Server::Tgi => "tgi",
        Server::SgLang => "sglang",
    };
    let models = service.models.iter().map(|model| {
        let name = &model.settings.name;
        match service.server() {
            Server::Vllm => json!({
                "id": name, "object": "model", "created": created, "owned_by": owner, "root": name, "parent": null,
                "max_model_len": model.settings.context_tokens, "permission": [],
            }),
            Server::LlamaCpp => json!({
                "id": format!("/models/{name}.gguf"), "object": "model", "created": created, "owned_by": owner, "meta": null,
            }),
            Server::SgLang => json!({
                "id": name, "object": "model", "created": created, "owned_by": owner,
                "max_model_len": model.settings.context_tokens,
            }),
            Server::Ollama | Server::Tgi => json!({ "id": name, "object": "model", "created": created, "owned_by": owner }),
        }
    });
    reply::answer(StatusCode::OK, &json!({ "object": "list", "data": models.collect::<Vec<_>>() }))
}
