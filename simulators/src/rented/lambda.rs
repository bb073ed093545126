//! Lambda's On-Demand Cloud API: instances, their types and regions, ssh keys.
//!
//! Faults are set by these names: `types`, `regions`, `keys`, `add_key`, `delete_key`, `list`, `get`, `rename`, `launch`,
//! `terminate`. An instance is billed by the minute, from the first status other than `booting` until its termination is
//! accepted, at the price of its launch.
//!
//! Two launches of one ssh key's name race as at Lambda: whether a name is taken is looked up first, and the key is added
//! [`LambdaConfig::key_race`] later. A launch with a name that exists twice answers `global/unknown`.

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
    routing::{delete, get, post},
};
use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    door,
    meter::{BilledFrom, BilledUntil, Tariff},
};
use crate::limit::Limit;

/// How a simulated Lambda behaves.
#[derive(Clone, Debug)]
pub struct LambdaConfig {
    /// The API key.
    pub key: String,
    /// The instance types: name, cents per hour, GPUs.
    pub types: Vec<(String, u64, u32)>,
    /// The regions.
    pub regions: Vec<String>,
    /// Whether one request a second and a launch each 12 s are the most; others get a bare 429.
    pub limited: bool,
    /// Whether unknown fields of a launch are refused.
    pub strict: bool,
    /// How long the name of an ssh key is looked up before the key is added.
    pub key_race: Duration,
    /// From `active` until the instance has an `ip`.
    pub ip_after: Duration,
    /// How long an instance that is gone is listed as `terminated`.
    pub terminated_listed: Duration,
    /// Whether an instance that boots can be terminated.
    pub terminates_booting: bool,
}

impl Default for LambdaConfig {
    /// One type, `gpu_1x_a10` at $1.29 an hour, with capacity in `us-east-1` and `us-midwest-1`; no limits.
    fn default() -> Self {
        Self {
            key: "lambda-key".to_owned(),
            types: vec![("gpu_1x_a10".to_owned(), 129, 1)],
            regions: ["us-east-1", "us-midwest-1", "europe-central-1"].map(str::to_owned).to_vec(),
            limited: false,
            strict: true,
            key_race: Duration::ZERO,
            ip_after: Duration::ZERO,
            terminated_listed: Duration::ZERO,
            terminates_booting: true,
        }
    }
}

/// A simulated account at Lambda.
#[derive(Clone, Debug)]
pub struct Lambda {
    shop: Arc<Shop>,
}

#[derive(Debug)]
struct Shop {
    account: Arc<Account>,
    config: LambdaConfig,
    general: Limit,
    launches: Limit,
    stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    /// By type and region: whether it is listed, and how many launches still succeed (`None`: any number).
    capacity: BTreeMap<(String, String), (bool, Option<u32>)>,
    /// Cents per hour, by type.
    prices: BTreeMap<String, u64>,
    /// Instances at a time.
    quota: Option<usize>,
    /// Id, name, public key.
    keys: Vec<(String, String, String)>,
    numbers: u64,
}

impl Lambda {
    /// Starts the control API; it answers when this returns.
    pub async fn start(config: LambdaConfig, shutdown: CancellationToken) -> io::Result<Self> {
        let tariff =
            Tariff { unit: Duration::from_secs(60), from: BilledFrom::Up, until: BilledUntil::Asked };
        let (account, listener) = door::open(tariff, shutdown).await?;
        let mut stock = Stock::default();
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

    /// The names and public keys of all ssh keys.
    pub fn keys(&self) -> Vec<(String, String)> {
        self.shop.stock().keys.iter().map(|(_, name, key)| (name.clone(), key.clone())).collect()
    }

    /// Adds an ssh key, even under a name that is taken.
    pub fn add_key(&self, name: &str, public_key: &str) {
        self.shop.stock().add_key(name, public_key);
    }
}

impl Shop {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    /// An id that no other key or instance of this account has.
    fn next_id(&mut self) -> String {
        self.numbers += 1;
        format!("0920582c7ff041399e34823a{:08x}", self.numbers)
    }

    fn add_key(&mut self, name: &str, public_key: &str) -> String {
        let id = self.next_id();
        self.keys.push((id.clone(), name.to_owned(), public_key.to_owned()));
        id
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
