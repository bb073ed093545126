//! What the simulated RunPod account holds beside its jobs: the endpoint as it is configured, and what is somebody else's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The endpoint's configuration and the rest of the account, as REST v2 tells them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunPodAccount {
    /// The endpoint's image.
    pub image: String,
    /// The endpoint's variables; `MODEL_NAME`, unless it is given here, is the first model.
    pub env: BTreeMap<String, String>,
    /// Workers that are always on.
    pub workers_min: u64,
    /// The most workers.
    pub workers_max: u64,
    /// The GPU pool.
    pub gpu_pool: String,
    /// Where workers may stand; missing: one in the simulator's region.
    pub data_centers: Option<Vec<String>>,
    /// Whether the workers run an older release than is configured.
    pub stale: bool,
    /// The price of a GPU pool that differs from the usual one, dollars an hour as text.
    pub prices: BTreeMap<String, String>,
    /// Endpoints of somebody else, and how many workers of each run.
    pub others: BTreeMap<String, u64>,
    /// Pods of somebody else, and what each costs an hour, dollars as text.
    pub pods: BTreeMap<String, String>,
}

impl Default for RunPodAccount {
    fn default() -> Self {
        Self {
            image: format!("runpod/worker-v1-vllm@sha256:{}", "5".repeat(64)),
            env: BTreeMap::new(),
            workers_min: 0,
            workers_max: 3,
            gpu_pool: "AMPERE_24".to_owned(),
            data_centers: None,
            stale: false,
            prices: BTreeMap::new(),
            others: BTreeMap::new(),
            pods: BTreeMap::new(),
        }
    }
}
