//! Questions to the JetStream API, as JSON. The typed client knows fewer fields than the server.

use std::time::Duration;

use async_nats::{Client, Request, client::RequestErrorKind};
use serde::Deserialize;
use serde_json::Value;

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
            Self::Silent { .. } | Self::Odd { .. } => None,
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
    let request = Request::new().payload(payload.into()).timeout(Some(TIMEOUT));
    let answer = client
        .send_request(format!("$JS.API.{subject}"), request)
        .await
        .map_err(|source| ApiError::Silent { subject: subject.to_owned(), source })?;
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

/// An unsigned number inside an answer, by a path such as `state/last_seq`.
pub fn number(answer: &Value, path: &str) -> Option<u64> {
    answer.pointer(&format!("/{path}")).and_then(Value::as_u64)
}
