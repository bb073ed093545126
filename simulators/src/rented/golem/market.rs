//! `/market-api/v1`

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State as Of},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};

use super::{
    shop::{Asked, Shop, page, refuse},
    state::{Agreement, Demand, Stance, State, Word, micros_of, rfc3339},
};
use crate::clock::micros;

/// A demand waits for its first proposal, as between two.
pub(super) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/market-api/v1/demands", post(demand))
        .route("/market-api/v1/demands/{demand}", delete(withdraw))
        .route("/market-api/v1/demands/{demand}/events", get(events))
        .route("/market-api/v1/demands/{demand}/proposals/{proposal}", post(counter))
        .route("/market-api/v1/demands/{demand}/proposals/{proposal}/reject", post(reject))
        .route("/market-api/v1/agreements", post(agree).get(agreements))
        .route("/market-api/v1/agreements/{id}", get(agreement))
        .route("/market-api/v1/agreements/{id}/confirm", post(confirm))
        .route("/market-api/v1/agreements/{id}/wait", post(wait))
        .route("/market-api/v1/agreements/{id}/cancel", post(cancel))
        .route("/market-api/v1/agreements/{id}/terminate", post(terminate))
        .route("/market-api/v1/agreementEvents", get(agreement_events))
        .route("/market-api/v1/scan", post(scan))
        .route("/market-api/v1/scan/{id}/events", get(scanned))
}

/// Whether a demand, or a counter-proposal, bears what yagna's decorations say.
fn decorated(shop: &Shop, body: &Value) -> bool {
    let key = format!("golem.com.payment.platform.{}.address", shop.config.platform);
    let constraints = body["constraints"].as_str().unwrap_or_default();
    body["properties"].get(&key).is_some() && constraints.contains(&format!("({key}=*)"))
}

async fn demand(Of(shop): Of<Arc<Shop>>, Json(body): Json<Value>) -> Response {
    if !body["properties"].is_object() || !body["constraints"].is_string() {
        return refuse(StatusCode::BAD_REQUEST, "Invalid demand");
    }
    if !decorated(&shop, &body) {
        shop.break_rule("a demand without the decorations of an allocation");
    }
    let now = shop.account.now_us();
    let mut state = shop.state();
    let id = format!("{}-{}", state.id(32), state.id(64));
    let demand = Demand {
        body,
        ends_us: now + micros(shop.config.demand_ttl),
        next_us: now + micros(shop.config.proposal_every),
        offered: BTreeSet::new(),
        events: std::collections::VecDeque::new(),
    };
    state.demands.insert(id.clone(), demand);
    (StatusCode::CREATED, Json(id)).into_response()
}

async fn withdraw(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    match shop.state().demands.remove(&id) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => refuse(StatusCode::NOT_FOUND, "Demand not found"),
    }
}

async fn events(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, asked: Asked) -> Response {
    let look = |state: &mut State, _| {
        let Some(demand) = state.demands.get_mut(&id) else { return Some(None) };
        (!demand.events.is_empty()).then(|| Some(demand.events.drain(..).collect::<Vec<_>>()))
    };
    match shop.hold(&asked, look).await {
        Some(Some(events)) => Json(events).into_response(),
        Some(None) => refuse(StatusCode::NOT_FOUND, "Subscription does not exist"),
        None => Json(json!([])).into_response(),
    }
}

async fn counter(
    Of(shop): Of<Arc<Shop>>,
    Path((demand, proposal)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    if !decorated(&shop, &body) || body["properties"]["golem.com.payment.chosen-platform"].is_null() {
        shop.break_rule("a counter-proposal without decorations or without the chosen platform");
    }
    let now = shop.account.now_us();
    let mut state = shop.state();
    if !state.demands.contains_key(&demand) {
        return refuse(StatusCode::NOT_FOUND, "Demand not found");
    }
    let Some(one) = state.proposals.get_mut(&proposal) else {
        return refuse(StatusCode::NOT_FOUND, "Proposal not found");
    };
    if !matches!(one.stance, Stance::Initial | Stance::Draft) {
        return refuse(StatusCode::GONE, "Proposal rejected or expired");
    }
    (one.stance, one.ours) = (Stance::Countered(now + micros(shop.config.proposal_every)), body);
    let id = format!("R-{}", state.id(64));
    (shop.made(), Json(id)).into_response()
}

async fn reject(
    Of(shop): Of<Arc<Shop>>,
    Path((_, proposal)): Path<(String, String)>,
    Json(_): Json<Value>,
) -> Response {
    match shop.state().proposals.get_mut(&proposal) {
        Some(one) => {
            one.stance = Stance::Rejected;
            StatusCode::NO_CONTENT.into_response()
        }
        None => refuse(StatusCode::NOT_FOUND, "Proposal not found"),
    }
}

async fn agree(Of(shop): Of<Arc<Shop>>, Json(body): Json<Value>) -> Response {
    let now = shop.account.now_us();
    let proposal = body["proposalId"].as_str().unwrap_or_default();
    let Some(valid_to) = body["validTo"].as_str().and_then(micros_of) else {
        return refuse(StatusCode::BAD_REQUEST, "validTo is missing");
    };
    let mut state = shop.state();
    let Some(one) = state.proposals.get_mut(proposal) else {
        return refuse(StatusCode::NOT_FOUND, "Proposal not found");
    };
    match one.stance {
        Stance::Draft => {}
        Stance::Initial => {
            let text = "No negotiation with Provider took place for this Proposal";
            state.broken_rules.push("an agreement of an Initial proposal".to_owned());
            return refuse(StatusCode::BAD_REQUEST, text);
        }
        Stance::Used => return refuse(StatusCode::CONFLICT, "Agreement already exists"),
        Stance::Countered(_) | Stance::Rejected => return refuse(StatusCode::GONE, "Proposal expired"),
    }
    one.stance = Stance::Used;
    let (node, ours) = (one.node, one.ours.clone());
    let expiration = ours["properties"]["golem.srv.comp.expiration"].as_u64();
    let valid_to = expiration.map_or(valid_to, |ms| valid_to.min(ms * 1_000));
    let (id, made_us) = (state.id(64), state.stamp(now));
    let agreement = Agreement {
        node,
        ours,
        word: Word::Proposal,
        session: None,
        made_us,
        valid_to_us: valid_to,
        answer_us: 0,
        approved_us: None,
        idle_us: made_us,
        ended_us: None,
        last_notes: false,
        invoiced: 0,
        end: None,
    };
    state.agreements.insert(id.clone(), agreement);
    (shop.made(), Json(id)).into_response()
}

async fn confirm(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, asked: Asked) -> Response {
    let now = shop.account.now_us();
    let mut state = shop.state();
    if !asked.contains_key("appSessionId") {
        state.broken_rules.push("a confirmation without a session".to_owned());
    }
    let Some(agreement) = state.agreements.get_mut(&id) else {
        return refuse(StatusCode::NOT_FOUND, "Agreement not found");
    };
    if agreement.word != Word::Proposal {
        return refuse(StatusCode::GONE, agreement.word.name());
    }
    agreement.word = Word::Pending;
    agreement.session = asked.get("appSessionId").cloned();
    agreement.answer_us = now + micros(shop.config.approve_after);
    StatusCode::NO_CONTENT.into_response()
}

async fn wait(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, asked: Asked) -> Response {
    let look = |state: &mut State, _| match state.agreements.get(&id).map(|one| one.word) {
        Some(Word::Pending) => None,
        word => Some(word),
    };
    match shop.hold(&asked, look).await {
        None => refuse(StatusCode::REQUEST_TIMEOUT, "Timeout while waiting for approval"),
        Some(Some(Word::Approved)) => StatusCode::NO_CONTENT.into_response(),
        Some(Some(Word::Proposal)) if shop.config.by_the_pages => {
            refuse(StatusCode::CONFLICT, "Agreement is not confirmed")
        }
        Some(Some(Word::Proposal)) => refuse(StatusCode::BAD_REQUEST, "Agreement is not confirmed"),
        Some(Some(word)) => refuse(StatusCode::GONE, word.name()),
        Some(None) => refuse(StatusCode::NOT_FOUND, "Agreement not found"),
    }
}

async fn cancel(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, _: String) -> Response {
    let mut state = shop.state();
    match state.agreements.get_mut(&id) {
        Some(one) if matches!(one.word, Word::Proposal | Word::Pending) => {
            one.word = Word::Cancelled;
            let status = if shop.config.by_the_pages { StatusCode::NO_CONTENT } else { StatusCode::OK };
            status.into_response()
        }
        Some(one) => refuse(StatusCode::GONE, one.word.name()),
        None => refuse(StatusCode::NOT_FOUND, "Agreement not found"),
    }
}

async fn terminate(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, Json(reason): Json<Value>) -> Response {
    let now = shop.account.now_us();
    let mut state = shop.state();
    match state.agreements.get(&id).map(|one| one.word) {
        None => refuse(StatusCode::NOT_FOUND, "Agreement not found"),
        Some(Word::Proposal | Word::Pending) => {
            refuse(StatusCode::CONFLICT, "Agreement can not be terminated yet")
        }
        Some(Word::Approved) => {
            state.terminate(&id, "Requestor", &reason, now);
            let status = if shop.config.by_the_pages { StatusCode::NO_CONTENT } else { StatusCode::OK };
            status.into_response()
        }
        Some(word) => refuse(StatusCode::GONE, word.name()),
    }
}

fn shown(shop: &Shop, id: &str, one: &Agreement) -> Value {
    let (node, made) = (&shop.config.nodes[one.node], rfc3339(one.made_us));
    let mut shown = json!({
        "agreementId": id,
        "demand": {
            "properties": one.ours["properties"],
            "constraints": one.ours["constraints"],
            "demandId": "simulated",
            "requestorId": shop.config.identity,
            "timestamp": made,
        },
        "offer": {
            "properties": node.properties(),
            "constraints": "(&(golem.srv.comp.expiration>0))",
            "offerId": "simulated",
            "providerId": node.id,
            "timestamp": made,
        },
        "validTo": rfc3339(one.valid_to_us),
        "state": one.word.name(),
        "timestamp": made,
    });
    if let Some(approved) = one.approved_us {
        shown["approvedDate"] = json!(rfc3339(approved));
    }
    if let Some(session) = &one.session {
        shown["appSessionId"] = json!(session);
    }
    shown
}

async fn agreement(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    match shop.state().agreements.get(&id) {
        Some(one) => Json(shown(&shop, &id, one)).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "Agreement not found"),
    }
}

async fn agreements(Of(shop): Of<Arc<Shop>>, asked: Asked) -> Response {
    let state = shop.state();
    let fits = |one: &Agreement| {
        asked.get("state").is_none_or(|word| one.word.name() == word)
            && asked.get("appSessionId").is_none_or(|session| one.session.as_ref() == Some(session))
    };
    let line = |(id, one): (&String, &Agreement)| {
        let (made, approved) = (rfc3339(one.made_us), rfc3339(one.approved_us.unwrap_or(one.made_us)));
        // Both what the pages require and what the implementation says.
        json!({ "id": id, "timestamp": made, "approvedDate": approved, "role": "Requestor",
            "creationTs": made, "approveTs": approved })
    };
    let lines: Vec<Value> = state.agreements.iter().filter(|(_, one)| fits(one)).map(line).collect();
    Json(lines).into_response()
}

async fn agreement_events(Of(shop): Of<Arc<Shop>>, asked: Asked) -> Response {
    let look = |state: &mut State, _| {
        let of = |id: &str| state.agreements.get(id).and_then(|one| one.session.clone());
        let events = state.agreement_events.iter();
        page(events.map(|(at, id, event)| (*at, of(id), event.clone())).collect(), &asked)
    };
    Json(shop.hold(&asked, look).await.unwrap_or_default()).into_response()
}

async fn scan(Of(shop): Of<Arc<Shop>>, Json(body): Json<Value>) -> Response {
    if body["type"] != "offer" {
        return refuse(StatusCode::BAD_REQUEST, "unknown type");
    }
    let mut state = shop.state();
    let id = state.id(32);
    state.scans.insert(id.clone(), body);
    (StatusCode::CREATED, Json(id)).into_response()
}

async fn scanned(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, asked: Asked) -> Response {
    let look = |state: &mut State, now: u64| {
        let Some(scan) = state.scans.get(&id) else { return Some(None) };
        let constraints = scan["constraints"].as_str().unwrap_or_default();
        let fits = |runtime: &str| constraints.contains(&format!("(golem.runtime.name={runtime})"));
        let offers: Vec<Value> = shop
            .config
            .nodes
            .iter()
            .filter(|node| fits(&node.runtime))
            .map(|node| {
                json!({ "offerId": "simulated", "providerId": node.id, "timestamp": rfc3339(now),
                "properties": node.properties(), "constraints": "(&(golem.srv.comp.expiration>0))" })
            })
            .collect();
        (!offers.is_empty() && !state.switches.no_offers).then_some(Some(offers))
    };
    match shop.hold(&asked, look).await {
        Some(Some(offers)) => Json(offers).into_response(),
        Some(None) => refuse(StatusCode::NOT_FOUND, "Scan not found"),
        None => Json(json!([])).into_response(),
    }
}
