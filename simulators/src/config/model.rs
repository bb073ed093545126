//! The settings of one model of a simulated provider.

use serde::{Deserialize, Serialize};

use super::rules::{Broken, first_broken};

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
    /// Tokens of prompts that the server's prefix cache holds. 0, the default, is a server that says nothing of one. Read by
    /// [`Kind::OpenAi`] and [`Kind::Golem`].
    pub prefix_cache_tokens: u32,
}

/// A thousand dollars a second: high enough for any machine, and low enough that no bill can overflow.
const PRICE_MAX: u64 = 1_000_000_000_000;
/// A day. Longer times are most likely a mistake of unit.
const MILLIS_MAX: u64 = 86_400_000;

impl SimulatedModel {
    /// A model with all other settings at their defaults.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The first value that cannot work.
    pub(super) fn out_of_range(&self) -> Option<Broken> {
        let prices = [
            self.price_per_second_nanos,
            self.price_per_inference_nanos,
            self.price_per_million_input_tokens_nanos,
            self.price_per_million_output_tokens_nanos,
        ];
        let times = [self.service_ms_p50, self.cold_start_ms, self.unload_after_ms];
        first_broken([
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
        ])
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
            prefix_cache_tokens: 0,
        }
    }
}
