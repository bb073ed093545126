//! REST v2 beside the jobs: endpoints, their workers, the catalogue of GPUs, pods. It only tells; nothing is changed through it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{reply::answer, service::Service};

/// GPU pools, one GPU of each, and dollars an hour: the documentation of 2026-08-20.
const GPUS: [(&str, &str, u64, &str); 8] = [
    ("AMPERE_16", "NVIDIA RTX A4000", 16, "0.576"),
    ("AMPERE_24", "NVIDIA L4", 24, "0.684"),
    ("ADA_24", "NVIDIA GeForce RTX 4090", 24, "1.116"),
    ("AMPERE_48", "NVIDIA A40", 48, "1.224"),
    ("ADA_48_PRO", "NVIDIA L40S", 48, "1.908"),
    ("AMPERE_80", "NVIDIA A100 80GB PCIe", 80, "2.736"),
    ("ADA_80_PRO", "NVIDIA H100 80GB HBM3", 80, "4.176"),
    ("HOPPER_141", "NVIDIA H200", 141, "5.58"),
];
const CREATED: &str = "2026-03-13T20:00:00Z";

/// The routes.
pub(super) fn routes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/v2/serverless", get(endpoints))
        .route("/v2/serverless/{id}", get(endpoint))
        .route("/v2/serverless/{id}/workers", get(workers))
        .route("/v2/catalog/gpus", get(gpus))
        .route("/v2/pods", get(pods))
        .with_state(Arc::clone(service))
}

async fn endpoints(State(service): State<Arc<Service>>) -> Response {
    let account = &service.config.runpod.account;
    let own = own(&service);
    let others = account.others.keys().map(|id| {
        let mut theirs = own.clone();
        (theirs["id"], theirs["name"], theirs["env"]) = (json!(id), json!("somebody else's"), json!({}));
        theirs
    });
    let endpoints: Vec<Value> = std::iter::once(own.clone()).chain(others).collect();
    answer(StatusCode::OK, &json!({ "endpoints": endpoints }))
}

async fn endpoint(State(service): State<Arc<Service>>, Path(id): Path<String>) -> Response {
    if id == service.config.runpod.endpoint_id { answer(StatusCode::OK, &own(&service)) } else { missing() }
}

async fn workers(State(service): State<Arc<Service>>, Path(id): Path<String>) -> Response {
    let settings = &service.config.runpod;
    let worker = |number: usize, status: &str, stale: bool| {
        json!({
            "id": format!("worker-{number}"), "status": status, "isStale": stale, "version": 4, "gpuCount": 1,
            "image": settings.account.image, "uptimeSeconds": 60, "gpuTypeId": gpu(&settings.account.gpu_pool),
            "dataCenterId": centers(&service).first(), "startedAt": CREATED,
        })
    };
    let workers: Vec<Value> = if id == settings.endpoint_id {
        let (mut busy, mut idle) = (0, 0);
        for containers in service.models.iter().filter_map(|model| model.containers()) {
            let (more_busy, more_idle) = containers.counts();
            (busy, idle) = (busy + more_busy, idle + more_idle);
        }
        // A configured release is only older where a worker is there to run it.
        let shown = if settings.account.stale { (busy + idle).max(1) } else { busy + idle };
        let status = |number| if number < busy { "RUNNING" } else { "IDLE" };
        (0..shown).map(|number| worker(number, status(number), settings.account.stale)).collect()
    } else {
        match settings.account.others.get(&id) {
            Some(running) => {
                let running = usize::try_from(*running).unwrap_or(0);
                (0..running).map(|number| worker(number, "RUNNING", false)).collect()
            }
            None => return missing(),
        }
    };
    let count = |status: &str| workers.iter().filter(|worker| worker["status"] == status).count();
    let summary = json!({
        "running": count("RUNNING"), "idle": count("IDLE"), "initializing": 0,
        "throttled": u32::from(settings.throttled), "unhealthy": u32::from(settings.unhealthy),
        "total": workers.len(),
    });
    answer(StatusCode::OK, &json!({ "workers": workers, "summary": summary, "endpointVersion": 4 }))
}

async fn gpus(State(service): State<Arc<Service>>) -> Response {
    let prices = &service.config.runpod.account.prices;
    let gpu = |(pool, id, memory, usual): &(&str, &str, u64, &str)| {
        let usd = number(prices.get(*pool).map_or(*usual, String::as_str));
        json!({
            "id": id, "name": id, "pool": pool, "manufacturer": "NVIDIA", "memory": memory, "secure": true, "community": true,
            "price": { "secure": usd, "community": usd, "serverless": usd }, "maxCount": { "secure": 8, "community": 8 },
        })
    };
    let mut gpus: Vec<Value> = GPUS.iter().map(gpu).collect();
    // One that is in no serverless pool.
    gpus.push(json!({
        "id": "AMD Instinct MI300X OAM", "name": "MI300X", "pool": null, "manufacturer": "AMD", "memory": 192, "secure": true,
        "community": false, "price": { "secure": 2.49, "community": 0.0 }, "maxCount": { "secure": 8, "community": 0 },
    }));
    answer(StatusCode::OK, &json!({ "gpus": gpus }))
}

async fn pods(State(service): State<Arc<Service>>) -> Response {
    let pod = |(id, usd): (&String, &String)| {
        json!({
            "id": id, "name": "somebody else's", "status": "RUNNING", "actions": ["stop", "restart", "terminate"],
            "image": "somebody/else:1", "args": "", "disk": 20, "mounts": {}, "ports": [], "env": {}, "registry": null,
            "gpu": { "id": "NVIDIA L4", "count": 1 }, "cloud": "SECURE", "dataCenterId": "US-NC-1", "cudaVersion": null,
            "ssh": { "proxy": null, "direct": null }, "template": null, "cost": number(usd), "locked": false,
            "globalNetworking": { "enabled": false }, "runtime": null, "createdAt": CREATED, "startedAt": CREATED,
        })
    };
    let pods: Vec<Value> = service.config.runpod.account.pods.iter().map(pod).collect();
    answer(StatusCode::OK, &json!({ "pods": pods }))
}

/// The endpoint that jobs go to.
fn own(service: &Service) -> Value {
    let (id, account) = (&service.config.runpod.endpoint_id, &service.config.runpod.account);
    let mut env = account.env.clone();
    if let Some(model) = service.models.first() {
        env.entry("MODEL_NAME".to_owned()).or_insert_with(|| model.settings.name.clone());
    }
    json!({
        "id": id, "name": "beacon", "type": "QUEUE", "image": account.image, "args": "", "disk": 20, "env": env, "registry": null,
        "gpu": {
            "pools": [account.gpu_pool], "excludedTypes": [], "count": 1, "allowedCudaVersions": [],
            "minCudaVersion": null,
        },
        "workers": { "min": account.workers_min, "max": account.workers_max, "idleTimeout": 5 },
        "scaling": { "type": "REQUEST_COUNT", "requestCount": 1 }, "dataCenterIds": centers(service), "networkVolumes": [],
        "timeout": 600_000, "flashboot": "FLASHBOOT", "createdAt": CREATED,
    })
}

fn centers(service: &Service) -> Vec<String> {
    let usual = match service.config.region.as_str() {
        "eu-west" => "EU-NL-1",
        "asia-pacific" => "AP-JP-1",
        _ => "US-NC-1",
    };
    let given = service.config.runpod.account.data_centers.clone().filter(|centers| !centers.is_empty());
    match &service.config.runpod.account.data_centers {
        // Any: workers still stand somewhere, which only their own list tells.
        Some(none) if none.is_empty() => vec![],
        Some(_) | None => given.unwrap_or_else(|| vec![usual.to_owned()]),
    }
}

fn gpu(pool: &str) -> &'static str {
    GPUS.iter().find(|(of, ..)| *of == pool).map_or("NVIDIA L4", |(_, id, ..)| id)
}

/// A text of dollars as a JSON number.
fn number(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn missing() -> Response {
    let body =
        json!({ "title": "Not Found", "status": 404, "detail": "serverless endpoint not found" }).to_string();
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}
