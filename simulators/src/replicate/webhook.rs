//! Webhooks: the prediction object, signed, sent to whoever asked for it.
//!
//! The real platform sends over HTTPS only, this one over HTTP only, and drops a webhook to anything else.

use std::{sync::Arc, time::Duration};

use axum::http::Uri;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use serde_json::Value;
use tokio::time::{self, Instant};
use tracing::debug;

use crate::{
    frames, outgoing,
    replicate::{
        prediction::{Prediction, Stage, Work},
        problem::Problem,
        wire::Wire,
    },
    service::Service,
};

/// `output` is told at most twice a second, and never again when nobody took it.
const OUTPUT_PAUSE: Duration = Duration::from_millis(500);
/// Nobody may hold up the platform for longer with one webhook.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pauses between the tries of `completed`, before scaling.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Who wants to hear what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    url: Uri,
    start: bool,
    output: bool,
    completed: bool,
}

impl Hook {
    /// Reads `webhook` and `webhook_events_filter`.
    pub(crate) fn parse(url: &str, filter: Option<&Value>) -> Result<Self, Problem> {
        let parsed = url.parse::<Uri>().ok();
        let url =
            parsed.filter(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
        let url = url.ok_or_else(|| Problem::unprocessable("- webhook: Must be a URL"))?;
        let rule = "- webhook_events_filter: Must be a list of start, output, logs and completed";
        let events = match filter {
            None => vec!["start", "output", "logs", "completed"],
            Some(Value::Array(events)) => events
                .iter()
                .map(|event| event.as_str().filter(|event| EVENTS.contains(event)))
                .collect::<Option<_>>()
                .ok_or_else(|| Problem::unprocessable(rule))?,
            Some(_) => return Err(Problem::unprocessable(rule)),
        };
        // `logs` is never told: these models log nothing.
        let wants = |event| events.contains(&event);
        Ok(Self { url, start: wants("start"), output: wants("output"), completed: wants("completed") })
    }
}

const EVENTS: [&str; 4] = ["start", "output", "logs", "completed"];

/// What webhooks are signed with.
#[derive(Debug)]
pub(crate) struct Secret(hmac::Key);

impl Secret {
    /// Reads `whsec_` and base64.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let key = STANDARD.decode(text.strip_prefix("whsec_")?).ok().filter(|key| !key.is_empty())?;
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The value of `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        format!("v1,{}", STANDARD.encode(hmac::sign(&self.0, &signed)))
    }
}

/// Tells the hook of everything it wants to hear, until the prediction is over or the simulator stops.
pub(crate) async fn tell(service: Arc<Service>, prediction: Arc<Prediction>, hook: Hook) {
    let shutdown = service.shutdown.clone();
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = follow(&service, &prediction, &hook) => {}
    }
}

async fn follow(service: &Service, prediction: &Prediction, hook: &Hook) {
    let mut stage = prediction.watch();
    let (mut started, mut pieces, mut last_output) = (false, 0, None::<Instant>);
    loop {
        let now = stage.borrow_and_update().clone();
        if let Some(work) = now.work() {
            if hook.start && !started {
                // The stage may have moved on since; the start is told as it was.
                let first = Stage::Processing(Work { pieces: 0, first: None, ..work });
                post(service, prediction, hook, &first, &[]).await;
            }
            started = true;
            let rested = last_output.is_none_or(|at| at.elapsed() >= OUTPUT_PAUSE);
            if hook.output && matches!(now, Stage::Processing(_)) && work.pieces > pieces && rested {
                (pieces, last_output) = (work.pieces, Some(Instant::now()));
                post(service, prediction, hook, &now, &[]).await;
            }
        }
        if matches!(now, Stage::Over(_)) {
            if hook.completed {
                post(service, prediction, hook, &now, &BACKOFF).await;
            }
            return;
        }
        if stage.changed().await.is_err() {
            return;
        }
    }
}

/// Sends one webhook, and again after each pause until somebody takes it.
async fn post(service: &Service, prediction: &Prediction, hook: &Hook, stage: &Stage, pauses: &[Duration]) {
    let body = frames::json(&Wire::at(service, prediction, stage));
    let id = format!("msg_{:08}", service.next_number());
    let settings = &service.config.replicate;
    let copies = if settings.webhook_duplicates { 2 } else { 1 };
    for pause in pauses.iter().map(Some).chain([None]) {
        let mut taken = false;
        for _ in 0..copies {
            let timestamp = service.unix_s();
            let signature = service.replicate.secret.sign(&id, timestamp, &body);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_standard() {
        // The example in the documentation of Svix, whose scheme this is.
        let secret = Secret::parse("whsec_plJ3nmyCDGBKInavdOK15jsl").unwrap();
        let body = br#"{"event_type":"ping","data":{"success":true}}"#;
        let signature = secret.sign("msg_loFOjxBNrRLzqYUf", 1_731_705_121, body);
        assert_eq!(signature, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=");
    }

    #[test]
    fn a_secret_is_a_prefix_and_base64() {
        for text in ["", "whsec_", "whsec_?", "c2ltdWxhdGVk"] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
