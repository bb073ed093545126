//! A job's head: everything about it but the text. Dispatching needs no more, so a dispatcher reads the head once and passes
//! the body on as bytes. Reading a head checks all that reading the whole job checks, and keeps no prompt.

use std::{collections::BTreeMap, fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use super::parts::{
    ATTEMPTS_DEFAULT, ATTEMPTS_MAX, InputRef, JobError, JobHeaders, LABEL_LENGTH_MAX, LABELS_MAX, Params,
    Routing, null_is_default,
};
use crate::{
    Codec, JobId, Mailbox, Micros, Tenant, UsdNanos, headers::trace_context, ids::JobIdError,
    subjects::JobSubject, token::TokenError,
};

/// Everything about a checked job but its text, together with what its subject and headers say.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Who it is.
    pub id: JobId,
    /// Region, model, lane and tenant.
    pub subject: JobSubject,
    /// How its body is written, and so how its replies are.
    pub codec: Codec,
    /// Where its input lies, if not in the job itself.
    pub input_ref: Option<InputRef>,
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
    /// W3C trace context, if the header has the shape of one.
    pub traceparent: Option<String>,
}

/// The body as far as a head needs it: [`super::JobBody`] with a shape in place of each text.
#[derive(Deserialize)]
pub(super) struct HeadBody {
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) messages: Option<Turns>,
    #[serde(default)]
    pub(super) prompt: Option<Text>,
    #[serde(default)]
    pub(super) input_ref: Option<InputRef>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) params: Params,
    #[serde(default)]
    pub(super) deadline: Option<DateTime<Utc>>,
    #[serde(default)]
    pub(super) max_cost_usd: Option<UsdNanos>,
    #[serde(default)]
    pub(super) max_attempts: Option<u16>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) routing: Routing,
    #[serde(default)]
    pub(super) mailbox: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) live: bool,
    #[serde(default)]
    pub(super) run_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub(super) replay_of: Option<String>,
}

impl Head {
    /// Reads and checks the head of a message of a job subject, as [`super::Job::read`] does the whole job.
    pub fn read(
        subject: JobSubject,
        headers: JobHeaders<'_>,
        body: &[u8],
        now: Micros,
    ) -> Result<Self, JobError> {
        let codec = headers.codec()?;
        let bytes = body;
        let body: HeadBody = codec.decode(bytes)?;
        check_map(codec, bytes)?;
        check_input(
            body.input_ref.is_some(),
            body.messages.as_ref().map(|turns| turns.count),
            body.prompt.as_ref().map(|text| text.bytes),
        )?;
        Self::check(subject, codec, headers, body, now)
    }

    pub(super) fn check(
        subject: JobSubject,
        codec: Codec,
        headers: JobHeaders<'_>,
        body: HeadBody,
        now: Micros,
    ) -> Result<Self, JobError> {
        if let Some(owner) = headers.strange_owner(&subject.tenant) {
            let rule = format!("must end in the tenant `{owner}`, on whose subject the job was delayed");
            return Err(JobError::field("Nats-Schedule-Target", rule));
        }
        let id = one_id(body.id.as_deref(), headers.message_id, &subject.tenant)?;
        check_params(&body.params)?;
        let max_attempts = body.max_attempts.unwrap_or(ATTEMPTS_DEFAULT);
        if !(1..=ATTEMPTS_MAX).contains(&max_attempts) {
            return Err(JobError::field(
                "max_attempts",
                format!("{max_attempts} must be 1 to {ATTEMPTS_MAX}"),
            ));
        }
        let mailbox = read_mailbox(body.mailbox.as_deref(), &subject.tenant)?;
        check_labels(&body.labels)?;
        let refuse = |e: JobIdError| JobError::field("replay_of", e.to_string());
        let replay_of = body.replay_of.map(|text| text.parse().map_err(refuse)).transpose()?;
        if body.run_at.is_some_and(|at| at.timestamp_nanos_opt().is_none() && at > DateTime::UNIX_EPOCH) {
            return Err(JobError::field(
                "run_at",
                "must lie before 2262-04-11: the server counts nanoseconds",
            ));
        }
        if body.run_at.is_some_and(|at| Micros::from(at) > now + Duration::from_secs(60)) {
            return Err(JobError::field(
                "run_at",
                "lies in the future; publish to `beacon.delayed.<region>.<tenant>.<job-id>` instead",
            ));
        }
        Ok(Self {
            id,
            subject,
            codec,
            input_ref: body.input_ref,
            deadline: body.deadline.map(Micros::from),
            max_cost: body.max_cost_usd,
            max_attempts,
            routing: body.routing,
            mailbox,
            labels: body.labels,
            live: body.live,
            replay_of,
            traceparent: headers.traceparent.and_then(trace_context).map(str::to_owned),
        })
    }
}

/// A text of which only the length is kept.
pub(super) struct Text {
    bytes: usize,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Measure;
        impl Visitor<'_> for Measure {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text { bytes: text.len() })
            }
        }
        from.deserialize_str(Measure)
    }
}

/// Turns of a chat of which only the number is kept.
pub(super) struct Turns {
    count: usize,
}

impl<'de> Deserialize<'de> for Turns {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "that they are there, and are texts, is all that matters")]
        struct Turn {
            role: Text,
            content: Text,
        }
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Turns;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut turns: A) -> Result<Turns, A::Error> {
                let mut count = 0;
                while turns.next_element::<Turn>()?.is_some() {
                    count += 1;
                }
                Ok(Turns { count })
            }
        }
        from.deserialize_seq(Count)
    }
}

/// A job has one input: turns of a chat or a prompt, of which the sizes are given, or a reference.
pub(super) fn check_input(stored: bool, turns: Option<usize>, prompt: Option<usize>) -> Result<(), JobError> {
    match (stored, turns, prompt) {
        (true, None, None) | (false, Some(1..), None) | (false, None, Some(1..)) => Ok(()),
        (true, ..) => {
            Err(JobError::field("input_ref", "only one of `messages`, `prompt` and `input_ref` may be given"))
        }
        (false, Some(_), Some(_)) => {
            Err(JobError::field("prompt", "only one of `messages` and `prompt` may be given"))
        }
        (false, None, None) => {
            Err(JobError::field("messages", "missing: `messages` or `prompt` must be given"))
        }
        (false, Some(0), None) => Err(JobError::field("messages", "must hold at least one message")),
        (false, None, Some(0)) => Err(JobError::field("prompt", "must not be empty")),
    }
}

/// A list of values in the order of our fields is no job.
pub(super) fn check_map(codec: Codec, body: &[u8]) -> Result<(), JobError> {
    if codec.is_map(body) { Ok(()) } else { Err(JobError::field("body", "must be a map of named fields")) }
}

/// The id that body and header name. The header may name the tenant behind it, which must be the subject's.
fn one_id(body: Option<&str>, header: Option<&str>, tenant: &Tenant) -> Result<JobId, JobError> {
    let header = match header.and_then(|text| text.split_once(':')) {
        None => header,
        Some((id, owner)) if owner == tenant.as_str() => Some(id),
        Some(_) => {
            let rule = format!("must be the job's id, or `<id>:{tenant}` with the subject's own tenant");
            return Err(JobError::field("Nats-Msg-Id", rule));
        }
    };
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
