//! Results and cost events that a test stores itself, in place of a worker.

use async_nats::{Client, HeaderMap};
use schemas::{
    AttemptKey, JobId, Mailbox, Micros, Tenant, UsdNanos,
    cost::{CostEvent, Purpose},
    headers,
    reply::{JobResult, LogPlace, Output, Status, Timings},
    subjects,
};
use serde::Serialize;

use crate::roles;

/// A job that succeeded for nothing and lay at sequence `seq` of the stream of [`roles::REGION`].
pub fn result(job: JobId, seq: u64, text: &str) -> JobResult {
    let region = roles::REGION.parse().unwrap();
    JobResult {
        job,
        status: Status::Succeeded,
        output: Some(Output { text: text.into(), finish_reason: "stop".into() }),
        output_ref: None,
        usage: None,
        error: None,
        model: None,
        lane: None,
        provider: None,
        region: None,
        attempts: 1,
        attempt_key: None,
        bill: None,
        log: Some(LogPlace { stream: schemas::topology::jobs_stream(&region), seq }),
        timings: Timings::default(),
        cost_usd: UsdNanos::ZERO,
        labels: std::collections::BTreeMap::default(),
        replay_of: None,
        decision: None,
        finished_us: Micros::new(1_795_000_000_000_000),
    }
}

/// A failed attempt of a job that was billed all the same; `key` tells it from others.
pub fn wasted(job: JobId, tenant: &Tenant, key: u64, amount: UsdNanos) -> CostEvent {
    CostEvent {
        job: Some(job),
        replay_of: None,
        attempt: 1,
        attempt_key: Some(AttemptKey::of("by hand", key)),
        tenant: tenant.clone(),
        model: None,
        provider: "golem".parse().unwrap(),
        region: roles::REGION.parse().unwrap(),
        purpose: Purpose::WastedFailure,
        lines: Vec::new(),
        amount_usd: amount,
        estimated: false,
        price_book: "test.1".into(),
        at_us: Micros::new(1_795_000_000_000_000),
    }
}

/// Stores a result in a mailbox under a message id.
pub async fn store_result(client: &Client, to: (&Tenant, &Mailbox), id: String, result: &JobResult) {
    store(client, subjects::result(to.0, to.1), id, result).await;
}

/// Stores a result that this version cannot read.
pub async fn store_unread(client: &Client, to: (&Tenant, &Mailbox), job: JobId) {
    let body = serde_json::json!({ "job": job, "status": "of a later version" });
    store(client, subjects::result(to.0, to.1), job.result_message(to.0), &body).await;
}

/// Stores a cost event in a mailbox under its own message id.
pub async fn store_cost(client: &Client, to: (&Tenant, &Mailbox), event: &CostEvent) {
    store(client, subjects::cost(to.0, to.1), event.message_id().unwrap(), event).await;
}

async fn store(client: &Client, subject: String, id: String, body: &impl Serialize) {
    let mut map = HeaderMap::new();
    map.insert(headers::MESSAGE_ID, id.as_str());
    let body = serde_json::to_vec(body).unwrap();
    let ack = client.request_with_headers(subject, map, body.into()).await.unwrap();
    let ack = String::from_utf8_lossy(&ack.payload).into_owned();
    assert!(!ack.contains("error") && !ack.contains("duplicate"), "{ack}");
}
