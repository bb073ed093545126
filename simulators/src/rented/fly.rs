//! Fly.io's Machines API: Machines of one app, their leases, and the regions.
//!
//! Faults are set by these names: `app`, `regions`, `placements`, `create`, `list`, `get`, `destroy`, `start`, `stop`,
//! `suspend`, `cordon`, `uncordon`, `wait`, `events`, `lease`, `metadata`. A Machine is billed by the second from `started`
//! until it is stopped, suspended or destroyed, and its root filesystem while it is stopped or suspended; events tell
//! both in milliseconds.
//!
//! A Machine whose host is unreachable ([`Fly::lose_host`]) never answers `stop`, `suspend`, `start` and `cordon`; only
//! `DELETE ?force=true` ends it. GPUs are refused.

mod calls;
mod wire;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    http::{Method, Uri},
    routing::{get, post},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    door,
    meter::{BilledFrom, BilledUntil, Tariff},
};
use crate::limit::Limit;

/// How a simulated Fly.io behaves.
#[derive(Clone, Debug)]
pub struct FlyConfig {
    /// The token.
    pub token: String,
    /// The one app.
    pub app: String,
    /// The organisation.
    pub org: String,
    /// Nano-dollars an hour by CPU kind and number (`performance-4x`), whatever the memory.
    pub prices: Vec<(String, u64)>,
    /// Nano-dollars an hour for the root filesystem of a Machine that is stopped or suspended.
    pub rootfs_per_hour_nanos: u64,
    /// The regions.
    pub regions: Vec<String>,
    /// Whether the documented rates are kept: one call a second for an action and its object, three at once; `get` five and ten.
    pub limited: bool,
    /// How long a Machine that is destroyed can still be read by its id.
    pub destroyed_shown: Duration,
}

impl Default for FlyConfig {
    /// An app `beacon-llama` with `performance-4x` at $0.17 an hour in `iad`, `ewr` and `ams`; no limits.
    fn default() -> Self {
        Self {
            token: "fly-token".to_owned(),
            app: "beacon-llama".to_owned(),
            org: "personal".to_owned(),
            prices: vec![("performance-4x".to_owned(), 170_000_000), ("shared-cpu-1x".to_owned(), 2_805_556)],
            rootfs_per_hour_nanos: 1_666_667,
            regions: ["iad", "ewr", "ams"].map(str::to_owned).to_vec(),
            limited: false,
            destroyed_shown: Duration::from_secs(60),
        }
    }
}

/// A simulated account at Fly.io.
#[derive(Clone, Debug)]
pub struct Fly {
    shop: Arc<Shop>,
}

#[derive(Debug)]
struct Shop {
    account: Arc<Account>,
    config: FlyConfig,
    stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    /// By region, how many creations still succeed (`None`: any number).
    capacity: BTreeMap<String, Option<u32>>,
    /// By action and object.
    limits: BTreeMap<(String, String), Limit>,
    numbers: u64,
}

impl Fly {
    /// Starts the control API; it answers when this returns.
    pub async fn start(config: FlyConfig, shutdown: CancellationToken) -> io::Result<Self> {
        let tariff = Tariff { unit: Duration::from_secs(1), from: BilledFrom::Up, until: BilledUntil::Over };
        let (account, listener) = door::open(tariff, shutdown).await?;
        let shop = Arc::new(Shop { account: Arc::clone(&account), config, stock: Mutex::default() });
        door::serve(&account, listener, routes(&shop), |method, uri, _| action(method, uri).to_owned());
        Ok(Self { shop })
    }

    /// What all rented accounts have: machines, faults, invoice, log.
    pub fn account(&self) -> &Arc<Account> {
        &self.shop.account
    }

    /// The base URL of the API.
    pub fn url(&self) -> String {
        format!("{}/v1", self.shop.account.url())
    }

    /// Sets how many creations in a region still succeed (`None`: any number).
    pub fn set_capacity(&self, region: &str, left: Option<u32>) {
        self.shop.stock().capacity.insert(region.to_owned(), left);
    }

    /// The host of a Machine is unreachable from now on. It is billed on.
    pub fn lose_host(&self, id: &str) {
        self.shop.account.note(id, |papers| papers["host_status"] = json!("unreachable"));
    }

    /// Somebody else takes a lease on a Machine for so long.
    pub fn lease(&self, id: &str, ttl: Duration) {
        let lease = wire::lease(self.shop.account.now_us(), ttl.as_secs(), "somebody", "flyctl deploy");
        self.shop.account.note(id, |papers| papers["lease"] = lease);
    }
}

impl Shop {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    /// A Machine id: 14 hexadecimal digits.
    fn next_id(&mut self) -> String {
        self.numbers += 1;
        format!("9185a{:09x}", self.numbers)
    }
}

fn routes(shop: &Arc<Shop>) -> Router {
    let machine = "/apps/{app}/machines/{id}";
    let at = |action: &str| format!("{machine}/{action}");
    let api = Router::new()
        .route("/apps/{app}", get(calls::app))
        .route("/platform/regions", get(calls::regions))
        .route("/platform/placements", post(calls::placements))
        .route("/apps/{app}/machines", get(calls::list).post(calls::create))
        .route(machine, get(calls::get).delete(calls::destroy))
        .route(&at("start"), post(calls::start))
        .route(&at("stop"), post(calls::stop))
        .route(&at("suspend"), post(calls::suspend))
        .route(&at("cordon"), post(calls::cordon))
        .route(&at("uncordon"), post(calls::uncordon))
        .route(&at("wait"), get(calls::wait))
        .route(&at("events"), get(calls::events))
        .route(&at("metadata"), get(calls::metadata))
        .route(&at("lease"), get(calls::held_lease).post(calls::take_lease).delete(calls::drop_lease))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(shop), calls::guard))
        .with_state(Arc::clone(shop));
    Router::new().nest("/v1", api)
}

/// The name of a call.
fn action(method: &Method, uri: &Uri) -> &'static str {
    let path = uri.path().trim_start_matches('/').trim_start_matches("v1/");
    let parts: Vec<&str> = path.split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["apps", _]) => "app",
        ("GET", ["platform", "regions"]) => "regions",
        ("POST", ["platform", "placements"]) => "placements",
        ("POST", ["apps", _, "machines"]) => "create",
        ("GET", ["apps", _, "machines"]) => "list",
        ("GET", ["apps", _, "machines", _]) => "get",
        ("DELETE", ["apps", _, "machines", _]) => "destroy",
        (_, ["apps", _, "machines", _, "start"]) => "start",
        (_, ["apps", _, "machines", _, "stop"]) => "stop",
        (_, ["apps", _, "machines", _, "suspend"]) => "suspend",
        (_, ["apps", _, "machines", _, "cordon"]) => "cordon",
        (_, ["apps", _, "machines", _, "uncordon"]) => "uncordon",
        (_, ["apps", _, "machines", _, "wait"]) => "wait",
        (_, ["apps", _, "machines", _, "events"]) => "events",
        (_, ["apps", _, "machines", _, "lease"]) => "lease",
        (_, ["apps", _, "machines", _, "metadata"]) => "metadata",
        _ => "unknown",
    }
}
