//! Numbers that many add to at once, in a stream with `allow_msg_counter` (ADR-49): a message's header `Nats-Incr` is added
//! to the total of its subject, and the answer says what the total was then. There is no adding on condition.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Request, StatusCode};
use schemas::{headers, topology::BUDGETS};
use serde::Deserialize;

use crate::api::{self, ApiError};

/// What a message adds.
const INCREMENT: &str = "Nats-Incr";

/// A leader election takes a few seconds; whoever asks tries again.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to a stored message, as far as a counter goes. Totals are big integers and come as text.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    val: Option<String>,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// A stored message of a counter.
#[derive(Deserialize)]
struct Total {
    val: String,
}

/// Adds `delta` to a counter of `BUDGETS` and gives its total right after, or a later one.
///
/// A message id counts once within the stream's duplicate window, so after an error the same call may be made again. A
/// total below zero, which only a purge can bring about, is given as zero.
///
/// Cancel-safe in the sense that a dropped call may or may not have counted.
pub async fn add(client: &Client, subject: &str, delta: i64, message_id: &str) -> Result<u64, ApiError> {
    let mut map = HeaderMap::new();
    map.insert(INCREMENT, format!("{delta:+}"));
    map.insert(headers::MESSAGE_ID, message_id);
    let request = Request::new().headers(map).timeout(Some(TIMEOUT));
    let silent = |source| ApiError::Silent { subject: subject.to_owned(), source };
    let answer = client.send_request(subject.to_owned(), request).await.map_err(silent)?;
    let odd = |what: String| ApiError::Odd { subject: subject.to_owned(), what };
    let Answer { val, duplicate, error } =
        serde_json::from_slice(&answer.payload).map_err(|e| odd(e.to_string()))?;
    if let Some(Refusal { err_code: code, description }) = error {
        return Err(ApiError::Refused { subject: subject.to_owned(), code, description });
    }
    match val {
        Some(val) if !duplicate => total(subject, &val),
        // Counted already; the answer to that call is lost. By the leader: a replica may not have it yet, and the caller
        // must not be told a total from before.
        _ => match api::newest(client, BUDGETS, subject).await? {
            Some((body, _)) => stored(subject, &body),
            None => Err(odd("a message that was counted is not there".into())),
        },
    }
}

/// The total of a counter of `BUDGETS`, zero for one that nobody has added to. By direct get, so it may be a moment old.
pub async fn read(client: &Client, subject: &str) -> Result<u64, ApiError> {
    let question = format!("$JS.API.DIRECT.GET.{BUDGETS}.{subject}");
    let request = Request::new().timeout(Some(TIMEOUT));
    let silent = |source| ApiError::Silent { subject: question.clone(), source };
    let answer = client.send_request(question.clone(), request).await.map_err(silent)?;
    match answer.status {
        None => stored(subject, &answer.payload),
        Some(StatusCode::NOT_FOUND) => Ok(0),
        Some(status) => Err(ApiError::Odd { subject: question, what: format!("status {status}") }),
    }
}

fn stored(subject: &str, body: &[u8]) -> Result<u64, ApiError> {
    let odd = |e: serde_json::Error| ApiError::Odd { subject: subject.to_owned(), what: e.to_string() };
    let Total { val } = serde_json::from_slice(body).map_err(odd)?;
    total(subject, &val)
}

fn total(subject: &str, text: &str) -> Result<u64, ApiError> {
    let number: i128 = text
        .parse()
        .map_err(|_| ApiError::Odd { subject: subject.to_owned(), what: format!("total `{text}`") })?;
    Ok(u64::try_from(number.max(0)).unwrap_or(u64::MAX))
}
