//! What becomes of a published message, and how the server says so.

use async_nats::{Message, StatusCode};
use serde::Deserialize;

use crate::denied::Denied;

const STORE_FAILED: u64 = 10_077;
/// The message is over the stream's own limit.
const OVER_LIMIT: u64 = 10_054;
/// Its headers are over [`HEADERS_MAX`].
const HEADERS_OVER_LIMIT: u64 = 10_097;
const DUPLICATE_IN_PROCESS: u64 = 10_158;
const SUBJECT_IN_PROCESS: u64 = 10_164;
const TOO_MANY_REQUESTS: u64 = 10_167;

/// What the headers of a message may take in a stream, in bytes; a header of core NATS may be longer.
pub const HEADERS_MAX: usize = 65_535;

/// Where a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub seq: u64,
    /// True when an earlier message with the same id was there already; `seq` is that one's.
    pub duplicate: bool,
}

/// Why a message was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No stream takes this subject: the region, model or lane is unknown.
    #[error("no stream takes subject `{0}`: unknown region, model or lane")]
    NoStream(String),
    /// The stream is full of unfinished work; publish again later.
    #[error("the stream behind `{subject}` is full ({reason}); publish again when it has drained")]
    Full {
        /// Where.
        subject: String,
        /// Which limit.
        reason: String,
    },
    /// The user of this connection may not publish there, or may not hear the acknowledgement. Nothing was stored, unless the
    /// permission was taken away in that very moment.
    #[error("the server does not permit this user to {0}")]
    NotPermitted(Denied),
    /// No answer within the caller's patience. It may still be stored: publish again with the same id.
    #[error("no acknowledgement for `{0}` in time; it may be stored, so publish again with the same id")]
    Unknown(String),
    /// The server said no.
    #[error("the server refused `{subject}`: {reason} (code {code})")]
    Refused {
        /// Where.
        subject: String,
        /// The server's code.
        code: u64,
        /// The server's words.
        reason: String,
    },
    /// It is larger than the server or the stream takes, headers included, or its headers are. It never becomes smaller.
    #[error("a message of {bytes} bytes to `{subject}`, of them {headers} of headers, is too large")]
    TooLarge {
        /// Where.
        subject: String,
        /// How large.
        bytes: usize,
        /// How much of it are headers; at most [`HEADERS_MAX`].
        headers: usize,
    },
    /// The client cannot send it: the connection is closed for good.
    #[error("cannot send to `{subject}`: {reason}")]
    Client {
        /// Where.
        subject: String,
        /// Why.
        reason: String,
    },
}

/// An answer of the server.
pub(super) enum Answer {
    /// The last word.
    Settled(Result<Stored, PublishError>),
    /// Nobody takes the subject now: there is no such stream, or it has no leader for a moment.
    NoStream,
    /// The stream takes no message of this size, or no headers of their size.
    TooLarge,
    /// The server is at it, or has too much to do: ask again soon.
    Busy,
}

#[derive(Deserialize)]
struct PubAck<'a> {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(borrow, default)]
    error: Option<PubAckError<'a>>,
}

#[derive(Deserialize)]
struct PubAckError<'a> {
    #[serde(default)]
    err_code: u64,
    #[serde(borrow, default)]
    description: std::borrow::Cow<'a, str>,
}

/// Reads the acknowledgement of a message that was published to `subject`.
pub(super) fn read(subject: &str, ack: &Message) -> Answer {
    if ack.status == Some(StatusCode::NO_RESPONDERS) {
        return Answer::NoStream;
    }
    let refused = |code, reason: &str| Answer::Settled(Err(refusal(subject, code, reason)));
    match serde_json::from_slice::<PubAck<'_>>(&ack.payload) {
        Ok(PubAck { error: None, seq, duplicate }) => Answer::Settled(Ok(Stored { seq, duplicate })),
        Ok(PubAck { error: Some(error), .. }) => match error.err_code {
            DUPLICATE_IN_PROCESS | SUBJECT_IN_PROCESS | TOO_MANY_REQUESTS => Answer::Busy,
            OVER_LIMIT | HEADERS_OVER_LIMIT => Answer::TooLarge,
            code => refused(code, &error.description),
        },
        Err(error) => refused(0, &error.to_string()),
    }
}

fn refusal(subject: &str, code: u64, reason: &str) -> PublishError {
    let (subject, reason) = (subject.to_owned(), reason.to_owned());
    if code == STORE_FAILED {
        PublishError::Full { subject, reason }
    } else {
        PublishError::Refused { subject, code, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_never_becomes_smaller_is_too_large_and_not_refused_for_now() {
        for code in [OVER_LIMIT, HEADERS_OVER_LIMIT] {
            let text = format!(
                r#"{{"error":{{"code":400,"err_code":{code},"description":"x"}},"stream":"S","seq":0}}"#
            );
            let ack = Message {
                subject: "ack".into(),
                reply: None,
                length: text.len(),
                payload: text.into(),
                headers: None,
                status: None,
                description: None,
            };
            assert!(matches!(read("s", &ack), Answer::TooLarge), "{code}");
        }
    }
}
