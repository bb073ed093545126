//! What each server says of itself: its health, its load, its models. Under the names of its software, following the real queue.

use std::{fmt::Write as _, future, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{
    board::Stats,
    config::{MetricsPage, Server},
    errors::server,
    reply,
    service::Service,
};

/// More than anybody should read.
const HUGE: usize = 8 * 1024 * 1024;

/// The routes by which a rented server is watched.
pub(crate) fn routes(service: &Arc<Service>) -> Router {
    let router = match service.server() {
        Server::Vllm => Router::new().route("/health", get(empty)).route("/metrics", get(metrics)),
        Server::SgLang => Router::new()
            .route("/health", get(empty))
            .route("/metrics", get(metrics))
            .route("/get_model_info", get(info)),
        Server::Tgi => Router::new()
            .route("/health", get(empty))
            .route("/metrics", get(metrics))
            .route("/info", get(info)),
        Server::LlamaCpp => Router::new()
            .route("/health", get(ok))
            .route("/v1/health", get(ok))
            .route("/metrics", get(metrics))
            .route("/slots", get(slots))
            .route("/props", get(props)),
        Server::Ollama => Router::new()
            .route("/", get(|| async { "Ollama is running" }))
            .route(
                "/api/version",
                get(|| async { reply::answer(StatusCode::OK, &json!({ "version": "0.21.0" })) }),
            )
            .route("/api/ps", get(loaded))
            .route("/api/tags", get(pulled)),
    };
    router.with_state(Arc::clone(service))
}

async fn empty() -> StatusCode {
    StatusCode::OK
}

async fn ok() -> Response {
    reply::answer(StatusCode::OK, &json!({ "status": "ok" }))
}

/// `GET /metrics`
async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let (server, page) = (service.server(), service.metrics_page());
    match page {
        MetricsPage::Hang => future::pending().await,
        MetricsPage::Off | MetricsPage::Silent if server == Server::LlamaCpp => {
            let message = "This server does not support metrics endpoint.";
            server::refusal(server, StatusCode::NOT_IMPLEMENTED, message)
        }
        MetricsPage::Off | MetricsPage::Silent => server::refusal(server, StatusCode::NOT_FOUND, "Not Found"),
        MetricsPage::Usual
        | MetricsPage::Nan
        | MetricsPage::Missing
        | MetricsPage::Huge
        | MetricsPage::Still => {
            let text = written(&service, server, page);
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
    }
}

/// A metric: its name, its type, and its value of a model with so many slots.
type Metric = (&'static str, &'static str, fn(Stats, f64) -> f64);

const VLLM: [Metric; 5] = [
    ("vllm:num_requests_running", "gauge", |stats, _| count(stats.running)),
    ("vllm:num_requests_waiting", "gauge", |stats, _| count(stats.queued)),
    ("vllm:kv_cache_usage_perc", "gauge", |stats, slots| count(stats.running) / slots),
    ("vllm:prompt_tokens_total", "counter", |stats, _| count(stats.prompt_tokens)),
    ("vllm:generation_tokens_total", "counter", |stats, _| count(stats.generated_tokens)),
];

const LLAMA_CPP: [Metric; 4] = [
    ("llamacpp:requests_processing", "gauge", |stats, _| count(stats.running)),
    ("llamacpp:requests_deferred", "gauge", |stats, _| count(stats.queued)),
    ("llamacpp:prompt_tokens_total", "counter", |stats, _| count(stats.prompt_tokens)),
    ("llamacpp:tokens_predicted_total", "counter", |stats, _| count(stats.generated_tokens)),
];

const SGLANG: [Metric; 5] = [
    ("sglang:num_running_reqs", "gauge", |stats, _| count(stats.running)),
    ("sglang:num_queue_reqs", "gauge", |stats, _| count(stats.queued)),
    ("sglang:token_usage", "gauge", |stats, slots| count(stats.running) / slots),
    ("sglang:prompt_tokens_total", "counter", |stats, _| count(stats.prompt_tokens)),
    ("sglang:generation_tokens_total", "counter", |stats, _| count(stats.generated_tokens)),
];

const TGI: [Metric; 3] = [
    ("tgi_batch_current_size", "gauge", |stats, _| count(stats.running)),
    ("tgi_queue_size", "gauge", |stats, _| count(stats.queued)),
    ("tgi_request_generated_tokens_sum", "counter", |stats, _| count(stats.generated_tokens)),
];

fn count(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    {
        number as f64
    }
}

fn written(service: &Service, server: Server, kind: MetricsPage) -> String {
    let metrics: &[Metric] = match server {
        Server::Vllm | Server::Ollama => &VLLM,
        Server::LlamaCpp => &LLAMA_CPP,
        Server::SgLang => &SGLANG,
        Server::Tgi => &TGI,
    };
    let mut page =
        String::from("# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.7954208e+09\n");
    if kind == MetricsPage::Missing {
        return page;
    }
    let mut line = |name: &str, labels: &str, value: f64| {
        let value = if kind == MetricsPage::Nan { f64::NAN } else { value };
        writeln!(page, "{name}{labels} {value}").expect("a string takes all that is written");
    };
    let labels = |model: &str, more: &str| match server {
        Server::Vllm | Server::Ollama => format!("{{engine=\"0\",model_name=\"{model}\"{more}}}"),
        Server::SgLang => format!("{{model_name=\"{model}\",tp_rank=\"0\"{more}}}"),
        Server::LlamaCpp | Server::Tgi => String::new(),
    };
    for (name, kind, value) in metrics {
        line(&format!("# TYPE {name} {kind}\n{name}"), "", f64::NAN);
        for model in &service.models {
            let (stats, slots) = (service.board.model(model.index()), f64::from(model.settings.slots));
            line(name, &labels(&model.settings.name, ""), value(stats, slots));
        }
    }
    let busy = service.board.total().running > 0 && kind != MetricsPage::Still;
    let steps = count(service.engine_steps(busy));
    match server {
        Server::Vllm => line("vllm:iteration_tokens_total_count", &labels("all", ""), steps),
        Server::LlamaCpp => line("llamacpp:n_decode_total", "", steps),
        Server::Ollama | Server::Tgi | Server::SgLang => {}
    }
    if server == Server::Vllm {
        for model in &service.models {
            let stats = service.board.model(model.index());
            for (reason, number) in [("stop", stats.finished), ("abort", stats.aborted)] {
                let labels = labels(&model.settings.name, &format!(",finished_reason=\"{reason}\""));
                line("vllm:request_success_total", &labels, count(number));
            }
        }
    }
    if kind == MetricsPage::Huge {
        while page.len() < HUGE {
            page.push_str("some_other_metric{label=\"value\"} 1\n");
        }
    }
    page
}

/// `GET /slots` of llama.cpp.
async fn slots(State(service): State<Arc<Service>>) -> Response {
    if service.metrics_page() == MetricsPage::Silent {
        let message = "This server does not support slots endpoint.";
        return server::refusal(Server::LlamaCpp, StatusCode::NOT_IMPLEMENTED, message);
    }
    let slots = service.models.iter().flat_map(|model| {
        let busy = service.board.model(model.index()).running;
        (0..u64::from(model.settings.slots)).map(move |slot| (slot < busy, model.settings.context_tokens))
    });
    let slots = slots
        .enumerate()
        .map(|(id, (busy, context))| json!({ "id": id, "is_processing": busy, "n_ctx": context }));
    reply::answer(StatusCode::OK, &slots.collect::<Vec<_>>())
}

/// `GET /props` of llama.cpp.
async fn props(State(service): State<Arc<Service>>) -> Response {
    let slots: u32 = service.models.iter().map(|model| model.settings.slots).sum();
    let sleeps = !service.models.iter().any(|model| model.is_loaded());
    reply::answer(
        StatusCode::OK,
        &json!({ "total_slots": slots, "model_path": "/models/m.gguf", "is_sleeping": sleeps }),
    )
}

/// `GET /api/ps` of Ollama: what is in memory.
async fn loaded(State(service): State<Arc<Service>>) -> Response {
    let models: Vec<Value> = service
        .models
        .iter()
        .filter(|model| model.is_loaded())
        .map(|model| entry(&model.settings.name))
        .collect();
    reply::answer(StatusCode::OK, &json!({ "models": models }))
}

/// `GET /api/tags` of Ollama: what is on its disk.
async fn pulled(State(service): State<Arc<Service>>) -> Response {
    let models: Vec<Value> = service.models.iter().map(|model| entry(&model.settings.name)).collect();
    reply::answer(StatusCode::OK, &json!({ "models": models }))
}

fn entry(name: &str) -> Value {
    let name = if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
    json!({ "name": name, "model": name, "size": 1, "size_vram": 1 })
}

/// `GET /info` of TGI, `GET /get_model_info` of SGLang.
async fn info(State(service): State<Arc<Service>>) -> Response {
    let model = &service.models[0].settings;
    let info = match service.server() {
        Server::SgLang => json!({ "model_path": model.name, "is_generation": true }),
        Server::Vllm | Server::LlamaCpp | Server::Ollama | Server::Tgi => json!({
            "model_id": model.name, "max_concurrent_requests": service.config.openai.most_requests,
            "max_total_tokens": model.context_tokens, "version": "3.3.6-dev0",
        }),
    };
    reply::answer(StatusCode::OK, &info)
}
