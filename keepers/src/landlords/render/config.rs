//! A workspace at Render, as the operator describes it.

use std::{collections::BTreeMap, time::Duration};

use schemas::{PoolId, UsdNanos};

use crate::secret::Secret;

/// The regions that Render has; a service stays in one for ever.
pub(crate) const REGIONS: [&str; 5] = ["frankfurt", "ohio", "oregon", "singapore", "virginia"];

/// Where a pool's machines stand and what they run.
#[derive(Clone, Debug)]
pub struct RenderPool {
    /// Render's names of regions, the preferred one first.
    pub places: Vec<String>,
    /// The plan, for instance `pro_plus`.
    pub sku: String,
    /// The image.
    pub image: String,
    /// The credential that opens the image's registry.
    pub registry_credential: Option<String>,
    /// What to run in it, where not what the image says.
    pub start_command: Option<String>,
    /// The port on which the server listens.
    pub port: u16,
    /// Must answer 2xx within 5 s, also while the server computes, or Render restarts it.
    pub health_path: String,
    /// How long a server may finish what it began before it is killed, seconds; at most 300.
    pub shutdown_delay_s: u32,
    /// The variable that holds the key which the server asks for.
    pub key_variable: String,
    /// More variables.
    pub variables: BTreeMap<String, String>,
}

impl RenderPool {
    /// A pool with usual settings.
    pub fn new(place: impl Into<String>, sku: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            places: vec![place.into()],
            sku: sku.into(),
            image: image.into(),
            registry_credential: None,
            start_command: None,
            port: 10_000,
            health_path: "/health".to_owned(),
            shutdown_delay_s: 300,
            key_variable: "VLLM_API_KEY".to_owned(),
            variables: BTreeMap::new(),
        }
    }
}

/// One workspace, in which our machines are web services.
#[derive(Clone, Debug)]
pub struct RenderConfig {
    /// The URL of the API.
    pub api: String,
    /// The key.
    pub key: Secret,
    /// The workspace's id, `tea-…`.
    pub owner: String,
    /// What an hour of each plan costs, dollars. The API tells no prices.
    pub usd_per_hour: BTreeMap<String, UsdNanos>,
    /// How long a resumed service may take to show the deploy that resuming makes, before we ask for one ourselves.
    pub resume_shows_within: Duration,
    /// The pools that rent here.
    pub pools: BTreeMap<PoolId, RenderPool>,
}

impl RenderConfig {
    /// A workspace with usual settings and without pools.
    pub fn new(key: Secret, owner: impl Into<String>) -> Self {
        Self {
            api: "https://api.render.com/v1".to_owned(),
            key,
            owner: owner.into(),
            usd_per_hour: BTreeMap::new(),
            resume_shows_within: Duration::from_secs(5),
            pools: BTreeMap::new(),
        }
    }
}
