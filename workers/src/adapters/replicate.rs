//! Replicate: predictions of public models, official models and our own deployments.
//!
//! A call is a POST that is held for a while (`Prefer: wait`), answered with the prediction so far, and then
//! polled. `Cancel-After` ends a prediction that no worker follows. There is no idempotency key: a submission that was
//! not answered is looked for in the account's list of predictions, by model, time and input; of two that match none is
//! taken. Results are removed an hour after the end. For a job that is watched live the prediction's own stream is read
//! beside the polls; output that the stream misses comes with the result.
//!
//! Replicate bills `predict_time` for public models, which the prediction tells, and tokens for official language models. A
//! deployment is billed for all the time its instances stand, which no prediction tells: Beacon books an
//! estimate by `predict_time`, and the rest is only on the invoice. The names of the token counts in `metrics`
//! were observed and not confirmed; without them a call by tokens is an estimate.

mod check;
mod live;
mod odd;
mod remote;
mod streams;
mod wire;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::{
    Client,
    header::{AUTHORIZATION, HeaderMap},
};
use schemas::{check::Checked, failure::Failure, quoted::Quoted};
use serde::{Deserialize, Serialize};

use self::streams::Streams;
pub use self::wire::InputKeys;
use super::{
    dialect::Dialect,
    hints::{Callback, Hints},
    http::{BaseUrl, BuildError},
    openai::{self, Billing},
    runs::{Remote as _, Runs, Typical},
    secret::Secret,
    throttle::{Limit, Throttle},
};
use crate::{
    check::Asked,
    provider::{Call, Ended, Health, Progress, Provider, Trail},
};

/// Replicate publishes its prices here, and has no API for them.
const PRICES: &str = "https://replicate.com/pricing";

/// The kind of a model's name, which decides between three routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// An official model, `owner/name`.
    #[default]
    Model,
    /// A deployment of ours, `owner/name`.
    Deployment,
    /// A version: `owner/name:<64 hex>` or `<64 hex>`.
    Version,
}

/// The limits of one account, shared by all its pools in this process.
#[derive(Debug)]
pub struct AccountLimits {
    submits: Throttle,
    others: Throttle,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Default for AccountLimits {
    /// As published; of the 3,000 requests a minute beside predictions, 500 are left to others.
    fn default() -> Self {
        Self {
            submits: Throttle::new(Limit { count: 600, per: MINUTE, concurrent: 1_000 }),
            others: Throttle::new(Limit { count: 2_500, per: MINUTE, concurrent: 64 }),
        }
    }
}

/// How to reach Replicate.
#[derive(Clone, Debug)]
pub struct ReplicateConfig {
    /// `https://api.replicate.com`.
    pub base_url: String,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// The kind of the models' names.
    pub target: Target,
    /// The model's names for its inputs.
    pub input: InputKeys,
    /// How predictions are charged: [`Billing::PerSecond`] or [`Billing::PerToken`].
    pub billing: Billing,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a submission is held, at most 60 s; zero never.
    pub wait: Duration,
    /// The shortest pause between polls of a prediction.
    pub poll_min: Duration,
    /// The longest.
    pub poll_max: Duration,
    /// How long a request that is answered at once may take.
    pub request_timeout: Duration,
    /// The account's limits.
    pub limits: Arc<AccountLimits>,
    /// Where Replicate reports the end of a prediction. Without it only polls find the end.
    pub callback: Option<Callback>,
}

impl ReplicateConfig {
    /// No key, official models charged by the second, and the usual limits.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: None,
            target: Target::default(),
            input: InputKeys::default(),
            billing: Billing::PerSecond,
            connect_timeout: Duration::from_secs(5),
            wait: Duration::from_secs(10),
            poll_min: Duration::from_millis(500),
            poll_max: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            limits: Arc::default(),
            callback: None,
        }
    }
}

/// The adapter.
#[derive(Debug)]
pub struct Replicate {
    client: Client,
    base: BaseUrl,
    headers: HeaderMap,
    typical: Typical,
    hints: Arc<Hints>,
    streams: Streams,
    config: ReplicateConfig,
}

impl Replicate {
    /// Checks the configuration. Connects to nothing.
    pub fn new(config: ReplicateConfig) -> Result<Self, BuildError> {
        let base = BaseUrl::parse(&config.base_url)?;
        let client = base.client(config.connect_timeout)?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &config.api_key {
            headers.insert(AUTHORIZATION, key.header("authorization", "Bearer ")?);
        }
        let hints = config.callback.as_ref().map(|callback| Arc::clone(&callback.hints)).unwrap_or_default();
        Ok(Self {
            client,
            base,
            headers,
            typical: Typical::default(),
            hints,
            streams: Streams::default(),
            config,
        })
    }

    /// A text without our key.
    fn scrub(&self, text: &str) -> String {
        self.config.api_key.as_ref().map_or_else(|| text.to_owned(), |key| key.scrub(text))
    }
}

impl Provider for Replicate {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            if call.live {
                return self.run_live(call, progress).await;
            }
            Runs::new(self, call, progress).run().await
        })
    }

    fn reattach<'a>(
        &'a self,
        call: &'a Call,
        run: &'a str,
        age: Duration,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Option<Ended>> {
        Box::pin(Runs::new(self, call, progress).reattach(run, age))
    }

    fn find<'a>(&'a self, call: &'a Call, age: Duration) -> BoxFuture<'a, Trail> {
        self.look_for(call, age)
    }

    fn cancel<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        self.stop(run)
    }

    fn detached(&self) -> bool {
        true
    }

    /// Replicate has no health check. The cheapest authenticated call shows whether its API answers us.
    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(async move {
            let url = self.base.join("/v1/account");
            match openai::health_of(&self.client, url, self.headers.clone(), Dialect::OpenAi).await {
                Health::Down(mut failure) => {
                    failure.message = self.scrub(&failure.message);
                    Health::Down(failure)
                }
                Health::Up => Health::Up,
            }
        })
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_as_operators_write_it_and_a_key_is_not_shown() {
        for (text, target) in
            [("model", Target::Model), ("deployment", Target::Deployment), ("version", Target::Version)]
        {
            assert_eq!(serde_json::from_str::<Target>(&format!("\"{text}\"")).unwrap(), target);
        }
        let mut config = ReplicateConfig::new("https://api.replicate.com/v1");
        config.api_key = Some(Secret::new("r8_123"));
        let shown = format!("{:?}", Replicate::new(config).unwrap());
        assert!(!shown.contains("r8_123"), "{shown}");
    }

    #[test]
    fn the_key_goes_to_the_same_place_or_to_its_domain_over_tls_and_nowhere_else() {
        let real = Replicate::new(ReplicateConfig::new("https://api.replicate.com/v1")).unwrap();
        for (url, allowed) in [
            ("https://stream.replicate.com/v1/x", true),
            ("https://api.replicate.com/v1/x", true),
            ("http://stream.replicate.com/v1/x", false),
            ("https://stream.replicate.com:444/x", false),
            ("https://replicate.com.evil.org/x", false),
            ("https://evilreplicate.com/x", false),
        ] {
            assert_eq!(real.stream_url(url).is_some(), allowed, "{url}");
        }
        let local = Replicate::new(ReplicateConfig::new("http://127.0.0.1:4000")).unwrap();
        assert!(local.stream_url("http://127.0.0.1:4000/v1/streams/x").is_some());
        assert!(local.stream_url("https://127.0.0.2/x").is_none());
        let named = Replicate::new(ReplicateConfig::new("http://localhost:4000")).unwrap();
        assert!(named.stream_url("https://evil.org/x").is_none());
    }
}
