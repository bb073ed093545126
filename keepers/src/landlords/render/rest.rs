//! Render's REST over HTTP: what its errors mean, and its rate limits, which every answer tells.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    landlord::CallError,
    landlords::{
        hold::Hold,
        http::{self, Answer},
    },
    secret::Secret,
};

/// A refused call that does not say for how long; every known limit but that on creations is one of a minute.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// What is limited together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// `GET`: 400 a minute.
    Reads,
    /// Most writes: 100 a minute.
    Writes,
    /// Deploys: 10 a minute.
    Deploys,
    /// New services: 20 an hour for one account, 1,000 for another.
    Creations,
}

/// The API of one workspace.
#[derive(Debug)]
pub(crate) struct Rest {
    client: Client,
    api: String,
    key: Secret,
    holds: [Hold; 4],
}

/// A call that was not carried out, or nobody knows.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// `None` when there was no answer.
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: CallError,
}

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl Refusal {
    /// Whether the provider says that there is no such thing, for good.
    pub(crate) fn is_gone(&self) -> bool {
        self.is(StatusCode::NOT_FOUND) || self.is(StatusCode::GONE)
    }

    pub(crate) fn is(&self, status: StatusCode) -> bool {
        self.status == Some(status)
    }

    /// Whether a suspended service is the reason: `cannot deploy suspended service`.
    pub(crate) fn is_about_suspension(&self) -> bool {
        let refused = self.is(StatusCode::BAD_REQUEST) || self.is(StatusCode::CONFLICT);
        refused && self.error.to_string().to_ascii_lowercase().contains("suspended")
    }
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

impl Rest {
    pub(crate) fn new(api: &str, key: Secret) -> Result<Self, CallError> {
        if key.header("Bearer ").is_none() {
            return Err(CallError::Authentication("no header can carry the key".to_owned()));
        }
        let api = api.trim_end_matches('/').to_owned();
        Ok(Self { client: http::client()?, api, key, holds: Default::default() })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Refusal> {
        self.call(Budget::Reads, Method::GET, path, None).await
    }

    pub(crate) async fn call(
        &self,
        budget: Budget,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Refusal> {
        let unsent = |error| Refusal { status: None, error };
        let hold = &self.holds[budget as usize];
        hold.check("Render").map_err(unsent)?;
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.api));
        if let Some(key) = self.key.header("Bearer ") {
            request = request.header(reqwest::header::AUTHORIZATION, key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = http::call(request).await.map_err(unsent)?;
        if let Some(wait) = silence(&answer) {
            hold.ask(wait);
        }
        if answer.status.is_success() {
            return Ok(answer);
        }
        let route = path.split('?').next().unwrap_or_default();
        Err(refusal(&answer, &format!("{method} {route}"), &self.key))
    }
}

/// How long the budget is used up, if it is.
fn silence(answer: &Answer) -> Option<Duration> {
    let number = |name: &str| answer.headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let reset = number("ratelimit-reset").map(|seconds| Duration::from_secs(seconds.min(3_600)));
    if answer.status == StatusCode::TOO_MANY_REQUESTS {
        return Some(answer.retry_after().or(reset).unwrap_or(REFUSED_FOR));
    }
    reset.filter(|_| number("ratelimit-remaining") == Some(0))
}

fn refusal(answer: &Answer, call: &str, key: &Secret) -> Refusal {
    let said = match serde_json::from_slice::<Message>(&answer.body) {
        Ok(body) => body.message,
        Err(_) => answer.text(),
    };
    let text = format!("{call}: status {}: {}", answer.status.as_u16(), key.scrub(&said));
    let error = match answer.status.as_u16() {
        429 => CallError::RateLimited(text, silence(answer)),
        401 | 403 => CallError::Authentication(text),
        // 402: no payment information.
        400 | 402 | 404..=410 | 422 => CallError::Misconfigured(text),
        _ => CallError::Unclear(text),
    };
    Refusal { status: Some(answer.status), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers = headers.iter().map(|(name, value)| {
            let name: reqwest::header::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        });
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: headers.collect(), body: body.as_bytes().to_vec() }
    }

    fn error(status: u16, body: &str) -> CallError {
        refusal(&answer(status, &[], body), "GET /x", &Secret::new("rnd_key")).error
    }

    #[test]
    fn each_status_has_its_class() {
        let body = r#"{"message":"no rnd_key here"}"#;
        for status in [401, 403] {
            assert!(matches!(error(status, body), CallError::Authentication(_)), "{status}");
        }
        for status in [400, 402, 404, 406, 409, 410] {
            assert!(matches!(error(status, body), CallError::Misconfigured(_)), "{status}");
        }
        for status in [500, 502, 503] {
            assert!(matches!(error(status, "<html>"), CallError::Unclear(_)), "{status}");
        }
        assert!(error(400, body).to_string().contains("no *** here"));
    }

    #[test]
    fn a_limit_is_told_by_headers_and_a_refusal_without_them_lasts_a_minute() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let used_up = [("ratelimit-remaining", "0"), ("ratelimit-reset", "41")];
        assert_eq!(silence(&answer(200, &used_up, "[]")), seconds(41));
        assert_eq!(
            silence(&answer(200, &[("ratelimit-remaining", "3"), ("ratelimit-reset", "41")], "[]")),
            None
        );
        assert_eq!(silence(&answer(429, &used_up, "")), seconds(41));
        assert_eq!(silence(&answer(429, &[("retry-after", "7")], "")), seconds(7));
        assert_eq!(silence(&answer(429, &[], "error code: 1015")), seconds(60));
        assert!(
            matches!(error(429, "error code: 1015"), CallError::RateLimited(_, told) if told == seconds(60))
        );
    }

    #[test]
    fn a_suspended_service_is_told_from_other_refusals() {
        let refused = |status, body| refusal(&answer(status, &[], body), "POST /x", &Secret::new("k"));
        assert!(refused(400, r#"{"message":"cannot deploy suspended service"}"#).is_about_suspension());
        assert!(!refused(400, r#"{"message":"bad image"}"#).is_about_suspension());
        assert!(refused(404, "{}").is_gone() && refused(410, "{}").is_gone());
    }
}
