//! What an operator says about an account at Lambda and its pools.

use std::{collections::BTreeMap, time::Duration};

use schemas::PoolId;

use super::ssh::PublicKey;
use crate::{landlord::CallError, secret::Secret};

/// An account at Lambda.
#[derive(Clone, Debug)]
pub struct LambdaConfig {
    /// The API, without a trailing slash.
    pub base_url: String,
    /// The account's key. It may do everything in the account, and is never put on a machine.
    pub api_key: Secret,
    /// The public key that may log in, in OpenSSH's form: `ssh-ed25519 AAAA… comment`. Lambda launches nothing without one.
    pub ssh_public_key: String,
    /// Between two calls. Documented: a second.
    pub pace: Duration,
    /// Between two launches. Documented: 12 seconds.
    pub launch_pace: Duration,
    /// Its pools.
    pub pools: BTreeMap<PoolId, LambdaPool>,
}

/// A pool of machines of one type.
#[derive(Clone, Debug)]
pub struct LambdaPool {
    /// The instance type, such as `gpu_1x_a10`.
    pub sku: String,
    /// Where it may stand, in order of preference.
    pub places: Vec<LambdaPlace>,
    /// The image of the machine, such as `lambda-stack-22-04`; without it the newest.
    pub image_family: Option<String>,
    /// The container that serves, best with a digest. It must read its key from `VLLM_API_KEY`.
    pub image: String,
    /// The container's arguments.
    pub args: Vec<String>,
    /// Variables of its environment.
    pub env: BTreeMap<String, String>,
    /// The port at which it listens, inside and out.
    pub port: u16,
    /// How long a machine may take from the order to its first real completion; without it by the number of GPUs.
    pub start_within: Option<Duration>,
}

/// A region, and what is needed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LambdaPlace {
    /// The region's name.
    pub region: String,
    /// The id of the firewall ruleset that opens the port to us; it must be in the same region.
    pub firewall_ruleset: Option<String>,
}

impl LambdaConfig {
    /// An account without pools, at the documented rates.
    pub fn new(api_key: Secret, ssh_public_key: &str) -> Self {
        Self {
            base_url: "https://cloud.lambda.ai/api/v1".to_owned(),
            api_key,
            ssh_public_key: ssh_public_key.to_owned(),
            pace: Duration::from_secs(1),
            launch_pace: Duration::from_secs(12),
            pools: BTreeMap::new(),
        }
    }

    /// Refuses what cannot work, naming the key and the rule.
    pub(super) fn check(&self) -> Result<(), CallError> {
        let wrong = |text: String| Err(CallError::Misconfigured(format!("lambda: {text}")));
        if !self.base_url.starts_with("http") || self.base_url.ends_with('/') {
            return wrong(format!("base_url `{}` must be a URL without a slash at its end", self.base_url));
        }
        if PublicKey::read(&self.ssh_public_key).is_none() {
            return wrong("ssh_public_key must be a public key as ssh-keygen writes it".into());
        }
        for (id, pool) in &self.pools {
            if pool.sku.is_empty() || pool.places.is_empty() {
                return wrong(format!("pool {id}: sku and at least one place must be given"));
            }
            if pool.image.is_empty() || pool.port == 0 {
                return wrong(format!("pool {id}: image and port must be given"));
            }
            let mut words = pool.args.iter().chain(pool.env.values()).chain([&pool.image]);
            if words.any(|word| word.contains(['\n', '\r', '\0'])) {
                return wrong(format!("pool {id}: image, args and env must be one line each"));
            }
            let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            if let Some(name) = pool.env.keys().find(|name| name.is_empty() || !name.chars().all(is_letter)) {
                return wrong(format!("pool {id}: env name `{name}` must be letters, digits and _"));
            }
        }
        Ok(())
    }

    /// The longest that any pool allows: rules are the account's.
    pub(super) fn start_within(&self) -> Duration {
        let of_pool = |pool: &LambdaPool| pool.start_within.unwrap_or_else(|| usual_start(&pool.sku));
        self.pools.values().map(of_pool).max().unwrap_or(usual_start(""))
    }
}

/// Machines with one GPU are `active` after 3 to 6 minutes, with eight after 15 to 25 (reported); the model loads after that.
fn usual_start(sku: &str) -> Duration {
    let minutes = if sku.starts_with("gpu_1x") {
        15
    } else if sku.starts_with("gpu_8x") {
        40
    } else {
        30
    };
    Duration::from_secs(minutes * 60)
}
