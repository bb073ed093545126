//! Any server that speaks the OpenAI API: vLLM, llama.cpp, Ollama, TGI, SGLang, OpenAI itself, and all rented
//! machines, Golem's included, that run one of them.
//!
//! A call is one streamed request, and the server keeps nothing of it. So a lost connection is a lost attempt, there is
//! nothing to re-attach to, and closing the connection is the only way to cancel.

mod ask;
mod check;
mod engine;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
use tokio::time::Instant;
use tracing::warn;

pub(super) use self::ask::{HEALTH_TIMEOUT, health_of};
use self::{
    ask::{Asker, Told},
    engine::{Engine, Loaded},
};
use super::{
    chat::{self, Evidence},
    dialect::Dialect,
    exchange::{Answered, Exchange, Reached},
    http::{BaseUrl, BuildError},
    load::ServerLoad,
    secret::Secret,
};
use crate::{
    check::Asked,
    provider::{Call, Ended, Health, Missing, Progress, Provider, UsedItem},
};

/// The path for metrics of a server that is not to be asked.
pub const METRICS_OFF: &str = "off";

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
    /// What counts as a whole answer beside the usual finish reasons.
    pub evidence: Evidence,
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
    /// Replaces the dialect's own route for metrics; [`METRICS_OFF`] never asks.
    pub metrics_path: Option<String>,
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
            evidence: Evidence::default(),
            billing: Billing::PerSecond,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(45),
            health_path: None,
            metrics_path: None,
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
    known: Mutex<Known>,
    began: Instant,
}

/// What is known of the server beside its answers.
#[derive(Debug, Default)]
struct Known {
    load: Option<ServerLoad>,
    engine: Engine,
    loaded: Loaded,
    /// When it last wrote a piece of output.
    wrote: Option<Instant>,
    /// It was said that it does not tell its load.
    told_off: bool,
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
        Ok(Self { client, base, health, headers, config, known: Mutex::default(), began: Instant::now() })
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
            evidence: &self.config.evidence,
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

    /// How busy the server is, others' work included; `None` where it does not say. Bounded in time and size, and not for the path of
    /// a job: it is two requests at most.
    pub async fn read_load(&self) -> Option<ServerLoad> {
        match self.asker().load().await {
            Told::Load(load) => Some(load),
            Told::Unknown => None,
            Told::Off => {
                if !std::mem::replace(&mut self.known().told_off, true) {
                    let server = self.base.join("");
                    warn!(%server, "llama-server tells neither metrics nor slots, so its queue is unknown; start it with --metrics");
                }
                None
            }
        }
    }

    /// Looks at a server that says it is well: what it has to do, whether it gets on with it, what it has loaded.
    async fn look(&self) -> Health {
        let (load, loaded) = (self.read_load().await, self.asker().loaded().await);
        let mut known = self.known();
        (known.load, known.loaded) = (load, loaded);
        let still = known.engine.look(load.as_ref(), self.began.elapsed());
        if still >= self.config.idle_timeout {
            let message =
                format!("it says it is well, and its engine has made no step for {} s", still.as_secs());
            return Health::Down(Failure::new(FailureClass::Timeout, message));
        }
        Health::Up
    }

    fn wrote_since(&self, asked: Instant) -> bool {
        self.known().wrote.is_some_and(|wrote| wrote >= asked)
    }

    fn asker(&self) -> Asker<'_> {
        Asker {
            client: &self.client,
            base: &self.base,
            headers: &self.headers,
            dialect: self.config.dialect,
            metrics: match &self.config.metrics_path {
                Some(path) => Some(path.as_str()).filter(|path| *path != METRICS_OFF),
                None => self.config.dialect.metrics_path(),
            },
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Provider for OpenAi {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let cold = self.known().loaded.is_cold(&call.model);
            let watched = Watched { inner: progress, known: &self.known };
            let mut ended = self.ended(call, self.answer(call, &watched).await);
            if cold && ended.outcome.is_ok() {
                // The load is not told. Until the first token there was little else.
                ended.cold_start = ended.first_token;
                self.known().loaded.warmed(&call.model);
            }
            ended
        })
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(async move {
            let asked = Instant::now();
            let (client, dialect) = (&self.client, self.config.dialect);
            match ask::health_of(client, self.health.clone(), self.headers.clone(), dialect).await {
                Health::Up => self.look().await,
                // Busy servers miss checks. One that writes meanwhile is well.
                Health::Down(failure)
                    if failure.class == FailureClass::Timeout && self.wrote_since(asked) =>
                {
                    Health::Up
                }
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

    fn load(&self) -> Option<ServerLoad> {
        self.known().load
    }

    fn missing<'a>(&'a self, models: &'a [String]) -> BoxFuture<'a, Option<Missing>> {
        Box::pin(async move {
            let listed = self.asker().listed().await?;
            let is_listed = |model: &String| match self.config.dialect {
                Dialect::Ollama => listed.iter().any(|name| engine::is_same(name, model)),
                Dialect::OpenAi | Dialect::Vllm | Dialect::LlamaCpp | Dialect::Tgi | Dialect::SgLang => {
                    listed.contains(model)
                }
            };
            let models: Vec<String> = models.iter().filter(|model| !is_listed(model)).cloned().collect();
            (!models.is_empty()).then_some(Missing { models, listed })
        })
    }
}

/// Notes when output came.
struct Watched<'a> {
    inner: &'a dyn Progress,
    known: &'a Mutex<Known>,
}

impl Progress for Watched<'_> {
    fn submitting(&self) -> BoxFuture<'_, ()> {
        self.inner.submitting()
    }

    fn started<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        self.inner.started(run)
    }

    fn token(&self, text: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).wrote = Some(Instant::now());
        self.inner.token(text);
    }

    fn placed(&self, slot: &UsedItem) {
        self.inner.placed(slot);
    }

    fn taken_back(&self) -> BoxFuture<'_, Failure> {
        self.inner.taken_back()
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
