//! Whether a machine serves: a connection, the server's own health check, then one real completion.
//!
//! "Started" is not "ready", and "healthy" is not "useful": a server with a broken driver answers its health check and never a
//! completion. The completion carries the machine's own key, so that another machine at the same address is told apart.

use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::{Client, StatusCode, header};
use serde_json::{Value, json};

use crate::{landlords::http, secret::Secret};

/// The health check may take this long: busy servers take seconds.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);
/// The completion may take this long. It has eight tokens; the first one after a start compiles kernels.
const COMPLETION_WITHIN: Duration = Duration::from_secs(60);
/// Enough to see that tokens come.
const TOKENS: u32 = 8;

/// Why a machine takes no jobs yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Nothing serves there yet.
    #[error("not serving yet: {0}")]
    NotYet(String),
    /// It says that it is well, and gives no completion.
    #[error("healthy by its own word, but no completion: {0}")]
    Useless(String),
    /// It refuses the machine's own key: another machine answers.
    #[error("it refuses this machine's key: {0}")]
    Foreign(String),
}

impl ProbeError {
    /// Whether a server is there that gives no completion.
    pub fn is_useless(&self) -> bool {
        match self {
            Self::Useless(_) => true,
            Self::NotYet(_) | Self::Foreign(_) => false,
        }
    }
}

/// What is asked of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its server.
    pub address: String,
    /// The key it was started with.
    pub key: Option<Secret>,
    /// A model that it must serve, by its name there.
    pub model: String,
    /// The route of its health check.
    pub health_path: String,
}

/// Asks machines. A seam, so that the machine's life can be tested without servers.
pub trait Prober: Send + Sync + 'static {
    /// Probes once. Bounded in time.
    fn probe<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<(), ProbeError>>;
}

/// Probes over HTTP.
#[derive(Clone, Debug)]
pub struct HttpProber {
    client: Client,
}

impl HttpProber {
    /// Shares one client among all probes.
    pub fn new() -> Result<Self, crate::landlord::CallError> {
        http::client().map(|client| Self { client })
    }

    async fn ask(&self, question: &Question) -> Result<(), ProbeError> {
        let base = question.address.trim_end_matches('/');
        let health = format!("{base}/{}", question.health_path.trim_start_matches('/'));
        let answer = http::call_within(self.client.get(health), HEALTH_WITHIN).await;
        let answer = answer.map_err(|error| ProbeError::NotYet(error.to_string()))?;
        if !answer.status.is_success() {
            return Err(ProbeError::NotYet(format!("health check: status {}", answer.status.as_u16())));
        }
        let body = json!({
            "model": question.model,
            "messages": [{ "role": "user", "content": "Say hello." }],
            "max_tokens": TOKENS,
            "stream": false,
        });
        let mut request = self.client.post(format!("{base}/v1/chat/completions")).json(&body);
        if let Some(key) = question.key.as_ref().and_then(|key| key.header("Bearer ")) {
            request = request.header(header::AUTHORIZATION, key);
        }
        let answer = http::call_within(request, COMPLETION_WITHIN).await;
        let answer = answer.map_err(|error| ProbeError::Useless(error.to_string()))?;
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ProbeError::Foreign(answer.text())),
            // It still loads its model.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::TOO_MANY_REQUESTS => {
                Err(ProbeError::NotYet(format!("status {}: {}", answer.status.as_u16(), answer.text())))
            }
            status if status.is_success() => match text_of(&answer.body) {
                Some(_) => Ok(()),
                None => Err(ProbeError::Useless(format!("an answer without text: {}", answer.text()))),
            },
            status => Err(ProbeError::Useless(format!("status {}: {}", status.as_u16(), answer.text()))),
        }
    }
}

impl Prober for HttpProber {
    fn probe<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<(), ProbeError>> {
        Box::pin(self.ask(question))
    }
}

/// The completion's text, when there is any. Servers write it as a text or as parts; one that reasons may spend eight tokens before it
/// says anything.
fn text_of(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let choice = value.pointer("/choices/0")?;
    let message = choice.get("message").unwrap_or(choice);
    let fields = ["content", "reasoning_content", "reasoning", "text"].into_iter();
    fields.filter_map(|field| message.get(field)).map(words_of).find(|text| !text.is_empty())
}

fn words_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(words_of).collect(),
        Value::Object(part) => part.get("text").map(words_of).unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_has_text() {
        let body =
            |message: Value| serde_json::to_vec(&json!({ "choices": [{ "message": message }] })).unwrap();
        assert_eq!(text_of(&body(json!({ "content": "hi" }))).as_deref(), Some("hi"));
        assert_eq!(
            text_of(&body(json!({ "content": null, "reasoning_content": "so" }))).as_deref(),
            Some("so")
        );
        assert_eq!(
            text_of(&body(json!({ "content": [{ "type": "text", "text": "h" }, "i"] }))).as_deref(),
            Some("hi")
        );
        assert_eq!(text_of(br#"{"choices":[{"text":"hi"}]}"#).as_deref(), Some("hi"));
        for empty in [json!({ "content": "" }), json!({ "content": null }), json!({})] {
            assert_eq!(text_of(&body(empty)), None);
        }
        assert_eq!(text_of(b"{\"error\":\"CUDA error 802\"}"), None);
    }
}
