//! Modal's function calls: runs that outlive the request that made them and are found again by their id.
//!
//! A call runs in a task of its own and ends in exactly one outcome, which can be fetched until it expires.
//!
//! ```text
//! submit ─▶ queued ─▶ starting ─▶ executing ─▶ succeeded │ failed
//!             └──────────┴────────────┴─ cancel ─▶ cancelled
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Seconds,
    fault::{Breakdown, Course},
    frames::{OUT_OF_MEMORY, Usage},
    model::{Billing, Model},
    script,
    service::Service,
    text::Answer,
};

/// Modal keeps at most a million inputs of one function; more are refused.
const CALLS_MAX: usize = 1_000_000;

/// All calls of one simulator.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    calls: HashMap<String, Arc<Call>>,
    /// By the caller's id, for as long as the app remembers it.
    jobs: HashMap<String, (Arc<Call>, Instant)>,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) cancel: CancellationToken,
    end: watch::Sender<Option<Arc<End>>>,
}

/// How a call ended, and when.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) at: Instant,
    pub(crate) outcome: Outcome,
    /// Whether the container died, which a `wait` caller learns from Modal's edge and not from the app.
    pub(crate) died: bool,
}

/// The result as the app answers it.
#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(crate) enum Outcome {
    Succeeded {
        output: String,
        finish_reason: &'static str,
        usage: Usage,
        #[serde(skip_serializing_if = "Option::is_none")]
        billing: Option<Billing>,
    },
    Failed {
        error: Failure,
        /// Absent when the container took its measurements with it.
        #[serde(skip_serializing_if = "Option::is_none")]
        billing: Option<Billing>,
    },
    Cancelled {
        #[serde(skip_serializing_if = "Option::is_none")]
        billing: Option<Billing>,
    },
}

/// Why a call failed.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    class: &'static str,
    message: String,
}

/// The work of a call.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The caller's id of the job, which is the run on the bill.
    pub(crate) job: String,
    pub(crate) model: Arc<Model>,
    pub(crate) answer: Answer,
    pub(crate) timeout: Option<Duration>,
    pub(crate) course: Course,
}

/// The outcome of a submission.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// A new call has begun.
    Created(Arc<Call>),
    /// The same job was submitted before.
    Known(Arc<Call>),
    /// There are too many calls.
    Full,
}

impl Calls {
    /// The call of this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Call>> {
        self.table().calls.get(id).cloned()
    }

    /// Begins a call. With `id_ttl` the same job within that time finds the same call; without, each is a new one.
    pub(crate) fn submit(&self, service: &Arc<Service>, plan: Plan, id_ttl: Option<Duration>) -> Submitted {
        let mut table = self.table();
        if let Some(ttl) = id_ttl
            && let Some((call, since)) = table.jobs.get(&plan.job)
            && since.elapsed() <= ttl
        {
            return Submitted::Known(Arc::clone(call));
        }
        if table.calls.len() >= CALLS_MAX {
            return Submitted::Full;
        }
        let call = Arc::new(Call {
            id: format!("fc-{:08}", service.next_number()),
            cancel: CancellationToken::new(),
            end: watch::Sender::new(None),
        });
        table.calls.insert(call.id.clone(), Arc::clone(&call));
        if id_ttl.is_some() {
            table.jobs.insert(plan.job.clone(), (Arc::clone(&call), Instant::now()));
        }
        drop(table);
        service.tasks.spawn(run(Arc::clone(service), Arc::clone(&call), plan));
        Submitted::Created(call)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<Arc<End>> {
        self.end.borrow().clone()
    }

    /// Waits for the end. Cancel-safe.
    pub(crate) async fn ended(&self) -> Arc<End> {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.expect("the call itself holds the sender");
        ended.clone().expect("that is what was waited for")
    }
}

async fn run(service: Arc<Service>, call: Arc<Call>, plan: Plan) {
    let deadly = plan.course.breakdown == Some(Breakdown::Death);
    let outcome = tokio::select! {
        biased;
        () = service.shutdown.cancelled() => return,
        outcome = execute(&service, &call.cancel, plan) => outcome,
    };
    // It has died unless a cancel or its time limit came first.
    let died = deadly && matches!(outcome, Outcome::Failed { billing: None, .. });
    call.end.send_replace(Some(Arc::new(End { at: Instant::now(), outcome, died })));
}

async fn execute(service: &Service, cancel: &CancellationToken, plan: Plan) -> Outcome {
    let Plan { job, model, answer, timeout, course: Course { slowdown, breakdown } } = plan;
    let mut run = tokio::select! {
        biased;
        () = cancel.cancelled() => return Outcome::Cancelled { billing: Some(nothing_used(&model, service)) },
        run = model.queue(Some(job)) => run,
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => return Outcome::Cancelled { billing: run.abort() },
        () = run.admit(answer.prompt_tokens) => {}
    }
    let began = Instant::now();
    let whole = service.service_time(&model.settings, slowdown);
    let count = answer.token_count();
    let time = match breakdown {
        None | Some(Breakdown::Memory) => whole,
        Some(Breakdown::Engine { after_tokens }) => script::share(whole, after_tokens.min(count), count),
        Some(Breakdown::Death) => whole / 2,
        Some(Breakdown::Stall) => FOR_EVER,
    };
    let limit = timeout.filter(|limit| *limit < time);
    tokio::select! {
        biased;
        () = cancel.cancelled() => return Outcome::Cancelled { billing: run.abort() },
        () = time::sleep_until(began + limit.unwrap_or(time)) => {}
    }
    if limit.is_some() {
        return failed("timeout", "the run passed its timeout_s", run.abort());
    }
    match breakdown {
        Some(Breakdown::Memory) => failed("out_of_memory", OUT_OF_MEMORY, run.abort()),
        Some(Breakdown::Engine { .. }) => {
            failed("provider_down", "EngineCore encountered an issue.", run.abort())
        }
        Some(Breakdown::Death) => {
            run.die();
            failed("provider_down", "the container died", None)
        }
        None | Some(Breakdown::Stall) => Outcome::Succeeded {
            output: answer.text(),
            finish_reason: answer.finish.as_str(),
            usage: Usage::of(&answer),
            billing: run.finish(count),
        },
    }
}

fn failed(class: &'static str, message: &str, billing: Option<Billing>) -> Outcome {
    Outcome::Failed { error: Failure { class, message: message.to_owned() }, billing }
}

/// A year: longer than any test, and short enough for the timer.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// A call that was cancelled in the queue never had a container.
fn nothing_used(model: &Model, service: &Service) -> Billing {
    Billing {
        gpu: model.settings.sku.clone(),
        execution_s: Seconds(0),
        cold_start_s: None,
        container_id: String::new(),
        region: service.config.region.clone(),
    }
}
