//! Modal: calls Beacon's own app there, in one of three modes.
//!
//! | mode | a call is | found again by its id |
//! |---|---|---|
//! | `openai` | one streamed request, as in [`super::openai`], with Modal's headers and the app's bill as a comment | no |
//! | `wait` | one POST that is held; after 150 s a redirect names the run, and its result URL is fetched | after the redirect |
//! | `spawn` | a POST that names the run at once, then polls; the same job and attempt never start twice | yes |
//!
//! Modal's edge answers in plain text that begins with `modal-http:`; its redirects are followed by hand, because the
//! run's id must be in the journal before the result is fetched. The app measures the use of a run inside its
//! container and reports it in a `billing` object; without one, our own clock gives an estimate.
//!
//! In any mode `PUT /v1/warm` `{"model", "containers"}` keeps so many containers up, running ones included, for about a
//! minute after the last such order. Their cost, starts included, is standing cost (`GET /billing`). An
//! app that has no such route gets no further order.

mod app;
mod check;
mod runs;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use reqwest::{
    Client,
    header::{CONTENT_TYPE, HeaderMap},
};
use schemas::{
    check::Checked,
    failure::{Failure, FailureClass},
    prices::Used,
    quoted::Quoted,
};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use self::app::Billing as AppBilling;
pub use self::app::CONTRACT;
use super::{
    dialect::Dialect,
    exchange::{Answered, Reached},
    http::{self, BaseUrl, BuildError},
    openai::{self, Billing, OpenAi, OpenAiConfig},
    refusal,
    runs::{Remote as _, Runs, Typical},
    secret::Secret,
    throttle::{Limit, Throttle},
};
use crate::{
    check::Asked,
    provider::{Call, Ended, Health, Progress, Provider, Trail, UsedItem},
};

/// Modal's edge takes 200 requests a second of an account; the rest is for the account's other clients.
const LIMIT: Limit = Limit { count: 150, per: Duration::from_secs(1), concurrent: 1_000 };

/// Modal publishes its prices here, and has no API for them.
const PRICES: &str = "https://modal.com/pricing";

/// How calls are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModalMode {
    /// Streamed; for interactive traffic.
    #[default]
    OpenAi,
    /// Held until done; for jobs of some minutes.
    Wait,
    /// Started and polled; for long jobs, and for jobs that must not be billed twice.
    Spawn,
}

/// How to reach Beacon's app in one region.
#[derive(Clone, Debug)]
pub struct ModalConfig {
    /// `https://<workspace>--<label>.modal.run`.
    pub base_url: String,
    /// The proxy auth token's id, `wk-…`. Together with `secret`, or neither.
    pub key: Option<Secret>,
    /// The proxy auth token's secret, `ws-…`.
    pub secret: Option<Secret>,
    /// How calls are made.
    pub mode: ModalMode,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// In `openai` mode: how long until the app answers, cold start included.
    pub first_byte_timeout: Duration,
    /// In `openai` mode: how long a stream may be silent.
    pub idle_timeout: Duration,
    /// In `spawn` mode: the first pause between polls; they grow by half each time.
    pub poll_min: Duration,
    /// The longest pause between polls, and between tries after an error.
    pub poll_max: Duration,
    /// How long a request that the app answers at once may take: submit, poll, cancel.
    pub request_timeout: Duration,
}

impl ModalConfig {
    /// No authentication, and the usual limits.
    pub fn new(base_url: impl Into<String>, mode: ModalMode) -> Self {
        Self {
            base_url: base_url.into(),
            key: None,
            secret: None,
            mode,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(45),
            poll_min: Duration::from_millis(100),
            poll_max: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// The adapter.
#[derive(Debug)]
pub struct Modal {
    client: Client,
    base: BaseUrl,
    headers: HeaderMap,
    streamed: OpenAi,
    throttle: Throttle,
    typical: Typical,
    /// False once the app has said that it does not serve `PUT /v1/warm`.
    warmable: AtomicBool,
    config: ModalConfig,
}

impl Modal {
    /// Checks the configuration. Connects to nothing.
    pub fn new(config: ModalConfig) -> Result<Self, BuildError> {
        let base = BaseUrl::parse(&config.base_url)?;
        let client = base.client(config.connect_timeout)?;
        let mut extra_headers = Vec::new();
        let mut headers = HeaderMap::new();
        match (&config.key, &config.secret) {
            (Some(key), Some(secret)) => {
                for (name, value) in [("modal-key", key), ("modal-secret", secret)] {
                    headers.insert(name, value.header(name, "")?);
                    extra_headers.push((name.to_owned(), value.clone()));
                }
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => return Err(BuildError::KeyPair),
        }
        let streamed = OpenAi::new(OpenAiConfig {
            dialect: Dialect::Vllm,
            billing: Billing::PerSecond,
            connect_timeout: config.connect_timeout,
            first_byte_timeout: config.first_byte_timeout,
            idle_timeout: config.idle_timeout,
            extra_headers,
            ..OpenAiConfig::new(&config.base_url)
        })?;
        Ok(Self {
            client,
            base,
            headers,
            streamed,
            throttle: Throttle::new(LIMIT),
            typical: Typical::default(),
            warmable: AtomicBool::new(true),
            config,
        })
    }
}

/// The use of a call without a bill, by our own clock. `item` names its part.
fn measured(call: &Call, item: &'static str, took: Duration) -> Vec<UsedItem> {
    vec![UsedItem { sku: call.sku.clone(), item, used: Used::Time(took), rate: None }]
}

/// The bill of a streamed call.
fn ended(call: &Call, answered: Answered) -> Ended {
    let Answered { outcome, reached, took, first_token, usage: _, billing } = answered;
    let billing = billing.as_deref().and_then(AppBilling::parse);
    let (used, estimated, cold_start) = match (reached, billing) {
        (_, Some(billing)) => (billing.used(), false, billing.cold_start()),
        (Reached::Admission, None) => (measured(call, "execution", took), true, Duration::ZERO),
        // Modal queues only above our own slot limit, so a call that waits, waits for a container that starts, and pays.
        (Reached::Silence, None) => (measured(call, "cold_start", took), true, Duration::ZERO),
        (Reached::Refusal(status), None) if died(status) => {
            (measured(call, "execution", took), true, Duration::ZERO)
        }
        (Reached::Nobody | Reached::Refusal(_), None) => (Vec::new(), false, Duration::ZERO),
    };
    Ended { outcome, used, estimated, cold_start, first_token }
}

/// True if this status of the edge means a container that began and did not end well.
fn died(status: u16) -> bool {
    matches!(status, 502 | 504)
}

impl Provider for Modal {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            match self.config.mode {
                ModalMode::OpenAi => ended(call, self.streamed.answer(call, progress).await),
                ModalMode::Wait | ModalMode::Spawn => Runs::new(self, call, progress).run().await,
            }
        })
    }

    fn reattach<'a>(
        &'a self,
        call: &'a Call,
        run: &'a str,
        age: Duration,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Option<Ended>> {
        Box::pin(async move {
            match self.config.mode {
                ModalMode::OpenAi => None,
                ModalMode::Wait | ModalMode::Spawn => {
                    Runs::new(self, call, progress).reattach(run, age).await
                }
            }
        })
    }

    fn find<'a>(&'a self, call: &'a Call, age: Duration) -> BoxFuture<'a, Trail> {
        self.look_for(call, age)
    }

    fn cancel<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            match self.config.mode {
                ModalMode::OpenAi => Ok(()),
                ModalMode::Wait | ModalMode::Spawn => self.cancel_run(run).await,
            }
        })
    }

    fn detached(&self) -> bool {
        match self.config.mode {
            ModalMode::OpenAi => false,
            ModalMode::Wait | ModalMode::Spawn => true,
        }
    }

    fn warmable(&self) -> bool {
        self.warmable.load(Ordering::Relaxed)
    }

    fn warm<'a>(&'a self, model: &'a str, containers: u32) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let late =
                |_| Failure::new(FailureClass::Timeout, "the order to keep warm was not answered in time");
            let limit = self.config.request_timeout;
            let told = tokio::time::timeout(limit, self.order_warm(model, containers)).await;
            told.map_err(late)?.map_err(|failure| self.scrubbed(failure))
        })
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        let (url, headers) = (self.base.join("/health"), self.headers.clone());
        Box::pin(openai::health_of(&self.client, url, headers, Dialect::Vllm))
    }

    fn check<'a>(&'a self, asked: &'a Asked) -> BoxFuture<'a, Checked> {
        Box::pin(self.check_up(asked))
    }

    fn prices(&self) -> BoxFuture<'_, Quoted> {
        Box::pin(async { Quoted::Untold { page: PRICES } })
    }

    fn round_trip(&self) -> BoxFuture<'_, Option<Duration>> {
        Box::pin(self.way())
    }

    fn standing(&self) -> BoxFuture<'_, Option<Vec<UsedItem>>> {
        Box::pin(async move {
            let limit = openai::HEALTH_TIMEOUT;
            match tokio::time::timeout(limit, self.unused()).await {
                Ok(Ok(items)) => items,
                Ok(Err(failure)) => {
                    debug!(class = %failure.class, "standing cost not read; it is cumulative, so nothing is lost");
                    None
                }
                Err(_) => {
                    debug!("standing cost not read in time; it is cumulative, so nothing is lost");
                    None
                }
            }
        })
    }
}

impl Modal {
    async fn order_warm(&self, model: &str, containers: u32) -> Result<(), Failure> {
        let request = self.client.put(self.base.join("/v1/warm")).headers(self.headers.clone());
        let request = request.header(CONTENT_TYPE, "application/json").body(app::order(model, containers));
        let response = request.send().await.map_err(http::broken)?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(());
        }
        let wait = http::retry_after(response.headers());
        let body = http::error_body(response).await;
        if app::knows_no_warmth(status, &body) && self.warmable.swap(false, Ordering::Relaxed) {
            warn!(status, "the app on Modal keeps nothing warm; deploy a newer one");
        }
        Err(refusal::refused(status, &body, wait, Dialect::Vllm))
    }

    /// The use of all containers so far that belongs to no run, by GPU; `None` for an app that does not count it.
    async fn unused(&self) -> Result<Option<Vec<UsedItem>>, Failure> {
        let request = self.client.get(self.base.join("/billing")).headers(self.headers.clone());
        let response = request.send().await.map_err(http::broken)?;
        match response.status().as_u16() {
            200 => app::standing(&http::whole_body(response, app::ANSWER_MAX).await?).map(Some),
            404 => Ok(None),
            status => {
                let message = format!("status {status} for the standing cost");
                Err(Failure::new(FailureClass::ProviderDown, message))
            }
        }
    }

    /// The failure without our credentials, in case its message repeats them.
    fn scrubbed(&self, mut failure: Failure) -> Failure {
        for secret in self.config.key.iter().chain(&self.config.secret) {
            failure.message = secret.scrub(&failure.message);
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_pair() {
        let mut config = ModalConfig::new("https://a.modal.run", ModalMode::Spawn);
        config.key = Some(Secret::new("wk-1"));
        assert!(matches!(Modal::new(config.clone()), Err(BuildError::KeyPair)));
        config.secret = Some(Secret::new("ws-2"));
        let shown = format!("{:?}", Modal::new(config).unwrap());
        assert!(!shown.contains("wk-1") && !shown.contains("ws-2"), "{shown}");
    }

    #[test]
    fn a_mode_reads_as_operators_write_it() {
        for (text, mode) in
            [("openai", ModalMode::OpenAi), ("wait", ModalMode::Wait), ("spawn", ModalMode::Spawn)]
        {
            assert_eq!(serde_json::from_str::<ModalMode>(&format!("\"{text}\"")).unwrap(), mode);
        }
    }
}
