//! Runs of Beacon's app that have an id: the requests about them, and the meaning of the answers.
//!
//! ```text
//!  wait ── POST /v1/run ──┬── 200 ────────────────────────────────▶ over
//!                         └── 303: id ─▶ GET result URL ⟲ held ───▶ over
//!  spawn ─ POST /v1/jobs ───── id ─────▶ GET /v1/jobs/{id} ⟲ ─────▶ over
//!  stop ── DELETE /v1/jobs/{id}
//! ```

use std::{future::Future, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::{
    Method, RequestBuilder, Response, Url,
    header::{CONTENT_TYPE, LOCATION},
};
use schemas::failure::{Failure, FailureClass};
use tokio::time::{Instant, timeout_at};

use super::{
    Modal, ModalMode,
    app::{self, ANSWER_MAX, Finished, Report},
    died, measured,
};
use crate::{
    adapters::{
        dialect::Dialect,
        http, openai, refusal,
        runs::{Asked, Over, Pace, Remote, Submitted, Typical},
        throttle::Throttle,
    },
    provider::{Call, Trail, UsedItem},
};

/// Submitting again is harmless in `spawn` mode, where the app knows the id; more tries only delay the failover.
const SUBMITS_MAX: u32 = 3;

/// Modal holds a request for 150 s. After this time no answer comes any more.
const HOLD_MAX: Duration = Duration::from_secs(170);

/// The query parameter that makes a result URL.
const CALL_ID: &str = "__modal_function_call_id";

impl Remote for Modal {
    fn name(&self) -> &'static str {
        "modal"
    }

    fn pace(&self) -> Pace {
        let spawn = self.config.mode == ModalMode::Spawn;
        Pace {
            min: self.config.poll_min,
            max: self.config.poll_max,
            request_timeout: if spawn { self.config.request_timeout } else { HOLD_MAX },
            // Seven days: longer than any job waits for a worker.
            kept: Duration::ZERO,
            visible_within: Duration::ZERO,
            submits: if spawn { SUBMITS_MAX } else { 1 },
        }
    }

    fn submit<'a>(&'a self, call: &'a Call, limit: Duration) -> BoxFuture<'a, Submitted> {
        Box::pin(async move {
            match self.config.mode {
                ModalMode::OpenAi | ModalMode::Spawn => self.spawned(call, limit).await,
                ModalMode::Wait => self.held(call, limit).await,
            }
        })
    }

    fn ask<'a>(&'a self, _: &'a Call, run: &'a str) -> BoxFuture<'a, Asked> {
        Box::pin(async move {
            let url = match self.config.mode {
                ModalMode::Wait => self.result_url(run),
                ModalMode::OpenAi | ModalMode::Spawn => self.job_url(run),
            };
            match self.told(self.request(Method::GET, url)).await {
                Told::Pending => Asked::Going,
                Told::Over(over) => Asked::Over(over),
                // With another run's id this call would take another job's result.
                Told::Held(next) if next == run => Asked::Held,
                Told::Held(_) => Asked::Hopeless(odd("a redirect to another run")),
                Told::Refused(404 | 410, _) => Asked::Unknown,
                Told::Refused(_, failure) if passes(failure.class) => Asked::Failed(failure),
                Told::Refused(_, failure) => Asked::Hopeless(failure),
                Told::Broken { failure, .. } => Asked::Failed(failure),
            }
        })
    }

    fn stop<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.cancel_run(run))
    }

    fn look_for<'a>(&'a self, _: &'a Call, _: Duration) -> BoxFuture<'a, Trail> {
        let trail = match self.config.mode {
            // The app starts the same job and attempt once.
            ModalMode::Spawn => Trail::Clean,
            ModalMode::OpenAi | ModalMode::Wait => Trail::Lost,
        };
        Box::pin(async { trail })
    }

    fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    fn typical(&self) -> &Typical {
        &self.typical
    }

    fn clean(&self, failure: Failure, call: &Call) -> Failure {
        self.scrubbed(refusal::without_input(failure, &call.input))
    }

    fn reckon(&self, call: &Call, took: Duration) -> Vec<UsedItem> {
        measured(call, "execution", took)
    }
}

/// The app's answer to one request about a run.
enum Told {
    Pending,
    Over(Over),
    /// A redirect to the result URL of this run.
    Held(String),
    Refused(u16, Failure),
    /// The request failed, or its answer could not be read.
    Broken {
        failure: Failure,
        connected: bool,
    },
}

impl Modal {
    /// `spawn` mode: the id comes at once.
    async fn spawned(&self, call: &Call, limit: Duration) -> Submitted {
        let by = Instant::now() + self.config.request_timeout.min(limit);
        let late = |_| {
            let message = "the submission was not answered in time";
            Submitted::Unsure(Failure::new(FailureClass::Timeout, message))
        };
        timeout_at(by, submitted(self.submission("/v1/jobs", call, limit))).await.unwrap_or_else(late)
    }

    /// `wait` mode: the result comes when it is there, or an id when the time is up.
    async fn held(&self, call: &Call, limit: Duration) -> Submitted {
        match self.told(self.submission("/v1/run", call, limit)).await {
            Told::Over(over) => Submitted::Over(over),
            Told::Held(run) => Submitted::Run(run),
            Told::Pending => Submitted::Lost(odd("a status that no held request has")),
            // A redirect, even one that cannot be followed, is the answer of a run.
            Told::Refused(status, failure) if died(status) || (300..400).contains(&status) => {
                Submitted::Lost(failure)
            }
            Told::Refused(_, failure) | Told::Broken { failure, connected: false } => {
                Submitted::Refused(failure)
            }
            // Within the first 150 s it is unknown whether the run began. Only a failed connection means that it did not.
            Told::Broken { failure, connected: true } => Submitted::Lost(failure),
        }
    }

    async fn told(&self, request: RequestBuilder) -> Told {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                let connected = !error.is_connect();
                return Told::Broken { failure: http::broken(error), connected };
            }
        };
        match response.status().as_u16() {
            202 => Told::Pending,
            200 => match http::whole_body(response, ANSWER_MAX).await.and_then(|body| app::report(&body)) {
                Ok(Report::Pending) => Told::Pending,
                Ok(Report::Over(finished)) => Told::Over(finished.into()),
                Err(failure) => Told::Broken { failure, connected: true },
            },
            301..=303 | 307 | 308 => self.redirect(&response),
            _ => {
                let (status, failure) = refusal::read(response, Dialect::Vllm).await;
                Told::Refused(status, failure)
            }
        }
    }

    fn submission(&self, path: &str, call: &Call, limit: Duration) -> RequestBuilder {
        let headers = openai::headers_of(&self.headers, call);
        let request = self.client.post(self.base.join(path)).headers(headers);
        request.header(CONTENT_TYPE, "application/json").body(app::job(call, limit))
    }

    /// Asks the app to stop a run. An unknown or expired run counts as stopped.
    pub(super) fn cancel_run(&self, run: &str) -> impl Future<Output = Result<(), Failure>> + Send {
        let request = self.request(Method::DELETE, self.job_url(run));
        let limit = Instant::now() + self.config.request_timeout;
        async move {
            let late = |_| Failure::new(FailureClass::Timeout, "the cancellation was not answered in time");
            let response = timeout_at(limit, request.send()).await.map_err(late)?.map_err(http::broken)?;
            match response.status().as_u16() {
                200..=299 | 404 | 410 => Ok(()),
                _ => Err(refusal::read(response, Dialect::Vllm).await.1),
            }
        }
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url).headers(self.headers.clone())
    }

    fn job_url(&self, run: &str) -> Url {
        self.base.join_segment("/v1/jobs", run)
    }

    fn result_url(&self, run: &str) -> Url {
        let mut url = self.base.join("/v1/run");
        url.query_pairs_mut().append_pair(CALL_ID, run);
        url
    }

    fn redirect(&self, response: &Response) -> Told {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(url) = location.and_then(|location| self.base.resolve(location)) else {
            let message = "a redirect that leads nowhere, or to another host";
            let failure = Failure::new(FailureClass::Misconfigured, message);
            return Told::Refused(response.status().as_u16(), failure);
        };
        match run_of(&url) {
            Some(run) => Told::Held(run),
            None => Told::Refused(response.status().as_u16(), odd("a redirect without the id of the run")),
        }
    }
}

impl From<Finished> for Over {
    fn from(Finished { outcome, billing }: Finished) -> Self {
        Self {
            outcome,
            cold_start: billing.as_ref().map(app::Billing::cold_start).unwrap_or_default(),
            used: billing.as_ref().map(app::Billing::used),
            estimated: false,
            took: None,
            first_token: Duration::ZERO,
        }
    }
}

/// Sends a submission. After an error of the connection, or an answer that broke off, the job may have arrived.
async fn submitted(request: RequestBuilder) -> Submitted {
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Submitted::Unsure(http::broken(error)),
    };
    if !matches!(response.status().as_u16(), 200 | 202) {
        return Submitted::Refused(refusal::read(response, Dialect::Vllm).await.1);
    }
    let body = match http::whole_body(response, ANSWER_MAX).await {
        Ok(body) => body,
        Err(failure) => return Submitted::Unsure(failure),
    };
    match serde_json::from_slice(&body) {
        Ok(app::Submitted { call_id }) => Submitted::Run(call_id),
        Err(_) => Submitted::Unsure(odd("unreadable JSON in the answer to a submission")),
    }
}

/// True if an error of the edge may pass while the run goes on.
fn passes(class: FailureClass) -> bool {
    use FailureClass as C;
    matches!(class, C::RateLimited | C::Capacity | C::ProviderDown | C::Connection | C::Timeout)
}

/// The failure of an app that breaks its contract.
fn odd(why: &str) -> Failure {
    Failure::new(FailureClass::ProviderDown, why)
}

fn run_of(url: &Url) -> Option<String> {
    url.query_pairs()
        .find(|(key, _)| key == CALL_ID)
        .map(|(_, id)| id.into_owned())
        .filter(|id| !id.is_empty())
}
