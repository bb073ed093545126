//! Lambda's On-Demand Cloud API: instances, their types and regions, ssh keys.
//!
//! Faults are set by these names: `types`, `regions`, `keys`, `add_key`, `delete_key`, `list`, `get`, `rename`, `launch`,
//! `terminate`. An instance is billed by the minute, from the first status other than `booting` until its termination is
//! accepted, at the price of its launch.
//!
//! Two launches of one ssh key's name race as at Lambda: whether a name is taken is looked up first, and the key is added
//! [`LambdaConfig::key_race`] later. A launch with a name that exists twice answers `global/unknown`.

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
    http::{Method, Uri},
    routing::{delete, get, post},
};
use tokio_util::sync::CancellationToken;

pub use self::shop::LambdaConfig;
use self::shop::{Shop, Stock};
use super::{
    account::Account,
    door,
    meter::{BilledFrom, BilledUntil, Tariff},
};
use crate::limit::Limit;

/// A simulated account at Lambda.
#[derive(Clone, Debug)]
pub struct Lambda {
    shop: Arc<Shop>,
}

impl Lambda {
    /// Starts the control API; it answers when this returns.
    pub async fn start(config: LambdaConfig, shutdown: CancellationToken) -> io::Result<Self> {
        let tariff =
            Tariff { unit: Duration::from_secs(60), from: BilledFrom::Up, until: BilledUntil::Asked };
        let (account, listener) = door::open(tariff, shutdown).await?;
        let mut stock = Stock { limited: config.limited, ..Stock::default() };
        for (name, cents, _) in &config.types {
            stock.prices.insert(name.clone(), *cents);
            for region in config.regions.iter().take(2) {
                stock.capacity.insert((name.clone(), region.clone()), (true, None));
            }
        }
        let shop = Arc::new(Shop {
            account: Arc::clone(&account),
            general: Limit::new(1, Duration::from_secs(1)),
            launches: Limit::new(1, Duration::from_secs(12)),
            config,
            stock: Mutex::new(stock),
        });
        door::serve(&account, listener, routes(&shop), name_of);
        Ok(Self { shop })
    }

    /// What all rented accounts have: machines, faults, invoice, log.
    pub fn account(&self) -> &Arc<Account> {
        &self.shop.account
    }

    /// The base URL of the API.
    pub fn url(&self) -> String {
        format!("{}/api/v1", self.shop.account.url())
    }

    /// Sets whether capacity of a type in a region is listed, and how many launches still succeed (`None`: any number).
    pub fn set_capacity(&self, sku: &str, region: &str, listed: bool, left: Option<u32>) {
        self.shop.stock().capacity.insert((sku.to_owned(), region.to_owned()), (listed, left));
    }

    /// Sets the price of a type, in cents an hour, for launches from now on.
    pub fn set_price(&self, sku: &str, cents: u64) {
        self.shop.stock().prices.insert(sku.to_owned(), cents);
    }

    /// Sets how many instances the account may have.
    pub fn set_quota(&self, most: usize) {
        self.shop.stock().quota = Some(most);
    }

    /// Sets whether one request a second and a launch each 12 s are the most from now on.
    pub fn set_limited(&self, limited: bool) {
        self.shop.stock().limited = limited;
    }

    /// The names and public keys of all ssh keys.
    pub fn keys(&self) -> Vec<(String, String)> {
        self.shop.stock().keys.iter().map(|(_, name, key)| (name.clone(), key.clone())).collect()
    }

    /// Adds an ssh key, even under a name that is taken.
    pub fn add_key(&self, name: &str, public_key: &str) {
        self.shop.stock().add_key(name, public_key);
    }
}

fn routes(shop: &Arc<Shop>) -> Router {
    let api = Router::new()
        .route("/instance-types", get(calls::types))
        .route("/regions", get(calls::regions))
        .route("/ssh-keys", get(calls::keys).post(calls::add_key))
        .route("/ssh-keys/{id}", delete(calls::delete_key))
        .route("/instances", get(calls::list))
        .route("/instances/{id}", get(calls::get).post(calls::rename))
        .route("/instance-operations/launch", post(calls::launch))
        .route("/instance-operations/terminate", post(calls::terminate))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(shop), calls::guard))
        .with_state(Arc::clone(shop));
    Router::new().nest("/api/v1", api)
}

fn name_of(method: &Method, uri: &Uri, _: &[u8]) -> String {
    let path = uri.path().trim_start_matches("/api/v1/");
    let parts: Vec<&str> = path.split('/').collect();
    let name = match (method.as_str(), parts.as_slice()) {
        ("GET", ["instance-types"]) => "types",
        ("GET", ["regions"]) => "regions",
        ("GET", ["ssh-keys"]) => "keys",
        ("POST", ["ssh-keys"]) => "add_key",
        ("DELETE", ["ssh-keys", _]) => "delete_key",
        ("GET", ["instances"]) => "list",
        ("GET", ["instances", _]) => "get",
        ("POST", ["instances", _]) => "rename",
        ("POST", ["instance-operations", "launch"]) => "launch",
        ("POST", ["instance-operations", "terminate"]) => "terminate",
        _ => "unknown",
    };
    name.to_owned()
}
