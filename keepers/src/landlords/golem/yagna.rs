//! Calls to yagna's REST, and what its statuses mean. Pages and implementation differ in 200, 201 and 204: any of them is good.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode, header::HeaderValue};
use serde::{Serialize, de::DeserializeOwned};

use super::wire::Trouble;
use crate::{
    landlord::CallError,
    landlords::http::{self, Answer},
    secret::Secret,
};

/// How much longer than yagna itself we wait for the end of a long poll.
const SLACK: Duration = Duration::from_secs(5);

/// An answer, sorted by what a caller can do about it.
#[derive(Debug)]
pub(super) enum Said {
    /// 2xx.
    Good(Answer),
    /// 400, with its text.
    Bad(Trouble),
    /// 404.
    NotFound,
    /// 408, 504: the other side was slow. It may have been done.
    Slow,
    /// 409.
    Conflict(String),
    /// 410: it is over.
    Over(String),
}

/// The daemon.
pub(super) struct Yagna {
    base: String,
    key: HeaderValue,
    secret: Secret,
    client: Client,
}

impl Yagna {
    pub(super) fn new(url: &str, key: &Secret) -> Result<Self, CallError> {
        let header = key.header("Bearer ");
        let header =
            header.ok_or_else(|| CallError::Misconfigured("golem: the app key is no header".into()))?;
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            return Err(CallError::Misconfigured(format!("golem: url {base} must begin with http://")));
        }
        Ok(Self { base, key: header, secret: key.clone(), client: http::client()? })
    }

    /// The header that opens every door.
    pub(super) fn key(&self) -> HeaderValue {
        self.key.clone()
    }

    /// The URL of a WebSocket.
    pub(super) fn socket(&self, path: &str) -> String {
        format!("ws{}{path}", self.base.strip_prefix("http").unwrap_or(&self.base))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.base))
            .header(reqwest::header::AUTHORIZATION, self.key.clone())
    }

    async fn send(&self, request: RequestBuilder, held: Duration, what: &str) -> Result<Said, CallError> {
        let answer = if held.is_zero() {
            http::call(request).await?
        } else {
            http::call_within(request, held + SLACK).await?
        };
        self.sort(answer, what)
    }

    fn sort(&self, answer: Answer, what: &str) -> Result<Said, CallError> {
        if answer.status.is_success() {
            return Ok(Said::Good(answer));
        }
        let shown = || format!("{what}: {} {}", answer.status.as_u16(), self.secret.scrub(&answer.text()));
        let trouble: Trouble = serde_json::from_slice(&answer.body).unwrap_or_default();
        let message = trouble.message.clone().unwrap_or_default();
        match answer.status {
            StatusCode::BAD_REQUEST => Ok(Said::Bad(Trouble { message: Some(shown()), kind: trouble.kind })),
            StatusCode::NOT_FOUND => Ok(Said::NotFound),
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Ok(Said::Slow),
            StatusCode::CONFLICT => Ok(Said::Conflict(message)),
            StatusCode::GONE => Ok(Said::Over(message)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(CallError::Authentication(shown())),
            StatusCode::TOO_MANY_REQUESTS => Err(CallError::RateLimited(shown(), answer.retry_after())),
            _ => Err(CallError::Unclear(shown())),
        }
    }

    pub(super) async fn get(&self, path: &str, held: Duration) -> Result<Said, CallError> {
        self.send(self.request(Method::GET, path), held, &what("GET", path)).await
    }

    pub(super) async fn post<T: Serialize + Sync>(
        &self,
        path: &str,
        body: &T,
        held: Duration,
    ) -> Result<Said, CallError> {
        self.send(self.request(Method::POST, path).json(body), held, &what("POST", path)).await
    }

    /// A POST without a body.
    pub(super) async fn poke(&self, path: &str, held: Duration) -> Result<Said, CallError> {
        self.send(self.request(Method::POST, path), held, &what("POST", path)).await
    }

    pub(super) async fn put<T: Serialize + Sync>(&self, path: &str, body: &T) -> Result<Said, CallError> {
        self.send(self.request(Method::PUT, path).json(body), Duration::ZERO, &what("PUT", path)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Said, CallError> {
        self.send(self.request(Method::DELETE, path), Duration::ZERO, &what("DELETE", path)).await
    }

    /// A GET that must be answered with JSON.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.get(path, Duration::ZERO).await?.json(&what("GET", path))
    }
}

impl Said {
    /// The body of a good answer; anything else is an error.
    pub(super) fn json<T: DeserializeOwned>(self, what: &str) -> Result<T, CallError> {
        match self {
            Self::Good(answer) => answer.json(),
            other => Err(other.unexpected(what)),
        }
    }

    /// That the answer was good; anything else is an error.
    pub(super) fn good(self, what: &str) -> Result<(), CallError> {
        match self {
            Self::Good(_) => Ok(()),
            other => Err(other.unexpected(what)),
        }
    }

    /// An answer with which nothing can be done here.
    pub(super) fn unexpected(self, what: &str) -> CallError {
        match self {
            Self::Good(answer) => CallError::Unclear(format!("{what}: {}", answer.status)),
            Self::Bad(trouble) => CallError::Misconfigured(trouble.message.unwrap_or_default()),
            Self::NotFound => CallError::Unclear(format!("{what}: 404, not found")),
            Self::Slow => CallError::Unclear(format!("{what}: the other side did not answer in time")),
            Self::Conflict(text) => CallError::Unclear(format!("{what}: 409 {text}")),
            Self::Over(text) => CallError::Unclear(format!("{what}: 410 {text}")),
        }
    }
}

/// A call in messages, without its query.
fn what(method: &str, path: &str) -> String {
    format!("{method} {}", path.split('?').next().unwrap_or(path))
}

/// A span in a query: seconds, with decimals.
pub(super) fn seconds(span: Duration) -> String {
    format!("{}.{:03}", span.as_secs(), span.subsec_millis())
}

/// A text in a query.
pub(super) fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_a_query() {
        assert_eq!(escaped("2026-11-23T09:00:00+00:00"), "2026-11-23T09%3A00%3A00%2B00%3A00");
        assert_eq!(seconds(Duration::from_millis(2_500)), "2.500");
    }

    #[test]
    fn a_socket_goes_where_the_rest_goes() {
        let yagna = Yagna::new("http://127.0.0.1:7465/", &Secret::new("k")).unwrap();
        assert_eq!(yagna.socket("/net-api/v1/net/n/tcp/i/1"), "ws://127.0.0.1:7465/net-api/v1/net/n/tcp/i/1");
        assert!(Yagna::new("https://elsewhere", &Secret::new("k")).is_err());
    }
}
