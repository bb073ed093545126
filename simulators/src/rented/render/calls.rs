//! The routes.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    deploys::time,
    shop::{Service, Shop},
};
use crate::rented::{Seen, account::NewMachine, machine::Stage};

const REGIONS: [&str; 5] = ["frankfurt", "oregon", "ohio", "singapore", "virginia"];

/// The filters and pages of lists.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Filter {
    name: Option<String>,
    owner_id: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

pub(super) fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

fn not_found(id: &str) -> Response {
    problem(StatusCode::NOT_FOUND, &format!("not found: {id}"))
}

/// `GET /owners/{id}`
pub(super) async fn owner(State(shop): State<Arc<Shop>>, Path(id): Path<String>) -> Response {
    if id != shop.config.owner {
        return not_found(&id);
    }
    Json(json!({ "id": id, "name": "simulated", "email": "nobody@render.example", "type": "team" }))
        .into_response()
}

/// `GET /services`
pub(super) async fn list(State(shop): State<Arc<Shop>>, Query(filter): Query<Filter>) -> Response {
    let services = shop.state().services.clone();
    let is_wanted = |service: &Service| {
        let names =
            filter.name.as_ref().is_none_or(|names| names.split(',').any(|name| name == service.name));
        names && !service.deleted && filter.owner_id.as_ref().is_none_or(|owner| *owner == shop.config.owner)
    };
    let found = services.iter().filter(|service| is_wanted(service)).filter_map(|service| {
        let seen =
            shop.account.machine(&service.id).filter(|seen| seen.listed && seen.stage != Stage::Gone)?;
        Some((service.id.clone(), shop.service_value(service, &seen)))
    });
    let skip = filter.cursor.as_ref().and_then(|cursor| cursor.parse().ok()).unwrap_or(0_usize);
    let limit = filter.limit.unwrap_or(20).min(100);
    let page = found.enumerate().skip(skip).take(limit);
    let page: Vec<Value> = page
        .map(|(place, (_, value))| json!({ "service": value, "cursor": (place + 1).to_string() }))
        .collect();
    Json(page).into_response()
}

/// `POST /services`
pub(super) async fn create(State(shop): State<Arc<Shop>>, Json(body): Json<Value>) -> Response {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, details) = (text(&body["name"]), &body["serviceDetails"]);
    let (plan, region) = (text(&details["plan"]), text(&details["region"]));
    if body["ownerId"] != shop.config.owner.as_str() || body["type"] != "web_service" || name.is_empty() {
        return problem(StatusCode::BAD_REQUEST, "invalid owner, type or name");
    }
    if details["runtime"] != "image" || text(&body["image"]["imagePath"]).is_empty() {
        return problem(StatusCode::BAD_REQUEST, "invalid image");
    }
    let Some(price) = shop.config.plans.get(&plan).copied() else {
        return problem(StatusCode::BAD_REQUEST, "invalid plan");
    };
    if !REGIONS.contains(&region.as_str()) {
        return problem(StatusCode::BAD_REQUEST, "invalid region");
    }
    if shop.state().services.iter().any(|service| service.name == name && !service.deleted) {
        return problem(StatusCode::CONFLICT, &format!("name {name} is already in use"));
    }
    let variable = |wanted: &str| {
        let variables = body["envVars"].as_array()?;
        variables.iter().find(|one| one["key"] == wanted).map(|one| text(&one["value"]))
    };
    let id = shop.next_id("srv");
    shop.add_service(&id, &name, false);
    let seen = shop.account.order(NewMachine {
        id: id.clone(),
        mark: variable("BEACON_MACHINE"),
        sku: plan,
        place: region,
        key: variable("VLLM_API_KEY"),
        price_per_hour_nanos: price,
        parked_per_hour_nanos: 0,
        papers: body,
    });
    let deploy = shop.add_deploy(&id, "api", Duration::ZERO);
    let Some(service) = shop.service(&id) else { return not_found(&id) };
    let value = json!({ "service": shop.service_value(&service, &seen), "deployId": deploy.id });
    (StatusCode::CREATED, Json(value)).into_response()
}

fn find(shop: &Shop, id: &str) -> Option<(Service, Seen)> {
    let service = shop.service(id)?;
    let seen = shop.account.machine(id).filter(|seen| seen.stage != Stage::Gone)?;
    Some((service, seen))
}

fn is_suspended(service: &Service) -> bool {
    !service.suspenders.is_empty()
}

/// `GET /services/{id}`
pub(super) async fn get(State(shop): State<Arc<Shop>>, Path(id): Path<String>) -> Response {
    match find(&shop, &id) {
        Some((service, seen)) => Json(shop.service_value(&service, &seen)).into_response(),
        None => not_found(&id),
    }
}

/// `DELETE /services/{id}`
pub(super) async fn delete(State(shop): State<Arc<Shop>>, Path(id): Path<String>) -> Response {
    if find(&shop, &id).is_none() {
        return not_found(&id);
    }
    shop.account.end(&id, "delete");
    shop.change(&id, |service| service.deleted = true);
    StatusCode::NO_CONTENT.into_response()
}

/// `POST /services/{id}/suspend`
pub(super) async fn suspend(State(shop): State<Arc<Shop>>, Path(id): Path<String>) -> Response {
    if find(&shop, &id).is_none() {
        return not_found(&id);
    }
    shop.account.park(&id, "suspend");
    shop.change(&id, |service| {
        if !service.suspenders.iter().any(|suspender| suspender == "user") {
            service.suspenders.push("user".to_owned());
        }
    });
    StatusCode::ACCEPTED.into_response()
}

/// `POST /services/{id}/resume`
pub(super) async fn resume(State(shop): State<Arc<Shop>>, Path(id): Path<String>) -> Response {
    let Some((service, seen)) = find(&shop, &id) else { return not_found(&id) };
    if !is_suspended(&service) {
        return problem(StatusCode::BAD_REQUEST, "service is not suspended");
    }
    if service.suspenders.iter().any(|suspender| suspender != "user") {
        return problem(StatusCode::BAD_REQUEST, "service cannot be resumed");
    }
    if seen.stage == Stage::Parking {
        return problem(StatusCode::CONFLICT, "service is being suspended");
    }
    shop.account.wake(&id, "resume");
    shop.change(&id, |service| service.suspenders.clear());
    if shop.config.resume_deploys {
        shop.add_deploy(&id, "service_resumed", shop.config.deploy_takes);
    }
    StatusCode::ACCEPTED.into_response()
}

/// `GET /services/{id}/deploys`
pub(super) async fn deploys(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<String>,
    Query(filter): Query<Filter>,
) -> Response {
    let Some((service, _)) = find(&shop, &id) else { return not_found(&id) };
    let newest_first = service.deploys.iter().rev();
    let items = newest_first.filter_map(|deploy| shop.deploy_value(&service, &deploy.id)).enumerate();
    let page: Vec<Value> = items
        .take(filter.limit.unwrap_or(20))
        .map(|(place, value)| json!({ "deploy": value, "cursor": (place + 1).to_string() }))
        .collect();
    Json(page).into_response()
}

/// `POST /services/{id}/deploys`
pub(super) async fn deploy(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<String>,
    _: Json<Value>,
) -> Response {
    let Some((service, _)) = find(&shop, &id) else { return not_found(&id) };
    if is_suspended(&service) {
        return problem(StatusCode::BAD_REQUEST, "cannot deploy suspended service");
    }
    let deploy = shop.add_deploy(&id, "api", shop.config.deploy_takes);
    if shop.config.deploys_without_id {
        return StatusCode::ACCEPTED.into_response();
    }
    let service = shop.service(&id).unwrap_or(service);
    (StatusCode::CREATED, Json(shop.deploy_value(&service, &deploy.id))).into_response()
}

/// `GET /services/{id}/instances`
pub(super) async fn instances(State(shop): State<Arc<Shop>>, Path(id): Path<String>) -> Response {
    let Some((service, seen)) = find(&shop, &id) else { return not_found(&id) };
    let runs = shop.account.server(&id).is_some() && !service.has_no_instance;
    let instance =
        json!({ "id": format!("{id}-1"), "createdAt": time(seen.history.first().map_or(0, |(_, at)| *at)) });
    Json(if runs { vec![instance] } else { Vec::new() }).into_response()
}
