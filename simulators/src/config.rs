//! What a person may say about a simulator. All durations are whole milliseconds.
//!
//! The structs are what the file says; [`SimulatorConfig::check`] refuses what cannot work before anything listens.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use crate::{
    replicate::{MaxTokensKey, OutputShape, ReplicateBilling, ReplicateSettings},
    runpod::{RunPodSettings, WorkerAge},
};

/// One simulated provider in one region: one listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Its name in logs and in [`crate::Simulator::name`].
    pub name: String,
    /// Which provider it stands for.
    pub kind: Kind,
    /// The region it says it is in.
    #[serde(default = "default_region")]
    pub region: String,
    /// Where it listens. Port 0, the default, takes any free port; see [`crate::Simulator::url`].
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// What callers must present: a bearer token, or `key:secret` for Modal's two headers. Nothing when absent.
    #[serde(default)]
    pub api_key: Option<String>,
    /// What it serves. Each model has its own slots and its own queue.
    pub models: Vec<SimulatedModel>,
    /// Decides all text, service times and chances.
    #[serde(default)]
    pub seed: u64,
    /// Read by [`Kind::Modal`] only.
    #[serde(default)]
    pub modal: ModalSettings,
    /// Read by [`Kind::RunPod`] only.
    #[serde(default)]
    pub runpod: RunPodSettings,
    /// Read by [`Kind::Replicate`] only.
    #[serde(default)]
    pub replicate: ReplicateSettings,
    /// Whether every request and its answer is kept for [`crate::Simulator::exchanges`].
    #[serde(default)]
    pub record: bool,
}

/// Which provider a simulator stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A rented server that speaks the OpenAI API in vLLM's dialect. Billed by the second that a request runs.
    OpenAi,
    /// The same wire, billed once for each inference.
    Golem,
    /// Beacon's app on Modal: billed by the container-second, start and idle time included.
    Modal,
    /// A queue-based endpoint on RunPod with worker-vllm: billed by the worker-second, start and idle time included.
    RunPod,
    /// Replicate's predictions: billed by the second of prediction, by tokens, or by the second an instance stands.
    Replicate,
}

/// One model as the simulated server knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatedModel {
    /// The name on the wire; for Replicate `owner/name`.
    pub name: String,
    /// Requests that run at a time; for Modal, RunPod and Replicate the most containers, each of which runs one.
    pub slots: u32,
    /// Median time from admission to the last token.
    pub service_ms_p50: u64,
    /// Spread of the service time: sigma of a lognormal distribution, 0 for a constant time.
    pub service_sigma: f64,
    /// How long loading the model takes: once for a rented server, once per container for Modal.
    pub cold_start_ms: u64,
    /// Idle time after which a rented server unloads the model, so that the next request waits for it. 0 is never.
    pub unload_after_ms: u64,
    /// The SKU on the bill; for Modal the GPU's name.
    pub sku: String,
    /// Nano-dollars per second of a slot or container. Not read by [`Kind::Golem`].
    pub price_per_second_nanos: u64,
    /// Nano-dollars per admitted inference. Read by [`Kind::Golem`] only.
    pub price_per_inference_nanos: u64,
    /// Nano-dollars per million tokens read. Read by [`Kind::Replicate`] only, for models that are billed by tokens.
    pub price_per_million_input_tokens_nanos: u64,
    /// Nano-dollars per million tokens written. Read by [`Kind::Replicate`] only.
    pub price_per_million_output_tokens_nanos: u64,
    /// The shortest answer, in tokens.
    pub output_tokens_min: u32,
    /// The longest answer, in tokens, unless the request's own limit is lower.
    pub output_tokens_max: u32,
    /// Tokens in one streamed chunk.
    pub tokens_per_chunk: u32,
    /// Prompt and answer together may not be longer than this.
    pub context_tokens: u32,
}

/// How the simulated Modal platform behaves around its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModalSettings {
    /// How long one HTTP request is held before it is answered with a redirect. Modal: 150 s.
    pub hold_limit_ms: u64,
    /// How long an idle container stays, and is billed.
    pub scaledown_window_ms: u64,
    /// How long a result can be fetched. Modal: 7 days.
    pub result_ttl_ms: u64,
    /// How long a job's id finds the same call again. Beacon's app: 24 hours.
    pub id_ttl_ms: u64,
    /// How long an order to keep containers warm holds when it is not repeated. Beacon's app: 60 s.
    pub warm_lease_ms: u64,
    /// Whether a `wait` call stops when its caller leaves before the first redirect. A blocking handler does not.
    pub cancel_on_disconnect: bool,
}

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// There is nothing to serve.
    #[error("simulator {simulator}: models is empty")]
    NoModels {
        /// The simulator's name.
        simulator: String,
    },
    /// Two models share one wire name.
    #[error("simulator {simulator}: two models are called {model:?}")]
    DuplicateModel {
        /// The simulator's name.
        simulator: String,
        /// The name given twice.
        model: String,
    },
    /// One GPU has two prices, so its idle time has none.
    #[error("simulator {simulator}: sku {sku:?} has two values of price_per_second_nanos")]
    TwoPrices {
        /// The simulator's name.
        simulator: String,
        /// The SKU.
        sku: String,
    },
    /// A value is out of range.
    #[error("simulator {simulator}, model {model:?}: {key} must be {rule}")]
    Range {
        /// The simulator's name.
        simulator: String,
        /// The model's name.
        model: String,
        /// The key at fault.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A duration of the `modal` table is too long.
    #[error("simulator {simulator}: modal.{key} must be at most 31536000000 (a year)")]
    ModalRange {
        /// The simulator's name.
        simulator: String,
        /// The key at fault.
        key: &'static str,
    },
    /// A value of the `replicate` table cannot work.
    #[error("simulator {simulator}: replicate.{key} must be {rule}")]
    ReplicateRange {
        /// The simulator's name.
        simulator: String,
        /// The key at fault.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A value of the `runpod` table cannot work.
    #[error("simulator {simulator}: runpod.{key} must be {rule}")]
    RunPodRange {
        /// The simulator's name.
        simulator: String,
        /// The key at fault.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The key for Modal is not a pair.
    #[error("simulator {simulator}: api_key must be \"key:secret\" for kind modal")]
    KeyPair {
        /// The simulator's name.
        simulator: String,
    },
}

/// A thousand dollars a second: high enough for any machine, and low enough that no bill can overflow.
const PRICE_MAX: u64 = 1_000_000_000_000;
/// A day. Longer times are most likely a mistake of unit.
const MILLIS_MAX: u64 = 86_400_000;

impl SimulatorConfig {
    /// A simulator on any free local port, without authentication.
    pub fn new(name: &str, kind: Kind, models: Vec<SimulatedModel>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            region: default_region(),
            listen: default_listen(),
            api_key: None,
            models,
            seed: 0,
            modal: ModalSettings::default(),
            runpod: RunPodSettings::default(),
            replicate: ReplicateSettings::default(),
            record: false,
        }
    }

    /// Refuses what cannot work, naming the key and the rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        let simulator = || self.name.clone();
        if self.models.is_empty() {
            return Err(ConfigError::NoModels { simulator: simulator() });
        }
        for (index, model) in self.models.iter().enumerate() {
            let two_parts = model.name.split('/').map(str::is_empty).eq([false, false]);
            let misnamed = (self.kind == Kind::Replicate && !two_parts)
                .then_some(("name", "owner/name for kind replicate"));
            if let Some((key, rule)) = model.out_of_range().or(misnamed) {
                let (simulator, model) = (simulator(), model.name.clone());
                return Err(ConfigError::Range { simulator, model, key, rule });
            }
            for earlier in &self.models[..index] {
                if earlier.name == model.name {
                    let (simulator, model) = (simulator(), model.name.clone());
                    return Err(ConfigError::DuplicateModel { simulator, model });
                }
                let idle_is_billed = match self.kind {
                    Kind::Modal => true,
                    Kind::Replicate => self.replicate.billing == ReplicateBilling::Standing,
                    Kind::OpenAi | Kind::Golem | Kind::RunPod => false,
                };
                let prices_differ = earlier.price_per_second_nanos != model.price_per_second_nanos;
                if idle_is_billed && earlier.sku == model.sku && prices_differ {
                    return Err(ConfigError::TwoPrices { simulator: simulator(), sku: model.sku.clone() });
                }
            }
        }
        if let Some(key) = self.modal.too_long() {
            return Err(ConfigError::ModalRange { simulator: simulator(), key });
        }
        if let Some((key, rule)) = self.runpod.out_of_range() {
            return Err(ConfigError::RunPodRange { simulator: simulator(), key, rule });
        }
        if let Some((key, rule)) = self.replicate.out_of_range() {
            return Err(ConfigError::ReplicateRange { simulator: simulator(), key, rule });
        }
        match (self.kind, &self.api_key) {
            (Kind::Modal, Some(key)) if !key.contains(':') => {
                Err(ConfigError::KeyPair { simulator: simulator() })
            }
            (Kind::OpenAi | Kind::Golem | Kind::Modal | Kind::RunPod | Kind::Replicate, _) => Ok(()),
        }
    }
}

impl SimulatedModel {
    /// A model with all other settings at their defaults.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let prices = [
            self.price_per_second_nanos,
            self.price_per_inference_nanos,
            self.price_per_million_input_tokens_nanos,
            self.price_per_million_output_tokens_nanos,
        ];
        let times = [self.service_ms_p50, self.cold_start_ms, self.unload_after_ms];
        [
            (!self.name.is_empty(), "name", "given"),
            (self.slots > 0, "slots", "at least 1"),
            (self.slots <= 100_000, "slots", "at most 100000"),
            ((0.0..=5.0).contains(&self.service_sigma), "service_sigma", "between 0 and 5"),
            (self.output_tokens_min > 0, "output_tokens_min", "at least 1"),
            (
                self.output_tokens_min <= self.output_tokens_max,
                "output_tokens_max",
                "at least output_tokens_min",
            ),
            (self.tokens_per_chunk > 0, "tokens_per_chunk", "at least 1"),
            (self.context_tokens > self.output_tokens_max, "context_tokens", "above output_tokens_max"),
            (
                prices.iter().all(|&price| price <= PRICE_MAX),
                "each price_per_…_nanos",
                "at most 1000000000000 ($1000)",
            ),
            (
                times.iter().all(|&time| time <= MILLIS_MAX),
                "service_ms_p50, cold_start_ms or unload_after_ms",
                "at most 86400000 (a day)",
            ),
        ]
        .into_iter()
        .find_map(|(fine, key, rule)| (!fine).then_some((key, rule)))
    }
}

impl ModalSettings {
    fn too_long(&self) -> Option<&'static str> {
        [
            (self.hold_limit_ms, "hold_limit_ms"),
            (self.scaledown_window_ms, "scaledown_window_ms"),
            (self.result_ttl_ms, "result_ttl_ms"),
            (self.id_ttl_ms, "id_ttl_ms"),
            (self.warm_lease_ms, "warm_lease_ms"),
        ]
        .into_iter()
        .find_map(|(millis, key)| (millis > 365 * MILLIS_MAX).then_some(key))
    }
}

impl Default for SimulatedModel {
    fn default() -> Self {
        Self {
            name: String::new(),
            slots: 4,
            service_ms_p50: 200,
            service_sigma: 0.0,
            cold_start_ms: 0,
            unload_after_ms: 0,
            sku: "standard".to_owned(),
            price_per_second_nanos: 0,
            price_per_inference_nanos: 0,
            price_per_million_input_tokens_nanos: 0,
            price_per_million_output_tokens_nanos: 0,
            output_tokens_min: 8,
            output_tokens_max: 24,
            tokens_per_chunk: 1,
            context_tokens: 8192,
        }
    }
}

impl Default for ModalSettings {
    fn default() -> Self {
        Self {
            hold_limit_ms: 150_000,
            scaledown_window_ms: 60_000,
            result_ttl_ms: 7 * 86_400_000,
            id_ttl_ms: 86_400_000,
            warm_lease_ms: 60_000,
            cancel_on_disconnect: false,
        }
    }
}

fn default_region() -> String {
    "us-east".to_owned()
}

fn default_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(model: SimulatedModel) -> SimulatorConfig {
        SimulatorConfig::new("s", Kind::OpenAi, vec![model])
    }

    #[test]
    fn a_short_config_gets_the_documented_defaults() {
        let text = r#"{"name":"modal-us","kind":"modal","models":[{"name":"m","sku":"T4"}]}"#;
        let config: SimulatorConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.modal.hold_limit_ms, 150_000);
        assert_eq!(config.listen.port(), 0);
        assert_eq!(config.models[0].slots, 4);
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = r#"{"name":"x","kind":"golem","models":[{"name":"m","slot":1}]}"#;
        assert!(serde_json::from_str::<SimulatorConfig>(text).is_err());
    }

    #[test]
    fn a_value_out_of_range_is_refused_by_its_key() {
        let key_of = |model| match with(model).check() {
            Err(ConfigError::Range { key, .. }) => key,
            other => panic!("expected a range error, got {other:?}"),
        };
        assert_eq!(key_of(SimulatedModel { slots: 0, ..SimulatedModel::new("m") }), "slots");
        assert_eq!(key_of(SimulatedModel::default()), "name");
        let endless = SimulatedModel { service_sigma: f64::NAN, ..SimulatedModel::new("m") };
        assert_eq!(key_of(endless), "service_sigma");
    }

    #[test]
    fn one_gpu_cannot_have_two_prices() {
        let model =
            |name, price| SimulatedModel { price_per_second_nanos: price, ..SimulatedModel::new(name) };
        let config = SimulatorConfig::new("s", Kind::Modal, vec![model("a", 1), model("b", 2)]);
        assert!(matches!(config.check(), Err(ConfigError::TwoPrices { .. })));
    }
}
