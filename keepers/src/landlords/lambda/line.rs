//! The line to one account: its key, its rates, and the types and prices that it told last.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Client, Method, StatusCode, header};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    config::LambdaConfig,
    wire::{self, Failure, Types},
};
use crate::{
    landlord::CallError,
    landlords::{
        http::{self, Answer},
        pace::Pace,
    },
};

/// Types and prices are believed so long: longer than a keeper lets pass between two looks at prices, so that an order made in
/// haste needs no call before it. After that an order looks again.
const TYPES_FOR: Duration = Duration::from_secs(180);

/// Callers of one account that wait for their turn wait at most so long: ten calls at the documented rate.
const PATIENCE: Duration = Duration::from_secs(10);

/// One launch may wait behind another.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(15);

/// The line to one account.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) config: LambdaConfig,
    client: Client,
    general: Pace,
    launches: Pace,
    types: Mutex<Option<(Instant, Arc<Types>)>>,
}

impl Line {
    pub(super) fn new(config: LambdaConfig) -> Result<Self, CallError> {
        config.check()?;
        Ok(Self {
            client: http::client()?,
            general: Pace::after_another("lambda", config.pace, PATIENCE, config.pace * 2),
            launches: Pace::new("lambda launch", config.launch_pace, LAUNCH_PATIENCE, config.launch_pace),
            types: Mutex::default(),
            config,
        })
    }

    /// Sends a call at its turn. A refusal for its rate is told to the pace.
    async fn send(
        &self,
        pace: &Pace,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallError> {
        pace.turn().await?;
        let url = format!("{}{path}", self.config.base_url);
        let bearer = self.config.api_key.header("Bearer ");
        let bearer =
            bearer.ok_or_else(|| CallError::Misconfigured("lambda: no header can carry the key".into()))?;
        let mut request = self.client.request(method, url).header(header::AUTHORIZATION, bearer);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = http::call(request).await?;
        if wire::is_rate_limit(&answer) {
            let wait = pace.refused(answer.retry_after());
            return Err(CallError::RateLimited(format!("lambda {path}"), Some(wait)));
        }
        pace.accepted();
        Ok(answer)
    }

    /// A call that reads, or changes nothing that costs.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallError> {
        self.send(&self.general, method, path, body).await
    }

    /// The call that costs; it has a rate of its own.
    pub(super) async fn launch(&self, body: &Value) -> Result<Answer, CallError> {
        self.send(&self.launches, Method::POST, "/instance-operations/launch", Some(body)).await
    }

    /// An answer that is no success, as an error.
    pub(super) fn failed(&self, what: &str, answer: &Answer) -> CallError {
        Failure::read(answer).as_error(&format!("lambda {what}"), &self.config.api_key.scrub(&answer.text()))
    }

    pub(super) async fn types(&self) -> Result<Arc<Types>, CallError> {
        if let Some((at, types)) = &*self.believed()
            && at.elapsed() < TYPES_FOR
        {
            return Ok(Arc::clone(types));
        }
        self.types_now().await
    }

    /// Types and prices as they are now.
    pub(super) async fn types_now(&self) -> Result<Arc<Types>, CallError> {
        let answer = self.ask(Method::GET, "/instance-types", None).await?;
        if answer.status != StatusCode::OK {
            return Err(self.failed("instance types", &answer));
        }
        let types = Arc::new(wire::types(&answer)?);
        *self.believed() = Some((Instant::now(), Arc::clone(&types)));
        Ok(types)
    }

    fn believed(&self) -> MutexGuard<'_, Option<(Instant, Arc<Types>)>> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
