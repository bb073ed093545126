//! What an operator says about an account at Fly.io and its pools.

use std::{collections::BTreeMap, time::Duration};

use chrono::NaiveDate;
use schemas::{PoolId, UsdNanos};
use serde_json::{Value, json};

use crate::{landlord::CallError, secret::Secret};

/// An account at Fly.io.
#[derive(Clone, Debug)]
pub struct FlyConfig {
    /// The Machines API, without a trailing slash.
    pub base_url: String,
    /// A deploy token of the organisation, or of the one app.
    pub token: Secret,
    /// The organisation's slug. With it, quotes say where there is room.
    pub org: Option<String>,
    /// Between two creations, and between two lists, of one app. Documented: a second.
    pub pace: Duration,
    /// How long a stop, a suspend, a start or a cordon may take to answer. Calls to a lost host never do.
    pub change_within: Duration,
    /// Its pools.
    pub pools: BTreeMap<PoolId, FlyPool>,
}

/// A pool of machines of one size.
#[derive(Clone, Debug)]
pub struct FlyPool {
    /// The app. Several pools may share one.
    pub app: String,
    /// The size.
    pub guest: Guest,
    /// Where it may stand, in order of preference, and at what price.
    pub places: Vec<FlyPlace>,
    /// The image that serves, best with a digest.
    pub image: String,
    /// The command; without one the image's own.
    pub args: Vec<String>,
    /// Variables of its environment.
    pub env: BTreeMap<String, String>,
    /// The variable in which the server reads its key: `VLLM_API_KEY`, `LLAMA_API_KEY`.
    pub key_env: String,
    /// The port at which it listens.
    pub port: u16,
    /// The address of a machine's server, where it is not its private one: `{id}`, `{ip}` and `{app}` are replaced.
    pub address: Option<String>,
    /// How long a stopping machine may finish; 300 s at most. Above the longest job.
    pub stop_timeout: Duration,
    /// How it is parked.
    pub park: Park,
    /// How long a machine may take from the order to its first real completion.
    pub start_within: Duration,
}

/// A size: a preset's CPUs and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// `shared` or `performance`. Shared ones are throttled to a fraction.
    pub cpu_kind: String,
    /// 1, 2, 4, 8, or 16 for `performance`.
    pub cpus: u32,
    /// MiB, in steps of 256.
    pub memory_mb: u32,
}

/// How a machine is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Park {
    /// Its memory is kept, and it is back within a second. For up to 2 GB of memory.
    Suspend,
    /// It is stopped, and starts anew.
    Stop,
}

/// A region and its prices. No call tells them, so each has its own, read at Fly's page on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlyPlace {
    /// The region's code.
    pub region: String,
    /// Dollars an hour while started, memory included.
    pub usd_per_hour: UsdNanos,
    /// Dollars an hour for the root filesystem while stopped or suspended.
    pub parked_usd_per_hour: UsdNanos,
    /// When these prices were read.
    pub priced_on: NaiveDate,
}

impl Guest {
    /// Its name: `performance-4x`, `shared-cpu-1x`.
    pub fn sku(&self) -> String {
        let kind = if self.cpu_kind == "shared" { "shared-cpu" } else { &self.cpu_kind };
        format!("{kind}-{}x", self.cpus)
    }

    pub(super) fn body(&self) -> Value {
        json!({ "cpu_kind": self.cpu_kind, "cpus": self.cpus, "memory_mb": self.memory_mb })
    }

    /// The rule that it breaks, if any.
    fn broken(&self) -> Option<String> {
        // MiB for each CPU: the least and the most.
        let (kinds, least, most): (&[u32], u32, u32) = match self.cpu_kind.as_str() {
            "shared" => (&[1, 2, 4, 8], 256, 2_048),
            "performance" => (&[1, 2, 4, 8, 16], 2_048, 8_192),
            other => {
                return Some(format!(
                    "cpu_kind `{other}` must be shared or performance: GPUs ended on 2026-08-01"
                ));
            }
        };
        if !kinds.contains(&self.cpus) {
            return Some(format!("cpus {} must be one of {kinds:?}", self.cpus));
        }
        let (least, most) = (least * self.cpus, most * self.cpus);
        let fits = self.memory_mb.is_multiple_of(256) && (least..=most).contains(&self.memory_mb);
        (!fits)
            .then(|| format!("memory_mb {} must be a multiple of 256 from {least} to {most}", self.memory_mb))
    }
}

impl FlyPool {
    /// The address of a machine's server, given its id and its private address.
    pub(super) fn address_of(&self, id: &str, ip: Option<&str>) -> Option<String> {
        match (&self.address, ip.filter(|ip| !ip.is_empty())) {
            (Some(template), ip) => {
                let known = ip.is_some() || !template.contains("{ip}");
                let filled = template.replace("{id}", id).replace("{app}", &self.app);
                known.then(|| filled.replace("{ip}", ip.unwrap_or_default()))
            }
            (None, Some(ip)) if ip.contains(':') => Some(format!("http://[{ip}]:{}", self.port)),
            (None, Some(ip)) => Some(format!("http://{ip}:{}", self.port)),
            (None, None) => None,
        }
    }
}

impl FlyConfig {
    /// An account without pools, at the documented rates.
    pub fn new(token: Secret) -> Self {
        Self {
            base_url: "https://api.machines.dev/v1".to_owned(),
            token,
            org: None,
            pace: Duration::from_secs(1),
            change_within: Duration::from_secs(10),
            pools: BTreeMap::new(),
        }
    }

    /// Refuses what cannot work, naming the key and the rule.
    pub(super) fn check(&self) -> Result<(), CallError> {
        let wrong = |text: String| Err(CallError::Misconfigured(format!("fly: {text}")));
        if !self.base_url.starts_with("http") || self.base_url.ends_with('/') {
            return wrong(format!("base_url `{}` must be a URL without a slash at its end", self.base_url));
        }
        for (id, pool) in &self.pools {
            let in_url = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
            if pool.app.is_empty() || !pool.app.chars().all(in_url) {
                return wrong(format!("pool {id}: app `{}` must be letters, digits and -", pool.app));
            }
            if pool.image.is_empty() || pool.key_env.is_empty() || pool.port == 0 {
                return wrong(format!("pool {id}: image, key_env and port must be given"));
            }
            if let Some(rule) = pool.guest.broken() {
                return wrong(format!("pool {id}: {rule}"));
            }
            if pool.places.is_empty() {
                return wrong(format!("pool {id}: at least one place must be given"));
            }
            if let Some(free) = pool.places.iter().find(|place| place.usd_per_hour == UsdNanos::ZERO) {
                return wrong(format!("pool {id}: usd_per_hour of {} must be above 0", free.region));
            }
            if pool.stop_timeout > Duration::from_secs(300) || pool.stop_timeout < Duration::from_secs(1) {
                return wrong(format!("pool {id}: stop_timeout must be 1 s to 300 s"));
            }
            if pool.park == Park::Suspend && pool.guest.memory_mb > 2_048 {
                return wrong(format!("pool {id}: park = suspend needs memory_mb of at most 2048; use stop"));
            }
        }
        Ok(())
    }

    /// The longest that any pool allows: rules are the account's.
    pub(super) fn start_within(&self) -> Duration {
        self.pools.values().map(|pool| pool.start_within).max().unwrap_or(Duration::from_secs(600))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut FlyPool)) -> FlyConfig {
        let mut pool = FlyPool {
            app: "llama".into(),
            guest: Guest { cpu_kind: "performance".into(), cpus: 4, memory_mb: 8_192 },
            places: vec![FlyPlace {
                region: "iad".into(),
                usd_per_hour: UsdNanos::new(170_000_000),
                parked_usd_per_hour: UsdNanos::new(1_666_667),
                priced_on: NaiveDate::from_ymd_opt(2026, 11, 23).unwrap(),
            }],
            image: "llama@sha256:0".into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            key_env: "LLAMA_API_KEY".into(),
            port: 8_080,
            address: None,
            stop_timeout: Duration::from_secs(60),
            park: Park::Stop,
            start_within: Duration::from_secs(600),
        };
        change(&mut pool);
        let mut config = FlyConfig::new(Secret::new("token"));
        config.pools.insert("fly@us-east".parse().unwrap(), pool);
        config
    }

    #[test]
    fn a_refusal_names_the_pool_the_key_and_the_rule() {
        type Change = fn(&mut FlyPool);
        assert!(config(|_| {}).check().is_ok());
        let wrong: [(Change, &str); 7] = [
            (|pool| pool.guest.cpu_kind = "a10".into(), "GPUs ended on 2026-08-01"),
            (|pool| pool.guest.cpus = 3, "cpus 3"),
            (|pool| pool.guest.memory_mb = 8_000, "memory_mb 8000 must be a multiple of 256"),
            (|pool| pool.park = Park::Suspend, "use stop"),
            (|pool| pool.places[0].usd_per_hour = UsdNanos::ZERO, "usd_per_hour of iad"),
            (|pool| pool.app = "a/../b".into(), "app `a/../b`"),
            (|pool| pool.stop_timeout = Duration::from_secs(301), "stop_timeout"),
        ];
        for (change, text) in wrong {
            let error = config(change).check().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("fly@us-east"), "{error}");
        }
    }

    #[test]
    fn an_address_is_private_unless_the_operator_says_otherwise() {
        let pool = &config(|_| {}).pools[&"fly@us-east".parse().unwrap()];
        assert_eq!(pool.address_of("m", Some("fdaa:0:1::2")).unwrap(), "http://[fdaa:0:1::2]:8080");
        assert_eq!(pool.address_of("m", None), None);
        let named = FlyPool { address: Some("http://{id}.vm.{app}.internal:8080".into()), ..pool.clone() };
        assert_eq!(named.address_of("m", None).unwrap(), "http://m.vm.llama.internal:8080");
    }
}
