//! A job: one inference request, immutable once published.
//!
//! The wire body is [`JobBody`]: tolerant of unknown fields, nothing checked beyond its types. [`Job`] is the
//! checked form everything else believes. Region, model, lane and tenant are not in the body: they come from
//! the subject, which NATS permissions protect.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Codec, JobId, Mailbox, Micros, ProviderId, Region, Tenant, UsdNanos, codec::CodecError, headers,
    ids::JobIdError, subjects::JobSubject, token::TokenError,
};

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

/// Where an input lies that is too large for a message: in the object store `beacon-payloads`, as JSON of [`Input`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRef {
    /// Its name there.
    pub object: String,
    /// Its size.
    pub bytes: u64,
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
    #[serde(default)]
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
    #[serde(default)]
    pub routing: Routing,
    /// Where replies go: `box`, or `<tenant>.box` with the subject's own tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// Free text for people and filters, repeated in results.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether output is also published piece by piece on the job's live subject, where the provider streams.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
    /// RFC 3339; only on the delayed subject may it lie in the future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<DateTime<Utc>>,
    /// The job that this one runs again; its cost is booked apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
}

/// A checked job together with what its subject and headers say.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Who it is.
    pub id: JobId,
    /// Region, model, lane and tenant.
    pub subject: JobSubject,
    /// How its body is written, and so how its replies are.
    pub codec: Codec,
    /// What the model reads.
    pub input: JobInput,
    /// Sampling parameters.
    pub params: Params,
    /// When it must have started.
    pub deadline: Option<Micros>,
    /// The most it may cost, all attempts together.
    pub max_cost: Option<UsdNanos>,
    /// Attempts that count.
    pub max_attempts: u16,
    /// Where it may run.
    pub routing: Routing,
    /// Where replies go, inside the subject's tenant.
    pub mailbox: Mailbox,
    /// Repeated in results.
    pub labels: BTreeMap<String, String>,
    /// Whether output is also published while it is being written.
    pub live: bool,
    /// The job that this one runs again.
    pub replay_of: Option<JobId>,
    /// W3C trace context.
    pub traceparent: Option<String>,
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
    fn field(field: &'static str, rule: impl Into<String>) -> Self {
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
}

impl Job {
    /// Reads and checks a message of a job subject. `now` decides whether `run_at` has come; a past `deadline`
    /// is not an error here, it makes the job `expired` later.
    pub fn read(
        subject: JobSubject,
        headers: JobHeaders<'_>,
        body: &[u8],
        now: Micros,
    ) -> Result<Self, JobError> {
        if !headers::schema_is(headers.schema, headers::JOB_V1) {
            return Err(JobError::Schema(headers.schema.unwrap_or_default().chars().take(80).collect()));
        }
        let codec = Codec::from_content_type(headers.content_type)?;
        let body: JobBody = codec.decode(body)?;
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
        let id = one_id(id.as_deref(), headers.message_id)?;
        let input = one_input(messages, prompt, input_ref)?;
        check_params(&params)?;
        let max_attempts = max_attempts.unwrap_or(ATTEMPTS_DEFAULT);
        if !(1..=ATTEMPTS_MAX).contains(&max_attempts) {
            return Err(JobError::field(
                "max_attempts",
                format!("{max_attempts} must be 1 to {ATTEMPTS_MAX}"),
            ));
        }
        let mailbox = read_mailbox(mailbox.as_deref(), &subject.tenant)?;
        check_labels(&labels)?;
        let replay_of = replay_of
            .map(|text| text.parse().map_err(|e: JobIdError| JobError::field("replay_of", e.to_string())))
            .transpose()?;
        if run_at.is_some_and(|at| Micros::from(at) > now + Duration::from_secs(60)) {
            return Err(JobError::field(
                "run_at",
                "lies in the future; publish to `beacon.delayed.<region>.<job-id>` instead",
            ));
        }
        Ok(Self {
            id,
            subject,
            codec,
            input,
            params,
            deadline: deadline.map(Micros::from),
            max_cost: max_cost_usd,
            max_attempts,
            routing,
            mailbox,
            labels,
            live,
            replay_of,
            traceparent: headers.traceparent.map(str::to_owned),
        })
    }
}

fn one_id(body: Option<&str>, header: Option<&str>) -> Result<JobId, JobError> {
    let parse = |field, text: &str| text.parse::<JobId>().map_err(|e| JobError::field(field, e.to_string()));
    match (body, header) {
        (Some(body), Some(header)) => {
            let (id, other) = (parse("id", body)?, parse("Nats-Msg-Id", header)?);
            if id == other {
                Ok(id)
            } else {
                Err(JobError::field("id", format!("`{id}` must equal the `Nats-Msg-Id` header `{other}`")))
            }
        }
        (Some(body), None) => parse("id", body),
        (None, Some(header)) => parse("Nats-Msg-Id", header),
        (None, None) => {
            Err(JobError::field("id", "missing: a UUID in the body or in the `Nats-Msg-Id` header"))
        }
    }
}

fn one_input(
    messages: Option<Vec<Message>>,
    prompt: Option<String>,
    stored: Option<InputRef>,
) -> Result<JobInput, JobError> {
    if let Some(stored) = stored {
        return if messages.is_some() || prompt.is_some() {
            Err(JobError::field("input_ref", "only one of `messages`, `prompt` and `input_ref` may be given"))
        } else {
            Ok(JobInput::Stored(stored))
        };
    }
    match (messages, prompt) {
        (Some(_), Some(_)) => {
            Err(JobError::field("prompt", "only one of `messages` and `prompt` may be given"))
        }
        (None, None) => Err(JobError::field("messages", "missing: `messages` or `prompt` must be given")),
        (Some(messages), None) if messages.is_empty() => {
            Err(JobError::field("messages", "must hold at least one message"))
        }
        (None, Some(prompt)) if prompt.is_empty() => Err(JobError::field("prompt", "must not be empty")),
        (Some(messages), None) => Ok(JobInput::Here(Input::Messages(messages))),
        (None, Some(prompt)) => Ok(JobInput::Here(Input::Prompt(prompt))),
    }
}

fn check_params(params: &Params) -> Result<(), JobError> {
    if params.max_tokens == Some(0) {
        return Err(JobError::field("params.max_tokens", "must be at least 1"));
    }
    if params.temperature.is_some_and(|t| !(0.0..=2.0).contains(&t)) {
        return Err(JobError::field("params.temperature", "must be 0 to 2"));
    }
    if params.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
        return Err(JobError::field("params.top_p", "must be more than 0 and at most 1"));
    }
    if params.stop.len() > 4 {
        return Err(JobError::field("params.stop", "must hold at most 4 texts"));
    }
    Ok(())
}

/// Reads a mailbox, which may be written with the tenant in front; another tenant's is refused.
pub fn read_mailbox(text: Option<&str>, tenant: &Tenant) -> Result<Mailbox, JobError> {
    let Some(text) = text else {
        return Ok(Mailbox::default());
    };
    let refuse = |e: TokenError| JobError::field("mailbox", e.to_string());
    match text.split_once('.') {
        None => text.parse().map_err(refuse),
        Some((owner, name)) if owner == tenant.as_str() => name.parse().map_err(refuse),
        Some(_) => {
            Err(JobError::field("mailbox", format!("must lie in the subject's own tenant `{tenant}`")))
        }
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), JobError> {
    if labels.len() > LABELS_MAX {
        return Err(JobError::field("labels", format!("must hold at most {LABELS_MAX} labels")));
    }
    if labels.iter().any(|(k, v)| k.len() > LABEL_LENGTH_MAX || v.len() > LABEL_LENGTH_MAX) {
        return Err(JobError::field(
            "labels",
            format!("keys and values must be at most {LABEL_LENGTH_MAX} bytes"),
        ));
    }
    Ok(())
}

/// What can still be read of a message that is not a job: enough to tell its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// The id, from the header or the body.
    pub id: Option<JobId>,
    /// The mailbox, when the body names one in its own tenant, or names none but could be read.
    pub mailbox: Option<Mailbox>,
    /// The codec for the reply.
    pub codec: Codec,
}

/// Reads id and mailbox out of a broken job, tolerating everything else.
pub fn salvage(subject: Option<&JobSubject>, headers: JobHeaders<'_>, body: &[u8]) -> Salvage {
    let codec = Codec::from_content_type(headers.content_type).unwrap_or_default();
    let fields: Option<serde_json::Value> = codec.decode(body).ok().filter(serde_json::Value::is_object);
    let text = |key: &str| fields.as_ref().and_then(|f| f.get(key)).and_then(serde_json::Value::as_str);
    let id = headers.message_id.or_else(|| text("id")).and_then(|t| t.parse().ok());
    let mailbox = match (&fields, subject) {
        (Some(f), Some(s)) if f.get("mailbox").is_none_or(serde_json::Value::is_string) => {
            read_mailbox(text("mailbox"), &s.tenant).ok()
        }
        _ => None,
    };
    Salvage { id, mailbox, codec }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "0198c0de-0000-7000-8000-000000000001";

    fn subject() -> JobSubject {
        "beacon.jobs.us-east.llama-3-2-1b.normal.acme".parse().unwrap()
    }

    fn read(json: &str) -> Result<Job, JobError> {
        Job::read(subject(), JobHeaders::default(), json.as_bytes(), Micros::new(1_795_000_000_000_000))
    }

    fn check_refused(json: &str, words: &[&str]) {
        let text = read(json).unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "`{text}` should name `{word}`");
        }
    }

    #[test]
    fn the_smallest_job_is_an_id_and_a_prompt() {
        let job = read(&format!(r#"{{"id":"{ID}","prompt":"hi"}}"#)).unwrap();
        assert_eq!(job.input, JobInput::Here(Input::Prompt("hi".into())));
        assert_eq!(job.mailbox, Mailbox::default());
        assert_eq!(job.max_attempts, ATTEMPTS_DEFAULT);
    }

    #[test]
    fn unknown_fields_are_tolerated() {
        assert!(read(&format!(r#"{{"id":"{ID}","prompt":"hi","from_the_future":1}}"#)).is_ok());
    }

    #[test]
    fn a_refusal_names_the_field_and_the_rule() {
        check_refused("{", &["field"]);
        check_refused(r#"{"prompt":"x"}"#, &["id", "missing"]);
        check_refused(&format!(r#"{{"id":"{ID}"}}"#), &["messages", "missing"]);
        check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","messages":[]}}"#), &["only one"]);
        check_refused(&format!(r#"{{"id":"{ID}","prompt":7}}"#), &["prompt", "string"]);
        check_refused(
            &format!(r#"{{"id":"{ID}","prompt":"x","params":{{"max_tokens":"many"}}}}"#),
            &["params.max_tokens"],
        );
        check_refused(
            &format!(r#"{{"id":"{ID}","prompt":"x","params":{{"temperature":3}}}}"#),
            &["params.temperature", "0 to 2"],
        );
        check_refused(
            &format!(r#"{{"id":"{ID}","prompt":"x","mailbox":"other.box"}}"#),
            &["mailbox", "acme"],
        );
        check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","mailbox":">"}}"#), &["mailbox"]);
        check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","max_cost_usd":"-1"}}"#), &["max_cost_usd"]);
        check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","deadline":"soon"}}"#), &["deadline"]);
        check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","max_attempts":0}}"#), &["max_attempts"]);
        check_refused(
            &format!(r#"{{"id":"{ID}","prompt":"x","run_at":"2999-01-01T00:00:00Z"}}"#),
            &["run_at", "beacon.delayed"],
        );
    }

    #[test]
    fn header_and_body_must_name_the_same_job() {
        let headers =
            JobHeaders { message_id: Some("0198c0de-0000-7000-8000-000000000002"), ..JobHeaders::default() };
        let body = format!(r#"{{"id":"{ID}","prompt":"hi"}}"#);
        let error = Job::read(subject(), headers, body.as_bytes(), Micros::default()).unwrap_err();
        assert!(error.to_string().contains("Nats-Msg-Id"));
    }

    #[test]
    fn a_mailbox_may_be_written_with_its_own_tenant() {
        let job = read(&format!(r#"{{"id":"{ID}","prompt":"x","mailbox":"acme.inbox"}}"#)).unwrap();
        assert_eq!(job.mailbox.as_str(), "inbox");
    }

    #[test]
    fn a_broken_job_still_says_where_to_complain() {
        let body = format!(r#"{{"id":"{ID}","prompt":7,"mailbox":"inbox"}}"#);
        let left = salvage(Some(&subject()), JobHeaders::default(), body.as_bytes());
        assert_eq!(left.id, Some(ID.parse().unwrap()));
        assert_eq!(left.mailbox, Some("inbox".parse().unwrap()));
        let nothing = salvage(Some(&subject()), JobHeaders::default(), b"\xff\xff");
        assert_eq!(nothing, Salvage::default());
    }

    fn any_body() -> impl Strategy<Value = JobBody> {
        (
            any::<[u8; 16]>(),
            prop_oneof![
                ".{1,40}".prop_map(|p| (None, Some(p))),
                proptest::collection::vec((".{1,8}", ".{0,40}"), 1..4).prop_map(|ms| {
                    (Some(ms.into_iter().map(|(role, content)| Message { role, content }).collect()), None)
                })
            ],
            (proptest::option::of(1..9_999u32), proptest::option::of(0.0..2.0f64), any::<Option<i64>>()),
            proptest::option::of(0..2_000_000_000i64),
            any::<Option<u64>>(),
            proptest::option::of(1..=ATTEMPTS_MAX),
            proptest::collection::btree_map(".{0,10}", ".{0,10}", 0..3),
            proptest::option::of("[a-z0-9_-]{1,64}"),
        )
            .prop_map(
                |(
                    id,
                    (messages, prompt),
                    (max_tokens, temperature, seed),
                    deadline,
                    cost,
                    max_attempts,
                    labels,
                    mailbox,
                )| {
                    JobBody {
                        id: Some(uuid::Uuid::from_bytes(id).to_string()),
                        messages,
                        prompt,
                        input_ref: None,
                        params: Params { max_tokens, temperature, seed, ..Params::default() },
                        deadline: deadline.and_then(|s| DateTime::from_timestamp(s, 0)),
                        max_cost_usd: cost.map(UsdNanos::new),
                        max_attempts,
                        routing: Routing {
                            deny_providers: vec!["modal".parse().unwrap()],
                            ..Routing::default()
                        },
                        mailbox,
                        live: labels.len() == 1,
                        labels,
                        run_at: None,
                        replay_of: None,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn a_job_survives_both_codecs(body in any_body()) {
            for codec in [Codec::Json, Codec::MsgPack] {
                let bytes = codec.encode(&body).unwrap();
                prop_assert_eq!(codec.decode::<JobBody>(&bytes).unwrap(), body.clone());
                let headers = JobHeaders { content_type: Some(codec.content_type()), ..JobHeaders::default() };
                prop_assert!(Job::read(subject(), headers, &bytes, Micros::default()).is_ok());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>, msgpack: bool) {
            let codec = if msgpack { Codec::MsgPack } else { Codec::Json };
            let headers = JobHeaders { content_type: Some(codec.content_type()), ..JobHeaders::default() };
            let _ = Job::read(subject(), headers, &bytes, Micros::default());
            let _ = salvage(Some(&subject()), headers, &bytes);
        }
    }
}
