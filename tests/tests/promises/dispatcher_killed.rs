//! Promise: a dispatcher that vanishes loses nothing, and two dispatchers share the work without sharing state.

use std::time::Duration;

use schemas::reply::Status;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};

const ACK_WAIT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_when_the_only_dispatcher_vanishes_and_another_comes() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let first = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Hold);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 3, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    // More than there are slots: some run, some are held by the dispatcher, some wait in the stream.
    let jobs = roles::submit_many(&producer, 40).await;
    wait::until("the slots to fill", || async { (provider.begun() == 3).then_some(()) }).await;
    first.kill().await;
    provider.release();
    let second = Role::usual_dispatcher(&urls[0], "d2", ACK_WAIT).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 40);
    assert!(provider.runs().values().all(|n| *n == 1), "a job ran twice");
    worker.stop().await;
    second.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dispatchers_share_the_work() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let first = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let second = Role::usual_dispatcher(&urls[0], "d2", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 16, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 600).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 600);
    assert!(provider.runs().values().all(|n| *n == 1), "a job ran twice");
    worker.stop().await;
    first.stop().await;
    second.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_stops_gives_back_what_it_holds() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    // A lease so long that only a give-back explains a quick end.
    let ack_wait = Duration::from_secs(120);
    let first = Role::dispatcher(roles::dispatcher_config(&urls, "d1", roles::settings(ack_wait))).await;
    let provider = Scripted::new(Script::Hold);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 2, ack_wait, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 20).await;
    wait::until("the slots to fill", || async { (provider.begun() == 2).then_some(()) }).await;
    first.stop().await;
    provider.release();
    let second = Role::dispatcher(roles::dispatcher_config(&urls, "d2", roles::settings(ack_wait))).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 20);
    worker.stop().await;
    second.stop().await;
    producer.close().await;
}
