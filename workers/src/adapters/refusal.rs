//! The meaning of a server's error: status first, `type` or `code` second, never the message alone. Pure.
//!
//! Every server words errors in its own way, and a proxy in front may answer anything; see [`Said::read`]. The one
//! exception to "never the message" is memory: no server has a code for an accelerator that is full.

use std::time::Duration;

use reqwest::Response;
use schemas::{
    failure::{Failure, FailureClass as C},
    job::Input,
};
use serde_json::{Map, Value};

use super::{dialect::Dialect, http, words::plain};

/// How much of a page that is no error object is repeated.
const PAGE_MAX: usize = 200;

/// A text of the job's input shorter than this may stand in a message by chance, and reveals nothing.
const INPUT_MIN: usize = 12;

/// Errors lie in errors; deeper than this there is nothing meant for us.
const DEPTH_MAX: usize = 4;

/// The longest wait that a body may ask for, seconds.
const WAIT_MAX: f64 = 3_600.0;

/// An error as far as it could be read.
#[derive(Debug, Default, PartialEq)]
struct Said {
    message: String,
    /// What it calls itself, in one way of writing; the most particular first.
    words: Vec<String>,
    /// A status in the body; in a stream it is the only one.
    status: Option<u16>,
    /// TGI's frames carry 422 whatever happened.
    tgi_frame: bool,
    /// The wait that a field asks for.
    wait: Option<Duration>,
}

impl Said {
    /// Reads an object or a text under `error`, a flat object (SGLang, TGI), FastAPI's `detail`, a problem (RFC 9457), a list
    /// of `errors`, or else plain text.
    fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(Value::Array(list)) if list.first().is_some_and(Value::is_object) => Self::value(&list[0]),
            Ok(value @ Value::Object(_)) => Self::value(&value),
            Ok(_) | Err(_) => {
                Self { message: one_line(&String::from_utf8_lossy(body), PAGE_MAX), ..Self::default() }
            }
        }
    }

    fn value(value: &Value) -> Self {
        let (objects, text) = layers(value);
        // FastAPI's list repeats the input; its `msg` does not.
        let messages = ["message", "error", "msg", "detail", "error_message", "error_msg", "title"];
        let message = objects.iter().find_map(|object| messages.iter().find_map(|key| words_of(object, key)));
        let texts = |keys: &'static [&str]| {
            objects.iter().flat_map(move |object| keys.iter().filter_map(|key| object.get(*key)?.as_str()))
        };
        let numbers = |keys: &'static [&str]| {
            objects.iter().flat_map(move |object| keys.iter().filter_map(|key| number_of(object.get(*key)?)))
        };
        let words = texts(&["code", "error_code", "type", "error_type", "status", "reason", "title"]);
        let statuses = numbers(&["code", "status", "status_code", "statusCode", "http_code", "error_code"]);
        let seconds = numbers(&["retry_after", "retry_after_seconds", "retryAfter"]);
        let millis = numbers(&["retry_after_ms", "retryAfterMs"]).map(|ms| ms / 1e3);
        let wait = seconds
            .chain(millis)
            .find(|wait| *wait >= 0.0)
            .map(|wait| Duration::from_secs_f64(wait.min(WAIT_MAX)));
        Self {
            message: one_line(message.or(text).as_deref().unwrap_or_default(), schemas::failure::MESSAGE_MAX),
            words: words.map(plain).filter(|word| !word.is_empty()).collect(),
            status: statuses.into_iter().find(|n| (400.0..600.0).contains(n) && n.fract() == 0.0).map(|n| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "the range is checked before"
                )]
                {
                    n as u16
                }
            }),
            tgi_frame: objects.iter().any(|object| object.contains_key("http_status_code")),
            wait,
        }
    }

    /// The class that `code` or `type` tell by themselves.
    fn class(&self) -> Option<C> {
        self.words.iter().find_map(|word| match word.strip_suffix("_error").unwrap_or(word) {
            "bad_request"
            | "unprocessable_entity"
            | "invalid_request"
            | "invalid_argument"
            | "invalid_parameter"
            | "exceed_context_size"
            | "context_length_exceeded"
            | "string_above_max_length"
            | "validation"
            | "template" => Some(C::InvalidRequest),
            // OpenAI answers 429 when the credit is used up. Waiting does not help; a person must act.
            "authentication"
            | "invalid_api_key"
            | "api_key_invalid"
            | "permission"
            | "permission_denied"
            | "unauthenticated"
            | "unauthorized"
            | "insufficient_quota"
            | "billing_hard_limit_reached" => Some(C::Authentication),
            "not_found" | "model_not_found" | "not_supported" | "not_implemented" | "unimplemented" => {
                Some(C::Misconfigured)
            }
            // OpenAI's type of a limit on rates says what is limited: tokens or requests.
            "rate_limit"
            | "rate_limited"
            | "rate_limit_exceeded"
            | "rate_limit_reached"
            | "too_many_requests"
            | "tokens"
            | "requests"
            | "resource_exhausted"
            | "throttled"
            | "throttling"
            | "throttling_exception" => Some(C::RateLimited),
            "overloaded" | "engine_overloaded" | "model_overloaded" | "unavailable" | "server_busy"
            | "queue_full" => Some(C::Capacity),
            "content_filter" | "content_policy_violation" | "data_inspection_failed" => Some(C::Refused),
            "out_of_memory" | "cuda_out_of_memory" => Some(C::OutOfMemory),
            _ => None,
        })
    }

    fn is_out_of_memory(&self) -> bool {
        self.message.to_ascii_lowercase().contains("out of memory")
    }

    fn is_edge(&self) -> bool {
        self.message.starts_with("modal-http:")
    }
}

/// Reads an answer whose status is no success: the status, and the failure it means.
pub(super) async fn read(response: Response, dialect: Dialect) -> (u16, Failure) {
    let status = response.status().as_u16();
    let wait = http::retry_after(response.headers());
    let body = http::error_body(response).await;
    (status, refused(status, &body, wait, dialect))
}

/// The failure that a status other than 2xx means.
///
/// A 503 with `Retry-After` is taken as "slow down" and not as "down": it says when the server expects to be back
/// (RFC 9110, 15.6.4), and only [`C::RateLimited`] closes a pool for exactly that long.
pub(super) fn refused(status: u16, body: &[u8], wait: Option<Duration>, dialect: Dialect) -> Failure {
    let said = Said::read(body);
    let class = of_status(status, &said, dialect);
    let class = if status == 503 && wait.is_some() { C::RateLimited } else { class };
    let message = match said.message.as_str() {
        "" => format!("status {status}"),
        text => format!("status {status}: {text}"),
    };
    Failure::new(class, message).after(wait_of(class, wait, &said))
}

/// How long to stay away: by the header, a field or the sentence. It means something only to the two classes that say "not now".
fn wait_of(class: C, header: Option<Duration>, said: &Said) -> Option<Duration> {
    let wait = header.or(said.wait).or_else(|| resets_in(&said.message));
    wait.filter(|_| matches!(class, C::RateLimited | C::Capacity))
}

/// The objects of an error, innermost first: what lies under `error`, `errors` and `detail` is more particular than what is around
/// it. Beside them the text where one stands in an object's place.
fn layers(value: &Value) -> (Vec<Map<String, Value>>, Option<String>) {
    let (mut objects, mut text, mut next) = (Vec::new(), None, Some(value.clone()));
    while let Some(value) = next.take().filter(|_| objects.len() < DEPTH_MAX) {
        let value = match value {
            // An object that somebody made a text.
            Value::String(text) if text.trim_start().starts_with('{') => {
                serde_json::from_str(&text).unwrap_or(Value::String(text))
            }
            Value::Array(list) => list.into_iter().next().unwrap_or_default(),
            other => other,
        };
        match value {
            Value::Object(object) => {
                let inner = ["error", "errors", "detail"]
                    .into_iter()
                    .find_map(|key| object.get(key).filter(|inner| is_more(inner)));
                next = inner.cloned();
                objects.insert(0, object);
            }
            Value::String(words) => text = Some(words),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
        }
    }
    (objects, text)
}

/// Whether a value under `error` is, or holds, another object or a text.
fn is_more(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::String(text) => text.trim_start().starts_with('{'),
        Value::Array(list) => !list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn words_of(object: &Map<String, Value>, key: &str) -> Option<String> {
    object.get(key)?.as_str().filter(|words| !words.is_empty()).map(str::to_owned)
}

/// A number, or a text of digits.
fn number_of(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number: &f64| number.is_finite())
}

fn of_status(status: u16, said: &Said, dialect: Dialect) -> C {
    match status {
        // Modal's edge refuses what never reached the app: the address is wrong, not the job.
        400 | 422 if said.is_edge() => C::Misconfigured,
        400 | 413 | 422 => match said.class() {
            // A key or a model that nobody knows is the pool's fault, and not the job's.
            Some(class @ (C::Refused | C::Authentication | C::Misconfigured)) => class,
            _ => C::InvalidRequest,
        },
        403 if said.class() == Some(C::Refused) => C::Refused,
        401..=403 => C::Authentication,
        408 => C::Timeout,
        429 => match said.class() {
            // TGI says so above its limit of concurrent requests: there is no rate to keep.
            Some(class @ (C::Capacity | C::Authentication)) => class,
            _ => C::RateLimited,
        },
        501 => C::Misconfigured,
        503 | 529 => match (said.class(), dialect) {
            // llama.cpp while it loads. Ollama answers 503 only when its queue is full.
            (Some(C::Capacity), _) | (_, Dialect::Ollama) => C::Capacity,
            _ => C::ProviderDown,
        },
        500..=599 if said.is_out_of_memory() => C::OutOfMemory,
        // TGI answers 424 when the generation failed, Ollama 499 when somebody else took the request back. The others may pass.
        409 | 423..=425 | 499 | 500..=599 => C::ProviderDown,
        // 404, 405, a redirect, an unexpected 2xx: the pool's address is not such a server.
        _ => C::Misconfigured,
    }
}

/// The seconds in "Your rate limit resets in ~30s."; Replicate tells them nowhere else. At most an hour.
fn resets_in(message: &str) -> Option<Duration> {
    let digits = message.split("resets in ~").nth(1)?;
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u64>().ok().map(|seconds| Duration::from_secs(seconds.min(3_600)))
}

/// The failure that an error object inside an answer with status 200 means.
pub(super) fn inside(error: &Value, dialect: Dialect) -> Failure {
    let said = match error {
        Value::String(text) if !text.trim_start().starts_with('{') => {
            Said { message: one_line(text, PAGE_MAX), ..Said::default() }
        }
        other => Said::value(other),
    };
    let class = match said.status {
        _ if said.tgi_frame => C::ProviderDown,
        Some(status) => of_status(status, &said, dialect),
        None => said.class().unwrap_or(C::ProviderDown),
    };
    let class = if class == C::ProviderDown && said.is_out_of_memory() { C::OutOfMemory } else { class };
    let message = if said.message.is_empty() { "an error without a message" } else { &said.message };
    Failure::new(class, message).after(wait_of(class, None, &said))
}

/// The same failure without the job's input, which a server that refuses a prompt may repeat.
pub(super) fn without_input(mut failure: Failure, input: &Input) -> Failure {
    let texts: Vec<&str> = match input {
        Input::Prompt(text) => vec![text],
        Input::Messages(messages) => messages.iter().map(|m| m.content.as_str()).collect(),
    };
    for text in texts {
        let text = one_line(text, usize::MAX);
        // A message that was cut short may hold only the beginning.
        let start: String = text.chars().take(INPUT_MIN * 4).collect();
        for part in [text.as_str(), start.as_str()] {
            if part.chars().count() >= INPUT_MIN {
                failure.message = failure.message.replace(part, "…");
            }
        }
    }
    failure
}

/// At most `max` characters, with each run of blanks and control characters as one blank.
fn one_line(text: &str, max: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(max).collect()
}

#[cfg(test)]
mod tests;
