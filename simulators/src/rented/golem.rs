//! yagna's REST, and a market of providers behind it.
//!
//! ```text
//!  client ─▶ door (tape, faults) ─▶ market, payment, activity, net ─▶ state ◀─ clockwork (providers, each 2 ms)
//!                                                     │
//!                                                     └─ WebSocket ─▶ the machine's server
//! ```
//!
//! Faults are set by these names: `version`, `me`, `health`, `accounts`, `status`, `allocate`, `allocation`, `decorate`,
//! `demand`, `events`, `counter`, `reject`, `agree`, `confirm`, `wait`, `cancel`, `terminate`, `agreement`, `agreements`,
//! `agreement_events`, `scan`, `note_events`, `note`, `accept_note`, `invoice_events`, `invoice`, `invoices`,
//! `accept_invoice`, `reject_invoice`, `activity`, `activities`, `destroy`, `exec`, `batch`, `state`, `usage`, `net`, `tunnel`.
//! `*` is all of them, which is a daemon that is down: providers go on by themselves.
//!
//! Providers bill by prices times counters, note by note, and end an agreement whose notes are not accepted in time.

mod activity;
mod clockwork;
mod config;
mod glm;
mod market;
mod net;
mod payment;
mod shop;
mod state;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State as Of},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use config::{GolemConfig, GolemNode, Manner};

use super::{
    account::Account,
    door,
    meter::{BilledFrom, BilledUntil, Tariff},
};
use crate::fault::Fault;
use shop::{Asked, Shop};
use state::{State, Word};

/// A simulated daemon with its market.
#[derive(Clone, Debug)]
pub struct Golem {
    shop: Arc<Shop>,
}

/// What an agreement cost, by the provider's own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GolemBill {
    /// The agreement.
    pub agreement: String,
    /// The provider's node id.
    pub provider: String,
    /// The machine's mark in our side of the agreement.
    pub mark: Option<String>,
    /// Where the agreement stands.
    pub state: String,
    /// Why it ended: the provider's code, or ours.
    pub ended: Option<String>,
    /// Prices times counters, GLM.
    pub owed: String,
    /// What we accepted by debit notes, GLM.
    pub by_notes: String,
    /// What was paid by invoices, GLM: each accepted invoice once.
    pub paid: String,
    /// Invoices that came, and that we accepted.
    pub invoices: (usize, usize),
    /// Debit notes that came, and that we accepted.
    pub notes: (usize, usize),
    /// The longest that a debit note waited for its acceptance; those that still wait are left out.
    pub slowest_note: Duration,
    /// Activities that live.
    pub alive: usize,
}

impl Golem {
    /// Starts the daemon; it answers when this returns.
    pub async fn start(config: GolemConfig, shutdown: CancellationToken) -> io::Result<Self> {
        let tariff = Tariff { unit: Duration::ZERO, from: BilledFrom::Never, until: BilledUntil::Over };
        let (account, listener) = door::open(tariff, shutdown).await?;
        let shop = Arc::new(Shop::new(Arc::clone(&account), config));
        account.tasks.spawn(Arc::clone(&shop).run());
        door::serve(&account, listener, routes(&shop), name_of);
        Ok(Self { shop })
    }

    /// Faults, recorded calls, shutdown.
    pub fn account(&self) -> &Arc<Account> {
        &self.shop.account
    }

    /// The base URL.
    pub fn url(&self) -> String {
        self.shop.account.url()
    }

    /// From now on nobody offers anything, or providers do again.
    pub fn set_offers(&self, some: bool) {
        self.shop.state().switches.no_offers = !some;
    }

    /// Invoices are held back, or come.
    pub fn hold_invoices(&self, held: bool) {
        self.shop.state().switches.invoices_held = held;
    }

    /// Each agreement is invoiced so many times more.
    pub fn second_invoices(&self, more: u32) {
        self.shop.state().switches.second_invoices = more;
    }

    /// All activities show as `Unresponsive`, or as they are.
    pub fn set_unresponsive(&self, unresponsive: bool) {
        self.shop.state().switches.unresponsive = unresponsive;
    }

    /// The servers of these providers that listen now fail so, or work again.
    pub fn set_fault(&self, nodes: &[&str], fault: Option<&Fault>) {
        let state = self.shop.state();
        let here = |activity: &&state::Activity| {
            let node = state.agreements[&activity.agreement].node;
            nodes.contains(&self.shop.config.nodes[node].id.as_str())
        };
        for running in state.activities.values().filter(here).filter_map(|one| one.server.as_ref()) {
            running.simulator.set_fault(fault.cloned());
        }
    }

    /// The payment driver has this trouble, such as `InsufficientGas`.
    pub fn trouble(&self, kind: &str) {
        let status = json!({ "kind": kind, "driver": "erc20", "network": "polygon" });
        self.shop.state().switches.driver.push(status);
    }

    /// A provider ends all its agreements.
    pub fn leave(&self, provider: &str, code: &str) {
        let now = self.shop.account.now_us();
        let mut state = self.shop.state();
        let is_theirs = |agreement: &state::Agreement| {
            agreement.word == Word::Approved && self.shop.config.nodes[agreement.node].id == provider
        };
        let ids: Vec<String> =
            state.agreements.iter().filter(|(_, one)| is_theirs(one)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            state.terminate(&id, "Provider", &json!({ "message": code, "golem.provider.code": code }), now);
        }
        drop(state);
        self.shop.moved.notify_waiters();
    }

    /// The daemon is started anew: demands, networks and tunnels are gone; agreements, notes and allocations stay.
    pub fn restart(&self) {
        let mut state = self.shop.state();
        state.demands.clear();
        state.networks.clear();
        state.sockets.cancel();
        state.sockets = self.shop.account.shutdown.child_token();
    }

    /// Rules of the protocol that a client broke; there should be none.
    pub fn broken_rules(&self) -> Vec<String> {
        self.shop.state().broken_rules.clone()
    }

    /// All agreements that were ever confirmed, in the order in which they were made.
    pub fn bills(&self) -> Vec<GolemBill> {
        let now = self.shop.account.now_us();
        let state = self.shop.state();
        let mut ids: Vec<&String> =
            state.agreements.iter().filter(|(_, one)| one.session.is_some()).map(|(id, _)| id).collect();
        ids.sort_by_key(|id| state.agreements[*id].made_us);
        ids.into_iter().map(|id| bill(&self.shop, &state, id, now)).collect()
    }

    /// What an amount of GLM is in nano-dollars, rounded up; the rate is in nano-dollars, too.
    pub fn usd_nanos(glm: &str, rate_nanos: u64) -> u64 {
        glm::usd_nanos(glm::parts(glm).expect("an amount of ours reads"), rate_nanos)
    }

    /// The allocations that are not released: id, total, spent.
    pub fn allocations(&self) -> Vec<(String, String, String)> {
        let state = self.shop.state();
        let open = state.allocations.iter().filter(|(_, one)| !one.released);
        open.map(|(id, one)| (id.clone(), glm::text(one.total), glm::text(one.spent))).collect()
    }

    /// Networks that exist.
    pub fn networks(&self) -> usize {
        self.shop.state().networks.len()
    }
}

fn bill(shop: &Shop, state: &State, id: &str, now: u64) -> GolemBill {
    let agreement = &state.agreements[id];
    let notes: Vec<&state::Note> = state.notes.iter().filter(|note| note.agreement == id).collect();
    let waits = notes.iter().filter_map(|note| Some(note.accepted_us?.saturating_sub(note.at_us)));
    let invoices: Vec<&state::Bill> = state.invoices.iter().filter(|one| one.agreement == id).collect();
    let accepted = || invoices.iter().filter(|one| one.status == "ACCEPTED");
    let reason = agreement.end.as_ref().map(|end| end["reason"].clone()).unwrap_or_default();
    let code = reason.get("golem.provider.code").or_else(|| reason.get("golem.requestor.code"));
    GolemBill {
        agreement: id.to_owned(),
        provider: shop.config.nodes[agreement.node].id.clone(),
        mark: agreement.ours["properties"]["beacon.machine"].as_str().map(str::to_owned),
        state: agreement.word.name().to_owned(),
        ended: code.and_then(Value::as_str).map(str::to_owned),
        owed: glm::text(state.owed(&shop.config.nodes, id, now)),
        by_notes: glm::text(state.accepted_by_notes(id)),
        paid: glm::text(accepted().map(|one| one.amount).sum()),
        invoices: (invoices.len(), accepted().count()),
        notes: (notes.len(), notes.iter().filter(|note| note.accepted_us.is_some()).count()),
        slowest_note: Duration::from_micros(waits.max().unwrap_or(0)),
        alive: state.activities.values().filter(|one| one.agreement == id && one.ended_us.is_none()).count(),
    }
}

fn routes(shop: &Arc<Shop>) -> Router {
    let open = Router::new().route("/version/get", get(version));
    let locked = Router::new()
        .route("/me", get(me))
        .route("/healthcheck", get(health))
        .merge(market::routes())
        .merge(payment::routes())
        .merge(activity::routes())
        .merge(net::routes())
        .layer(middleware::from_fn_with_state(Arc::clone(shop), unlock));
    open.merge(locked).with_state(Arc::clone(shop))
}

/// The app key, in the header or in the query.
async fn unlock(
    Of(shop): Of<Arc<Shop>>,
    headers: HeaderMap,
    asked: Asked,
    request: Request,
    next: Next,
) -> Response {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|text| text.strip_prefix("Bearer ")).map(str::to_owned);
    match bearer.or_else(|| asked.get("authToken").cloned()) {
        None => (StatusCode::UNAUTHORIZED, "Missing application key").into_response(),
        Some(key) if key == shop.config.key => next.run(request).await,
        Some(_) => (StatusCode::UNAUTHORIZED, "Invalid application key").into_response(),
    }
}

async fn version() -> Json<Value> {
    let name = "v0.17.6 simulated";
    let current =
        json!({ "version": "0.17.6", "name": name, "seen": true, "releaseTs": "2026-03-28T00:00:00" });
    Json(json!({ "current": current }))
}

async fn me(Of(shop): Of<Arc<Shop>>) -> Json<Value> {
    Json(json!({ "identity": shop.config.identity, "name": "simulated", "role": "manager" }))
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// The name of a call, by which faults are set.
fn name_of(method: &Method, uri: &Uri, _: &[u8]) -> String {
    let parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let name = match (method.as_str(), parts.as_slice()) {
        (_, ["version", ..]) => "version",
        (_, ["me"]) => "me",
        (_, ["healthcheck"]) => "health",
        (_, ["payment-api", "v1", rest @ ..]) => match (method.as_str(), rest) {
            (_, ["requestorAccounts"]) => "accounts",
            (_, ["payments", ..]) => "status",
            ("POST", ["allocations"]) => "allocate",
            (_, ["allocations", ..]) => "allocation",
            (_, ["demandDecorations"]) => "decorate",
            (_, ["debitNoteEvents"]) => "note_events",
            ("GET", ["debitNotes", ..]) => "note",
            (_, ["debitNotes", ..]) => "accept_note",
            (_, ["invoiceEvents"]) => "invoice_events",
            (_, ["invoices"]) => "invoices",
            ("GET", ["invoices", ..]) => "invoice",
            (_, ["invoices", _, "accept"]) => "accept_invoice",
            (_, ["invoices", ..]) => "reject_invoice",
            _ => "unknown",
        },
        (_, ["market-api", "v1", rest @ ..]) => match (method.as_str(), rest) {
            ("GET", ["demands", ..]) => "events",
            (_, ["demands", _, "proposals", _]) => "counter",
            (_, ["demands", _, "proposals", _, "reject"]) => "reject",
            (_, ["demands", ..]) => "demand",
            ("POST", ["agreements"]) => "agree",
            ("GET", ["agreements"]) => "agreements",
            (_, ["agreements", _, "confirm"]) => "confirm",
            (_, ["agreements", _, "wait"]) => "wait",
            (_, ["agreements", _, "cancel"]) => "cancel",
            (_, ["agreements", _, "terminate"]) => "terminate",
            (_, ["agreements", ..]) => "agreement",
            (_, ["agreementEvents"]) => "agreement_events",
            (_, ["scan", ..]) => "scan",
            _ => "unknown",
        },
        (_, ["activity-api", "v1", "activity", rest @ ..]) => match (method.as_str(), rest) {
            ("POST", []) => "activity",
            ("GET", []) => "activities",
            ("DELETE", [_]) => "destroy",
            ("POST", [_, "exec"]) => "exec",
            (_, [_, "exec", _]) => "batch",
            (_, [_, "state"]) => "state",
            (_, [_, "usage"]) => "usage",
            _ => "unknown",
        },
        (_, ["net-api", _, "net", _, "tcp", ..]) => "tunnel",
        (_, ["net-api", ..]) => "net",
        _ => "unknown",
    };
    name.to_owned()
}
