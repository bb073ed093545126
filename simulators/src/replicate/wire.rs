//! The prediction object as it goes over the wire, valid against Replicate's API description.
//!
//! A field without a value is left out where the description does not allow `null`: `started_at`, `completed_at`,
//! `deadline`, and `logs` once they are removed.

use std::fmt::Write as _;

use axum::http::{HeaderMap, header};
use chrono::{DateTime, SecondsFormat};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::prediction::{End, Origin, Outcome, Prediction, Stage};
use crate::{
    clock::{Seconds, micros},
    config::OutputShape,
    service::Service,
};

/// One prediction at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Wire<'a> {
    id: &'a str,
    model: &'a str,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<&'a str>,
    input: Input<'a>,
    output: Option<Output<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<&'static str>,
    error: Option<&'static str>,
    status: &'static str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    data_removed: bool,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
    urls: Urls,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Input<'a> {
    Given(&'a Map<String, Value>),
    Removed {},
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Output<'a> {
    Pieces(&'a [String]),
    Text(String),
}

/// The token counts are there when it has run.
#[derive(Debug, Serialize)]
struct Metrics {
    predict_time: Seconds,
    total_time: Seconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_token_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_token_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_first_token: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Urls {
    get: String,
    cancel: String,
    stream: String,
    web: String,
}

impl<'a> Wire<'a> {
    /// The prediction as it is now.
    pub(crate) fn now(service: &Service, prediction: &'a Prediction) -> Self {
        Self::at(service, prediction, &prediction.stage())
    }

    /// The prediction as it was at that stage.
    pub(crate) fn at(service: &Service, prediction: &'a Prediction, stage: &Stage) -> Self {
        let Prediction { id, base, .. } = prediction;
        let model = prediction.model.settings.name.as_str();
        let removed = prediction.data_removed(service, Instant::now());
        let time = |at| rfc3339(service.clock.unix_us(at));
        let end = match stage {
            Stage::Starting | Stage::Processing(_) => None,
            Stage::Over(end) => Some(end),
        };
        Self {
            id,
            model,
            version: match prediction.origin {
                Origin::Official => "hidden".to_owned(),
                Origin::Version | Origin::Deployment => version_id(model),
            },
            deployment: (prediction.origin == Origin::Deployment).then_some(model),
            input: if removed { Input::Removed {} } else { Input::Given(&prediction.input) },
            output: if removed { None } else { output(service, prediction, stage) },
            logs: (!removed).then_some(""),
            error: end.and_then(|end| match end.outcome {
                Outcome::Failed(failure) => Some(failure.as_str()),
                Outcome::Succeeded | Outcome::Canceled | Outcome::Aborted => None,
            }),
            status: stage.status(),
            created_at: time(prediction.created),
            started_at: stage.work().map(|work| time(work.since)),
            completed_at: end.map(|end| time(end.at)),
            deadline: prediction.deadline.map(time),
            data_removed: removed,
            source: "api",
            metrics: end.map(|end| Metrics::new(prediction, end)),
            urls: Urls {
                get: format!("{base}/v1/predictions/{id}"),
                cancel: format!("{base}/v1/predictions/{id}/cancel"),
                stream: format!("{base}/v1/streams/{id}"),
                web: format!("https://replicate.com/p/{id}"),
            },
        }
    }
}

/// The output so far: growing pieces, or the text of a model that returns its output whole.
fn output<'a>(service: &Service, prediction: &'a Prediction, stage: &Stage) -> Option<Output<'a>> {
    let succeeded = matches!(stage, Stage::Over(end) if end.outcome == Outcome::Succeeded);
    match service.config.replicate.output {
        OutputShape::String => succeeded.then(|| Output::Text(prediction.answer.text())),
        OutputShape::Array => {
            let pieces = stage.work().map_or(0, |work| work.pieces);
            (succeeded || pieces > 0).then(|| Output::Pieces(&prediction.pieces[..pieces]))
        }
    }
}

impl Metrics {
    fn new(prediction: &Prediction, end: &End) -> Self {
        let predict = end.predict_micros();
        let tokens = end.work.map(|work| prediction.tokens_in(work.pieces));
        let first = end.work.and_then(|work| Some(work.first?.duration_since(work.since)));
        Self {
            predict_time: Seconds(predict),
            total_time: Seconds(micros(end.at.duration_since(prediction.created))),
            input_token_count: tokens.map(|_| prediction.answer.prompt_tokens),
            output_token_count: tokens,
            time_to_first_token: first.map(|span| Seconds(micros(span))),
            tokens_per_second: tokens
                .filter(|_| predict > 0)
                .map(|tokens| f64::from(tokens) * 1e6 / predict as f64),
        }
    }
}

/// A time on the wire, in UTC with microseconds.
pub(crate) fn rfc3339(unix_us: u64) -> String {
    let time = i64::try_from(unix_us).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The id of a model's only version: 64 hexadecimal digits, the SHA-256 of its name.
pub(crate) fn version_id(model: &str) -> String {
    digest(&SHA256, model.as_bytes()).as_ref().iter().fold(String::new(), |mut id, byte| {
        write!(id, "{byte:02x}").expect("a string takes all that is written");
        id
    })
}

/// The URL at which the caller reaches this simulator.
pub(crate) fn base(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    format!("http://{host}")
}
