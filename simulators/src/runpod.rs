//! RunPod's job API: a queue-based endpoint with worker-vllm, whose jobs outlive the request that made them.
//!
//! ```text
//!  run, runsync ─▶ limits ─▶ job ─▶ queue ─▶ worker (start, run, death and again) ─▶ bill
//!                             │ status, cancel, requests, health          └─▶ webhook
//!  REST v2 ─▶ billing; management (endpoints, workers, catalogue, pods)
//! ```
//!
//! A fault that concerns the connection (`reset_mid_stream`, `truncated_body`, `garbage_json`, `silent_end`) spoils
//! the answer to the POST and leaves the job alone; one that concerns the run (`slow`, `stall_mid_stream`,
//! `error_frame`, `oom`, `container_dies`) shows in the job. A dead worker's job goes back to the queue.
//!
//! Not simulated: caps on concurrent requests, `/stream`, `/retry`, `/purge-queue`, more than one job at a time on a
//! worker, and the rounding of a worker's whole life to the second, which no job tells.

mod job;
mod management;
mod run;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, Path, Query, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use self::job::{Job, Jobs, Policy, Status};
use crate::{
    connection::Connection,
    edge,
    fault::{Course, FaultKind},
    frames::{self, GARBAGE_BODY},
    limit::Limit,
    reply::answer,
    service::Service,
};

const RUN_BODY_MAX: usize = 10 * 1024 * 1024;
const SYNC_BODY_MAX: usize = 20 * 1024 * 1024;
const WINDOW_MS: u64 = 10_000;
const EXECUTION_RANGE: std::ops::RangeInclusive<u64> = 5_000..=604_800_000;
const TTL_RANGE: std::ops::RangeInclusive<u64> = 10_000..=604_800_000;
const TTL_DEFAULT: u64 = 86_400_000;
const WAIT_RANGE: std::ops::RangeInclusive<u64> = 1_000..=300_000;
const WAIT_DEFAULT: u64 = 90_000;

/// One simulated endpoint on RunPod.
#[derive(Debug)]
struct Endpoint {
    service: Arc<Service>,
    jobs: Jobs,
    limits: Option<Limits>,
}

#[derive(Debug)]
struct Limits {
    run: Limit,
    status: Limit,
    cancel: Limit,
}

impl Endpoint {
    fn new(service: &Arc<Service>) -> Self {
        let settings = &service.config.runpod;
        let limit = |most| Limit::new(most, settings.scaled(WINDOW_MS));
        let limits = settings.limits.then(|| Limits {
            run: limit(settings.run_limit),
            status: limit(settings.status_limit),
            cancel: limit(settings.cancel_limit),
        });
        Self { service: Arc::clone(service), jobs: Jobs::default(), limits }
    }

    /// Refuses a request to another endpoint, and one beyond the limit of its operation.
    fn allow(&self, endpoint: &str, limit: impl FnOnce(&Limits) -> &Limit) -> Result<(), Box<Response>> {
        let service = &self.service;
        if endpoint != service.config.runpod.endpoint_id {
            return Err(Box::new(refused(service, StatusCode::NOT_FOUND, "endpoint not found")));
        }
        let Some(limits) = &self.limits else { return Ok(()) };
        limit(limits).take(Instant::now()).map_err(|seconds| {
            let mut response = refused(service, StatusCode::TOO_MANY_REQUESTS, "too many requests");
            if service.config.runpod.retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Box::new(response)
        })
    }

    /// The job that a request asks about, unless a fault or a limit stops the request.
    async fn find(
        &self,
        connection: &Connection,
        endpoint: &str,
        id: &str,
        limit: impl FnOnce(&Limits) -> &Limit,
    ) -> Result<Arc<Job>, Box<Response>> {
        if let Some(response) = edge::stopped(&self.service, connection).await {
            return Err(Box::new(response));
        }
        self.allow(endpoint, limit)?;
        let missing = || Box::new(error_text(&self.service, StatusCode::NOT_FOUND, "job not found"));
        self.jobs.get(id).ok_or_else(missing)
    }
}

/// All routes.
pub(crate) fn routes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/v2/{endpoint}/run", post(run))
        .route("/v2/{endpoint}/runsync", post(run_sync))
        .route("/v2/{endpoint}/status/{id}", get(status))
        .route("/v2/{endpoint}/cancel/{id}", post(cancel))
        .route("/v2/{endpoint}/requests", get(requests))
        .route("/v2/{endpoint}/health", get(health))
        .route("/v2/billing/serverless", get(billing))
        .with_state(Arc::new(Endpoint::new(service)))
        .merge(management::routes(service))
}

/// `POST /run`: answers with an id.
async fn run(
    State(here): State<Arc<Endpoint>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(endpoint): Path<String>,
    body: Bytes,
) -> Response {
    let (job, fault) = match take(&here, &endpoint, &connection, &body, false).await {
        Ok(taken) => taken,
        Err(response) => return *response,
    };
    send(fault.as_ref(), &json!({ "id": job.id, "status": "IN_QUEUE" }), connection).await
}

/// `POST /runsync`: answers when the job is over, or the wait.
async fn run_sync(
    State(here): State<Arc<Endpoint>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(endpoint): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    let service = &here.service;
    let wait = query.get("wait").map_or(Ok(WAIT_DEFAULT), |text| text.parse());
    let Some(wait) = wait.ok().filter(|wait| WAIT_RANGE.contains(wait)) else {
        return refused(service, StatusCode::BAD_REQUEST, "wait must be 1000 to 300000");
    };
    let (job, fault) = match take(&here, &endpoint, &connection, &body, true).await {
        Ok(taken) => taken,
        Err(response) => return *response,
    };
    // Over or not, the answer is the job as it is.
    let _ = time::timeout(service.config.runpod.scaled(wait), job.ended()).await;
    send(fault.as_ref(), &job.wire(service), connection).await
}

/// Takes a job on, or gives the answer of a refusal. Boxed because a response is large.
async fn take(
    here: &Endpoint,
    endpoint: &str,
    connection: &Connection,
    body: &Bytes,
    sync: bool,
) -> Result<(Arc<Job>, Option<FaultKind>), Box<Response>> {
    let service = &here.service;
    let fault = edge::strike(service, connection).await?;
    let refuse = |status, text: &str| Box::new(refused(service, status, text));
    here.allow(endpoint, |limits| &limits.run)?;
    if body.len() > if sync { SYNC_BODY_MAX } else { RUN_BODY_MAX } {
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"));
    }
    let bad = |text: &str| refuse(StatusCode::BAD_REQUEST, text);
    let mut body: Value = serde_json::from_slice(body).map_err(|error| bad(&error.to_string()))?;
    let Some(Value::Object(input)) = body.get_mut("input").map(Value::take) else {
        return Err(bad("input must be an object"));
    };
    let limit = |key: &str, range: std::ops::RangeInclusive<u64>, default| match &body["policy"][key] {
        Value::Null => Ok(default),
        given => given
            .as_u64()
            .filter(|value| range.contains(value))
            .ok_or_else(|| bad(&format!("policy.{key} is out of range"))),
    };
    let policy = Policy {
        execution_timeout: limit(
            "executionTimeout",
            EXECUTION_RANGE,
            service.config.runpod.execution_timeout_ms,
        )?,
        ttl: limit("ttl", TTL_RANGE, TTL_DEFAULT)?,
    };
    let webhook = match &body["webhook"] {
        Value::Null => None,
        given => {
            let url =
                given.as_str().and_then(|url| url.parse::<Uri>().ok()).filter(|url| url.host().is_some());
            Some(url.ok_or_else(|| bad("webhook must be a URL"))?)
        }
    };
    let job = Arc::new(Job::new(service, sync, input, webhook, policy));
    here.jobs.add(Arc::clone(&job));
    let course = Course::under(fault.as_ref());
    service.tasks.spawn(run::carry(Arc::clone(service), Arc::clone(&job), course));
    Ok((job, fault))
}

/// Sends the answer of a POST, unless a fault loses it.
async fn send(fault: Option<&FaultKind>, value: &Value, connection: Connection) -> Response {
    let spoil = fault.and_then(FaultKind::spoil);
    edge::send(spoil, StatusCode::OK, frames::json(value), GARBAGE_BODY, connection).await
}

/// `GET /status/{id}`
async fn status(
    State(here): State<Arc<Endpoint>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path((endpoint, id)): Path<(String, String)>,
) -> Response {
    match here.find(&connection, &endpoint, &id, |limits| &limits.status).await {
        Ok(job) => answer(StatusCode::OK, &job.wire(&here.service)),
        Err(response) => *response,
    }
}

/// `POST /cancel/{id}`: a job that has ended stays as it ended.
async fn cancel(
    State(here): State<Arc<Endpoint>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path((endpoint, id)): Path<(String, String)>,
) -> Response {
    let job = match here.find(&connection, &endpoint, &id, |limits| &limits.cancel).await {
        Ok(job) => job,
        Err(response) => return *response,
    };
    job.cancel.cancel();
    job.ended().await;
    answer(StatusCode::OK, &json!({ "id": job.id, "status": job.wire(&here.service)["status"] }))
}

/// `GET /requests`
async fn requests(
    State(here): State<Arc<Endpoint>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(endpoint): Path<String>,
) -> Response {
    let service = &here.service;
    if let Some(response) = edge::stopped(service, &connection).await {
        return response;
    }
    if !service.config.runpod.list_requests || endpoint != service.config.runpod.endpoint_id {
        return error_text(service, StatusCode::NOT_FOUND, "not found");
    }
    let list = here.jobs.list().into_iter().map(|job| {
        let mut wire = job.wire(service);
        wire["input"] = Value::Object(job.input.clone());
        wire
    });
    answer(StatusCode::OK, &json!({ "requests": list.collect::<Vec<_>>() }))
}

/// `GET /health`
async fn health(State(here): State<Arc<Endpoint>>, Path(endpoint): Path<String>) -> Response {
    let service = &here.service;
    let settings = &service.config.runpod;
    if endpoint != settings.endpoint_id {
        return error_text(service, StatusCode::NOT_FOUND, "endpoint not found");
    }
    let (mut busy, mut idle) = (0, 0);
    for containers in service.models.iter().filter_map(|model| model.containers()) {
        let (more_busy, more_idle) = containers.counts();
        (busy, idle) = (busy + more_busy, idle + more_idle);
    }
    let stats = service.board.total();
    let running = usize::try_from(stats.running).unwrap_or(usize::MAX).min(busy);
    let workers = if settings.short_health {
        json!({ "idle": idle, "running": running })
    } else {
        json!({
            "idle": idle,
            "initializing": busy - running,
            "ready": idle,
            "running": running,
            "throttled": u32::from(settings.throttled),
            "unhealthy": u32::from(settings.unhealthy),
        })
    };
    let jobs = here.jobs.list();
    let count = |status: &[Status]| jobs.iter().filter(|job| status.contains(&job.state().status)).count();
    let jobs = json!({
        "completed": count(&[Status::Completed]),
        "failed": count(&[Status::Failed, Status::TimedOut]),
        "inProgress": count(&[Status::InProgress]),
        "inQueue": count(&[Status::InQueue]),
        "retried": jobs.iter().map(|job| job.state().retries).sum::<u32>(),
    });
    answer(StatusCode::OK, &json!({ "jobs": jobs, "workers": workers }))
}

/// `GET /v2/billing/serverless` of REST v2: everything so far as one record, which ends where the query does. Amounts are numbers with
/// nine decimals: the bill to the nano-dollar.
async fn billing(
    State(here): State<Arc<Endpoint>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let (service, of) = (&here.service, |key: &str| query.get(key).cloned().unwrap_or_default());
    let id = &service.config.runpod.endpoint_id;
    let range = format!("\"startTime\":{:?},\"endTime\":{:?}", of("startTime"), of("endTime"));
    let filter = of("serverlessId");
    let nanos = if filter.is_empty() || filter == *id { service.bill().total_nanos } else { 0 };
    let dollars = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    let amounts = format!(
        "\"totalAmount\":{dollars},\"gpuAmount\":{dollars},\"cpuAmount\":0,\"diskAmount\":0,\"feeAmount\":0"
    );
    let body = format!(
        "{{\"records\":[{{{range},\"serverlessId\":{id:?},{amounts}}}],\"metadata\":{{\"query\":{{{range},\"bucketSize\":{bucket:?},\
         \"serverlessId\":{filter:?}}},\"recordCount\":1,\"uniqueServerlessCount\":1,\"totals\":{{{amounts}}}}}}}",
        bucket = of("bucketSize"),
    );
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn refused(service: &Service, status: StatusCode, text: &str) -> Response {
    service.board.refused();
    error_text(service, status, text)
}

/// RunPod documents no error bodies; clients have met all of these.
fn error_text(service: &Service, status: StatusCode, text: &str) -> Response {
    match service.next_number() % 4 {
        0 => answer(status, &json!({ "error": text })),
        1 => answer(status, &json!({ "message": text })),
        2 => answer(status, &json!({ "detail": text })),
        _ => (status, text.to_owned()).into_response(),
    }
}
