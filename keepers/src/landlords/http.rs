//! The HTTP client that all landlords share, and how its errors are classified.
//!
//! It follows no redirect, uses no proxy it was not told of, and bounds every call as a whole.

use std::{error::Error as _, fmt::Write as _, time::Duration};

use reqwest::{Client, RequestBuilder, StatusCode, Url, header::HeaderMap, redirect};
use tokio::time::Instant;

use crate::landlord::CallError;

/// A control call that takes longer is unclear. The longest that a page names is Lambda's launch: 40 s.
pub const CALL_WITHIN: Duration = Duration::from_secs(60);

/// Answers are read this far; a list of a thousand machines takes less.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// Error texts are shown this far.
const SHOWN: usize = 300;

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; an answer that does not read is unclear.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            CallError::Unclear(format!(
                "status {}, and the body does not read: {error}",
                self.status.as_u16()
            ))
        })
    }

    /// The beginning of the body, on one line, for messages.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().take(SHOWN).collect()
    }

    /// `Retry-After` in seconds, at most an hour.
    pub fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
        let wait = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
        Some(wait.min(Duration::from_secs(3_600)))
    }
}

/// Builds the client.
pub fn client() -> Result<Client, CallError> {
    // Fails when some other part of the process was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(10))
        .pool_idle_timeout(Duration::from_secs(30))
        .build()
        .map_err(|error| CallError::Misconfigured(format!("the HTTP client cannot be built: {error}")))
}

/// Sends a request and reads the whole answer, whatever its status.
pub async fn call(request: RequestBuilder) -> Result<Answer, CallError> {
    call_within(request, CALL_WITHIN).await
}

/// As [`call`], within another time; for long polls.
pub async fn call_within(request: RequestBuilder, within: Duration) -> Result<Answer, CallError> {
    let exchange = async {
        let mut response = request.send().await.map_err(|error| broken(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| broken(&error))? {
            if body.len() + part.len() > BODY_MAX {
                return Err(CallError::Unclear(format!("the answer is longer than {BODY_MAX} bytes")));
            }
            body.extend_from_slice(&part);
        }
        Ok(Answer { status, headers, body })
    };
    match tokio::time::timeout(within, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Unclear(format!("no answer within {} s", within.as_secs()))),
    }
}

/// Small requests whose median is a round trip, on the connection that one more has opened.
const SAMPLES: usize = 5;
/// One of them that takes longer is given up.
const SAMPLE_WITHIN: Duration = Duration::from_secs(5);

/// How long small requests to this place take, and its host. Any answer counts, so they carry no key.
pub async fn samples(url: &str) -> (Vec<Duration>, String) {
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let mut samples = Vec::with_capacity(SAMPLES);
    let Ok(client) = client() else { return (samples, host) };
    for sample in 0..=SAMPLES {
        let began = Instant::now();
        match call_within(client.get(url), SAMPLE_WITHIN).await {
            Ok(_) if sample > 0 => samples.push(began.elapsed()),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    (samples, host)
}

/// A failed exchange. Only one that could not connect was surely not carried out.
fn broken(error: &reqwest::Error) -> CallError {
    let mut text = String::new();
    // The URL may carry a key in its query; the cause says enough.
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}{cause}", if text.is_empty() { "" } else { ": " });
        source = cause.source();
    }
    if text.is_empty() {
        text.push_str("the request failed");
    }
    if error.is_builder() {
        CallError::Misconfigured(text)
    } else if error.is_connect() {
        CallError::Unreachable(text)
    } else {
        CallError::Unclear(text)
    }
}
