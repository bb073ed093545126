//! The configuration of a simulator, as a file says it. All durations are whole milliseconds.
//!
//! [`SimulatorConfig::check`] refuses values that cannot work before anything listens.

mod modal;
mod model;
mod openai;
mod replicate;
mod rules;
mod runpod;
mod runpod_account;

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use modal::ModalSettings;
pub use model::SimulatedModel;
pub use openai::{MetricsPage, OpenAiSettings, Server};
pub use replicate::{MaxTokensKey, OutputShape, ReplicateBilling, ReplicateSettings};
pub use runpod::{RunPodSettings, WorkerAge};
pub use runpod_account::RunPodAccount;

/// One simulated provider in one region: one listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Its name in logs and in [`crate::Simulator::name`].
    pub name: String,
    /// Which provider it stands for.
    pub kind: Kind,
    /// The region that the simulator reports.
    #[serde(default = "default_region")]
    pub region: String,
    /// Where it listens. Port 0, the default, takes any free port; see [`crate::Simulator::url`].
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The caller's credentials: a bearer token, or `key:secret` for Modal's two headers. Without it no caller needs any.
    #[serde(default)]
    pub api_key: Option<String>,
    /// The models. Each has its own slots and its own queue.
    pub models: Vec<SimulatedModel>,
    /// Decides all text, service times and chances.
    #[serde(default)]
    pub seed: u64,
    /// Read by [`Kind::OpenAi`] only.
    #[serde(default)]
    pub openai: OpenAiSettings,
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
    /// A rented server that speaks the OpenAI API, in vLLM's dialect unless `openai.server` says otherwise. Billed by the second that a request runs.
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
        /// The rule for its value.
        rule: &'static str,
    },
    /// A value of a provider's own table cannot work.
    #[error("simulator {simulator}: {table}.{key} must be {rule}")]
    TableRange {
        /// The simulator's name.
        simulator: String,
        /// `openai`, `modal`, `runpod` or `replicate`.
        table: &'static str,
        /// The key at fault.
        key: &'static str,
        /// The rule for its value.
        rule: &'static str,
    },
    /// The key for Modal is not a pair.
    #[error("simulator {simulator}: api_key must be \"key:secret\" for kind modal")]
    KeyPair {
        /// The simulator's name.
        simulator: String,
    },
}

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
            openai: OpenAiSettings::default(),
            modal: ModalSettings::default(),
            runpod: RunPodSettings::default(),
            replicate: ReplicateSettings::default(),
            record: false,
        }
    }

    /// Refuses a configuration that cannot work, naming the key and the rule.
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
        for (table, broken) in [
            ("openai", self.openai.out_of_range()),
            ("modal", self.modal.out_of_range()),
            ("runpod", self.runpod.out_of_range()),
            ("replicate", self.replicate.out_of_range()),
        ] {
            if let Some((key, rule)) = broken {
                return Err(ConfigError::TableRange { simulator: simulator(), table, key, rule });
            }
        }
        match (self.kind, &self.api_key) {
            (Kind::Modal, Some(key)) if !key.contains(':') => {
                Err(ConfigError::KeyPair { simulator: simulator() })
            }
            (Kind::OpenAi | Kind::Golem | Kind::Modal | Kind::RunPod | Kind::Replicate, _) => Ok(()),
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
