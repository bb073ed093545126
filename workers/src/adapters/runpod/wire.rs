//! RunPod's wire format: the bodies of requests and answers. Pure.

use std::time::Duration;

use schemas::{
    AttemptKey,
    failure::{Failure, FailureClass as C},
    prices::Used,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::output;
use crate::{
    adapters::{
        chat::{self, OUTPUT_MAX},
        dialect::Dialect,
        json::{self, lax_millis},
        runs::{Asked, Over},
    },
    provider::{Call, UsedItem},
};

/// An answer: the output, and as much again for what JSON adds to it.
pub(super) const ANSWER_MAX: usize = 2 * OUTPUT_MAX;

/// What RunPod takes as limits, in milliseconds.
const EXECUTION_RANGE: (u64, u64) = (5_000, 604_800_000);
const TTL_RANGE: (u64, u64) = (10_000, 604_800_000);

/// How much longer than its call a job may exist, so that one we gave up on cannot start hours later.
const TTL_MARGIN_MS: u64 = 60_000;

/// A run that failed after this share of its time limit ran into it.
const NEAR_LIMIT: f64 = 0.95;

/// How much of an error text is kept: it may hold a traceback.
const ERROR_MAX: usize = 300;

#[derive(Serialize)]
struct Submission<'a> {
    input: JobInput<'a>,
    policy: Policy,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
}

#[derive(Serialize)]
struct JobInput<'a> {
    route: &'static str,
    method: &'static str,
    body: Box<RawValue>,
    beacon: Mark<'a>,
}

/// How a job is found again in the endpoint's list of requests. worker-vllm ignores it.
#[derive(Serialize)]
struct Mark<'a> {
    job: &'a str,
    attempt: u16,
    key: AttemptKey,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    execution_timeout: u64,
    ttl: u64,
}

/// The body of `POST /run` and `/runsync`. RunPod stops the job by itself some time after `limit`.
pub(super) fn submission(call: &Call, limit: Duration, webhook: Option<&str>) -> Vec<u8> {
    // Never streamed: a stream in a job comes as text cut at arbitrary bytes.
    let body = String::from_utf8(chat::request(call, Dialect::Vllm, false)).expect("JSON is UTF-8");
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let submission = Submission {
        input: JobInput {
            route: chat::path(&call.input),
            method: "POST",
            body: RawValue::from_string(body).expect("our own JSON reads"),
            beacon: Mark { job: &call.job.to_string(), attempt: call.attempt, key: call.key },
        },
        policy: Policy {
            execution_timeout: limit_ms.clamp(EXECUTION_RANGE.0, EXECUTION_RANGE.1),
            ttl: limit_ms.saturating_add(TTL_MARGIN_MS).clamp(TTL_RANGE.0, TTL_RANGE.1),
        },
        webhook,
    };
    serde_json::to_vec(&submission).expect("texts and numbers always make JSON")
}

/// A job as `/run`, `/runsync`, `/status` and `/cancel` answer it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Job {
    pub(super) id: String,
    status: String,
    #[serde(default, deserialize_with = "lax_millis")]
    delay_time: Option<Duration>,
    #[serde(default, deserialize_with = "lax_millis")]
    execution_time: Option<Duration>,
    #[serde(default)]
    output: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<Value>,
}

/// Reads a job.
pub(super) fn job(bytes: &[u8]) -> Result<Job, Failure> {
    json::read(bytes, "the answer about a job")
}

impl Job {
    /// The meaning of its status for the run.
    pub(super) fn asked(self, call: &Call) -> Asked {
        match self.status.as_str() {
            "IN_QUEUE" => Asked::Queued,
            "IN_PROGRESS" | "RUNNING" => Asked::Going,
            "COMPLETED" | "FAILED" | "CANCELLED" | "TIMED_OUT" => Asked::Over(self.over(call)),
            other => {
                // Once would do, but it is rare and the run is named.
                let other: String = other.chars().take(40).collect();
                tracing::warn!(job = %call.job, status = other, "a status nobody told us of; asking on");
                Asked::Going
            }
        }
    }

    fn over(self, call: &Call) -> Over {
        let (delay, execution) = (self.delay_time, self.execution_time);
        let used = match (execution, delay) {
            (Some(time), _) if time.is_zero() => Some(Vec::new()),
            (Some(time), _) => Some(vec![UsedItem {
                sku: call.sku.clone(),
                item: "execution",
                used: Used::Time(time),
                rate: None,
            }]),
            // No worker ever took it.
            (None, None) => Some(Vec::new()),
            (None, Some(_)) => None,
        };
        let outcome = match self.status.as_str() {
            "COMPLETED" => match &self.output {
                Some(output) => output::read(output.get(), &call.input),
                None => Err(Failure::new(C::ProviderDown, "completed without an output; the work is billed")),
            },
            "TIMED_OUT" => Err(Failure::new(C::Timeout, "the job timed out at the provider")),
            "CANCELLED" => Err(Failure::new(C::ProviderDown, "the job was cancelled at the provider")),
            _ => Err(self.failure(execution, call.timeout)),
        };
        Over {
            outcome,
            used,
            estimated: false,
            // A worker takes jobs only after its start, so what a job waits for is mostly that.
            cold_start: delay.unwrap_or_default(),
            took: execution.map(|time| time + delay.unwrap_or_default()),
            first_token: Duration::ZERO,
        }
    }

    /// Three shapes of text, none of them reliably JSON, so words decide.
    fn failure(&self, execution: Option<Duration>, limit: Duration) -> Failure {
        let text = match &self.error {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "the job failed without a word".to_owned(),
        };
        let has = |part: &str| text.contains(part);
        let class = if has("CUDA out of memory") || has("OutOfMemoryError") {
            C::OutOfMemory
        } else if has("vLLM returned HTTP 404") {
            C::Misconfigured
        } else if ["400", "413", "422"]
            .iter()
            .any(|code| text.contains(&format!("vLLM returned HTTP {code}")))
        {
            C::InvalidRequest
        } else if execution.is_some_and(|time| time >= limit.mul_f64(NEAR_LIMIT)) || has("execution timeout")
        {
            C::Timeout
        } else {
            C::ProviderDown
        };
        let text: String = text.chars().take(ERROR_MAX).collect();
        Failure::new(class, format!("the job failed: {text}"))
    }
}

/// The endpoint's list of requests. Its shape is what others read; nobody documents it.
#[derive(Deserialize)]
pub(super) struct Requests {
    requests: Vec<Request>,
}

#[derive(Deserialize)]
struct Request {
    id: String,
    #[serde(default)]
    input: Value,
}

impl Requests {
    /// The job of this very call.
    pub(super) fn of(self, call: &Call) -> Option<String> {
        let (key, job, attempt) = (call.key.to_string(), call.job.to_string(), u64::from(call.attempt));
        let ours = |mark: &Value| match &mark["key"] {
            // Of a worker of an older version.
            Value::Null => mark["job"] == job.as_str() && mark["attempt"] == attempt,
            named => *named == key.as_str(),
        };
        self.requests.into_iter().find(|request| ours(&request.input["beacon"])).map(|request| request.id)
    }
}

/// What `/health` says of the workers; a key that is not there counts nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Workers {
    idle: u64,
    initializing: u64,
    ready: u64,
    running: u64,
    throttled: u64,
    unhealthy: u64,
}

/// `GET /health`
#[derive(Debug, Deserialize)]
pub(super) struct EndpointHealth {
    #[serde(default)]
    pub(super) workers: Workers,
}

impl Workers {
    /// Why no worker will take a job; `None` while one may. None at all is an endpoint that is scaled to nothing.
    pub(super) fn trouble(&self) -> Option<Failure> {
        if self.ready + self.running + self.idle + self.initializing > 0 {
            return None;
        }
        // A crash loop looks like missing capacity, and waiting does not help it.
        if self.unhealthy > 0 {
            let message = format!("{} workers are unhealthy and none can serve", self.unhealthy);
            return Some(Failure::new(C::ProviderDown, message));
        }
        (self.throttled > 0).then(|| {
            let message = format!("{} workers are throttled and none can serve", self.throttled);
            Failure::new(C::Capacity, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use schemas::job::Input;

    use super::*;

    fn call() -> Call {
        Call {
            job: "0198c0de-0000-7000-8000-000000000001".parse().unwrap(),
            attempt: 2,
            key: schemas::AttemptKey::of("test", 2),
            model: "m".to_owned(),
            sku: "L4".to_owned(),
            tenant: schemas::Tenant::default(),
            input: Input::Prompt("hi".to_owned()),
            params: schemas::job::Params::default(),
            timeout: Duration::from_secs(100),
            traceparent: None,
            live: false,
        }
    }

    fn over(json: &str) -> Over {
        match job(json.as_bytes()).unwrap().asked(&call()) {
            Asked::Over(over) => over,
            other => panic!("{other:?}"),
        }
    }

    fn completed(output: &str) -> Over {
        over(&format!(
            r#"{{"id":"x","status":"COMPLETED","delayTime":5,"executionTime":1437,"output":{output}}}"#
        ))
    }

    #[test]
    fn a_success_carries_its_text_and_its_times_whole_or_not() {
        let output = r#"[{"choices":[{"text":"Air","finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}]"#;
        let over = completed(output);
        let success = over.outcome.unwrap();
        assert_eq!((success.output.text.as_str(), success.usage.prompt_tokens), ("Air", 3));
        let time = Duration::from_millis(1_437);
        assert_eq!(over.used.unwrap()[0].used, Used::Time(time));
        assert_eq!(
            (over.cold_start, over.took),
            (Duration::from_millis(5), Some(time + Duration::from_millis(5)))
        );
        let times = |times: &str| {
            let over = self::over(&format!(r#"{{"id":"x","status":"COMPLETED",{times},"output":{output}}}"#));
            assert!(over.outcome.is_ok(), "{times}");
            over.used.map(|used| used[0].used)
        };
        assert_eq!(
            times(r#""delayTime":5.25,"executionTime":1437.5"#),
            Some(Used::Time(Duration::from_micros(1_437_500)))
        );
        for odd in ["null", "\"1437\"", "-1", "{}", "1e30"] {
            assert_eq!(times(&format!(r#""delayTime":5,"executionTime":{odd}"#)), None, "{odd}");
        }
    }

    #[test]
    fn a_job_that_completed_without_an_output_is_billed() {
        let over = over(r#"{"id":"x","status":"COMPLETED","executionTime":7}"#);
        assert_eq!(over.outcome.unwrap_err().class, C::ProviderDown);
        assert_eq!(over.used.unwrap().len(), 1, "it ran, so it is billed");
    }

    #[test]
    fn a_failure_is_told_by_its_words_and_by_its_time() {
        let failed = |error: &str, time: u64| {
            let error = serde_json::to_string(error).unwrap();
            over(&format!(r#"{{"id":"x","status":"FAILED","executionTime":{time},"error":{error}}}"#))
                .outcome
                .unwrap_err()
                .class
        };
        assert_eq!(failed("{'message': 'vLLM returned HTTP 400: too long'}", 1), C::InvalidRequest);
        assert_eq!(failed("{'message': 'vLLM returned HTTP 404: no model'}", 1), C::Misconfigured);
        assert_eq!(failed("{'message': 'vLLM returned HTTP 500: engine'}", 1), C::ProviderDown);
        assert_eq!(failed(r#"{"error_type":"<class 'torch.cuda.OutOfMemoryError'>"}"#, 1), C::OutOfMemory);
        assert_eq!(failed("handler: gone \ntraceback: …", 99_000), C::Timeout);
        assert_eq!(failed("handler: gone", 1), C::ProviderDown);
    }

    #[test]
    fn a_job_that_no_worker_took_is_not_billed_and_an_unknown_end_is_not_guessed() {
        assert_eq!(over(r#"{"id":"x","status":"CANCELLED"}"#).used, Some(Vec::new()));
        assert_eq!(over(r#"{"id":"x","status":"CANCELLED","delayTime":9}"#).used, None);
        assert!(matches!(job(br#"{"id":"x","status":"PAUSED"}"#).unwrap().asked(&call()), Asked::Going));
        assert!(matches!(job(br#"{"id":"x","status":"RUNNING"}"#).unwrap().asked(&call()), Asked::Going));
        assert!(job(br#"{"error":"no job"}"#).is_err());
    }

    #[test]
    fn a_submission_keeps_to_the_ranges_and_can_be_found_again() {
        let body = submission(&call(), Duration::from_secs(1), Some("https://h/x"));
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["policy"], serde_json::json!({ "executionTimeout": 5_000, "ttl": 61_000 }));
        assert_eq!(body["input"]["body"]["stream"], false);
        let list = serde_json::json!({ "requests": [{ "id": "a" }, { "id": "b", "input": body["input"] }] });
        let requests: Requests = serde_json::from_value(list).unwrap();
        assert_eq!(requests.of(&call()).as_deref(), Some("b"));
        // A job of another tenant with the same id.
        let other = Call { key: AttemptKey::of("other", 2), ..call() };
        let list = serde_json::json!({ "requests": [{ "id": "b", "input": body["input"] }] });
        let requests: Requests = serde_json::from_value(list).unwrap();
        assert_eq!(requests.of(&other), None);
    }

    #[test]
    fn workers_that_cannot_serve_are_told_apart() {
        let class = |json: &str| {
            serde_json::from_str::<EndpointHealth>(json)
                .unwrap()
                .workers
                .trouble()
                .map(|failure| failure.class)
        };
        assert_eq!(class(r#"{"workers":{"idle":0,"running":0}}"#), None, "scaled to nothing");
        assert_eq!(class(r#"{"workers":{"throttled":1,"running":1}}"#), None);
        assert_eq!(class(r#"{"workers":{"throttled":1}}"#), Some(C::Capacity));
        assert_eq!(class(r#"{"workers":{"throttled":1,"unhealthy":2}}"#), Some(C::ProviderDown));
        assert_eq!(class(r#"{"workers":{"initializing":1,"unhealthy":2}}"#), None);
    }
}
