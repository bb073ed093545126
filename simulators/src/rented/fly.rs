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
mod shop;
mod wire;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use self::shop::FlyConfig;
use self::shop::{Shop, action};
use super::{
    account::Account,
    door,
    meter::{BilledFrom, BilledUntil, Tariff},
};

/// A simulated account at Fly.io.
#[derive(Clone, Debug)]
pub struct Fly {
    shop: Arc<Shop>,
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
