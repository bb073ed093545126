//! The handlers of Lambda's API.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::{
    shop::{Shop, Stock},
    wire::{data, error, instance, instance_type, region, status},
};
use crate::rented::account::NewMachine;

type Parts = State<Arc<Shop>>;

/// Asks for the key, by either header, and keeps the rates.
pub(super) async fn guard(State(shop): Parts, request: Request, next: Next) -> Response {
    if !authorised(request.headers(), &shop.config.key) {
        return error(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.");
    }
    let is_launch = request.uri().path().ends_with("/launch");
    let limit = if is_launch { &shop.launches } else { &shop.general };
    let limited = shop.stock().limited;
    if limited && limit.take(Instant::now()).is_err() {
        // Neither JSON nor a header: nobody knows what it looks like.
        return (StatusCode::TOO_MANY_REQUESTS, "Too Many Requests").into_response();
    }
    next.run(request).await
}

fn authorised(headers: &HeaderMap, key: &str) -> bool {
    let given = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let basic = || {
        let text = STANDARD.decode(given.strip_prefix("Basic ")?).ok()?;
        String::from_utf8(text).ok()?.strip_suffix(':').map(str::to_owned)
    };
    given.strip_prefix("Bearer ") == Some(key) || basic().is_some_and(|given| given == key)
}

pub(super) async fn types(State(shop): Parts) -> Response {
    let stock = shop.stock();
    let types = shop.config.types.iter().map(|(name, _, gpus)| {
        let listed = stock.capacity.iter().filter(|((sku, _), (listed, _))| sku == name && *listed);
        let regions: Vec<Value> = listed.map(|((_, place), _)| region(place)).collect();
        let kind = instance_type(name, stock.prices[name], *gpus);
        let item = json!({ "instance_type": kind, "regions_with_capacity_available": regions });
        (name.clone(), item)
    });
    data(&Value::Object(types.collect::<Map<_, _>>()))
}

pub(super) async fn regions(State(shop): Parts) -> Response {
    data(&shop.config.regions.iter().map(|name| region(name)).collect())
}

fn key_of((id, name, public_key): &(String, String, String)) -> Value {
    json!({ "id": id, "name": name, "public_key": public_key })
}

pub(super) async fn keys(State(shop): Parts) -> Response {
    data(&shop.stock().keys.iter().map(key_of).collect())
}

pub(super) async fn add_key(State(shop): Parts, body: Bytes) -> Response {
    let Some((name, key)) = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| Some((body["name"].as_str()?.to_owned(), body["public_key"].as_str()?.to_owned())))
    else {
        return error(400, "global/invalid-parameters", "Invalid request data.");
    };
    let taken = |stock: &Stock| stock.keys.iter().any(|(_, theirs, _)| *theirs == name);
    if taken(&shop.stock()) {
        return error(400, "global/invalid-parameters", "Key name must be unique");
    }
    // The race: others may add the same name meanwhile.
    if !shop.config.key_race.is_zero() {
        sleep(shop.config.key_race).await;
    }
    let id = shop.stock().add_key(&name, &key);
    data(&key_of(&(id, name, key)))
}

pub(super) async fn delete_key(State(shop): Parts, Path(id): Path<String>) -> Response {
    let keys = &mut shop.stock().keys;
    match keys.iter().position(|(theirs, ..)| *theirs == id) {
        Some(place) => {
            keys.remove(place);
            data(&json!({}))
        }
        None => error(404, "global/object-does-not-exist", "Specified SSH key does not exist."),
    }
}

pub(super) async fn list(State(shop): Parts) -> Response {
    let (stock, now) = (shop.stock(), shop.account.now_us());
    let machines = shop.account.machines();
    let listed = machines.iter().filter(|seen| seen.listed);
    data(&listed.filter_map(|seen| instance(seen, &shop.config, &stock, now)).collect())
}

pub(super) async fn get(State(shop): Parts, Path(id): Path<String>) -> Response {
    let (stock, now) = (shop.stock(), shop.account.now_us());
    let seen = shop.account.machine(&id).filter(|seen| seen.listed);
    match seen.and_then(|seen| instance(&seen, &shop.config, &stock, now)) {
        Some(instance) => data(&instance),
        None => unknown_instance(),
    }
}

pub(super) async fn rename(State(shop): Parts, Path(id): Path<String>, body: Bytes) -> Response {
    let Some(name) = serde_json::from_slice::<Value>(&body).ok().map(|body| body["name"].clone()) else {
        return error(400, "global/invalid-parameters", "Invalid request data.");
    };
    match shop.account.amend(&id, "rename", |papers| papers["name"] = name) {
        Some(seen) => {
            let shown = instance(&seen, &shop.config, &shop.stock(), shop.account.now_us());
            shown.map_or_else(unknown_instance, |instance| data(&instance))
        }
        None => unknown_instance(),
    }
}

fn unknown_instance() -> Response {
    error(404, "global/object-does-not-exist", "Specified instance does not exist.")
}

/// The fields of a launch that the description names.
const LAUNCH_FIELDS: [&str; 10] = [
    "region_name",
    "instance_type_name",
    "ssh_key_names",
    "file_system_names",
    "file_system_mounts",
    "hostname",
    "name",
    "image",
    "user_data",
    "tags",
];

pub(super) async fn launch(State(shop): Parts, body: Bytes) -> Response {
    let Ok(mut body) = serde_json::from_slice::<Value>(&body) else {
        return error(400, "global/invalid-parameters", "Invalid request data.");
    };
    match check_launch(&shop, &body) {
        Ok(()) => {}
        Err(refusal) => return *refusal,
    }
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    let (sku, place) = (text("instance_type_name"), text("region_name"));
    let (id, cents) = {
        let mut stock = shop.stock();
        let spare = stock.capacity.entry((sku.clone(), place.clone())).or_insert((false, Some(0)));
        match &mut spare.1 {
            Some(0) => {
                let code = "instance-operations/launch/insufficient-capacity";
                return error(400, code, "Not enough capacity to fulfill launch request.");
            }
            Some(left) => *left -= 1,
            None => {}
        }
        (stock.next_id(), stock.prices[&sku])
    };
    let tag = |key: &str| {
        let tags = body["tags"].as_array().into_iter().flatten();
        tags.clone().find(|tag| tag["key"] == key).and_then(|tag| tag["value"].as_str()).map(str::to_owned)
    };
    let user_data = text("user_data");
    let key = user_data
        .split("VLLM_API_KEY=")
        .nth(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).collect::<String>());
    let mark = tag("beacon-order");
    // Write-only: it is never shown again.
    body["user_data"] = Value::Null;
    let seen = shop.account.order(NewMachine {
        id,
        mark,
        sku,
        place,
        key,
        price_per_hour_nanos: cents * 10_000_000,
        parked_per_hour_nanos: 0,
        papers: body,
    });
    data(&json!({ "instance_ids": [seen.id] }))
}

/// Refuses what Lambda refuses.
fn check_launch(shop: &Shop, body: &Value) -> Result<(), Box<Response>> {
    let refuse = |status: u16, code: &str, text: &str| Err(Box::new(error(status, code, text)));
    let invalid = |text: &str| refuse(400, "global/invalid-parameters", text);
    let missing = |text: &str| refuse(404, "global/object-does-not-exist", text);
    let Some(fields) = body.as_object() else { return invalid("Invalid request data.") };
    let is_known = |field: &String| LAUNCH_FIELDS.contains(&field.as_str()) || field == "firewall_rulesets";
    if let Some(odd) = fields.keys().find(|field| !is_known(field)).filter(|_| shop.config.strict) {
        return invalid(&format!("Unknown field {odd}."));
    }
    let (stock, text) = (shop.stock(), |field: &str| body[field].as_str().unwrap_or_default());
    if !shop.config.regions.iter().any(|region| region == text("region_name")) {
        return invalid(&format!("Region {} does not exist.", text("region_name")));
    }
    if !stock.prices.contains_key(text("instance_type_name")) {
        return missing("Specified instance type does not exist.");
    }
    let names = body["ssh_key_names"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [name] = names else { return invalid("Exactly one SSH key must be specified.") };
    match stock.keys.iter().filter(|(_, theirs, _)| name == theirs.as_str()).count() {
        0 => return missing("Specified SSH key does not exist."),
        1 => {}
        _ => return refuse(500, "global/unknown", "An unknown error occurred."),
    }
    if text("name").len() > 64 || text("hostname").len() > 63 {
        return invalid("Name is too long.");
    }
    let tags = body["tags"].as_array().into_iter().flatten();
    let fits = |tag: &Value| {
        let (key, value) = (tag["key"].as_str().unwrap_or_default(), tag["value"].as_str());
        let letters =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-:".contains(letter);
        let begins = key.starts_with(|letter: char| letter.is_ascii_lowercase());
        begins
            && key.len() > 1
            && key.len() <= 55
            && key.chars().all(letters)
            && value.is_some_and(|v| v.len() <= 128)
    };
    if !tags.clone().all(fits) {
        return invalid("Invalid tag.");
    }
    if stock.quota.is_some_and(|most| shop.account.alive().len() >= most) {
        return refuse(400, "global/quota-exceeded", "Quota exceeded.");
    }
    Ok(())
}

pub(super) async fn terminate(State(shop): Parts, body: Bytes) -> Response {
    let ids: Vec<String> = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| serde_json::from_value(body["instance_ids"].clone()).ok())
        .unwrap_or_default();
    if ids.is_empty() {
        return error(400, "global/invalid-parameters", "Invalid request data.");
    }
    let now = shop.account.now_us();
    for id in &ids {
        let seen = shop.account.machine(id);
        match seen.and_then(|seen| status(&seen, &shop.config, now)).as_deref() {
            None => return unknown_instance(),
            Some("terminating" | "terminated") => {
                return error(500, "global/unknown", "An unknown error occurred.");
            }
            Some("booting") if !shop.config.terminates_booting => {
                return error(409, "global/conflict", "vm-has-not-launched");
            }
            Some(_) => {}
        }
    }
    let ended: Vec<_> = ids.iter().filter_map(|id| shop.account.end(id, "terminate")).collect();
    let (stock, now) = (shop.stock(), shop.account.now_us());
    let shown: Value = ended.iter().filter_map(|seen| instance(seen, &shop.config, &stock, now)).collect();
    data(&json!({ "terminated_instances": shown }))
}
