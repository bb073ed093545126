//! A job: one inference request, immutable once published.
//!
//! The wire body is [`JobBody`]: tolerant of unknown fields, nothing checked beyond its types. [`Job`] is the
//! checked form everything else believes: a [`Head`], which is all that dispatching needs, and what the model reads.
//! Region, model, lane and tenant are not in the body: they come from the subject, which NATS permissions protect.

mod head;
mod parts;
mod salvage;

use std::{collections::BTreeMap, ops::Deref};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use self::{head::HeadBody, parts::null_is_default};
pub use self::{
    head::{Head, read_mailbox},
    parts::{
        ATTEMPTS_DEFAULT, ATTEMPTS_MAX, InputRef, JobError, JobHeaders, LABEL_LENGTH_MAX, LABELS_MAX,
        MAX_TOKENS_DEFAULT, Params, Prefer, Routing,
    },
    salvage::{Salvage, salvage},
};
use crate::{Codec, Micros, UsdNanos, subjects::JobSubject};

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; passed on as it is.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What the model reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A chat, at least one message.
    Messages(Vec<Message>),
    /// A raw prompt, not empty.
    Prompt(String),
}

/// What the model reads, or where that lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobInput {
    /// In the job itself.
    Here(Input),
    /// In the object store.
    Stored(InputRef),
}

impl JobInput {
    /// Where it lies, if not in the job itself.
    pub const fn stored(&self) -> Option<&InputRef> {
        match self {
            Self::Here(_) => None,
            Self::Stored(stored) => Some(stored),
        }
    }
}

/// The body on the wire.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobBody {
    /// The job's id; may be left out when the `Nats-Msg-Id` header carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A chat. Exactly one of `messages`, `prompt` and `input_ref`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// A raw prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Where a chat or prompt lies that is too large for a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_ref: Option<InputRef>,
    /// Sampling parameters.
    #[serde(default, deserialize_with = "null_is_default")]
    pub params: Params,
    /// RFC 3339; a job that has not started by then ends `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
    /// Dollars as a decimal string; no attempt is started that could take the job past it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<UsdNanos>,
    /// 1 to [`ATTEMPTS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// Where it may run.
    #[serde(default, deserialize_with = "null_is_default")]
    pub routing: Routing,
    /// Where replies go: `box`, or `<tenant>.box` with the subject's own tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// Free text for people and filters, repeated in results.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether output is also published piece by piece on the job's live subject, where the provider streams.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
    /// RFC 3339; only on the delayed subject may it lie in the future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<DateTime<Utc>>,
    /// The job that this one runs again; its cost is booked apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
}

/// A checked job: its head, and what the model reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Everything but input and sampling parameters.
    pub head: Head,
    /// What the model reads.
    pub input: JobInput,
    /// Sampling parameters.
    pub params: Params,
}

/// A job is asked for its id or its deadline more often than for anything else.
impl Deref for Job {
    type Target = Head;
    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Job {
    /// Reads and checks a message of a job subject. `now` decides whether `run_at` has come, and is not before the server stored the
    /// message: that happens when a delayed job is due, and the reader's own clock may be behind. A past `deadline` is not an error
    /// here, it makes the job `expired` later.
    pub fn read(
        subject: JobSubject,
        headers: JobHeaders<'_>,
        body: &[u8],
        now: Micros,
    ) -> Result<Self, JobError> {
        let codec = headers.codec()?;
        let bytes = body;
        let body: JobBody = codec.decode(bytes)?;
        head::check_map(codec, bytes)?;
        Self::check(subject, codec, headers, body, now)
    }

    /// Checks a body that was read, or is about to be written.
    pub fn check(
        subject: JobSubject,
        codec: Codec,
        headers: JobHeaders<'_>,
        body: JobBody,
        now: Micros,
    ) -> Result<Self, JobError> {
        // Every field by name, so that a new one cannot be overlooked.
        let JobBody {
            id,
            messages,
            prompt,
            input_ref,
            params,
            deadline,
            max_cost_usd,
            max_attempts,
            routing,
            mailbox,
            labels,
            live,
            run_at,
            replay_of,
        } = body;
        let input = one_input(messages, prompt, input_ref.clone())?;
        let head = HeadBody {
            id,
            messages: None,
            prompt: None,
            input_ref,
            params: params.clone(),
            deadline,
            max_cost_usd,
            max_attempts,
            routing,
            mailbox,
            labels,
            live,
            run_at,
            replay_of,
        };
        Ok(Self { head: Head::check(subject, codec, headers, head, now)?, input, params })
    }
}

fn one_input(
    messages: Option<Vec<Message>>,
    prompt: Option<String>,
    stored: Option<InputRef>,
) -> Result<JobInput, JobError> {
    head::check_input(stored.is_some(), messages.as_ref().map(Vec::len), prompt.as_ref().map(String::len))?;
    let here = messages.map(Input::Messages).or_else(|| prompt.map(Input::Prompt)).map(JobInput::Here);
    here.or_else(|| stored.map(JobInput::Stored))
        .ok_or_else(|| JobError::field("messages", "missing: `messages` or `prompt` must be given"))
}

#[cfg(test)]
mod tests;
