//! What there is: the account, hardware, models and their versions, and the secret of the webhooks.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::{
    edge,
    replicate::{OutputShape, problem::Problem, watch::throttled, wire::rfc3339},
    room::Room,
    service::Service,
};

/// `GET /v1/account`
pub(crate) async fn account(State(service): State<Arc<Service>>) -> Response {
    let account = json!({ "type": "organization", "username": "simulated", "name": "Simulated" });
    answer(&service, StatusCode::OK, &account)
}

/// `GET /v1/hardware`
pub(crate) async fn hardware(State(service): State<Arc<Service>>) -> Response {
    let mut skus: Vec<_> = service.rooms().iter().map(|room| room.model.sku.as_str()).collect();
    skus.sort_unstable();
    skus.dedup();
    let hardware: Vec<_> = skus.iter().map(|sku| json!({ "name": sku, "sku": sku })).collect();
    answer(&service, StatusCode::OK, &Value::from(hardware))
}

/// `GET /v1/models/{owner}/{name}`
pub(crate) async fn model(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
) -> Response {
    let full_name = format!("{owner}/{name}");
    let Some(room) = service.room(&full_name) else {
        return missing(&service);
    };
    let model = json!({
        "url": format!("https://replicate.com/{full_name}"),
        "owner": owner,
        "name": name,
        "description": "A simulated language model",
        "visibility": "public",
        "is_official": true,
        "github_url": null,
        "paper_url": null,
        "license_url": null,
        "run_count": service.board.model(room.index()).started,
        "cover_image_url": null,
        "default_example": null,
        "latest_version": version_of(&service, room),
    });
    answer(&service, StatusCode::OK, &model)
}

/// `GET /v1/models/{owner}/{name}/versions`: each model has one.
pub(crate) async fn versions(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
) -> Response {
    let Some(room) = service.room(&format!("{owner}/{name}")) else {
        return missing(&service);
    };
    let versions = json!({ "next": null, "previous": null, "results": [version_of(&service, room)] });
    answer(&service, StatusCode::OK, &versions)
}

/// `GET /v1/models/{owner}/{name}/versions/{id}`
pub(crate) async fn version(
    State(service): State<Arc<Service>>,
    Path((owner, name, id)): Path<(String, String, String)>,
) -> Response {
    match service.room(&format!("{owner}/{name}")) {
        Some(room) if version_id(&room.model.name) == id => {
            answer(&service, StatusCode::OK, &version_of(&service, room))
        }
        Some(_) | None => missing(&service),
    }
}

/// `GET /v1/webhooks/default/secret`
pub(crate) async fn secret(State(service): State<Arc<Service>>) -> Response {
    answer(&service, StatusCode::OK, &json!({ "key": service.config.replicate.webhook_secret }))
}

/// The id of a model's only version: 64 hexadecimal digits, the SHA-256 of its name.
pub(crate) fn version_id(model: &str) -> String {
    digest(&SHA256, model.as_bytes()).as_ref().iter().fold(String::new(), |mut id, byte| {
        write!(id, "{byte:02x}").expect("a string takes all that is written");
        id
    })
}

fn version_of(service: &Service, room: &Room) -> Value {
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
        "id": version_id(&room.model.name),
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

fn answer(service: &Service, status: StatusCode, body: &Value) -> Response {
    throttled(service).unwrap_or_else(|| edge::answer(status, body))
}

fn missing(service: &Service) -> Response {
    throttled(service).unwrap_or_else(|| Problem::not_found().into_response())
}
