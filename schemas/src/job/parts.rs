//! The parts of a job that its head and its whole share: limits, parameters, routing, and why a message is no job.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Codec, ProviderId, Region, Tenant, codec::CodecError, headers, subjects::delayed_owner};

/// Attempts a job gets when it does not say.
pub const ATTEMPTS_DEFAULT: u16 = 4;
/// The most attempts a job may ask for: beyond it a job is poison, not unlucky.
pub const ATTEMPTS_MAX: u16 = 20;
/// Output tokens when the job does not say; servers differ wildly in their own default (16 to unlimited).
pub const MAX_TOKENS_DEFAULT: u32 = 256;
/// Labels are for people and filters, not for payloads.
pub const LABELS_MAX: usize = 16;
/// The longest label key or value, in bytes.
pub const LABEL_LENGTH_MAX: usize = 128;

/// Where an input lies that is too large for a message: in the object store `beacon-payloads`, as JSON of [`super::Input`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRef {
    /// Its name there.
    pub object: String,
    /// Its size.
    pub bytes: u64,
}

/// Sampling parameters, passed to the provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// The most tokens to generate; [`MAX_TOKENS_DEFAULT`] when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// More than 0, at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Texts that end the output; at most 4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// For repeatable sampling, where the provider honours it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
}

/// What matters most when several pools could take the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// Cheapest that meets the deadline.
    Cost,
    /// Fastest.
    Latency,
    /// Both.
    #[default]
    Balanced,
}

/// Where a job may run. Empty lists allow everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// Only these providers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_providers: Vec<ProviderId>,
    /// Never these providers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_providers: Vec<ProviderId>,
    /// Only these regions; the job's own region must be among them when it is to run there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_regions: Vec<Region>,
    /// What matters most.
    #[serde(default)]
    pub prefer: Prefer,
}

/// Why a message on a job subject is not a job. Each names the field and the rule.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The body could not be read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The schema header names another major version.
    #[error("header `Beacon-Schema`: `{0}` must be job.v1")]
    Schema(String),
    /// A field breaks its rule.
    #[error("field `{field}`: {rule}")]
    Field {
        /// The field, dotted.
        field: &'static str,
        /// The rule it breaks, with the value where that helps.
        rule: String,
    },
}

impl JobError {
    pub(super) fn field(field: &'static str, rule: impl Into<String>) -> Self {
        Self::Field { field, rule: rule.into() }
    }
}

/// The headers a job's reader looks at, as texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobHeaders<'a> {
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
    /// `Nats-Msg-Id`.
    pub message_id: Option<&'a str>,
    /// `Beacon-Schema`.
    pub schema: Option<&'a str>,
    /// `traceparent`.
    pub traceparent: Option<&'a str>,
    /// `Nats-Scheduler`.
    pub scheduler: Option<&'a str>,
}

impl JobHeaders<'_> {
    /// The tenant on whose subject a delayed job was published, if that is not `tenant`, which its schedule names.
    pub(super) fn strange_owner(&self, tenant: &Tenant) -> Option<&str> {
        self.scheduler.and_then(delayed_owner).filter(|owner| *owner != tenant.as_str())
    }

    /// How the body is written, if it is a job of a version that this code reads.
    pub(super) fn codec(&self) -> Result<Codec, JobError> {
        if !headers::schema_is(self.schema, headers::JOB_V1) {
            return Err(JobError::Schema(self.schema.unwrap_or_default().chars().take(80).collect()));
        }
        Ok(Codec::from_content_type(self.content_type)?)
    }
}

/// Reads a field whose `null` means the same as its absence, as it does for every other field of a job.
pub(super) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}
