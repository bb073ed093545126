//! One job: its input, its state and its end.
//!
//! ```text
//! IN_QUEUE ─▶ IN_PROGRESS ─▶ COMPLETED │ FAILED │ CANCELLED │ TIMED_OUT
//!     ▲____________│ its worker died
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::Uri;
use serde_json::{Map, Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    request::{Api, Inference},
    service::Service,
};

/// One job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) number: u64,
    pub(crate) input: Map<String, Value>,
    /// The run's name on the bill: the caller's own mark, or else the job's id.
    pub(crate) mark: String,
    pub(crate) webhook: Option<Uri>,
    pub(crate) created: Instant,
    /// When the job is deleted, in whatever state.
    pub(crate) dies: Instant,
    pub(crate) limit: Duration,
    pub(crate) kept: Duration,
    pub(crate) cancel: CancellationToken,
    state: watch::Sender<State>,
}

/// The state of a job, as callers see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) status: Status,
    pub(crate) delay_ms: Option<u64>,
    pub(crate) execution_ms: Option<u64>,
    pub(crate) worker: Option<String>,
    pub(crate) retries: u32,
    pub(crate) output: Option<Value>,
    pub(crate) error: Option<String>,
    pub(crate) ended: Option<Instant>,
}

/// The states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Status {
    #[default]
    InQueue,
    InProgress,
    Completed,
    Failed,
    Cancelled,
    TimedOut,
}

/// All jobs of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<HashMap<String, Arc<Job>>>);

/// The job's `policy`, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) execution_timeout: u64,
    pub(crate) ttl: u64,
}

impl Job {
    pub(crate) fn new(
        service: &Service,
        sync: bool,
        input: Map<String, Value>,
        webhook: Option<Uri>,
        policy: Policy,
    ) -> Self {
        let settings = &service.config.runpod;
        let (number, now) = (service.next_number(), Instant::now());
        let uuid = format!("{:08x}-5151-4151-8151-{number:012x}", service.config.seed);
        let id = if sync { format!("sync-{uuid}") } else { format!("{uuid}-u1") };
        let told = |key: &str| input.get("beacon").and_then(|mark| mark.get(key));
        let text = |key: &str| told(key).and_then(Value::as_str);
        let mark = match (text("job"), told("attempt").and_then(Value::as_u64), text("key")) {
            (Some(job), Some(attempt), Some(key)) => format!("{job}-{attempt}-{key}"),
            _ => id.clone(),
        };
        let kept = if sync { settings.sync_result_ttl_ms } else { settings.result_ttl_ms };
        Self {
            id,
            number,
            input,
            mark,
            webhook,
            created: now,
            dies: now + settings.scaled(policy.ttl),
            limit: settings.scaled(policy.execution_timeout),
            kept: settings.scaled(kept),
            cancel: CancellationToken::new(),
            state: watch::Sender::new(State::default()),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Waits for the end. Cancel-safe.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        state.wait_for(|state| state.ended.is_some()).await.expect("the job itself holds the sender");
    }

    /// The inference that worker-vllm makes of its input, and whether it would answer with an error status.
    pub(crate) fn inference(&self) -> Result<Inference, (u16, String)> {
        let text = |key: &str| self.input.get(key).and_then(Value::as_str);
        let (route, body) = match (text("route"), text("openai_route")) {
            (Some(route), _) => (route, self.input.get("body").cloned().unwrap_or_default()),
            (None, Some(route)) => (route, self.input.get("openai_input").cloned().unwrap_or_default()),
            (None, None) => {
                let mut body = self.input.get("sampling_params").cloned().unwrap_or_else(|| json!({}));
                for key in ["model", "messages", "prompt"] {
                    if let Some(value) = self.input.get(key) {
                        body[key] = value.clone();
                    }
                }
                let route =
                    if self.input.contains_key("messages") { "chat/completions" } else { "completions" };
                (route, body)
            }
        };
        let api = if route.ends_with("chat/completions") { Api::Chat } else { Api::Completion };
        let body = serde_json::to_vec(&body).expect("a JSON value is always written");
        Inference::decode(api, &body).map_err(|error| (400, error.to_string()))
    }

    /// The job as it goes over the wire.
    pub(crate) fn wire(&self, service: &Service) -> Value {
        let (state, settings) = (self.state(), &service.config.runpod);
        let status = match state.status {
            Status::InQueue => "IN_QUEUE",
            Status::InProgress if settings.running_alias => "RUNNING",
            Status::InProgress => "IN_PROGRESS",
            Status::Completed => "COMPLETED",
            Status::Failed => "FAILED",
            Status::Cancelled => "CANCELLED",
            Status::TimedOut => "TIMED_OUT",
        };
        let mut wire = json!({ "id": self.id, "status": status });
        let progress =
            (state.status == Status::InProgress && settings.progress_output).then(|| json!("half way"));
        let fields = [
            ("delayTime", state.delay_ms.map(Value::from)),
            ("executionTime", state.execution_ms.map(Value::from)),
            ("workerId", state.worker.map(Value::from)),
            ("retries", (state.retries > 0).then(|| Value::from(state.retries))),
            ("output", state.output.or(progress)),
            ("error", state.error.map(Value::from)),
        ];
        for (key, value) in fields {
            if let Some(value) = value {
                wire[key] = value;
            }
        }
        wire
    }

    fn is_gone(&self, now: Instant) -> bool {
        let expired =
            self.state.borrow().ended.is_some_and(|at| now.saturating_duration_since(at) >= self.kept);
        expired || now >= self.dies
    }
}

impl Jobs {
    pub(crate) fn add(&self, job: Arc<Job>) {
        let now = Instant::now();
        let mut jobs = self.jobs();
        // Now and then, so that a long run does not fill the memory.
        if jobs.len().is_multiple_of(1_024) {
            jobs.retain(|_, job| !job.is_gone(now));
        }
        jobs.insert(job.id.clone(), job);
    }

    /// The job, unless it is unknown, deleted or its result expired.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Job>> {
        let mut jobs = self.jobs();
        if jobs.get(id)?.is_gone(Instant::now()) {
            jobs.remove(id);
        }
        jobs.get(id).cloned()
    }

    /// All that are not gone, newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Job>> {
        let now = Instant::now();
        let mut all: Vec<_> = self.jobs().values().filter(|job| !job.is_gone(now)).cloned().collect();
        all.sort_by_key(|job| std::cmp::Reverse(job.number));
        all
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
