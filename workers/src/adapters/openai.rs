//! Any server that speaks the OpenAI API: vLLM, llama.cpp, Ollama, TGI, SGLang, OpenAI itself, and all rented
//! machines, Golem's included, that run one of them.
//!
//! A call is one streamed request, and the server keeps nothing of it. So a lost connection is a lost attempt, there is
//! nothing to re-attach to, and closing the connection is the only way to cancel.

mod check;

use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::{
    Client, Url,
    header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderName, HeaderValue},
};
use schemas::{
    check::Checked,
    failure::{Failure, FailureClass},
    prices::Used,
};
use serde::{Deserialize, Serialize};

use super::{
    chat,
    dialect::Dialect,
    exchange::{Answered, Exchange, Reached},
    http::{self, BaseUrl, BuildError},
    refusal,
    secret::Secret,
};
use crate::{
    check::Asked,
    provider::{Call, Ended, Health, Progress, Provider, UsedItem},
};

/// SGLang's health check generates a token and takes a second; busy servers take longer, and have been
/// restarted for missing a shorter limit.
pub(super) const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// How the owner of the server charges for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Billing {
    /// Once for each call that was admitted, that is, answered with status 200, however it ends.
    PerInference,
    /// The time from sending to the last byte of each admitted call. Our own measurement, so always an estimate.
    PerSecond,
    /// The tokens of the answer's `usage`; without one, an estimate from the tokens that came.
    PerToken,
}

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct OpenAiConfig {
    /// `http(s)://host[:port][/path]`, with or without `/v1` at its end.
    pub base_url: String,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// The server's software.
    pub dialect: Dialect,
    /// Whether answers are streamed. Without it a cancelled call may run on, so only for servers whose streams break.
    pub stream: bool,
    /// How calls are charged.
    pub billing: Billing,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long until the server answers, model load and queue included.
    pub first_byte_timeout: Duration,
    /// How long a stream may be silent. llama.cpp shows a sign of life every 30 s.
    pub idle_timeout: Duration,
    /// Replaces the dialect's own health route: llama-cpp-python, for example, has only `/v1/models`.
    pub health_path: Option<String>,
    /// More headers for every request, by name.
    pub extra_headers: Vec<(String, Secret)>,
}

impl OpenAiConfig {
    /// A vLLM without a key, streamed, charged by the second, with the usual limits.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: None,
            dialect: Dialect::default(),
            stream: true,
            billing: Billing::PerSecond,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(45),
            health_path: None,
            extra_headers: Vec::new(),
        }
    }
}

/// The adapter.
#[derive(Debug)]
pub struct OpenAi {
    client: Client,
    base: BaseUrl,
    health: Url,
    headers: HeaderMap,
    config: OpenAiConfig,
}

impl OpenAi {
    /// Checks the configuration. Connects to nothing.
    pub fn new(config: OpenAiConfig) -> Result<Self, BuildError> {
        let base = BaseUrl::parse(&config.base_url)?;
        let client = base.client(config.connect_timeout)?;
        Self::on(client, base, config)
    }

    /// The same over a client that several servers share.
    pub(crate) fn on(client: Client, base: BaseUrl, config: OpenAiConfig) -> Result<Self, BuildError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &config.api_key {
            headers.insert(AUTHORIZATION, key.header("authorization", "Bearer ")?);
        }
        for (name, value) in &config.extra_headers {
            let header = HeaderName::try_from(name).map_err(|_| BuildError::Header(name.clone()))?;
            headers.insert(header, value.header(name, "")?);
        }
        let health = config.health_path.as_deref().unwrap_or(config.dialect.health_path());
        let health = base.join(&format!("/{}", health.trim_start_matches('/')));
        Ok(Self { client, base, health, headers, config })
    }

    /// One call and its answer, without its cost.
    pub(super) async fn answer(&self, call: &Call, progress: &dyn Progress) -> Answered {
        let mut headers = headers_of(&self.headers, call);
        if self.config.stream && self.config.dialect == Dialect::LlamaCpp {
            // llama-server offers to keep the connection, and closes it about 30 ms after a stream has ended (measured
            // with a build of 2026-10). A call sent within that time is lost. A new connection is cheap.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let exchange = Exchange {
            client: &self.client,
            url: self.base.join(chat::path(&call.input)),
            headers,
            dialect: self.config.dialect,
            stream: self.config.stream,
            first_byte_timeout: self.config.first_byte_timeout,
            idle_timeout: self.config.idle_timeout,
        };
        let mut answered = exchange.run(call, progress).await;
        if let Err(failure) = &mut answered.outcome {
            failure.message = self.scrub(&failure.message);
        }
        answered
    }

    fn scrub(&self, message: &str) -> String {
        let extra = self.config.extra_headers.iter().map(|(_, value)| value);
        let secrets = self.config.api_key.iter().chain(extra);
        secrets.fold(message.to_owned(), |text, secret| secret.scrub(&text))
    }

    fn ended(&self, call: &Call, answered: Answered) -> Ended {
        let Answered { outcome, reached, took, first_token, usage, billing: _ } = answered;
        let item = |item, used| UsedItem { sku: call.sku.clone(), item, used, rate: None };
        let (used, estimated) = match (reached, self.config.billing) {
            (Reached::Nobody | Reached::Silence | Reached::Refusal(_), _) => (Vec::new(), false),
            (Reached::Admission, Billing::PerInference) => {
                (vec![item("inference", Used::Inferences(1))], false)
            }
            (Reached::Admission, Billing::PerSecond) => (vec![item("execution", Used::Time(took))], true),
            (Reached::Admission, Billing::PerToken) => match usage {
                Some(usage) => {
                    let used = Used::Tokens { input: usage.prompt_tokens, output: usage.completion_tokens };
                    (vec![item("tokens", used)], usage.estimated)
                }
                None => (Vec::new(), true),
            },
        };
        Ended { outcome, used, estimated, cold_start: Duration::ZERO, first_token }
    }
}

/// The headers of one call. `X-Request-Id` does not make a call happen only once; it is for the server's logs.
pub(super) fn headers_of(base: &HeaderMap, call: &Call) -> HeaderMap {
    let mut headers = base.clone();
    let request_id = HeaderValue::from_str(&call.request_id()).expect("a UUID and a number are ASCII");
    headers.insert("x-request-id", request_id);
    if let Some(Ok(context)) = call.traceparent.as_deref().map(HeaderValue::from_str) {
        headers.insert("traceparent", context);
    }
    headers
}

/// Up if a route answers with 2xx in time.
pub(super) async fn health_of(client: &Client, url: Url, headers: HeaderMap, dialect: Dialect) -> Health {
    let ask = async {
        let response = client.get(url).headers(headers).send().await.map_err(http::broken)?;
        let status = response.status();
        let wait = http::retry_after(response.headers());
        let body = http::error_body(response).await;
        if status.is_success() {
            Ok(())
        } else {
            Err(refusal::refused(status.as_u16(), &body, wait, dialect))
        }
    };
    match tokio::time::timeout(HEALTH_TIMEOUT, ask).await {
        Ok(Ok(())) => Health::Up,
        Ok(Err(failure)) => Health::Down(failure),
        Err(_) => {
            Health::Down(Failure::new(FailureClass::Timeout, "no answer to the health check within 5 s"))
        }
    }
}

impl Provider for OpenAi {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(async move { self.ended(call, self.answer(call, progress).await) })
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(async move {
            match health_of(&self.client, self.health.clone(), self.headers.clone(), self.config.dialect)
                .await
            {
                Health::Up => Health::Up,
                Health::Down(mut failure) => {
                    failure.message = self.scrub(&failure.message);
                    Health::Down(failure)
                }
            }
        })
    }

    fn check<'a>(&'a self, asked: &'a Asked) -> BoxFuture<'a, Checked> {
        Box::pin(self.check_up(asked))
    }

    fn round_trip(&self) -> BoxFuture<'_, Option<Duration>> {
        Box::pin(self.way())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn billing_reads_as_operators_write_it() {
        assert_eq!(serde_json::from_str::<Billing>("\"per_inference\"").unwrap(), Billing::PerInference);
    }

    #[test]
    fn a_configuration_shows_no_key() {
        let mut config = OpenAiConfig::new("http://h/v1");
        config.api_key = Some(Secret::new("sk-very-secret"));
        config.extra_headers = vec![("x-gate".to_owned(), Secret::new("gate-secret"))];
        let shown = format!("{config:?} {:?}", OpenAi::new(config.clone()).unwrap());
        assert!(!shown.contains("secret\""), "{shown}");
        assert!(!shown.contains("very"), "{shown}");
    }

    #[test]
    fn a_header_that_is_none_is_refused_by_its_name() {
        let mut config = OpenAiConfig::new("http://h");
        config.extra_headers = vec![("not a name".to_owned(), Secret::new("x"))];
        assert!(matches!(OpenAi::new(config), Err(BuildError::Header(name)) if name == "not a name"));
    }
}
