//! Carries a job from the queue to its end, through the death of workers, and tells its webhook.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::{self, Instant};

use super::job::{Job, Status};
use crate::{
    clock::micros,
    config::{Server, WorkerAge},
    fault::{Breakdown, Course},
    frames::{self, Frames},
    model::Billing,
    outgoing,
    request::{Api, Inference},
    script,
    service::Service,
    text::Answer,
};

/// After so many dead workers RunPod gives a job up. The true number is not published.
const DEATHS_MAX: u32 = 3;
const HOOK_TRIES: usize = 3;
const HOOK_PAUSE_MS: u64 = 10_000;
const HOOK_PATIENCE: Duration = Duration::from_secs(10);

/// How a job ended.
struct End {
    status: Status,
    output: Option<Value>,
    error: Option<String>,
}

/// Runs until the job is over or the simulator stops.
pub(crate) async fn carry(service: Arc<Service>, job: Arc<Job>, course: Course) {
    let shutdown = service.shutdown.clone();
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = live(&service, &job, course) => {}
    }
}

async fn live(service: &Service, job: &Job, course: Course) {
    let end = tokio::select! {
        biased;
        () = time::sleep_until(job.dies) => return,
        end = process(service, job, course) => end,
    };
    job.change(|state| {
        (state.status, state.output, state.error) = (end.status, end.output, end.error);
        state.ended = Some(Instant::now());
    });
    if job.webhook.is_some() {
        tell(service, job).await;
    }
}

async fn process(service: &Service, job: &Job, course: Course) -> End {
    let inference = match job.inference() {
        Ok(inference) => inference,
        Err((status, message)) => return refused(status, &message),
    };
    let Some(model) = service.model(&inference.model) else {
        return refused(404, &format!("The model `{}` does not exist.", inference.model));
    };
    let answer = match service.answer(model, &inference) {
        Ok(answer) => answer,
        Err(reason) => return refused(400, &reason.to_string()),
    };
    let settings = &service.config.runpod;
    let mut spent = 0;
    loop {
        let queued = async {
            if settings.throttled || settings.unhealthy {
                std::future::pending::<()>().await;
            }
            let mut run = model.queue(Some(job.mark.clone())).await;
            run.admit(answer.prompt_tokens).await;
            run
        };
        let run = tokio::select! {
            biased;
            () = job.cancel.cancelled() => return cancelled(),
            run = queued => run,
        };
        let began = Instant::now();
        job.change(|state| {
            state.status = Status::InProgress;
            state.worker = run.container().map(str::to_owned);
            state.delay_ms.get_or_insert(micros(job.created.elapsed()) / 1_000);
        });
        let whole = service.service_time(&model.settings, course.slowdown);
        let count = answer.token_count();
        let deaths = job.state().retries;
        let (time, outcome) = match course.breakdown {
            None | Some(Breakdown::Memory) => (whole, course.breakdown),
            Some(Breakdown::Engine { after_tokens }) => {
                (script::share(whole, after_tokens.min(count), count), course.breakdown)
            }
            Some(Breakdown::Death) => (whole / 2, course.breakdown),
            Some(Breakdown::Stall) => (FOR_EVER, course.breakdown),
        };
        let over = tokio::select! {
            biased;
            () = job.cancel.cancelled() => Err(Status::Cancelled),
            () = time::sleep_until(began + time.min(job.limit)) => {
                if time > job.limit { Err(Status::TimedOut) } else { Ok(()) }
            }
        };
        let billing = match (&over, outcome) {
            (Ok(()), None) => run.finish(count),
            // RunPod stops the worker of a job that ran out of time.
            (Err(Status::TimedOut), _) | (Ok(()), Some(Breakdown::Death)) => run.die(),
            (Ok(()) | Err(_), _) => run.abort(),
        };
        spent += billing.as_ref().map_or(0, Billing::execution_millis);
        job.change(|state| state.execution_ms = Some(spent));
        match (over, outcome) {
            (Err(Status::Cancelled), _) => return cancelled(),
            (Err(_), _) => return ended(Status::TimedOut, None),
            (Ok(()), None | Some(Breakdown::Stall)) => {
                return completed(service, &inference, &answer, &job.id);
            }
            (Ok(()), Some(Breakdown::Memory)) => {
                return ended(Status::Failed, Some(OUT_OF_MEMORY.to_owned()));
            }
            (Ok(()), Some(Breakdown::Engine { .. })) => {
                return refused(500, "EngineCore encountered an issue.");
            }
            (Ok(()), Some(Breakdown::Death)) if deaths + 1 >= DEATHS_MAX => {
                return ended(Status::Failed, Some("job failed: workers died".to_owned()));
            }
            (Ok(()), Some(Breakdown::Death)) => job.change(|state| {
                state.status = Status::InQueue;
                state.retries += 1;
                state.worker = None;
                state.execution_ms = None;
            }),
        }
    }
}

/// A year: longer than any test, and short enough for the timer.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// The Python SDK's own form for an exception in a handler.
const OUT_OF_MEMORY: &str = r#"{"error_type":"<class 'torch.cuda.OutOfMemoryError'>","error_message":"CUDA out of memory. Tried to allocate 2.00 GiB","error_traceback":"Traceback (most recent call last): …","hostname":"sim","worker_id":"sim","runpod_version":"1.12.0"}"#;

fn ended(status: Status, error: Option<String>) -> End {
    End { status, output: None, error }
}

fn cancelled() -> End {
    ended(Status::Cancelled, None)
}

/// The output of worker-vllm when vLLM answers with an error: Python's text of a dictionary, which is no JSON.
fn refused(status: u16, message: &str) -> End {
    let message = message.replace('\'', "\\'");
    let text = format!(
        "{{'message': 'vLLM returned HTTP {status}: {message}', 'type': 'worker_error', 'code': None}}"
    );
    ended(Status::Failed, Some(text))
}

fn completed(service: &Service, inference: &Inference, answer: &Answer, id: &str) -> End {
    let settings = &service.config.runpod;
    let output = match settings.output {
        _ if settings.lose_output => return ended(Status::Completed, None),
        _ if settings.inner_error => {
            json!([{ "object": "error", "message": "the engine is gone", "type": "InternalServerError", "code": 500 }])
        }
        WorkerAge::Openai => {
            let prefix = match inference.api {
                Api::Chat => "chatcmpl",
                Api::Completion => "cmpl",
            };
            let frames = Frames {
                api: inference.api,
                server: Server::Vllm,
                id: format!("{prefix}-{id}"),
                created: service.clock.unix_s(),
                model: inference.model.clone(),
            };
            let whole: Value = serde_json::from_slice(&frames.whole(answer)).expect("our own JSON reads");
            json!([whole])
        }
        WorkerAge::Old => json!([{
            "choices": [{ "tokens": [answer.text()] }],
            "usage": { "input": answer.prompt_tokens, "output": answer.token_count() },
        }]),
        WorkerAge::Oldest => json!({
            "text": [answer.text()],
            "input_tokens": answer.prompt_tokens,
            "output_tokens": answer.token_count(),
        }),
    };
    End { status: Status::Completed, output: Some(output), error: None }
}

/// Three tries, and then silence.
async fn tell(service: &Service, job: &Job) {
    let Some(url) = &job.webhook else { return };
    let body = frames::json(&job.wire(service));
    for nth in 1..=HOOK_TRIES {
        let sent = time::timeout(HOOK_PATIENCE, outgoing::post(url, "", &body)).await;
        if matches!(sent, Ok(Ok(200))) || nth == HOOK_TRIES {
            return;
        }
        time::sleep(service.config.runpod.scaled(HOOK_PAUSE_MS)).await;
    }
}
