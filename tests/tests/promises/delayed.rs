//! Promise: a job with a `run_at` runs when its time has come, not before, also when everything restarts meanwhile; it can be
//! listed and taken back, and a delayed job for an unknown model is refused at once.

use std::time::Duration;

use futures_util::StreamExt as _;
use producer::{JobRequest, Producer, ProducerConfig, SubmitError, request::new_job_id};
use schemas::{JobId, Micros, Region, reply::Status, time::Clock as _};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
};
use transport::{PublishError, SystemClock};

const ACK_WAIT: Duration = Duration::from_secs(4);

fn in_a_while(span: Duration) -> JobRequest {
    let mut job = roles::job("later");
    job.body.run_at = Some((SystemClock.now() + span).to_datetime());
    job
}

fn region() -> Region {
    roles::REGION.parse().unwrap()
}

/// A tenant's jobs that wait for their time.
async fn listed(producer: &Producer) -> Vec<JobId> {
    producer.delayed(&region()).await.unwrap().into_iter().map(|delayed| delayed.job).collect()
}

async fn dispatcher(server: &NatsServer) -> Role {
    Role::usual_dispatcher(&server.url(), "d1", ACK_WAIT).await
}

async fn worker(server: &NatsServer) -> Role {
    let provider = Scripted::new(Script::Succeed);
    Role::worker(roles::pool_config(&[server.url()], "golem@us-east", "w1", 8, ACK_WAIT, provider)).await
}

/// When each job was stored for its dispatchers: it ended, less the time it took from being stored.
fn published(audit: &Audit, job: JobId) -> Micros {
    let result = &audit.results[&job][0];
    assert_eq!(result.status, Status::Succeeded);
    result.finished_us - Duration::from_micros(result.timings.total_us)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_job_runs_when_its_time_has_come_through_a_restart_of_everything() {
    let mut server = NatsServer::start().await;
    let (first, away) = (dispatcher(&server).await, worker(&server).await);
    let mut producer = roles::producer(&[server.url()]).await;
    let soon = producer.submit(&in_a_while(Duration::from_millis(700))).await.unwrap();
    let later = producer.submit(&in_a_while(Duration::from_secs(5))).await.unwrap();
    let due = later.due.unwrap();
    let listed = producer.delayed(&region()).await.unwrap();
    assert!(listed.iter().any(|d| d.job == later.job && d.subject.to_string().ends_with("normal.acme")));
    let audit = Audit::all_ended(&mut producer, &[soon.job]).await;
    assert!(published(&audit, soon.job) + Duration::from_millis(2) >= soon.due.unwrap());
    first.stop().await;
    away.stop().await;
    server.kill_and_restart().await;
    let (dispatcher, worker) = (dispatcher(&server).await, worker(&server).await);
    let audit = Audit::all_ended(&mut producer, &[soon.job, later.job]).await;
    assert!(published(&audit, later.job) + Duration::from_millis(2) >= due);
    assert!(producer.delayed(&region()).await.unwrap().is_empty(), "nothing is left behind");
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_job_that_is_taken_back_ends_at_once_without_running() {
    let server = NatsServer::start().await;
    let (dispatcher, worker) = (dispatcher(&server).await, worker(&server).await);
    let mut producer = roles::producer(&[server.url()]).await;
    let ticket = producer.submit(&in_a_while(Duration::from_secs(86_400))).await.unwrap();
    let elsewhere = "eu-west".parse().unwrap();
    // A region that is not there must not hide the one that is.
    let unknown = producer.cancel_delayed(&[elsewhere], ticket.job, "").await;
    assert!(unknown.is_err());
    producer.cancel_delayed(&[region()], ticket.job, "not needed").await.unwrap();
    let audit = Audit::all_ended(&mut producer, &[ticket.job]).await;
    let result = &audit.results[&ticket.job][0];
    assert_eq!((result.status, result.attempts), (Status::Cancelled, 0));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_that_delay_the_same_id_each_get_their_job_run() {
    let server = NatsServer::start().await;
    let (dispatcher, worker) = (dispatcher(&server).await, worker(&server).await);
    let mut one = roles::producer(&[server.url()]).await;
    let config = ProducerConfig::new(&server.url(), "other", "inbox").unwrap();
    let mut two = Producer::connect(config).await.unwrap();
    let mut request = in_a_while(Duration::from_secs(3));
    let job = new_job_id();
    request.body.id = Some(job.to_string());
    for producer in [&one, &two] {
        let ticket = producer.submit(&request).await.unwrap();
        assert!(!ticket.duplicate && ticket.due.is_some());
    }
    for producer in [&one, &two] {
        assert_eq!(listed(producer).await, [job], "each tenant's job waits");
    }
    for producer in [&mut one, &mut two] {
        assert_eq!(Audit::all_ended(producer, &[job]).await.count(Status::Succeeded), 1);
    }
    worker.stop().await;
    dispatcher.stop().await;
    two.close().await;
    one.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_stored_is_listed_taken_back_and_run() {
    let server = NatsServer::start().await;
    let (dispatcher, worker) = (dispatcher(&server).await, worker(&server).await);
    let mut producer = roles::producer(&[server.url()]).await;
    let (soon, later) = (new_job_id(), new_job_id());
    for (job, span) in [(soon, Duration::from_secs(2)), (later, Duration::from_secs(86_400))] {
        let at = (SystemClock.now() + span).to_datetime().to_rfc3339();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Schedule", format!("@at {at}"));
        headers.insert("Nats-Schedule-Target", format!("beacon.due.us-east.{}.normal.acme", "llama-3-2-1b"));
        let body = serde_json::json!({ "id": job, "prompt": "later", "mailbox": "inbox", "run_at": at });
        let place = format!("beacon.delayed.us-east.{job}");
        let ack =
            producer.client().request_with_headers(place, headers, body.to_string().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&ack.payload).contains("error"), "{ack:?}");
    }
    let waiting = listed(&producer).await;
    assert!(waiting.contains(&later), "{waiting:?}");
    producer.cancel_delayed(&[region()], later, "not needed").await.unwrap();
    let audit = Audit::all_ended(&mut producer, &[soon, later]).await;
    assert_eq!((audit.count(Status::Succeeded), audit.count(Status::Cancelled)), (1, 1));
    assert!(listed(&producer).await.is_empty(), "nothing is left behind");
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_job_that_nobody_would_take_is_refused_at_once() {
    let server = NatsServer::start().await;
    let dispatcher = dispatcher(&server).await;
    let producer = roles::producer(&[server.url()]).await;
    for (region, model) in [("us-east", "no-such-model"), ("mars", roles::MODEL)] {
        let mut job = JobRequest::prompt(region, model, "x").unwrap();
        job.body.run_at = Some((SystemClock.now() + Duration::from_secs(60)).to_datetime());
        let refused = producer.submit(&job).await.unwrap_err();
        assert!(
            matches!(refused, SubmitError::Publish(PublishError::NoStream(_))),
            "{region} {model}: {refused}"
        );
    }
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_delayed_in_the_name_of_another_tenant_never_runs_and_tells_nobody() {
    let server = NatsServer::start().await;
    let (dispatcher, worker) = (dispatcher(&server).await, worker(&server).await);
    let producer = roles::producer(&[server.url()]).await;
    let client = producer.client();
    let mut results = client.subscribe("beacon.reply.>").await.unwrap();
    let mut letters = client.subscribe("beacon.dead.>").await.unwrap();
    client.flush().await.unwrap();
    let delay = async |span: Duration| {
        let (id, at) = (new_job_id(), (SystemClock.now() + span).to_datetime().to_rfc3339());
        let mut map = async_nats::HeaderMap::new();
        map.insert("Nats-Schedule", format!("@at {at}"));
        map.insert("Nats-Schedule-Target", "beacon.due.us-east.llama-3-2-1b.normal.acme");
        let place = format!("beacon.delayed.us-east.other.{id}");
        let body =
            serde_json::json!({ "id": id, "prompt": "x", "mailbox": "inbox", "run_at": at }).to_string();
        let ack = client.request_with_headers(place, map, body.into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&ack.payload).contains("error"), "{ack:?}");
        id
    };
    delay(Duration::from_secs(3_600)).await;
    assert_eq!(listed(&producer).await, []);
    let due = delay(Duration::ZERO).await;
    let letter = tokio::time::timeout(tests::wait::DEADLINE, letters.next()).await.unwrap().unwrap();
    let obituary = letter.headers.as_ref().unwrap().get(schemas::headers::OBITUARY).unwrap().as_str();
    let obituary: schemas::dead::Obituary = serde_json::from_str(obituary).unwrap();
    assert!(obituary.failure.message.contains("Nats-Schedule-Target"), "{}", obituary.failure.message);
    assert!(letter.payload.windows(36).any(|text| text == due.to_string().as_bytes()));
    // The next result is of the next job.
    let next = producer.submit_and_wait(&roles::job("next"), tests::wait::DEADLINE).await.unwrap();
    let first = loop {
        let message = results.next().await.unwrap();
        if message.subject.ends_with(".result") {
            break serde_json::from_slice::<schemas::reply::JobResult>(&message.payload).unwrap();
        }
    };
    assert_eq!(first.job, next.job);
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
