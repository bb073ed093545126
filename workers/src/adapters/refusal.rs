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
use serde_json::Value;

use super::{dialect::Dialect, http};

/// How much of a page that is no error object is repeated.
const PAGE_MAX: usize = 200;

/// A text of the job's input shorter than this may stand in a message by chance, and reveals nothing.
const INPUT_MIN: usize = 12;

/// An error as far as it could be read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    message: String,
    kind: String,
    code: String,
    /// A status in the body; in a stream it is the only one.
    status: Option<u16>,
    /// TGI's frames carry 422 whatever happened.
    tgi_frame: bool,
}

impl Said {
    /// Reads an object or a text under `error`, a flat object (SGLang, TGI), FastAPI's `detail`, or else plain text.
    fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value @ Value::Object(_)) => Self::value(&value),
            Ok(_) | Err(_) => {
                Self { message: one_line(&String::from_utf8_lossy(body), PAGE_MAX), ..Self::default() }
            }
        }
    }

    fn value(value: &Value) -> Self {
        let inner = value.get("error").filter(|e| e.is_object()).unwrap_or(value);
        let text = |key: &str| inner.get(key).and_then(Value::as_str);
        // FastAPI's list repeats the input; its `msg` does not.
        let detail = inner.get("detail").and_then(|d| d.as_str().or_else(|| d.get(0)?.get("msg")?.as_str()));
        let message = text("message").or_else(|| text("error")).or(detail).unwrap_or_default();
        let code = inner.get("code");
        let number = code.and_then(Value::as_u64);
        Self {
            message: one_line(message, schemas::failure::MESSAGE_MAX),
            kind: text("type").or_else(|| text("error_type")).unwrap_or_default().to_owned(),
            code: code.and_then(Value::as_str).unwrap_or_default().to_owned(),
            status: number.and_then(|n| u16::try_from(n).ok()).filter(|n| (400..600).contains(n)),
            tgi_frame: inner.get("http_status_code").is_some(),
        }
    }

    /// The class that `code` or `type` tell by themselves.
    fn class(&self) -> Option<C> {
        [&self.code, &self.kind].into_iter().find_map(|word| match word.as_str() {
            "BadRequestError"
            | "UnprocessableEntityError"
            | "invalid_request_error"
            | "exceed_context_size_error"
            | "context_length_exceeded"
            | "validation"
            | "template_error" => Some(C::InvalidRequest),
            // OpenAI answers 429 when the credit is used up. Waiting does not help; a person must act.
            "authentication_error" | "invalid_api_key" | "permission_error" | "insufficient_quota" => {
                Some(C::Authentication)
            }
            "not_found_error"
            | "NotFoundError"
            | "model_not_found"
            | "not_supported_error"
            | "NotImplementedError" => Some(C::Misconfigured),
            "rate_limit_error" | "rate_limit_exceeded" => Some(C::RateLimited),
            "overloaded" | "overloaded_error" | "unavailable_error" => Some(C::Capacity),
            "content_filter" | "content_policy_violation" => Some(C::Refused),
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
    let wait = wait.or_else(|| resets_in(&said.message));
    // A wait means something only to the two classes that say "not now".
    let wait = wait.filter(|_| matches!(class, C::RateLimited | C::Capacity));
    Failure::new(class, message).after(wait)
}

fn of_status(status: u16, said: &Said, dialect: Dialect) -> C {
    match status {
        // Modal's edge refuses what never reached the app: the address is wrong, not the job.
        400 | 422 if said.is_edge() => C::Misconfigured,
        400 | 413 | 422 => match said.class() {
            Some(C::Refused) => C::Refused,
            _ => C::InvalidRequest,
        },
        401..=403 => C::Authentication,
        408 => C::Timeout,
        429 => match said.class() {
            // TGI says so above its limit of concurrent requests: there is no rate to keep.
            Some(class @ (C::Capacity | C::Authentication)) => class,
            _ => C::RateLimited,
        },
        501 => C::Misconfigured,
        503 => match (said.class(), dialect) {
            // llama.cpp while it loads. Ollama answers 503 only when its queue is full.
            (Some(C::Capacity), _) | (_, Dialect::Ollama) => C::Capacity,
            _ => C::ProviderDown,
        },
        500..=599 if said.is_out_of_memory() => C::OutOfMemory,
        // TGI answers 424 when the generation failed.
        424 | 500..=599 => C::ProviderDown,
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
        Value::String(text) => Said { message: one_line(text, PAGE_MAX), ..Said::default() },
        other => Said::value(other),
    };
    let class = match said.status {
        _ if said.tgi_frame => C::ProviderDown,
        Some(status) => of_status(status, &said, dialect),
        None => said.class().unwrap_or(C::ProviderDown),
    };
    let class = if class == C::ProviderDown && said.is_out_of_memory() { C::OutOfMemory } else { class };
    let message = if said.message.is_empty() { "an error without a message" } else { &said.message };
    Failure::new(class, message)
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
mod tests {
    use super::*;
    use schemas::job::Message;

    fn check(status: u16, body: &str, class: C) {
        for dialect in [Dialect::OpenAi, Dialect::Vllm, Dialect::LlamaCpp, Dialect::Tgi, Dialect::SgLang] {
            assert_eq!(refused(status, body.as_bytes(), None, dialect).class, class, "{status} {body}");
        }
    }

    #[test]
    fn the_table_of_statuses_holds_whatever_the_body_is() {
        for (status, class) in [
            (400, C::InvalidRequest),
            (401, C::Authentication),
            (402, C::Authentication),
            (403, C::Authentication),
            (404, C::Misconfigured),
            (405, C::Misconfigured),
            (408, C::Timeout),
            (413, C::InvalidRequest),
            (422, C::InvalidRequest),
            (424, C::ProviderDown),
            (429, C::RateLimited),
            (500, C::ProviderDown),
            (501, C::Misconfigured),
            (502, C::ProviderDown),
            (503, C::ProviderDown),
            (504, C::ProviderDown),
            (302, C::Misconfigured),
        ] {
            for body in ["", "{}", "[]", "null", "<html>502</html>", r#"{"error":"x"}"#, "\u{0}"] {
                check(status, body, class);
            }
        }
    }

    #[test]
    fn a_type_refines_what_the_status_says() {
        check(429, r#"{"error":"Model is overloaded","error_type":"overloaded"}"#, C::Capacity);
        check(429, r#"{"error":{"message":"pay","code":"insufficient_quota"}}"#, C::Authentication);
        let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
        check(503, loading, C::Capacity);
        check(503, r#"{"error":"unhealthy","error_type":"healthcheck"}"#, C::ProviderDown);
        check(500, r#"{"error":{"message":"CUDA out of memory. Tried"}}"#, C::OutOfMemory);
        check(400, r#"{"error":{"message":"no","code":"content_filter"}}"#, C::Refused);
        check(400, r#"{"error":{"message":"out of memory of my own"}}"#, C::InvalidRequest);
        check(404, "modal-http: invalid function call", C::Misconfigured);
        check(400, "modal-http: bad request", C::Misconfigured);
        let busy = r#"{"error":{"message":"server busy, please try again.","type":"api_error"}}"#;
        assert_eq!(refused(503, busy.as_bytes(), None, Dialect::Ollama).class, C::Capacity);
    }

    #[test]
    fn a_wait_is_kept_where_waiting_helps() {
        let wait = Some(Duration::from_secs(2));
        let check = |status, class, us| {
            let failure = refused(status, b"", wait, Dialect::Vllm);
            assert_eq!((failure.class, failure.retry_after_us), (class, us));
        };
        check(429, C::RateLimited, Some(2_000_000));
        check(503, C::RateLimited, Some(2_000_000));
        check(500, C::ProviderDown, None);
    }

    #[test]
    fn an_error_inside_an_answer_is_told_by_its_code_then_by_its_type() {
        for (error, class) in [
            (r#"{"message":"x","type":"InternalServerError","param":null,"code":500}"#, C::ProviderDown),
            (r#"{"code":400,"message":"x","type":"exceed_context_size_error"}"#, C::InvalidRequest),
            (r#"{"message":"x","http_status_code":422}"#, C::ProviderDown),
            (r#"{"error":"x","error_type":"overloaded"}"#, C::Capacity),
            (r#"{"object":"error","message":"x","type":"BadRequestError","code":400}"#, C::InvalidRequest),
            (r#"{"message":"x","code":"rate_limit_exceeded"}"#, C::RateLimited),
            (r#"{"message":"CUDA out of memory","code":500}"#, C::OutOfMemory),
            (r#""text""#, C::ProviderDown),
            ("{}", C::ProviderDown),
        ] {
            assert_eq!(inside(&serde_json::from_str(error).unwrap(), Dialect::Vllm).class, class, "{error}");
        }
    }

    #[test]
    fn messages_are_found_in_every_shape() {
        for body in [
            r#"{"error":{"message":"it broke"}}"#,
            r#"{"error":"it broke"}"#,
            r#"{"object":"error","message":"it broke","code":500}"#,
            r#"{"detail":"it broke"}"#,
            r#"{"detail":[{"loc":["body"],"msg":"it broke","input":"my secret"}]}"#,
            " it\n\tbroke ",
        ] {
            let failure = refused(500, body.as_bytes(), None, Dialect::Vllm);
            assert_eq!(failure.message, "status 500: it broke", "{body}");
        }
    }

    #[test]
    fn the_input_never_travels_in_a_message() {
        let content = "my account number\nis 1234".to_owned();
        let input = Input::Messages(vec![Message { role: "user".to_owned(), content }]);
        let body = r#"{"error":{"message":"bad input: my account number\nis 1234, sorry"}}"#;
        let failure = without_input(refused(400, body.as_bytes(), None, Dialect::Vllm), &input);
        assert_eq!(failure.message, "status 400: bad input: …, sorry");
    }

    #[test]
    fn the_wait_stands_in_the_sentence() {
        let sentence = "Request was throttled. Your rate limit resets in ~30s.";
        assert_eq!(resets_in(sentence), Some(Duration::from_secs(30)));
        assert_eq!(resets_in("Request was throttled."), None);
    }
}
