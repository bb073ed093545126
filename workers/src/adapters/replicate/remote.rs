//! Replicate's prediction API: one request each.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use reqwest::{
    Method, RequestBuilder, Response, Url,
    header::{CONTENT_TYPE, DATE},
};
use schemas::{
    failure::{Failure, FailureClass as C},
    prices::Used,
};
use tokio::time::timeout;

use super::{
    Replicate, Target,
    wire::{self, ANSWER_MAX, PAGE_MAX, Page, Prediction},
};
use crate::{
    adapters::{
        dialect::Dialect,
        hints::Hints,
        http, json,
        openai::{self, Billing},
        polled, refusal,
        runs::{Asked, Over, Pace, Remote, Submitted, Typical},
        throttle::Throttle,
    },
    provider::{Call, Trail, UsedItem},
};

/// How long after the end an output is kept.
const KEPT: Duration = Duration::from_secs(3600);

/// How long a new prediction may be missing from the list.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// The shortest `Cancel-After`.
const CANCEL_AFTER_MIN: Duration = Duration::from_secs(5);

/// How much longer than its call a prediction may live.
const CANCEL_AFTER_MARGIN: Duration = Duration::from_secs(30);

/// The longest `Prefer: wait`.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Pages of the list looked through for a lost prediction: two thousand predictions.
const PAGES_MAX: usize = 20;

/// The name of an answer of Replicate in errors.
const PROVIDERS_ANSWER: &str = "the provider's answer";

/// The difference of two clocks, and the time of a request on its way.
const SLACK: Duration = Duration::from_secs(10);

impl Remote for Replicate {
    fn name(&self) -> &'static str {
        "replicate"
    }

    fn pace(&self) -> Pace {
        Pace {
            min: self.config.poll_min,
            max: self.config.poll_max,
            request_timeout: self.config.request_timeout,
            kept: KEPT,
            visible_within: VISIBLE_WITHIN,
            submits: 1,
        }
    }

    fn submit<'a>(&'a self, call: &'a Call, limit: Duration) -> BoxFuture<'a, Submitted> {
        Box::pin(async move {
            // A job that is watched live wants the stream at once; the answer has the stream's address.
            let wait = if call.live { Duration::ZERO } else { self.config.wait.min(limit).min(WAIT_MAX) };
            let request = match self.submission(call, limit, wait) {
                Ok(request) => request,
                Err(failure) => return Submitted::Refused(failure),
            };
            polled::within(wait + self.config.request_timeout, self.submitted(request, call)).await
        })
    }

    fn ask<'a>(&'a self, call: &'a Call, run: &'a str) -> BoxFuture<'a, Asked> {
        Box::pin(async move {
            let request = self.request(Method::GET, self.base.join_segment("/v1/predictions", run));
            match polled::asked(request, Dialect::OpenAi).await {
                Ok(response) => match prediction(response).await {
                    Ok(prediction) if prediction.id == run => self.asked(prediction, call),
                    Ok(_) => Asked::about_another(),
                    Err(failure) => Asked::Failed(failure),
                },
                Err(asked) => asked,
            }
        })
    }

    fn stop<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let turn = self.config.limits.others.turn(true).await;
            let mut url = self.base.join_segment("/v1/predictions", run);
            url.path_segments_mut().expect("a base URL is http or https").push("cancel");
            let request = self.request(Method::POST, url);
            polled::stopped(request, self.config.request_timeout, turn, Dialect::OpenAi).await
        })
    }

    fn look_for<'a>(&'a self, call: &'a Call, age: Duration) -> BoxFuture<'a, Trail> {
        Box::pin(async move { self.listed(call, age).await.unwrap_or(Trail::Lost) })
    }

    fn submits(&self) -> Option<&Throttle> {
        Some(&self.config.limits.submits)
    }

    fn throttle(&self) -> &Throttle {
        &self.config.limits.others
    }

    fn typical(&self) -> &Typical {
        &self.typical
    }

    fn hints(&self) -> Option<&Hints> {
        Some(&self.hints)
    }

    fn clean(&self, failure: Failure, call: &Call) -> Failure {
        let mut failure = refusal::without_input(failure, &call.input);
        failure.message = self.scrub(&failure.message);
        failure
    }

    fn reckon(&self, call: &Call, took: Duration) -> Vec<UsedItem> {
        let (item, used) = match self.config.billing {
            Billing::PerSecond | Billing::PerInference => ("execution", Used::Time(took)),
            Billing::PerToken => {
                let most = call.params.max_tokens.unwrap_or(schemas::job::MAX_TOKENS_DEFAULT);
                ("tokens", Used::Tokens { input: 0, output: u64::from(most) })
            }
        };
        vec![UsedItem { sku: call.sku.clone(), item, used, rate: None }]
    }
}

impl Replicate {
    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url).headers(self.headers.clone())
    }

    fn submission(&self, call: &Call, limit: Duration, wait: Duration) -> Result<RequestBuilder, Failure> {
        let (url, version) = match self.config.target {
            Target::Version => (self.base.join("/v1/predictions"), Some(call.model.as_str())),
            Target::Model => (self.target_url("/v1/models", &call.model)?, None),
            Target::Deployment => (self.target_url("/v1/deployments", &call.model)?, None),
        };
        let webhook = self.config.callback.as_ref().map(|callback| callback.url.as_str());
        let body = wire::submission(version, wire::input(call, &self.config.input), webhook);
        let ends = (limit + CANCEL_AFTER_MARGIN).max(CANCEL_AFTER_MIN).as_secs();
        let mut request = self
            .client
            .post(url)
            .headers(openai::headers_of(&self.headers, call))
            .header(CONTENT_TYPE, "application/json")
            .header("cancel-after", format!("{ends}s"))
            .body(body);
        if wait >= Duration::from_secs(1) {
            request = request.header("prefer", format!("wait={}", wait.as_secs()));
        }
        Ok(request)
    }

    fn target_url(&self, path: &str, model: &str) -> Result<Url, Failure> {
        let Some((owner, name)) =
            model.split_once('/').filter(|(owner, name)| !owner.is_empty() && !name.is_empty())
        else {
            return Err(Failure::new(C::Misconfigured, format!("the model `{model}` must be owner/name")));
        };
        let mut url = self.base.join_segment(path, owner);
        url.path_segments_mut().expect("a base URL is http or https").push(name).push("predictions");
        Ok(url)
    }

    async fn submitted(&self, request: RequestBuilder, call: &Call) -> Submitted {
        let mut prediction = match polled::submitted(request, Dialect::OpenAi).await {
            Ok(response) => match prediction(response).await {
                Ok(prediction) => prediction,
                Err(failure) => return Submitted::Unsure(failure),
            },
            Err(submitted) => return submitted,
        };
        let id = prediction.id.clone();
        let stream = prediction.urls.stream.take().filter(|_| call.live);
        let submitted = self.asked(prediction, call).into_submitted(id);
        if let (Submitted::Run(id), Some(url)) = (&submitted, stream) {
            self.streams.add(id, url);
        }
        submitted
    }

    /// A deployment is billed for the time it stands, so its predictions give only an estimate.
    fn asked(&self, prediction: Prediction, call: &Call) -> Asked {
        match prediction.asked(call, self.config.billing) {
            Asked::Over(over) if self.config.target == Target::Deployment => {
                Asked::Over(Over { estimated: true, ..over })
            }
            asked => asked,
        }
    }

    /// Goes through the account's predictions, newest first, until they are older than the call.
    async fn listed(&self, call: &Call, age: Duration) -> Option<Trail> {
        let input = wire::input(call, &self.config.input);
        let mut url = self.base.join("/v1/predictions");
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let _turn = self.config.limits.others.turn(true).await;
            let send = self.request(Method::GET, url.clone()).send();
            let response = timeout(self.config.request_timeout, send).await.ok()?.ok()?;
            if response.status().as_u16() != 200 {
                return None;
            }
            // By the provider's own clock, so that two clocks need not agree.
            let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
            let now = date.and_then(|text| DateTime::parse_from_rfc2822(text).ok())?.with_timezone(&Utc);
            let since = now - chrono::TimeDelta::from_std(age + SLACK).ok()?;
            let body = timeout(self.config.request_timeout, http::whole_body(response, PAGE_MAX))
                .await
                .ok()?
                .ok()?;
            let page: Page = json::read(&body, PROVIDERS_ANSWER).ok()?;
            let mut all_recent = true;
            for prediction in page.results {
                // One whose time does not read may be ours.
                all_recent &= prediction.created_at.is_none_or(|at| at >= since);
                if all_recent && self.could_be(&prediction, call, &input) {
                    found.push(prediction.id);
                }
            }
            match page.next.filter(|_| all_recent) {
                Some(next) => url = self.base.resolve_url(&next)?,
                None => {
                    return Some(match found.as_slice() {
                        [] => Trail::Clean,
                        [one] => Trail::Run(one.clone()),
                        // The same input was submitted twice within the time, and nothing tells the two apart.
                        _ => Trail::Lost,
                    });
                }
            }
        }
        None
    }

    fn could_be(
        &self,
        prediction: &Prediction,
        call: &Call,
        input: &serde_json::Map<String, serde_json::Value>,
    ) -> bool {
        // A version may be named without its model, and a deployment is listed under its model.
        let model = self.config.target != Target::Model || prediction.model == call.model;
        let followed = self.hints.is_followed(&prediction.id);
        model && !followed && input.iter().all(|(key, value)| prediction.input.get(key) == Some(value))
    }
}

async fn prediction(response: Response) -> Result<Prediction, Failure> {
    json::read(&http::whole_body(response, ANSWER_MAX).await?, PROVIDERS_ANSWER)
}
