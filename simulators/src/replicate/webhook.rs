//! Sends webhooks: the prediction object, signed, at each event that its creator asked for.
//!
//! The real platform sends over HTTPS only; the simulator sends over HTTP only, and drops a webhook to any other scheme.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};
use tracing::debug;

use super::{
    hook::Hook,
    prediction::{Prediction, Stage, Work},
    wire::Wire,
};
use crate::{frames, outgoing, service::Service, signature::Secret};

/// `output` is told at most twice a second, and is not sent again.
const OUTPUT_PAUSE: Duration = Duration::from_millis(500);
/// How long a receiver may take for one webhook.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pauses between the tries of `completed`, before scaling.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Tells the hook every event that it asks for, until the prediction is over or the simulator stops.
pub(crate) async fn tell(
    service: Arc<Service>,
    secret: Arc<Secret>,
    prediction: Arc<Prediction>,
    hook: Hook,
) {
    let shutdown = service.shutdown.clone();
    let sender = Sender { service: &service, secret: &secret, prediction: &prediction, hook: &hook };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = sender.follow() => {}
    }
}

/// Sends the webhooks of one prediction.
struct Sender<'a> {
    service: &'a Service,
    secret: &'a Secret,
    prediction: &'a Prediction,
    hook: &'a Hook,
}

impl Sender<'_> {
    async fn follow(&self) {
        let (hook, mut stage) = (self.hook, self.prediction.watch());
        let (mut started, mut pieces, mut last_output) = (false, 0, None::<Instant>);
        loop {
            let now = stage.borrow_and_update().clone();
            if let Some(work) = now.work() {
                if hook.start && !started {
                    // The stage may have moved on since; the start is told as it was.
                    let first = Stage::Processing(Work { pieces: 0, first: None, ..work });
                    self.post(&first, &[]).await;
                }
                started = true;
                let rested = last_output.is_none_or(|at| at.elapsed() >= OUTPUT_PAUSE);
                if hook.output && matches!(now, Stage::Processing(_)) && work.pieces > pieces && rested {
                    (pieces, last_output) = (work.pieces, Some(Instant::now()));
                    self.post(&now, &[]).await;
                }
            }
            if matches!(now, Stage::Over(_)) {
                if hook.completed {
                    self.post(&now, &BACKOFF).await;
                }
                return;
            }
            if stage.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends one webhook, and again after each pause until a receiver takes it.
    async fn post(&self, stage: &Stage, pauses: &[Duration]) {
        let Self { service, secret, prediction, hook } = self;
        let body = frames::json(&Wire::at(service, prediction, stage));
        let id = format!("msg_{:08}", service.next_number());
        let settings = &service.config.replicate;
        let copies = if settings.webhook_duplicates { 2 } else { 1 };
        for pause in pauses.iter().map(Some).chain([None]) {
            let mut taken = false;
            for _ in 0..copies {
                let timestamp = service.clock.unix_s();
                let signature = secret.sign(&id, timestamp, &body);
                let headers = format!(
                    "webhook-id: {id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n"
                );
                taken = match time::timeout(PATIENCE, outgoing::post(&hook.url, &headers, &body)).await {
                    Ok(Ok(status)) => (200..300).contains(&status),
                    Ok(Err(error)) => {
                        debug!(%error, "webhook not delivered");
                        false
                    }
                    Err(_) => false,
                };
            }
            match pause {
                Some(pause) if !taken => time::sleep(settings.scaled(*pause)).await,
                Some(_) | None => return,
            }
        }
    }
}
