//! `/activity-api/v1`

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State as Of},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};

use super::{
    config::Manner,
    shop::{Asked, Shop, refuse},
    state::{Activity, Batch, State, Word},
};
use crate::clock::micros;

pub(super) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/activity-api/v1/activity", post(create).get(list))
        .route("/activity-api/v1/activity/{id}", delete(destroy))
        .route("/activity-api/v1/activity/{id}/exec", post(exec))
        .route("/activity-api/v1/activity/{id}/exec/{batch}", get(batch))
        .route("/activity-api/v1/activity/{id}/state", get(state_of))
        .route("/activity-api/v1/activity/{id}/usage", get(usage))
        .route("/activity-api/v1/activity/{id}/agreement", get(agreement))
}

async fn create(Of(shop): Of<Arc<Shop>>, asked: Asked, Json(body): Json<Value>) -> Response {
    let id = body.as_str().or_else(|| body["agreementId"].as_str()).unwrap_or_default().to_owned();
    let (node, word) = match shop.state().agreements.get(&id) {
        Some(one) => (one.node, one.word),
        None => return refuse(StatusCode::NOT_FOUND, "Agreement not found"),
    };
    if word != Word::Approved {
        return refuse(StatusCode::GONE, word.name());
    }
    if shop.config.nodes[node].manner == Manner::NoActivity {
        let _: Option<()> = shop.hold(&asked, |_, _| None).await;
        return refuse(StatusCode::REQUEST_TIMEOUT, "Timeout while creating the activity");
    }
    let now = shop.account.now_us();
    let mut state = shop.state();
    let activity = state.id(32);
    let one = Activity {
        agreement: id,
        word: "New",
        next: Some("Initialized"),
        made_us: now,
        ended_us: None,
        next_note_us: now + micros(shop.config.note_every),
        batches: BTreeMap::new(),
        server: None,
    };
    state.activities.insert(activity.clone(), one);
    let said = if body.is_string() { json!(activity) } else { json!({ "activityId": activity }) };
    (shop.made(), Json(said)).into_response()
}

async fn list(Of(shop): Of<Arc<Shop>>, asked: Asked) -> Response {
    let state = shop.state();
    let fits = |one: &Activity| asked.get("agreementId").is_none_or(|id| one.agreement == *id);
    let mut found: Vec<(&String, u64)> =
        state.activities.iter().filter(|(_, one)| fits(one)).map(|(id, one)| (id, one.made_us)).collect();
    found.sort_by_key(|(_, made)| *made);
    Json(found.into_iter().map(|(id, _)| id.clone()).collect::<Vec<_>>()).into_response()
}

async fn destroy(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    let now = shop.account.now_us();
    let mut state = shop.state();
    let at = state.stamp(now);
    match state.activities.get_mut(&id) {
        Some(one) => {
            one.end(at);
            Json(Value::Null).into_response()
        }
        None => refuse(StatusCode::NOT_FOUND, "Activity not found"),
    }
}

async fn exec(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, Json(body): Json<Value>) -> Response {
    let commands = body["text"].as_str().and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
    let Some(commands) = commands.filter(|commands| !commands.is_empty()) else {
        shop.break_rule("a script that is no text with a JSON array in it");
        return refuse(StatusCode::BAD_REQUEST, "Cannot parse the script");
    };
    let now = shop.account.now_us();
    let mut state = shop.state();
    let batch = state.id(32);
    let Some(one) = state.activities.get_mut(&id) else {
        return refuse(StatusCode::NOT_FOUND, "Activity not found");
    };
    if one.ended_us.is_some() {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "exe-unit unreachable");
    }
    let deploys = commands[0].get("deploy").is_some();
    if deploys && one.word != "Initialized" {
        state.broken_rules.push("deploy of an activity that is not Initialized".to_owned());
        return refuse(StatusCode::BAD_REQUEST, "deploy is not possible in this state");
    }
    let takes = if deploys { shop.config.deploy } else { shop.config.run };
    if deploys {
        one.next = Some("Deployed");
    }
    let script = Batch { commands, next_us: now + micros(takes), results: Vec::new(), finished: false };
    one.batches.insert(batch.clone(), script);
    Json(batch).into_response()
}

async fn batch(Of(shop): Of<Arc<Shop>>, Path((id, batch)): Path<(String, String)>, asked: Asked) -> Response {
    let index: Option<usize> = asked.get("commandIndex").and_then(|text| text.parse().ok());
    let look = |state: &mut State, _| {
        let Some(one) = state.activities.get(&id) else { return Some(None) };
        let Some(batch) = one.batches.get(&batch) else { return Some(None) };
        let done = batch.finished || index.is_some_and(|index| batch.results.len() > index);
        done.then(|| Some(batch.results.clone()))
    };
    match shop.hold(&asked, look).await {
        Some(Some(results)) => Json(results).into_response(),
        Some(None) => refuse(StatusCode::NOT_FOUND, "Batch not found"),
        None => {
            let state = shop.state();
            let found = state.activities.get(&id).and_then(|one| one.batches.get(&batch));
            Json(found.map(|batch| batch.results.clone()).unwrap_or_default()).into_response()
        }
    }
}

async fn state_of(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    let state = shop.state();
    let Some(one) = state.activities.get(&id) else {
        return refuse(StatusCode::NOT_FOUND, "Activity not found");
    };
    let word = if state.switches.unresponsive { "Unresponsive" } else { one.word };
    Json(json!({ "state": [word, one.next], "reason": null, "errorMessage": null })).into_response()
}

async fn usage(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    let now = shop.account.now_us();
    let state = shop.state();
    let Some(one) = state.activities.get(&id) else {
        return refuse(StatusCode::NOT_FOUND, "Activity not found");
    };
    let used = state.used(&shop.config.nodes, one, now);
    // The precision of a double is what the real one has, too.
    let used: Vec<f64> = used.into_iter().map(|us| us as f64 / 1e6).collect();
    Json(json!({ "currentUsage": used, "timestamp": now / 1_000_000 })).into_response()
}

async fn agreement(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    match shop.state().activities.get(&id) {
        Some(one) => Json(one.agreement.clone()).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "Activity not found"),
    }
}
