//! Questions to the JetStream API, as JSON. The typed client knows fewer fields than the server.

use std::time::Duration;

use async_nats::{Client, Message, Request, StatusCode, client::RequestErrorKind};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use schemas::Micros;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;

use crate::{denied::Denied, link};

/// Meta operations on a busy cluster take seconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The server has no such stream.
pub const STREAM_NOT_FOUND: u64 = 10_059;
/// The server has no such consumer.
pub const CONSUMER_NOT_FOUND: u64 = 10_014;
/// The server holds no such message.
pub const MESSAGE_NOT_FOUND: u64 = 10_037;

/// Why the API did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It said no.
    #[error("JetStream refused {subject}: {description} (code {code})")]
    Refused {
        /// What was asked.
        subject: String,
        /// The server's error code.
        code: u64,
        /// The server's words.
        description: String,
    },
    /// It did not answer.
    #[error("no answer from JetStream to {subject}")]
    Silent {
        /// What was asked.
        subject: String,
        /// Why.
        #[source]
        source: async_nats::client::RequestError,
    },
    /// The server does not let this user ask it.
    #[error("NATS does not permit this user to {0}")]
    Denied(Denied),
    /// It answered something else.
    #[error("JetStream answered {subject} with something unexpected: {what}")]
    Odd {
        /// What was asked.
        subject: String,
        /// What came.
        what: String,
    },
}

impl ApiError {
    /// The server's code, if it said no.
    pub fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Silent { .. } | Self::Denied(_) | Self::Odd { .. } => None,
        }
    }

    /// Whether nobody listens there: no JetStream, no leader, or no permission to see one.
    pub fn nobody(&self) -> bool {
        matches!(self, Self::Silent { source, .. } if source.kind() == RequestErrorKind::NoResponders)
    }
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Asks `$JS.API.<subject>` and gives the answer's JSON. `body` may be `Value::Null` for none.
pub async fn ask(client: &Client, subject: &str, body: &Value) -> Result<Value, ApiError> {
    let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = request(client, subject, payload, TIMEOUT).await?;
    let odd = |what: String| ApiError::Odd { subject: subject.to_owned(), what };
    let mut value: Value = serde_json::from_slice(&answer.payload).map_err(|e| odd(e.to_string()))?;
    match value.get_mut("error").map(Value::take) {
        None => Ok(value),
        Some(error) => {
            let Refusal { err_code, description } =
                serde_json::from_value(error).map_err(|e| odd(e.to_string()))?;
            Err(ApiError::Refused { subject: subject.to_owned(), code: err_code, description })
        }
    }
}

/// Sends a question, and gives the answer as it comes.
async fn request(
    client: &Client,
    subject: &str,
    payload: Vec<u8>,
    within: Duration,
) -> Result<Message, ApiError> {
    let to = format!("$JS.API.{subject}");
    let denied = denial(client, &to, None);
    let request = Request::new().payload(payload.into()).timeout(Some(within));
    tokio::select! {
        answer = client.send_request(to.clone(), request) => {
            answer.map_err(|source| ApiError::Silent { subject: subject.to_owned(), source })
        }
        denied = denied => Err(ApiError::Denied(denied)),
    }
}

/// Returns when the server says that nothing may be published to `subject`, or that the answer may not be heard: in `inbox`, or where
/// the client hears all answers. A question that is denied has no answer. What was said before the call does not count, but for
/// the last, which the server says once.
fn denial(client: &Client, subject: &str, inbox: Option<&str>) -> impl Future<Output = Denied> + use<> {
    let denials = link::denials_of(client).map(|denials| (denials.subscribe(), denials));
    let (subject, inbox) = (subject.to_owned(), inbox.map(str::to_owned));
    async move {
        let Some((mut told, denials)) = denials else { return std::future::pending().await };
        let deaf = async {
            if inbox.is_some() {
                return std::future::pending().await;
            }
            denials.deaf().await
        };
        let mut deaf = std::pin::pin!(deaf);
        loop {
            let denied = tokio::select! {
                denied = &mut deaf => return denied,
                denied = told.recv() => denied,
            };
            match denied {
                Ok(denied @ Denied::Publish { .. }) if denied.subject() == subject => return denied,
                Ok(denied @ Denied::Subscribe { .. }) if Some(denied.subject()) == inbox.as_deref() => {
                    return denied;
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

/// Messages of one answer to [`read_all`]; the next question goes on behind the last.
const READ_BATCH: u64 = 1_000;

/// Every message of a stream that `filter` matches, as stored now, by batched direct gets: no consumer is made, so it works
/// on a work queue too. Where each lay stands in its headers `Nats-Subject`, `Nats-Sequence` and `Nats-Time-Stamp`. For small
/// numbers: all of it is held in memory.
pub async fn read_all(client: &Client, stream: &str, filter: &str) -> Result<Vec<Message>, ApiError> {
    let (mut found, mut from) = (Vec::new(), 1u64);
    let mut gets = Gets::of(client, stream).await?;
    loop {
        let body = serde_json::json!({ "batch": READ_BATCH, "seq": from, "next_by_subj": filter });
        let left = gets.ask(&body, |answer| {
            from = header(&answer, "Nats-Sequence")
                .and_then(|seq| seq.parse().ok())
                .map_or(from, |seq: u64| seq + 1);
            found.push(answer);
        });
        if left.await? == 0 {
            return Ok(found);
        }
    }
}

/// The subject and sequence of the newest message of each subject that `filter` matches; nothing where there are more subjects
/// than the server says at once (1,024).
pub async fn newest_of_each(
    client: &Client,
    stream: &str,
    filter: &str,
) -> Result<Vec<(String, u64)>, ApiError> {
    let mut found = Vec::new();
    let body = serde_json::json!({ "multi_last": [filter] });
    let mut gets = Gets::of(client, stream).await?;
    let asked = gets.ask(&body, |answer| {
        let seq = header(&answer, "Nats-Sequence").and_then(|seq| seq.parse().ok());
        found.extend(header(&answer, "Nats-Subject").map(str::to_owned).zip(seq));
    });
    match asked.await {
        Ok(_) => Ok(found),
        Err(ApiError::Odd { what, .. }) if what == TOO_MANY => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The newest message on each subject that one of `filters` matches, as [`read_all`] gives it. For small numbers: more than 1,024
/// subjects are an error.
pub async fn newest_on(client: &Client, stream: &str, filters: &[String]) -> Result<Vec<Message>, ApiError> {
    let mut found = Vec::new();
    let body = serde_json::json!({ "multi_last": filters });
    Gets::of(client, stream).await?.ask(&body, |answer| found.push(answer)).await?;
    Ok(found)
}

/// What a batched direct get is refused with that would give too much.
const TOO_MANY: &str = "status 413";

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    Some(message.headers.as_ref()?.get(name)?.as_str())
}

/// Batched direct gets from one stream.
struct Gets {
    client: Client,
    subject: String,
    inbox: String,
    answers: async_nats::Subscriber,
    denied: BoxFuture<'static, Denied>,
}

impl Gets {
    async fn of(client: &Client, stream: &str) -> Result<Self, ApiError> {
        let (subject, inbox) = (format!("$JS.API.DIRECT.GET.{stream}"), client.new_inbox());
        // Before the subscription: it may be denied at once.
        let denied = denial(client, &subject, Some(&inbox)).boxed();
        let answers = client.subscribe(inbox.clone()).await;
        let answers = answers.map_err(|e| ApiError::Odd { subject: subject.clone(), what: e.to_string() })?;
        Ok(Self { client: client.clone(), subject, inbox, answers, denied })
    }

    /// Asks once, and gives each message; returns how many are left behind the last.
    async fn ask(&mut self, body: &Value, mut each: impl FnMut(Message)) -> Result<u64, ApiError> {
        let subject = self.subject.clone();
        let odd = |what: String| ApiError::Odd { subject: subject.clone(), what };
        let (to, reply) = (self.subject.clone(), self.inbox.clone());
        let asked = self.client.publish_with_reply(to, reply, body.to_string().into()).await;
        asked.map_err(|e| odd(e.to_string()))?;
        loop {
            let answer = tokio::select! {
                answer = tokio::time::timeout(TIMEOUT, self.answers.next()) => answer,
                denied = &mut self.denied => return Err(ApiError::Denied(denied)),
            };
            let answer =
                answer.map_err(|_| odd("no answer in time".into()))?.ok_or_else(|| odd("closed".into()))?;
            match answer.status {
                None => each(answer),
                Some(status) if status.as_u16() == 204 => {
                    return Ok(header(&answer, "Nats-Num-Pending").and_then(|n| n.parse().ok()).unwrap_or(0));
                }
                Some(StatusCode::NOT_FOUND) => return Ok(0),
                Some(status) => return Err(odd(format!("status {}", status.as_u16()))),
            }
        }
    }
}

/// The message at a sequence of a stream, by direct get; `None` when it is not there, or not yet at the replica that answers. Where
/// it lay stands in its headers, as [`read_all`] says.
pub async fn at(client: &Client, stream: &str, seq: u64) -> Result<Option<Message>, ApiError> {
    at_within(client, stream, seq, TIMEOUT).await
}

/// As [`at`], for whoever has less time.
pub(crate) async fn at_within(
    client: &Client,
    stream: &str,
    seq: u64,
    within: Duration,
) -> Result<Option<Message>, ApiError> {
    let subject = format!("DIRECT.GET.{stream}");
    let body = serde_json::json!({ "seq": seq }).to_string();
    let answer = request(client, &subject, body.into_bytes(), within).await?;
    match answer.status {
        None => Ok(Some(answer)),
        Some(StatusCode::NOT_FOUND) => Ok(None),
        Some(status) => Err(ApiError::Odd { subject, what: format!("status {}", status.as_u16()) }),
    }
}

/// When a message that [`at`] or [`read_all`] gave was stored.
pub fn stored_at(message: &Message) -> Option<Micros> {
    let time = header(message, "Nats-Time-Stamp")?;
    chrono::DateTime::parse_from_rfc3339(time).ok().map(|time| time.to_utc().into())
}

/// The newest message on a subject of a stream with its sequence. By the leader and not by direct get: a replica may be
/// behind.
pub async fn newest(
    client: &Client,
    stream: &str,
    subject: &str,
) -> Result<Option<(Vec<u8>, u64)>, ApiError> {
    let question = format!("STREAM.MSG.GET.{stream}");
    let answer = match ask(client, &question, &serde_json::json!({ "last_by_subj": subject })).await {
        Ok(answer) => answer,
        Err(error) if error.code() == Some(MESSAGE_NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    let data = answer.pointer("/message/data").and_then(Value::as_str).unwrap_or_default();
    let odd = |what: base64::DecodeError| ApiError::Odd { subject: question.clone(), what: what.to_string() };
    Ok(Some((BASE64.decode(data).map_err(odd)?, number(&answer, "message/seq").unwrap_or(0))))
}

/// Removes all messages of a stream on subjects that `filter` matches.
pub async fn purge(client: &Client, stream: &str, filter: &str) -> Result<(), ApiError> {
    let body = serde_json::json!({ "filter": filter });
    ask(client, &format!("STREAM.PURGE.{stream}"), &body).await.map(drop)
}

/// An unsigned number inside an answer, by a path such as `state/last_seq`.
pub fn number(answer: &Value, path: &str) -> Option<u64> {
    answer.pointer(&format!("/{path}")).and_then(Value::as_u64)
}
