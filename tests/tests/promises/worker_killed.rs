//! Promise: a worker that vanishes mid-job loses nothing: its jobs finish elsewhere.
//!
//! In this process, by dropping the worker's task; `processes.rs` does the same to a real process with SIGKILL.

use std::time::Duration;

use futures_util::StreamExt as _;
use schemas::{
    AttemptKey, JobId, UsdNanos,
    cost::{CostLine, Purpose},
    handover::Handover,
    headers,
    journal::{Entry, Journal, Trace},
    prices::Unit,
    reply::Status,
    time::Clock as _,
    topology::JOURNAL_BUCKET,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::SystemClock;
use workers::JournalMode;

const ACK_WAIT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_vanished_worker_finish_elsewhere() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let stuck = Scripted::new(Script::Hold);
    let doomed =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, stuck.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 5).await;
    wait::until("all jobs to run", || async { (stuck.begun() == 5).then_some(()) }).await;
    doomed.kill().await;
    let good = Scripted::new(Script::Succeed);
    let other =
        Role::worker(roles::pool_config(&urls, "modal@us-east", "w2", 8, ACK_WAIT, good.clone())).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 5);
    assert!(audit.results.values().flatten().all(|r| r.provider.as_ref().unwrap().as_str() == "modal"));
    assert!(good.runs().values().all(|n| *n == 1));
    other.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_job_outlives_its_lease_because_the_lease_is_kept() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let ack_wait = Duration::from_secs(2);
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ack_wait));
    config.offers.accept_within = Duration::from_millis(500);
    config.offers.margin = Duration::from_millis(200);
    let dispatcher = Role::dispatcher(config).await;
    let slow = Scripted::new(Script::Hold);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ack_wait, slow.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 1).await;
    wait::until("the job to run", || async { (slow.begun() == 1).then_some(()) }).await;
    // The server itself says when the lease has been extended past its first end.
    let floor = std::time::Instant::now() + ack_wait * 2;
    wait::until("two leases to pass", || async { (std::time::Instant::now() > floor).then_some(()) }).await;
    slow.release();
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!((audit.count(Status::Succeeded), slow.begun()), (1, 1));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_with_its_worker_is_given_back_at_the_stop_however_it_is_journalled() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    // So long that nothing here comes again by itself.
    let ack_wait = Duration::from_secs(600);
    let dispatcher = Role::dispatcher(roles::dispatcher_config(&urls, "d1", roles::settings(ack_wait))).await;
    let stuck = Scripted::new(Script::Hold);
    let mut config = roles::pool_config(&urls, "golem@us-east", "w1", 8, ack_wait, stuck.clone());
    (config.journal, config.grace) = (JournalMode::Always, Duration::from_millis(50));
    let first = Role::worker(config).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 1).await;
    wait::until("the job to run", || async { (stuck.begun() == 1).then_some(()) }).await;
    first.stop().await;
    let good = Scripted::new(Script::Succeed);
    let other = Role::worker(roles::pool_config(&urls, "modal@us-east", "w2", 8, ack_wait, good)).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 1);
    other.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

/// What a worker leaves behind that was killed after it had begun a call and before its acceptance was sent.
async fn begun_and_gone(client: &async_nats::Client, offer: &async_nats::Message) {
    let header = offer.headers.as_ref().unwrap().get(headers::HANDOVER).unwrap().as_str();
    let handover: Handover = serde_json::from_str(header).unwrap();
    let job: serde_json::Value = serde_json::from_slice(&offer.payload).unwrap();
    let line = CostLine {
        sku: "standard".into(),
        unit: Unit::Inference,
        quantity: 1,
        item: "inference".into(),
        unit_price_usd: UsdNanos::new(100_000),
        amount_usd: UsdNanos::new(100_000),
        machine: None,
    };
    let mut journal = Journal::default();
    journal.record(Entry {
        attempt: handover.attempt,
        key: Some(AttemptKey::of(offer.reply.as_ref().unwrap().as_str(), handover.offer)),
        pool: "golem@us-east".parse().unwrap(),
        started_us: SystemClock.now(),
        trace: Trace::Started { expected: vec![line] },
    });
    let id: JobId = job["id"].as_str().unwrap().parse().unwrap();
    let key = format!("$KV.{JOURNAL_BUCKET}.{}", id.journal_key(&handover.subject.tenant));
    let stored = client.request(key, serde_json::to_vec(&journal).unwrap().into()).await.unwrap();
    assert!(String::from_utf8_lossy(&stored.payload).contains("seq"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_its_call_and_its_acceptance_is_not_forgotten() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
    (config.offers.accept_within, config.offers.margin) =
        (Duration::from_millis(200), Duration::from_millis(100));
    let dispatcher = Role::dispatcher(config).await;
    let mut producer = roles::producer(&urls).await;
    let client = producer.client().clone();
    let mut offers = client.queue_subscribe("beacon.work.us-east.golem", "w-golem".into()).await.unwrap();
    let beat = serde_json::json!({
        "pool": { "region": "us-east", "provider": "golem" }, "worker": "w1", "started_us": 1,
        "at_us": SystemClock.now(), "slots": 1, "running": 0, "draining": false, "succeeded": 0, "failed": 0,
        "models": [{ "model": "llama-3-2-1b", "sku": "standard", "size": 1, "expected_cost_usd": "0.0001",
                     "p50_us": 100_000, "p95_us": 200_000 }],
    });
    client.publish("beacon.pool.us-east.golem.w1", beat.to_string().into()).await.unwrap();
    let jobs = roles::submit_many(&producer, 1).await;
    let offer = offers.next().await.unwrap();
    begun_and_gone(&client, &offer).await;
    offers.unsubscribe().await.unwrap();
    let next = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w2", 4, ACK_WAIT, next)).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    let result = &audit.results[&jobs[0]][0];
    assert_eq!(
        (result.status, result.attempts),
        (Status::Succeeded, 2),
        "the first call is not repeated unseen"
    );
    let wasted: Vec<_> = audit.costs.iter().filter(|c| c.purpose == Purpose::WastedFailure).collect();
    assert_eq!((wasted.len(), wasted[0].attempt, wasted[0].estimated), (1, 1, true));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
