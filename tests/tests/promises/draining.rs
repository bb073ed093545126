//! Promise: a worker that drains goes on speaking: heartbeats say so, dispatchers hear how its attempts end, and budgets are
//! settled at what was really spent.

use std::time::Duration;

use futures_util::StreamExt as _;
use routing::budget::{Mode, Period, Rule, Rules};
use schemas::{
    UsdNanos,
    failure::{Failure, FailureClass},
    heartbeat::Heartbeat,
    reply::Status,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use tokio::task::JoinSet;

const ACK_WAIT: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_worker_is_heard_until_its_last_job_has_ended_and_its_budget_is_settled() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
    // Money for one job: the second can begin only once it is known that the first cost nothing.
    let rule = Rule {
        tenant: Some("acme".parse().unwrap()),
        provider: None,
        period: Period::Day,
        limit: UsdNanos::new(100_000),
        mode: Mode::Hard,
    };
    config.budgets = Rules::new(vec![rule]).unwrap();
    let dispatcher = Role::dispatcher(config).await;
    let wrong = Failure::new(FailureClass::InvalidRequest, "no such parameter");
    let held = Scripted::new(Script::HoldThenFail(wrong));
    let mut pool = roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, held.clone());
    pool.grace = wait::DEADLINE;
    let leaving = Role::worker(pool).await;
    let mut producer = roles::producer(&urls).await;
    let mut jobs = roles::submit_many(&producer, 1).await;
    wait::until("the job to run", || async { (held.begun() == 1).then_some(()) }).await;
    let mut beats = producer.client().subscribe("beacon.pool.us-east.golem.w1").await.unwrap();
    producer.client().flush().await.unwrap();
    let mut stopping = JoinSet::new();
    stopping.spawn(leaving.stop());
    let mut heard = 0;
    while heard < 3 {
        let message = tokio::time::timeout(wait::DEADLINE, beats.next()).await.expect("a heartbeat").unwrap();
        let beat: Heartbeat = serde_json::from_slice(&message.payload).unwrap();
        heard += u32::from(beat.draining && beat.running == 1);
    }
    let good = Scripted::new(Script::Succeed);
    let staying = Role::worker(roles::pool_config(&urls, "golem@us-east", "w2", 4, ACK_WAIT, good)).await;
    jobs.extend(roles::submit_many(&producer, 1).await);
    held.release();
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!((audit.count(Status::Failed), audit.count(Status::Succeeded)), (1, 1));
    stopping.join_next().await.unwrap().unwrap();
    staying.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
