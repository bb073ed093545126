//! The settings of the simulated Replicate platform.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::rules::{AT_MOST_A_YEAR, Broken, YEAR_MS, first_broken};
use crate::signature::Secret;

/// How the simulated Replicate platform behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the file")]
pub struct ReplicateSettings {
    /// Multiplies the platform's own long times, so that a test need not wait: `Cancel-After`, `Prefer: wait`, the
    /// limit of a run, the removal of data, the windows of the rate limits, the pauses between webhooks. Service
    /// times and cold boots are not scaled.
    pub time_scale: f64,
    /// Whether input keys that the model does not know are let through. Most models refuse them.
    pub lenient_input: bool,
    /// The model's name for the limit on its answer.
    pub max_tokens_key: MaxTokensKey,
    /// The shape of `output`.
    pub output: OutputShape,
    /// How long after a prediction's end its input, output and logs are removed, before scaling. Replicate: an hour.
    pub data_ttl_ms: u64,
    /// How long an idle instance is kept warm.
    pub idle_timeout_ms: u64,
    /// How the platform bills.
    pub billing: ReplicateBilling,
    /// Whether the rate limits hold.
    pub limits: bool,
    /// Predictions created in a minute; a tenth more is let through as a burst.
    pub create_limit: u32,
    /// All other requests in a minute, and a tenth more.
    pub other_limit: u32,
    /// Whether a throttled answer has a `Retry-After` header.
    pub retry_after: bool,
    /// Whether the account has no credit: every create is answered with 402.
    pub no_credit: bool,
    /// How long a cancel takes to reach the prediction.
    pub cancel_delay_ms: u64,
    /// After how many events every stream closes without `done`, if at all.
    pub stream_cut_after: Option<u32>,
    /// The key that signs the webhooks: `whsec_` and base64.
    pub webhook_secret: String,
    /// Whether every webhook is sent twice.
    pub webhook_duplicates: bool,
    /// The most instances of each deployment.
    pub max_instances: u32,
    /// Deployments of somebody else in the account, `owner/name`, and their instances that are always up.
    pub others: BTreeMap<String, u32>,
}

/// A model's name for the limit on its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensKey {
    /// `max_tokens`
    MaxTokens,
    /// `max_new_tokens`
    MaxNewTokens,
}

/// The shape of a language model's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputShape {
    /// Pieces that are to be joined.
    Array,
    /// One text.
    String,
}

/// How Replicate bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicateBilling {
    /// The seconds in `predict()`: public community models.
    PredictTime,
    /// The tokens read and written: official language models.
    Tokens,
    /// All time that an instance is up: deployments and private models.
    Standing,
}

impl MaxTokensKey {
    /// The key on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxNewTokens => "max_new_tokens",
        }
    }
}

impl ReplicateSettings {
    /// A time of the platform, as long as it takes here.
    pub(crate) fn scaled(&self, time: Duration) -> Duration {
        time.mul_f64(self.time_scale)
    }

    /// How long data stays after a prediction's end.
    pub(crate) fn data_ttl(&self) -> Duration {
        self.scaled(Duration::from_millis(self.data_ttl_ms))
    }

    /// The first value that cannot work.
    pub(super) fn out_of_range(&self) -> Option<Broken> {
        let times = [self.data_ttl_ms, self.idle_timeout_ms, self.cancel_delay_ms];
        first_broken([
            (self.time_scale > 0.0 && self.time_scale <= 10.0, "time_scale", "above 0 and at most 10"),
            (self.create_limit > 0, "create_limit", "at least 1"),
            (self.other_limit > 0, "other_limit", "at least 1"),
            (Secret::parse(&self.webhook_secret).is_some(), "webhook_secret", "whsec_ and base64"),
            (
                times.iter().all(|&time| time <= YEAR_MS),
                "data_ttl_ms, idle_timeout_ms or cancel_delay_ms",
                AT_MOST_A_YEAR,
            ),
        ])
    }
}

impl Default for ReplicateSettings {
    fn default() -> Self {
        Self {
            time_scale: 1.0,
            lenient_input: false,
            max_tokens_key: MaxTokensKey::MaxTokens,
            output: OutputShape::Array,
            data_ttl_ms: 3_600_000,
            idle_timeout_ms: 60_000,
            billing: ReplicateBilling::PredictTime,
            limits: true,
            create_limit: 600,
            other_limit: 3_000,
            retry_after: false,
            no_credit: false,
            cancel_delay_ms: 5,
            stream_cut_after: None,
            // The base64 of 24 bytes that nobody takes for a real secret.
            webhook_secret: "whsec_c2ltdWxhdGVkLXNlY3JldC0yNC1ieXRl".to_owned(),
            webhook_duplicates: false,
            max_instances: 3,
            others: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{ConfigError, Kind, SimulatedModel, SimulatorConfig};

    fn check(name: &str, text: &str) -> Option<&'static str> {
        let config = SimulatorConfig {
            replicate: serde_json::from_str(text).unwrap(),
            ..SimulatorConfig::new("s", Kind::Replicate, vec![SimulatedModel::new(name)])
        };
        match config.check() {
            Ok(()) => None,
            Err(ConfigError::TableRange { key, .. } | ConfigError::Range { key, .. }) => Some(key),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_key() {
        assert_eq!(check("meta/llama", "{}"), None);
        assert_eq!(
            check("meta/llama", r#"{"time_scale":0.001,"billing":"standing","output":"string"}"#),
            None
        );
        assert_eq!(check("meta/llama", r#"{"time_scale":0}"#), Some("time_scale"));
        assert_eq!(check("meta/llama", r#"{"create_limit":0}"#), Some("create_limit"));
        assert_eq!(check("meta/llama", r#"{"webhook_secret":"hush"}"#), Some("webhook_secret"));
        for name in ["llama", "meta/llama/3", "/llama", "meta/"] {
            assert_eq!(check(name, "{}"), Some("name"), "{name}");
        }
    }
}
