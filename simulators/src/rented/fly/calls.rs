//! The handlers of the Machines API.

use std::{future, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    shop::{Shop, action},
    wire::{self, error, machine, ok, state},
};
use crate::{
    limit::Limit,
    rented::{account::NewMachine, account::Seen, machine::Stage},
    reply,
};

type Parts = State<Arc<Shop>>;
type Asked = Query<Vec<(String, String)>>;
type Named = Path<(String, String)>;

/// Asks for the token, and keeps the rates.
pub(super) async fn guard(State(shop): Parts, request: Request, next: Next) -> Response {
    let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if given.and_then(|given| given.strip_prefix("Bearer ")) != Some(shop.config.token.as_str()) {
        return error(401, "unknown", "Authenticate: token validation error");
    }
    if shop.config.limited {
        let action = action(request.method(), request.uri());
        // The object of a call is the Machine, or the app.
        let object = request.uri().path().rsplit('/').nth(usize::from(!matches!(action, "get" | "destroy")));
        let key = (action.to_owned(), object.unwrap_or_default().to_owned());
        let (most, window) = if action == "get" { (10, 2) } else { (3, 3) };
        let mut stock = shop.stock();
        let limit = stock.limits.entry(key).or_insert_with(|| Limit::new(most, Duration::from_secs(window)));
        if limit.take(Instant::now()).is_err() {
            return (StatusCode::TOO_MANY_REQUESTS, "rate limit exceeded").into_response();
        }
    }
    next.run(request).await
}

/// An answer to a call about a Machine that is not there.
fn missing() -> Response {
    error(404, "unknown", "machine not found")
}

impl Shop {
    /// The Machine of a call's path, as far as it is shown at all.
    fn find(&self, app: &str, id: &str) -> Result<Seen, Box<Response>> {
        let seen = self.account.machine(id).filter(|_| app == self.config.app);
        let shown = seen.filter(|seen| state(seen, &self.config, self.account.now_us()).is_some());
        shown.ok_or_else(|| Box::new(missing()))
    }

    /// The same for a call that changes the Machine: refused while somebody else holds the lease, silent without a host.
    async fn find_to_change(
        &self,
        (app, id): &(String, String),
        headers: &HeaderMap,
    ) -> Result<Seen, Box<Response>> {
        let seen = self.find(app, id)?;
        if seen.papers["host_status"] == "unreachable" {
            future::pending::<()>().await;
        }
        self.unleased(&seen, headers)?;
        Ok(seen)
    }

    fn unleased(&self, seen: &Seen, headers: &HeaderMap) -> Result<(), Box<Response>> {
        let lease = &seen.papers["lease"];
        let nonce = headers.get("fly-machine-lease-nonce").and_then(|value| value.to_str().ok());
        if wire::holds(lease, self.account.now_us()) && lease["nonce"].as_str() != nonce {
            let text = format!("failed to change machine: lease currently held by {}", lease["owner"]);
            return Err(Box::new(error(409, "unknown", &text)));
        }
        Ok(())
    }

    fn shown(&self, seen: &Seen) -> Response {
        let shown = machine(seen, &self.config, self.account.now_us());
        shown.map_or_else(missing, |machine| reply::answer(StatusCode::OK, &machine))
    }
}

pub(super) async fn app(State(shop): Parts, Path(app): Path<String>) -> Response {
    if app != shop.config.app {
        return error(404, "unknown", "Could not find App");
    }
    let count = shop.account.alive().len();
    let organization = json!({ "name": shop.config.org, "slug": shop.config.org });
    reply::answer(
        StatusCode::OK,
        &json!({ "id": "simulated", "name": app, "status": "deployed", "machine_count": count, "organization": organization }),
    )
}

pub(super) async fn regions(State(shop): Parts) -> Response {
    let region = |code: &String| {
        json!({
            "code": code, "name": format!("Simulated {code}"), "latitude": 39.02, "longitude": -77.46,
            "deprecated": false, "requires_paid_plan": false, "gateway_available": true,
        })
    };
    let regions: Vec<Value> = shop.config.regions.iter().map(region).collect();
    reply::answer(StatusCode::OK, &json!({ "nearest": shop.config.regions[0], "regions": regions }))
}

pub(super) async fn placements(State(shop): Parts, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if body["org_slug"] != shop.config.org.as_str() {
        return error(404, "unknown", "organization not found");
    }
    let (stock, asked) = (shop.stock(), body["region"].as_str().unwrap_or_default());
    let wanted = shop.config.regions.iter().filter(|code| asked.split(',').any(|part| part == code.as_str()));
    let regions: Vec<Value> = wanted
        .filter(|code| stock.capacity.get(*code).copied().flatten() != Some(0))
        .map(|code| json!({ "region": code, "count": 1, "concurrency": 1 }))
        .collect();
    reply::answer(StatusCode::OK, &json!({ "regions": regions }))
}

pub(super) async fn list(State(shop): Parts, Path(app): Path<String>, Query(asked): Asked) -> Response {
    if app != shop.config.app {
        return error(404, "unknown", "app not found");
    }
    let given = |name: &str| asked.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let now = shop.account.now_us();
    let fits = |seen: &Seen| {
        let metadata = asked.iter().filter_map(|(key, value)| Some((key.strip_prefix("metadata.")?, value)));
        let state = state(seen, &shop.config, now).unwrap_or_default();
        seen.listed
            && (seen.stage != Stage::Gone || given("include_deleted") == Some("true"))
            && given("region").is_none_or(|region| region == seen.place)
            && given("state").is_none_or(|states| states.split(',').any(|word| word == state))
            && metadata
                .into_iter()
                .all(|(key, value)| seen.papers["config"]["metadata"][key] == value.as_str())
    };
    let machines = shop.account.machines();
    let shown: Vec<Value> = machines
        .iter()
        .filter(|seen| fits(seen))
        .filter_map(|seen| machine(seen, &shop.config, now))
        .collect();
    reply::answer(StatusCode::OK, &shown)
}

pub(super) async fn create(State(shop): Parts, Path(app): Path<String>, body: Bytes) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return error(400, "unknown", "invalid request body");
    };
    match check_create(&shop, &app, &body) {
        Ok(()) => {}
        Err(refusal) => return *refusal,
    }
    let place = body["region"].as_str().unwrap_or(&shop.config.regions[0]).to_owned();
    let id = {
        let mut stock = shop.stock();
        match stock.capacity.entry(place.clone()).or_insert(None) {
            Some(0) => {
                let text = format!("insufficient resources to create new machine in {place}");
                return error(422, "insufficient_capacity", &text);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        stock.next_id()
    };
    let config = &body["config"];
    let key = ["VLLM_API_KEY", "LLAMA_API_KEY"].iter().find_map(|name| config["env"][name].as_str());
    let name = body["name"].as_str().map_or_else(|| format!("simulated-{id}"), str::to_owned);
    let sku = sku(config);
    let price = shop.config.prices.iter().find(|(theirs, _)| *theirs == sku).map_or(0, |(_, price)| *price);
    let seen = shop.account.order(NewMachine {
        id,
        mark: config["metadata"]["beacon_order"].as_str().map(str::to_owned),
        sku,
        place,
        key: key.map(str::to_owned),
        price_per_hour_nanos: price,
        parked_per_hour_nanos: shop.config.rootfs_per_hour_nanos,
        papers: json!({ "name": name, "config": config }),
    });
    shop.shown(&seen)
}

/// `performance-4x`, `shared-cpu-1x`.
fn sku(config: &Value) -> String {
    let guest = &config["guest"];
    let kind = match guest["cpu_kind"].as_str() {
        Some("shared") | None => "shared-cpu",
        Some(kind) => kind,
    };
    format!("{kind}-{}x", guest["cpus"].as_u64().unwrap_or(1))
}

/// Refuses what Fly refuses.
fn check_create(shop: &Shop, app: &str, body: &Value) -> Result<(), Box<Response>> {
    let refuse = |status: u16, text: &str| Err(Box::new(error(status, "unknown", text)));
    if app != shop.config.app {
        return refuse(404, "app not found");
    }
    let (config, guest) = (&body["config"], &body["config"]["guest"]);
    if config["image"].as_str().is_none_or(str::is_empty) {
        return refuse(400, "invalid config: image is required");
    }
    if !guest["gpu_kind"].is_null() || !guest["gpus"].is_null() {
        return refuse(422, "invalid config.guest: GPU machines are no longer supported");
    }
    if guest["memory_mb"].as_u64().is_some_and(|memory| memory % 256 != 0) {
        return refuse(422, "invalid config.guest: memory_mb must be a multiple of 256");
    }
    if body["region"].as_str().is_some_and(|place| shop.config.regions.iter().all(|region| region != place)) {
        return refuse(422, "region not found");
    }
    let taken = shop.account.machines().into_iter().find(|seen| {
        seen.stage != Stage::Gone && body["name"].is_string() && seen.papers["name"] == body["name"]
    });
    if let Some(taken) = taken {
        let text = format!(
            "already_exists: unique machine name violation, machine ID {} already exists with name {}",
            taken.id, body["name"]
        );
        return refuse(409, &text);
    }
    Ok(())
}

pub(super) async fn get(State(shop): Parts, Path((app, id)): Named) -> Response {
    shop.find(&app, &id).map_or_else(|refusal| *refusal, |seen| shop.shown(&seen))
}

pub(super) async fn destroy(
    State(shop): Parts,
    Path((app, id)): Named,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    let seen = match shop.find(&app, &id) {
        Ok(seen) if seen.stage == Stage::Gone => return missing(),
        Ok(seen) => seen,
        Err(refusal) => return *refusal,
    };
    if let Err(refusal) = shop.unleased(&seen, &headers) {
        return *refusal;
    }
    let force = asked.iter().any(|(key, value)| key == "force" && value == "true");
    if !force && !matches!(seen.stage, Stage::Parked | Stage::Broken(_)) {
        let text =
            "failed_precondition: unable to destroy machine, not currently stopped, suspended, or failed";
        return error(412, "unknown", text);
    }
    shop.account.end(&id, "destroy").map_or_else(missing, |_| ok())
}

pub(super) async fn start(State(shop): Parts, Path(named): Named, headers: HeaderMap) -> Response {
    let seen = match shop.find_to_change(&named, &headers).await {
        Ok(seen) => seen,
        Err(refusal) => return *refusal,
    };
    let previous = state(&seen, &shop.config, shop.account.now_us());
    match seen.stage {
        Stage::Parked => drop(shop.account.wake(&seen.id, "start")),
        Stage::Booting | Stage::Up => {}
        Stage::Parking | Stage::Ending | Stage::Gone | Stage::Broken(_) => {
            let text = "failed_precondition: unable to start machine from its current state";
            return error(412, "unknown", text);
        }
    }
    let answer = json!({ "previous_state": previous, "migrated": false, "new_host": "" });
    reply::answer(StatusCode::OK, &answer)
}

async fn park(shop: &Shop, named: &(String, String), headers: &HeaderMap, how: &str) -> Response {
    let seen = match shop.find_to_change(named, headers).await {
        Ok(seen) => seen,
        Err(refusal) => return *refusal,
    };
    match seen.stage {
        Stage::Up | Stage::Booting => {
            shop.account.note(&seen.id, |papers| papers["parking"] = json!(how));
            shop.account.park(&seen.id, how).map_or_else(missing, |_| ok())
        }
        Stage::Parking | Stage::Parked => ok(),
        Stage::Ending | Stage::Gone | Stage::Broken(_) => {
            error(412, "unknown", "failed_precondition: machine is not in a state to be stopped")
        }
    }
}

pub(super) async fn stop(State(shop): Parts, Path(named): Named, headers: HeaderMap) -> Response {
    park(&shop, &named, &headers, "stop").await
}

pub(super) async fn suspend(State(shop): Parts, Path(named): Named, headers: HeaderMap) -> Response {
    park(&shop, &named, &headers, "suspend").await
}

async fn set_cordon(shop: &Shop, named: &(String, String), headers: &HeaderMap, cordoned: bool) -> Response {
    match shop.find_to_change(named, headers).await {
        Ok(seen) => {
            let change = |papers: &mut Value| papers["cordoned"] = json!(cordoned);
            shop.account.amend(&seen.id, "cordon", change).map_or_else(missing, |_| ok())
        }
        Err(refusal) => *refusal,
    }
}

pub(super) async fn cordon(State(shop): Parts, Path(named): Named, headers: HeaderMap) -> Response {
    set_cordon(&shop, &named, &headers, true).await
}

pub(super) async fn uncordon(State(shop): Parts, Path(named): Named, headers: HeaderMap) -> Response {
    set_cordon(&shop, &named, &headers, false).await
}

/// Blocks until the Machine is in one of the states, or answers 408.
pub(super) async fn wait(State(shop): Parts, Path((app, id)): Named, Query(asked): Asked) -> Response {
    let given = |name: &str| asked.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let seconds = given("timeout").map_or(Some(60), |text| text.parse::<u64>().ok());
    let Some(seconds) = seconds.filter(|seconds| (1..=60).contains(seconds)) else {
        return error(400, "unknown", "invalid timeout: must be between 1 and 60 seconds");
    };
    let wanted = given("state").unwrap_or("started");
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let seen = match shop.find(&app, &id) {
            Ok(seen) => seen,
            Err(refusal) => return *refusal,
        };
        let now = state(&seen, &shop.config, shop.account.now_us()).unwrap_or_default();
        let settled = matches!(now, "created" | "started" | "stopped" | "suspended" | "failed" | "destroyed");
        if wanted.split(',').any(|word| word == now || (word == "settled" && settled)) {
            let version = format!("01SIMULATED{id}");
            let answer = json!({ "ok": true, "state": now, "event_id": "01SIM", "version": version });
            return reply::answer(StatusCode::OK, &answer);
        }
        if Instant::now() >= end {
            return error(408, "unknown", "deadline_exceeded: machine failed to reach desired state");
        }
        sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn events(State(shop): Parts, Path((app, id)): Named) -> Response {
    let events = |seen: &Seen| reply::answer(StatusCode::OK, &wire::events(seen));
    shop.find(&app, &id).map_or_else(|refusal| *refusal, |seen| events(&seen))
}

pub(super) async fn metadata(State(shop): Parts, Path((app, id)): Named) -> Response {
    let metadata = |seen: &Seen| reply::answer(StatusCode::OK, &seen.papers["config"]["metadata"]);
    shop.find(&app, &id).map_or_else(|refusal| *refusal, |seen| metadata(&seen))
}

pub(super) async fn held_lease(State(shop): Parts, Path((app, id)): Named) -> Response {
    match shop.find(&app, &id) {
        Ok(seen) if wire::holds(&seen.papers["lease"], shop.account.now_us()) => {
            let lease = json!({ "status": "success", "data": seen.papers["lease"] });
            reply::answer(StatusCode::OK, &lease)
        }
        Ok(_) => error(404, "unknown", "lease not found"),
        Err(refusal) => *refusal,
    }
}

pub(super) async fn take_lease(
    State(shop): Parts,
    Path(named): Named,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let seen = match shop.find_to_change(&named, &headers).await {
        Ok(seen) => seen,
        Err(refusal) => return *refusal,
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (ttl, why) = (body["ttl"].as_u64().unwrap_or(30), body["description"].as_str().unwrap_or_default());
    let lease = wire::lease(shop.account.now_us(), ttl, "us", why);
    let answer = json!({ "status": "success", "data": lease });
    shop.account.amend(&seen.id, "lease", |papers| papers["lease"] = lease);
    reply::answer(StatusCode::CREATED, &answer)
}

pub(super) async fn drop_lease(State(shop): Parts, Path(named): Named, headers: HeaderMap) -> Response {
    match shop.find_to_change(&named, &headers).await {
        Ok(seen) => {
            shop.account.amend(&seen.id, "lease", |papers| papers["lease"] = Value::Null);
            ok()
        }
        Err(refusal) => *refusal,
    }
}
