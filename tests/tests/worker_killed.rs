//! Promise: a worker that vanishes mid-job loses nothing: its jobs finish elsewhere.
//!
//! In this process, by dropping the worker's task; `processes.rs` does the same to a real process with SIGKILL.

use std::time::Duration;

use schemas::reply::Status;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use workers::JournalMode;

const ACK_WAIT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_vanished_worker_finish_elsewhere() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::dispatcher(roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT))).await;
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
