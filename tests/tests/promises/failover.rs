//! Promise: a provider that starts to fail is left within seconds, its jobs finish elsewhere, and it is taken back.

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
    wait,
};

const ACK_WAIT: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_provider_is_left_and_taken_back() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let (golem, modal) = (Scripted::new(Script::Succeed), Scripted::new(Script::Succeed));
    let one =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 16, ACK_WAIT, golem.clone())).await;
    let two =
        Role::worker(roles::pool_config(&urls, "modal@us-east", "w2", 16, ACK_WAIT, modal.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let mut jobs = roles::submit_many(&producer, 50).await;
    Audit::all_ended(&mut producer, &jobs).await;
    golem.set(Script::Fail(Failure::new(FailureClass::ProviderDown, "503")));
    let before = golem.begun();
    jobs.extend(roles::submit_many(&producer, 200).await);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 250, "failover must hide the outage");
    // Left after a few failures: those in flight when it began, and a few probes, not one per job.
    let tried = golem.begun() - before;
    assert!(tried < 60, "{tried} of 200 jobs were still sent to a dead provider");
    golem.set(Script::Succeed);
    let healed = golem.runs().len();
    let end = tokio::time::Instant::now() + wait::DEADLINE;
    while golem.runs().len() <= healed + 20 {
        assert!(tokio::time::Instant::now() < end, "a healed provider was never taken back");
        jobs.extend(roles::submit_many(&producer, 5).await);
        Audit::all_ended(&mut producer, &jobs).await;
    }
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), jobs.len());
    one.stop().await;
    two.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_closes_the_pool_and_uses_up_no_attempt() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let (golem, modal) = (Scripted::new(Script::Succeed), Scripted::new(Script::Succeed));
    let limited = Failure::new(FailureClass::RateLimited, "429").after(Some(Duration::from_secs(60)));
    golem.set(Script::Fail(limited));
    let one =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 1, ACK_WAIT, golem.clone())).await;
    let two = Role::worker(roles::pool_config(&urls, "modal@us-east", "w2", 16, ACK_WAIT, modal)).await;
    let mut producer = roles::producer(&urls).await;
    let mut request = roles::job("patient");
    request.body.max_attempts = Some(1);
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(producer.submit(&request).await.unwrap().job);
    }
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 20);
    assert!(golem.begun() <= 2, "a closed pool was asked {} times", golem.begun());
    one.stop().await;
    two.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_nobody_would_take_is_never_tried_again() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let golem = Scripted::new(Script::Fail(Failure::new(FailureClass::InvalidRequest, "prompt too long")));
    let one =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, golem.clone())).await;
    let producer = roles::producer(&urls).await;
    let result = producer.submit_and_wait(&roles::job("x"), Duration::from_secs(30)).await.unwrap();
    assert_eq!((result.status, golem.begun()), (Status::Failed, 1));
    one.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

/// Submits ten jobs, waits for all of them, and gives how many of them began at golem.
async fn wave(producer: &mut producer::Producer, golem: &Scripted, jobs: &mut Vec<schemas::JobId>) -> u64 {
    let before = golem.begun();
    jobs.extend(roles::submit_many(producer, 10).await);
    Audit::all_ended(producer, jobs).await;
    golem.begun() - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_well_but_slow_is_left_and_taken_back() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let (golem, modal) = (Scripted::new(Script::Succeed), Scripted::new(Script::Succeed));
    let one =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 16, ACK_WAIT, golem.clone())).await;
    let two = Role::worker(roles::pool_config(&urls, "modal@us-east", "w2", 16, ACK_WAIT, modal)).await;
    let mut producer = roles::producer(&urls).await;
    let mut jobs = Vec::new();
    // What is usual there is known after some dozens.
    while golem.begun() < 40 {
        wave(&mut producer, &golem, &mut jobs).await;
    }
    golem.set(Script::After(Duration::from_millis(700)));
    let slow = golem.begun();
    let end = tokio::time::Instant::now() + wait::DEADLINE;
    // Left: of ten jobs at most a probe still goes there.
    while wave(&mut producer, &golem, &mut jobs).await > 1 {
        assert!(tokio::time::Instant::now() < end, "a slow provider was never left");
    }
    let suffered = golem.begun() - slow;
    assert!(suffered < 60, "{suffered} jobs went to a slow provider before it was left");
    golem.set(Script::Succeed);
    // Taken back: it has its share again.
    while wave(&mut producer, &golem, &mut jobs).await < 6 {
        assert!(tokio::time::Instant::now() < end, "a provider that is fast again was never taken back");
    }
    one.stop().await;
    two.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
