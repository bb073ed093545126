//! What a simulated Lambda has: its configuration, its stock, its ssh keys.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{limit::Limit, rented::account::Account};

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

#[derive(Debug)]
pub(super) struct Shop {
    pub(super) account: Arc<Account>,
    pub(super) config: LambdaConfig,
    pub(super) general: Limit,
    pub(super) launches: Limit,
    pub(super) stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
pub(super) struct Stock {
    /// By type and region: whether it is listed, and how many launches still succeed (`None`: any number).
    pub(super) capacity: BTreeMap<(String, String), (bool, Option<u32>)>,
    /// Cents per hour, by type.
    pub(super) prices: BTreeMap<String, u64>,
    /// Instances at a time.
    pub(super) quota: Option<usize>,
    /// Id, name, public key.
    pub(super) keys: Vec<(String, String, String)>,
    /// Whether the documented rates are kept.
    pub(super) limited: bool,
    pub(super) numbers: u64,
}

impl Shop {
    pub(super) fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    /// An id that no other key or instance of this account has.
    pub(super) fn next_id(&mut self) -> String {
        self.numbers += 1;
        format!("0920582c7ff041399e34823a{:08x}", self.numbers)
    }

    pub(super) fn add_key(&mut self, name: &str, public_key: &str) -> String {
        let id = self.next_id();
        self.keys.push((id.clone(), name.to_owned(), public_key.to_owned()));
        id
    }
}
