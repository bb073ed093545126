//! Promise: a worker whose lease has gone to another disturbs nobody: it neither naks nor returns, and its late
//! result is stored once.

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

const ACK_WAIT: Duration = Duration::from_secs(3);

/// A worker that believes leases to last for ever does not extend them: the server gives its job to another while it
/// still runs, as after a long pause of its process.
async fn check(late: Script) {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let slow = Scripted::new(Script::Hold);
    let hour = Duration::from_secs(3600);
    let sleeper = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 1, hour, slow.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 1).await;
    wait::until("the job to run", || async { (slow.begun() == 1).then_some(()) }).await;
    let good = Scripted::new(Script::Hold);
    let other =
        Role::worker(roles::pool_config(&urls, "modal@us-east", "w2", 1, ACK_WAIT, good.clone())).await;
    wait::until("the job to run again elsewhere", || async { (good.begun() == 1).then_some(()) }).await;
    // Now the first holder wakes up and acts on a lease that is not its own any more.
    slow.set(late);
    slow.release();
    wait::until("the late holder to finish", || async { (slow.runs().len() == 1).then_some(()) }).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 1);
    // The second holder finishes, or is stopped since the result is there; both attempts are booked either way.
    good.release();
    other.stop().await;
    sleeper.stop().await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.results[&jobs[0]].len(), 1, "two results for one job");
    assert_eq!(audit.costs.len(), 2, "both runs were paid for, and both are booked");
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_success_is_stored_once() {
    check(Script::Succeed).await;
}

/// The honest worker: when nobody extends its lease for it, it knows, and a failure touches nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_extend_lets_go_and_returns_nothing() {
    let mut server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let held = Scripted::new(Script::Hold);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, held.clone())).await;
    let mut producer = roles::producer(&urls).await;
    // Attempts enough to outlast the time until the other pool is heard of again.
    let mut patient = roles::job("through an outage");
    patient.body.max_attempts = Some(schemas::job::ATTEMPTS_MAX);
    let mut jobs = Vec::new();
    for _ in 0..2 {
        jobs.push(producer.submit(&patient).await.unwrap().job);
    }
    wait::until("the jobs to run", || async { (held.begun() == 2).then_some(()) }).await;
    let good = Scripted::new(Script::Succeed);
    let other =
        Role::worker(roles::pool_config(&urls, "modal@us-east", "w2", 4, ACK_WAIT, good.clone())).await;
    // What is held goes on being held; what comes later fails there, and must end elsewhere.
    held.set(Script::Fail(Failure::new(FailureClass::ProviderDown, "too late")));
    // The server is away for longer than a lease lasts.
    server.away_for(ACK_WAIT * 2).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 2);
    held.release();
    worker.stop().await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 2);
    other.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
