//! `[[pools]]` as the file says it. [`super::pools`] checks the keys of every pool, and [`super::call`] the keys that say how
//! its provider is called.

use std::path::PathBuf;

use schemas::{ProviderId, Region};
use serde::Deserialize;
use workers::{
    adapters::{
        Billing, Dialect,
        replicate::{InputKeys, Target},
    },
    rented::Isolation,
};

use super::{rent::RawRent, span::Span};

/// `[[pools]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPool {
    pub(super) provider: ProviderId,
    pub(super) region: Region,
    pub(super) slots: u32,
    pub(super) rented: Option<bool>,
    pub(super) idle: Option<Span>,
    pub(super) models: Vec<RawModel>,
    pub(super) timeout: Option<Span>,
    pub(super) health_every: Option<Span>,
    pub(super) price_name: Option<ProviderId>,
    pub(super) kind: Kind,
    pub(super) base_url: Option<String>,
    pub(super) simulator: Option<String>,
    pub(super) dialect: Option<Dialect>,
    pub(super) billing: Option<Billing>,
    pub(super) stream: Option<bool>,
    pub(super) trust_done: Option<bool>,
    pub(super) finish_reasons: Option<Vec<String>>,
    pub(super) health_path: Option<String>,
    pub(super) metrics_path: Option<String>,
    pub(super) connect_timeout: Option<Span>,
    pub(super) first_byte_timeout: Option<Span>,
    pub(super) idle_timeout: Option<Span>,
    pub(super) mode: Option<Mode>,
    pub(super) wait: Option<Span>,
    pub(super) queue_timeout: Option<Span>,
    pub(super) trust_requests: Option<bool>,
    pub(super) billing_url: Option<String>,
    pub(super) target: Option<Target>,
    pub(super) input: Option<InputKeys>,
    pub(super) poll_min: Option<Span>,
    pub(super) poll_max: Option<Span>,
    pub(super) webhook: Option<bool>,
    pub(super) webhook_secret_env: Option<String>,
    pub(super) webhook_secret_file: Option<PathBuf>,
    pub(super) api_key_env: Option<String>,
    pub(super) api_key_file: Option<PathBuf>,
    pub(super) affinity: Option<bool>,
    pub(super) isolation: Option<Isolation>,
    pub(super) rent: Option<RawRent>,
    pub(super) machine_secret_env: Option<String>,
    pub(super) machine_secret_file: Option<PathBuf>,
    pub(super) modal_key_env: Option<String>,
    pub(super) modal_key_file: Option<PathBuf>,
    pub(super) modal_secret_env: Option<String>,
    pub(super) modal_secret_file: Option<PathBuf>,
    pub(super) delay: Option<Span>,
}

/// `[[pools.models]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) model: String,
    pub(super) served_as: Option<String>,
    pub(super) sku: String,
    #[serde(default)]
    pub(super) size: u16,
    pub(super) expected: Option<Span>,
}

/// Which provider a pool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// An OpenAI-compatible server.
    OpenAi,
    /// OpenAI-compatible servers on machines that a keeper rents.
    Rented,
    /// Beacon's app on Modal.
    Modal,
    /// A queue-based endpoint on RunPod.
    RunPod,
    /// Replicate's predictions.
    Replicate,
    /// No provider: every job succeeds at once. For measurements.
    Noop,
}

/// How calls are made; each kind has modes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    OpenAi,
    Wait,
    Spawn,
    Run,
    RunSync,
}
