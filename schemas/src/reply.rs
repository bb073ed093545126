//! A result: how a job ended. Exactly one per job on its reply subject.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    AttemptKey, JobId, Lane, Micros, ModelToken, ProviderId, Region, UsdNanos, cost::Bill,
    decision::Decision, failure::Failure,
};

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is an output.
    Succeeded,
    /// It will not be tried again.
    Failed,
    /// Its deadline came first.
    Expired,
    /// Somebody took it back.
    Cancelled,
}

impl Status {
    /// The name on the wire and in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What the model wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The text.
    pub text: String,
    /// Why it stopped, in OpenAI's words: `stop`, `length`, `tool_calls`; another word where the pool takes it for a whole answer.
    pub finish_reason: String,
}

/// Where an output lies that is too large for a message: in the object store `beacon-payloads`, as JSON of [`Output`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRef {
    /// Its name there.
    pub object: String,
    /// Its size.
    pub bytes: u64,
}

/// A job's place in the log: which of several jobs with one id is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    /// The stream, `JOBS_<region>`.
    pub stream: String,
    /// The job's sequence there.
    pub seq: u64,
}

/// Tokens, as the provider counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Of the tokens read, those that the server had in its prefix cache. `None` where it does not say, which is not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// True when the provider did not say and we counted chunks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

/// Where the time went, microseconds each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// From being stored to being handed over for the last attempt.
    pub queued_us: u64,
    /// From handover to the provider call.
    pub handover_us: u64,
    /// The provider call, cold start included.
    pub provider_us: u64,
    /// The part of it that was a cold start, where the provider says.
    pub cold_start_us: u64,
    /// From the provider call to the first token, where it streams; else 0.
    pub first_token_us: u64,
    /// From being stored to being finished.
    pub total_us: u64,
}

/// A terminal result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// Whose.
    pub job: JobId,
    /// How it ended.
    pub status: Status,
    /// What the model wrote; only when succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// Where the output lies instead, when it is too large for a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_ref: Option<OutputRef>,
    /// Tokens; only when succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What went wrong; only when it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Model and lane, from the job's subject; missing when that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelToken>,
    /// From the job's subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// Who ran the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderId>,
    /// Where the last attempt ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// How many attempts were made.
    pub attempts: u16,
    /// The attempt that gave this result; missing when the job ended without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_key: Option<AttemptKey>,
    /// What that attempt cost. The useful cost event follows from it: whoever finds the result without the event stores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bill: Option<Bill>,
    /// The job's place in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogPlace>,
    /// Where the time went.
    pub timings: Timings,
    /// All attempts together, dollars.
    pub cost_usd: UsdNanos,
    /// The job's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The job that this one ran again, when it is a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<JobId>,
    /// Why the last attempt went where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// When it ended.
    pub finished_us: Micros,
}
