//! `/payment-api/v1`

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State as Of},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{
    glm,
    shop::{Asked, Shop, page, problem, refuse},
    state::{Allocation, Bill, Note, State, micros_of, rfc3339},
};

pub(super) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/payment-api/v1/requestorAccounts", get(accounts))
        .route("/payment-api/v1/payments/status", get(status))
        .route("/payment-api/v1/allocations", post(allocate).get(allocations))
        .route("/payment-api/v1/allocations/{id}", get(allocation).put(amend).delete(release))
        .route("/payment-api/v1/demandDecorations", get(decorate))
        .route("/payment-api/v1/debitNoteEvents", get(note_events))
        .route("/payment-api/v1/debitNotes/{id}", get(note))
        .route("/payment-api/v1/debitNotes/{id}/accept", post(accept_note))
        .route("/payment-api/v1/debitNotes/{id}/reject", post(reject_note))
        .route("/payment-api/v1/invoiceEvents", get(invoice_events))
        .route("/payment-api/v1/invoices", get(invoices))
        .route("/payment-api/v1/invoices/{id}", get(invoice))
        .route("/payment-api/v1/invoices/{id}/accept", post(accept_invoice))
        .route("/payment-api/v1/invoices/{id}/reject", post(reject_invoice))
}

async fn accounts(Of(shop): Of<Arc<Shop>>) -> Json<Value> {
    let mut parts = shop.config.platform.split('-');
    let mut part = || parts.next().unwrap_or_default();
    Json(json!([{
        "platform": shop.config.platform, "address": shop.config.identity,
        "driver": part(), "network": part(), "token": part(), "send": true, "receive": false,
    }]))
}

async fn status(Of(shop): Of<Arc<Shop>>) -> Json<Value> {
    Json(json!(shop.state().switches.driver))
}

fn shown_allocation(shop: &Shop, id: &str, one: &Allocation) -> Value {
    let mut shown = json!({
        "allocationId": id,
        "address": shop.config.identity,
        "paymentPlatform": shop.config.platform,
        "totalAmount": glm::text(one.total),
        "spentAmount": glm::text(one.spent),
        "remainingAmount": glm::text(one.total.saturating_sub(one.spent)),
        "timestamp": rfc3339(one.made_us),
        "makeDeposit": false,
    });
    if let Some(timeout) = one.timeout_us {
        shown["timeout"] = json!(rfc3339(timeout));
    }
    shown
}

/// What of the wallet is not set aside.
fn free(shop: &Shop, state: &State, but: Option<&str>) -> u128 {
    let funds = glm::parts(&shop.config.funds).unwrap_or(0);
    let open = state.allocations.iter().filter(|(id, one)| !one.released && Some(id.as_str()) != but);
    funds.saturating_sub(open.map(|(_, one)| one.total).sum())
}

async fn allocate(Of(shop): Of<Arc<Shop>>, Json(body): Json<Value>) -> Response {
    let now = shop.account.now_us();
    match body["paymentPlatform"].as_str() {
        Some(platform) if platform == shop.config.platform => {}
        Some(_) => return problem("bad-payment-platform", &json!({})),
        None => {
            shop.break_rule("an allocation without a platform, which is one on a testnet");
            return problem("bad-payment-platform", &json!({}));
        }
    }
    let Some(total) = body["totalAmount"].as_str().and_then(glm::parts) else {
        return refuse(StatusCode::BAD_REQUEST, "totalAmount is missing");
    };
    let timeout_us = body["timeout"].as_str().and_then(micros_of);
    if timeout_us.is_some_and(|at| at <= now) {
        return problem("timeout-passed", &json!({}));
    }
    let mut state = shop.state();
    let free = free(&shop, &state, None);
    if total > free {
        let more = json!({ "requestedFunds": glm::text(total), "availableFunds": glm::text(free) });
        return problem("insufficient-account-funds", &more);
    }
    let id = state.id(32);
    let one = Allocation { total, spent: 0, timeout_us, made_us: now, released: false };
    let shown = shown_allocation(&shop, &id, &one);
    state.allocations.insert(id, one);
    (StatusCode::CREATED, Json(shown)).into_response()
}

async fn allocations(Of(shop): Of<Arc<Shop>>) -> Json<Value> {
    let state = shop.state();
    let open = state.allocations.iter().filter(|(_, one)| !one.released);
    Json(open.map(|(id, one)| shown_allocation(&shop, id, one)).collect())
}

async fn allocation(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    match shop.state().allocations.get(&id).filter(|one| !one.released) {
        Some(one) => Json(shown_allocation(&shop, &id, one)).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "Allocation not found"),
    }
}

async fn amend(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, Json(body): Json<Value>) -> Response {
    let mut state = shop.state();
    let free = free(&shop, &state, Some(&id));
    let Some(one) = state.allocations.get_mut(&id).filter(|one| !one.released) else {
        return refuse(StatusCode::NOT_FOUND, "Allocation not found");
    };
    if let Some(total) = body["totalAmount"].as_str().and_then(glm::parts) {
        if total > free {
            return problem("insufficient-account-funds", &json!({ "availableFunds": glm::text(free) }));
        }
        one.total = total;
    }
    one.timeout_us = body["timeout"].as_str().and_then(micros_of).or(one.timeout_us);
    Json(shown_allocation(&shop, &id, one)).into_response()
}

async fn release(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    match shop.state().allocations.get_mut(&id) {
        Some(one) if one.released => refuse(StatusCode::GONE, "Allocation already released"),
        Some(one) => {
            one.released = true;
            StatusCode::OK.into_response()
        }
        None => refuse(StatusCode::NOT_FOUND, "Allocation not found"),
    }
}

async fn decorate(Of(shop): Of<Arc<Shop>>, asked: Asked) -> Response {
    let ids = asked.get("allocationIds").cloned().unwrap_or_default();
    let state = shop.state();
    if ids.is_empty() || !ids.split(',').all(|id| state.allocations.get(id).is_some_and(|one| !one.released))
    {
        return refuse(StatusCode::BAD_REQUEST, "Allocation not found");
    }
    let key = format!("golem.com.payment.platform.{}.address", shop.config.platform);
    let properties = json!([
        { "key": key, "value": shop.config.identity },
        { "key": "golem.com.payment.protocol.version", "value": "3" },
    ]);
    let constraints = json!([format!("({key}=*)"), "(golem.com.payment.protocol.version>1)"]);
    Json(json!({ "properties": properties, "constraints": constraints })).into_response()
}

async fn note_events(Of(shop): Of<Arc<Shop>>, asked: Asked) -> Response {
    let look = |state: &mut State, _| {
        let session = |id: &str| state.agreements.get(id).and_then(|one| one.session.clone());
        let event = |note: &Note| {
            let event = json!({ "eventType": "DebitNoteReceivedEvent", "eventDate": rfc3339(note.at_us),
                "debitNoteId": note.id });
            (note.at_us, session(&note.agreement), event)
        };
        page(state.notes.iter().map(event).collect(), &asked)
    };
    Json(shop.hold(&asked, look).await.unwrap_or_default()).into_response()
}

fn parties(shop: &Shop, state: &State, agreement: &str) -> Value {
    let node = &shop.config.nodes[state.agreements[agreement].node];
    json!({ "issuerId": node.id, "recipientId": shop.config.identity, "payeeAddr": node.id,
        "payerAddr": shop.config.identity, "paymentPlatform": shop.config.platform, "agreementId": agreement })
}

async fn note(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    let state = shop.state();
    let Some(note) = state.notes.iter().find(|note| note.id == id) else {
        return refuse(StatusCode::NOT_FOUND, "Debit note not found");
    };
    let mut shown = parties(&shop, &state, &note.agreement);
    let seconds = |used: &u64| {
        let text = format!("{}.{:06}", used / 1_000_000, used % 1_000_000);
        serde_json::from_str::<Value>(&text).expect("digits, a point and digits are a number")
    };
    for (key, value) in [
        ("debitNoteId", json!(note.id)),
        ("timestamp", json!(rfc3339(note.at_us))),
        ("activityId", json!(note.activity)),
        ("totalAmountDue", json!(glm::text(note.due))),
        ("usageCounterVector", note.used_us.iter().map(seconds).collect()),
        ("status", json!(if note.accepted_us.is_some() { "ACCEPTED" } else { "RECEIVED" })),
    ] {
        shown[key] = value;
    }
    Json(shown).into_response()
}

/// Takes what is new of an amount out of an allocation.
fn spend(state: &mut State, body: &Value, new: u128) -> Option<Response> {
    let id = body["allocationId"].as_str().unwrap_or_default();
    let Some(one) = state.allocations.get_mut(id).filter(|one| !one.released) else {
        return Some(refuse(StatusCode::BAD_REQUEST, "Allocation not found"));
    };
    if one.total.saturating_sub(one.spent) < new {
        return Some(refuse(StatusCode::BAD_REQUEST, "Not enough funds in the allocation"));
    }
    one.spent += new;
    None
}

async fn accept_note(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, Json(body): Json<Value>) -> Response {
    let now = shop.account.now_us();
    let mut state = shop.state();
    let Some(place) = state.notes.iter().position(|note| note.id == id) else {
        return refuse(StatusCode::NOT_FOUND, "Debit note not found");
    };
    let (due, accepted) = (state.notes[place].due, state.notes[place].accepted_us.is_some());
    if body["totalAmountAccepted"].as_str().and_then(glm::parts) != Some(due) {
        state.broken_rules.push("a debit note accepted with another amount".to_owned());
        return refuse(StatusCode::BAD_REQUEST, "Invalid amount accepted");
    }
    if !accepted {
        let activity = state.notes[place].activity.clone();
        let new = due.saturating_sub(state.accepted(&activity));
        if let Some(refused) = spend(&mut state, &body, new) {
            return refused;
        }
        state.notes[place].accepted_us = Some(now);
    }
    StatusCode::OK.into_response()
}

async fn reject_note() -> Response {
    refuse(StatusCode::NOT_IMPLEMENTED, "not implemented")
}

async fn invoice_events(Of(shop): Of<Arc<Shop>>, asked: Asked) -> Response {
    let look = |state: &mut State, _| {
        let session = |id: &str| state.agreements.get(id).and_then(|one| one.session.clone());
        let event = |bill: &Bill| {
            let event = json!({ "eventType": "InvoiceReceivedEvent", "eventDate": rfc3339(bill.at_us),
                "invoiceId": bill.id });
            (bill.at_us, session(&bill.agreement), event)
        };
        page(state.invoices.iter().map(event).collect(), &asked)
    };
    Json(shop.hold(&asked, look).await.unwrap_or_default()).into_response()
}

fn shown_invoice(shop: &Shop, state: &State, bill: &Bill) -> Value {
    let mut shown = parties(shop, state, &bill.agreement);
    let activities: Vec<&String> = state
        .activities
        .iter()
        .filter(|(_, one)| one.agreement == bill.agreement)
        .map(|(id, _)| id)
        .collect();
    for (key, value) in [
        ("invoiceId", json!(bill.id)),
        ("timestamp", json!(rfc3339(bill.at_us))),
        ("activityIds", json!(activities)),
        ("amount", json!(glm::text(bill.amount))),
        ("paymentDueDate", json!(rfc3339(bill.at_us + 86_400_000_000))),
        ("status", json!(bill.status)),
    ] {
        shown[key] = value;
    }
    shown
}

async fn invoices(Of(shop): Of<Arc<Shop>>, asked: Asked) -> Response {
    let after = asked.get("afterTimestamp").and_then(|text| micros_of(text)).unwrap_or(0);
    let most = asked.get("maxItems").and_then(|text| text.parse().ok()).unwrap_or(10);
    let state = shop.state();
    let newer = state.invoices.iter().filter(|bill| bill.at_us > after).take(most);
    Json(newer.map(|bill| shown_invoice(&shop, &state, bill)).collect::<Vec<_>>()).into_response()
}

async fn invoice(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    let state = shop.state();
    match state.invoices.iter().find(|bill| bill.id == id) {
        Some(bill) => Json(shown_invoice(&shop, &state, bill)).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "Invoice not found"),
    }
}

async fn accept_invoice(
    Of(shop): Of<Arc<Shop>>,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    let mut state = shop.state();
    let Some(place) = state.invoices.iter().position(|bill| bill.id == id) else {
        return refuse(StatusCode::NOT_FOUND, "Invoice not found");
    };
    let (amount, agreement) = (state.invoices[place].amount, state.invoices[place].agreement.clone());
    if body["totalAmountAccepted"].as_str().and_then(glm::parts) != Some(amount) {
        state.broken_rules.push("an invoice accepted with another amount".to_owned());
        return refuse(StatusCode::BAD_REQUEST, "Invalid amount accepted");
    }
    if state.invoices[place].status == "RECEIVED" {
        let new = amount.saturating_sub(state.accepted_by_notes(&agreement));
        if let Some(refused) = spend(&mut state, &body, new) {
            return refused;
        }
        state.invoices[place].status = "ACCEPTED";
    }
    StatusCode::OK.into_response()
}

async fn reject_invoice(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, Json(_): Json<Value>) -> Response {
    let mut state = shop.state();
    match state.invoices.iter_mut().find(|bill| bill.id == id) {
        Some(bill) if bill.status == "RECEIVED" => {
            bill.status = "REJECTED";
            StatusCode::OK.into_response()
        }
        Some(_) => refuse(StatusCode::BAD_REQUEST, "Invoice cannot be rejected"),
        None => refuse(StatusCode::NOT_FOUND, "Invoice not found"),
    }
}
