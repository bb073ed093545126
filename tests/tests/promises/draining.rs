//! Promise: a worker that drains goes on speaking: heartbeats say so, dispatchers hear how its attempts end, and budgets are
//! settled at what was really spent. And dispatchers that stop cost no job anything, however many of them.

use std::time::Duration;

use futures_util::StreamExt as _;
use routing::budget::{Mode, Period, Rule, Rules};
use schemas::{
    Lane, UsdNanos,
    failure::{Failure, FailureClass},
    heartbeat::Heartbeat,
    reply::Status,
    topology,
};
use serde_json::Value;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use tokio::task::JoinSet;
use transport::api;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_through_many_stops_of_dispatchers_runs_and_had_one_attempt() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let config = || {
        let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
        // No slot is free, and the job is pulled all the same.
        (config.offers.look_ahead, config.offers.poison_after) = (10, 2);
        config
    };
    let mut dispatcher = Role::dispatcher(config()).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 1).await;
    let stream = topology::jobs_stream(&roles::REGION.parse().unwrap());
    let info = format!("STREAM.INFO.{stream}");
    let state = api::ask(producer.client(), &info, &Value::Null).await.unwrap();
    assert_eq!(api::number(&state, "state/messages"), Some(1));
    let consumer = topology::consumer_name(&schemas::catalog::token_of(roles::MODEL).unwrap(), Lane::Normal);
    let info = format!("CONSUMER.INFO.{stream}.{consumer}");
    for deliveries in 1..=5 {
        let client = producer.client();
        wait::until("the job in hand", || async {
            let info = api::ask(client, &info, &Value::Null).await.ok()?;
            (api::number(&info, "delivered/consumer_seq")? >= deliveries).then_some(())
        })
        .await;
        dispatcher.stop().await;
        dispatcher = Role::dispatcher(config()).await;
    }
    let good = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, good)).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 1, "{:?}", audit.results);
    assert_eq!(audit.results[&jobs[0]][0].attempts, 1);
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
