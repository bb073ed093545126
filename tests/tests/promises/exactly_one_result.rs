//! Promise: every accepted job ends in exactly one terminal result.

use std::time::Duration;

use schemas::{
    failure::{Failure, FailureClass},
    reply::Status,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
};

const ACK_WAIT: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_each_end_once_and_are_paid_once() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 64, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 1_000).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), jobs.len());
    assert_eq!(audit.useful(), jobs.len());
    assert!(provider.runs().values().all(|runs| *runs == 1));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_producer_gets_its_result() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider)).await;
    let producer = roles::producer(&urls).await;
    let result = producer.submit_and_wait(&roles::job("hello"), Duration::from_secs(30)).await.unwrap();
    assert_eq!(result.status, Status::Succeeded);
    assert_eq!(result.output.unwrap().text, "scripted llama-3.2-1b");
    assert_eq!(result.cost_usd.to_string(), "0.0001");
    let decision = result.decision.unwrap();
    assert_eq!(decision.chosen.as_ref().map(ToString::to_string).as_deref(), Some("golem@us-east"));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_always_fails_ends_failed_with_a_dead_letter() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    // A breaker would rightly make the jobs wait for a provider that may come back.
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
    config.breaker.consecutive_failures = 1_000;
    let dispatcher = Role::dispatcher(config).await;
    let failure = Failure::new(FailureClass::ProviderDown, "always");
    let provider = Scripted::new(Script::Fail(failure));
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 3).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Failed), 3);
    let result = &audit.results[&jobs[0]][0];
    assert_eq!(result.error.as_ref().unwrap().class, FailureClass::ProviderDown);
    assert_eq!(result.attempts, schemas::job::ATTEMPTS_DEFAULT);
    let dead =
        transport::api::ask(producer.client(), "STREAM.INFO.DEAD", &serde_json::Value::Null).await.unwrap();
    assert_eq!(transport::api::number(&dead, "state/messages"), Some(3));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
