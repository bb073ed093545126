//! RunPod: a queue-based serverless endpoint with worker-vllm.
//!
//! | mode | a call is | its result is kept |
//! |---|---|---|
//! | `run` | a POST that names the job at once, then polls | 30 min |
//! | `runsync` | a POST that is held until the job ends or the wait is over, then polls; for jobs of some seconds | 1 min |
//!
//! There is no idempotency key: a submission that was not answered is looked for in the endpoint's list of requests by
//! the `beacon` object in its input. It is not confirmed that the list is complete, so a job that is missing there counts as
//! possibly wasted, unless `trust_requests` says otherwise. RunPod deletes the job when its `ttl` passes.
//!
//! RunPod bills a worker from its start to its stop. A job tells its own `executionTime`, which Beacon
//! books. Start and idle time of the workers are on no job, only on the bill (REST v2, dollars by endpoint and hour): what jobs did
//! not book of it is standing cost. How long an hour's record may still change is not documented.

mod billing;
mod catalog;
mod check;
mod output;
mod remote;
mod told;
mod wire;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use reqwest::{
    Client, Url,
    header::{AUTHORIZATION, HeaderMap},
};
use schemas::{
    Micros, UsdNanos,
    check::Checked,
    failure::{Failure, FailureClass},
    quoted::Quoted,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{
    hints::{Callback, Hints},
    http::{BaseUrl, BuildError},
    openai::HEALTH_TIMEOUT,
    runs::{Remote as _, Runs, Typical},
    secret::Secret,
    throttle::{Limit, Throttle},
};
use crate::{
    check::Asked,
    provider::{Call, Ended, Health, Progress, Provider, Trail},
};

/// How calls are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunPodMode {
    /// Started and polled.
    #[default]
    Run,
    /// Held until done; for jobs of some seconds.
    RunSync,
}

/// The published limits of each operation, for each endpoint and user.
const WINDOW: Duration = Duration::from_secs(10);
const RUN: Limit = Limit { count: 1_000, per: WINDOW, concurrent: 200 };
const RUN_SYNC: Limit = Limit { count: 2_000, per: WINDOW, concurrent: 400 };
/// Fewer at a time than allowed: each is a connection.
const STATUS: Limit = Limit { count: 2_000, per: WINDOW, concurrent: 64 };
const CANCEL: Limit = Limit { count: 100, per: WINDOW, concurrent: 20 };

/// Where endpoints are, and where their bills are read.
const ENDPOINTS: &str = "api.runpod.ai";
const BILLS: &str = "https://api.runpod.io";
/// How long the bill may take.
const BILL_WITHIN: Duration = Duration::from_secs(20);

/// How to reach an endpoint.
#[derive(Clone, Debug)]
pub struct RunPodConfig {
    /// `https://api.runpod.ai/v2/<endpoint id>`.
    pub base_url: String,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// How calls are made.
    pub mode: RunPodMode,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// The shortest pause between polls of a job.
    pub poll_min: Duration,
    /// The longest.
    pub poll_max: Duration,
    /// How long a request that is answered at once may take.
    pub request_timeout: Duration,
    /// How long a job may wait in RunPod's queue before the endpoint's workers are looked at.
    pub queue_timeout: Duration,
    /// In `runsync` mode: how long RunPod holds the request, 1 to 300 s.
    pub wait: Duration,
    /// Whether a job that is not in the endpoint's list of requests was surely never taken.
    pub trust_requests: bool,
    /// Where RunPod tells that a job has ended; without it polls find out.
    pub callback: Option<Callback>,
    /// Where the bill is read (`/v2/billing/serverless` below it). `None`: at RunPod if the endpoint is there, else nowhere.
    pub billing_url: Option<String>,
    /// How long after its end an hour's record counts as final.
    pub billing_settles: Duration,
}

impl RunPodConfig {
    /// No key, `run` mode, and the usual limits.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: None,
            mode: RunPodMode::default(),
            connect_timeout: Duration::from_secs(5),
            poll_min: Duration::from_millis(250),
            poll_max: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            queue_timeout: Duration::from_secs(30),
            wait: Duration::from_secs(90),
            trust_requests: false,
            callback: None,
            billing_url: None,
            billing_settles: Duration::from_secs(15 * 60),
        }
    }
}

/// The adapter.
#[derive(Debug)]
pub struct RunPod {
    client: Client,
    base: BaseUrl,
    /// Where REST v2 is, where that is known.
    management: Option<BaseUrl>,
    /// The route of the bill.
    billing: Option<Url>,
    headers: HeaderMap,
    submits: Throttle,
    polls: Throttle,
    cancels: Throttle,
    typical: Typical,
    hints: Arc<Hints>,
    /// What the endpoint said of its workers, and when: thousands of waiting jobs ask once.
    seen: Mutex<Option<(Instant, Health)>>,
    config: RunPodConfig,
}

impl RunPod {
    /// Checks the configuration. Connects to nothing.
    pub fn new(config: RunPodConfig) -> Result<Self, BuildError> {
        let base = BaseUrl::parse(&config.base_url)?;
        let bills = config.billing_url.as_deref().or_else(|| base.is_at(ENDPOINTS).then_some(BILLS));
        let management = bills.map(BaseUrl::parse).transpose()?;
        let billing = management.as_ref().map(|bills| bills.join("/v2/billing/serverless"));
        let client = base.client(config.connect_timeout)?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &config.api_key {
            headers.insert(AUTHORIZATION, key.header("authorization", "Bearer ")?);
        }
        let submits = Throttle::new(match config.mode {
            RunPodMode::Run => RUN,
            RunPodMode::RunSync => RUN_SYNC,
        });
        Ok(Self {
            client,
            base,
            management,
            billing,
            headers,
            submits,
            polls: Throttle::new(STATUS),
            cancels: Throttle::new(CANCEL),
            typical: Typical::default(),
            hints: config.callback.as_ref().map(|callback| Arc::clone(&callback.hints)).unwrap_or_default(),
            seen: Mutex::new(None),
            config,
        })
    }
}

impl Provider for RunPod {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(Runs::new(self, call, progress).run())
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

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(self.workers(HEALTH_TIMEOUT))
    }

    fn check<'a>(&'a self, asked: &'a Asked) -> BoxFuture<'a, Checked> {
        Box::pin(self.check_up(asked))
    }

    fn prices(&self) -> BoxFuture<'_, Quoted> {
        Box::pin(self.quoted())
    }

    fn round_trip(&self) -> BoxFuture<'_, Option<Duration>> {
        Box::pin(self.way())
    }

    fn tells_bill(&self) -> bool {
        self.billing.is_some()
    }

    fn billed(&self, since: Micros, now: Micros) -> BoxFuture<'_, Option<UsdNanos>> {
        Box::pin(async move {
            match timeout(BILL_WITHIN, self.billed_since(self.billing.as_ref()?, since, now)).await {
                Ok(Ok(billed)) => Some(billed),
                Ok(Err(failure)) if failure.class == FailureClass::Authentication => {
                    warn!(
                        "the key may not read RunPod's bill, so starts and idle time are not booked: allow it, or say where with billing_url"
                    );
                    None
                }
                Ok(Err(failure)) => {
                    debug!(class = %failure.class, "the bill is not read now; it is cumulative, so nothing is lost");
                    None
                }
                Err(_) => {
                    debug!("the bill is not read in time; it is cumulative, so nothing is lost");
                    None
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_reads_as_operators_write_it_and_a_key_is_not_shown() {
        for (text, mode) in [("run", RunPodMode::Run), ("runsync", RunPodMode::RunSync)] {
            assert_eq!(serde_json::from_str::<RunPodMode>(&format!("\"{text}\"")).unwrap(), mode);
        }
        let mut config = RunPodConfig::new("https://api.runpod.ai/v2/ep");
        config.api_key = Some(Secret::new("rpa_123"));
        let shown = format!("{:?}", RunPod::new(config).unwrap());
        assert!(!shown.contains("rpa_123"), "{shown}");
    }
}
