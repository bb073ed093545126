//! What a simulated Fly.io has: its configuration, its capacity, and the names of its calls.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::{Method, Uri};

use crate::{limit::Limit, rented::account::Account};

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

#[derive(Debug)]
pub(super) struct Shop {
    pub(super) account: Arc<Account>,
    pub(super) config: FlyConfig,
    pub(super) stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
pub(super) struct Stock {
    /// By region, how many creations still succeed (`None`: any number).
    pub(super) capacity: BTreeMap<String, Option<u32>>,
    /// By action and object.
    pub(super) limits: BTreeMap<(String, String), Limit>,
    pub(super) numbers: u64,
}

impl Shop {
    pub(super) fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    /// A Machine id: 14 hexadecimal digits.
    pub(super) fn next_id(&mut self) -> String {
        self.numbers += 1;
        format!("9185a{:09x}", self.numbers)
    }
}

/// The name of a call.
pub(super) fn action(method: &Method, uri: &Uri) -> &'static str {
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
