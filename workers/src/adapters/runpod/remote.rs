//! RunPod's job API: one request each.

use std::{sync::PoisonError, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::{Method, RequestBuilder, Response, Url, header::CONTENT_TYPE};
use schemas::{
    failure::{Failure, FailureClass as C},
    prices::Used,
};
use tokio::time::{Instant, timeout};

use super::{
    RunPod, RunPodMode,
    wire::{self, ANSWER_MAX},
};
use crate::{
    adapters::{
        dialect::Dialect,
        hints::Hints,
        http, openai, polled, refusal,
        runs::{Asked, Pace, Remote, Submitted, Typical},
        throttle::Throttle,
    },
    provider::{Call, Health, Trail, UsedItem},
};

/// How long results of `run` and `runsync` are kept after the end.
const KEPT: Duration = Duration::from_secs(30 * 60);
const KEPT_SYNC: Duration = Duration::from_secs(60);

/// How long a new job may be unknown to `/status`. Nobody confirmed that it ever is.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// What the endpoint said of its workers is believed for so long.
const HEALTH_FOR: Duration = Duration::from_secs(10);

/// What RunPod takes as a wait.
const WAIT_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

impl Remote for RunPod {
    fn name(&self) -> &'static str {
        "runpod"
    }

    fn pace(&self) -> Pace {
        let sync = self.config.mode == RunPodMode::RunSync;
        Pace {
            min: self.config.poll_min,
            max: self.config.poll_max,
            request_timeout: self.config.request_timeout,
            kept: if sync { KEPT_SYNC } else { KEPT },
            visible_within: VISIBLE_WITHIN,
            submits: 1,
        }
    }

    fn submit<'a>(&'a self, call: &'a Call, limit: Duration) -> BoxFuture<'a, Submitted> {
        Box::pin(async move {
            let (url, patience) = match self.config.mode {
                RunPodMode::Run => (self.base.join("/run"), self.config.request_timeout.min(limit)),
                RunPodMode::RunSync => {
                    let wait = self.config.wait.min(limit).clamp(WAIT_RANGE.0, WAIT_RANGE.1);
                    let mut url = self.base.join("/runsync");
                    url.query_pairs_mut().append_pair("wait", &wait.as_millis().to_string());
                    (url, wait + self.config.request_timeout)
                }
            };
            let webhook = self.config.callback.as_ref().map(|callback| callback.url.as_str());
            let request = self
                .client
                .post(url)
                .headers(openai::headers_of(&self.headers, call))
                .header(CONTENT_TYPE, "application/json")
                .body(wire::submission(call, limit, webhook));
            polled::within(patience, submitted(request, call)).await
        })
    }

    fn ask<'a>(&'a self, call: &'a Call, run: &'a str) -> BoxFuture<'a, Asked> {
        Box::pin(async move {
            let request = self.request(Method::GET, self.base.join_segment("/status", run));
            match polled::asked(request, Dialect::Vllm).await {
                Ok(response) => match read(response).await {
                    Ok(job) if job.id == run => job.asked(call),
                    Ok(_) => Asked::about_another(),
                    Err(failure) => Asked::Failed(failure),
                },
                Err(asked) => asked,
            }
        })
    }

    fn stop<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let turn = self.cancels.turn(false).await;
            let request = self.request(Method::POST, self.base.join_segment("/cancel", run));
            polled::stopped(request, self.config.request_timeout, turn, Dialect::Vllm).await
        })
    }

    fn look_for<'a>(&'a self, call: &'a Call, _: Duration) -> BoxFuture<'a, Trail> {
        Box::pin(async move {
            let list = async {
                let response = self.request(Method::GET, self.base.join("/requests")).send().await.ok()?;
                if response.status().as_u16() != 200 {
                    return None;
                }
                let body = http::whole_body(response, ANSWER_MAX).await.ok()?;
                serde_json::from_slice::<wire::Requests>(&body).ok()
            };
            match timeout(self.config.request_timeout, list).await.ok().flatten().map(|list| list.of(call)) {
                Some(Some(run)) => Trail::Run(run),
                Some(None) if self.config.trust_requests => Trail::Clean,
                Some(None) | None => Trail::Lost,
            }
        })
    }

    fn hopeless(&self, queued: Duration) -> BoxFuture<'_, Option<Failure>> {
        Box::pin(async move {
            if queued < self.config.queue_timeout {
                return None;
            }
            match self.recent_health().await {
                // Not knowing is no reason to give a job up.
                Health::Down(failure) if matches!(failure.class, C::Capacity | C::ProviderDown) => {
                    Some(failure)
                }
                Health::Up | Health::Down(_) => None,
            }
        })
    }

    fn submits(&self) -> Option<&Throttle> {
        Some(&self.submits)
    }

    fn throttle(&self) -> &Throttle {
        &self.polls
    }

    fn typical(&self) -> &Typical {
        &self.typical
    }

    fn hints(&self) -> Option<&Hints> {
        Some(&self.hints)
    }

    fn clean(&self, failure: Failure, call: &Call) -> Failure {
        let mut failure = refusal::without_input(failure, &call.input);
        if let Some(key) = &self.config.api_key {
            failure.message = key.scrub(&failure.message);
        }
        failure
    }

    fn reckon(&self, call: &Call, took: Duration) -> Vec<UsedItem> {
        vec![UsedItem { sku: call.sku.clone(), item: "execution", used: Used::Time(took), rate: None }]
    }
}

impl RunPod {
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url).headers(self.headers.clone())
    }

    /// Asks the endpoint for its workers.
    pub(super) async fn workers(&self, limit: Duration) -> Health {
        let ask = async {
            let response =
                self.request(Method::GET, self.base.join("/health")).send().await.map_err(http::broken)?;
            if response.status().as_u16() != 200 {
                return Err(refusal::read(response, Dialect::Vllm).await.1);
            }
            let body = http::whole_body(response, ANSWER_MAX).await?;
            let unreadable =
                |_| Failure::new(C::ProviderDown, "unreadable JSON in the answer to the health check");
            let health: wire::EndpointHealth = serde_json::from_slice(&body).map_err(unreadable)?;
            health.workers.trouble().map_or(Ok(()), Err)
        };
        let late = |_| Failure::new(C::Timeout, "no answer to the health check in time");
        match timeout(limit, ask).await.map_err(late).and_then(|answered| answered) {
            Ok(()) => Health::Up,
            Err(mut failure) => {
                if let Some(key) = &self.config.api_key {
                    failure.message = key.scrub(&failure.message);
                }
                Health::Down(failure)
            }
        }
    }

    /// What the endpoint said a moment ago, or says now.
    async fn recent_health(&self) -> Health {
        let recent = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, health)) = recent
            && at.elapsed() < HEALTH_FOR.min(self.config.queue_timeout)
        {
            return health;
        }
        let health = self.workers(self.config.request_timeout).await;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), health.clone()));
        health
    }
}

async fn submitted(request: RequestBuilder, call: &Call) -> Submitted {
    match polled::submitted(request, Dialect::Vllm).await {
        Ok(response) => match read(response).await {
            Ok(job) => {
                let id = job.id.clone();
                job.asked(call).into_submitted(id)
            }
            Err(failure) => Submitted::Unsure(failure),
        },
        Err(submitted) => submitted,
    }
}

async fn read(response: Response) -> Result<wire::Job, Failure> {
    wire::job(&http::whole_body(response, ANSWER_MAX).await?)
}
