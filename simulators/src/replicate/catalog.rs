//! The account, the hardware, the models and their versions, and the secret of the webhooks.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    platform::Platform,
    wire::{rfc3339, version_id},
};
use crate::{config::OutputShape, errors::problem::Problem, model::Model, reply, service::Service};

/// `GET /v1/account`
pub(crate) async fn account(State(platform): State<Arc<Platform>>) -> Response {
    let account = json!({ "type": "organization", "username": "simulated", "name": "Simulated" });
    answer(&platform, StatusCode::OK, &account)
}

/// `GET /v1/hardware`
pub(crate) async fn hardware(State(platform): State<Arc<Platform>>) -> Response {
    let models = platform.service.models.iter();
    let mut skus: Vec<_> = models.map(|model| model.settings.sku.as_str()).collect();
    skus.sort_unstable();
    skus.dedup();
    let hardware: Vec<_> = skus.iter().map(|sku| json!({ "name": sku, "sku": sku })).collect();
    answer(&platform, StatusCode::OK, &Value::from(hardware))
}

/// `GET /v1/models/{owner}/{name}`
pub(crate) async fn model(
    State(platform): State<Arc<Platform>>,
    Path((owner, name)): Path<(String, String)>,
) -> Response {
    let full_name = format!("{owner}/{name}");
    let service = &platform.service;
    let Some(model) = service.model(&full_name) else {
        return missing(&platform);
    };
    let body = json!({
        "url": format!("https://replicate.com/{full_name}"),
        "owner": owner,
        "name": name,
        "description": "A simulated language model",
        "visibility": "public",
        "is_official": true,
        "github_url": null,
        "paper_url": null,
        "license_url": null,
        "run_count": service.board.model(model.index()).started,
        "cover_image_url": null,
        "default_example": null,
        "latest_version": version_of(service, model),
    });
    answer(&platform, StatusCode::OK, &body)
}

/// `GET /v1/models/{owner}/{name}/versions`: each model has one.
pub(crate) async fn versions(
    State(platform): State<Arc<Platform>>,
    Path((owner, name)): Path<(String, String)>,
) -> Response {
    let service = &platform.service;
    let Some(model) = service.model(&format!("{owner}/{name}")) else {
        return missing(&platform);
    };
    let versions = json!({ "next": null, "previous": null, "results": [version_of(service, model)] });
    answer(&platform, StatusCode::OK, &versions)
}

/// `GET /v1/models/{owner}/{name}/versions/{id}`
pub(crate) async fn version(
    State(platform): State<Arc<Platform>>,
    Path((owner, name, id)): Path<(String, String, String)>,
) -> Response {
    match platform.service.model(&format!("{owner}/{name}")) {
        Some(model) if version_id(&model.settings.name) == id => {
            answer(&platform, StatusCode::OK, &version_of(&platform.service, model))
        }
        Some(_) | None => missing(&platform),
    }
}

/// `GET /v1/webhooks/default/secret`
pub(crate) async fn secret(State(platform): State<Arc<Platform>>) -> Response {
    answer(&platform, StatusCode::OK, &json!({ "key": platform.service.config.replicate.webhook_secret }))
}

fn version_of(service: &Service, model: &Model) -> Value {
    let settings = &service.config.replicate;
    let text = json!({ "type": "string" });
    let mut properties = json!({
        "prompt": text,
        "system_prompt": text,
        "temperature": { "type": "number", "minimum": 0 },
        "top_p": { "type": "number", "maximum": 1 },
        "seed": { "type": "integer" },
        "stop_sequences": text,
    });
    properties[settings.max_tokens_key.as_str()] = json!({ "type": "integer", "minimum": 1 });
    let output = match settings.output {
        OutputShape::Array => json!({ "type": "array", "items": text, "x-cog-array-type": "iterator" }),
        OutputShape::String => text,
    };
    let input = json!({
        "type": "object",
        "required": ["prompt"],
        "properties": properties,
        "additionalProperties": settings.lenient_input,
    });
    json!({
        "id": version_id(&model.settings.name),
        "created_at": rfc3339(0),
        "cog_version": "0.9.0",
        "openapi_schema": {
            "openapi": "3.0.2",
            "info": { "title": "Cog", "version": "0.1.0" },
            "paths": {},
            "components": { "schemas": { "Input": input, "Output": output } },
        },
    })
}

pub(super) fn answer(platform: &Platform, status: StatusCode, body: &Value) -> Response {
    platform.throttled().unwrap_or_else(|| reply::answer(status, body))
}

pub(super) fn missing(platform: &Platform) -> Response {
    platform.throttled().unwrap_or_else(|| Problem::not_found().into_response())
}
