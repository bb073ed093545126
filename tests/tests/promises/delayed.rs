//! Promise: a job with a `run_at` runs when its time has come, not before, also when everything restarts meanwhile; it can be
//! listed and taken back, and a delayed job for an unknown model is refused at once.

use std::time::Duration;

use producer::{JobRequest, SubmitError};
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
