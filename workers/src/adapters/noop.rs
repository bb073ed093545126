//! A provider that does nothing, so that a benchmark measures the pipeline and not a provider.
//!
//! It reads nothing and always gives the same answer. Each call is one inference of the call's own SKU.

use std::time::Duration;

use futures_util::future::BoxFuture;
use schemas::{
    failure::{Failure, FailureClass},
    prices::Used,
    reply::{Output, Usage},
};

use crate::provider::{Call, Ended, Health, Progress, Provider, Success, UsedItem};

/// Every answer.
const TEXT: &str = "ok";

/// Answers at once, or after a fixed delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noop {
    /// How long each call takes.
    pub delay: Duration,
}

impl Noop {
    /// One that takes `delay` for each call.
    pub const fn new(delay: Duration) -> Self {
        Self { delay }
    }
}

impl Provider for Noop {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            if !self.delay.is_zero() {
                tokio::time::sleep(self.delay.min(call.timeout)).await;
            }
            let used = vec![UsedItem {
                sku: call.sku.clone(),
                item: "inference",
                used: Used::Inferences(1),
                rate: None,
            }];
            let outcome = if self.delay > call.timeout {
                Err(Failure::new(
                    FailureClass::Timeout,
                    "the delay is longer than the time limit of the call",
                ))
            } else {
                progress.token(TEXT);
                let output = Output { text: TEXT.to_owned(), finish_reason: "stop".to_owned() };
                let usage = Usage { prompt_tokens: 1, completion_tokens: 1, ..Usage::default() };
                Ok(Success { output, usage })
            };
            Ended { outcome, used, estimated: false, cold_start: Duration::ZERO, first_token: Duration::ZERO }
        })
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(async { Health::Up })
    }
}
