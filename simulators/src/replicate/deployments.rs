//! Deployments: every model of the simulator is one by its own name, and somebody else's may stand beside them.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde_json::{Value, json};

use super::{
    catalog::{answer, missing},
    platform::Platform,
    wire::{rfc3339, version_id},
};

/// `GET /v1/deployments`
pub(crate) async fn list(State(platform): State<Arc<Platform>>) -> Response {
    let settings = &platform.service.config.replicate;
    let models = platform.service.models.iter();
    let own =
        models.filter_map(|model| body(&model.settings.name, &model.settings.sku, 0, settings.max_instances));
    let others = settings.others.iter().filter_map(|(name, up)| body(name, "gpu-t4", *up, 1.max(*up)));
    let results: Vec<Value> = own.chain(others).collect();
    answer(&platform, StatusCode::OK, &json!({ "next": null, "previous": null, "results": results }))
}

/// `GET /v1/deployments/{owner}/{name}`
pub(crate) async fn one(
    State(platform): State<Arc<Platform>>,
    Path((owner, name)): Path<(String, String)>,
) -> Response {
    let service = &platform.service;
    let found = service.model(&format!("{owner}/{name}")).and_then(|model| {
        body(&model.settings.name, &model.settings.sku, 0, service.config.replicate.max_instances)
    });
    match found {
        Some(body) => answer(&platform, StatusCode::OK, &body),
        None => missing(&platform),
    }
}

fn body(full_name: &str, sku: &str, min: u32, max: u32) -> Option<Value> {
    let (owner, name) = full_name.split_once('/')?;
    Some(json!({
        "owner": owner,
        "name": name,
        "current_release": {
            "number": 1,
            "model": full_name,
            "version": version_id(full_name),
            "created_at": rfc3339(0),
            "created_by": { "type": "organization", "username": owner, "name": owner, "avatar_url": "https://replicate.com/a.png" },
            "configuration": { "hardware": sku, "min_instances": min, "max_instances": max },
        },
    }))
}
